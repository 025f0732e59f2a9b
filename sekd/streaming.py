"""A streaming ONNX file as an enhancer: checked against the contract, then run hop by hop."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self, get_args

import numpy as np

from sekd.errors import InputError, nearest
from sekd.hops import (
    INPUT_NAMES,
    AlignedStream,
    HopEnhancer,
    HopStream,
    StreamingStft,
    StreamingWave,
    WindowType,
    periodic_window,
)

__all__ = ["AlignedStream", "HopEnhancer", "OnnxEnhancer", "StreamingStft", "periodic_window"]


class StreamFormat(Protocol):
    """What a streaming file says of itself in its metadata; lengths in samples."""

    @property
    def sample_rate(self) -> int: ...

    @classmethod
    def read(cls, metadata: dict[str, str]) -> Self:
        """Raises ValueError if the metadata lack something or do not fit together."""

    def stream(self) -> HopStream:
        """What goes between hops of samples and the network's input."""


class SpectrumFormat(NamedTuple):
    """One STFT frame per step."""

    sample_rate: int
    n_fft: int
    hop_length: int
    window_length: int
    window_type: WindowType

    @classmethod
    def read(cls, metadata: dict[str, str]) -> Self:
        numbers = ("sample_rate", "n_fft", "hop_length", "window_length")
        _require(metadata, *numbers, "window_type")
        kind = metadata["window_type"]
        if kind not in get_args(WindowType):
            raise ValueError(f"unknown window_type {kind!r}{nearest(kind, get_args(WindowType))}")
        sample_rate, n_fft, hop, length = _lengths(metadata, *numbers)
        if sample_rate == 0 or not 0 < hop <= n_fft or not hop <= length <= n_fft or n_fft % 2:
            raise ValueError(
                f"sample_rate {sample_rate}, n_fft {n_fft}, hop_length {hop}, window_length {length} do not fit"
            )
        return cls(sample_rate, n_fft, hop, length, kind)  # type: ignore[arg-type]

    def stream(self) -> HopStream:
        return StreamingStft(self.n_fft, self.hop_length, self.window())

    def window(self) -> np.ndarray:
        """The window (n_fft,); a shorter one lies in the middle, as in torch.stft."""
        before = (self.n_fft - self.window_length) // 2
        window = np.zeros(self.n_fft)
        window[before : before + self.window_length] = periodic_window(self.window_type, self.window_length)
        return window


class WaveFormat(NamedTuple):
    """One hop of samples per step."""

    sample_rate: int
    hop_length: int
    delay: int

    @classmethod
    def read(cls, metadata: dict[str, str]) -> Self:
        _require(metadata, *cls._fields)
        found = cls(*_lengths(metadata, *cls._fields))
        if found.sample_rate == 0 or found.hop_length == 0:
            raise ValueError(f"sample_rate {found.sample_rate} and hop_length {found.hop_length} must be above 0")
        return found

    def stream(self) -> HopStream:
        return StreamingWave(self.hop_length, self.delay)


FORMATS: dict[str, type[StreamFormat]] = {"spectrum": SpectrumFormat, "wave": WaveFormat}


