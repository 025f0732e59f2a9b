"""How far a latency repeats: our burst p50 and the mean of a plain loop, of the same networks in the same minutes.

    python -m benchmarks.latency_repeats [--repeats 10] [--hog] [--json FILE]

The plain loop is what most tools do: default threads, random input, no state fed back, the mean of 20 calls after ten.
``--hog`` keeps the last core busy meanwhile. Networks are interleaved, so that drift does not pass for a difference.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from search.device import load_device
from search.device_lock import DeviceLock, lock_folder
from search.measure import RANKING, measure
from sekd.export import export_onnx
from sekd.models import build
from sekd.models.cruse import CruseConfig

WIDTHS = (4, 8, 16)
BURST = RANKING._replace(paced_frames=0)

PLAIN = """
import json, sys, time
import numpy as np, onnxruntime as ort
session = ort.InferenceSession(sys.argv[1])
feed = {i.name: np.random.randn(*i.shape).astype(np.float32) for i in session.get_inputs()}
for _ in range(10):
    session.run(None, feed)
times = []
for _ in range(20):
    start = time.perf_counter()
    session.run(None, feed)
    times.append(1000 * (time.perf_counter() - start))
print(json.dumps({"mean": float(np.mean(times)), "p99": float(np.percentile(times, 99))}))
"""


def students(folder: Path) -> dict[str, Path]:
    """Untrained exports of three widths of the default family."""
    found = {}
    for width in WIDTHS:
        torch.manual_seed(0)
        model = build(CruseConfig(width=width)).eval()
        found[f"cruse width {width}"] = export_onnx(model, folder / f"{width}.onnx").path
    return found


@contextmanager
def hog(wanted: bool) -> Iterator[None]:
    """One core busy with arithmetic."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: sum(range(10000))"])
    try:
        os.sched_setaffinity(process.pid, [max(os.sched_getaffinity(0))])
        yield
    finally:
        process.kill()
        process.wait()


def plain_loop(model: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", PLAIN, str(model)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--hog", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = load_device("x86-1core")
    lock = DeviceLock(lock_folder(device))
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as scratch, hog(options.hog):
        networks = students(Path(scratch))
        for repeat in range(options.repeats):
            for name, path in networks.items():
                latency = measure(path, device, level=BURST, lock=lock)
                assert latency.burst is not None
                row = {
                    "p50": latency.p50_ms, "p99": latency.burst.p99_ms, "p99_bound": latency.burst.p99_upper_ms,
                    "canary": latency.canary_ms, "flags": latency.flags, "plain": plain_loop(path),
                }  # fmt: skip
                rows.setdefault(name, []).append(row)
                print(repeat, name, json.dumps(row), file=sys.stderr, flush=True)
    print(
        f"{options.repeats} repeats, {'one core kept busy' if options.hog else 'idle'}; ms, [least, most], most / least"
    )
    print("| network | burst p50 | ratio | flags | mean of 20, default threads | ratio | its p99 |")
    print("|---|---|---|---|---|---|---|")
    for name, found in rows.items():
        ours, plain = [row["p50"] for row in found], [row["plain"]["mean"] for row in found]
        tails = [row["plain"]["p99"] for row in found]
        flags = sorted({flag for row in found for flag in row["flags"]}) or ["none"]
        print(
            f"| {name} | {_range(ours)} | {max(ours) / min(ours):.3f} | {', '.join(flags)} "
            f"| {_range(plain)} | {max(plain) / min(plain):.2f} | {_range(tails)} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows))


def _range(values: list[float]) -> str:
    return f"[{min(values):.4f}, {max(values):.4f}]"


if __name__ == "__main__":
    main()
