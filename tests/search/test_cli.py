"""The commands as a person meets them: exit codes, one line for a mistake, one document with --json."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from definitions import write_definition
from streaming_onnx import streaming_model

from search.cli import main

RATE = 16_000


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("SEKD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SEKD_CACHE", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture
def run(capsys):
    """Runs a command; its exit code, stdout and stderr."""

    def command(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def refused(run):
    """Runs a command that must be refused: code 2, nothing on stdout, one line; gives back the line."""

    def command(*arguments):
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), err
        assert err.count("\n") == 1 and err.startswith("sekd") and "Traceback" not in err, err
        return err

    return command


def test_help_loads_nothing_heavy():
    text = (
        "import sys; from search.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([n for n in ('torch', 'ray', 'optuna', 'onnxruntime', 'pydantic') if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "launch" in done.stdout and done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["launhc", "tiny"], "unknown command 'launhc'; did you mean 'launch'"),
        (["launch"], "required: STUDY"),
        (["launch", "tiny", "--trails", "3"], "'--trails'; did you mean '--trials'"),
        (["launch", "tiny", "--trials", "0"], "'0' is not a whole number above 0"),
        (["launch", "tiny", "--trials", "-1"], "'-1' is not a whole number above 0"),
        (["launch", "tiny", "--workers", "two"], "'two' is not a whole number above 0"),
        (["launch", "tiny", "--backend", "rya"], "'rya'"),
        (["launch", "quikstart"], "did you mean 'quickstart'"),
        (["launch", "nowhere/tiny.toml"], "nowhere/tiny.toml: no such file"),
        (["resume", "tinny"], "no run of 'tinny'"),
        (["status", "tinny", "--json"], "no run of 'tinny'"),
        (["select", "tinny", "--json"], "no run of 'tinny'"),
        (["report", "tinny"], "no run of 'tinny'"),
        (["clean", "tinny"], "no run of 'tinny'"),
        (["select", "tiny", "--max-latency-ms", "fast"], "'fast' is not a number"),
        (["select", "tiny", "--max-latency-ms", "nan"], "'nan' is not a number"),
        (["devices", "x86-1cor"], "did you mean 'x86-1core'"),
        (["measure", "none.onnx", "--device", "x86-1core"], "none.onnx: no such file"),
        (["measure", "none.onnx", "--device", "x86"], "unknown device 'x86'; did you mean 'x86-1core'"),
        (["measure", "none.onnx"], "--device"),
        (["train", "none.toml"], "none.toml"),
        (["evaluate", "none.onnx", "pairs"], "none.onnx: no such file"),
        (["enhance", "none.safetensors", "in.wav", "out.wav"], "none.safetensors: no such file"),
        (["init", "nowhere"], "nowhere: no such folder"),
        (["demo-corpus", "x", "--minutes", "0"], "'0' is not above 0"),
    ],
)
def test_wrong_usage(refused, arguments, part):
    assert part in refused(*arguments)


STUDY_MISTAKES = {
    "device": ({"device": "raspbery-pi-4"}, "did you mean 'raspberry-pi-4'"),
    "latency of a device that is not here": ({"budget/latency_ms": 4}, "latency cannot be measured yet"),
    "key": ({"data/train/pool_minuts": 3}, "did you mean 'pool_minutes'"),
    "empty folders": ({"data/train": {"clean": "../none", "noise": "../none"}}, "none: no audio files"),
    "no noise": ({"data/train": {"clean": "../speech", "noise": "../nosie"}}, "nosie"),
    "manifest": ({"data/valid/manifest": "none.csv"}, "none.csv: cannot read the manifest"),
    "teacher": ({"teacher": {"model": "../broken.safetensors"}}, "broken.safetensors: not a whole safetensors file"),
}


@pytest.mark.parametrize("changes", STUDY_MISTAKES.values(), ids=STUDY_MISTAKES)
def test_a_study_that_cannot_run(refused, home, tmp_path, changes):
    (tmp_path / "none").mkdir()
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "a.wav", tone(3 * RATE), RATE)
    (tmp_path / "broken.safetensors").write_bytes(b"\x20\x00\x00\x00\x00\x00\x00\x00{}")
    if "model" in changes[0].get("teacher", {}):  # the recordings are read before the teacher
        changes[0]["data/train"] = {"clean": "../speech", "noise": "../speech", "pool_minutes": 0.1}
        changes[0]["data/valid"] = {"clean": "../speech", "noise": "../speech", "count": 1}
    write_definition(home, changes[0])
    assert changes[1] in refused("launch", "tiny", "--json")


def tone(samples):
    return (0.1 * np.sin(np.arange(samples) * 0.1)).astype(np.float32)


def test_folders_that_cannot_be_written(refused, home, monkeypatch):
    write_definition(home)
    path = home / "tiny.toml"
    (home / "file").write_text("")
    monkeypatch.setenv("SEKD_CACHE", str(home / "file" / "cache"))
    assert "cannot make the cache here" in refused("launch", "tiny")
    monkeypatch.setenv("SEKD_HOME", str(home / "file"))
    assert "cannot write the run here" in refused("launch", path)
    assert "cannot write" in refused("train", write_config(home), "--out", home / "file" / "x")


def write_config(folder):
    path = folder / "config.toml"
    path.write_text(
        '[distill.schedule]\nkind = "supervised"\n[train]\nsteps = 1\nbatch = 1\n[data.train]\nmanifest = "demo"\n'
        '[data.valid]\nmanifest = "demo"\n'
    )
    return path


def test_a_storage_that_cannot_be_had_keeps_its_password(refused, home):
    write_definition(home)
    said = refused("launch", "tiny", "--storage", "postgresql://me:secret@nowhere/x")
    assert "secret" not in said and "nowhere" in said


def test_models_that_are_none(refused, tmp_path):
    foreign = streaming_model(tmp_path / "foreign.onnx", hop=32)
    whole = foreign.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "[:12])
    (tmp_path / "text.onnx").write_text("hello")
    (tmp_path / "empty").mkdir()
    soundfile.write(tmp_path / "in.wav", tone(RATE), RATE)
    for name in ("foreign.onnx", "cut.onnx", "cut.safetensors", "text.onnx", "empty", "in.wav"):
        assert name in refused("enhance", tmp_path / name, tmp_path / "in.wav", tmp_path / "out.wav")
        assert name in refused("evaluate", tmp_path / name, tmp_path, "--json")
    for name in ("cut.onnx", "text.onnx"):
        assert name in refused("measure", tmp_path / name, "--device", "x86-1core", "--json")
    assert "latency" in refused("measure", foreign, "--device", "cortex-m7")
    assert not (tmp_path / "out.wav").exists()


def test_a_foreign_network_is_measured(run, tmp_path):
    code, out, _ = run("measure", streaming_model(tmp_path / "m.onnx", hop=32), "--device", "x86-1core", "--json")
    figures = json.loads(out)["latency"]["x86-1core"]
    assert code == 0 and figures["kind"] == "measured" and figures["p50_ms"] > 0


def test_select_before_anything_was_trained(run, home):
    folder = write_definition(home).parent / "runs" / "tiny"
    folder.mkdir(parents=True)
    (home / "tiny.toml").rename(folder / "definition.toml")
    code, out, err = run("select", "tiny", "--json")
    assert (code, out) == (2, "") and "launch the study first" in err


TEACHER_CODE = """
from pathlib import Path
import torch
Path(__file__).with_name("marker").touch()
class Softer(torch.nn.Module):
    def forward(self, noisy):
        return 0.9 * noisy
