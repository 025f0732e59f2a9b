"""Twenty selections from one study, each measured again in fresh processes afterwards: does any miss its budget?

    python -m benchmarks.promises NAME [--selections 20] [--seed 0]

Budgets are drawn between the fastest and the slowest student, half on the burst median, half on the paced p95.
A promise is missed where the median of the processes measured later, or the paced p95 of their frames, is over budget.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from search.choose import choose
from search.device import load_device
from search.measure import RANKING, measure
from search.results import open_results

KEYS = ("latency_ms", "paced_p95_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--selections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    results = open_results(options.study)
    device = load_device(results.study.device)
    rng = random.Random(options.seed)
    print("| budget | student | certificate | measured again | kept |")
    print("|---|---|---|---|---|")
    missed = refused = 0
    for number in range(options.selections):
        key = KEYS[number % 2]
        values = [v for r in results.records if r.status == "COMPLETE" and (v := r.value(key, device.name)) is not None]
        limit = rng.uniform(min(values), max(values))
        with tempfile.TemporaryDirectory() as scratch:
            chosen = choose(
                results, {key: limit}, out=Path(scratch) / "package", say=lambda line: print(line, file=sys.stderr)
            )
            if chosen.selected is None or chosen.package is None or chosen.certificate is None:
                refused += 1
                print(f"| {key} {limit:.4f} | none certified | - | - | - |", flush=True)
                continue
            again = measure(chosen.package / "model.onnx", device, level=RANKING)
        promise = next(promise for promise in chosen.certificate.promises if promise.key == key)
        later = again.p50_ms if key == "latency_ms" else again.paced and again.paced.p95_ms
        assert later is not None
        missed += later > limit
        row = f"| {key} {limit:.4f} | {chosen.selected.number} | {promise.value:.4f} | {later:.4f} "
        print(f"{row}| {'yes' if later <= limit else 'NO'} |", flush=True)
    print(f"{missed} of {options.selections - refused} promises missed; {refused} budgets found no student")


if __name__ == "__main__":
    main()
