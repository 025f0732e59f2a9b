"""What every family is: an enhancer that runs on a whole signal or on one step of a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import model_serializer
from torch import Tensor, nn

from sekd.config import Frozen
from sekd.errors import InputError
from sekd.models.blocks import Block
from sekd.models.gates import GateConfig, Gating, drawn

SAMPLE_RATE = 16000
STATE_NAMES = ("conv_cache", "tra_cache", "inter_cache")  # the three that sherpa-onnx carries
CHUNK_FRAMES = 1000  # long signals go through in pieces, so that memory does not grow with them

Contract = Literal["spectrum", "wave"]  # what one step takes: an STFT frame, or a hop of samples


class State(NamedTuple):
    """What an enhancer remembers between steps, each ``(batch, values)``; all zeros at the start."""

    conv_cache: Tensor
    tra_cache: Tensor
    inter_cache: Tensor


class NetworkConfig(Frozen):
    """What builds a network: a family and its sizes; ``gate`` makes it slimmable, in families that know how."""

    gate: GateConfig | None = None

    knobs: ClassVar[tuple[str, ...]] = ()  # fields that act on a trained network and on no training

    @model_serializer(mode="wrap")
    def _without_absent_gate(self, serialise: Any) -> dict[str, Any]:
        """A network without gates is written, and told apart, as it was before there were any."""
        document = serialise(self)
        if document.get("gate") is None:
            document.pop("gate", None)
        return document

    @property
    def trained_part(self) -> dict[str, Any]:
        """The configuration as JSON without what acts after training: equal for networks that are trained alike."""
        document = self.model_dump(mode="json")
        document.get("gate", {}).pop("threshold", None)
        return {key: value for key, value in document.items() if key not in self.knobs}

    @property
    def streams(self) -> bool:
        """Whether the network can run on a stream, frame by frame or in segments; one that cannot may only teach."""
        return True

    @property
    def objective(self) -> dict[str, float] | None:
        """Terms and weights of a family that learns in one way only; None: whatever a study says."""
        return None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The grids of what ``Enhancer.recorded`` gives, in order; empty: nothing to compare."""
        return ()


