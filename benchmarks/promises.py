"""Twenty selections from one study, each measured again in fresh processes afterwards: does any miss its budget?

    python -m benchmarks.promises NAME [--selections 20] [--seed 0]

Budgets are drawn between the fastest and the slowest student, half on the burst median, half on the paced p95.
A promise is missed where the median of the processes measured later, or the paced p95 of their frames, is over budget.
The certificate of a file is measured when it is first wanted, and holds for every budget: a minute each, not twenty.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from search import certificate
from search.choose import choose
from search.device import DeviceProfile, load_device
from search.device_lock import DeviceLock, lock_folder
from search.measure import RANKING, Latency, measure
from search.results import open_results

KEYS = ("latency_ms", "paced_p95_ms")


class Once:
    """Measures each file at its first certificate only."""

    def __init__(self) -> None:
        self._known: dict[Path, Latency] = {}

    def __call__(self, model: Path, device: DeviceProfile, **options: Any) -> Latency:
        if model not in self._known:
            self._known[model] = measure(model, device, **options)
        return self._known[model]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--selections", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    certificate.measure = Once()  # type: ignore[assignment]
    results = open_results(options.study)
    device = load_device(results.study.device)
    rng = random.Random(options.seed)
    print("| budget | student | at most, certified | measured again | flags | kept |")
    print("|---|---|---|---|---|---|")
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
                print(f"| {key} {limit:.4f} | none certified | - | - | - | - |", flush=True)
                continue
            with closing(DeviceLock(lock_folder(device))) as lock:
                again = measure(chosen.package / "model.onnx", device, level=RANKING, lock=lock)
        promise = next(promise for promise in chosen.certificate.promises if promise.key == key)
        later = again.p50_ms if key == "latency_ms" else again.paced and again.paced.p95_ms
        assert later is not None
        missed += later > limit
        flags = ", ".join(again.flags) or "-"
        row = f"| {key} {limit:.4f} | {chosen.selected.number} | {promise.value:.4f} | {later:.4f} | {flags} "
        print(f"{row}| {'yes' if later <= limit else 'NO'} |", flush=True)
    print(f"{missed} of {options.selections - refused} promises missed; {refused} budgets found no student")


if __name__ == "__main__":
    main()
