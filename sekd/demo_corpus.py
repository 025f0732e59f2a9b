"""The embedded corpus: synthetic speech and procedural noise, reproduced from a seed alone."""

from __future__ import annotations

import csv
import itertools
import math
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import resample_poly

from sekd.demo_noise import GENERATORS, SAMPLE_RATE_HZ, babble
from sekd.demo_text import compose
from sekd.errors import InputError
from sekd.speak import SPEECH_HZ, Utterance, speak

SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}
# No variant occurs twice, so no voice is heard in two splits, not even in another language.
# Neighbours differ in language, so that the smallest corpus has all four.
VOICES: dict[str, tuple[str, ...]] = {
    "train": (
        *("en+f2", "de+m3", "fr+f4", "es+m1"),
        *("en+m7", "de+f5", "fr+Mike", "es+Andrea"),
        *("en+Alicia", "de+rob", "fr+belinda", "es+robert"),
    ),
    "valid": ("en+m2", "de+linda", "fr+m5", "es+f1"),
    "test": ("en+f3", "de+m4", "fr+Annie", "es+m6"),
}
BABBLE_VOICES: dict[str, tuple[str, ...]] = {
    "train": ("en+Gene", "de+Denis", "fr+aunty", "es+zac"),
    "valid": ("en+john", "de+shelby", "fr+sandro", "es+pedro"),
    "test": ("en+grandma", "de+Diogo", "fr+Lee", "es+pablo"),
}
NOISE_KINDS = ("babble", *GENERATORS)
COLUMNS = ("path", "split", "source", "speaker_or_class", "seconds")

UTTERANCE_S = (3.0, 8.0)
NOISE_CLIP_S = (3.0, 8.0)
LEVEL_DB = -26.0
PEAK = 0.9
BATCH = 32  # utterances per child process

Progress = Callable[[str], None]


class Clip(NamedTuple):
    """One recording to be: where it comes from and what it sounds like, (sample,) at 16 kHz, any level."""

    folder: str
    source: str
    name: str
    wave: np.ndarray


def make_demo_corpus(folder: Path, *, seed: int = 0, minutes: float = 10.0, progress: Progress | None = None) -> Path:
    """Write ``minutes`` of speech and as much noise into ``folder``; return its manifest.

    Args:
        folder: absent or empty; it appears complete or not at all.
        seed: not negative; equal seeds and minutes give equal bytes.
        minutes: above 0; very small corpora still hold every kind of noise and a clip of speech per split.

    Raises:
        InputError: an argument does not fit, the folder cannot be written, or the speech synthesis fails.
    """
    if not (math.isfinite(minutes) and minutes > 0):
        raise InputError(f"minutes = {minutes}: must be above 0")
    if seed < 0:
        raise InputError(f"seed = {seed}: must not be negative")
    folder = Path(folder).absolute()
    try:
        return _build_and_rename(folder, seed, minutes, progress or (lambda line: None))
    except (OSError, soundfile.LibsndfileError) as error:
        raise InputError(f"{folder}: cannot be written: {getattr(error, 'strerror', None) or error}") from error


def _build_and_rename(folder: Path, seed: int, minutes: float, progress: Progress) -> Path:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder; choose another or remove it")
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        # One level down: the temporary folder itself is readable by its owner only.
        corpus = Path(scratch, "corpus")
        corpus.mkdir()
        _write(corpus, seed, 60 * minutes, progress)
        corpus.rename(target)
    return folder / "MANIFEST.csv"


