"""Tables of what ``benchmarks.rose_cd`` trained, from its scores on disk.

python -m benchmarks.rose_cd_tables OUT
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.kd_ablation import METRICS, folder_of
from benchmarks.rose_cd import CONSISTENCY, SETTINGS, TWINS
from sekd.summary import bootstrap_interval

SETS = ("valid", "test")
HEADS = {"pesq_wb": "PESQ", "estoi": "ESTOI", "si_sdr_db": "SI-SDR dB"}
PAIRS = (  # each with what it is compared with
    ("RCD", "CD"),
    ("RCD, Euler", "CD, Euler"),
    ("RCD + PESQ", "RCD"),
    ("RCD + SI-SDR", "RCD"),
    ("RCD + both", "RCD"),
    ("RCD + both", "RCD + PESQ"),
    ("CT + both", "RCD + both"),
    ("deterministic", "RCD + both"),
    ("deterministic, both", "RCD + both"),
)
Scores = dict[str, dict[str, Any]]  # by file, then by metric


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out.resolve()
    for name in SETS:
        print(f"\n{name}: one evaluation\n")
        _one_evaluation(out, name)
    for name in SETS:
        print(f"\n{name}: PESQ and SI-SDR by evaluations, first seed\n")
        _evaluations(out, name)
    print("\ndifferences at one evaluation, files and seeds together, 95 % bootstrap over files\n")
    _differences(out)


def seeds_of(out: Path, name: str) -> list[dict[str, Any]]:
    """What is on disk of a condition, seed after seed."""
    files = [folder_of(out, name, seed) / "scores.json" for seed in range(10)]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def _one_evaluation(out: Path, part: str) -> None:
    _row("condition", "seeds", "files", *HEADS.values())
    _row(*["---"] * (3 + len(HEADS)))
    for steps, sets in (seeds_of(out, "teacher") or [{"sets": {}}])[0]["sets"].items():
        _row(f"teacher, {steps} steps ({2 * int(steps)} evaluations)", 1, len(sets[part]), *_means([sets[part]]))
    for name in ("unprocessed", *CONSISTENCY, *TWINS):
        found = [seed["sets"]["1"][part] for seed in seeds_of(out, name)]
        if found:
            _row(name, len(found), len(found[0]), *_means(found))
    few = (seeds_of(out, "teacher") or [{"sets": {}}])[0]["sets"].get("30", {}).get(part)
    if few:
        for name in ("unprocessed", *CONSISTENCY, *TWINS):
            found = [_only(seed["sets"]["1"][part], few) for seed in seeds_of(out, name)]
            if found:
                _row(f"{name}, on the teacher's files", len(found), len(few), *_means(found))


def _only(scores: Scores, files: Scores) -> Scores:
    return {name: scores[name] for name in files}


def _means(seeds: list[Scores]) -> list[str]:
    """Mean over files, and over seeds with the range of the seeds' means where there are several."""
    shown = []
    for metric in METRICS:
        each = [mean(file[metric] for file in scores.values()) for scores in seeds]
        digits = 2 if metric == "si_sdr_db" else 3
        spread = f" ({min(each):.{digits}f} to {max(each):.{digits}f})" if len(each) > 1 else ""
        shown.append(f"{mean(each):.{digits}f}{spread}")
    return shown


def _evaluations(out: Path, part: str) -> None:
    _row("student", *SETTINGS)
    _row(*["---"] * (1 + len(SETTINGS)))
    for name in CONSISTENCY:
        found = seeds_of(out, name)
        if found:
            cells = [found[0]["sets"][setting].get(part) for setting in SETTINGS]
            means = [c and f"{_mean(c, 'pesq_wb'):.3f} / {_mean(c, 'si_sdr_db'):.2f}" for c in cells]
            _row(name, *(shown or "" for shown in means))


def _mean(scores: Scores, metric: str) -> float:
    return mean(file[metric] for file in scores.values())


def _differences(out: Path) -> None:
    _row("", "set", "seeds", *HEADS.values())
    _row(*["---"] * (3 + len(HEADS)))
    for better, worse in PAIRS:
        both = list(zip(seeds_of(out, better), seeds_of(out, worse), strict=False))
        for part in SETS if both else ():
            cells = [_difference([(a["sets"]["1"][part], b["sets"]["1"][part]) for a, b in both], m) for m in METRICS]
            _row(f"{better} minus {worse}", part, len(both), *cells)


def _difference(seeds: list[tuple[Scores, Scores]], metric: str) -> str:
    """Mean over files of the mean over seeds, with its interval."""
    files = [mean(a[file][metric] - b[file][metric] for a, b in seeds) for file in seeds[0][0]]
    digits = 2 if metric == "si_sdr_db" else 3
    low, high = (f"{edge:+.{digits}f}" for edge in bootstrap_interval(np.array(files)))
    return f"{mean(files):+.{digits}f} [{low}, {high}]"


def _row(*cells: Any) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
