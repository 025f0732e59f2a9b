"""Enhancing files of any length, sampling rate and number of channels in constant memory."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import soundfile

from sekd.audio import list_audio, open_audio, require_finite
from sekd.audio_writer import AudioWriter, Encoding, Notice, encoding_for
from sekd.config import Frozen
from sekd.errors import InputError
from sekd.resampling import StreamResampler
from sekd.streaming import AlignedStream, HopEnhancer

_BLOCK_FRAMES = 1 << 15


class EnhanceSummary(Frozen):
    """One file as it was enhanced; ``rtf`` is processing time over audio time, files included."""

    source: str
    target: str
    sample_rate: int
    channels: int
    frames: int
    duration_s: float
    clipped: int
    seconds: float
    rtf: float


class FolderSummary(Frozen):
    """The files of a folder that were enhanced, and why the others were not."""

    files: tuple[EnhanceSummary, ...]
    failed: dict[str, str]


def enhance_file(
    enhancer: HopEnhancer,
    source: Path,
    target: Path,
    notice: Notice | None = None,
    *,
    block_frames: int = _BLOCK_FRAMES,
) -> EnhanceSummary:
    """Writes the enhanced ``source`` to ``target``: same length, rate and channels, aligned.

    Every channel runs through the network with a state of its own. The encoding of the source is kept
    where the suffix of the target allows. What exceeds full scale stays in a float format; in any other
    it is clipped, and the notice counts it: a stream cannot be scaled by a peak that is yet to come.

    Raises:
        InputError: the source cannot be read or holds NaN (the message says when), the target cannot be
            written or is the source, or the network gave back NaN. The target is then left as it was.
    """
    source, target = Path(source), Path(target)
    if target.exists() and source.exists() and target.samefile(source):
        raise InputError(f"{target}: would overwrite its own source")
    began = time.perf_counter()
    with open_audio(source) as file:
        encoding = _encoding(file, target)
        with AudioWriter(target, file.samplerate, file.channels, encoding) as writer:
            frames = _run(enhancer, file, source, writer, block_frames)
    writer.report_clipping(notice)
    seconds = time.perf_counter() - began
    duration_s = frames / file.samplerate
    return EnhanceSummary(
        source=str(source), target=str(target), sample_rate=file.samplerate, channels=file.channels,
        frames=frames, duration_s=duration_s, clipped=writer.clipped, seconds=seconds,
        rtf=seconds / duration_s,
    )  # fmt: skip


def enhance_folder(enhancer: HopEnhancer, source: Path, target: Path, notice: Notice | None = None) -> FolderSummary:
    """Every audio file of the folder ``source`` to one of the same name in ``target``.

    A file that cannot be enhanced is listed with the reason, and the others are done.

    Raises:
        InputError: the source is missing or holds no audio, or the target is a file or the source.
    """
    files = list_audio(source)
    if Path(target).exists() and not Path(target).is_dir():
        raise InputError(f"{target}: not a folder")
    if Path(target).exists() and Path(target).samefile(source):
        raise InputError(f"{target}: would overwrite its own source")
    done, failed = [], {}
    for path in files:
        try:
            done.append(enhance_file(enhancer, path, Path(target) / path.name, notice))
        except InputError as error:
            failed[path.name] = str(error)
            if notice is not None:
                notice(str(error))
    return FolderSummary(files=tuple(done), failed=failed)


def _encoding(file: soundfile.SoundFile, target: Path) -> Encoding:
    size = file.frames * file.channels * 8  # bytes, were they doubles
    return encoding_for(target, Encoding(file.format, file.subtype), bytes_at_most=size)


def _run(enhancer: HopEnhancer, file: soundfile.SoundFile, source: Path, writer: AudioWriter, block_frames: int) -> int:
    """Streams all of ``file`` to ``writer``; returns the number of frames."""
    channels = [_Channel(enhancer, file.samplerate) for _ in range(file.channels)]
    frames = 0
    while len(block := file.read(block_frames, dtype="float32", always_2d=True)):
        require_finite(block, source, file.samplerate, frames)
        frames += len(block)
        _write(writer, [channel.push(block[:, at]) for at, channel in enumerate(channels)])
    if frames == 0:
        raise InputError(f"{source}: holds no samples")
    _write(writer, [channel.flush() for channel in channels])
    return frames


def _write(writer: AudioWriter, columns: list[np.ndarray]) -> None:
    block = np.stack(columns, axis=1)
    if not np.isfinite(block).all():
        raise InputError(f"{writer.path}: the model gave back samples that are not finite numbers")
    writer.write(block)


class _Channel:
    """One channel: to the network's rate, through it, and back, exactly as many samples as came in."""

    def __init__(self, enhancer: HopEnhancer, sample_rate: int):
        self._stream = AlignedStream(enhancer.fork())
        self._resamplers = None
        if sample_rate != enhancer.sample_rate:
            self._resamplers = (
                StreamResampler(sample_rate, enhancer.sample_rate),
                StreamResampler(enhancer.sample_rate, sample_rate),
            )
        self._owed = 0

    def push(self, block: np.ndarray) -> np.ndarray:
        self._owed += len(block)
        if self._resamplers is None:
            return self._counted(self._stream.push(block))
        to_model, from_model = self._resamplers
        return self._counted(from_model.push(self._stream.push(to_model.push(block))))

    def flush(self) -> np.ndarray:
        if self._resamplers is None:
            return self._counted(self._stream.flush())
        to_model, from_model = self._resamplers
        tail = [self._stream.push(to_model.flush()), self._stream.flush()]
        return self._counted(np.concatenate([from_model.push(np.concatenate(tail)), from_model.flush()]))

    def _counted(self, samples: np.ndarray) -> np.ndarray:
        """Never more than is owed: up and down again can round up to a sample too many."""
        samples = samples[: self._owed]
        self._owed -= len(samples)
        return samples
