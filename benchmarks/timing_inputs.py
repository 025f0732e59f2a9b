"""Makes what every measurement uses: ``search/agent/audio.npz`` and ``search/agent/canary.onnx``.

    python -m benchmarks.timing_inputs

Both lie in the repository, since a device that is measured can make neither. The audio is of the embedded corpus.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from search.agent.signals import SAMPLE_RATE
from sekd.audio import read_audio
from sekd.demo_corpus import make_demo_corpus

AGENT = Path(__file__).parents[1] / "search" / "agent"
LEVEL_DBFS = -25.0
SNR_DB = 5.0
UNITS = 64  # of the canary: about as long a call as that of a small student


def loudest_second(samples: np.ndarray) -> np.ndarray:
    """The second of ``samples`` with the most energy, at -25 dBFS."""
    energy = np.cumsum(np.concatenate([[0.0], samples.astype(np.float64) ** 2]))
    start = int(np.argmax(energy[SAMPLE_RATE:] - energy[:-SAMPLE_RATE]))
    second = samples[start : start + SAMPLE_RATE].astype(np.float64)
    return second * 10 ** (LEVEL_DBFS / 20) / np.sqrt(np.mean(second**2))


def timing_audio() -> dict[str, np.ndarray]:
    """One second of each kind as int16; silence needs no storing."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus = make_demo_corpus(Path(scratch) / "corpus", seed=0, minutes=1.0).parent
        clean = sorted((corpus / "clean").rglob("*.flac"))
        babble = sorted((corpus / "noise").rglob("*babble*.flac"))
        noise = sorted((corpus / "noise").rglob("*modulated*.flac"))
        speech, other = (loudest_second(read_audio(clean[place])) for place in (0, -1))
        parts = {
            "speech": speech,
            "speech_in_noise": other + loudest_second(read_audio(noise[0])) * 10 ** (-SNR_DB / 20),
            "babble": loudest_second(read_audio(babble[0])),
        }
    return {kind: np.round(np.clip(part, -1, 1) * 32767).astype(np.int16) for kind, part in parts.items()}


def canary() -> onnx.ModelProto:
    """Half matrix products (a GRU), half launches (small nodes), as a small student; its weights are constants."""
    shapes = {"w": (1, 3 * UNITS, UNITS), "r": (1, 3 * UNITS, UNITS), "p": (UNITS, UNITS)}
    nodes = [
        helper.make_node(
            "ConstantOfShape", [f"{name}_shape"], [name],
            value=helper.make_tensor(f"{name}_value", TensorProto.FLOAT, [1], [0.01]),
        )
        for name in shapes
    ]  # fmt: skip
    nodes.append(helper.make_node("GRU", ["mix", "w", "r", "", "", "state"], ["", "state_out"], hidden_size=UNITS))
    last = "state_out"
    for k in range(8):
        nodes += [
            helper.make_node("MatMul", [last, "p"], [f"product{k}"]),
            helper.make_node("Sigmoid", [f"product{k}"], [f"gate{k}"]),
            helper.make_node("Mul", [f"gate{k}", last], [f"gated{k}"]),
            helper.make_node("Tanh", [f"gated{k}"], [f"bounded{k}"]),
            helper.make_node("Add", [f"bounded{k}", last], [f"sum{k}"]),
        ]
        last = f"sum{k}"
    nodes.append(helper.make_node("Identity", [last], ["enh"]))
    tensor = [1, 1, UNITS]
    graph = helper.make_graph(
        nodes,
        "canary",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor) for name in ("mix", "state")],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, tensor) for name in ("enh", "state_out")],
        [helper.make_tensor(f"{name}_shape", TensorProto.INT64, [len(shape)], shape) for name, shape in shapes.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main() -> None:
    np.savez_compressed(AGENT / "audio.npz", **timing_audio())  # type: ignore[arg-type]
    model = canary()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, AGENT / "canary.onnx")
    for name in ("audio.npz", "canary.onnx"):
        print(f"{AGENT / name}: {(AGENT / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