class Enhancer(nn.Module, ABC):
    """A network on signals of 16 kHz."""

    contract: ClassVar[Contract]
    hop: int  # samples of one step
    config: NetworkConfig  # what built it

    def __init__(self) -> None:
        super().__init__()
        self._taps: list[Tensor] | None = None
        self._gates: list[Tensor] | None = None
        self._logits: list[Tensor] | None = None
        self.gating: Gating | None = None  # how gates are drawn while it trains; None: by their threshold
        self.forced: bool | list[bool] | None = None  # gates open or shut, whatever the policy says

    @abstractmethod
    def forward(self, noisy: Tensor) -> Tensor:
        """``(batch, sample)`` to ``(batch, sample)``, aligned: the delay of the stream is taken out."""

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One step of the stream, what the exported ONNX computes: an input like ``example()`` to one like it."""

    @abstractmethod
    def example(self, batch: int = 1) -> Tensor:
        """A silent input of ``step``."""

    @abstractmethod
    def state_sizes(self) -> tuple[int, int, int]:
        """Number of values of each state, in the order of ``State``."""

    @property
    @abstractmethod
    def delay(self) -> int:
        """Samples between a hop fed to the stream and the same hop coming out enhanced."""

    @property
    def segment_ms(self) -> float | None:
        """How much audio a network that hears segments takes at once; None of one that hears frame after frame."""
        return None

    @property
    def algorithmic_latency_ms(self) -> float:
        """Hop plus delay: how long a sample waits even if computing takes no time."""
        return 1000 * (self.hop + self.delay) / SAMPLE_RATE

    def initial_state(self, batch: int = 1) -> State:
        like = next(self.parameters())
        return State(*(like.new_zeros(batch, size) for size in self.state_sizes()))

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """Collects the output of each block, ``(batch, channel, frame, freq)`` in the order of ``config.blocks``, of
        one ``forward`` on at most ``CHUNK_FRAMES`` frames."""
        taps: list[Tensor] = []
        self._taps = taps
        try:
            yield taps
        finally:
            self._taps = None

    def tap(self, x: Tensor) -> Tensor:
        """Shows ``x``, the output of a block, to whoever records; returns it."""
        if self._taps is not None:
            self._taps.append(x)
        return x

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Collects the gates of every run, ``(batch, gate, frame)``, with their gradient; none of a static network."""
        gates: list[Tensor] = []
        self._gates = gates
        try:
            yield gates
        finally:
            self._gates = None

    @contextmanager
    def weighed(self) -> Iterator[list[Tensor]]:
        """Collects what the policy thinks in every run, logits ``(batch, gate, frame, 2)`` of open and shut."""
        logits: list[Tensor] = []
        self._logits = logits
        try:
            yield logits
        finally:
            self._logits = None

    @contextmanager
    def held(self, gates: bool | list[bool]) -> Iterator[None]:
        """Gates open, or shut: all of them, or one by one where each module has its own."""
        before, self.forced = self.forced, gates
        try:
            yield
        finally:
            self.forced = before

    def decide(self, logits: Tensor, threshold: Tensor) -> Tensor:
        """Gates ``(batch, gate, frame)`` from a policy's logits, shown to whoever watches."""
        if self._logits is not None:
            self._logits.append(logits)
        gates = drawn(logits, self.gating, threshold)
        if self.forced is not None:
            forced = gates.new_tensor(self.forced, dtype=gates.dtype)
            gates = forced.reshape(-1, 1).expand_as(gates[0]).expand_as(gates)
        if self._gates is not None:
            self._gates.append(gates)
        return gates

    @torch.no_grad()
    def take_knobs(self, config: NetworkConfig) -> None:
        """Sets what acts after training as ``config`` says: knobs, the threshold of gates; weights stay as they are."""
        self.config = self.config.model_copy(update={name: getattr(config, name) for name in self.config.knobs})
        if self.config.gate is None or config.gate is None:
            return
        gate = self.config.gate.model_copy(update={"threshold": config.gate.threshold})
        self.config = self.config.model_copy(update={"gate": gate})
        self.get_buffer("policy.threshold").fill_(gate.threshold)

    def weight_bytes(self) -> int:
        """Bytes of all that the device must store: parameters and fixed matrices, as float32."""
        fixed = [value for name, value in self.named_buffers() if name != "window"]
        return 4 * sum(value.numel() for value in [*self.parameters(), *fixed])

    def state_bytes(self) -> int:
        """Bytes of streaming state, as float32."""
        return 4 * sum(int(size) for size in self.state_sizes())


