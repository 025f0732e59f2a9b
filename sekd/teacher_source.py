"""Where a teacher comes from, as a study says it; read without loading torch, and without running anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from sekd.config import Frozen, expand_path
from sekd.hops import WindowType


class StftConfig(Frozen):
    """What the metadata of a streaming ONNX file leave out; lengths in samples."""

    n_fft: int | None = Field(None, gt=0)  # two less than twice the bins of the file's input, unless given
    hop: int | None = Field(None, gt=0)
    window_length: int | None = Field(None, gt=0)  # n_fft unless given
    window: WindowType | None = None

    def metadata(self) -> dict[str, str]:
        """The keys that are given, under the names that files use."""
        names = {"n_fft": "n_fft", "hop": "hop_length", "window_length": "window_length", "window": "window_type"}
        return {names[key]: str(value) for key, value in self.model_dump().items() if value is not None}


class TeacherSource(Frozen):
    """A teacher that exists: a file, or a function that returns a torch module."""

    model: str | None = None  # a .safetensors of ours, or an .onnx
    stft: StftConfig = StftConfig()
    module: str | None = None  # "package.module:function" or "path/to/file.py:function"
    options: dict[str, Any] = {}  # given to the function by name

    @model_validator(mode="before")
    @classmethod
    def _bare_path(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value  # as runs kept it before there were modules


def split_reference(reference: str) -> tuple[str, str]:
    """Package or file, and the function in it.

    Raises:
        ValueError: it is neither ``package.module:function`` nor ``path/to/file.py:function``.
    """
    place, _, function = reference.rpartition(":")
    named = all(part.isidentifier() for part in place.split("."))
    if not function.isidentifier() or not (is_file_reference(place) or named):
        raise ValueError("is neither 'package.module:function' nor 'path/to/file.py:function'")
    return place, function


def is_file_reference(place: str) -> bool:
    return place.endswith(".py")


def absolute_reference(reference: str, base: Path) -> str:
    """``reference`` with its file, if it names one, absolute: beside the study at ``base``, variables filled in."""
    place, colon, function = reference.rpartition(":")
    return f"{expand_path(place, base)}{colon}{function}" if is_file_reference(place) else reference
