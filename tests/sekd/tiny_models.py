"""Signals and streaming ONNX files small enough to reason about, for the tests beside this file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

STATES = ("conv_cache", "tra_cache", "inter_cache")


def speech_like(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Harmonics of a wandering pitch, in syllables with pauses between words; float32 (sample,)."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6))) / rate
    tilt = [np.sin(k * phase + rng.uniform(0, 6)) / k**0.7 for k in range(1, min(30, rate // 400))]
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t), 0, 1) * (np.sin(2 * np.pi * 0.6 * t + 0.5) > -0.6)
    return (0.05 * syllables * np.sum(tilt, axis=0)).astype(np.float32)


def noise(samples: int, level: float = 0.01, seed: int = 1) -> np.ndarray:
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def gain_onnx(
    path: Path,
    *,
    gain: float = 1.0,
    growth: float = 0.0,
    bias: float = 0.0,
    n_fft: int = 512,
    hop: int = 256,
    window_type: str = "hann_sqrt",
    sample_rate: int = 16_000,
    without: tuple[str, ...] = (),
    rename: dict[str, str] | None = None,
    state_out_size: int = 1,
) -> Path:
    """A contract-true streaming model: enh = mix * (gain + growth * frames so far) + bias.

    ``without`` drops metadata keys, ``rename`` renames tensors, ``state_out_size`` breaks a state.
    """
    named = {name: (rename or {}).get(name, name) for name in ("mix", "enh", *STATES)}
    shape = [1, n_fft // 2 + 1, 1, 2]
    constants = {"gain": gain, "growth": growth, "bias": bias}
    nodes = [
        helper.make_node("Add", [named["conv_cache"], "gain"], ["factor"]),
        helper.make_node("Mul", [named["mix"], "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], [named["enh"]]),
        helper.make_node("Add", [named["conv_cache"], "growth"], [f"{STATES[0]}_out"]),
        helper.make_node("Identity", [named["tra_cache"]], [f"{STATES[1]}_out"]),
        helper.make_node("Expand", [named["inter_cache"], "size"], [f"{STATES[2]}_out"]),
    ]
    values = [helper.make_tensor(k, TensorProto.FLOAT, [1, 1], [v]) for k, v in constants.items()]
    values.append(helper.make_tensor("size", TensorProto.INT64, [2], [1, state_out_size]))
    sizes = {name: [1, 1] for name in STATES}
    inputs = [_info(named["mix"], shape), *(_info(named[name], sizes[name]) for name in STATES)]
    sizes["inter_cache"] = [1, state_out_size]
    outputs = [_info(named["enh"], shape), *(_info(f"{name}_out", sizes[name]) for name in STATES)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    metadata = {
        "model_type": "gtcrn", "sample_rate": sample_rate, "n_fft": n_fft, "hop_length": hop,
        "window_length": n_fft, "window_type": window_type, "version": 1,
    }  # fmt: skip
    helper.set_model_props(model, {k: str(v) for k, v in metadata.items() if k not in without})
    onnx.save(model, path)
    return path


def wave_onnx(
    path: Path,
    *,
    gain: float = 0.5,
    shape: tuple[str | int, ...] = ("batch", "sample"),
    drop: int = 0,
    operator: tuple[str, str] = ("", "Mul"),
    metadata: dict[str, str] | None = None,
) -> Path:
    """Whole signals: out = in * gain, without the last ``drop`` samples; ``operator`` is the node's domain and type."""
    ends = helper.make_tensor("ends", TensorProto.INT64, [1], [-drop if drop else 2**31])
    numbers = [helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("zero", 0), ("axis", 1))]
    nodes = [
        helper.make_node(operator[1], ["noisy", "gain"], ["scaled"], domain=operator[0]),
        helper.make_node("Slice", ["scaled", "zero", "ends", "axis"], ["enhanced"]),
    ]
    constants = [helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]), ends, *numbers]
    inputs, outputs = [_info("noisy", list(shape))], [_info("enhanced", [None] * len(shape))]
    graph = helper.make_graph(nodes, "wave", inputs, outputs, constants)
    domains = [helper.make_opsetid("", 17), *([helper.make_opsetid(operator[0], 1)] if operator[0] else [])]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def _info(name: str, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def lag(a: np.ndarray, b: np.ndarray) -> int:
    """Samples by which ``a`` trails ``b``: the peak of their cross-correlation."""
    n = len(a) + len(b)
    correlation = np.fft.irfft(np.fft.rfft(a, n) * np.conj(np.fft.rfft(b, n)), n)
    peak = int(np.argmax(correlation))
    return peak if peak < n // 2 else peak - n
