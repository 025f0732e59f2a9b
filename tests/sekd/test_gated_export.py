"""Networks with gates as ONNX: one branch runs, weights lie there once, and both forms are torch's."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from family_contract import rms, steps_of, untrained
from gated_networks import open_half_the_time
from test_export import after_its_reflection, run_in_sherpa
from tiny_models import gain_onnx, noise, speech_like

from search.cost import count_macs
from search.graphs.graph import graph_facts
from sekd.deployment import DeployConfig
from sekd.enhance import enhance_file
from sekd.errors import InputError
from sekd.export import Export, describe, export_onnx
from sekd.export_check import decided, export_error, forced
from sekd.models import CruseConfig, Enhancer
from sekd.models.base import STATE_NAMES, State
from sekd.models.gates import GateConfig
from sekd.onnx_gates import ALWAYS_OPEN, ALWAYS_SHUT, gates_of, measured_load, one_branch, threshold_of, with_threshold
from sekd.onnx_graph import branches, constants_of, ifs, stored
from sekd.quantize import quantize_onnx, write_deployed
from sekd.streaming import OnnxEnhancer

SCOPES = ("frame", "module")
OLD_PYTHON = Path("/work/ort-old/bin/python")  # with the oldest onnxruntime that we name


def config_of(scope: str) -> CruseConfig:
    return CruseConfig(gate=GateConfig(scope=scope, threshold=0.5))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def networks() -> dict[str, Enhancer]:
    """Whose gates switch in the stream of an ``export_error``, noise of levels like these."""
    torch.manual_seed(0)
    levels = 10 ** (-2 * torch.sin(torch.linspace(0, 6, 200)).square())
    found = {scope: untrained(config_of(scope)) for scope in SCOPES}
    for network in found.values():
        open_half_the_time(network, levels[:, None] * torch.randn(1, network.n_fft // 2 + 1, 200, 2))
    return found


@pytest.fixture(scope="module")
def exports(networks, tmp_path_factory) -> dict[str, Export]:
    folder = tmp_path_factory.mktemp("gated")
    return {scope: export_onnx(network, folder / f"{scope}.onnx") for scope, network in networks.items()}


@pytest.fixture(scope="module", params=SCOPES)
def network(request, networks) -> Enhancer:
    return networks[request.param]


@pytest.fixture(scope="module")
def export(network, exports) -> Export:
    return exports[network.config.gate.scope]


def gates_in(export: Export) -> int:
    return len(export.branches)


def test_one_choice_for_all_or_one_for_each(exports):
    assert len(exports["frame"].branches) == 1
    assert len(exports["module"].branches) == 8  # encoder blocks, the GRU, decoder blocks but the last
    for export in exports.values():  # at rest, a GRU of groups has other nodes in the place of those that it saves
        assert all(opened >= shut for opened, shut in export.branches)
        assert sum(opened for opened, _ in export.branches) > sum(shut for _, shut in export.branches)


def test_the_file_keeps_to_the_contract_and_says_what_it_has(network, export):
    model = onnx.load(export.path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)] and model.ir_version == 8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert (metadata["model_type"], metadata["gate_state"]) == ("gtcrn", "tra_cache")
    assert (metadata["gates"], metadata["gate_scope"]) == (str(gates_in(export)), network.config.gate.scope)
    session = onnxruntime.InferenceSession(export.path, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["mix", *STATE_NAMES]
    shapes = [each.shape for each in (*session.get_inputs(), *session.get_outputs())]
    assert all(isinstance(size, int) for shape in shapes for size in shape)


def test_a_network_without_gates_has_no_branches(tmp_path):
    export = export_onnx(untrained(CruseConfig()), tmp_path / "static.onnx")
    assert export.branches == () and "If" not in export.operators
    assert not {"gates", "gate_scope", "gate_state"} & {each.key for each in onnx.load(export.path).metadata_props}


def test_weights_are_stored_once(network, export):
    model = onnx.load(export.path)
    assert network.weight_bytes() <= export.weight_bytes < 1.02 * network.weight_bytes()
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in stored(model.graph)]
    weights = Counter((array.shape, array.tobytes()) for array in arrays if array.dtype.kind == "f" and array.size > 64)
    assert len(weights) > 20 and max(weights.values()) == 1
    inside = [tensor for node in ifs(model.graph) for branch in branches(node) for tensor in branch.initializer]
    assert {tensor.data_type for tensor in inside} <= {onnx.TensorProto.INT64}  # shapes and axes


def test_description_counts_the_dearest_branches(export):
    facts = graph_facts(export.path)
    assert describe(export.path) == export
    assert (export.nodes, export.weight_bytes) == (facts.nodes, facts.weight_bytes)
    assert {"If", "Conv", "ConvTranspose", "GRU"} <= set(export.operators)


def test_facts_of_a_graph_are_those_of_its_open_form(network, export):
    facts = graph_facts(export.path)
    with network.held(True):
        open_macs = count_macs(network, network.example(), network.initial_state(), method="step", strict=False).total
    assert (facts.macs, facts.coverage) == (open_macs, 1.0)
    assert facts.activation_bytes is not None


def test_the_hash_knows_structure_and_not_weights(networks, exports, tmp_path):
    hashes = {scope: graph_facts(export.path).graph_hash for scope, export in exports.items()}
    assert hashes["frame"] != hashes["module"]
    again = untrained(config_of("frame"))
    with torch.no_grad():
        for parameter in again.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert graph_facts(export_onnx(again, tmp_path / "again.onnx").path).graph_hash == hashes["frame"]
    with_threshold(exports["frame"].path, tmp_path / "edited.onnx", 0.7)
    assert graph_facts(tmp_path / "edited.onnx").graph_hash == hashes["frame"]


def test_equal_to_torch_while_gates_switch(network, export):
    found = forced(network, export.path, steps=1000)
    assert found.error < 1e-4 and found.switches >= 100 * gates_in(export)


def test_the_file_decides_as_torch_does(network, export):
    found = decided(network, export.path, steps=200)
    assert found.error < 1e-4 and found.misjudged == 0 and found.switches >= gates_in(export)


def test_a_file_of_another_policy_is_noticed(networks, exports, tmp_path):
    with_threshold(exports["frame"].path, tmp_path / "other.onnx", 0.6)
    assert decided(networks["frame"], tmp_path / "other.onnx").misjudged > 0
    assert export_error(networks["frame"], tmp_path / "other.onnx", steps=100) == float("inf")


@pytest.mark.parametrize("open", [True, False])
def test_forced_by_the_threshold_or_alone_a_form_is_torchs(network, export, open, tmp_path):
    with_threshold(export.path, tmp_path / "forced.onnx", ALWAYS_OPEN if open else ALWAYS_SHUT)
    one_branch(export.path, tmp_path / "alone.onnx", open)
    with_threshold(tmp_path / "alone.onnx", tmp_path / "alone.onnx", ALWAYS_OPEN if open else ALWAYS_SHUT)
    noisy = speech_like(1.0) + noise(16_000)
    with network.held(open), torch.no_grad():
        expected = network(torch.from_numpy(noisy)[None])[0].numpy()
    for name in ("forced", "alone"):
        enhanced = OnnxEnhancer(tmp_path / f"{name}.onnx").enhance(noisy)
        assert np.abs(enhanced - expected).max() < 1e-4 * rms(noisy)


def test_one_branch_alone_has_its_nodes_and_no_choice(export, tmp_path):
    counts = []
    for open in (True, False):
        one_branch(export.path, tmp_path / "alone.onnx", open)
        alone = describe(tmp_path / "alone.onnx")
        assert alone.branches == () and "If" not in alone.operators
        counts.append(graph_facts(alone.path))
    opened, shut = counts
    dearer = sum(opened - shut for opened, shut in export.branches)
    assert opened.nodes - shut.nodes == dearer
    assert shut.macs < 0.6 * opened.macs


def executed(path: Path, folder: Path, frames: int = 3) -> Counter[str]:
    """Nodes that onnxruntime ran, by the branch that their name says."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(folder / "profile")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feeds = {each.name: np.ones(each.shape, np.float32) for each in session.get_inputs()}
    for _ in range(frames):
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    names = [event["name"] for event in events if event["name"].endswith("_kernel_time")]
    return Counter("open" if "_open/" in name else "shut" if "_shut/" in name else "outside" for name in names)


