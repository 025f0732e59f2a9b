"""Students with gates: the worst frame against the expected one, in cost, latency, budgets, fronts and tables."""

import io

import onnx
import pytest
import torch
from definitions import definition, recorded, write_definition
from drive_table import drive
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from records import DEVICE, latency, student
from rich.console import Console

import search.network_latency
from search.card import card_text
from search.certificate import certify
from search.cli import main
from search.cost import cost_of, with_loads
from search.deployed import blank
from search.device import load_device
from search.gated_latency import of_each_frame, with_expectation
from search.latency import Latency, Spread
from search.network_latency import network_latency
from search.ranking import share_latency
from search.record import Cost, Score, TrialRecord
from search.report_tables import gate_table
from search.results import Results, open_results
from search.rethreshold import tried_at
from search.run_folder import keep_definition
from search.selection import fits, foreseeable, front_of
from search.space import THRESHOLD
from search.tables import columns_of, front_table
from sekd.errors import InputError
from sekd.models import CruseConfig, build
from sekd.onnx_gates import threshold_of

SMALL = {"channels": [4, 8], "gru_groups": 2, "bands": 16}
COST = Cost(
    parameters=1000, macs_per_s=8e6, weight_bytes=4096, state_bytes=512, algorithmic_latency_ms=32.0,
    macs_shut_per_s=3e6, gate_macs_per_s=(5e6,), graph_nodes=300, graph_nodes_shut=200,
)  # fmt: skip
THRESHOLDS = [0.1, 0.3, 0.5, 0.7, 0.9]
SWEPT = {"base/student": {"gate": {}}, f"space/{THRESHOLD}": {"float": [0.1, 0.9], "step": 0.2, "free": True}}


def at(threshold, number=0, load=None, ms=1.0, **fields):
    """A trained student with gates, open in ``1 - threshold`` of the frames; shut it takes half as long."""
    cost = with_loads(COST, [1 - threshold if load is None else load], threshold=threshold, mix="valid-abc")
    times = latency(ms) | {"shut": {"p50_ms": ms / 2}, "flags": [], "network": "net"}
    known = {"cost": cost, "variant": {THRESHOLD: threshold}, "variant_id": f"v{number}-{threshold}"}
    return student(number, **(known | {"latency": {DEVICE: with_expectation(times, cost)}} | fields))


@pytest.mark.parametrize("scope", ["frame", "module"])
def test_the_worst_frame_is_counted_and_each_gate_is_worth_what_it_adds(scope):
    model = build(CruseConfig(**SMALL, gate={"scope": scope})).eval()
    cost = cost_of(model)
    assert cost.macs_per_s - cost.macs_shut_per_s == sum(cost.gate_macs_per_s) and cost.gated
    assert len(cost.gate_macs_per_s) == (1 if scope == "frame" else 4)
    assert model.forced is None and cost.expected_macs_per_s is None
    for load, expected in ((1.0, cost.macs_per_s), (0.0, cost.macs_shut_per_s)):
        loaded = with_loads(cost, [load] * len(cost.gate_macs_per_s), threshold=0.5, mix="valid-abc")
        assert (loaded.expected_macs_per_s, loaded.load, loaded.load_mix) == (expected, load, "valid-abc")
    one = with_loads(cost, [0.25, *[1.0] * (len(cost.gate_macs_per_s) - 1)], threshold=0.5, mix="m")
    assert one.expected_macs_per_s == cost.macs_per_s - 0.75 * cost.gate_macs_per_s[0]


def test_without_gates_the_worst_frame_is_the_expected_one():
    record = student(0, ms=1.5)
    assert cost_of(build(CruseConfig(**SMALL))).macs_shut_per_s is None
    assert record.value("expected_macs_per_s", DEVICE) == record.value("macs_per_s", DEVICE) == 2.5e6
    assert record.value("expected_latency_ms", DEVICE) == record.value("latency_ms", DEVICE) == 1.5
    assert with_expectation(record.latency[DEVICE], record.cost) is record.latency[DEVICE]
    old = {key: value for key, value in record.cost.model_dump().items() if "gate" not in key and "load" not in key}
    assert Cost.model_validate({k: v for k, v in old.items() if not k.startswith(("expected", "macs_shut"))}) == (
        record.cost
    )


