"""The front of a study as a PNG: ``python -m benchmarks.front_figure NAME FILE.png``."""

from __future__ import annotations

import sys

from search.plot import front_png
from search.record import Score
from search.results import open_results


def main(name: str, path: str) -> None:
    results = open_results(name)
    baseline = {
        who: {metric: Score(**score) for metric, score in scores.items()} for who, scores in results.baseline.items()
    }
    names = results.study.objectives.names
    front_png(path, results.records, names, results.device, limits=results.limits, baseline=baseline, title=name)


if __name__ == "__main__":
    main(*sys.argv[1:])
