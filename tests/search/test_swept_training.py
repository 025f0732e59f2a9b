"""One real, tiny training with free knobs, from its gate to packages: floats, a stand-in for integers, a failure."""

import json

import numpy as np
import onnx
import pytest
from definitions import write_definition

import search.choose
import search.deployed
import search.network_latency
import search.objective
import search.reprofile
import sekd.quantize
from search.backends.table import TableBackend
from search.certificate import Certificate
from search.choose import choose
from search.cli import main
from search.latency import Latency, MeasurementFailed
from search.measure import CERTIFICATE
from search.network_latency import network_key
from search.objective import run_trial
from search.results import open_results
from search.run_folder import driving, keep_definition
from search.scoring import validation_pairs
from search.study import read_study
from search.trial import metrics_of
from search.tuner import Tuner
from search.variants import model_file
from search.view import View
from sekd.audio import read_audio
from sekd.cache import write_json
from sekd.data import DataConfig
from sekd.errors import InputError
from sekd.export import describe, export_onnx
from sekd.metrics import score_pairs, summarise
from sekd.preparation import prepare
from sekd.streaming import OnnxEnhancer

FREE = {"choice": ["fp32", "int8_dynamic", "int8_static"], "free": True}
STUDY = {
    "teacher": None, "trials": 1, "device": "x86-1core", "also_on": ["near.toml", "lost.toml"],
    "objectives/cost": ["latency_ms"], "budget": {"latency_ms": 1.0},
    "base/distill": {"schedule": {"kind": "supervised"}},
    "space": {"student.width": {"choice": [4]}, "deploy.dtype": FREE},
}  # fmt: skip
REAL = sekd.quantize.write_deployed
TIMES = {"x86-1core": 1.0, "near": 3.0, "far": 5.0}


