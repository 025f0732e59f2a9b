"""Tables of gated against static students, in Markdown: ``python -m benchmarks.dsn_tables OUT --recordings DIR``, where
``benchmarks.dsn`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.dsn import TARGET, WIDTH, folder_of, parse_options, prepared_for
from benchmarks.held_mask import EVERY
from benchmarks.kd_ablation import METRICS, SNRS_DB
from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.metrics import METRICS as KNOWN

HEADINGS = ("PESQ", "ESTOI", "SI-SDR, dB")
GATED = ("gated, DNSMOS-guided", "gated, DNSMOS-guided, ratio x 4", "gated, constant ratio")


def main() -> None:
    options = parse_options()
    out = options.out.resolve()
    found = {name: students(out, name, options.seeds) for name in names(out)}
    equals = json.loads((out / "equals.json").read_text())
    data = prepared_for(options, out)
    for part in ("valid", "test"):
        print(f"\n{part} pairs: mean (standard deviation over seeds)\n")
        quality(found, equals, part)
    print(f"\nloads: target {TARGET}\n")
    ovrl = ovrl_of(data.scored | data.heard, out / "ovrl.json")
    load_table(found, ovrl)
    assert data.prepared.ovrl is not None
    pool = np.load(data.prepared.ovrl / "ovrl.npy")
    asked = {part: f"{wanted(np.array(list(ovrl[part].values())), pool):.3f}" for part in ("valid", "test")}
    print(f"\nwhat guidance asks for, by the OVRL of the clips: {asked}")
    print(f"\nequal cost: {json.dumps(equals, indent=1)}")


def names(out: Path) -> list[str]:
    return [
        *GATED,
        "static twin",
        "gates removed",
        "static, equal MACs",
        "static, equal latency",
        "mask held, trained so",
    ]


def students(out: Path, name: str, seeds: list[int]) -> list[dict[str, Any]]:
    files = [folder_of(out, name, seed) / "scores.json" for seed in seeds]
    return [json.loads(file.read_text()) for file in files if file.exists()]


def quality(found: dict[str, list[dict[str, Any]]], equals: dict[str, Any], part: str) -> None:
    row("student", "seeds", "open", "kMAC/frame expected", "ms/frame expected", *HEADINGS)
    row(*["---"] * 8)
    for name, trained in found.items():
        if not trained:
            continue
        open_share = [mean(one["loads"][part].values()) for one in trained] if name in GATED else []
        row(name, len(trained), spread(open_share), *costs(name, open_share, equals), *scores(trained, "sets", part))
        for key, shown in (("open", ", all open"), ("shut", ", all shut"), ("held", ", mask held")):
            if key in trained[0]:
                forced = {"open": [1.0], "shut": [0.0], "held": []}[key]
                own = costs(f"mask held{name}" if key == "held" else name, forced, equals)
                row(name + shown, len(trained), spread(forced), *own, *scores(trained, key, part))


def scores(trained: list[dict[str, Any]], key: str, part: str) -> list[str]:
    return [spread([mean(file[metric] for file in one[key][part].values()) for one in trained]) for metric in METRICS]


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.3f}" + (f" ({stdev(values):.3f})" if len(values) > 1 else "")


def costs(name: str, open_share: list[float], equals: dict[str, Any]) -> list[str]:
    """Counted MACs and measured ms of one frame on average: of gated students at their load, else of their width."""
    macs, times = equals["macs"], equals["p50_ms"]
    if open_share:
        both = [mean(open_share) * of["open"] + (1 - mean(open_share)) * of["shut"] for of in (macs, times)]
    elif name == "gates removed":
        return [f"{macs['open'] / 1000:.0f}", "-"]
    else:
        width = (
            equals[name.removeprefix("static, ").replace(" ", "_").lower()] if name.startswith("static, ") else WIDTH
        )
        share = 1 / EVERY if name.startswith("mask held") else 1.0
        both = [share * of[f"width {width}"] for of in (macs, times)]
    return [f"{both[0] / 1000:.0f}", f"{both[1]:.4f}"]


def ovrl_of(folders: dict[str, Path], kept: Path) -> dict[str, dict[str, float]]:
    """DNSMOS OVRL of the noisy files, by set."""
    if not kept.exists():
        metric = KNOWN["dnsmos_ovrl"]
        found = {
            name: {f.stem: metric(read_audio(f), read_audio(f)) for f in sorted((folder / "noisy").iterdir())}
            for name, folder in folders.items()
        }
        write_json(kept, found)
    return json.loads(kept.read_text())


def load_table(found: dict[str, list[dict[str, Any]]], ovrl: dict[str, dict[str, float]]) -> None:
    row("student", "valid", "test", *(f"{snr} dB" for snr in SNRS_DB), "Spearman, valid", "Spearman, test")
    row(*["---"] * (5 + len(SNRS_DB)))
    for name in GATED:
        loads = [one["loads"] for one in found[name]]
        sets = ["valid", "test", *(f"{snr} dB" for snr in SNRS_DB)]
        shown = [spread([mean(one[part].values()) for one in loads]) for part in sets]
        ranks = [spread([rank(one[part], ovrl[part]) for one in loads]) for part in ("valid", "test")]
        row(name, *shown, *ranks)


def wanted(ovrl: np.ndarray, pool: np.ndarray) -> float:
    """Mean ratio that clips with ``ovrl`` want, rescaled by what brings the whole pool to the target."""
    low, high = np.percentile(pool, [5, 95])
    raw, mean_of_pool = (
        np.clip(0.1 + 0.8 * (high - values) / (high - low), 0.1, 0.9).mean() for values in (ovrl, pool)
    )
    return float(raw * TARGET / mean_of_pool)  # the pool's mean is above the target: distances to 0 shrink


def rank(load: dict[str, float], ovrl: dict[str, float]) -> float:
    files = sorted(load)
    return float(spearmanr([load[file] for file in files], [ovrl[file] for file in files]).statistic)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
