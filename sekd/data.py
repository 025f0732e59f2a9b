"""Recordings to training segments: a pure function of (seed, index), whatever the number of workers."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from sekd.audio import SAMPLE_RATE, active_rms, list_audio, read_audio
from sekd.config import Frozen, content_hash
from sekd.errors import InputError, nearest

DEMO = "demo"  # as a manifest: the embedded corpus
Notice = Callable[[str], None]


class Recipe(Frozen):
    """Where recordings are and how they are mixed, or where ready pairs are (``noisy/`` and ``clean/``)."""

    manifest: str | None = None  # CSV with path and split; the path's first folder is clean or noise
    split: Literal["train", "valid"] | None = None
    clean: str | None = None  # a folder of speech
    noise: str | None = None  # a folder of noise; with ready pairs, `noisy` is given instead
    noisy: str | None = None
    snr_db: tuple[float, float] = (-5.0, 15.0)  # over the active frames of the speech
    level_dbfs: tuple[float, float] = (-45.0, -15.0)  # RMS of the mixture
    noises: tuple[int, int] = (1, 2)  # recordings of noise at once
    segment_s: float = 2.0
    demo_minutes: float = Field(10.0, gt=0, allow_inf_nan=False)  # size of the embedded corpus (manifest "demo")

    @model_validator(mode="after")
    def _one_source(self) -> Recipe:
        kinds = {
            "manifest": self.manifest is not None,
            "clean and noise": self.clean is not None and self.noise is not None,
            "noisy and clean": self.clean is not None and self.noisy is not None,
        }
        if sum(kinds.values()) != 1:
            raise ValueError("needs either a manifest, or folders clean and noise, or folders noisy and clean")
        if not 0 < self.segment_s <= 60:
            raise ValueError(f"segment_s = {self.segment_s} must be above 0 and at most 60 seconds")
        for key in ("snr_db", "level_dbfs", "noises"):
            low, high = getattr(self, key)
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"{key} = [{low}, {high}] must be [low, high]")
        if self.noises[0] < 1:
            raise ValueError("noises must be at least 1")
        return self

    @property
    def samples(self) -> int:
        return round(self.segment_s * SAMPLE_RATE)

    @property
    def paths(self) -> dict[str, str]:
        """The keys that say where things lie: they do not change a result, contents do."""
        found = {key: getattr(self, key) for key in ("manifest", "clean", "noise", "noisy")}
        return {key: value for key, value in found.items() if value is not None and value != DEMO}


class TrainRecipe(Recipe):
    pool_minutes: float = Field(20.0, gt=0, allow_inf_nan=False)  # mixed once, so that the teacher runs once over them
    split: Literal["train", "valid"] | None = "train"


class ValidRecipe(Recipe):
    count: int = Field(64, ge=1)
    segment_s: float = 4.0
    split: Literal["train", "valid"] | None = "valid"


class DataConfig(Frozen):
    train: TrainRecipe
    valid: ValidRecipe


class Segment(NamedTuple):
    """A mixture and its clean part, each ``(sample,)`` float32."""

    noisy: np.ndarray
    clean: np.ndarray


class Recordings:
    """Audio files read once and held as 16-bit integers, one after the other."""

    def __init__(self, files: list[Path], *, notice: Notice | None = None) -> None:
        parts = [_to_int16(read_audio(file, notice=notice)) for file in files]
        self.names = [file.stem for file in files]
        self.lengths = np.array([len(part) for part in parts])
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self._samples = np.concatenate(parts)

    def __len__(self) -> int:
        return len(self.lengths)

    def crop(self, index: int, start: int, samples: int) -> np.ndarray:
        """``samples`` or fewer from ``start`` of recording ``index``, float32 in -1..1."""
        first = self._starts[index] + start
        last = min(first + samples, self._starts[index + 1])
        return self._samples[first:last].astype(np.float32) / 32768


def _to_int16(audio: np.ndarray) -> np.ndarray:
    peak = float(np.abs(audio).max())
    if peak > 1:  # float files may exceed full scale; mixing sets the level anyway
        audio = audio / peak
    return np.round(audio * 32767).astype(np.int16)


class Mixer:
    """Segments of speech in noise; ``segment(i)`` depends on the recipe, the recordings, the seed and ``i``."""

    def __init__(self, recipe: Recipe, *, seed: int, notice: Notice | None = None) -> None:
        self.recipe, self.seed = recipe, seed
        speech, noise = source_files(recipe)
        self.speech = Recordings(speech, notice=notice)
        self.noise = Recordings(noise, notice=notice)
        if recipe.noisy is not None and not np.array_equal(self.speech.lengths, self.noise.lengths):
            odd = int(np.flatnonzero(self.speech.lengths != self.noise.lengths)[0])
            raise InputError(f"{noise[odd]}: its clean pair has another length")

    def segment(self, index: int) -> Segment:
        rng = np.random.default_rng([self.seed, index])
        if self.recipe.noisy is not None:
            return self._cut_pair(rng)
        clean = self._speech(rng)
        noise = self._noise(rng)
        return _mix(clean, noise, rng.uniform(*self.recipe.snr_db), rng.uniform(*self.recipe.level_dbfs))

    def _cut_pair(self, rng: np.random.Generator) -> Segment:
        wanted = self.recipe.samples
        index = int(rng.choice(len(self.speech), p=self.speech.lengths / self.speech.lengths.sum()))
        start = int(rng.integers(max(self.speech.lengths[index] - wanted, 0) + 1))
        noisy, clean = (part.crop(index, start, wanted) for part in (self.noise, self.speech))
        return Segment(*(np.pad(part, (0, wanted - len(part))) for part in (noisy, clean)))

    def _speech(self, rng: np.random.Generator) -> np.ndarray:
        """Speech without long silence: the most active of a few crops, short recordings joined."""
        crops = [self._joined(self.speech, rng, gap=True) for _ in range(3)]
        for crop in crops:
            if active_rms(crop) > 0 and _activity(crop) > 0.5:
                return crop
        return max(crops, key=_activity)

    def _noise(self, rng: np.random.Generator) -> np.ndarray:
        low, high = self.recipe.noises
        total = np.zeros(self.recipe.samples, np.float32)
        for _ in range(int(rng.integers(low, high + 1))):
            crop = self._joined(self.noise, rng, gap=False)
            level = float(np.sqrt(np.mean(np.square(crop, dtype=np.float64))))
            total += crop * (10 ** (rng.uniform(-6, 0) / 20) / max(level, 1e-6))
        return total

    def _joined(self, source: Recordings, rng: np.random.Generator, *, gap: bool) -> np.ndarray:
        wanted = self.recipe.samples
        pieces: list[np.ndarray] = []
        have = 0
        while have < wanted:
            index = int(rng.choice(len(source), p=source.lengths / source.lengths.sum()))
            start = int(rng.integers(max(source.lengths[index] - wanted, 0) + 1))
            piece = source.crop(index, start, wanted)
            if gap:
                piece = np.concatenate([piece, np.zeros(int(rng.uniform(0.1, 0.4) * SAMPLE_RATE), np.float32)])
            pieces.append(piece)
            have += len(piece)
        return np.concatenate(pieces)[:wanted]


def _activity(crop: np.ndarray) -> float:
    """Share of 20 ms frames within 40 dB of the loudest."""
    frames = crop[: len(crop) // 320 * 320].reshape(-1, 320)
    energy = np.square(frames, dtype=np.float64).mean(1) if len(frames) else np.zeros(1)
    return float((energy > energy.max() * 1e-4).mean()) if energy.max() > 0 else 0.0


def _mix(clean: np.ndarray, noise: np.ndarray, snr_db: float, level_dbfs: float) -> Segment:
    """``clean + noise`` at a signal-to-noise ratio over active speech, the sum at an RMS level."""
    noise_rms = float(np.sqrt(np.mean(np.square(noise, dtype=np.float64))))
    speech_rms = active_rms(clean)
    if noise_rms > 0 and speech_rms > 0:
        noise = noise * np.float32(speech_rms / noise_rms * 10 ** (-snr_db / 20))
    noisy = clean + noise
    rms = float(np.sqrt(np.mean(np.square(noisy, dtype=np.float64))))
    gain = 10 ** (level_dbfs / 20) / rms if rms > 0 else 1.0
    gain = min(gain, 0.99 / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9))
    return Segment((noisy * gain).astype(np.float32), (clean * gain).astype(np.float32))


def source_files(recipe: Recipe) -> tuple[list[Path], list[Path]]:
    """Files of speech and of noise (for ready pairs: of clean and noisy), each in a fixed order.

    Raises:
        InputError: a folder is missing or empty, pairs do not match, or a manifest cannot be used.
    """
    if recipe.manifest is not None:
        return _from_manifest(Path(recipe.manifest), recipe.split)
    clean = list_audio(Path(str(recipe.clean)))
    if recipe.noisy is None:
        return clean, list_audio(Path(str(recipe.noise)))
    noisy = {file.stem: file for file in list_audio(Path(recipe.noisy))}
    for file in clean:
        if file.stem not in noisy:
            raise InputError(f"{recipe.noisy}: no noisy file named {file.stem!r}{nearest(file.stem, noisy)}")
    return clean, [noisy[file.stem] for file in clean]


def _from_manifest(path: Path, split: str | None) -> tuple[list[Path], list[Path]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the manifest: {error}") from error
    if not rows or not {"path", "split"} <= set(rows[0]):
        raise InputError(f"{path}: a manifest needs the columns path and split")
    wanted = [row["path"] for row in rows if row["split"] == split and row["path"]]
    found: dict[str, list[Path]] = {"clean": [], "noise": []}
    for name in wanted:
        if (kind := Path(name).parts[0]) in found:
            found[kind].append(path.parent / name)
    for kind, files in found.items():
        if not files:
            splits = sorted({row["split"] for row in rows if row["split"]})
            raise InputError(f"{path}: no {kind} recordings in split {split!r} (splits: {', '.join(splits)})")
    return sorted(found["clean"]), sorted(found["noise"])


def sources_hash(recipe: Recipe) -> str:
    """Identity of the recordings that a recipe names: file names and sizes, not where they lie."""
    return content_hash([[(file.name, file.stat().st_size) for file in files] for files in source_files(recipe)])


def recipe_hash(recipe: Recipe, seed: int) -> str:
    """Identity of what a recipe makes: its settings without paths, its recordings, the seed."""
    settings = recipe.model_dump(mode="json", exclude={"manifest", "clean", "noise", "noisy"})
    kind = "pairs" if recipe.noisy is not None else "mixed"
    return content_hash([settings, kind, sources_hash(recipe), seed])