def stand_in(model, deploy, path, audio=()):
    """Written in fewer bits by rounding, so that its scores are its own; static ranges are not to be had."""
    export = export_onnx(model, path)
    if deploy.dtype == "fp32":
        return export
    if deploy.dtype == "int8_static":
        raise NotImplementedError("no kernel\nof the kind")
    assert len(next(iter(audio))) > 0
    graph = onnx.load(path)
    for weight in graph.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype == np.float32:
            weight.CopyFrom(onnx.numpy_helper.from_array(np.round(values * 16) / 16, weight.name))
    graph.doc_string = "int8"
    graph.graph.node.append(onnx.helper.make_node("Round", ["conv_cache"], ["rounded"]))  # another graph than in float
    onnx.save(graph, path)
    return describe(path)._replace(weight_bytes=export.weight_bytes // 4)


def timed(path, device, *, level=None, lock=None, samples=None):
    """Integers take half the time; a device that is lost gives none."""
    with lock.exclusive():
        if device.name not in TIMES:
            raise MeasurementFailed("it is not there")
        ms = 0.1 * TIMES[device.name] * (0.5 if onnx.load(path).doc_string else 1.0)
        return Latency(
            kind="measured",
            source="local",
            level=level.name,
            p50_ms=ms,
            hop_ms=16.0,
            rtf=ms / 16,
            n=9,
            at="today",
            canary_ms=1.0,
        )


def promised(model, record, device, limits, *, lock=None):
    """A certificate for what the student took when it was ranked."""
    latency = timed(model, device, level=CERTIFICATE, lock=lock)
    return Certificate(latency=latency, promises=[], broken=[], weak=[])


@pytest.fixture(autouse=True)
def no_minute(monkeypatch):
    monkeypatch.setattr(search.choose, "certify", promised)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a search of one trial, and the job that it ran."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("SEKD_HOME", str(home))
        patch.delenv("SEKD_CACHE", raising=False)
        for module in (search.objective, search.deployed, sekd.quantize):
            patch.setattr(module, "write_deployed", stand_in)
        patch.setattr(search.network_latency, "measure", timed)
        for name in ("near", "lost", "far"):
            text = f'name = "{name}"\ndescription = "for tests"\nlatency = "local"\n'
            (home / f"{name}.toml").write_text(text)
        path = write_definition(home, STUDY)
        study = read_study(path)
        folder = home / "runs" / "tiny"
        prepared = prepare(DataConfig.model_validate(study.data), None, seed=study.seed, cache=home / "cache")
        keep_definition(path, folder)
        with_baseline(study, prepared, folder)
        backend = TableBackend(lambda job: run_trial(job, lambda stage, share: None))
        with driving(folder):
            Tuner(study, folder, backend, View(), prepared=prepared).run()
        yield folder, backend.submitted[0]


def with_baseline(study, prepared, folder):
    scores = dict.fromkeys(metrics_of(study), 1.0)
    write_json(folder / "unprocessed.json", {name: scores for name, _, _ in validation_pairs(prepared.valid)})
    of = [prepared.hashes.valid, prepared.hashes.teacher, *metrics_of(study)]
    write_json(folder / "baseline.json", {"of": of, "means": {"unprocessed": {"pesq_wb": {"mean": 0.5, "n": 2}}}})


def of(results, dtype):
    return next(record for record in results.records if record.variant["deploy.dtype"] == dtype)


def test_each_setting_is_a_student_of_its_own(run):
    folder, job = run
    results = open_results("tiny")
    (trial,) = results.trials
    assert (trial.status, trial.scores, trial.latency) == ("COMPLETE", {}, {})
    assert trial.seconds.train > 0 and trial.trial_id == job.trial_id
    fp32, dynamic, static = (of(results, dtype) for dtype in FREE["choice"])
    assert (fp32.status, dynamic.status, static.status) == ("COMPLETE", "COMPLETE", "FAILED")
    assert static.reason == "NotImplementedError: no kernel"
    assert dynamic.cost.weight_bytes < fp32.cost.weight_bytes / 3
    assert dynamic.cost.macs_per_s == fp32.cost.macs_per_s
    for record, ms in ((fp32, 0.1), (dynamic, 0.05)):
        assert record.value("latency_ms", "x86-1core") == pytest.approx(ms)
        assert record.latency["near"]["p50_ms"] == pytest.approx(3 * ms)
        assert "lost" not in record.latency and record.flags == ["unmeasured:lost"]
    assert {record.latency["x86-1core"]["level"] for record in (fp32, dynamic)} == {"ranking"}  # both entered the front
    assert {record.variant_id for record in results.front} <= {fp32.variant_id, dynamic.variant_id}
    assert not (folder / "trials/0/untrained.onnx").exists() and not (folder / "trials/0/model.onnx").exists()


def test_integers_are_scored_through_their_own_file(run):
    folder, job = run
    dynamic = of(open_results("tiny"), "int8_dynamic")
    enhancer = OnnxEnhancer(model_file(folder, dynamic))
    pairs = validation_pairs(job.shared.valid)
    triples = [(n, read_audio(noisy), enhancer.enhance(read_audio(noisy)), read_audio(c)) for n, noisy, c in pairs]
    again = summarise(score_pairs(triples, ["si_sdr_db"]))["si_sdr_db"].mean
    assert dynamic.score("si_sdr_db") == pytest.approx(again)
    assert dynamic.score("si_sdr_db") != of(open_results("tiny"), "fp32").score("si_sdr_db")


def test_equal_networks_share_a_measurement_whatever_their_weights(run):
    folder, job = run
    fp32, dynamic = (model_file(folder, of(open_results("tiny"), dtype)) for dtype in ("fp32", "int8_dynamic"))
    assert network_key(fp32) != network_key(dynamic)
    other = job.folder / "other.onnx"
    graph = onnx.load(fp32)
    for weight in graph.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) + 1, weight.name))
    onnx.save(graph, other)
    assert network_key(other) == network_key(fp32)
    graph.graph.node[0].op_type = "Identity"
    onnx.save(graph, other)
    assert network_key(other) != network_key(fp32)


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"weight_kib": 1e-3}, "INFEASIBLE"), ({"macs_per_s": 1.0}, "INFEASIBLE"), ({"latency_ms": 0.07}, "COMPLETE")],
)
def test_a_student_is_trained_if_one_setting_fits(run, tmp_path, limits, status):
    _, job = run
    record = run_trial(job.model_copy(update={"folder": tmp_path, "limits": limits}), lambda stage, share: None)
    assert (record.status, len(record.variants)) == (status, 3)
    assert (tmp_path / "model.safetensors").exists() == (status == "COMPLETE")
    if status == "INFEASIBLE":
        (key,) = limits
        assert record.variant["deploy.dtype"] == ("int8_dynamic" if key == "weight_kib" else "fp32")
        assert key in {violation.key for violation in record.violations}
        assert [not variant.violations for variant in record.variants] == [False, False, key == "weight_kib"]


