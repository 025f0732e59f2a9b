"""A consistency student as it is handed over: beside the file that unrolls its evaluations, one, and a runner."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tomlkit
from test_consistency_training import BACKBONE, timed
from tiny_search import searched

import sekd.evaluation_runner
from search.choose import choose
from search.cli import main
from search.results import open_results
from sekd.checkpoint import load_model
from sekd.evaluation_runner import Runner
from sekd.streaming import OnnxEnhancer

SEGMENTS = {"backbone": BACKBONE, "segment_frames": 16, "overlap_hops": 2}
STUDY = {
    "teacher": None, "trials": 1,
    "objectives/cost": ["macs_per_s"], "budget": {"macs_per_s": 1e9},
    "base/student": SEGMENTS | {"family": "consistency", "last_time": 0.3, "noise_scale": 0.5, "noise_seed": 3},
    "base/distill": {"schedule": {"kind": "consistency_training"}, "consistency": {"pesq": 0.0}},
    "base/train": {"steps": 2, "batch": 2},
    "space": {
        "train.lr": {"choice": [1e-3]},
        "student.steps": {"choice": [2], "free": True},
        "student.renoise": {"choice": ["marginal"], "free": True},
    },
}  # fmt: skip
BESIDE = {"model.onnx", "evaluation.onnx", "run_evaluations.py", "model.safetensors"}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """Of the only student of a search of one trial; its knobs were set after training."""
    home = tmp_path_factory.mktemp("home")
    with searched(home, STUDY, timed):
        chosen = choose(open_results("tiny"), {}, out=home / "package", certificate=False)
        assert chosen.package is not None, [record.reason for record in open_results("tiny").records]
        yield chosen.package


def test_the_runner_does_what_the_chosen_file_does(package):
    assert BESIDE | {"config.toml", "card.md", "audio"} == {path.name for path in package.iterdir()}
    assert (package / "run_evaluations.py").read_bytes() == Path(sekd.evaluation_runner.__file__).read_bytes()
    runner = Runner(package / "evaluation.onnx")
    assert runner.knobs == (2, 0.3, "marginal", 0.5, 3)
    config = load_model(package / "model.safetensors").config
    assert (config.steps, config.renoise) == (2, "marginal")
    noisy, _ = soundfile.read(next((package / "audio").glob("*_noisy.flac")), dtype="float32")
    wanted = OnnxEnhancer(package / "model.onnx").enhance(noisy)
    assert np.abs(runner.enhance(noisy) - wanted).max() < 1e-3 * np.sqrt(np.mean(np.square(wanted)))


def test_the_card_says_how_the_network_is_asked(package):
    card = (package / "card.md").read_text()
    assert "A segment-wise speech enhancement network for near" in card
    assert "It hears segments of 240 ms whole: this is its algorithmic latency" in card
    assert "`model.onnx` unrolls 2 evaluations of a consistency function (t = 1, 0.3)." in card
    assert (
        "It starts with noise of scale 0.5 and renoises the mean of the path; the noise is that of seed 3 and" in card
    )
    assert "part of the file, so the same input always gives the same output." in card


def test_training_again_writes_the_same_files(package, tmp_path, capsys):
    out = tmp_path / "again"
    assert main(["train", str(package / "config.toml"), "--out", str(out)]) == 0
    assert "and model.onnx, evaluation.onnx and run_evaluations.py beside it" in capsys.readouterr().out
    for name in BESIDE - {"model.safetensors"}:
        assert (out / name).read_bytes() == (package / name).read_bytes()


def test_a_deterministic_twin_has_no_evaluations(package, tmp_path, capsys):
    document = tomllib.loads((package / "config.toml").read_text())
    document |= {"student": SEGMENTS | {"family": "predictive"}, "distill": {"schedule": {"kind": "supervised"}}}
    (tmp_path / "twin.toml").write_text(tomlkit.dumps(document))
    assert main(["train", str(tmp_path / "twin.toml")]) == 0
    assert "model.safetensors and model.onnx, weights" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "twin").iterdir()} == {"model.safetensors", "model.onnx", "identity"}
