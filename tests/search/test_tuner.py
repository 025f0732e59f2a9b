"""Whole searches on recorded results: what is counted, when they end, and what survives a kill."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from definitions import NUMERIC, prepared_run, recorded, write_definition
from drive_table import drive
from optuna.storages._cached_storage import _CachedStorage

from search import ends
from search.backends.base import Died
from search.backends.table import TableBackend
from search.ends import NothingFits, counts, exhausted
from search.pareto import non_dominated
from search.results import open_results, status_document
from search.run_folder import driving, keep_definition
from search.sampler import as_today
from search.storage.places import open_storage
from search.store import Store
from search.study import read_study
from search.tuner import Tuner
from search.view import View
from sekd.errors import InputError


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEKD_CACHE", raising=False)


def story(tuner):
    """What a search came to: settings and outcome of each trial."""
    return [(r.number, r.params, r.status, r.score("pesq_wb"), r.duplicate_of) for r in tuner.store.records()]


def test_infeasible_and_duplicate_proposals_are_free(tmp_path):
    write_definition(tmp_path, {"trials": 20, "space/train.lr": None})
    tuner, backend = drive(tmp_path)
    records = tuner.store.records()
    assert sum(map(counts, records)) <= 20
    known = {}
    for record in records:
        same = known.get(record.trial_id)
        assert record.duplicate_of == (None if same is None else same.number)
        if same is not None:
            assert (record.scores, record.cost, record.status) == (same.scores, same.cost, same.status)
        known.setdefault(record.trial_id, record)
    assert len(backend.submitted) == len(known)
    assert {record.status for record in records} == {"COMPLETE", "INFEASIBLE"}
    assert any(record.duplicate_of is not None for record in records)


def test_the_budget_of_trials_is_met_exactly(tmp_path):
    write_definition(tmp_path)
    tuner, _ = drive(tmp_path)
    assert sum(counts(r) for r in tuner.store.records()) == 8
    tuner, _ = drive(tmp_path)  # owes nothing
    assert sum(counts(r) for r in tuner.store.records()) == 8
    tuner, _ = drive(tmp_path, 3)
    assert sum(counts(r) for r in tuner.store.records()) == 11


def test_failed_trials_count_and_are_not_repeated(tmp_path):
    def broken(job):
        return recorded(job).model_copy(update={"status": "FAILED", "scores": {}, "reason": "NaN"})

    write_definition(tmp_path, {"budget": {}})
    tuner, backend = drive(tmp_path, lookup=broken)
    assert [r.status for r in tuner.store.records()] == ["FAILED"] * 8 and len(backend.submitted) == 8


@pytest.mark.parametrize(("deaths", "status"), [(1, "COMPLETE"), (2, "FAILED")])
def test_a_trial_whose_worker_died_is_tried_once_more(tmp_path, deaths, status):
    class Mortal(TableBackend):
        died = 0

        def collect(self, timeout_s):
            if self._waiting and self._waiting[0].number == 2 and self.died < deaths:
                self.died += 1
                return [Died(self._waiting.pop(0).number, "the worker was killed by SIGKILL")]
            return super().collect(timeout_s)

    study = read_study(write_definition(tmp_path, {"budget": {}}))
    backend = Mortal(recorded)
    prepared = prepared_run(study, tmp_path / "run")
    tuner = Tuner(study, tmp_path / "run", backend, View(), prepared=prepared)
    tuner.run(5)
    assert [job.number for job in backend.submitted] == [0, 1, 2, 2, 3, 4]
    record = tuner.store.records()[2]
    assert record.status == status
    assert record.reason == (None if status == "COMPLETE" else "the worker was killed by SIGKILL")


def test_a_trial_that_had_ended_when_its_worker_died_is_not_run_again(tmp_path):
    class Mortal(TableBackend):
        def collect(self, timeout_s):
            job = self._waiting.pop(0)
            (job.folder / "result.json").write_text(recorded(job).model_dump_json())
            return [Died(job.number, "the worker was killed by SIGKILL", final=job.number % 2 == 0)]

    study = read_study(write_definition(tmp_path, {"budget": {}}))
    backend = Mortal(recorded)
    tuner = Tuner(study, tmp_path / "run", backend, View(), prepared=prepared_run(study, tmp_path / "run"))
    tuner.run(3)
    assert [job.number for job in backend.submitted] == [0, 1, 2]
    assert [record.status for record in tuner.store.records()] == ["COMPLETE"] * 3


def test_the_first_trials_are_given(tmp_path):
    mine = {"student.width": 4, "distill.schedule.kind": "one_step", "train.lr": 2e-3}
    write_definition(tmp_path, {"enqueue": [mine]})
    tuner, _ = drive(tmp_path)
    first, second = tuner.store.records()[:2]
    assert first.params["distill.schedule.kind"] == "supervised"
    assert second.params == mine


def test_the_same_seed_searches_the_same(tmp_path):
    stories = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_definition(tmp_path / name, {"seed": seed, "trials": 14})
        stories.append(story(drive(tmp_path / name)[0]))
    assert stories[0] == stories[1] != stories[2]


def test_conditional_keys_only_where_they_matter(tmp_path):
    write_definition(tmp_path, {"trials": 20})
    for record in drive(tmp_path)[0].store.records():
        two_step = record.params["distill.schedule.kind"] == "two_step"
        assert ("distill.schedule.kd_only_fraction" in record.params) == two_step


def test_nothing_fits_ends_with_the_nearest(tmp_path, monkeypatch):
    monkeypatch.setattr(ends, "INFEASIBLE_IN_A_ROW", 12)
    write_definition(tmp_path, {"budget/macs_per_s": 1e6, "trials": 40})
    with pytest.raises(NothingFits, match="no student of 'tiny' fits its budget on raspberry-pi-4") as caught:
        drive(tmp_path)
    records = open_run(tmp_path).records()
    assert [r.cost.macs_per_s for r in caught.value.nearest][0] == min(r.cost.macs_per_s for r in records)
    assert not any(map(counts, records))


def open_run(folder):
    study = read_study(folder / "tiny.toml")
    return Store(study, open_storage(folder / "run"))


def test_a_space_that_is_exhausted_ends_the_search(tmp_path):
    write_definition(tmp_path, {"trials": 40, "space": {"student.width": {"choice": [4, 6]}}, "teacher": None,
                                "base/distill": {"schedule": {"kind": "supervised"}}})  # fmt: skip
    said = Saying()
    tuner, backend = drive(tmp_path, view=said)
    assert len(backend.submitted) == 2
    assert [r.duplicate_of is not None for r in tuner.store.records()[-20:]] == [True] * 20
    assert any("the space is exhausted" in line for line in said.lines)


class Saying(View):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def test_the_three_ends():
    def records(*parts):
        return list(itertools.chain.from_iterable(parts))

    good, over = [fake("COMPLETE")], [fake("INFEASIBLE")]
    again = [fake("COMPLETE", duplicate_of=0)]
    assert exhausted(records(good, over * 199), 40) is None
    assert "200 proposals in a row were over budget" in exhausted(records(good, over * 200), 40)
    assert exhausted(records(good, again * 19), 40) is None
    assert "space is exhausted" in exhausted(records(good, again * 20), 40)
    assert exhausted(records(good * 59), 3) is None
    assert "60 proposals for 3 trials" in exhausted(records(good * 60), 3)


def fake(status, **fields):
    from records import student

    return student(0, status=status, **fields)


def test_settings_that_do_not_go_together_are_infeasible(tmp_path):
    # A width of 6 makes the GRU 120 wide, which all divide; 3 does not divide that of another width.
    space = {"student.width": {"choice": [6, 4, 8, 12]}, "student.gru_groups": {"choice": [1, 2, 4, 3]},
             "distill.schedule.kind": {"choice": ["supervised"]}, "train.lr": {"float": [1e-3, 6e-3]},
             "train.weight_decay": {"float": [0.0, 0.1]}}  # fmt: skip
    write_definition(tmp_path, {"space": space, "trials": 16})
    tuner, _ = drive(tmp_path)
    records = tuner.store.records()
    wrong = [r for r in records if r.status == "INFEASIBLE" and r.cost is None]
    assert sum(map(counts, records)) == 16
    assert all("does not divide" in record.reason for record in wrong) and wrong


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_an_interrupted_search_is_the_same_search(tmp_path, sampler):
    changes = {"trials": 14, "search/sampler": sampler}
    if sampler == "gp":
        changes |= {"trials": 10, "space": NUMERIC | {"student.width": {"int": [4, 16], "step": 2}}}
    write_definition(tmp_path / "whole", changes)
    whole = story(drive(tmp_path / "whole")[0])
    write_definition(tmp_path / "cut", changes)
    submitted = []
    for stop_at in (0, 1, 5, 9):

        def breaks(job, stop_at=stop_at):
            if job.number >= stop_at:
                raise ConnectionError("the driver ends here")
            submitted.append(job.number)
            return recorded(job)

        with pytest.raises(ConnectionError):
            drive(tmp_path / "cut", lookup=breaks)
    tuner, backend = drive(tmp_path / "cut")
    assert story(tuner) == whole
    ran = submitted + [job.number for job in backend.submitted]
    assert len(ran) == len(set(ran)), "a finished trial ran again"


def test_interrupted_trials_are_finished_first_and_under_their_numbers(tmp_path):
    write_definition(tmp_path)
    asked = []

    def breaks(job):
        asked.append((job.number, job.params))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        drive(tmp_path, lookup=breaks)
    _, backend = drive(tmp_path, 2)
    assert [(job.number, job.params) for job in backend.submitted[:1]] == asked
    # It is not one of the two.
    assert sum(counts(r) for r in open_run(tmp_path).records()) == 3


@pytest.mark.slow
def test_a_driver_that_is_killed_anywhere_goes_on_as_if_nothing_had_been(tmp_path):
    seed = int(os.environ.get("SEKD_TEST_SEED") or time.time())
    print(f"SEKD_TEST_SEED={seed}")
    rng = random.Random(seed)
    write_definition(tmp_path / "whole", {"trials": 12})
    whole = story(drive(tmp_path / "whole")[0])
    write_definition(tmp_path / "cut", {"trials": 12})
    told: list[int] = []
    for _ in range(40):
        process = driver_process(tmp_path / "cut", stdout=subprocess.PIPE)
        first = process.stdout.readline()  # imports are over, trials are running
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        lines = [first, *process.communicate()[0].splitlines()]
        told += [json.loads(line)[0] for line in lines if line.endswith(("]", "]\n"))]
        if process.returncode == 0:
            break
    assert len(told) == len(set(told)), f"told twice: {told}"
    assert story(drive(tmp_path / "cut")[0]) == whole


def driver_process(folder, **options):
    script = Path(__file__).with_name("drive_table.py")
    return subprocess.Popen([sys.executable, script, folder], text=True, **options)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("cut", ["create_new_trial", "set_trial_user_attr", "set_trial_state_values"])
def test_a_kill_between_two_writes_of_the_store(tmp_path, monkeypatch, cut, after):
    write_definition(tmp_path / "whole", {"trials": 12})
    whole = story(drive(tmp_path / "whole")[0])
    write_definition(tmp_path / "cut", {"trials": 12})
    original, calls = getattr(_CachedStorage, cut), itertools.count()

    def dies(*args, **kwargs):
        if next(calls) in (4, 9):
            if after:
                original(*args, **kwargs)
            raise ConnectionError
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(_CachedStorage, cut, dies)
        for _ in range(2):
            with pytest.raises(ConnectionError):
                drive(tmp_path / "cut")
    assert story(drive(tmp_path / "cut")[0]) == whole


def test_a_changed_definition_is_refused_and_replaces_nothing(tmp_path):
    write_definition(tmp_path)
    drive(tmp_path)
    write_definition(tmp_path, {"seed": 4, "base/train/steps": 9})
    with pytest.raises(InputError, match="exists with another definition: seed, base changed"):
        drive(tmp_path)
    write_definition(tmp_path, {"objectives/cost": ["macs_per_s", "state_kib"]})
    with pytest.raises(InputError, match="exists with"):
        drive(tmp_path)


def test_a_relaxed_budget_tries_again_what_was_infeasible(tmp_path, monkeypatch):
    monkeypatch.setattr(ends, "INFEASIBLE_IN_A_ROW", 12)
    write_definition(tmp_path, {"budget/macs_per_s": 1e6})
    with pytest.raises(NothingFits):
        drive(tmp_path)
    write_definition(tmp_path)
    tuner, _ = drive(tmp_path)
    assert sum(counts(r) for r in tuner.store.records()) == 8


def test_a_tightened_budget_gates_what_was_trained(tmp_path):
    write_definition(tmp_path)
    tuner, _ = drive(tmp_path)
    write_definition(tmp_path, {"budget/macs_per_s": 5e6})
    keep_definition(tmp_path / "tiny.toml", tmp_path / "run")
    front = open_results(str(tmp_path / "run")).front
    assert front and all(record.cost.macs_per_s <= 5e6 for record in front)
    write_definition(tmp_path, {"budget/macs_per_s": 1e3})
    with pytest.raises(NothingFits):
        drive(tmp_path)


def test_the_gaussian_process_learns_what_does_not_fit(tmp_path):
    space = NUMERIC | {"student.width": {"int": [4, 40], "step": 2}}
    changes = {"space": space, "search/sampler": "gp", "trials": 13, "budget": {"macs_per_s": 20e6, "weight_kib": 15.0}}
    write_definition(tmp_path, changes)
    tuner, _ = drive(tmp_path)
    trials = tuner.store._study.get_trials()
    records = tuner.store.records()
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert all(trial.constraints.keys() == {"macs_per_s", "weight_kib", "other"} for trial in trials)
    by_number = {record.number: record for record in records}
    seen = [
        tuple(as_today(trial, by_number[trial.number], records, tuner.study).constraints) for trial in trials
    ]  # by the sampler, by place
    assert set(seen) == {("macs_per_s", "weight_kib", "other")}
    for trial, record in zip(trials, records, strict=True):
        over = max(trial.constraints.values()) > 0
        assert over == (record.status == "INFEASIBLE")
        if over:
            assert trial.values[1] == record.cost.macs_per_s
            before = [r.score("pesq_wb") for r in records[: record.number] if r.score("pesq_wb") is not None]
            assert trial.values[0] == min(before, default=0.0)
    late = records[10:]
    assert sum(r.status == "INFEASIBLE" for r in late) < len(late) / 2


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{}, {"weight_kib": 5.0, "macs_per_s": 20e6}])
def test_the_gaussian_process_survives_another_budget(tmp_path, budget):
    space = NUMERIC | {"student.width": {"int": [4, 40], "step": 2}}
    write_definition(tmp_path, {"space": space, "search/sampler": "gp", "trials": 9})
    drive(tmp_path)
    write_definition(tmp_path, {"space": space, "search/sampler": "gp", "trials": 12, "budget": budget})
    assert sum(counts(r) for r in drive(tmp_path)[0].store.records()) == 12


def test_a_second_driver_is_told_who_the_first_is(tmp_path):
    (tmp_path / "run").mkdir()
    with driving(tmp_path / "run"):
        with pytest.raises(InputError, match=rf"another driver is at work: process {os.getpid()} on \S+ since 20"):
            with driving(tmp_path / "run"):
                pass
    with driving(tmp_path / "run"):  # the first has gone
        pass


def test_a_killed_driver_leaves_no_lock(tmp_path):
    write_definition(tmp_path)
    process = driver_process(tmp_path, stdout=subprocess.PIPE)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    tuner, _ = drive(tmp_path)
    assert sum(counts(record) for record in tuner.store.records()) == tuner.study.trials


def test_a_study_of_another_format_says_what_to_do(tmp_path):
    write_definition(tmp_path)
    drive(tmp_path)
    open_run(tmp_path).note("sekd_format", 99)
    with pytest.raises(InputError, match="written in format 99.*open it with the version that made it"):
        drive(tmp_path)


def test_reading_makes_no_study(tmp_path):
    write_definition(tmp_path)
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="no study 'tiny' in this storage"):
        open_run(tmp_path)


def test_a_poor_teacher_is_refused_before_the_first_trial_only(tmp_path):
    study = read_study(write_definition(tmp_path))
    prepared = prepared_run(study, tmp_path / "run")
    kept = tmp_path / "run" / "baseline.json"
    kept.write_text(kept.read_text().replace("2.8", "1.1"))

    def start(**options):
        return Tuner(study, tmp_path / "run", TableBackend(recorded), View(), prepared=prepared, **options)

    with pytest.raises(InputError, match="teacher's pesq_wb 1.100 does not beat unprocessed 1.200"):
        start()
    start(force=True).run(1)
    start().run(1)


def test_files_of_another_study_are_not_taken_for_results(tmp_path):
    write_definition(tmp_path)
    left = tmp_path / "run" / "trials" / "0"
    left.mkdir(parents=True)
    (left / "result.json").write_text("{}")
    (left / "model.safetensors").write_text("")
    drive(tmp_path)
    assert sorted(file.name for file in left.iterdir()) == ["config.json", "trial_id"]


def test_an_unknown_torch_device_is_said_before_anything(tmp_path):
    study = read_study(write_definition(tmp_path))
    with pytest.raises(InputError, match="torch device 'cpuu'.*did you mean 'cpu'"):
        Tuner(study, tmp_path / "run", TableBackend(recorded), View(), torch_device="cpuu")


def test_status_of_a_search(tmp_path):
    path = write_definition(tmp_path, {"trials": 12})
    drive(tmp_path)
    keep_definition(path, tmp_path / "run")
    results = open_results(str(tmp_path / "run"))
    document = status_document(results)
    records = results.records
    assert document["trials"] == {
        "complete": 12, "infeasible": sum(r.status == "INFEASIBLE" and r.duplicate_of is None for r in records),
        "stopped": 0, "failed": 0, "running": 0, "duplicate": sum(r.duplicate_of is not None for r in records),
    }  # fmt: skip
    volumes = document["hypervolume_over_trials"]
    assert len(volumes) == 12 and volumes == sorted(volumes) and volumes[-1] > 0
    points = [(r.score("pesq_wb"), r.cost.macs_per_s) for r in records if counts(r)]
    assert len(results.front) == len(non_dominated(points, ["maximize", "minimize"]))


def away(job):
    """Its device does not answer."""
    return recorded(job).model_copy(
        update={"status": "INFEASIBLE", "scores": {}, "reason": "not measured: no agent", "flags": ["away"]}
    )


def test_a_device_that_stays_away_ends_the_search_and_costs_no_proposal(tmp_path):
    write_definition(tmp_path, {"trials": 3})
    with pytest.raises(InputError, match="'raspberry-pi-4' stays away: .* resume when it is back"):
        drive(tmp_path, lookup=away)
    tuner, _ = drive(tmp_path)
    records = tuner.store.records()
    assert [record.status for record in records[:3]] == ["INFEASIBLE"] * 3
    assert sum(counts(record) for record in records) == 3
    assert all(record.duplicate_of is None for record in records)  # what was away may be proposed again