def test_a_trial_fails_only_if_every_setting_does(run, tmp_path, monkeypatch):
    _, job = run
    monkeypatch.setattr(search.deployed, "TOLERANCE", 0.0)
    record = run_trial(job.model_copy(update={"folder": tmp_path}), lambda stage, share: None)
    assert (record.status, [v.status for v in record.variants]) == ("COMPLETE", ["FAILED", "COMPLETE", "FAILED"])
    assert "differs from torch" in record.variants[0].reason
    only = job.model_copy(update={"folder": tmp_path / "only", "sweep": job.sweep[:1]})
    record = run_trial(only, lambda stage, share: None)
    assert record.status == "FAILED" and "differs from torch" in record.reason


def test_real_integers_take_the_same_way(run, tmp_path, monkeypatch):
    _, job = run
    for module in (search.objective, search.deployed):
        monkeypatch.setattr(module, "write_deployed", REAL)
    tight = job.model_copy(update={"folder": tmp_path, "limits": {"weight_kib": 100.0}})  # floats take 223
    record = run_trial(tight, lambda stage, share: None)
    fp32, dynamic, static = record.variants
    assert [one.status for one in record.variants] == ["COMPLETE"] * 3, record
    assert fp32.value("weight_kib", "x86-1core") > 100 > dynamic.value("weight_kib", "x86-1core")
    files = [tmp_path / "variants" / one.variant_id / "model.onnx" for one in record.variants]
    assert len({network_key(file) for file in files}) == 3
    assert [describe(file).weight_bytes for file in files[1:]] == [dynamic.cost.weight_bytes, static.cost.weight_bytes]
    assert all(abs(one.score("si_sdr_db") - fp32.score("si_sdr_db")) < 3 for one in (dynamic, static))


def test_another_device_has_a_front_at_once(run):
    near = open_results("tiny", device="near")
    assert near.limits == {} and near.front  # a latency was promised for the study's own device
    assert all(record.value("latency_ms", "near") > 0.1 for record in near.front)
    chosen = choose(near, {"latency_ms": 0.2}).selected
    assert chosen.variant == {"deploy.dtype": "int8_dynamic"}


def test_the_chosen_variant_is_packaged_and_can_be_made_again(run, tmp_path, capsys):
    folder, _ = run
    results = open_results("tiny")
    dynamic = of(results, "int8_dynamic")
    limit = {"weight_kib": (dynamic.cost.weight_bytes + 100) / 1024}
    chosen = choose(results, limit)
    assert chosen.selected.variant_id == dynamic.variant_id
    assert chosen.package.name == "0-int8_dynamic-x86-1core"
    model = (chosen.package / "model.onnx").read_bytes()
    assert model == model_file(folder, dynamic).read_bytes()
    assert 'dtype = "int8_dynamic"' in (chosen.package / "config.toml").read_text()
    card = (chosen.package / "card.md").read_text()
    assert "quantised, int8_dynamic" in card and "`deploy.dtype` = int8_dynamic" in card
    assert len(list((chosen.package / "audio").glob("*_enhanced.flac"))) == 2
    assert main(["train", str(chosen.package / "config.toml"), "--out", str(tmp_path / "again"), "--json"]) == 0
    assert (tmp_path / "again" / "model.onnx").read_bytes() == model
    longer = choose(results, limit, train_steps=4, out=tmp_path / "longer")
    assert longer.selected.variant == dynamic.variant and longer.selected.params["train.steps"] == 4
    assert onnx.load(longer.package / "model.onnx").doc_string == "int8"
    assert 'dtype = "int8_dynamic"' in (longer.package / "config.toml").read_text()


