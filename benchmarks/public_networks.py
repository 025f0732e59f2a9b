"""Public streaming networks beside three of our students: MACs, nodes, burst and paced time, measured in one run.

    python -m benchmarks.public_networks FOLDER [--rounds 3]

FOLDER holds ``gtcrn.onnx`` (Xiaobin-Rong/gtcrn, stream/onnx_models/gtcrn_simple.onnx), ``ul-unas.onnx``
(Xiaobin-Rong/ul-unas, ulunas_onnx/onnx_models/ulunas_stream_simple.onnx), ``dtln-1.onnx`` and ``dtln-2.onnx``
(breizhn/DTLN, pretrained_model/model_1.onnx and model_2.onnx). DTLN is the sum of its two stages. Networks are
interleaved; every figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from benchmarks.latency_repeats import students
from search.device import load_device
from search.graphs.graph import graph_facts
from search.measure import RANKING, measure

PUBLIC = {"GTCRN": (["gtcrn"], 16.0), "UL-UNAS": (["ul-unas"], 16.0), "DTLN": (["dtln-1", "dtln-2"], 8.0)}


class Row(NamedTuple):
    """One network; times in ms per hop."""

    name: str
    hop_ms: float
    macs: int
    nodes: int
    burst: float
    paced: float
    paced_bound: float

    @property
    def macs_per_s(self) -> float:
        return self.macs * 1000 / self.hop_ms


def networks(folder: Path, scratch: Path) -> dict[str, tuple[list[Path], float]]:
    public = {name: ([folder / f"{part}.onnx" for part in parts], hop) for name, (parts, hop) in PUBLIC.items()}
    return public | {name: ([path], 16.0) for name, path in students(scratch).items()}


def measured(folder: Path, rounds: int) -> list[Row]:
    device = load_device("x86-1core")
    with tempfile.TemporaryDirectory() as scratch:
        found = networks(folder, Path(scratch))
        times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in found}
        for number in range(rounds):
            for name, (paths, hop_ms) in found.items():
                parts = [measure(path, device, level=RANKING, hop_ms=hop_ms) for path in paths]
                sums = [
                    sum(float(value or 0.0) for value in column)
                    for column in zip(
                        *((p.p50_ms, p.paced and p.paced.p50_ms, p.paced and p.paced.p95_upper_ms) for p in parts),
                        strict=True,
                    )
                ]
                times[name].append((sums[0], sums[1], sums[2]))
                flags = sorted({flag for part in parts for flag in part.flags})
                print(number, name, *(f"{value:.4f}" for value in sums), *flags, file=sys.stderr, flush=True)
        return [_row(name, paths, hop_ms, times[name]) for name, (paths, hop_ms) in found.items()]


def _row(name: str, paths: list[Path], hop_ms: float, times: list[tuple[float, float, float]]) -> Row:
    facts = [graph_facts(path) for path in paths]
    middle = [statistics.median(column) for column in zip(*times, strict=True)]
    return Row(name, hop_ms, sum(f.macs for f in facts), sum(f.nodes for f in facts), *middle)


def kendall(first: list[float], second: list[float]) -> float:
    """Kendall's tau-a."""
    pairs = list(combinations(range(len(first)), 2))
    signs = [(first[i] - first[j]) * (second[i] - second[j]) for i, j in pairs]
    return sum((sign > 0) - (sign < 0) for sign in signs) / len(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    rows = sorted(measured(options.folder, options.rounds), key=lambda row: row.macs_per_s)
    by_time = sorted(rows, key=lambda row: row.burst / row.hop_ms)
    print("| network | hop ms | MMAC/s | nodes | burst p50 ms | paced p50 ms | paced p95 at most | by MACs | by time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for rank, row in enumerate(rows, 1):
        print(
            f"| {row.name} | {row.hop_ms:g} | {row.macs_per_s / 1e6:.1f} | {row.nodes} | {row.burst:.4f} | "
            f"{row.paced:.3f} | {row.paced_bound:.3f} | {rank} | {by_time.index(row) + 1} |"
        )
    macs = [row.macs_per_s for row in rows]
    for what, times in (
        ("burst", [row.burst / row.hop_ms for row in rows]),
        ("paced", [row.paced / row.hop_ms for row in rows]),
    ):
        print(f"Kendall's tau between MAC/s and {what} time per second of audio: {kendall(macs, times):.2f}")


if __name__ == "__main__":
    main()
