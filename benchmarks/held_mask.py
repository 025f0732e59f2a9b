"""The free baseline: a mask that is made for every second frame and held for the next (RT-Tango 2026 skips three of
four). It halves the MACs and the energy without anything to learn."""

from __future__ import annotations

from torch import Tensor

from sekd.models import Cruse, SpectralEnhancer, State

EVERY = 2


class HeldMask(SpectralEnhancer):
    """A network that hears every second frame; whole signals only."""

    def __init__(self, network: Cruse) -> None:
        super().__init__(network.n_fft, network.hop)
        self.network, self.config = network, network.config

    def state_sizes(self) -> tuple[int, int, int]:
        return self.network.state_sizes()

    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        gain, state = self.network.gain_of(spectrum[:, :, ::EVERY], state)
        held = gain.repeat_interleave(EVERY, dim=1)[:, : spectrum.shape[2]]
        return spectrum * held.transpose(1, 2).unsqueeze(-1), state
