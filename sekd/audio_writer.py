"""Writing audio files: whole or not at all, and never clipped without a word."""

from __future__ import annotations

import math
import os
import secrets
import warnings
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import soundfile

from sekd.errors import InputError, nearest

Notice = Callable[[str], None]

CONTAINERS = {
    ".wav": "WAV", ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3",
    ".aif": "AIFF", ".aiff": "AIFF", ".w64": "W64", ".rf64": "RF64", ".caf": "CAF", ".au": "AU",
}  # fmt: skip

# Beyond this a sample counts as clipped. A full-scale recording that went through a Fourier transform
# and back exceeds 1 by rounding alone; one 16-bit step (0.0003 dB) is more than that and not audible.
FULL_SCALE = 1 + 2**-15

_FLOATS = ("FLOAT", "DOUBLE")
_LOSSY = ("VORBIS", "OPUS", "MPEG_LAYER_I", "MPEG_LAYER_II", "MPEG_LAYER_III")
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_24": 24, "ALAC_24": 24, "PCM_32": 32, "ALAC_32": 32}
_WAV_LIMIT_BYTES = 4_000_000_000  # a RIFF header counts its bytes in 32 bits


class Encoding(NamedTuple):
    """How samples lie in a file, in soundfile's words: ``Encoding("WAV", "PCM_16")``."""

    container: str
    subtype: str


def encoding_for(path: Path, like: Encoding | None = None, *, bytes_at_most: int = 0) -> Encoding:
    """The encoding that the suffix of ``path`` asks for, as close to ``like`` as the container allows.

    Raises:
        InputError: the suffix is not an audio format that can be written.
    """
    suffix = path.suffix.lower()
    if suffix not in CONTAINERS:
        raise InputError(f"{path}: unknown audio format {suffix!r}{nearest(suffix, CONTAINERS)}")
    container = CONTAINERS[suffix]
    if like and container == "WAV" and like.container in ("WAVEX", "RF64"):
        container = like.container
    if container == "WAV" and bytes_at_most > _WAV_LIMIT_BYTES:
        container = "RF64"
    if suffix == ".opus":
        return Encoding(container, "OPUS")
    candidates = [like.subtype] if like else []
    if like and (like.subtype in _FLOATS or like.subtype in ("PCM_24", "PCM_32")):
        candidates += ["PCM_24"]  # FLAC holds no floats; 24 bits lose nothing that is heard
    fitting = [subtype for subtype in candidates if soundfile.check_format(container, subtype)]
    return Encoding(container, fitting[0] if fitting else soundfile.default_subtype(container))


class AudioWriter:
    """A file written block by block to a temporary neighbour, renamed when the ``with`` block ends well.

    After an exception nothing is left, and what stood at ``path`` before is untouched. Integer formats
    are rounded to the nearest step (libsndfile truncates floats) and clipped; ``clipped`` and ``peak``
    say how many samples and how far.
    """

    def __init__(self, path: str | os.PathLike[str], sample_rate: int, channels: int, encoding: Encoding):
        self.path = Path(path)
        self.clipped = 0
        self.peak = 0.0
        self._subtype = encoding.subtype
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = soundfile.SoundFile(
                self._temporary, "w", sample_rate, channels, encoding.subtype, format=encoding.container
            )
        except (OSError, soundfile.SoundFileError, ValueError, TypeError) as error:
            self._temporary.unlink(missing_ok=True)
            raise InputError(f"{path}: cannot be written: {one_line(error)}") from error

    def write(self, block: np.ndarray) -> None:
        """Appends ``block`` (sample,) or (sample, channel), full scale is 1."""
        if block.size == 0:
            return
        self.peak = max(self.peak, float(np.abs(block).max()))
        try:
            self._file.write(self._encoded(block))
        except soundfile.SoundFileError as error:
            raise InputError(f"{self.path}: cannot be written: {one_line(error)}") from error

    def _encoded(self, block: np.ndarray) -> np.ndarray:
        if self._subtype in _FLOATS:
            return block
        self.clipped += int(np.count_nonzero(np.abs(block) > FULL_SCALE))
        if self._subtype in _LOSSY:
            return np.clip(block, -1, 1)
        bits = _BITS.get(self._subtype, 16)
        scale = 2.0 ** (bits - 1)
        steps = np.clip(np.rint(block.astype(np.float64) * scale), -scale, scale - 1)
        return steps.astype(np.int32) << (32 - bits)

    def report_clipping(self, notice: Notice | None) -> None:
        """Tells ``notice`` (or, without one, Python's warnings) if samples were clipped."""
        if not self.clipped:
            return
        decibels = 20 * math.log10(self.peak)
        line = f"{self.path}: {self.clipped} samples clipped, peak {decibels:.1f} dB over full scale"
        if notice is None:
            warnings.warn(line, stacklevel=3)
        else:
            notice(line)

    def __enter__(self) -> AudioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                os.replace(self._temporary, self.path)
        except (OSError, soundfile.SoundFileError) as problem:  # a full disk, a folder of this name
            raise InputError(f"{self.path}: cannot be written: {one_line(problem)}") from problem
        finally:
            self._temporary.unlink(missing_ok=True)


def one_line(error: BaseException) -> str:
    """The message of ``error`` without its line breaks."""
    return " ".join(str(error).split())