"""


@pytest.fixture
def own_teacher(home):
    """A study whose teacher is code that leaves a mark where it is run; gives back the mark's place."""
    write_definition(home, {"teacher": {"module": "code/mine.py:Softer"}})
    (home / "code").mkdir()
    (home / "code" / "mine.py").write_text(TEACHER_CODE)
    return home / "code" / "marker"


def test_check_never_runs_a_teachers_code(run, refused, home, own_teacher):
    code, _, err = run("check", "tiny", "--samples", 1, "--json")
    assert code == 0 and not own_teacher.exists(), err
    write_definition(home, {"teacher": {"module": "code/nine.py:Softer"}})
    assert "nine.py: no such file" in refused("check", "tiny")


def test_a_teachers_code_is_run_only_if_trusted(refused, home, own_teacher):
    (home / "code" / "distil.toml").write_text(
        '[data]\ntrain = { manifest = "demo" }\nvalid = { manifest = "demo" }\n[teacher]\nmodule = "mine.py:Softer"\n'
    )
    for arguments in (["launch", "tiny"], ["resume", "tiny"], ["train", home / "code" / "distil.toml"]):
        said = refused(*arguments, "--json")
        assert "mine.py:Softer' is code to be run: give --trust-code" in said
    assert not own_teacher.exists() and not (home / "cache").exists() and not (home / "code" / "distil").exists()
    assert not (home / "runs" / "tiny" / "study.db").exists()


