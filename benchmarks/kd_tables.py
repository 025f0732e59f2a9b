"""Tables of an ablation, in Markdown: ``python -m benchmarks.kd_tables OUT``, where ``benchmarks.kd_ablation`` wrote.

Differences are paired: the same file, the same seed; their mean over seeds is resampled over files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np

from benchmarks.kd_ablation import CONDITIONS, METRICS, SNRS_DB, folder_of
from sekd.metrics import bootstrap_interval

HEADINGS = {"pesq_wb": "PESQ", "estoi": "ESTOI", "si_sdr_db": "SI-SDR, dB"}
COMPARISONS = (
    ("L2", "supervised"),
    ("L2 + DISPatch", "supervised"),
    ("L2 + DISPatch", "L2"),
    ("DFKD", "supervised"),
    ("DFKD + DISPatch", "DFKD"),
    ("DFKD + DISPatch + MSSP", "DFKD + DISPatch"),
    ("DFKD + DISPatch + MSSP", "DFKD"),
    ("DFKD + DISPatch + MSSP", "supervised"),
    ("one-step G_tf", "supervised"),
    ("two-step G_tf", "supervised"),
    ("two-step G_tf", "one-step G_tf"),
    ("two-step G_tf", "two-step output"),
    ("two-step output", "supervised"),
)

# Set, file and metric to the score of one student.
Scores = dict[str, dict[str, dict[str, float]]]


def main(out: Path) -> None:
    found = {condition: _students(out, condition) for condition in CONDITIONS}
    for name in ("valid", "test"):
        print(f"\n{name} pairs: mean (standard deviation over seeds)\n")
        _means(found, name)
        print(f"\n{name} pairs: paired differences [95 %]\n")
        _differences(found, name)
    print("\nPESQ by input SNR: two-step G_tf against supervised\n")
    _by_snr(found)


def _students(out: Path, condition: str) -> dict[int, Scores]:
    """Seed to scores, of the trainings that are done."""
    files = {seed: folder_of(out, condition, seed) / "scores.json" for seed in range(100)}
    return {seed: json.loads(file.read_text())["sets"] for seed, file in files.items() if file.exists()}


def _means(found: dict[str, dict[int, Scores]], name: str) -> None:
    _row("condition", "seeds", *HEADINGS.values())
    _row(*["---"] * (2 + len(METRICS)))
    for condition, students in found.items():
        if not students:
            continue
        cells = []
        for metric in METRICS:
            means = [mean(file[metric] for file in student[name].values()) for student in students.values()]
            spread = f" ({stdev(means):.3f})" if len(means) > 1 else ""
            cells.append(f"{mean(means):.3f}{spread}")
        _row(condition, len(students), *cells)


def _differences(found: dict[str, dict[int, Scores]], name: str) -> None:
    _row("", "seeds", *HEADINGS.values())
    _row(*["---"] * (2 + len(METRICS)))
    for one, other in COMPARISONS:
        seeds = sorted(found[one].keys() & found[other].keys())
        if seeds:
            cells = [_interval(paired(found[one], found[other], seeds, name, metric)) for metric in METRICS]
            _row(f"{one} - {other}", len(seeds), *cells)


def _by_snr(found: dict[str, dict[int, Scores]]) -> None:
    two_step, supervised = found["two-step G_tf"], found["supervised"]
    seeds = sorted(two_step.keys() & supervised.keys())
    _row("input SNR, dB", *(f"difference in {heading}" for heading in HEADINGS.values()))
    _row(*["---"] * (1 + len(METRICS)))
    for snr_db in SNRS_DB if seeds else ():
        name = f"{snr_db} dB"
        _row(snr_db, *(_interval(paired(two_step, supervised, seeds, name, metric)) for metric in METRICS))


def paired(one: dict[int, Scores], other: dict[int, Scores], seeds: list[int], name: str, metric: str) -> np.ndarray:
    """Difference of each file, mean over seeds, ``(file,)``."""
    files = sorted(one[seeds[0]][name])
    return np.array([mean(one[s][name][f][metric] - other[s][name][f][metric] for s in seeds) for f in files])


def _interval(differences: np.ndarray) -> str:
    low, high = bootstrap_interval(differences)
    return f"{differences.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def _row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
