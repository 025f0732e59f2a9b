"""One real, tiny training of a student with gates, tried at several thresholds: from its gate to a package."""

import json
import tomllib

import pytest
from definitions import write_definition
from test_gates import timed
from test_swept_training import with_baseline

import search.network_latency
import sekd.export_check
from search.backends.table import TableBackend
from search.choose import choose
from search.cli import main
from search.objective import run_trial
from search.record import UNSCORED
from search.results import open_results
from search.run_folder import driving, keep_definition
from search.space import THRESHOLD
from search.study import read_study
from search.tuner import Tuner
from search.variants import model_file
from search.view import View
from sekd.checkpoint import hash_of_weights, load_model
from sekd.data import DataConfig
from sekd.errors import InputError
from sekd.onnx_gates import threshold_of
from sekd.preparation import prepare

THRESHOLDS = [0.0, 1.0]
STUDY = {
    "teacher": None, "trials": 1, "device": "x86-1core", "also_on": ["near.toml"],
    "objectives/cost": ["expected_latency_ms", "expected_macs_per_s"], "budget": {"expected_macs_per_s": 5e6},
    "base/distill": {"schedule": {"kind": "supervised"}}, "base/student": {"gate": {}},
    "space": {"student.width": {"choice": [4]}, THRESHOLD: {"choice": THRESHOLDS, "free": True}},
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a search of one trial."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("SEKD_HOME", str(home))
        patch.delenv("SEKD_CACHE", raising=False)
        patch.setattr(search.network_latency, "measure", timed)
        patch.setattr(sekd.export_check, "GATED_STEPS", 100)
        for name in ("near", "far"):
            (home / f"{name}.toml").write_text(f'name = "{name}"\ndescription = "for tests"\nlatency = "local"\n')
        path = write_definition(home, STUDY)
        study = read_study(path)
        folder = home / "runs" / "tiny"
        data, wanted = DataConfig.model_validate(study.data), {"pool": study.gated, "ovrl": study.reads_ovrl}
        prepared = prepare(data, None, seed=study.seed, cache=home / "cache", **wanted)
        keep_definition(path, folder)
        with_baseline(study, prepared, folder)
        backend = TableBackend(lambda job: run_trial(job, lambda stage, share: None))
        with driving(folder):
            Tuner(study, folder, backend, View(), prepared=prepared).run()
        assert len(backend.submitted) == 1
        yield folder


def test_one_training_has_a_load_at_each_threshold(run):
    results = open_results("tiny")
    records = {record.variant[THRESHOLD]: record for record in results.records}
    assert list(records) == THRESHOLDS
    mix = json.loads((run / "shared.json").read_text())["hashes"]["valid"]
    for threshold, record in records.items():
        cost = record.cost
        assert threshold_of(model_file(run, record)) == cost.gate_threshold == threshold
        assert cost.load_mix == f"valid-{mix}" and cost.loads == (cost.load,)
        assert cost.graph_nodes_shut < cost.graph_nodes and cost.macs_shut_per_s < cost.macs_per_s
        for device in ("x86-1core", "near"):
            assert record.value("latency_ms", device) == 2.0 and record.latency[device]["load"] == cost.load
            assert record.value("expected_latency_ms", device) == pytest.approx(1.0 + cost.load)
    opened, shut = (records[threshold] for threshold in THRESHOLDS)
    assert (opened.cost.load, shut.cost.load) == (1.0, 0.0)
    assert opened.value("expected_macs_per_s", "near") == opened.value("macs_per_s", "near") > 5e6
    assert shut.value("expected_macs_per_s", "near") == shut.cost.macs_shut_per_s
    assert opened.status == "INFEASIBLE" and shut.status == "COMPLETE"
    assert opened.score("si_sdr_db") != shut.score("si_sdr_db")


def test_networks_of_all_thresholds_are_one(run):
    found = [record.latency["x86-1core"] for record in open_results("tiny").records]
    assert len({latency["network"] for latency in found}) == 1
    assert {latency["level"] for latency in found} == {"ranking"}
    assert sorted(file.name.split("-")[-1] for file in (run / "measured").glob("near-*.json")) == ["screening.json"]


def test_the_threshold_that_was_chosen_is_in_every_file(run, tmp_path):
    results = open_results("tiny")
    swept = choose(results, {}, out=tmp_path / "swept", certificate=False, gate_threshold=1.0)
    assert swept.selected.scores["pesq_wb"] is not None and UNSCORED not in swept.selected.flags
    chosen = choose(results, {}, out=tmp_path / "edited", certificate=False, gate_threshold=0.9)
    assert chosen.selected.variant == {THRESHOLD: 0.9} and UNSCORED in chosen.selected.flags
    assert set(chosen.selected.document()["scores"].values()) == {None}
    assert chosen.selected.cost.gate_threshold == 0.9 and chosen.selected.cost.load is not None
    for package, threshold in ((swept.package, 1.0), (chosen.package, 0.9)):
        assert threshold_of(package / "model.onnx") == pytest.approx(threshold)
        assert tomllib.loads((package / "config.toml").read_text())["student"]["gate"]["threshold"] == threshold
        assert load_model(package / "model.safetensors").config.gate.threshold == threshold
    weights = [hash_of_weights(load_model(p / "model.safetensors")) for p in (swept.package, chosen.package)]
    assert weights[0] == weights[1]
    card = (chosen.package / "card.md").read_text()
    assert "Nothing was scored at this file's gate threshold, 0.9" in card and "| load |" in card
    assert "Nothing was scored" not in (swept.package / "card.md").read_text()


def test_an_edited_student_keeps_the_limits_or_is_not_chosen(run, tmp_path):
    results, said = open_results("tiny"), []
    none = choose(
        results, {"expected_macs_per_s": 1e3}, out=tmp_path / "none", certificate=False, gate_threshold=0.9,
        say=said.append,
    )  # fmt: skip
    assert none.selected is None and "over expected_macs_per_s" in said[0]
    with pytest.raises(InputError, match="nothing was scored at gate threshold 0.9"):
        choose(results, {"min_pesq_wb": 1.0}, gate_threshold=0.9, certificate=False)


def test_another_device_later_has_both_frames(run, capsys, monkeypatch):
    monkeypatch.setattr(search.network_latency, "measure", timed)
    far = str(run.parents[1] / "far.toml")
    assert main(["reprofile", "tiny", "--device", far]) == 0
    out, err = capsys.readouterr()
    assert "2.0000 ms a hop with gates open, 1.0000 ms shut" in err and "expected MACs/s" in out
    for record in open_results("tiny", device="far").records:
        assert record.value("expected_latency_ms", "far") == pytest.approx(1.0 + record.cost.load)


def test_commands_show_gates(run, capsys, tmp_path):
    assert main(["select", "tiny", "--gate-threshold", "0.9", "--no-certificate", "--out", str(tmp_path / "p")]) == 0
    assert "nothing was scored at gate threshold 0.9" in capsys.readouterr().out
    assert main(["report", "tiny", "--out", str(tmp_path / "page.html")]) == 0
    assert "gates shut" in (tmp_path / "page.html").read_text()