@pytest.mark.parametrize("threshold, runs, rests", [(ALWAYS_OPEN, "open", "shut"), (ALWAYS_SHUT, "shut", "open")])
def test_only_the_branch_that_is_taken_runs(export, threshold, runs, rests, tmp_path):
    with_threshold(export.path, tmp_path / "forced.onnx", threshold)
    ran = executed(tmp_path / "forced.onnx", tmp_path)
    assert ran[runs] > 3 * 100 and ran[rests] == 0


def test_onnxruntime_folds_what_depends_on_weights_alone(export, tmp_path):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(export.path, options, providers=["CPUExecutionProvider"])
    graph, optimised = (onnx.load(path).graph for path in (export.path, tmp_path / "optimised.onnx"))
    folded = {name for node in graph.node for name in node.output} & constants_of(graph)
    assert len(folded) > 100 and not folded & {name for node in optimised.node for name in node.output}


def test_the_threshold_can_be_read_and_edited(export, tmp_path):
    assert threshold_of(export.path) == 0.5
    before = {path: path.read_bytes() for path in (export.path,)}
    with_threshold(export.path, tmp_path / "edited.onnx", 0.25)
    assert threshold_of(tmp_path / "edited.onnx") == 0.25
    assert {path: path.read_bytes() for path in before} == before