def test_a_student_whose_certificate_is_over_the_limit_is_passed_over(run, tmp_path, monkeypatch):
    results, said = open_results("tiny"), []
    first = choose(results, {}, out=tmp_path / "first").selected

    def broken_once(model, record, device, limits, *, lock=None):
        broken = ["latency_ms is at most 2, the limit is 1"] if record.variant_id == first.variant_id else []
        return promised(model, record, device, limits, lock=lock).model_copy(update={"broken": broken})

    monkeypatch.setattr(search.choose, "certify", broken_once)
    second = choose(results, {}, out=tmp_path / "second", say=said.append)
    assert second.selected.variant_id != first.variant_id and second.certificate.certified
    assert any(line.endswith("the limit is 1; the next best is tried") for line in said)
    monkeypatch.setattr(
        search.choose, "certify", lambda *a, **k: promised(*a, **k).model_copy(update={"broken": ["x"]})
    )
    none = choose(results, {}, out=tmp_path / "third")
    assert none.selected is None and none.nearest[0].variant_id == first.variant_id and none.package is None


@pytest.mark.parametrize(
    ("weak", "certificate", "words"),
    [
        ([], True, "Certified. This very file"),
        (["noisy"], True, "Not certified: noisy."),
        ([], False, "None: the latency"),
    ],
)
def test_the_package_says_what_is_promised(run, tmp_path, monkeypatch, weak, certificate, words):
    monkeypatch.setattr(search.choose, "certify", lambda *a, **k: promised(*a, **k).model_copy(update={"weak": weak}))
    out = tmp_path / "package"
    assert choose(open_results("tiny"), {}, out=out, certificate=certificate).selected is not None
    assert words in (out / "card.md").read_text()
    assert (out / "certificate.json").exists() == certificate
    if certificate:
        assert json.loads((out / "certificate.json").read_text())["certified"] == (not weak)


def test_a_full_folder_is_refused_before_anything_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(search.choose, "certify", lambda *a, **k: pytest.fail("measured"))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        choose(open_results("tiny"), {}, out=tmp_path)


def test_a_device_that_is_gone_gives_no_certificate(run, tmp_path, monkeypatch):
    def lost(*_, **__):
        raise MeasurementFailed("it is not there")

    monkeypatch.setattr(search.choose, "certify", lost)
    with pytest.raises(InputError, match="no certificate: it is not there; select --no-certificate"):
        choose(open_results("tiny"), {}, out=tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_commands_show_students(run, capsys, tmp_path):
    assert main(["front", "tiny", "--all"]) == 0
    shown = capsys.readouterr().out
    assert "dtype fp32" in shown and "dtype int8_dynamic" in shown
    assert main(["status", "tiny", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["complete"] == 1
    assert main(["report", "tiny", "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "dtype int8_dynamic" in page and "no kernel" in page and "data:audio/flac" in page


def test_reprofile_measures_every_file(run, capsys):
    folder, _ = run
    far = str(folder.parents[1] / "far.toml")
    assert main(["reprofile", "tiny", "--device", far, "--json"]) == 0
    out, err = capsys.readouterr()
    assert "[1/2] trial 0 at deploy.dtype fp32: 0.5000 ms" in err and "[2/2] trial 0 at" in err
    front = json.loads(out)["front"]
    assert front and all(found["latency"]["far"]["p50_ms"] < 1 for found in front)
    results = open_results("tiny", device="far")
    assert of(results, "fp32").value("latency_ms", "far") == pytest.approx(0.5)
    assert of(results, "int8_dynamic").value("latency_ms", "far") == pytest.approx(0.25)
    assert "far" not in of(results, "int8_static").latency
