"""What a gate costs and saves in time: networks with gates open, shut, and their static twins, in turn.

    python -m benchmarks.gate_latency

One streamed frame per call, onnxruntime on one thread of this machine, untrained weights, real audio (the clips of
``sekd measure``). The load of the last column is the one below which the gated network is faster on average than its
static twin; above 100 % it always is, and below 0 % never.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.interleaved import burst_ms
from search.cost import count_macs
from sekd.export import export_onnx
from sekd.models import CruseConfig, Enhancer, FtfConfig, NetworkConfig, build
from sekd.models.gates import GateConfig
from sekd.onnx_gates import ALWAYS_OPEN, ALWAYS_SHUT, with_threshold

NETWORKS: dict[str, NetworkConfig] = {
    **{f"CRUSE width {width}": CruseConfig(width=width) for width in (8, 16, 24, 32, 48)},
    "HyST-Net": FtfConfig(order="hyst"),
    "FTF-Net": FtfConfig(),
}
SHARES = (0.25, 0.5)
FRAMES = 300
ROUNDS = 7


class Forms(NamedTuple):
    """Nodes and files of one gated network."""

    open_nodes: int
    shut_nodes: int
    open_macs: int
    shut_macs: int


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        forms: dict[str, Forms] = {}
        for name, config in NETWORKS.items():
            files[name] = export_onnx(network(config), Path(folder) / f"{name}.onnx").path
            for share in SHARES:
                key = f"{name}, {share:g} static"
                gated = network(config.model_copy(update={"gate": GateConfig(static_share=share)}))
                forms[key] = written(gated, key, Path(folder), files)
        medians = {name: float(np.median(times)) for name, times in burst_ms(files, FRAMES, ROUNDS).items()}
    row("network", "kMACs open / shut", "nodes open / shut", "twin, ms", "open", "shut", "shut / open", "pays below")
    row(*["---"] * 8)
    for key, form in forms.items():
        twin, opened, shut = (medians[name] for name in (key.split(",")[0], f"{key} open", f"{key} shut"))
        counted = f"{form.open_macs / 1000:.0f} / {form.shut_macs / 1000:.0f}", f"{form.open_nodes} / {form.shut_nodes}"
        pays = (twin - shut) / (opened - shut)
        row(key, *counted, f"{twin:.3f}", f"{opened:.3f}", f"{shut:.3f}", f"{shut / opened:.2f}", f"{pays:.0%}")


def network(config: NetworkConfig) -> Enhancer:
    torch.manual_seed(0)
    return build(config).eval()


def written(gated: Enhancer, key: str, folder: Path, files: dict[str, Path]) -> Forms:
    """Adds both forms to ``files``."""
    export = export_onnx(gated, folder / f"{key}.onnx")
    for form, threshold in (("open", ALWAYS_OPEN), ("shut", ALWAYS_SHUT)):
        files[f"{key} {form}"] = folder / f"{key} {form}.onnx"
        with_threshold(export.path, files[f"{key} {form}"], threshold)
    outer = export.nodes - sum(max(pair) for pair in export.branches)
    nodes = [outer + sum(pair[k] for pair in export.branches) for k in (0, 1)]
    return Forms(nodes[0], nodes[1], macs(gated, True), macs(gated, False))


def macs(gated: Enhancer, gates: bool) -> int:
    """Of one frame."""
    with gated.held(gates):
        return count_macs(gated, gated.example(), gated.initial_state(), method="step").total


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
