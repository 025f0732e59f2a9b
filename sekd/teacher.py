"""What a student may learn from: anything that enhances a batch of signals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from sekd.checkpoint import load_model, network_hash
from sekd.errors import InputError
from sekd.models import Enhancer
from sekd.models.base import Block
from sekd.teacher_source import TeacherSource, is_file_reference, split_reference


class Teacher(ABC):
    """A trained enhancer, frozen."""

    identity: str  # equal for equal outputs
    blocks: tuple[Block, ...] = ()  # grids of its activations, where feature terms can read them

    @abstractmethod
    def enhance(self, noisy: Tensor) -> Tensor:
        """``(batch, sample)`` at 16 kHz to the same, aligned; no gradients."""


class OwnTeacher(Teacher):
    """A network of ours."""

    def __init__(self, model: Enhancer) -> None:
        self.model = model.eval().requires_grad_(False)
        self.identity = network_hash(model)
        self.blocks = model.config.blocks

    @torch.no_grad()
    def enhance(self, noisy: Tensor) -> Tensor:
        return self.model(noisy)


def open_teacher(source: TeacherSource, *, trust_code: bool = False) -> Teacher:
    """The teacher that ``source`` names.

    Args:
        trust_code: whether a loading function of the user's may be imported and called.

    Raises:
        InputError: the file is missing, broken or no enhancer, or the function cannot be called or is not trusted.
    """
    if source.module is not None:
        require_trust(source, trust_code)
        from sekd.module_teacher import ModuleTeacher

        return ModuleTeacher(source.module, source.options)
    path = Path(source.model or "")
    if path.suffix == ".onnx":
        from sekd.onnx_teacher import OnnxTeacher  # late: training with our own teacher needs no runtime

        return OnnxTeacher(path, source.stft)
    if path.suffix != ".safetensors":
        raise InputError(f"teacher.model = '{path}' is no .safetensors of ours and no .onnx (else: teacher.module)")
    if source.stft.metadata():
        raise InputError(f"[teacher.stft] describes an .onnx, and {path.name} is none")
    return OwnTeacher(load_model(path))


def require_trust(source: TeacherSource, trust_code: bool) -> None:
    """Refuses to run what a study names, unless whoever started the command said that it may.

    Raises:
        InputError: names the function and the flag.
    """
    if source.module is not None and not trust_code:
        raise InputError(f"teacher.module = '{source.module}' is code to be run: give --trust-code if you trust it")


def look_at(source: TeacherSource) -> None:
    """Finds what can be found wrong without running a line of the user's code.

    Raises:
        InputError: a file is missing, broken or no enhancer.
    """
    if source.module is None:
        open_teacher(source)
        return
    place, _ = split_reference(source.module)
    if is_file_reference(place) and not Path(place).is_file():
        raise InputError(f"teacher.module: {place}: no such file")


def checked(output: Tensor, noisy: Tensor, who: str) -> Tensor:
    """``output`` if it is a teacher's answer to ``noisy``.

    Raises:
        InputError: another shape, or samples that are not finite; the line begins with ``who``.
    """
    if output.shape != noisy.shape:
        raise InputError(f"{who}: gives {tuple(output.shape)} for {tuple(noisy.shape)}; a teacher keeps the shape")
    if not output.isfinite().all():
        raise InputError(f"{who}: gives samples that are not finite numbers")
    return output
