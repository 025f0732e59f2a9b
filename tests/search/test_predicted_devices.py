"""A device whose latency is predicted, from calibration to a study's gate, and never under a measured heading."""

import json
from pathlib import Path

import pytest
from cost_devices import TRUE
from definitions import definition, write_definition
from records import DEVICE, student
from streaming_onnx import streaming_model

import search.measure
import search.prediction.calibrate
from search.card import _cost_rows, _latency_notes
from search.cli import main
from search.device import load_device
from search.latency import Latency
from search.network_latency import fresh_latency, network_latency
from search.objective import Rejected, before_training
from search.prediction.cost_model import load_cost_model
from search.prediction.features import features_of
from search.preflight import check_device
from search.trial import Job, Shared
from sekd.config import parse
from sekd.distillation import DistillConfig
from sekd.errors import InputError


def stand_in(model, device, **options):
    """What a device of known costs would have taken."""
    features = features_of(model)
    ms = sum(cost * features.figures[name] for name, cost in TRUE.items()) / 1000
    once = {"session_ms": 5.0, "first_call_ms": 1.0}
    return Latency(kind="measured", source="local", p50_ms=ms, hop_ms=features.hop_ms, n=100, environment=once)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEKD_CACHE", raising=False)
    monkeypatch.setattr(search.measure, "measure", stand_in)
    monkeypatch.setattr(search.prediction.calibrate, "measure", stand_in)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """The file that the command wrote, and what it printed."""
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEKD_HOME", str(folder))
        patch.setattr(search.prediction.calibrate, "measure", stand_in)
        assert main(["calibrate", "--device", "x86-1core", "--networks", "10"]) == 0
    return folder / "cost_models" / "x86-1core.json"


@pytest.fixture
def board(calibrated, tmp_path):
    """Path of a profile of a predicted device."""
    path = tmp_path / "board.toml"
    path.write_text(f'name = "board"\ndescription = "x"\nlatency = "model"\ncost_model = "{calibrated}"\n')
    return path


def test_calibrating_finds_the_device(calibrated):
    model = load_cost_model(calibrated)
    assert {name: model.us_per[name] for name in TRUE} == pytest.approx(TRUE, rel=0.01)
    assert (model.device, model.level, len(model.networks)) == ("x86-1core", "calibration", 10)
    assert model.spearman > 0.99 and {"Conv", "GRU", "LSTM"} <= set(model.operators)


