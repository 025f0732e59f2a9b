"""An ONNX file as a teacher: a stream of STFT frames, or whole signals at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sekd.audio import SAMPLE_RATE
from sekd.config import content_hash
from sekd.errors import InputError
from sekd.models.base import keep_denormals
from sekd.onnx_file import read_onnx
from sekd.streaming import OnnxEnhancer, open_session
from sekd.teacher import Teacher, checked
from sekd.teacher_source import StftConfig

ACCEPTED = "a teacher takes STFT frames 'mix' [1, n_fft/2+1, 1, 2] and states, or waves [batch, sample]"


class OnnxTeacher(Teacher):
    """Runs on one thread of this machine's processor.

    Raises:
        InputError: the file is missing, broken, not in one piece, for another sampling rate, or no enhancer.
    """

    def __init__(self, path: Path, stft: StftConfig) -> None:
        self.path = path
        content = read_onnx(path)
        self._run = _runner(path, open_session(path, content), stft)
        keep_denormals()
        self.identity = content_hash([hashlib.sha256(content).hexdigest(), stft.model_dump(mode="json")])

    def enhance(self, noisy: Tensor) -> Tensor:
        with denormals_as_zero():
            try:
                output = torch.from_numpy(self._run(noisy.numpy()))
            except InputError:
                raise
            except Exception as error:  # onnxruntime's errors share no other base
                raise InputError(f"{self.path}: cannot be run: {' '.join(str(error).split())[:300]}") from error
        return checked(output, noisy, str(self.path))


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Decaying states are up to a hundred times slower else; the session's own setting does not outlast training."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        keep_denormals()


def _runner(path: Path, session: Any, stft: StftConfig):
    """A function of noisy signals ``(batch, sample)``, by what the file takes."""
    metadata = session.get_modelmeta().custom_metadata_map
    rate = metadata.get("sample_rate", str(SAMPLE_RATE))
    if rate != str(SAMPLE_RATE):
        raise InputError(f"{path}: its metadata say sample_rate = {rate}; a teacher must be of {SAMPLE_RATE} Hz")
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if any(tensor.name == "mix" for tensor in inputs):
        stream = OnnxEnhancer(path, session=session, described=_described(path, session, metadata, stft))
        return lambda noisy: np.stack([stream.enhance(row) for row in noisy])
    if metadata.get("contract") == "wave":
        waves = OnnxEnhancer(path, session=session)
        return lambda noisy: np.stack([waves.enhance(row) for row in noisy])
    if stft.metadata():
        raise InputError(f"{path}: [teacher.stft] describes frames, but the file has no input 'mix'")
    if len(inputs) == len(outputs) == 1 and len(inputs[0].shape) == 2:
        return WaveRunner(path, session).run
    found = ", ".join(f"{tensor.name} {tensor.shape}" for tensor in inputs)
    raise InputError(f"{path}: not an enhancer: its inputs are {found}; {ACCEPTED}")


def _described(path: Path, session: Any, metadata: dict[str, str], stft: StftConfig) -> dict[str, str]:
    """What the study says of a stream and the file does not.

    Raises:
        InputError: both say something else, or neither says it.
    """
    said = stft.metadata()
    for key in said.keys() & metadata.keys():
        if said[key] != metadata[key]:
            raise InputError(f"{path}: its metadata say {key} = {metadata[key]}, [teacher.stft] says {said[key]}")
    missing = [key for key in ("hop_length", "window_type") if key not in said | metadata]
    if missing:
        keys = {"hop_length": "hop = SAMPLES", "window_type": 'window = "hann_sqrt"'}
        wanted = " and ".join(keys[key] for key in missing)
        raise InputError(f"{path}: its metadata lack {', '.join(missing)}: say {wanted} in [teacher.stft]")
    shape = next(tensor.shape for tensor in session.get_inputs() if tensor.name == "mix")
    if "n_fft" not in said | metadata and len(shape) > 1 and isinstance(shape[1], int):
        said["n_fft"] = str(2 * (shape[1] - 1))
    n_fft = (said | metadata).get("n_fft")
    return {"sample_rate": str(SAMPLE_RATE), **({"window_length": n_fft} if n_fft else {}), **said}


class WaveRunner:
    """Signals ``(batch, sample)`` through a file that takes them whole; either size may be fixed in the file."""

    def __init__(self, path: Path, session: Any) -> None:
        self.path, self._session = path, session
        (before,), (after,) = session.get_inputs(), session.get_outputs()
        if before.type != "tensor(float)" or after.type != "tensor(float)":
            raise InputError(f"{path}: takes {before.type} and gives {after.type}, not float32")
        self._name = before.name
        self._rows, self._samples = (size if isinstance(size, int) else None for size in before.shape)

    def run(self, noisy: np.ndarray) -> np.ndarray:
        rows, samples = noisy.shape
        if self._samples is not None and samples > self._samples:
            raise InputError(f"{self.path}: takes {self._samples} samples at most, and a signal has {samples}")
        at_once = self._rows or rows
        # What the file wants more of is silence: rows beside the last ones, samples after the end.
        padded = np.zeros((-(-rows // at_once) * at_once, self._samples or samples), np.float32)
        padded[:rows, :samples] = noisy
        parts = [self._part(padded[first : first + at_once]) for first in range(0, rows, at_once)]
        return np.concatenate(parts)[:rows, :samples]

    def _part(self, noisy: np.ndarray) -> np.ndarray:
        (enhanced,) = self._session.run(None, {self._name: noisy})
        if enhanced.shape != noisy.shape:
            raise InputError(f"{self.path}: gives {enhanced.shape} for {noisy.shape}; a teacher keeps the shape")
        return enhanced
