"""Students tried at several settings of the free knobs: who is gated, who speaks for whom, and what is read back."""

import numpy as np
import pytest
from definitions import NUMERIC, definition, recorded, write_definition
from drive_table import drive
from records import DEVICE, student
from swept import FREE, swept

from search.choose import choose
from search.device import load_device
from search.ends import counts
from search.later import LATENCY
from search.pareto import hypervolume, non_dominated
from search.preflight import check_also_on
from search.record import Score, TrialRecord, Violation
from search.results import Results, front_document, open_results, status_document
from search.run_folder import keep_definition
from search.sampler import constraints, distributions, lapsed, told
from search.selection import best, fits, front_of
from search.variants import Speakers, cheapest, flat, points, reference_for, students, variant_id
from sekd.errors import InputError

WEIGHT = {"objectives/cost": ["weight_kib"], "budget": {"weight_kib": 2.0}}
GP = {"space": NUMERIC | {"student.width": {"int": [4, 16], "step": 2}, "deploy.dtype": FREE["space/deploy.dtype"]}}


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEKD_CACHE", raising=False)


def searched(folder, changes=None, **options):
    path = write_definition(folder, {**FREE, **WEIGHT, **(changes or {})})
    tuner, backend = drive(folder, lookup=swept, **options)
    keep_definition(path, folder / "run")
    return tuner, backend, open_results(str(folder / "run"))


def variant(number, name, **fields):
    setting = {"deploy.dtype": name}
    return student(number, variant=setting, variant_id=variant_id(f"t{number}", setting), **fields)


def trial(number, *variants, **fields):
    return student(number, pesq=None, ms=None, cost=None, variants=list(variants), **fields)


def test_a_sampler_never_sees_a_free_key(tmp_path):
    for sampler, changes in (("tpe", {}), ("gp", GP), ("random", {})):
        tuner, backend, _ = searched(tmp_path / sampler, {"trials": 13, "search/sampler": sampler, **changes})
        seen = [trial.params for trial in tuner.store._study.get_trials()] + [job.params for job in backend.submitted]
        seen += [distributions(tuner.study), *tuner.study.first()]
        assert len(seen) > 26 and not any(key.startswith("deploy.") for params in seen for key in params)
        assert all([setting["deploy.dtype"] for setting in job.sweep][0] == "fp32" for job in backend.submitted)


def test_a_trial_is_infeasible_only_if_no_setting_fits(tmp_path):
    _, _, results = searched(tmp_path, {"trials": 14, "budget": {"weight_kib": 1.4}})
    statuses = {}
    for record in results.trials:
        bytes_at_best = 400 * record.params["student.width"] * 0.25
        assert (record.status == "INFEASIBLE") == (bytes_at_best > 1.4 * 1024), record
        statuses.setdefault(record.status, record)
    over, fitting = statuses["INFEASIBLE"], statuses["COMPLETE"]
    # The cheapest stands for all, and is one student; what was tried is on record.
    assert over.variant == {"deploy.dtype": "int8_static"} and len(over.variants) == 3
    assert [v.key for v in over.violations] == ["weight_kib"] and points(over)[0].variants == []
    assert len(points(over)) == 1 and len(points(fitting)) == 3


def test_one_setting_within_a_wider_budget_lets_a_trial_lapse(tmp_path):
    study = definition(tmp_path, FREE | {"budget": {"weight_kib": 2.0, "state_kib": 1.0}})

    def over(name, key, value, limit):
        found = variant(0, name, status="INFEASIBLE", pesq=None)
        cost = found.cost.model_copy(update={key.replace("kib", "bytes"): int(value * 1024)})
        return found.model_copy(update={"cost": cost, "violations": [Violation(key=key, value=value, limit=limit)]})

    tried = [over("fp32", "weight_kib", 4.0, 1.0), over("int8_static", "state_kib", 1.2, 1.1)]
    record = cheapest(tried).model_copy(update={"variants": tried})
    assert record.variant == {"deploy.dtype": "int8_static"}
    assert not lapsed(record, study)
    wider = definition(tmp_path / "wider", FREE | {"budget": {"weight_kib": 5.0, "state_kib": 1.0}})
    assert lapsed(record, wider), "fp32 fits by now, though the cheapest does not"


