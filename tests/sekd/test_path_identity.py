"""Who may teach whom on a path, what a student begins as, and which trainings are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from path_signals import STUDENT, TEACHER

from sekd.checkpoint import hash_of_weights, save_model
from sekd.config import parse
from sekd.distillation import DistillConfig
from sekd.errors import InputError
from sekd.models import CruseConfig, build
from sekd.models.ncsnpp import NcsnppConfig
from sekd.path_learning import leader, walk_of
from sekd.preparation import Hashes
from sekd.teacher_source import TeacherSource

HASHES = Hashes(pool="p", valid="v", teacher="t")
DEMO = {"train": {"manifest": "demo"}, "valid": {"manifest": "demo"}}
LED, UNLED = {"kind": "consistency"}, {"kind": "consistency_training"}


def document(**changes) -> dict:
    """A consistency student that a diffusion model of the same kind leads."""
    base = {
        "student": {"family": "consistency"},
        "distill": {"schedule": LED},
        "train": {"steps": 100},
        "teacher": {"network": {"family": "diffusion"}},
        "data": DEMO,
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def configure(**changes) -> DistillConfig:
    return parse(DistillConfig, document(**changes), "distil.toml")


def identity(led_by: str = "t", **changes) -> str:
    return configure(**changes).identity(HASHES.model_copy(update={"teacher": led_by}))


CONSISTENCY_ONLY = "consistency functions learn by 'consistency' or 'consistency_training', and nothing else does"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"student": {"width": 4}}, f"student.family = 'cruse': {CONSISTENCY_ONLY}"),
        ({"student": {"family": "predictive"}}, "the deterministic twin of one is the family 'predictive'"),
        ({"distill": {"schedule": {"kind": "one_step"}}}, "distill.schedule.kind = 'one_step' and student.family"),
        ({"distill": {"schedule": {"kind": "supervised"}}}, "distill.schedule.kind = 'supervised' and student.family"),
        (
            {"student": {"family": "diffusion"}, "distill": {"schedule": {"kind": "one_step"}}},
            "'one_step': a diffusion model learns in its own way; say 'supervised'",
        ),
        ({"teacher": None}, "distill.schedule.kind = 'consistency' needs a [teacher]"),
        ({"teacher": {"model": "t.onnx"}}, "needs a diffusion model of ours as teacher"),
        ({"teacher": {"module": "mine.py:make"}}, "needs a diffusion model of ours as teacher"),
        ({"teacher": {"network": {"width": 8}}}, "the teacher must be of the family 'diffusion', not 'cruse'"),
        ({"teacher": {"network": {"family": "predictive"}}}, "must be of the family 'diffusion', not 'predictive'"),
        ({"student": {"family": "consistency", "spectra": {"hop": 128}}}, "student.spectra (n_fft=510 hop=128"),
        ({"student": {"family": "consistency", "path": {"theta": 2.0}}}, "student.path (theta=2.0"),
        ({"student": {"family": "consistency", "sigma_data": 0.2}}, "student.sigma_data (0.2) must equal that of the"),
        ({"student": {"family": "consistency", "gate": {}}}, "gate: networks on a path are not slimmable"),
    ],
)
def test_who_cannot_teach_or_learn_is_told_so_in_one_line(changes, message):
    with pytest.raises(InputError) as error:
        configure(**changes)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_teacher_of_another_size_may_lead_and_one_that_nobody_hears_is_not_asked():
    assert configure(student={"family": "consistency", "backbone": {"width": 8}}).teacher is not None
    assert configure(distill={"schedule": UNLED}, teacher=None).teacherless
    assert configure(distill={"schedule": UNLED}, teacher={"network": {"width": 8}}).teacherless


def saved(config, folder: Path) -> TeacherSource:
    torch.manual_seed(1)
    save_model(build(config), folder / "teacher.safetensors")
    return TeacherSource(model=str(folder / "teacher.safetensors"))


@pytest.mark.parametrize(
    "teacher, message",
    [
        (CruseConfig(width=2), "the teacher must be of the family 'diffusion', not 'cruse'"),
        (TEACHER.model_copy(update={"sigma_data": 0.3}), "student.sigma_data (0.1) must equal that of the teacher"),
    ],
)
def test_a_file_that_cannot_lead_is_named_in_one_line(tmp_path, teacher, message):
    source = saved(teacher, tmp_path)
    with pytest.raises(InputError) as error:
        leader(source, STUDENT, configure().distill)
    assert str(error.value).startswith(f"{source.model}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("backbone", [TEACHER.backbone, NcsnppConfig(width=8, multipliers=(1, 2))])
def test_a_student_of_the_teachers_backbone_begins_with_its_weights(tmp_path, backbone):
    teacher = leader(saved(TEACHER, tmp_path), STUDENT, configure().distill)
    torch.manual_seed(2)
    student = build(STUDENT.model_copy(update={"backbone": backbone}))
    before = hash_of_weights(student)
    walk = walk_of(student, configure().distill, teacher)
    if backbone == TEACHER.backbone:
        assert hash_of_weights(student.network) == hash_of_weights(teacher.network)
    else:
        assert hash_of_weights(student) == before
    assert hash_of_weights(walk.target) == hash_of_weights(student)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_without_a_teacher_a_student_begins_at_random(tmp_path):
    unled = configure(distill={"schedule": UNLED}).distill
    assert leader(saved(TEACHER, tmp_path), STUDENT, unled) is None
    torch.manual_seed(2)
    student = build(STUDENT)
    before = hash_of_weights(student)
    assert walk_of(student, unled, None).teacher is None and hash_of_weights(student) == before


def test_networks_without_a_path_are_placed_nowhere():
    assert walk_of(build(CruseConfig(width=2)), configure().distill, None) is None


@pytest.mark.parametrize(
    "kind, before_paths",
    [
        ("supervised", "8c1594908b69d69d"),
        ("one_step", "476063157c5ec9d5"),
        ("two_step", "0c295113b7794afc"),
        ("two_step_kept", "99d571507229ac60"),
    ],
)
def test_trainings_without_a_path_are_called_as_ever(kind, before_paths):
    """The names are those that the code before there were paths gave."""
    teacher = {"network": {"width": 24}}
    assert identity(student={"width": 12}, distill={"schedule": {"kind": kind}}, teacher=teacher) == before_paths


def test_what_says_how_a_path_is_learnt_makes_no_other_training_where_there_is_none():
    plain = {"student": {"width": 12}, "teacher": {"network": {"width": 24}}}
    for kind in ("supervised", "one_step"):
        section = {"schedule": {"kind": kind}, "consistency": {"solver": "euler", "pesq": 0.0, "points": 7}}
        assert identity(**plain, distill={"schedule": {"kind": kind}}) == identity(**plain, distill=section)


@pytest.mark.parametrize("knob", [{"steps": 4}, {"renoise": "marginal"}, {"last_time": 0.3}, {"noise_scale": 0.0},
                                  {"noise_seed": 7}])  # fmt: skip
@pytest.mark.parametrize("schedule", [LED, UNLED])
def test_how_a_student_is_asked_makes_no_other_training(schedule, knob):
    asked = identity(student={"family": "consistency", **knob}, distill={"schedule": schedule})
    assert asked == identity(distill={"schedule": schedule})


@pytest.mark.parametrize("change", [{"solver": "euler"}, {"randomised": False}])
def test_only_who_is_led_cares_how(change):
    assert identity(distill={"schedule": LED, "consistency": change}) != identity()
    unled = {"schedule": UNLED}
    assert identity(distill={**unled, "consistency": change}) == identity(distill=unled)
    assert identity(led_by="other") != identity()
    assert identity(led_by="other", distill=unled) == identity(distill=unled)


@pytest.mark.parametrize("schedule", [LED, UNLED])
def test_whatever_else_is_learnt_is_another_training(schedule):
    distill = {"schedule": schedule}
    others = [{"points": 18}, {"weight": 0.0}, {"pesq": 0.0}, {"si_snr": 1e-4}, {"auxiliary_from": 0.5}]
    found = {identity(distill={**distill, "consistency": other}) for other in [{}, *others]}
    found.add(identity(distill={**distill, "loss_level": "raw"}))
    for student in ({"boundary": "exact"}, {"backbone": {"width": 8}}):
        found.add(identity(student={"family": "consistency", **student}, distill=distill))
    for shared in ({"sigma_data": 0.2}, {"path": {"theta": 2.0}}, {"spectra": {"hop": 128}}):
        both = {
            "student": {"family": "consistency", **shared},
            "teacher": {"network": {"family": "diffusion", **shared}},
        }
        found.add(identity(**both, distill=distill))
    assert len(found) == 1 + 5 + 1 + 2 + 3
    # No term but those on the path is read, and the schedule's shares mix nothing.
    for same in ({"term": "output_l2"}, {"supervised": {"psa": 1.0}}, {"schedule": {**schedule, "kd_weight": 0.9}}):
        assert identity(distill={**distill, **same}) in found


def test_both_ways_to_learn_and_the_mean_are_told_apart():
    found = [identity(), identity(distill={"schedule": UNLED}), identity(train={"steps": 100, "ema": 0.5})]
    assert len(set(found)) == 3
    assert identity(train={"steps": 100, "ema": 0.95}) == identity()  # what a mean of 100 steps is, unless told