def test_deadlines_are_of_the_worst_frame_and_energy_of_the_expected_one():
    record = at(0.75, ms=2.0)
    figures = {name: record.value(name, DEVICE) for name in ("latency_ms", "total_latency_ms", "macs_per_s")}
    assert figures == {"latency_ms": 2.0, "total_latency_ms": 34.0, "macs_per_s": 8e6}
    assert record.value("expected_latency_ms", DEVICE) == 0.25 * 2.0 + 0.75 * 1.0
    assert record.value("expected_macs_per_s", DEVICE) == 3e6 + 0.25 * 5e6
    untrained = record.model_copy(update={"cost": COST, "latency": {DEVICE: latency(2.0)}})
    assert untrained.value("expected_latency_ms", DEVICE) is untrained.value("expected_macs_per_s", DEVICE) is None


def test_what_is_expected_rejects_nothing_before_training():
    limits = {"macs_per_s": 1e7, "expected_macs_per_s": 1.0, "expected_latency_ms": 1e-3}
    assert foreseeable(limits, COST) == {"macs_per_s": 1e7}
    assert foreseeable(limits, student(0).cost) == limits
    assert [v.key for v in fits(at(0.5), limits, DEVICE)] == ["expected_macs_per_s", "expected_latency_ms"]


def gated(job) -> TrialRecord:
    """A network whose gates open less and that sounds worse, the higher their threshold."""
    plain = recorded(job.model_copy(update={"limits": {}}))
    cost = plain.cost.model_copy(
        update={"macs_shut_per_s": plain.cost.macs_per_s / 2, "gate_macs_per_s": (plain.cost.macs_per_s / 2,)}
    )
    found = []
    for setting in job.sweep:
        threshold = setting[THRESHOLD]
        known = with_loads(cost, [1 - threshold], threshold=threshold, mix="valid-v")
        scores = {"pesq_wb": Score(mean=plain.score("pesq_wb") - 0.05 * threshold, n=2)}
        found.append(blank(job, "COMPLETE", setting).model_copy(update={"cost": known, "scores": scores}))
    return blank(job, "COMPLETE").model_copy(update={"variants": found, "seconds": plain.seconds})


def test_thresholds_are_points_of_a_front_that_was_trained_once_for_all(tmp_path):
    changes = {
        **SWEPT,
        "objectives/cost": ["expected_macs_per_s"],
        "budget": {"expected_macs_per_s": 12e6},
        "trials": 6,
    }
    path = write_definition(tmp_path, changes)
    tuner, backend = drive(tmp_path, lookup=gated)
    keep_definition(path, tmp_path / "run")
    results = open_results(str(tmp_path / "run"))
    assert len(backend.submitted) == len({job.trial_id for job in backend.submitted}) == 6
    assert all("gate.threshold" not in key for job in backend.submitted for key in job.params)
    assert [setting[THRESHOLD] for setting in backend.submitted[0].sweep] == THRESHOLDS
    assert len(results.records) == 5 * len(results.trials)
    shown = {record.variant[THRESHOLD] for record in results.front}
    assert len(shown) > 2 and all(r.value("expected_macs_per_s", DEVICE) <= 12e6 for r in results.front)
    over = [record for record in results.records if record.status == "INFEASIBLE"]
    assert over and {v.key for record in over for v in record.violations} == {"expected_macs_per_s"}
    by_worst = front_of(results.records, ["pesq_wb", "macs_per_s"], {}, DEVICE)
    assert {record.variant[THRESHOLD] for record in by_worst} == {0.1}, "of the worst frame all are one"


def test_expectations_are_objectives_and_limits(tmp_path):
    names = ["expected_latency_ms", "expected_macs_per_s"]
    changes = {"objectives/cost": names, "budget": dict.fromkeys(names, 5.0), "device": "x86-1core"}
    study = definition(tmp_path, changes)
    assert study.objectives.directions == ["maximize", "minimize", "minimize"]
    assert study.budget.limits() == {"expected_macs_per_s": 5.0, "expected_latency_ms": 5.0}


