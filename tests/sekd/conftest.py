"""Signals and a tiny corpus that many tests share, made once."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from check_signals import make_signals
from tiny_models import noise, speech_like

RECORDINGS = Path(__file__).parents[3] / "shared" / "data"
RATE = 16_000


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """The same bits, and no fight for cores, however many processes test."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> tuple[torch.Tensor, ...]:
    """Student, clean and teacher of the published check values, ``(2, 16000)``, float64."""
    return make_signals()


def at_level(audio: np.ndarray, dbfs: float) -> np.ndarray:
    """``audio`` with its RMS at ``dbfs``, float32."""
    rms = np.sqrt(np.mean(np.square(audio, dtype=np.float64)))
    return (audio * (10 ** (dbfs / 20) / rms)).astype(np.float32)


@pytest.fixture(scope="session")
def recording() -> np.ndarray:
    """20 s of recorded speech in recorded noise, from the recordings beside the project."""
    files = sorted((RECORDINGS / "test_pairs" / "noisy").glob("*.flac"))
    if not files:
        pytest.skip(f"no recordings in {RECORDINGS}")
    parts = [soundfile.read(file, dtype="float32")[0] for file in files[:8]]
    return np.concatenate(parts)[: 20 * RATE]


@pytest.fixture(scope="session")
def synthetic() -> np.ndarray:
    """20 s of made speech with pauses, in noise."""
    speech = speech_like(20.0)
    return speech + noise(len(speech), 0.003)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """The manifest of six short recordings, two of each split, of speech and of noise."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for kind in ("clean", "noise"):
        (folder / kind).mkdir()
        for number, split in enumerate(["train", "train", "valid", "valid", "test", "test"]):
            speech = kind == "clean"
            audio = speech_like(3.0, seed=number) if speech else noise(2 * RATE, 0.02, seed=10 + number)
            soundfile.write(folder / kind / f"{number}.flac", audio, RATE)
            rows.append({"path": f"{kind}/{number}.flac", "split": split})
    with open(folder / "MANIFEST.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["path", "split"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "MANIFEST.csv"
