"""The command that fits a cost model to a device."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search.prediction.cost_model import CostModel


def calibrate(options: Namespace) -> int:
    from search.device import load_device
    from search.device_lock import DeviceLock, lock_folder
    from search.measure_report import cost_model_file
    from search.prediction.calibrate import calibrate as fit_to
    from sekd.cache import write_json

    device = load_device(options.device)
    out = Path(options.out) if options.out else cost_model_file(device)
    out.parent.mkdir(parents=True, exist_ok=True)
    lock = DeviceLock(lock_folder())
    try:
        model = fit_to(device, options.networks, lock=lock, say=lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        lock.close()
    document = model.model_dump(mode="json")
    write_json(out, document)
    if options.json:
        print(json.dumps({"cost_model": str(out), **document}))
        return 0
    Console(width=None if sys.stdout.isatty() else 180).print(_table(model))
    for line in _told(model, out):
        print(line)
    return 0


def _table(model: CostModel) -> Table:
    table = Table(title=f"Networks on {model.device}: measured, and predicted by a model that did not know them")
    for name in ("network", "measured p50 ms", "predicted p50 ms", "error", "90 % interval ms", "flags"):
        table.add_column(name, justify="left" if name in ("network", "flags") else "right")
    for each in sorted(model.networks, key=lambda known: known.measured_ms):
        low, high = each.interval_ms
        table.add_row(
            each.name,
            f"{each.measured_ms:.4f}",
            f"{each.predicted_ms:.4f}",
            f"{each.predicted_ms / each.measured_ms - 1:+.0%}",
            f"{low:.4f} to {high:.4f}{'' if each.covered else ' (outside)'}",
            ", ".join(each.flags),
        )
    return table


def _told(model: CostModel, out: Path) -> list[str]:
    costs = ", ".join(f"{cost:.4g} for each of {name}" for name, cost in model.us_per.items())
    return [
        f"microseconds: {costs}",
        f"of networks left out: rank correlation {model.spearman:.3f} (Spearman), {model.kendall:.3f} (Kendall); "
        f"{model.coverage:.0%} lie within their 90 % intervals; an interval is the prediction over and times "
        f"{model.interval_ratio:.2f}",
        f"wrote {out}; a profile uses it with",
        '  latency = "model"',
        f'  cost_model = "{out}"',
    ]
