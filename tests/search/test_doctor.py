"""What `sekd doctor` finds in a study, and what a repair takes away."""

import json
from datetime import timedelta

import pytest
import torch
from definitions import write_definition
from drive_table import drive

from search.cli import main
from search.doctor import examine, repair
from search.drivers import DRIVER, this_driver
from search.ends import counts
from search.results import open_results
from search.run_folder import driving, keep_definition


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished study of four trials, its files as a real search leaves them."""
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    path = write_definition(tmp_path, {"trials": 4, "budget": {}})
    tuner, _ = drive(tmp_path)
    keep_definition(path, tmp_path / "run")
    for record in tuner.store.records():
        folder = tmp_path / "run" / "trials" / str(record.number)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("model.onnx", "model.safetensors"):
            (folder / name).write_bytes(b"x")
        (folder / "result.json").write_text(record.model_dump_json())
    return tmp_path / "run"


def found(run):
    return [(finding.kind, finding.notice) for finding in examine(open_results(str(run)))]


def test_a_finished_study_is_sound(run, capsys):
    assert found(run) == []
    assert main(["doctor", str(run)]) == 0
    assert capsys.readouterr().out == "study tiny: sound\n"


def interrupt(run):
    """Asks for a fifth trial and ends before it is told."""

    def breaks(job):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        drive(run.parent, 1, lookup=breaks)


def test_an_interrupted_trial_is_a_notice_that_says_how_to_go_on(run, capsys):
    interrupt(run)
    assert main(["doctor", str(run)]) == 0
    out = capsys.readouterr().out
    assert "notice: trial 4 was interrupted; it has no checkpoint yet: sekd resume tiny finishes it" in out
    (run / "trials/4/checkpoint.pt").write_bytes(b"not a checkpoint")
    assert found(run) == [("interrupted", True), ("unreadable", False)]
    torch.save({"step": 3}, run / "trials/4/checkpoint.pt")
    assert found(run) == [("interrupted", True)]


def test_missing_files_of_a_trained_student_stay_wrong(run, capsys):
    (run / "trials/2/model.onnx").unlink()
    assert main(["doctor", str(run), "--repair"]) == 1
    out = capsys.readouterr().out
    assert f"wrong: trial 2 is on record, but {run / 'trials/2/model.onnx'} is missing" in out


def test_a_repair_takes_what_is_half_written_or_unreadable_and_nothing_else(run, capsys):
    left = [run / ".front.json.4711", run / "trials/1/checkpoint.partial", run / "trials/0/.model.safetensors.99",
            run / "measured/.x-screening.npz.12.npz", run / f".ray-{'a' * 32}",
            run / "trials/1/.model.onnx.coming"]  # fmt: skip
    broken = [run / "measured/x-screening.json", run / "trials/3/result.json"]
    (run / "measured").mkdir(exist_ok=True)
    for path in left + broken:
        path.write_text("{")
    before = {path for path in run.rglob("*") if path.is_file()}
    assert main(["doctor", str(run), "--json"]) == 1
    kinds = [finding["kind"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert sorted(kinds) == ["half-written"] * 6 + ["unreadable"] * 2
    assert {path for path in run.rglob("*") if path.is_file()} == before
    assert main(["doctor", str(run), "--repair"]) == 0
    after = {path for path in run.rglob("*") if path.is_file()}
    assert before - after == set(left + broken)
    assert found(run) == []


def test_a_repair_waits_until_drivers_have_ended(run, capsys):
    with driving(run):
        assert main(["doctor", str(run)]) == 0
        assert main(["doctor", str(run), "--repair"]) == 2
    results = open_results(str(run))
    elsewhere = this_driver().model_copy(update={"place": "another boot pid:[1]", "host": "far-away"})
    results.store.note(DRIVER + elsewhere.id, elsewhere.model_dump())
    capsys.readouterr()
    assert main(["doctor", str(run), "--repair"]) == 2
    assert "a driver is at work: process" in capsys.readouterr().err


def test_folders_and_trials_of_others_are_noticed(run):
    (run / "trials/17").mkdir()
    results = open_results(str(run))
    results.store._study.tell(results.store._study.ask().number, [1.0, 2.0])
    assert found(run) == [("unknown", True), ("unknown", True)]


def test_a_clock_that_was_set_back_is_noticed(run):
    from search.doctor import _clocks

    told = open_results(str(run)).store.told()
    assert list(_clocks(told)) == []
    back = [one._replace(started=one.started - timedelta(hours=2), ended=one.ended) for one in told[2:]]
    assert [finding.what for finding in _clocks([*told[:2], *back])][0].endswith("s before trial 2")
    upside = told[3]._replace(ended=told[3].started - timedelta(minutes=1))
    assert [finding.what for finding in _clocks([upside])] == ["the clock was set back 60 s during trial 3"]


def test_a_study_of_the_first_format_opens_and_is_brought_forward(run, capsys):
    results = open_results(str(run))
    results.store.note("sekd_format", 1)
    results.store.note("sekd_latency:elsewhere", {"0": {"kind": "measured", "p50_ms": 1.0}})
    again = open_results(str(run))
    assert again.trials[0].latency["elsewhere"]["p50_ms"] == 1.0
    assert found(run) == [("format", True)]
    tuner, _ = drive(run.parent, 1)
    assert found(run) == [("missing", False)] * 2 and tuner.store.noted("sekd_format") == 2  # the table writes no files
    assert tuner.store.records()[0].latency["elsewhere"]["p50_ms"] == 1.0
    assert sum(map(counts, tuner.store.records())) == 5


def test_a_repair_changes_no_record(run):
    (run / "trials/1/result.json").write_text("{")
    before = open_results(str(run)).trials
    repair(examine(open_results(str(run))))
    assert open_results(str(run)).trials == before
