"""Training segments mixed once, and the teacher's output for each: no trial mixes audio or runs the teacher."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from sekd.audio import SAMPLE_RATE
from sekd.cache import write_json
from sekd.data import Mixer, TrainRecipe
from sekd.dnsmos import ovrl as ovrl_of
from sekd.losses.gating import Ovrl
from sekd.models import Enhancer
from sekd.models.base import keep_denormals
from sekd.train import Batch

Tell = Callable[[float], None]  # share done, 0 to 1
Enhance = Callable[[torch.Tensor], torch.Tensor]  # (batch, sample) to the same


OVRL_SPAN = (5, 95)  # percentiles of the pool between which the wanted activation ratio moves


class Rows:
    """Signals ``(row, sample)`` on disk as 16-bit integers with one scale each, memory-mapped."""

    def __init__(self, folder: Path, name: str) -> None:
        self.samples = np.load(folder / f"{name}.npy", mmap_mode="r")
        self.scales = np.load(folder / f"{name}.scale.npy")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, rows: np.ndarray | slice) -> torch.Tensor:
        values = self.samples[rows].astype(np.float32)
        return torch.from_numpy(values * self.scales[rows, None])


def calibration_audio(pool: Path, seconds: float) -> list[np.ndarray]:
    """The first noisy segments (sample,) of a pool, as many as hold ``seconds`` of audio."""
    noisy = Rows(pool, "noisy")
    count = math.ceil(seconds * SAMPLE_RATE / noisy.samples.shape[1])
    return list(noisy[slice(count)].numpy())


class RowsWriter:
    """Fills what ``Rows`` reads."""

    def __init__(self, folder: Path, name: str, rows: int, samples: int) -> None:
        shape = (rows, samples)
        self._path = folder / f"{name}.scale.npy"
        self._samples = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.int16, shape)
        self._scales = np.zeros(rows, np.float32)

    def put(self, row: int, signal: np.ndarray) -> None:
        scale = max(float(np.abs(signal).max()), 1e-9) / 32767
        self._samples[row] = np.round(signal / scale)
        self._scales[row] = scale

    def close(self) -> None:
        self._samples.flush()
        np.save(self._path, self._scales)


def write_pool(folder: Path, recipe: TrainRecipe, mixer: Mixer, tell: Tell) -> None:
    """Mixes ``pool_minutes`` of segments into ``folder``."""
    rows = rows_of(recipe)
    noisy, clean = (RowsWriter(folder, name, rows, recipe.samples) for name in ("noisy", "clean"))
    for row in range(rows):
        segment = mixer.segment(row)
        noisy.put(row, segment.noisy)
        clean.put(row, segment.clean)
        tell((row + 1) / rows)
    noisy.close()
    clean.close()


@torch.no_grad()
def write_outputs(folder: Path, pool: Path, enhance: Enhance, tell: Tell, *, batch: int = 16) -> None:
    """The teacher's output for every segment, each from a zero state as in training."""
    keep_denormals()
    noisy = Rows(pool, "noisy")
    writer = RowsWriter(folder, "teacher", len(noisy), noisy.samples.shape[1])
    for first in range(0, len(noisy), batch):
        for row, output in enumerate(enhance(noisy[first : first + batch]).numpy(), first):
            writer.put(row, output)
        tell(min(1.0, (first + batch) / len(noisy)))
    writer.close()


def activations_bytes(teacher: Enhancer, rows: int, samples: int) -> int:
    """What ``write_activations`` would write for a pool of ``rows`` segments."""
    return 2 * rows * sum(x.numel() for x in _activations(teacher, torch.zeros(1, samples)))


def rows_of(recipe: TrainRecipe) -> int:
    """Segments of the pool of ``recipe``."""
    return max(1, round(recipe.pool_minutes * 60 / recipe.segment_s))


@torch.no_grad()
def write_activations(folder: Path, pool: Path, teacher: Enhancer, tell: Tell, *, batch: int = 16) -> None:
    """The teacher's activations for every segment as float16, block after block, ``(row, value)``."""
    keep_denormals()
    noisy = Rows(pool, "noisy")
    shapes = [list(x.shape[1:]) for x in _activations(teacher, noisy[:1])]
    values = sum(math.prod(shape) for shape in shapes)
    file = np.lib.format.open_memmap(folder / "activations.npy", "w+", np.float16, (len(noisy), values))
    for first in range(0, len(noisy), batch):
        recorded = _activations(teacher, noisy[first : first + batch])
        file[first : first + batch] = torch.cat([x.flatten(1) for x in recorded], dim=1).half().numpy()
        tell(min(1.0, (first + batch) / len(noisy)))
    file.flush()
    write_json(folder / "blocks.json", shapes)


