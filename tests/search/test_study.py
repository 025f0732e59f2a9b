"""What a definition says, what it refuses, and what makes two studies the same."""

import pytest
import tomlkit
from definitions import HASHES, TINY, definition, write_definition

from search.study import absolute_text, find_definition, read_study, run_folder
from sekd.errors import InputError

RECORDINGS = {"pool": "p", "valid": "v", "teacher": "t"}


def test_reads(tmp_path):
    study = definition(tmp_path)
    assert (study.name, study.trials, study.objectives.names) == ("tiny", 8, ("pesq_wb", "macs_per_s"))
    assert study.objectives.directions == ["maximize", "minimize"]
    assert study.budget.limits() == {"macs_per_s": 20e6}
    assert study.conditional


MISTAKES = {
    "trails": ({"trails": 3}, "unknown key 'trails'; did you mean 'trials'"),
    "no trials": ({"trials": None}, "missing key 'trials'"),
    "objectives": ({"objectives/csot": []}, "unknown key 'objectives.csot'; did you mean 'cost'"),
    "quality": ({"objectives/quality": "pesq"}, "'pesq'; did you mean 'pesq_wb'"),
    "quality of DNSMOS": ({"objectives/quality": "dnsmos"}, "'dnsmos'; did you mean 'dnsmos_ovrl'"),
    "cost": ({"objectives/cost": ["latency"]}, "'latency'; did you mean 'latency_ms'"),
    "three costs": ({"objectives/cost": ["rtf", "macs_per_s", "parameters"]}, "one or two"),
    "budget": ({"budget/macs": 4}, "unknown key 'budget.macs'; did you mean 'macs_per_s'"),
    "budget of 0": ({"budget/macs_per_s": 0}, "greater than 0"),
    "train": ({"data/train/pool_minuts": 3}, "unknown key 'data.train.pool_minuts'; did you mean 'pool_minutes'"),
    "part": ({"data/vaild": {}}, "unknown key 'data.vaild'; did you mean 'valid'"),
    "test split": ({"data/valid/split": "test"}, "'data.valid.split' = 'test'"),
    "test part": ({"data/test": {"manifest": "demo"}}, "unknown key 'data.test'"),
    "space": ({"space/student.widht": {"choice": [4]}}, "unknown key 'student.widht'; did you mean 'width'"),
    "space top": (
        {"space/studnet.width": {"choice": [4]}},
        "space: unknown key 'studnet.width'; did you mean 'student'",
    ),
    "seed in space": ({"space/seed": {"int": [0, 9]}}, "space: unknown key 'seed'"),
    "data in base": ({"base/data": {}}, "base: unknown key 'data'"),
    "base": ({"base/train/lrr": 1}, "unknown key 'train.lrr'; did you mean 'lr'"),
    "value": ({"space/student.width": {"choice": [4, "x"]}}, "'student.width' = 'x'"),
    "table and setting": ({"space/distill.schedule": {"choice": [1]}}, "is a table of settings"),
    "enqueue key": ({"enqueue": [{"student.depth": 4}]}, "'student.depth' is not in the space"),
    "enqueue value": ({"enqueue": [{"student.width": 5}]}, "5 is no value of 'student.width'"),
    "no supervised": ({"space/distill.schedule.kind": {"choice": ["two_step", "one_step"]}}, "must offer 'supervised'"),
    "needs a teacher": ({"teacher": None}, "needs a \\[teacher\\]"),
    "free in training": (
        {"space/train.lr": {"choice": [1e-3], "free": True}},
        "'train.lr': free = true, but it acts in",
    ),
    "not free": ({"space/deploy.dtype": {"choice": ["fp32"]}}, "'deploy.dtype' acts after training"),
    "free value": (
        {"space/deploy.dtype": {"choice": ["fp32", "int9"], "free": True}},
        "'deploy.dtype' = 'int9'",
    ),
    "free key": ({"space/deploy.dtpe": {"choice": [1], "free": True}}, "'deploy.dtpe'; did you mean 'dtype'"),
    "enqueue free": (
        {"space/deploy.dtype": {"choice": ["fp32"], "free": True}, "enqueue": [{"deploy.dtype": "fp32"}]},
        "enqueue: 'deploy.dtype' is free",
    ),
    "threshold without gates": (
        {"space/student.gate.threshold": {"choice": [0.3, 0.5], "free": True}},
        "a student without gates has no threshold",
    ),
    "threshold without a step": (
        {"base/student": {"gate": {}}, "space/student.gate.threshold": {"float": [0.1, 0.9], "free": True}},
        "free = true tries every setting: give choice",
    ),
    "threshold searched": (
        {"base/student": {"gate": {}}, "space/student.gate.threshold": {"float": [0.1, 0.9], "step": 0.1}},
        "'student.gate.threshold' acts after training: it needs free = true",
    ),
    "share swept": (
        {"base/student": {"gate": {}}, "space/student.gate.static_share": {"choice": [0.5], "free": True}},
        "after training act deploy.\\*, student.gate.threshold",
    ),
    "base deploy": ({"base/deploy/dtpe": "fp32"}, "'deploy.dtpe'; did you mean 'dtype'"),
    "also on": ({"also_on": "x86-1core"}, "'also_on' = 'x86-1core'"),
    "run": ({"run/worker": 1}, "unknown key 'run.worker'; did you mean 'workers'"),
    "sampler": ({"search/sampler": "gpu"}, "'search.sampler' = 'gpu'"),
    "seed": ({"seed": -1}, "'seed' = -1"),
    "trials": ({"trials": "many"}, "'trials' = 'many'"),
    "data": ({"data": "demo"}, "'data' = 'demo'"),
}


