"""One real, tiny search: a diffusion teacher, consistency students, and how often each of them is asked."""

import json
import tomllib

import pytest
import soundfile
from definitions import write_definition
from tiny_search import searched

import search.network_latency
from search.choose import choose
from search.graphs.graph import graph_facts
from search.latency import Latency
from search.objective import run_trial
from search.reprofile import reprofile
from search.results import open_results
from search.study import read_study
from sekd.checkpoint import hash_of_weights, load_model
from sekd.errors import InputError
from sekd.models import Diffusion
from sekd.torch_enhancer import load_enhancer

BACKBONE = {"width": 4, "multipliers": [1, 2]}
STEPS = [1, 2, 4]
STUDY = {
    "trials": 2, "objectives/cost": ["rtf", "macs_per_s"], "budget": {"rtf": 0.9},
    "teacher": {"network": {"family": "diffusion", "backbone": BACKBONE, "steps": 1}, "train": {"steps": 2}},
    "base/student": {"family": "consistency", "backbone": BACKBONE, "segment_frames": 16, "overlap_hops": 2},
    "base/distill": {"schedule": {"kind": "consistency"}},
    "base/train": {"steps": 2, "batch": 2},
    "space": {
        "distill.schedule.kind": {"choice": ["consistency", "consistency_training"]},
        "student.steps": {"choice": STEPS, "free": True},
    },
}  # fmt: skip


def timed(path, device, *, level=None, lock=None, samples=None):
    """A millisecond for each evaluation: one of these networks has 16 convolutions."""
    facts = graph_facts(path)
    evaluations = facts.operators["Conv"] // 16
    return Latency(
        kind="measured", source="local", level=level.name, p50_ms=evaluations, hop_ms=facts.hop_ms,
        rtf=evaluations / facts.hop_ms, n=44,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a search of two trials, and the jobs that it submitted."""
    with searched(tmp_path_factory.mktemp("home"), STUDY, timed) as found:
        yield found


def test_one_training_gives_a_student_for_each_number_of_evaluations(run):
    folder, jobs = run
    assert [job.params["distill.schedule.kind"] for job in jobs] == ["consistency_training", "consistency"]
    records = [record for record in open_results("tiny").records if record.duplicate_of is None]
    assert [(record.number, record.variant["student.steps"]) for record in records] == [
        (job.number, steps) for job in jobs for steps in STEPS
    ]
    assert {record.status for record in records} == {"COMPLETE"}, [record.reason for record in records]
    one, two, four = (record.cost.macs_per_s for record in records[:3])
    assert four - two == pytest.approx(2 * (two - one))
    assert len({record.score("si_sdr_db") for record in records}) == 6
    times = [record.value("rtf", "near") for record in records]
    assert times == pytest.approx([record.variant["student.steps"] / 208 for record in records])


def test_nothing_was_made_that_no_student_reads(run):
    folder, jobs = run
    shared = jobs[0].shared
    assert shared.outputs is None and shared.pool is not None
    assert not list((folder.parents[1] / "cache").glob("outputs-*"))
    teacher = load_model(shared.teacher.model)
    assert isinstance(teacher, Diffusion) and teacher.config.steps == 1


def test_the_package_asks_as_often_as_the_student_that_was_chosen(run, tmp_path):
    results = open_results("tiny")
    best = choose(results, {"min_si_sdr_db": -100}, maximize="si_sdr_db", out=tmp_path / "p", certificate=False)
    steps = best.selected.variant["student.steps"]
    assert tomllib.loads((best.package / "config.toml").read_text())["student"]["steps"] == steps
    torch_model = load_model(best.package / "model.safetensors")
    assert torch_model.config.steps == steps
    assert hash_of_weights(torch_model) == hash_of_weights(
        load_model(results.folder / "trials" / str(best.selected.number) / "model.safetensors")
    )
    noisy, _ = soundfile.read(sorted((best.package / "audio").glob("*_noisy.flac"))[0], dtype="float32")
    ours, theirs = (load_enhancer(best.package / f"model.{kind}").enhance(noisy) for kind in ("onnx", "safetensors"))
    assert abs(ours - theirs).max() < 1e-4


def test_a_profile_with_a_budget_for_each_frame_rejects_segments(run, tmp_path, monkeypatch):
    folder, jobs = run
    frames = jobs[0].shared.device.model_copy(update={"max_segment_ms": None})
    job = jobs[0].model_copy(
        update={"shared": jobs[0].shared.model_copy(update={"device": frames}), "folder": tmp_path / "trial"}
    )
    monkeypatch.setattr(search.network_latency, "measure", timed)
    record = run_trial(job, lambda stage, share: None)
    assert record.status == "INFEASIBLE" and record.violations[0].key == "segment_ms"
    assert "a budget for each frame, and no segments" in record.reason
    assert json.loads((tmp_path / "trial" / "result.json").read_text())["seconds"]["train"] is None


def test_a_study_in_which_nobody_could_tell_what_the_teacher_brings_is_refused(tmp_path):
    path = write_definition(tmp_path, STUDY | {"space/distill.schedule.kind": {"choice": ["consistency"]}})
    with pytest.raises(InputError, match="must offer 'consistency_training'"):
        read_study(path)


def test_later_too_a_device_without_segments_measures_none(run, tmp_path):
    (tmp_path / "frames.toml").write_text('name = "frames"\ndescription = "for tests"\nlatency = "local"\n')
    said: list[str] = []
    reprofile(open_results("tiny"), str(tmp_path / "frames.toml"), say=said.append)
    assert len(said) == len(STEPS) and all("not measured: frames: it has a budget for each frame" in s for s in said)
    assert all("frames" not in record.latency for record in open_results("tiny").records)
