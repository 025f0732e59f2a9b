"""The compact record of a study, without audio: ``python -m benchmarks.record NAME > studies/records/NAME.jsonl``.

The first line says what was searched, where and with which versions; each further line is one trial.
"""

from __future__ import annotations

import json
import platform
import sys
from importlib.metadata import version

from search.results import open_results

PACKAGES = ("torch", "onnxruntime", "optuna", "numpy", "pesq", "pystoi")


def main(name: str) -> None:
    results = open_results(name)
    head = {
        "study": results.study.model_dump(mode="json", exclude={"data"}),
        "baseline": results.baseline,
        "hardware": _processor(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in PACKAGES},
    }
    print(json.dumps(head))
    for record in results.records:
        print(json.dumps(record.document()))


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()


if __name__ == "__main__":
    main(*sys.argv[1:])
