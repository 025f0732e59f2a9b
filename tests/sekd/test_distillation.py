"""From a configuration to a student: the same one twice, with an identity that says what it depends on."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import speech_like

from sekd.audio import list_audio
from sekd.checkpoint import hash_of_weights, load_model, save_model
from sekd.config import parse
from sekd.distillation import DistillConfig, distill, load_config, training_audio
from sekd.errors import InputError
from sekd.models import build
from sekd.pool import Rows
from sekd.preparation import Hashes, Prepared, prepare

TINY = {"width": 2, "depth": 2, "gru_groups": 2, "bands": 16, "n_fft": 128, "hop": 64}
HASHES = Hashes(pool="p", valid="v", teacher="t")


def document(corpus: Path, **changes) -> dict:
    source = {"manifest": str(corpus), "segment_s": 0.5}
    return {
        "student": TINY,
        "train": {"steps": 6, "batch": 2},
        "data": {"train": {**source, "pool_minutes": 0.1}, "valid": {**source, "count": 2}},
        "teacher": {"network": {**TINY, "width": 4}, "train": {"steps": 4, "batch": 2}},
        **changes,
    }


def configure(corpus: Path, **changes) -> DistillConfig:
    return parse(DistillConfig, document(corpus, **changes), "distil.toml")


SUPERVISED = {"schedule": {"kind": "supervised"}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def prepared(corpus, cache) -> Prepared:
    config = configure(corpus)
    return prepare(config.data, config.teacher, seed=0, cache=cache)


@pytest.mark.parametrize("kind", ["supervised", "one_step", "two_step", "two_step_kept"])
def test_the_same_configuration_gives_the_same_student(corpus, cache, prepared, kind):
    config = configure(corpus, distill={"schedule": {"kind": kind}})
    students = [distill(config, prepared=prepared, cache=cache) for _ in range(2)]
    hashes = {hash_of_weights(student.model) for student in students}
    assert len(hashes) == 1
    with torch.no_grad():
        assert students[0].model(torch.from_numpy(speech_like(0.5))[None]).isfinite().all()
    other = distill(config.model_copy(update={"seed": 1}), prepared=prepared, cache=cache)
    assert hash_of_weights(other.model) not in hashes


def test_all_is_made_again_in_another_cache(corpus, prepared, tmp_path):
    """Corpus, pool, teacher and its outputs come out the same, so that identities hold across machines."""
    config = configure(corpus)
    torch.set_flush_denormal(True)  # as onnxruntime leaves a thread in which a session was opened
    again = prepare(config.data, config.teacher, seed=0, cache=tmp_path)
    assert again.hashes == prepared.hashes
    for name in ("noisy.npy", "clean.npy"):
        assert (again.pool / name).read_bytes() == (prepared.pool / name).read_bytes()
    assert (again.outputs / "teacher.npy").read_bytes() == (prepared.outputs / "teacher.npy").read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".partial")]


def test_what_is_prepared_is_made_once(corpus, cache, prepared):
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.suffix != ".lock"}
    config = configure(corpus)
    said: list[str] = []
    assert prepare(config.data, config.teacher, seed=0, cache=cache, say=said.append) == prepared
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.suffix != ".lock"} == before
    assert said == []


def test_preparing_leaves_the_number_of_threads(corpus, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        config = configure(corpus)
        prepare(config.data, config.teacher, seed=1, cache=tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_validation_pairs_are_files_of_equal_names(prepared):
    noisy, clean = (list_audio(prepared.valid / part) for part in ("noisy", "clean"))
    assert [path.name for path in noisy] == [path.name for path in clean] == ["000.flac", "001.flac"]


def test_a_folder_belongs_to_one_configuration(corpus, cache, prepared, tmp_path):
    config = configure(corpus)
    distill(config, prepared=prepared, cache=cache, folder=tmp_path)
    with pytest.raises(InputError, match="holds the training of another configuration"):
        distill(config.model_copy(update={"seed": 1}), prepared=prepared, cache=cache, folder=tmp_path)


def test_a_folder_keeps_the_student_and_is_continued(corpus, cache, prepared, tmp_path):
    config = configure(corpus)
    first = distill(config, prepared=prepared, cache=cache, folder=tmp_path / "trial")
    assert sorted(path.name for path in (tmp_path / "trial").iterdir()) == ["identity", "model.safetensors"]
    again = distill(config, prepared=prepared, cache=cache, folder=tmp_path / "trial")
    assert hash_of_weights(again.model) == hash_of_weights(first.model)
    whole = distill(config, prepared=prepared, cache=cache)
    assert hash_of_weights(first.model) == hash_of_weights(whole.model)


def test_identity_is_what_can_change_the_result(corpus):
    config = configure(corpus)
    same = config.model_copy(update={"threads": 3, "expect": HASHES})
    assert config.identity(HASHES) == same.identity(HASHES)
    deployed = configure(corpus, deploy={"dtype": "int8_static", "exclude": ["GRU"]})  # after training
    assert config.identity(HASHES) == deployed.identity(HASHES)
    moved = config.model_copy(update={"data": configure(corpus.parent / "elsewhere.csv").data})
    assert config.identity(HASHES) == moved.identity(HASHES)
    others = [
        configure(corpus, seed=1),
        configure(corpus, student={**TINY, "width": 4}),
        configure(corpus, train={"steps": 7, "batch": 2}),
        configure(corpus, distill={"term": "output_l2"}),
        configure(corpus, distill={"dispatch": {"patch": 10}}),
    ]
    found = {each.identity(HASHES) for each in [config, *others]}
    found |= {config.identity(HASHES.model_copy(update={key: "x"})) for key in ("pool", "valid", "teacher")}
    assert len(found) == 9


def test_identity_of_a_supervised_student_has_no_teacher(corpus):
    plain = configure(corpus, distill=SUPERVISED)
    for section in (
        {"term": "output_l2"},
        {"kd_scale": 2.0},
        {"dispatch": {"patch": 10}},
        {"schedule": {"kind": "supervised", "kd_weight": 0.9}},
    ):
        changed = configure(corpus, distill={**SUPERVISED, **section})
        assert changed.identity(HASHES) == plain.identity(HASHES)
    assert plain.identity(HASHES.model_copy(update={"teacher": "x"})) == plain.identity(HASHES)
    weighed = configure(corpus, distill={**SUPERVISED, "supervised": {"psa": 1.0}})
    assert weighed.identity(HASHES) != plain.identity(HASHES)


def test_mixing_on_the_fly_is_not_a_pool(corpus, cache, prepared):
    """Without a teacher no segment comes twice: another result, hence another identity."""
    config = parse(DistillConfig, {**document(corpus, distill=SUPERVISED), "teacher": None}, "distil.toml")
    live = prepare(config.data, None, seed=0, cache=cache)
    assert live.pool is None and live.valid == prepared.valid
    assert config.identity(live.hashes) != config.identity(prepared.hashes)
    students = [distill(config, prepared=live, cache=cache) for _ in range(2)]
    assert hash_of_weights(students[0].model) == hash_of_weights(students[1].model)


def test_training_audio_is_the_beginning_of_the_pool(corpus, cache, prepared):
    config = configure(corpus, deploy={"calibration_s": 1.2})
    heard = list(training_audio(config, prepared, cache))
    assert [signal.shape for signal in heard] == [(8000,)] * 3  # segments of half a second
    assert np.array_equal(heard, Rows(prepared.pool, "noisy")[slice(3)])


def test_training_audio_without_a_pool_is_mixed_when_asked_for(corpus, cache):
    """The same signals as a pool would begin with, but for its 16 bits."""
    config = parse(DistillConfig, {**document(corpus, distill=SUPERVISED), "teacher": None}, "distil.toml")
    live = prepare(config.data, None, seed=0, cache=cache)
    heard = list(islice(training_audio(config, live, cache), 4))
    pool = prepare(config.data, configure(corpus).teacher, seed=0, cache=cache).pool
    assert np.allclose(heard, Rows(pool, "noisy")[slice(4)], atol=1e-4)


@pytest.mark.parametrize("key", ["pool", "valid", "teacher"])
def test_other_recordings_or_another_teacher_are_refused(corpus, cache, prepared, key):
    expected = prepared.hashes.model_copy(update={key: "somethingelse"})
    config = configure(corpus).model_copy(update={"expect": expected})
    with pytest.raises(InputError, match=f"expect.{key} = 'somethingelse', but this {key} is"):
        distill(config, prepared=prepared, cache=cache)
    distill(configure(corpus).model_copy(update={"expect": prepared.hashes}), prepared=prepared, cache=cache)


def test_a_schedule_with_a_teacher_needs_one(corpus):
    with pytest.raises(InputError, match=r"distill.schedule.kind = 'one_step' needs a \[teacher\]"):
        parse(DistillConfig, {**document(corpus), "teacher": None}, "distil.toml")


TOML = """
[student]
width = 4
[data]
train = { clean = "speech", noise = "${SEKD_TEST_NOISE:-noises}" }
valid = { manifest = "demo" }
[teacher]
model = "../teacher.safetensors"
"""


def test_paths_are_relative_to_the_file_and_may_name_variables(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "distil.toml"
    path.write_text(TOML)
    monkeypatch.delenv("SEKD_TEST_NOISE", raising=False)
    config = load_config(path)
    assert config.data.train.clean == str(tmp_path / "deep" / "speech")
    assert config.data.train.noise == str(tmp_path / "deep" / "noises")
    assert config.data.valid.manifest == "demo"
    assert config.teacher is not None and config.teacher.model == str(tmp_path / "teacher.safetensors")
    monkeypatch.setenv("SEKD_TEST_NOISE", "/elsewhere")
    assert load_config(path).data.train.noise == "/elsewhere"


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "No such file"),
        ("x =", "not a TOML file"),
        ("studnet = 1\n" + TOML, "unknown key 'studnet'; did you mean 'student'?"),
        (TOML.replace("width", "widht"), "unknown key 'student.widht'; did you mean 'width'?"),
        (TOML.replace("[data]", "[x]"), "missing key 'data'"),
        (TOML.replace(":-noises", ""), "environment variable SEKD_TEST_NOISE is not set"),
    ],
)
def test_configurations_that_cannot_be_read_are_one_line(tmp_path, monkeypatch, text, message):
    monkeypatch.delenv("SEKD_TEST_NOISE", raising=False)
    if text is not None:
        (tmp_path / "distil.toml").write_text(text)
    with pytest.raises(InputError) as error:
        load_config(tmp_path / "distil.toml")
    assert message in str(error.value) and "\n" not in str(error.value)


def broken_weights(path: Path, corpus: Path, damage: str) -> None:
    model = build(configure(corpus).student)
    save_model(model, path)
    content = path.read_bytes()
    if damage in ("truncated", "empty", "text"):
        path.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"hello" * 50}[damage])
    elif damage == "foreign":
        save_file({"weight": torch.zeros(3)}, path)
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "not finite":
        next(model.parameters()).data.fill_(torch.nan)
        save_model(model, path)
    elif damage == "other weights":
        model.config = model.config.model_copy(update={"width": 3})
        save_model(model, path)
    elif damage == "missing":
        path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        ("truncated", "not a whole safetensors file"),
        ("empty", "not a whole safetensors file"),
        ("text", "not a whole safetensors file"),
        ("folder", "is a folder"),
        ("missing", "no such file"),
        ("foreign", "not a model of sekd"),
        ("not finite", "some weights are not finite"),
        ("other weights", "weights do not belong to the network"),
    ],
)
def test_weights_that_cannot_be_used_are_one_line(corpus, tmp_path, damage, message):
    path = tmp_path / "teacher.safetensors"
    broken_weights(path, corpus, damage)
    with pytest.raises(InputError) as error:
        load_model(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_teacher_that_is_no_model_is_noticed_before_training(corpus, cache, prepared, tmp_path):
    (tmp_path / "t.safetensors").write_bytes(b"nothing")
    config = configure(corpus, teacher={"model": str(tmp_path / "t.safetensors")})
    with pytest.raises(InputError, match="t.safetensors: not a whole safetensors file"):
        distill(config, cache=cache)


def test_a_teacher_may_be_weights_of_ours(corpus, cache, prepared, tmp_path):
    config = configure(corpus, teacher={"model": prepared.teacher.model})
    again = prepare(config.data, config.teacher, seed=0, cache=cache)
    assert again.hashes == prepared.hashes and again.outputs == prepared.outputs
