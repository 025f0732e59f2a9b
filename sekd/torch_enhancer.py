"""Trained weights as a stream, and any model that a person can name as an enhancer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from sekd.checkpoint import load_model
from sekd.errors import InputError
from sekd.hops import HopStream, StreamingStft, StreamingWave
from sekd.models import Enhancer, SpectralEnhancer
from sekd.models.base import SAMPLE_RATE, require_causal
from sekd.models.settled import settled
from sekd.streaming import HopEnhancer, OnnxEnhancer

ACCEPTED = "a package folder (with model.onnx), an .onnx or a .safetensors"


class TorchEnhancer(HopEnhancer):
    """Runs a network step by step in torch, as its exported ONNX runs it.

    Raises:
        InputError: the network cannot stream.
    """

    def __init__(self, model: Enhancer) -> None:
        require_causal(model.config)
        super().__init__(SAMPLE_RATE, _stream_of(model))
        torch.set_num_threads(1)  # one frame is too little work to share, and waiting for other threads costs more
        self.model = settled(model.eval())
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._state = self.model.initial_state()

    @torch.no_grad()
    def step(self, noisy: np.ndarray) -> np.ndarray:
        enhanced, self._state = self.model.step(torch.from_numpy(self.stream.pack(noisy)), self._state)
        return self.stream.unpack(enhanced.numpy())


def _stream_of(model: Enhancer) -> HopStream:
    if isinstance(model, SpectralEnhancer):
        return StreamingStft(model.n_fft, model.hop, model.window.cpu().double().numpy())
    return StreamingWave(model.hop, model.delay)


def load_enhancer(path: str | os.PathLike[str]) -> HopEnhancer:
    """The model at ``path``: a package folder, an ``.onnx`` or a ``.safetensors``.

    Raises:
        InputError: there is nothing, or it is none of these, or it does not enhance.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / "model.onnx").is_file():
            raise InputError(f"{path}: holds no model.onnx; a model is {ACCEPTED}")
        return OnnxEnhancer(path / "model.onnx")
    if not path.exists():
        raise InputError(f"{path}: no such file; a model is {ACCEPTED}")
    if path.suffix == ".onnx":
        return OnnxEnhancer(path)
    if path.suffix == ".safetensors":
        return TorchEnhancer(load_model(path))
    raise InputError(f"{path}: not a model; a model is {ACCEPTED}")
