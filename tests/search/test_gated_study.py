"""A study of gated students: what is prepared for them, and how it reaches a trial."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from definitions import definition, prepared_run, recorded

import search.objective as objective
import search.tuner as tuner_module
from search.backends.table import TableBackend
from search.feasible import _step_seconds
from search.trial import make_job
from search.tuner import Tuner
from search.view import View

GATED = {"base/student": {"gate": {"static_share": 0.5}}}
CONSTANT = {"base/distill": {"gate": {"guidance": "constant"}}}
BOTH = {"space/distill.gate.guidance": {"choice": ["constant", "dnsmos"]}}


@pytest.mark.parametrize(
    "changes, gated, reads",
    [
        ({}, False, False),
        (GATED, True, True),
        (GATED | CONSTANT, True, False),
        (GATED | CONSTANT | BOTH, True, True),
        ({"space/student.gate.static_share": {"choice": [0.25, 0.5]}}, True, True),
    ],
)
def test_a_study_knows_whether_its_students_have_gates_and_who_guides_them(tmp_path, changes, gated, reads):
    study = definition(tmp_path, changes)
    assert (study.gated, study.reads_ovrl) == (gated, reads)


def test_what_guides_gates_is_prepared_and_reaches_the_trial(tmp_path, monkeypatch):
    study = definition(tmp_path, GATED)
    made = prepared_run(study, tmp_path / "run")._replace(pool=tmp_path / "pool", ovrl=tmp_path / "ovrl-x")
    asked, given = {}, {}
    monkeypatch.setattr(tuner_module, "prepare", lambda *args, **wanted: asked.update(wanted) or made)
    tuner = Tuner(study, tmp_path / "run", TableBackend(recorded), View())
    assert asked["pool"] and asked["ovrl"]
    student = SimpleNamespace(model=None, train_seconds=1.0, environment={})
    monkeypatch.setattr(objective, "distill", lambda config, **what: given.update(what) or student)
    job = make_job(study, 0, "id0", {}, tmp_path / "run", tuner._shared)
    job.folder.mkdir(parents=True)
    objective._trained(job, SimpleNamespace(step=nullcontext), lambda stage, share: None)  # type: ignore[arg-type]
    assert given["prepared"] == made


def test_the_time_of_a_step_is_that_of_a_gated_student(tmp_path):
    assert _step_seconds(definition(tmp_path, GATED), {"student.width": 4}) > 0