def test_a_teacher_that_does_not_load_stops_before_anything_is_made(refused, home, own_teacher):
    write_definition(home, {"teacher": {"module": "code/mine.py:Sofa"}})
    assert "no function 'Sofa' there; did you mean 'Softer'?" in refused("launch", "tiny", "--trust-code", "--json")
    assert not (home / "cache").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["module", "onnx"])
def test_a_search_with_a_teacher_of_ones_own(run, home, own_teacher, kind):
    teacher = {"module": "code/mine.py:Softer"}
    if kind == "onnx":
        streaming_model(home / "mine.onnx", shape=(1, 257, 1, 2))
        teacher = {"model": "mine.onnx", "stft": {"hop": 256, "window": "hann_sqrt"}}
    measured_study(home, {"teacher": teacher, "trials": 2, "objectives/cost": ["macs_per_s"]})
    code, out, err = run("launch", "tiny", "--force", "--trust-code", "--json")
    assert code == 0 and json.loads(out)["trials"]["complete"] == 2, err
    own_teacher.unlink(missing_ok=True)
    code, out, err = run("select", "tiny", "--train-steps", 4, "--json")  # from cached outputs: no code is run
    assert code == 0 and not own_teacher.exists(), err


def test_list_and_devices(run, home):
    write_definition(home)
    code, out, err = run("list", "--json")
    assert (code, err) == (0, "") and json.loads(out)["studies"] == ["tiny"]
    code, out, err = run("devices", "--json")
    assert (code, err) == (0, "") and "x86-1core" in [profile["name"] for profile in json.loads(out)]
    assert run("devices")[0] == run("devices", "cortex-m7")[0] == 0


def test_init_writes_a_study_that_reads(run, refused, tmp_path, home):
    from search.study import read_study

    for name in ("clean", "noise"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    assert run("init", tmp_path / "mine")[0] == 0
    assert read_study(home / "mine.toml").trials == 40
    assert "exists already" in refused("init", tmp_path / "mine")
    assert "needs MANIFEST.csv" in refused("init", tmp_path)


def measured_study(home, changes=None):
    """A search of three short trials on this machine; returns its path."""
    space = {
        "student.width": {"choice": [4, 6, 8]},
        "distill.schedule.kind": {"choice": ["supervised", "one_step"]},
        "train.lr": {"float": [1e-3, 6e-3], "log": True},  # so that no proposal comes twice
    }
    base = {"device": "x86-1core", "trials": 3, "objectives/quality": "si_sdr_db", "space": space}
    costs = {"objectives/cost": ["latency_ms", "macs_per_s"]}
    return write_definition(home, base | costs | (changes or {}))


def sekd(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "search.cli", *map(str, arguments)], capture_output=True, text=True, **options
    )