@pytest.mark.parametrize("changes", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_with_the_file_and_the_right_word(tmp_path, changes):
    path = write_definition(tmp_path, changes[0])
    with pytest.raises(InputError, match=changes[1]) as caught:
        read_study(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_name_is_the_files(tmp_path):
    path = write_definition(tmp_path).rename(tmp_path / "other.toml")
    with pytest.raises(InputError, match="name = 'tiny' must equal the file's name, 'other'"):
        read_study(path)


@pytest.mark.parametrize("text", ["name = ", "name = 'tiny'\n[data", b"\xff\xfe"])
def test_no_toml(tmp_path, text):
    path = tmp_path / "tiny.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match="not a TOML file"):
        read_study(path)


def test_paths_are_relative_to_the_file_and_take_variables(tmp_path, monkeypatch):
    changes = {"data/train/manifest": "${RECORDINGS:-own}/MANIFEST.csv", "device": "my.toml"}
    changes["also_on"] = ["x86-1core", "${NO_FOLDER:-b}/other.toml"]
    path = write_definition(tmp_path / "a", changes)
    study = read_study(path)
    assert study.data["train"]["manifest"] == str(tmp_path / "a/own/MANIFEST.csv")
    assert study.data["valid"]["manifest"] == "demo"
    assert (study.device, study.device_name) == (str(tmp_path / "a/my.toml"), "my")
    assert study.also_on == ("x86-1core", str(tmp_path / "a/b/other.toml"))
    monkeypatch.setenv("RECORDINGS", "/there")
    assert read_study(path).data["train"]["manifest"] == "/there/MANIFEST.csv"


def test_a_teachers_code_may_move(tmp_path):
    tables = [{"module": "${CODE:-mine}/teacher.py:load"}, {"module": "other/teacher.py:load"}]
    one, two = (read_study(write_definition(tmp_path, {"teacher": table})) for table in tables)
    assert one.teacher == {"module": f"{tmp_path}/mine/teacher.py:load"}
    assert one.identity(RECORDINGS) == two.identity(RECORDINGS)
    other = definition(tmp_path, {"teacher": {**tables[0], "options": {"size": 3}}})
    assert other.identity(RECORDINGS) != one.identity(RECORDINGS)


def test_a_variable_that_is_not_set_is_named(tmp_path):
    path = write_definition(tmp_path, {"data/train/manifest": "${NOT_SET_ANYWHERE}/x.csv"})
    with pytest.raises(InputError, match="NOT_SET_ANYWHERE is not set"):
        read_study(path)


def test_what_a_run_keeps_reads_the_same_elsewhere(tmp_path):
    path = write_definition(tmp_path / "a", {"data/train/manifest": "x.csv"})
    path.write_text("# why we search\n" + path.read_text())
    kept = tmp_path / "b" / "definition.toml"
    kept.parent.mkdir()
    kept.write_text(absolute_text(path))
    assert kept.read_text().startswith("# why we search")
    assert read_study(kept) == read_study(path)


@pytest.mark.parametrize(
    ("changes", "changed"),
    [
        ({"trials": 99}, []),
        ({"run/workers": 7}, []),
        ({"run/threads": 4}, []),
        ({"device": "cortex-m7"}, []),
        ({"also_on": ["x86-1core"]}, []),
        ({"space/deploy.dtype": {"choice": ["fp32"], "free": True}}, ["space"]),
        ({"base/deploy": {"dtype": "int8_dynamic"}}, ["base"]),
        ({"budget/weight_kib": 9}, []),
        ({"enqueue": [{"student.width": 8}]}, []),
        ({"data/train/manifest": "/elsewhere/MANIFEST.csv"}, []),
        ({"seed": 4}, ["seed"]),
        ({"base/train/steps": 4}, ["base"]),
        ({"space/student.width": {"choice": [4, 6]}}, ["space"]),
        ({"objectives/quality": "estoi"}, ["objectives"]),
        ({"data/train/pool_minutes": 9}, ["data"]),
        ({"data/valid/count": 9}, ["data"]),
        ({"teacher/train/steps": 9}, ["teacher"]),
    ],
)
def test_identity(tmp_path, changes, changed):
    before = definition(tmp_path / "a").identity(RECORDINGS)
    after = definition(tmp_path / "b", changes).identity(RECORDINGS)
    assert [key for key in before if before[key] != after[key]] == changed


def test_identity_hangs_on_the_recordings_and_not_on_comments(tmp_path):
    path = write_definition(tmp_path)
    study = read_study(path)
    path.write_text("# a remark\n" + path.read_text())
    assert read_study(path).identity(RECORDINGS) == study.identity(RECORDINGS)
    other = study.identity(RECORDINGS | {"pool": "q"})
    assert [key for key, value in study.identity(RECORDINGS).items() if other[key] != value] == ["data"]
    other = study.identity(RECORDINGS | {"teacher": "u"})
    assert [key for key, value in study.identity(RECORDINGS).items() if other[key] != value] == ["teacher"]


def test_the_supervised_student_comes_first_then_the_users(tmp_path):
    mine = {"student.width": 4, "distill.schedule.kind": "one_step"}
    first = definition(tmp_path, {"enqueue": [mine]}).first()
    assert first[0]["distill.schedule.kind"] == "supervised"
    assert "distill.schedule.kd_only_fraction" not in first[0]
    assert first[1] == mine


def test_a_supervised_trial_is_the_same_whatever_its_teacher(tmp_path):
    from sekd.config import parse
    from sekd.distillation import DistillConfig

    study = definition(tmp_path)
    other = HASHES.model_copy(update={"teacher": "another"})
    for kind, same in (("supervised", True), ("one_step", False)):
        config = parse(DistillConfig, study.document({"distill.schedule.kind": kind}), "t")
        assert (config.identity(HASHES) == config.identity(other)) == same


def test_found_by_name_and_by_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path))
    path = write_definition(tmp_path)
    assert find_definition("tiny") == find_definition(str(path)) == path
    assert find_definition("quickstart").name == "quickstart.toml"
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        find_definition("tinny")
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/definition.toml").write_text(tomlkit.dumps(tomlkit.parse(TINY)))
    assert run_folder("tiny") == run_folder(str(tmp_path / "runs/tiny")) == tmp_path / "runs/tiny"
    with pytest.raises(InputError, match="did you mean 'tiny'"):
        run_folder("tinny")