class OnnxEnhancer(HopEnhancer):
    """Runs a streaming ONNX file on one thread of this machine's processor.

    Args:
        session: what `open_session` gave for this file, if it is open already.
        described: metadata that the file may lack; what it says itself goes first.

    Raises:
        InputError: the file is missing, not ONNX, or not a streaming enhancer.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, session: Any = None, described: Mapping[str, str] | None = None
    ):
        self.path = Path(path)
        self._session = session or open_session(self.path)
        try:
            metadata = {**(described or {}), **self._session.get_modelmeta().custom_metadata_map}
            self.metadata = metadata
            self.contract = _contract(metadata)
            self.format = FORMATS[self.contract].read(metadata)
            super().__init__(self.format.sample_rate, self.format.stream())
            self._input = INPUT_NAMES[self.contract]
            self._initial = _check_tensors(self._session, self._input, list(self.stream.shape))
        except ValueError as error:
            raise InputError(f"{path}: not a streaming enhancer: {error}") from error
        self._outputs = ["enh", *(f"{name}_out" for name in self._initial)]
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._states = dict(self._initial)  # never written to: every run returns new arrays

    @property
    def states(self) -> Mapping[str, np.ndarray]:
        """What it remembers, by the name of the input that takes it."""
        return self._states

    def feeds(self, noisy: np.ndarray) -> dict[str, np.ndarray]:
        """What ``step`` would give the network, by input name."""
        return {self._input: self.stream.pack(noisy), **self._states}

    def step(self, noisy: np.ndarray) -> np.ndarray:
        enhanced, *states = self._session.run(self._outputs, self.feeds(noisy))
        self._states = dict(zip(self._states, states, strict=True))
        return self.stream.unpack(enhanced)


def open_session(path: Path, content: bytes | None = None) -> Any:
    """An onnxruntime session for streaming: one thread, no spinning, denormals as zero.

    ``content`` is the file's, if it was read already.

    Decaying states pass through denormal numbers in every pause, and those are up to a hundred times
    slower on x86. onnxruntime sets the flag for the thread that opens the session, and leaves it set.
    """
    if content is None and not path.is_file():
        raise InputError(f"{path}: no such file")
    import onnxruntime  # here: importing the core should not load a runtime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key in ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning"):
        options.add_session_config_entry(key, "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    try:
        return onnxruntime.InferenceSession(content or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no other base
        raise InputError(f"{path}: not a readable ONNX file: {' '.join(str(error).split())}") from error


def _contract(metadata: dict[str, str]) -> str:
    """A file that names no contract has that of sherpa-onnx."""
    name = metadata.get("contract", "spectrum")
    if name == "evaluation":
        raise ValueError("it holds one evaluation, for run_evaluations.py; the enhancer is model.onnx beside it")
    if name not in FORMATS:
        raise ValueError(f"unknown contract {name!r}{nearest(name, FORMATS)}")
    return name


def _require(metadata: dict[str, str], *keys: str) -> None:
    missing = [key for key in keys if key not in metadata]
    if missing:
        raise ValueError(f"its metadata lack {', '.join(missing)}")


def _lengths(metadata: dict[str, str], *keys: str) -> list[int]:
    wrong = [f"{key} = {metadata[key]!r}" for key in keys if not metadata[key].strip().isdecimal()]
    if wrong:
        raise ValueError(f"not a number of samples: {', '.join(wrong)}")
    return [int(metadata[key]) for key in keys]


def _check_tensors(session: Any, name_in: str, shape: list[int]) -> dict[str, np.ndarray]:
    """The initial states by input name, all zeros; ValueError if the tensors break the contract."""
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    outputs = {tensor.name: tensor for tensor in session.get_outputs()}
    for kind, name, tensors in (("input", name_in, inputs), ("output", "enh", outputs)):
        if name not in tensors:
            raise ValueError(f"no {kind} '{name}' ({', '.join(tensors)})")
        if not _agree(tensors[name].shape, shape):
            raise ValueError(f"'{name}' is {tensors[name].shape}, not {shape}")
    states = [name for name in inputs if name != name_in]
    for name in states:
        _check_state(name, inputs[name], outputs.get(f"{name}_out"))
    unpaired = set(outputs) - {"enh"} - {f"{name}_out" for name in states}
    if unpaired:
        raise ValueError(f"output '{min(unpaired)}' belongs to no state")
    if any(tensor.type != "tensor(float)" for tensor in (*inputs.values(), *outputs.values())):
        raise ValueError("a tensor is not float32")
    return {name: np.zeros(inputs[name].shape, np.float32) for name in states}


def _check_state(name: str, before: Any, after: Any) -> None:
    if after is None:
        raise ValueError(f"state '{name}' has no output '{name}_out'")
    if not all(isinstance(size, int) for size in before.shape):
        raise ValueError(f"state '{name}' has no fixed shape: {before.shape}")
    if not _agree(after.shape, before.shape):
        raise ValueError(f"state '{name}' is {before.shape} but '{name}_out' is {after.shape}")


def _agree(shape: list[int | str | None], wanted: list[int]) -> bool:
    """Whether a tensor can be of the shape ``wanted``: exporters leave sizes open that they did not work out."""
    pairs = zip(shape, wanted, strict=False)
    return len(shape) == len(wanted) and all(not isinstance(size, int) or size == want for size, want in pairs)