def test_the_cheapest_is_the_one_whose_worst_excess_is_least():
    def tried(name, **over):
        broken = fits(variant(0, name), over, DEVICE)
        return variant(0, name, status="INFEASIBLE").model_copy(update={"violations": broken})

    one, two = tried("a", latency_ms=0.5, weight_kib=3.9), tried("b", latency_ms=0.8, weight_kib=3.0)
    unknown, unmade = tried("c", min_estoi=0.5), tried("d")
    assert cheapest([one, two]) is two and cheapest([unmade, unknown, one]) is one
    assert cheapest([unmade, unknown]) is unmade


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("objectives", [("pesq_wb", "latency_ms"), ("pesq_wb", "latency_ms", "weight_kib")])
def test_who_speaks_is_brute_force(seed, objectives):
    rng = np.random.default_rng(seed)
    limits = {"latency_ms": 6.0} if seed % 2 else {}
    unprocessed = {"pesq_wb": {"mean": 1.0}} if seed % 3 else {}

    def some(number, name):
        cost = student(0).cost.model_copy(update={"weight_bytes": int(rng.integers(1, 6)) * 1024})
        return variant(number, name, pesq=float(rng.integers(10, 30)) / 10, ms=float(rng.integers(1, 9)), cost=cost)

    trials = [trial(n, *(some(n, name) for name in "abc")) for n in range(12)]
    spoken = Speakers(objectives, limits, DEVICE, unprocessed=unprocessed).of(list(reversed(trials)))
    directions = ["maximize"] + ["minimize"] * (len(objectives) - 1)

    def values(points):
        return [[point.value(name, DEVICE) for name in objectives] for point in points]

    for n, this in enumerate(trials):
        seen, before = flat(trials[: n + 1]), [p for p in flat(trials[:n]) if not fits(p, limits, DEVICE)]
        reference = reference_for(values(seen), objectives, limits, unprocessed)
        volumes = [
            round(hypervolume(values([*before, own]), reference, directions), 9)
            if not fits(own, limits, DEVICE)
            else -1
            for own in points(this)
        ]
        if max(volumes) >= 0:
            assert spoken[n].variant_id == points(this)[volumes.index(max(volumes))].variant_id
        else:
            excesses = [own.value("latency_ms", DEVICE) for own in points(this)]
            assert spoken[n].value("latency_ms", DEVICE) == min(excesses)


def test_the_store_is_told_what_the_speaker_says(tmp_path):
    tuner, _, results = searched(tmp_path, {"trials": 10, "space/train.lr": None})
    baseline = {"pesq_wb": {"mean": 1.2, "n": 2}}
    spoken = Speakers(("pesq_wb", "weight_kib"), {"weight_kib": 2.0}, DEVICE, unprocessed=baseline).of(results.trials)
    dtypes = set()
    for asked in tuner.store._study.get_trials():
        record = spoken[asked.number]
        if record.status == "COMPLETE":
            assert asked.values == [record.score("pesq_wb"), record.value("weight_kib", DEVICE)]
            assert asked.constraints["weight_kib"] <= 0
            dtypes.add(record.variant["deploy.dtype"])
        else:
            assert asked.values is None and asked.constraints["weight_kib"] > 0
    assert len(dtypes) > 1
    # A duplicate is told what the first was told, though the front has it already.
    again = [record for record in results.trials if record.duplicate_of is not None and record.status == "COMPLETE"]
    assert again
    for record in again:
        first = spoken[record.duplicate_of]
        assert spoken[record.number].variant == first.variant and spoken[record.number].scores == first.scores


def test_a_duplicate_repeats_the_variants_under_its_own_number(tmp_path):
    _, backend, results = searched(tmp_path, {"trials": 10, "space/train.lr": None})
    again = next(r for r in results.trials if r.duplicate_of is not None and r.status == "COMPLETE")
    assert {(p.number, p.duplicate_of) for p in points(again)} == {(again.number, again.duplicate_of)}
    assert len(backend.submitted) == len({record.trial_id for record in results.trials})
    assert not any(record.duplicate_of is not None for record in results.front)


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_an_interrupted_sweep_is_the_same_search(tmp_path, sampler):
    changes = {"trials": 12, "search/sampler": sampler} | (GP if sampler == "gp" else {})
    _, _, whole = searched(tmp_path / "whole", changes)
    write_definition(tmp_path / "cut", {**FREE, **WEIGHT, **changes})
    for stop_at in (1, 6):

        def breaks(job, stop_at=stop_at):
            if job.number >= stop_at:
                raise ConnectionError("the driver ends here")
            return swept(job)

        with pytest.raises(ConnectionError):
            drive(tmp_path / "cut", lookup=breaks)
    _, _, cut = searched(tmp_path / "cut", changes)
    assert cut.trials == whole.trials