def test_calibrating_says_what_it_found(capsys, tmp_path):
    out = tmp_path / "here.json"
    assert main(["calibrate", "--device", "x86-1core", "--networks", "10", "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document.pop("cost_model") == str(out)
    assert document == json.loads(out.read_text())
    assert main(["calibrate", "--device", "cortex-m7"]) == 2
    assert main(["calibrate", "--device", "x86-1core", "--networks", "31"]) == 2
    assert "--networks 31: 10 to 30" in capsys.readouterr().err


def measured(capsys, *arguments):
    code = main(["measure", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def gru_free(tmp_path):
    return streaming_model(tmp_path / "m.onnx", hop=32, repeat=3)


def test_measure_shows_both_and_calls_each_what_it_is(capsys, calibrated, gru_free):
    arguments = (gru_free, "--device", "x86-1core", "--cost-model", calibrated, "--predict")
    code, out, _ = measured(capsys, *arguments, "--json")
    document = json.loads(out)
    here, said = document["latency"]["x86-1core"], document["predicted"]["x86-1core"]
    assert (code, here["kind"], said["kind"], said["source"]) == (0, "measured", "predicted", "model")
    assert said["p50_ms"] == pytest.approx(here["p50_ms"], rel=0.02)
    assert said["interval_ms"][0] <= said["p50_ms"] <= said["interval_ms"][1]
    assert document["cost"]["macs_per_frame"] == 192
    assert document["cost"]["macs_per_s"] == 192 * 500
    code, out, _ = measured(capsys, *arguments)
    assert code == 0 and "predicted: p50" in out and "of the measured" in out
    assert "extrapolated (nodes" in out  # 8 nodes are fewer than any network of the calibration has
    assert "8 nodes, 192 MACs per frame, 0.10 M MACs/s, 100% of operators covered" in out


def test_measure_alone_predicts_nothing_and_looks_for_the_devices_own_model(capsys, home, gru_free):
    document = json.loads(measured(capsys, gru_free, "--device", "x86-1core", "--json")[1])
    assert "predicted" not in document
    code, out, err = measured(capsys, gru_free, "--device", "x86-1core", "--predict", "--json")
    assert (code, out) == (2, "")
    assert "home/cost_models/x86-1core.json: No such file" in err and "sekd calibrate" in err


def test_a_predicted_device_is_never_measured(capsys, board, calibrated, gru_free):
    document = json.loads(measured(capsys, gru_free, "--device", board, "--json")[1])
    assert document["latency"] == {} and document["predicted"]["board"]["kind"] == "predicted"
    code, out, _ = measured(capsys, gru_free, "--device", board)
    assert code == 0 and "predicted: p50" in out and "measured (" not in out
    unmeasured = (gru_free, "--device", "raspberry-pi-4", "--cost-model", calibrated, "--predict", "--json")
    assert json.loads(measured(capsys, *unmeasured)[1])["latency"] == {}


def test_a_networks_latency_there_is_what_its_calibration_of_today_says(board, calibrated, gru_free, tmp_path):
    device = load_device(board)
    document = network_latency(gru_free, device, tmp_path / "had")
    assert (document["kind"], document["flags"]) == ("predicted", ["extrapolated"])
    assert fresh_latency(gru_free, device).model_dump(mode="json") == document
    again = json.loads(calibrated.read_text()) | {"at": "later"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps(again))
    anew = network_latency(gru_free, device.model_copy(update={"cost_model": str(other)}), tmp_path / "had")
    assert anew["environment"]["calibration"]["at"] == "later"


def test_a_study_may_gate_by_predictions(board, home):
    study = definition(home, {"device": str(board), "budget/latency_ms": 1.0})
    check_device(study, load_device(board))
    with pytest.raises(InputError, match="paced_p95_ms is not predicted"):
        check_device(definition(home, {"budget/paced_p95_ms": 4.0}), load_device(board))
    missing = load_device(board).model_copy(update={"cost_model": str(home / "none.json")})
    with pytest.raises(InputError, match=r"none\.json: No such file"):
        check_device(study, missing)


class NoLock:
    """Nothing else runs here."""

    folder = Path("locks/local")

    def step(self):
        from contextlib import nullcontext

        return nullcontext()


def job_on(device, folder, limits):
    shared = Shared(
        device=device, latency_wanted=True, pool=None, valid=folder, teacher=None, outputs=None, hashes={},
        cache=folder, measured=folder / "measured", lock=folder, unprocessed=folder, teacher_quality=None, threads=1,
        torch_device="cpu", frames=32,
    )  # fmt: skip
    return Job(number=0, trial_id="t", params={}, document={}, folder=folder, shared=shared, limits=limits,
               metrics=(), quality="pesq_wb")  # fmt: skip


def test_a_trial_is_gated_by_what_is_predicted(board, home, tmp_path):
    config = parse(DistillConfig, definition(home).document({"student.width": 4}), "trial")
    device = load_device(board)
    facts = before_training(job_on(device, tmp_path, {"latency_ms": 1.0}), config, NoLock())
    assert facts.latency["kind"] == "predicted"
    assert facts.cost.graph_nodes > 200 and facts.cost.mac_coverage == 1.0 and facts.cost.activation_bytes > 10_000
    with pytest.raises(Rejected, match="over budget: latency_ms 0.1"):
        before_training(job_on(device, tmp_path, {"latency_ms": 0.01}), config, NoLock())
    small = device.model_copy(update={"memory_kib": 8.0, "sources": {"memory_kib": "a test"}})
    with pytest.raises(Rejected, match="states and activations exceed the memory"):
        before_training(job_on(small, tmp_path, {}), config, NoLock())


def test_checking_a_study_says_that_it_predicts(board, home, capsys):
    path = write_definition(home, {"device": str(board), "budget": {"latency_ms": 1.0}})
    assert main(["check", str(path), "--samples", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["latency_kind"] == "predicted" and document["share_fitting"] == 1
    assert document["axes"]["latency_ms"]["max"] < 1
    assert main(["check", str(path), "--samples", "2"]) == 0
    assert "latency p50, ms (predicted)" in capsys.readouterr().out


def test_a_card_tells_what_was_counted_and_what_was_predicted():
    record = student(0, kind="predicted")
    facts = {"graph_nodes": 238, "activation_bytes": 21064, "mac_coverage": 1.0}
    record = record.model_copy(update={"cost": record.cost.model_copy(update=facts)})
    rows = "\n".join(_cost_rows(record, DEVICE, "predicted", record.latency[DEVICE]))
    assert "| graph nodes | 238 | counted |" in rows
    assert "| activations, KiB | 20.6 | estimate |" in rows
    assert "| operators counted or known to be free | 100% | counted |" in rows
    assert "| total latency, ms (predicted) | 33.00 | predicted |" in rows
    said = {"kind": "predicted", "interval_ms": [0.5, 2.0], "flags": ["extrapolated"]}
    assert "predicted by a cost model, not measured, 90 % interval 0.5 to 2 ms" in _latency_notes(DEVICE, said)[0]
    assert "graph nodes" not in "\n".join(_cost_rows(student(0), DEVICE, "measured", {}))
