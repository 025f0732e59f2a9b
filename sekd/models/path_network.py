"""What families on a path share: compressed spectra, the path itself, and a network that knows the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from sekd.config import Frozen
from sekd.generative.compressed_stft import CompressedStft, SpectraConfig
from sekd.generative.ouve import OuvePath
from sekd.generative.preconditioning import SIGMA_DATA, Scales
from sekd.models.base import NetworkConfig
from sekd.models.ncsnpp import Ncsnpp, NcsnppConfig
from sekd.models.timed import TimedNetwork
from sekd.models.timed_cruse import CruseBackboneConfig, TimedCruse

CHANNELS = 4  # real and imaginary part of x_t, then of the noisy spectrum


def _kind(value: Any) -> str:
    """A document that names no backbone means the small NCSN++."""
    return str(value.get("kind", "ncsnpp") if isinstance(value, dict) else getattr(value, "kind", ""))


# A new backbone is one file, one line here and one below.
BACKBONES: dict[type[Frozen], Callable[..., TimedNetwork]] = {NcsnppConfig: Ncsnpp, CruseBackboneConfig: TimedCruse}
BackboneConfig = Annotated[
    Annotated[NcsnppConfig, Tag("ncsnpp")] | Annotated[CruseBackboneConfig, Tag("cruse")],
    Discriminator(_kind),
]


class PathConfig(NetworkConfig):
    """The network and where it stands: two families can teach each other where all but the backbone is equal."""

    backbone: BackboneConfig = NcsnppConfig()
    spectra: SpectraConfig = SpectraConfig()
    path: OuvePath = OuvePath()
    sigma_data: float = Field(SIGMA_DATA, gt=0)  # standard deviation of compressed clean spectra

    @model_validator(mode="after")
    def _without_gate(self) -> PathConfig:
        if self.gate is not None:
            raise ValueError("gate: networks on a path are not slimmable")
        return self

    @model_validator(mode="after")
    def _hears_all_bins(self) -> PathConfig:
        heard = getattr(self.backbone, "freqs", self.spectra.freqs)  # of a backbone whose sizes depend on them
        if heard != self.spectra.freqs:
            raise ValueError(
                f"backbone.freqs = {heard} must be the {self.spectra.freqs} bins that spectra.n_fft = "
                f"{self.spectra.n_fft} gives"
            )
        return self

    @model_validator(mode="after")
    def _halves(self) -> PathConfig:
        stride = self._strides()[0]
        if self.spectra.freqs % stride:
            raise ValueError(
                f"spectra.n_fft = {self.spectra.n_fft} has {self.spectra.freqs} bins, no multiple of {stride} "
                "as the backbone's levels need"
            )
        return self

    def _strides(self) -> tuple[int, int]:
        """What the numbers of frequencies and of frames must be multiples of."""
        with torch.device("meta"):
            network = BACKBONES[type(self.backbone)](self.backbone, CHANNELS)
        return network.freq_stride, network.frame_stride


class PathNetwork(nn.Module):
    """Mixed into an enhancer: the network with its inputs and its output scaled."""

    spectra: CompressedStft
    path: OuvePath
    sigma_data: float
    network: TimedNetwork

    def make_network(self, config: PathConfig) -> None:
        self.spectra, self.path, self.sigma_data = CompressedStft(config.spectra), config.path, config.sigma_data
        self.network = BACKBONES[type(config.backbone)](config.backbone, CHANNELS)

    def scaled(self, scales: Scales, x: Tensor, noisy: Tensor, biases: list[Tensor]) -> Tensor:
        """``skip x + out F(into x, into noisy)``; frames are made up to what the network needs, and cut again."""
        frames = x.shape[3]
        inputs = scales.into * torch.cat([x, noisy], dim=1)
        missing = -frames % self.network.frame_stride
        if missing:
            inputs = nn.functional.pad(inputs, (0, missing))
        output = self.network(inputs, biases)[:, :, :, :frames] if missing else self.network(inputs, biases)
        return scales.skip * x + scales.out * output

    def biases_at(self, t: float | Tensor, like: Tensor) -> list[Tensor]:
        """Of a time for all, or of times that broadcast against spectra."""
        times = t.reshape(-1) if isinstance(t, Tensor) else like.new_tensor([t])
        return self.network.biases(times)