def test_what_is_counted_is_trials_and_what_is_shown_is_students(tmp_path):
    _, _, results = searched(tmp_path, {"trials": 9})
    document = status_document(results)
    complete = [record for record in results.trials if counts(record)]
    assert document["trials"]["complete"] == len(complete) == 9
    assert len(document["hypervolume_over_trials"]) == 9
    everything = front_document(results, everything=True)["all"]
    assert len(everything) == sum(len(points(record)) for record in results.trials) > len(results.trials)
    assert all("variants" not in found for found in everything)
    assert len({(found["number"], found["variant_id"]) for found in everything}) == len(everything)
    over = [found for found in everything if found["score_details"] and found["status"] == "INFEASIBLE"]
    assert over and all(found["violations"][0]["key"] == "weight_kib" for found in over)


def test_the_front_is_of_all_variants_and_brute_force(tmp_path):
    _, _, results = searched(tmp_path, {"trials": 9})
    fitting = [p for p in flat(results.trials) if p.trained and not fits(p, results.limits, DEVICE)]
    values = [(p.score("pesq_wb"), p.value("weight_kib", DEVICE)) for p in fitting]
    expected = {fitting[i].variant_id for i in non_dominated(values, ["maximize", "minimize"])}
    assert {record.variant_id for record in results.front} == expected
    assert len({record.variant["deploy.dtype"] for record in results.front}) > 1
    volume = status_document(results)["hypervolume"]
    reference = reference_for(
        [(p.score("pesq_wb"), p.value("weight_kib", DEVICE)) for p in flat(results.trials) if p.trained],
        ("pesq_wb", "weight_kib"), results.limits, results.baseline["unprocessed"],
    )  # fmt: skip
    assert volume == pytest.approx(hypervolume(values, reference, ["maximize", "minimize"]))


def test_select_takes_the_integers_where_floats_weigh_too_much(tmp_path):
    _, _, results = searched(tmp_path, {"trials": 9})
    chosen = best(results.records, {"weight_kib": 1.0}, "pesq_wb", DEVICE)
    assert chosen.variant["deploy.dtype"] != "fp32" and chosen.value("weight_kib", DEVICE) <= 1.0
    same = [record for record in results.records if record.number == chosen.number]
    assert [r.variant["deploy.dtype"] for r in same] == ["fp32", "int8_dynamic", "int8_static"]
    # A limit of the command's own may be wider than the budget: what is over the budget was trained all the same.
    wider = best(results.records, {"weight_kib": 100.0}, "pesq_wb", DEVICE)
    assert wider.variant == {"deploy.dtype": "fp32"} and wider.status == "INFEASIBLE"
    assert choose(results, {"weight_kib": 1e-3}).selected is None


def test_a_variant_that_failed_is_there_with_its_reason_and_out_of_the_way():
    failed = variant(0, "int8_static", status="FAILED", pesq=None, reason="no kernel")
    record = trial(0, variant(0, "fp32", ms=3.0), failed)
    assert [point.status for point in points(record)] == ["COMPLETE", "FAILED"]
    assert [p.variant for p in front_of(flat([record]), ["pesq_wb", "latency_ms"], {}, DEVICE)] == [
        {"deploy.dtype": "fp32"}
    ]
    spoken = Speakers(("pesq_wb", "latency_ms"), {"latency_ms": 2.0}, DEVICE).of([record])
    assert spoken[0].variant == {"deploy.dtype": "fp32"} and spoken[0].status == "COMPLETE"
    all_failed = trial(1, failed, status="FAILED", reason="no kernel")
    assert points(all_failed) == [all_failed.model_copy(update={"variants": []})]


def test_records_without_variants_read_as_before(tmp_path):
    path = write_definition(tmp_path)
    tuner, _ = drive(tmp_path, lookup=recorded)
    keep_definition(path, tmp_path / "run")
    for asked in tuner.store._study.get_trials():
        old = TrialRecord.model_validate_json(asked.user_attrs["sekd_record"]).model_dump()
        del old["variants"]
        assert TrialRecord.model_validate(old).variants == []
    results = open_results(str(tmp_path / "run"))
    assert results.records == results.trials
    figures = {"kind": "measured", "source": "local", "p50_ms": 0.25, "flags": []}
    results.store.note(LATENCY + "elsewhere", {"0": figures})  # as earlier versions wrote it
    assert results.store.records()[0].latency == {"elsewhere": figures}