@torch.no_grad()
def _activations(teacher: Enhancer, noisy: torch.Tensor) -> list[torch.Tensor]:
    with teacher.eval().recorded() as recorded:
        teacher(noisy)
    return recorded


# Rows of the pool and a torch device to the teacher's activations, (batch, channel, frame, freq) for each block.
Features = Callable[[np.ndarray, str], list[torch.Tensor]]


def cached_features(folder: Path) -> Features:
    """Reads what ``write_activations`` wrote."""
    file = np.load(folder / "activations.npy", mmap_mode="r")
    shapes = json.loads((folder / "blocks.json").read_text())
    sizes = [math.prod(shape) for shape in shapes]

    def read(rows: np.ndarray, device: str) -> list[torch.Tensor]:
        values = torch.from_numpy(file[rows]).to(device).float()
        parts = values.split(sizes, dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    return read


def live_features(pool: Path, teacher: Enhancer) -> Features:
    """Runs the teacher on every batch."""
    noisy = Rows(pool, "noisy")

    def compute(rows: np.ndarray, device: str) -> list[torch.Tensor]:
        return _activations(teacher.to(device), noisy[rows].to(device))

    return compute


def write_ovrl(folder: Path, pool: Path, tell: Tell) -> None:
    """DNSMOS OVRL of every noisy segment, ``(row,)``; continues where a killed run stood."""
    noisy, path = Rows(pool, "noisy"), folder / "ovrl.partial.npy"
    if not path.exists():
        np.save(folder / "empty.npy", np.full(len(noisy), np.nan, np.float32))
        (folder / "empty.npy").rename(path)
    found = np.load(path, mmap_mode="r+")
    for row in np.flatnonzero(np.isnan(found)).tolist():
        found[row] = ovrl_of(noisy[row : row + 1][0].numpy())
        tell((row + 1) / len(found))
    found.flush()
    keep_denormals()
    path.rename(folder / "ovrl.npy")


class PoolBatches:
    """Batches from a pool: every segment once an epoch, in an order that depends on the seed and the epoch."""

    def __init__(
        self,
        pool: Path,
        outputs: Path | None,
        *,
        batch: int,
        seed: int,
        features: Features | None = None,
        ovrl: Path | None = None,
    ) -> None:
        self.features = features
        self.noisy, self.clean = Rows(pool, "noisy"), Rows(pool, "clean")
        self.teacher = None if outputs is None else Rows(outputs, "teacher")
        self.batch, self.seed = batch, seed
        self.ovrl = None if ovrl is None else torch.from_numpy(np.load(ovrl / "ovrl.npy"))
        self.span: list[float] = [] if self.ovrl is None else np.percentile(self.ovrl, OVRL_SPAN).tolist()

    def __call__(self, step: int) -> Batch:
        rows = np.sort(self._rows(step))  # ascending, as the file lies; a batch has no order of its own
        teacher = None if self.teacher is None else self.teacher[rows]
        features = None if self.features is None else partial(self.features, rows)
        ovrl = None if self.ovrl is None else Ovrl(self.ovrl[rows], *self.span)
        return Batch(self.noisy[rows], self.clean[rows], teacher, features, ovrl)

    def _rows(self, step: int) -> np.ndarray:
        wanted = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, places = wanted // len(self.noisy), wanted % len(self.noisy)
        orders = {e: np.random.default_rng([self.seed, e]).permutation(len(self.noisy)) for e in set(epochs.tolist())}
        return np.array([orders[e][p] for e, p in zip(epochs.tolist(), places.tolist(), strict=True)])


class LiveBatches:
    """Batches mixed on the fly, never the same twice: for training without a teacher and without gates."""

    def __init__(self, mixer: Mixer, *, batch: int) -> None:
        self.mixer, self.batch = mixer, batch

    def __call__(self, step: int) -> Batch:
        segments = [self.mixer.segment(step * self.batch + k) for k in range(self.batch)]
        noisy, clean = (torch.from_numpy(np.stack(part)) for part in zip(*segments, strict=True))
        return Batch(noisy, clean, None)


def minutes_of(pool: Path) -> float:
    """How much audio a pool holds."""
    rows = Rows(pool, "noisy")
    return rows.samples.size / SAMPLE_RATE / 60
