"""Reading and writing audio, resampling, and levels. Samples are float32, full scale is 1."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from sekd.audio_writer import CONTAINERS, AudioWriter, Encoding, Notice, encoding_for, one_line
from sekd.errors import InputError

SAMPLE_RATE = 16_000

_ACTIVE_FRAME_S = 0.02
_ACTIVE_RANGE_DB = 40.0
_LOUDEST_FRAMES = 10


class AudioInfo(NamedTuple):
    """What an audio file's header says."""

    frames: int
    sample_rate: int
    channels: int
    encoding: Encoding
    duration_s: float


@contextmanager
def open_audio(path: str | os.PathLike[str]) -> Iterator[soundfile.SoundFile]:
    """The audio file at ``path``, open for reading; problems while it is read are input errors too.

    Raises:
        InputError: the file is missing, not audio, damaged, or holds no samples.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: {'is a folder' if Path(path).is_dir() else 'no such file'}")
    try:
        file = soundfile.SoundFile(path)
    except (OSError, soundfile.SoundFileError, TypeError) as error:  # TypeError: .raw needs a format
        raise InputError(f"{path}: not a readable audio file: {one_line(error)}") from error
    with file:
        if file.frames == 0:
            raise InputError(f"{path}: holds no samples")
        try:
            yield file
        except soundfile.SoundFileError as error:
            raise InputError(f"{path}: not a readable audio file: {one_line(error)}") from error


def audio_info(path: str | os.PathLike[str]) -> AudioInfo:
    """Length, rate and encoding of ``path`` without reading its samples. Raises as `open_audio`."""
    with open_audio(path) as file:
        encoding = Encoding(file.format, file.subtype)
        return AudioInfo(file.frames, file.samplerate, file.channels, encoding, file.frames / file.samplerate)


def read_audio(
    path: str | os.PathLike[str], *, sample_rate: int = SAMPLE_RATE, notice: Notice | None = None
) -> np.ndarray:
    """The file at ``path`` as float32 (sample,) at ``sample_rate``; channels are averaged, with a notice.

    Raises:
        InputError: as `open_audio`, or a sample is not a finite number.
    """
    with open_audio(path) as file:
        audio = file.read(dtype="float32", always_2d=True)
        rate, channels = file.samplerate, file.channels
    require_finite(audio, path, rate)
    if channels > 1 and notice is not None:
        notice(f"{path}: {channels} channels folded to one")
    mono = audio[:, 0] if channels == 1 else audio.mean(axis=1, dtype=np.float32)
    return resample(np.ascontiguousarray(mono), rate, sample_rate)


def require_finite(block: np.ndarray, path: str | os.PathLike[str], sample_rate: int, first_frame: int = 0) -> None:
    """Raises InputError with the time of the first NaN or infinite sample of ``block`` (sample, ...)."""
    finite = np.isfinite(block).reshape(len(block), -1).all(axis=1)
    if not finite.all():
        time_s = (first_frame + int(np.argmin(finite))) / sample_rate
        raise InputError(f"{path}: a sample at {time_s:.3f} s is not a finite number")


def resample(audio: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """``audio`` (..., sample) at ``to_hz``, aligned, ``ceil(samples * to_hz / from_hz)`` samples long."""
    if from_hz == to_hz:
        return audio
    import torch  # here: what needs no resampling should not pay a second for torch
    from torchaudio.functional import resample as torch_resample

    return torch_resample(torch.from_numpy(audio), from_hz, to_hz).numpy()


def write_audio(
    path: str | os.PathLike[str],
    audio: np.ndarray,
    sample_rate: int = SAMPLE_RATE,
    *,
    subtype: str | None = None,
    notice: Notice | None = None,
) -> None:
    """Writes ``audio`` (sample,) or (sample, channel), whole or not at all; format by suffix.

    Without ``subtype`` a signal over full scale is written as floats where the container holds floats.
    Otherwise it is clipped, with a notice (a Python warning if there is no ``notice``).

    Raises:
        InputError: unknown suffix, or the file cannot be written.
    """
    encoding = encoding_for(Path(path))
    if subtype is None and audio.size and float(np.abs(audio).max()) > 1:
        subtype = "FLOAT" if soundfile.check_format(encoding.container, "FLOAT") else None
    encoding = encoding._replace(subtype=subtype or encoding.subtype)
    channels = 1 if audio.ndim == 1 else audio.shape[1]
    with AudioWriter(path, sample_rate, channels, encoding) as writer:
        writer.write(audio)
    writer.report_clipping(notice)


def rms_dbfs(audio: np.ndarray) -> float:
    """Root mean square of ``audio`` in dB relative to a constant 1; minus infinity for silence."""
    power = float(np.mean(np.square(audio, dtype=np.float64))) if audio.size else 0.0
    return 10 * float(np.log10(power)) if power > 0 else float("-inf")


def active_rms(audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> float:
    """RMS of ``audio`` (sample,) over the frames in which somebody speaks; 0 for silence.

    Active are the 20 ms frames whose mean power is at most 40 dB below the level of the loudest frames.
    An SNR set by it means the same for a clip that is half pauses as for one without any. 40 dB is the
    dynamic range that STOI counts as speech (Taal et al. 2011, section II); ITU-T P.56 serves the same
    end. The level is the median of the ten loudest frames that are not digital silence, so that one
    click (at most two frames) does not turn the speech around it into a pause.
    """
    if audio.size == 0:
        return 0.0
    power = np.square(audio, dtype=np.float64)
    starts = np.arange(0, audio.size, max(1, round(_ACTIVE_FRAME_S * sample_rate)))
    lengths = np.diff(np.append(starts, audio.size))
    sums = np.add.reduceat(power, starts)
    frames = sums / lengths
    loudest = np.sort(frames[frames > 0])[-_LOUDEST_FRAMES:]
    if loudest.size == 0:
        return 0.0
    active = frames >= np.median(loudest) * 10 ** (-_ACTIVE_RANGE_DB / 10)
    return float(np.sqrt(sums[active].sum() / lengths[active].sum()))


def list_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """The audio files in ``folder`` (not below it), sorted by name; hidden files are left out.

    Raises:
        InputError: the folder is missing or holds no audio.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder")
    files = [
        path
        for path in sorted(Path(folder).iterdir())
        if path.suffix.lower() in CONTAINERS and not path.name.startswith(".") and path.is_file()
    ]
    if not files:
        raise InputError(f"{folder}: no audio files ({', '.join(sorted(CONTAINERS))})")
    return files