def file_with_gates(path, threshold=0.5, weight=1.0):
    """The least that has a threshold: the state of the gates is whether the input is above it."""
    spec = [make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1]) for name in ("x", "y")]
    nodes = [make_node("Mul", ["x", "weight"], ["scaled"]), make_node("Add", ["scaled", "gate_threshold"], ["y"])]
    weights = [
        onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [], [value])
        for name, value in (("weight", weight), ("gate_threshold", threshold))
    ]
    graph = make_graph(nodes, "gated", spec[:1], spec[1:], weights)
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 17)], ir_version=8), path)
    return path


def timed(path, device, *, level=None, lock=None, samples=None):
    """Open at a threshold of 0 a frame takes 2 ms, shut at 2 it takes 1 ms; at any other it must not be timed."""
    ms = {0.0: 2.0, 2.0: 1.0}[threshold_of(path)]
    spread = Spread(p50_ms=ms, p50_upper_ms=1.1 * ms, p95_ms=None, p95_upper_ms=None, p99_ms=None, n=9)
    return Latency(
        kind="measured", source="local", p50_ms=ms, hop_ms=16.0, n=9, burst=spread, level=level and level.name,
        flags=[] if ms > 1 else ["noisy"],
    )  # fmt: skip


def test_both_frames_are_timed_once_for_all_thresholds(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        search.network_latency, "measure", lambda path, *a, **k: calls.append(k["samples"].name) or timed(path, *a, **k)
    )
    device = load_device("x86-1core")
    one = network_latency(file_with_gates(tmp_path / "one.onnx", 0.3), device, tmp_path / "measured")
    two = network_latency(file_with_gates(tmp_path / "two.onnx", 0.7, weight=2.0), device, tmp_path / "measured")
    assert one == two and one["network"] and (one["p50_ms"], one["shut"]["p50_ms"]) == (2.0, 1.0)
    assert [name.rsplit("-", 1)[1] for name in calls] == ["open.npz", "shut.npz"]
    assert one["samples"].endswith("-open.npz") and one["shut"]["samples"].endswith("-shut.npz")
    assert one["flags"] == one["shut"]["flags"] == ["noisy"] and one["expected_ms"] is one["load"] is None
    expected = with_expectation(one, at(0.75).cost)
    assert Latency.model_validate(expected | {"samples": None}).expected_ms == 0.25 * 2.0 + 0.75
    assert with_expectation(expected, COST)["load"] is None