def test_a_later_latency_is_of_one_variant_and_takes_its_flag_away(tmp_path):
    def flagged(job):
        record = swept(job)
        marked = [v.model_copy(update={"flags": ["noisy", "unmeasured:elsewhere"]}) for v in record.variants]
        return record.model_copy(update={"variants": marked})

    write_definition(tmp_path, {**FREE, "trials": 2})
    tuner, _ = drive(tmp_path, lookup=flagged)
    number = next(record.number for record in tuner.store.records() if counts(record))
    one, two, _ = tuner.store.records()[number].variants
    figures = {"kind": "measured", "source": "local", "p50_ms": 0.25, "flags": []}
    tuner.store.add_latency("elsewhere", {(number, two.variant_id): figures})
    again = tuner.store.records()[number].variants
    assert [v.latency for v in again] == [{}, {"elsewhere": figures}, {}]
    assert [v.flags for v in again[:2]] == [["noisy", "unmeasured:elsewhere"], ["noisy"]]


def test_a_space_of_free_keys_alone_is_one_trial(tmp_path):
    for sampler in ("tpe", "gp"):
        changes = {"space": {"deploy.dtype": FREE["space/deploy.dtype"]}, "teacher": None, "trials": 5}
        changes |= {"base/distill": {"schedule": {"kind": "supervised"}}, "search/sampler": sampler}
        _, backend, results = searched(tmp_path / sampler, changes)
        assert len(backend.submitted) == 1 and len(points(results.trials[0])) == 3


PREDICTED = """
name = "soc"
description = "for tests"
latency = "model"
cost_model = "soc.json"
"""


def test_a_study_on_a_predicted_device_is_told_predictions(tmp_path):
    (tmp_path / "soc.toml").write_text(PREDICTED)
    changes = FREE | {"device": "soc.toml", "objectives/cost": ["latency_ms"], "budget": {"latency_ms": 2.0}}
    study = definition(tmp_path, changes)
    guessed = student(0, ms=None, latency={"soc": {"kind": "predicted", "source": "model", "p50_ms": 1.5}})
    timed = student(1, ms=None, latency={"soc": {"kind": "measured", "source": "local", "p50_ms": 1.5}})
    assert told(guessed, study, []).values == [2.0, 1.5]
    assert told(timed, study, []).values is None, "one front never mixes kinds"
    assert constraints(guessed, study)["latency_ms"] == pytest.approx(-0.25)


@pytest.mark.parametrize(
    ("also_on", "part"),
    [
        (["x86-1cor"], "unknown device 'x86-1cor'; did you mean 'x86-1core'"),
        (["cortex-m7"], "'cortex-m7': latency cannot be measured yet"),
        (["x86-1core", "x86-1core"], "also_on: 'x86-1core' is measured already"),
        (["raspberry-pi-4"], "also_on: 'raspberry-pi-4' is measured already"),
    ],
)
def test_other_devices_are_looked_at_before_anything_runs(tmp_path, also_on, part):
    with pytest.raises(InputError, match=part):
        check_also_on(definition(tmp_path, {"also_on": also_on}))


def test_another_devices_limits_are_its_own(tmp_path):
    study = definition(tmp_path, {"budget": {"latency_ms": 1e3, "weight_kib": 2.0}})
    results = Results(study, tmp_path, None, [], DEVICE, {})
    profile = load_device("x86-1core").model_copy(update={"flash_kib": 1.0, "macs_per_s_budget": 7e6})
    there = results._replace(device="x86-1core", profile=profile)
    assert results.limits == {"latency_ms": 1e3, "weight_kib": 2.0}
    assert there.limits == {"weight_kib": 1.0, "macs_per_s": 7e6}
    assert results._replace(device="gone", profile=None).limits == {"weight_kib": 2.0}


def test_a_trained_variant_over_todays_limits_says_so():
    record = trial(0, variant(0, "fp32", ms=3.0), variant(0, "int8_dynamic", ms=1.0))
    over, fine = students([record], {"latency_ms": 2.0}, DEVICE)
    assert (over.status, fine.status) == ("INFEASIBLE", "COMPLETE") and over.trained
    assert [(v.key, v.value) for v in over.violations] == [("latency_ms", 3.0)]
    assert over.scores == {"pesq_wb": Score(mean=2.0, n=64, low=1.9, high=2.1)}