def _write(corpus: Path, seed: int, seconds: float, progress: Progress) -> None:
    rows = []
    for split, share in SHARES.items():
        for clips in (_speech(split, share * seconds, seed), _noises(split, share * seconds, seed)):
            written = [_write_clip(corpus, split, index, clip, seed) for index, clip in enumerate(clips)]
            total_s = sum(float(row[-1]) for row in written)
            progress(f"{split}: {total_s:.0f} s of {written[0][0].partition('/')[0]}")
            rows += written
    with open(corpus / "MANIFEST.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


def _write_clip(corpus: Path, split: str, index: int, clip: Clip, seed: int) -> tuple[str, ...]:
    """Write one FLAC file; return its row of the manifest."""
    path = f"{clip.folder}/{split}_{index:04d}_{clip.name.replace('+', '-')}.flac"
    wave = _levelled(clip.wave, _rng(seed, path))
    (corpus / clip.folder).mkdir(exist_ok=True)
    soundfile.write(corpus / path, np.round(wave * 32767).astype(np.int16), SAMPLE_RATE_HZ)
    return path, split, clip.source, clip.name, f"{len(wave) / SAMPLE_RATE_HZ:.3f}"


def _levelled(wave: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(sample,) within 2 dB of the common RMS; lower where the peaks would clip."""
    level = 10 ** ((LEVEL_DB + rng.uniform(-2, 2)) / 20)
    wave = wave * (level / np.sqrt(np.mean(wave**2)))
    return wave * min(1.0, PEAK / np.abs(wave).max())


def _speech(split: str, seconds: float, seed: int) -> Iterator[Clip]:
    """The voices of a split in turn, until ``seconds`` are spoken."""
    voices = VOICES[split]
    spoken_s = 0.0
    for first in itertools.count(0, BATCH):
        batch = [_utterance(voices[turn % len(voices)], turn, seed) for turn in range(first, first + BATCH)]
        heard = 0
        for utterance, wave in zip(batch, _speak(batch), strict=True):
            clip_s = len(wave) / SAMPLE_RATE_HZ
            if not UTTERANCE_S[0] <= clip_s <= UTTERANCE_S[1]:
                continue
            yield Clip("clean", "espeak-ng", utterance.voice, wave)
            heard += 1
            spoken_s += clip_s
            if spoken_s >= seconds:
                return
        if not heard:
            raise InputError(f"speech synthesis: no utterance of {split} lasts {UTTERANCE_S} s")


def _utterance(voice: str, turn: int, seed: int) -> Utterance:
    """A few sentences by a voice at its own habitual rate and pitch, a little different each time."""
    habit, rng = _rng(seed, voice), _rng(seed, voice, turn)
    return Utterance(
        voice,
        compose(voice.partition("+")[0], int(rng.integers(50, 110)), rng),
        rate_wpm=int(habit.integers(140, 180) + rng.integers(-10, 11)),
        pitch=int(habit.integers(35, 65) + rng.integers(-5, 6)),
        pitch_range=int(habit.integers(35, 65) + rng.integers(-10, 11)),
        seed=int(rng.integers(1, 2**31)),
    )


def _speak(utterances: list[Utterance]) -> list[np.ndarray]:
    """Waveforms (sample,) at 16 kHz, full scale 1."""
    divisor = math.gcd(SAMPLE_RATE_HZ, SPEECH_HZ)
    up, down = SAMPLE_RATE_HZ // divisor, SPEECH_HZ // divisor
    return [resample_poly(wave / 32768, up, down) for wave in speak(utterances)]


def _noises(split: str, seconds: float, seed: int) -> Iterator[Clip]:
    """Clips of every kind in turn; few seconds make shorter clips before they make fewer kinds."""
    shortest, longest = NOISE_CLIP_S
    count = max(len(NOISE_KINDS) if split == "train" else 5, round(seconds / longest))
    samples = int(SAMPLE_RATE_HZ * min(max(seconds / count, shortest), longest))
    talkers = _talkers(split, seed)
    for index in range(count):
        kind = NOISE_KINDS[index % len(NOISE_KINDS)]
        rng = _rng(seed, split, kind, index)
        if kind == "babble":
            yield Clip("noise", "espeak-ng", kind, babble(rng, samples, talkers))
        else:
            yield Clip("noise", "procedural", kind, GENERATORS[kind](rng, samples))


def _talkers(split: str, seed: int) -> list[np.ndarray]:
    """About 20 s of talk (sample,) from each babble voice of a split, of unit RMS."""
    voices = BABBLE_VOICES[split]
    waves = _speak([_utterance(voice, turn, seed) for voice in voices for turn in range(5)])
    talks = [np.concatenate(waves[5 * index : 5 * index + 5]) for index in range(len(voices))]
    return [talk / np.sqrt(np.mean(talk**2)) for talk in talks]


def _rng(seed: int, *names: str | int) -> np.random.Generator:
    """A generator of its own for whatever the names tell apart: adding one thing changes no other."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])