def test_a_file_without_gates_is_timed_as_it_is(tmp_path):
    path = file_with_gates(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.initializer[1].name = model.graph.node[1].input[1] = "bias"
    onnx.save(model, path)
    found = of_each_frame(path, lambda file, name: Latency(kind="unmeasured", level=f"{file == path}{name}"))
    assert found.level == "True" and found.shut is None
    with pytest.raises(ValueError, match="no load and no expectation"):
        Latency(kind="unmeasured", load=0.5)


def test_a_better_latency_is_shared_and_each_load_keeps_its_own(tmp_path):
    def with_times(job):
        record = gated(job)
        variants = [v.model_copy(update={"latency": at(v.variant[THRESHOLD], ms=4.0).latency}) for v in record.variants]
        return record.model_copy(update={"variants": variants})

    write_definition(tmp_path, {**SWEPT, "trials": 1})
    tuner, _ = drive(tmp_path, lookup=with_times)
    (trial,) = [record for record in tuner.store.records() if record.duplicate_of is None][:1]
    better = {**trial.variants[0].latency[DEVICE], "p50_ms": 2.0, "shut": {"p50_ms": 1.0}, "level": "ranking"}
    ranked = trial.variants[0].model_copy(update={"latency": {DEVICE: better}})
    share_latency(trial.model_copy(update={"variants": [ranked, *trial.variants[1:]]}), tuner.store, DEVICE)
    again = tuner.store.records()[trial.number].variants
    for variant in again:
        load = 1 - variant.variant[THRESHOLD]
        assert variant.value("latency_ms", DEVICE) == 2.0
        assert variant.value("expected_latency_ms", DEVICE) == pytest.approx(1.0 + load)


def test_a_certificate_promises_the_worst_frame_and_the_load(tmp_path, monkeypatch):
    monkeypatch.setattr("search.certificate.measure", timed)
    path = file_with_gates(tmp_path / "m.onnx", 0.3)
    limits = {"latency_ms": 2.1, "expected_latency_ms": 2.0}
    made = certify(path, at(0.75), load_device("x86-1core"), limits)
    assert [promise.value for promise in made.promises] == pytest.approx([2.2, 0.25 * 2.2 + 0.75 * 1.1])
    assert [promise.kept for promise in made.promises] == [False, True]


def test_who_can_take_a_threshold():
    one, two, plain = at(0.3), at(0.5), student(2)
    assert tried_at([one, two, plain], 0.3, {}) == ([one], True)
    assert tried_at([one, two, plain], 0.4, {}) == ([one, two], False)
    assert tried_at([one, two], 0.5, {"min_pesq_wb": 1.0}) == ([two], True)
    for threshold, limits, records, words in (
        (0.4, {"min_pesq_wb": 1.0}, [one, two], "nothing was scored at gate threshold 0.4, only at 0.3, 0.5"),
        (0.5, {}, [plain], "no trained student has gates"),
        (1.5, {}, [one], "1.5 is not within 0 to 1"),
    ):
        with pytest.raises(InputError, match=words):
            tried_at(records, threshold, limits)


def test_a_threshold_is_asked_for_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path))
    path = write_definition(tmp_path)
    drive(tmp_path)
    keep_definition(path, tmp_path / "run")
    for threshold, words in (("1.2", "'1.2' is not within 0 to 1"), ("0.5", "no trained student has gates")):
        try:
            code = main(["select", str(tmp_path / "run"), "--gate-threshold", threshold, "--no-certificate"])
        except SystemExit as ended:
            code = ended.code
        out, err = capsys.readouterr()
        assert code == 2 and words in err and out == "" and err.count("\n") == 1


def test_tables_show_what_is_expected_where_there_are_gates(tmp_path):
    plain, one = student(1), at(0.75, ms=2.0)
    assert "expected_macs_per_s" not in columns_of(["pesq_wb"], [plain])
    assert {"expected_macs_per_s", "expected_latency_ms"} <= set(columns_of(["pesq_wb"], [plain, one]))
    console = Console(file=io.StringIO(), width=200)
    console.print(front_table([plain, one], ["pesq_wb"], DEVICE))
    shown = console.file.getvalue()
    assert "1.250" in shown and "4.25" in shown and "expected by the load on valid-abc" in shown
    assert gate_table([plain], DEVICE) == ""
    page = gate_table([plain, one], DEVICE)
    for text in ("0.75", "0.250", "valid-abc", "8.00", "3.00", "4.25", "300", "200", "2.000", "1.000", "1.250"):
        assert f"<td>{text}</td>" in page, text


def test_the_card_tells_frames_apart_and_what_was_not_scored(tmp_path):
    results = Results(definition(tmp_path), tmp_path, None, [], DEVICE, {})
    one = at(0.75, ms=2.0, latency={})
    text = card_text(results, one, {}, "a frame", "fp32", None)
    assert "| load | 0.250 | open gates, mean over the mix |" in text and "Nothing was scored" not in text
    other = at(0.6, scores={"pesq_wb": None}, latency={})
    edited = card_text(results, other, {}, "a frame", "fp32", None, scored=one)
    assert (
        "Nothing was scored at this file's gate threshold, 0.6. These are the scores of the same weights at 0.75"
        in (edited)
    )
    assert "### Gates" not in card_text(results, student(0, ms=None), {}, "a frame", "fp32", None)


def test_gates_held_for_counting_do_not_stay_held():
    torch.manual_seed(0)
    model = build(CruseConfig(**SMALL, gate={"threshold": 0.0})).eval()
    before = model(torch.ones(1, 2000))
    cost_of(model)
    assert torch.equal(model(torch.ones(1, 2000)), before)