def test_files_without_gates_have_no_threshold(tmp_path):
    path = gain_onnx(tmp_path / "gain.onnx")
    assert threshold_of(path) is None
    for refused in (
        lambda: with_threshold(path, tmp_path / "out.onnx", 0.5),
        lambda: one_branch(path, tmp_path / "out.onnx", True),
        lambda: measured_load(path, []),
    ):
        with pytest.raises(InputError, match="a network without gates$"):
            refused()
    assert not (tmp_path / "out.onnx").exists()


@torch.no_grad()
def test_the_load_is_the_mean_of_each_gate(network, export, tmp_path):
    noisy = speech_like(1.0) + noise(16_000)
    (load, silence) = measured_load(export.path, [noisy, np.zeros(700, np.float32)])
    assert len(load) == len(silence) == gates_in(export)
    assert all(0 <= share <= 1 for share in load)
    with network.watched() as seen:
        whole = steps_of(network, noisy).whole[:, :, : -(-len(noisy) // network.hop)]
        network.frames(whole, network.initial_state())
    assert np.allclose(load, seen[0][0].mean(1).numpy(), atol=2.5 / whole.shape[2])  # a frame or two are rounding
    for threshold, share in ((ALWAYS_OPEN, 1.0), (ALWAYS_SHUT, 0.0)):
        with_threshold(export.path, tmp_path / "forced.onnx", threshold)
        assert measured_load(tmp_path / "forced.onnx", [noisy]) == [[share] * gates_in(export)]


def test_the_last_values_of_a_state_are_the_gates(network, export):
    session = onnxruntime.InferenceSession(export.path, providers=["CPUExecutionProvider"])
    state = network.initial_state()
    noisy = torch.ones_like(network.example())
    feeds = {name: part.numpy() for name, part in zip(STATE_NAMES, state, strict=True)}
    _, *after = session.run(None, {"mix": noisy.numpy(), **feeds})
    with torch.no_grad(), network.watched() as seen:
        network.step(noisy, State(*state))
    assert list(gates_of(dict(zip(STATE_NAMES, after, strict=True)), gates_in(export))) == list(seen[0][0, :, 0])


def test_only_floats_are_deployed(networks, exports, tmp_path):
    message = '^deploy.dtype = "int8_dynamic": a network with gates is deployed in "fp32" only$'
    deploy = DeployConfig(dtype="int8_dynamic")
    with pytest.raises(InputError, match=message):
        write_deployed(networks["frame"], deploy, tmp_path / "int8.onnx")
    with pytest.raises(InputError, match=message):
        quantize_onnx(exports["frame"].path, deploy, tmp_path / "int8.onnx")
    assert write_deployed(networks["frame"], DeployConfig(), tmp_path / "fp32.onnx").branches


def test_files_are_enhanced_as_by_any_network(exports, tmp_path):
    import soundfile

    soundfile.write(tmp_path / "noisy.wav", speech_like(0.5), 16_000)
    summary = enhance_file(OnnxEnhancer(exports["frame"].path), tmp_path / "noisy.wav", tmp_path / "out.wav")
    assert summary.frames == 8000


def test_sherpa_onnx_runs_it_offline_and_online(export, tmp_path):
    pytest.importorskip("sherpa_onnx")
    noisy = speech_like(1.024) + noise(16_384, 0.003)
    found = run_in_sherpa(export.path, noisy, tmp_path, online=True)
    ours, inside = OnnxEnhancer(export.path), slice(512, 16_000 - 512)
    tolerance = 1e-4 * rms(noisy)
    assert np.abs(found["offline"][inside] - after_its_reflection(ours, noisy)[inside]).max() < tolerance
    if "online" in found:
        assert np.abs(found["online"][inside] - ours.enhance(noisy)[inside]).max() < tolerance


OLD = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {each.name: np.zeros(each.shape, np.float32) for each in session.get_inputs()}
rng = np.random.default_rng(0)
for _ in range(50):
    feeds["mix"] = rng.standard_normal(feeds["mix"].shape).astype(np.float32)
    out, *after = session.run(None, feeds)
    feeds.update(zip(list(feeds)[1:], after))
np.save(sys.argv[2], out)
"""


@pytest.mark.skipif(not OLD_PYTHON.exists(), reason="no old onnxruntime here")
def test_an_old_onnxruntime_computes_the_same(export, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = ["-c", OLD, str(export.path)]
    subprocess.run([OLD_PYTHON, *command, tmp_path / "old.npy"], check=True, timeout=60)
    monkeypatch.setattr("sys.argv", ["", str(export.path), str(tmp_path / "new.npy")])
    exec(OLD, {})
    assert np.allclose(np.load(tmp_path / "old.npy"), np.load(tmp_path / "new.npy"), atol=1e-4)