class SpectralEnhancer(Enhancer):
    """A network on complex STFT frames; ``frames`` is the only method that a family writes.

    Analysis frame ``t`` ends with hop ``t``, so nothing later than hop ``t`` reaches it. Both windows are the
    square root of a periodic Hann; their product, overlapped, is divided by its constant sum. A window shorter
    than ``n_fft`` lies in the middle, as in torch.stft: of each frame the newest ``(n_fft - window_length) / 2``
    samples weigh nothing, yet the stream waits for them, and the stated delay and latency say so.

    Args:
        hop: divides ``window_length`` twice or more times, or the overlapped windows would not sum to a constant.
    """

    contract = "spectrum"
    n_fft: int
    window_length: int
    look_ahead_frames: int = 0
    window: Tensor

    def __init__(self, n_fft: int, hop: int, window_length: int | None = None) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.window_length = window_length or n_fft
        beside = (n_fft - self.window_length) // 2
        window = nn.functional.pad(torch.hann_window(self.window_length).sqrt(), (beside, beside))
        self.register_buffer("window", window, persistent=False)

    @abstractmethod
    def frames(self, spectrum: Tensor, state: State) -> tuple[Tensor, State]:
        """``(batch, freq, frame, 2)`` and a state in, the enhanced spectrum and the next state out."""

    @property
    def delay(self) -> int:
        return self.n_fft - self.hop + self.look_ahead_frames * self.hop

    def forward(self, noisy: Tensor) -> Tensor:
        spectrum = self.analyse(noisy)
        state = self.initial_state(noisy.shape[0])
        enhanced = []
        for piece in spectrum.split(CHUNK_FRAMES, dim=2):
            out, state = self.frames(piece, state)
            enhanced.append(out)
        return self.synthesise(torch.cat(enhanced, dim=2), noisy.shape[-1])

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One frame ``(batch, freq, 1, 2)``."""
        return self.frames(x, state)

    def example(self, batch: int = 1) -> Tensor:
        return next(self.parameters()).new_zeros(batch, self.n_fft // 2 + 1, 1, 2)

    def analyse(self, signal: Tensor) -> Tensor:
        """``(batch, sample)`` to ``(batch, freq, frame, 2)``, with the frames that flush the last samples."""
        flush = self.n_fft - self.hop
        tail = -signal.shape[-1] % self.hop + -(-flush // self.hop) * self.hop  # whole hops
        padded = nn.functional.pad(signal, (flush, tail))
        windowed = padded.unfold(-1, self.n_fft, self.hop) * self.window
        return torch.view_as_real(torch.fft.rfft(windowed)).transpose(1, 2)

    def synthesise(self, spectrum: Tensor, samples: int) -> Tensor:
        """``(batch, freq, frame, 2)`` to the ``samples`` that ``analyse`` began with, ``(batch, sample)``."""
        windows = torch.fft.irfft(torch.view_as_complex(spectrum.transpose(1, 2).contiguous())) * self.window
        length = (spectrum.shape[2] - 1) * self.hop + self.n_fft
        added = nn.functional.fold(windows.transpose(1, 2), (1, length), (1, self.n_fft), stride=(1, self.hop)).reshape(
            windows.shape[0], length
        )
        flush = self.n_fft - self.hop
        return added[:, flush : flush + samples] * (2 * self.hop / self.window_length)


class WaveEnhancer(Enhancer):
    """A network on hops of samples; ``hops`` is the only method that a family writes."""

    contract = "wave"

    @abstractmethod
    def hops(self, wave: Tensor, state: State) -> tuple[Tensor, State]:
        """``(batch, sample)``, whole hops, and a state in; as many samples, ``delay`` late, and a state out."""

    def forward(self, noisy: Tensor) -> Tensor:
        samples = noisy.shape[-1]
        tail = self.delay + -(samples + self.delay) % self.hop
        state = self.initial_state(noisy.shape[0])
        enhanced = []
        for piece in nn.functional.pad(noisy, (0, tail)).split(CHUNK_FRAMES * self.hop, dim=1):
            out, state = self.hops(piece, state)
            enhanced.append(out)
        return torch.cat(enhanced, dim=1)[:, self.delay : self.delay + samples]

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """One hop ``(batch, hop)``."""
        return self.hops(x, state)

    def example(self, batch: int = 1) -> Tensor:
        return next(self.parameters()).new_zeros(batch, self.hop)


def require_causal(config: NetworkConfig) -> None:
    """Raises InputError where the network needs all of a signal before it gives back any."""
    if not config.streams:
        raise cannot_stream(config)


def cannot_stream(config: NetworkConfig) -> InputError:
    """Names the setting because of which a network cannot stream."""
    setting = "causal = false" if hasattr(config, "causal") else f"family = '{getattr(config, 'family', '?')}'"
    return InputError(f"student.{setting}: a network that hears whole signals cannot stream; it can only teach")


def keep_denormals() -> None:
    """Undoes what onnxruntime leaves behind: a session may have this thread round tiny numbers to zero ever after,
    which changes the bits of whatever is trained next."""
    torch.set_flush_denormal(False)