@pytest.mark.slow
def test_from_launch_to_a_package_and_back(run, refused, home, tmp_path):
    path = measured_study(home)
    code, out, err = run("launch", "tiny", "--force", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["trials"]["complete"] == 3 and document["study"] == "tiny"
    assert "[3/3]" in err

    code, out, err = run("status", "tiny", "--json")
    assert (code, err, json.loads(out)["trials"]) == (0, "", document["trials"])
    front = json.loads(run("front", "tiny", "--json")[1])
    assert front["front"] and "all" not in front
    everything = json.loads(run("front", "tiny", "--all", "--json")[1])["all"]
    assert sorted(trial["number"] for trial in everything) == [0, 1, 2]
    for text in (["status"], ["front"], ["front", "--all"]):
        assert run(text[0], "tiny", *text[1:])[0] == 0

    assert "did you mean 'pesq_wb'" in refused("select", "tiny", "--maximize", "pesq")
    assert "unknown device 'rasp'" in refused("front", "tiny", "--device", "rasp")
    assert "sekd reprofile tiny" in refused("front", "tiny", "--device", "cortex-m7")
    assert "latency cannot be measured" in refused("reprofile", "tiny", "--device", "raspberry-pi-4")
    code, out, err = run("select", "tiny", "--max-latency-ms", 1e-6, "--out", tmp_path / "no", "--json")
    document = json.loads(out)
    assert code == 3 and document["selected"] is None and len(document["nearest"]) == 3
    assert document["package"] is None and not (tmp_path / "no").exists()
    assert "no trained student" in err

    retrains_to_the_same_bits(run, refused, tmp_path)
    code, out, err = run("reprofile", "tiny", "--device", "x86-1core", "--json")
    assert code == 0 and json.loads(out)["device"] == "x86-1core"
    code, out, _ = run("report", "tiny", "--out", tmp_path / "page.html", "--json")
    assert code == 0 and (tmp_path / "page.html").stat().st_size > 10_000
    assert "cannot write" in refused("report", "tiny", "--out", path / "x.html")

    code, out, err = run("resume", "tiny", "--trials", 1, "--json")
    assert code == 0 and sum(json.loads(out)["trials"].values()) >= 4
    kept = (home / "runs/tiny/definition.toml").read_text()
    measured_study(home, {"seed": 9})
    assert "another definition: seed" in refused_at_the_end(run, "launch", "tiny", "--json")
    assert (home / "runs/tiny/definition.toml").read_text() == kept
    code, out, _ = run("clean", "tiny", "--json")
    assert code == 0 and json.loads(out)["freed_mib"] >= 0
    assert run("select", "tiny", "--no-certificate", "--json")[0] == 0
    assert run("clean", "tiny", "--everything")[0] == 0 and not (home / "runs/tiny").exists()


def refused_at_the_end(run, *arguments):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    return err.strip().splitlines()[-1]


def retrains_to_the_same_bits(run, refused, tmp_path):
    from sekd.checkpoint import load_model
    from sekd.distillation import hash_of_weights

    package = tmp_path / "package"
    code, out, _ = run("select", "tiny", "--out", package, "--json")
    assert code == 0 and json.loads(out)["package"] == str(package)
    assert json.loads(out)["certificate"]["latency"]["level"] == "certificate"
    assert "not empty" in refused("select", "tiny", "--out", package, "--json")
    assert run("select", "tiny", "--out", package, "--force", "--no-certificate", "--json")[0] == 0
    code, out, err = run("train", package / "config.toml", "--out", tmp_path / "again", "--json")
    assert code == 0, err
    assert json.loads(out)["weights_hash"] == hash_of_weights(load_model(package / "model.safetensors"))
    text = (package / "config.toml").read_text()
    (package / "other.toml").write_text(text.replace("pool_minutes = 0.2", "pool_minutes = 0.3"))
    line = refused_at_the_end(run, "train", package / "other.toml", "--out", tmp_path / "other", "--json")
    assert "expect.pool" in line


@pytest.mark.slow
def test_a_budget_that_nothing_meets(run, home):
    measured_study(home, {"budget": {"macs_per_s": 1000.0}, "trials": 1})
    code, out, err = run("launch", "tiny", "--force", "--json")
    assert code == 3 and json.loads(out)["trials"]["complete"] == 0
    assert "no student of 'tiny' fits its budget on x86-1core" in err


@pytest.mark.slow
def test_python_drives_what_the_commands_drive(home):
    import search

    measured_study(home, {"trials": 1})
    results = search.launch("tiny", force=True)
    assert [record.status for record in results.records] == ["COMPLETE"]
    chosen = search.select("tiny", latency_ms=1000.0, certificate=False)
    assert chosen.selected == results.front[0] and (chosen.package / "model.onnx").exists()
    assert search.select("tiny", latency_ms=1e-6).package is None


@pytest.mark.slow
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c(home, presses):
    measured_study(home, {"base/train/steps": 100_000, "trials": 2})
    process = subprocess.Popen(
        [sys.executable, "-m", "search.cli", "launch", "tiny", "--force", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background inherit it ignored
    )  # fmt: skip
    try:
        trial = home / "runs/tiny/trials/0/config.json"
        wait_for(trial.exists, 90)
        time.sleep(5)
        for _ in range(presses):
            os.kill(process.pid, signal.SIGINT)
            time.sleep(0.3)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()  # nothing of a failed test trains on
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err and "continue with: sekd resume tiny" in err.splitlines()[-1]
    status = json.loads(sekd("status", "tiny", "--json").stdout)
    assert status["trials"]["running"] == 1


def wait_for(condition, limit_s):
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.slow
def test_recordings_as_people_have_them(run, home, tmp_path):
    rng = np.random.default_rng(0)
    for kind in ("clean", "noise"):
        folder = tmp_path / "data" / kind
        folder.mkdir(parents=True)
        for rate in (8000, 16000, 48000):
            soundfile.write(folder / f"{rate}.wav", 0.1 * rng.standard_normal(2 * rate), rate)
        soundfile.write(folder / "stereo.wav", 0.1 * rng.standard_normal((RATE, 2)), RATE)
        soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
        soundfile.write(folder / "one.wav", np.ones(1) * 0.1, RATE)
    data = {"clean": "../data/clean", "noise": "../data/noise"}
    changes = {"data/train": data | {"pool_minutes": 0.1, "segment_s": 1.0}, "data/valid": data | {"count": 2}}
    measured_study(home, changes | {"trials": 1})
    code, out, err = run("launch", "tiny", "--force", "--json")
    assert code == 0 and json.loads(out)["trials"]["complete"] == 1, err
    soundfile.write(tmp_path / "data/clean/nan.wav", np.full(RATE, np.nan, np.float32), RATE, subtype="FLOAT")
    measured_study(home, changes | {"trials": 1, "seed": 8})
    line = refused_at_the_end(run, "launch", "tiny", "--force", "--json")
    assert "nan.wav" in line


def write_recordings(folder):
    """The manifest of six short recordings, one of each kind and split."""
    rows = ["path,split"]
    for kind in ("clean", "noise"):
        (folder / kind).mkdir(parents=True)
        for number, split in enumerate(["train", "valid", "test"]):
            sound = tone(2 * RATE) if kind == "clean" else np.random.default_rng(number).normal(0, 0.02, 2 * RATE)
            soundfile.write(folder / kind / f"{number}.flac", sound, RATE)
            rows.append(f"{kind}/{number}.flac,{split}")
    (folder / "MANIFEST.csv").write_text("\n".join(rows))
    return folder / "MANIFEST.csv"


@pytest.mark.parametrize("causal", [True, False])
def test_a_network_on_waves_from_training_to_use(run, refused, tmp_path, causal):
    source = f'manifest = "{write_recordings(tmp_path / "audio")}"\nsegment_s = 0.5\n'
    small = f"filters = 8\nbottleneck = 4\nhidden = 8\nlayers = 2\ncausal = {str(causal).lower()}\n"
    (tmp_path / "waves.toml").write_text(
        f'[student]\nfamily = "conv_tasnet"\n{small}[distill.schedule]\nkind = "supervised"\n'
        f"[train]\nsteps = 2\nbatch = 1\n[data.train]\n{source}[data.valid]\n{source}count = 1\n"
    )
    code, out, err = run("train", tmp_path / "waves.toml", "--json")
    assert code == 0, err
    soundfile.write(tmp_path / "in.wav", tone(RATE + 1), RATE)
    enhance = ["enhance", tmp_path / "waves" / "model.safetensors", tmp_path / "in.wav", tmp_path / "out.wav"]
    if causal:
        assert json.loads(out)["export_error"] < 1e-4
        assert run(*enhance)[0] == 0 and run("enhance", tmp_path / "waves", *enhance[2:])[0] == 0
        assert soundfile.info(tmp_path / "out.wav").frames == RATE + 1
    else:
        assert json.loads(out)["export_error"] is None and not (tmp_path / "waves" / "model.onnx").exists()
        assert "student.causal = false" in refused(*enhance)


def test_training_writes_the_file_in_the_dtype_of_its_configuration(run, refused, tmp_path):
    source = f'manifest = "{write_recordings(tmp_path / "audio")}"\nsegment_s = 0.5\n'
    text = (
        "[student]\nwidth = 2\nn_fft = 128\nhop = 64\nbands = 32\n[distill.schedule]\nkind = 'supervised'\n"
        f"[train]\nsteps = 2\nbatch = 1\n[data.train]\n{source}[data.valid]\n{source}count = 1\n"
    )
    written = {}
    for dtype in ("fp32", "int8_static", "int8_static"):
        (tmp_path / "student.toml").write_text(f"{text}[deploy]\ndtype = '{dtype}'\ncalibration_s = 1\n")
        code, out, err = run("train", tmp_path / "student.toml", "--json")  # trained once: the folder is the same
        assert code == 0, err
        content = (tmp_path / "student" / "model.onnx").read_bytes()
        assert written.setdefault(dtype, content) == content
    assert b"QuantizeLinear" in written["int8_static"] and b"QuantizeLinear" not in written["fp32"]
    (tmp_path / "student.toml").write_text(f"{text}[deploy]\nexclude = ['Convv']\n")
    assert "student.toml: 'deploy.exclude'" in refused("train", tmp_path / "student.toml")
