"""One evaluation as a file, and the program beside it: equal to the network and to the file that unrolls them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import soundfile
import torch
from family_contract import rms, untrained
from test_gated_export import OLD_PYTHON
from tiny_models import gain_onnx, noise, speech_like

from sekd import evaluation_runner
from sekd.errors import InputError
from sekd.evaluation_export import FILE, RUNNER, export_evaluation, write_evaluation
from sekd.evaluation_runner import Runner, Unusable, main
from sekd.export import describe, export_onnx
from sekd.models import ConsistencyNet, ConsistencyNetConfig, CruseConfig, PredictiveConfig, build
from sekd.models.consistency import seeded_noise
from sekd.onnx_teacher import OnnxTeacher
from sekd.streaming import OnnxEnhancer
from sekd.teacher_source import StftConfig

TINY = {"segment_frames": 16, "overlap_hops": 2, "backbone": {"width": 4, "multipliers": (1, 2)}}
CHOSEN = {"steps": 2, "last_time": 0.3, "renoise": "marginal", "noise_scale": 0.5, "noise_seed": 3}
SHAPE = (1, 2, 256, 16)
TOLERANCE = 1e-4  # of the RMS of the output; float32 gives up to 2.4e-5


@pytest.fixture(scope="module")
def network() -> ConsistencyNet:
    return untrained(ConsistencyNetConfig(**TINY, **CHOSEN))


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("evaluation")
    assert write_evaluation(network, made)
    return made


@pytest.fixture(scope="module")
def runner(folder) -> Runner:
    return Runner(folder / FILE)


@pytest.fixture(scope="module")
def noisy() -> np.ndarray:
    return speech_like(3.0) + noise(48_000, 0.003)


def at(network: ConsistencyNet, **knobs) -> ConsistencyNet:
    other = build(network.config)
    other.load_state_dict(network.state_dict())
    other.take_knobs(network.config.model_copy(update=knobs))
    return other.eval()


@torch.no_grad()
def in_torch(network: ConsistencyNet, noisy: np.ndarray) -> np.ndarray:
    return network(torch.from_numpy(noisy)[None])[0].numpy()


def test_file_says_all_that_a_runner_needs(network, folder):
    model = onnx.load(folder / FILE)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17)] and model.ir_version == 8
    sizes = {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in (*model.graph.input, *model.graph.output)
    }
    assert sizes == {"x": SHAPE, "noisy": SHAPE, "t": (1,), "clean": SHAPE}
    assert {entry.key: entry.value for entry in model.metadata_props} == {
        "contract": "evaluation", "version": "1", "sample_rate": "16000",
        "n_fft": "510", "hop": "256", "alpha": "0.5", "beta": "0.15",
        "theta": "1.5", "sigma_min": "0.05", "sigma_max": "0.5", "t_eps": "0.03",
        "segment_frames": "16", "overlap_hops": "2",
        "steps": "2", "last_time": "0.3", "renoise": "marginal", "noise_scale": "0.5", "noise_seed": "3",
    }  # fmt: skip
    # All weights, and no noise: that is the runner's.
    assert describe(folder / FILE).weight_bytes < network.weight_bytes() - 4 * network.noise.numel() + 4096


@pytest.mark.parametrize(
    "change", [{}, {"boundary": "exact"}, {"backbone": {"kind": "cruse"}}, {"backbone": {"multipliers": (1, 1, 2, 2)}}]
)
def test_one_evaluation_is_that_of_the_network(change, tmp_path):
    network = untrained(ConsistencyNetConfig(**TINY | change))
    export_evaluation(network, tmp_path / FILE)
    session = Runner(tmp_path / FILE)._session
    x, y = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    for t in (1.0, 0.37, 0.03):
        (found,) = session.run(None, {"x": x, "noisy": y, "t": np.array([t], np.float32)})
        with torch.no_grad():
            wanted = network.evaluate(torch.from_numpy(x), torch.from_numpy(y), t).numpy()
        assert np.abs(found - wanted).max() < 1e-5 * rms(wanted)


@pytest.mark.parametrize("renoise", ["published", "marginal"])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_runner_equals_network_and_unrolled_file(network, runner, noisy, tmp_path, steps, renoise):
    knobs = {"steps": steps, "renoise": renoise, "last_time": 0.03, "noise_scale": 1.0}
    asked = at(network, **knobs, noise_seed=7)
    found = runner.enhance(noisy, **knobs, seed=7)
    assert found.dtype == np.float32 and len(found) == len(noisy)
    unrolled = OnnxEnhancer(export_onnx(asked, tmp_path / "model.onnx").path).enhance(noisy)
    for wanted in (in_torch(asked, noisy), unrolled):
        assert np.abs(found - wanted).max() < TOLERANCE * rms(wanted)


def test_what_is_not_said_is_as_the_student_was_chosen(network, runner, noisy):
    wanted = in_torch(network, noisy)
    assert np.abs(runner.enhance(noisy) - wanted).max() < TOLERANCE * rms(wanted)
    for knob in ({"steps": 1}, {"last_time": 0.1}, {"renoise": "published"}, {"noise_scale": 0.0}, {"seed": 4}):
        assert np.abs(runner.enhance(noisy, **knob) - wanted).max() > 0.01 * rms(wanted), knob


@pytest.mark.parametrize("samples", [1, 3327, 3328, 3840, 10_000])
def test_signals_of_any_length(network, runner, samples):
    """A segment is 3,840 samples, of which 512 overlap."""
    noisy = noise(samples, 0.1)
    wanted = in_torch(network, noisy)
    found = runner.enhance(noisy)
    assert found.shape == (samples,) and np.abs(found - wanted).max() < TOLERANCE * rms(wanted)


def test_silence_is_silent(runner):
    assert not runner.enhance(np.zeros(9000, np.float32)).any()


def test_noise_is_one_for_network_and_runner(network, runner):
    drawn = runner.noises(runner.knobs.but(steps=3, seed=2**32 - 1))
    assert np.array_equal(np.stack(drawn)[:, 0], at(network, steps=3, noise_seed=2**32 - 1).noise.numpy())
    # A step's noise does not depend on how many there are, and no two steps share any.
    assert np.array_equal(runner.noises(runner.knobs.but(steps=1, seed=2**32 - 1))[0], drawn[0])
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.05
    assert np.var(drawn[0][:, 0]) == pytest.approx(0.5, abs=0.03)
    assert np.var(drawn[0][:, 1]) == pytest.approx(0.5, abs=0.03)


def test_noise_stays_what_it_was():
    assert seeded_noise(0, 0, (3,)) == pytest.approx([-0.25639006, -0.29413855, 0.67519146], rel=1e-6)
    assert seeded_noise(5, 2, (3,)) == pytest.approx([0.62089658, 0.68395859, 0.54805064], rel=1e-6)


def test_other_networks_have_no_evaluations(tmp_path):
    for config in (PredictiveConfig(**TINY), CruseConfig()):
        assert not write_evaluation(build(config), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_failed_export_leaves_nothing(network, tmp_path, monkeypatch):
    def refuse(model):
        raise onnx.checker.ValidationError("no")

    monkeypatch.setattr(onnx.checker, "check_model", refuse)
    with pytest.raises(onnx.checker.ValidationError):
        export_evaluation(network, tmp_path / FILE)
    assert not list(tmp_path.iterdir())


def test_readers_of_streams_refuse_it(folder):
    with pytest.raises(InputError, match="holds one evaluation, for run_evaluations.py; the enhancer is model.onnx"):
        OnnxEnhancer(folder / FILE)
    with pytest.raises(InputError, match=r"not an enhancer: its inputs are x \[1, 2, 256, 16\], noisy"):
        OnnxTeacher(folder / FILE, StftConfig())


ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(("sekd", "search", "torch", "onnx")))  # none of them can be imported
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_it_runs_without_sekd(runner, folder, noisy, tmp_path):
    soundfile.write(tmp_path / "in.wav", 3 * noisy, 16_000, subtype="FLOAT")
    said = ["--steps", "1", "--renoise", "published", "--last-time", "0.2", "--noise-scale", "0.25", "--seed", "9"]
    command = [sys.executable, "-W", "error", "-c", ALONE, folder / RUNNER, folder / FILE, "in.wav", "out.wav", *said]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=60)
    found, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    knobs = {"steps": 1, "renoise": "published", "last_time": 0.2, "noise_scale": 0.25, "seed": 9}
    assert rate == 16_000 and np.array_equal(found, runner.enhance(3 * noisy, **knobs))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_it_asks_for_little():
    tree = ast.parse(Path(evaluation_runner.__file__).read_text(), feature_version=(3, 9))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {(getattr(node, "module", None) or node.names[0].name).split(".")[0] for node in imports}
    assert names - sys.stdlib_module_names == {"numpy", "onnxruntime", "soundfile"}


@pytest.fixture
def inputs(folder, tmp_path, noisy) -> Path:
    """A folder of files that a runner cannot use, each for a reason of its own, and one that it can."""
    broken = np.where(np.arange(16_000) == 8000, np.nan, 0.1)
    signals = {
        "good": (noisy, 16_000), "stereo": (np.zeros((100, 2)), 16_000), "fast": (noisy, 48_000),
        "broken": (broken, 16_000), "empty": (np.zeros(0), 16_000),
    }  # fmt: skip
    for name, (samples, rate) in signals.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype="FLOAT")
    (tmp_path / "text.wav").write_text("text")
    gain_onnx(tmp_path / "frames.onnx")
    model = onnx.load(folder / FILE)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    changes = {"lacking": {"theta": None}, "strange": {"steps": "few"}, "wild": {"last_time": "7"}}
    for name, change in (*changes.items(), ("longer", {"segment_frames": "32"})):
        told = {key: value for key, value in (metadata | change).items() if value is not None}
        onnx.helper.set_model_props(model, told)
        onnx.save(model, tmp_path / f"{name}.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("model", "source", "options", "words"),
    [
        (None, "none.wav", [], "none.wav: no such file"),
        (None, "text.wav", [], "text.wav: not a readable audio file"),
        (None, "stereo.wav", [], "stereo.wav: has 2 channels, and the network hears one"),
        (None, "fast.wav", [], "fast.wav: is of 48000 Hz, and the network of 16000 Hz"),
        (None, "broken.wav", [], "broken.wav: a sample at 0.500 s is not a finite number"),
        (None, "empty.wav", [], "empty.wav: it holds no samples"),
        (None, "good.wav", ["--steps", "0"], ": steps = 0: must be at least 1"),
        (None, "good.wav", ["--last-time", "1"], ": last_time = 1.0: must be between 0 and 1"),
        (None, "good.wav", ["--noise-scale", "nan"], ": noise_scale = nan: must be from 0 to 1"),
        (None, "good.wav", ["--seed", "-1"], ": seed = -1: must be from 0 to 2**32 - 1"),
        ("none.onnx", "good.wav", [], "none.onnx: no such file"),
        ("text.wav", "good.wav", [], "text.wav: not a readable ONNX file"),
        ("frames.onnx", "good.wav", [], "its contract is None, not 'evaluation'"),
        ("lacking.onnx", "good.wav", [], "its metadata lack 'theta'"),
        ("strange.onnx", "good.wav", [], "'few'"),
        ("wild.onnx", "good.wav", [], "last_time = 7.0"),
        ("longer.onnx", "good.wav", [], "not {'x': [1, 2, 256, 32]"),
    ],
)
def test_what_it_cannot_use_is_one_line(folder, inputs, capsys, model, source, options, words):
    file = folder / FILE if model is None else inputs / model
    before = sorted(inputs.iterdir())
    assert main([str(file), str(inputs / source), str(inputs / "out.wav"), *options]) == 2
    told = capsys.readouterr()
    assert words in told.err and told.err.count("\n") == 1 and not told.out
    assert sorted(inputs.iterdir()) == before


@pytest.mark.parametrize(
    ("target", "words"),
    [("good.wav", "overwrite its own source"), ("out.xyz", "unknown suffix"), ("no/out.wav", "cannot be written")],
)
def test_where_it_cannot_write(folder, inputs, capsys, target, words):
    before = sorted(inputs.iterdir())
    assert main([str(folder / FILE), str(inputs / "good.wav"), str(inputs / target)]) == 2
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1 and sorted(inputs.iterdir()) == before


@pytest.mark.parametrize("signal", [np.zeros((2, 100)), np.zeros(0), np.array([0.1, np.inf])])
def test_signals_that_are_none(runner, signal):
    with pytest.raises(Unusable):
        runner.enhance(signal)


OLD = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from run_evaluations import Runner
np.save(sys.argv[3], Runner(sys.argv[1] + "/evaluation.onnx").enhance(np.load(sys.argv[2]), steps=4, noise_scale=1.0))
"""


@pytest.mark.skipif(not OLD_PYTHON.exists(), reason="no old onnxruntime here")
def test_an_old_onnxruntime_computes_the_same(runner, folder, noisy, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    np.save(tmp_path / "noisy.npy", noisy)
    subprocess.run([OLD_PYTHON, "-c", OLD, folder, *(tmp_path / f for f in ("noisy.npy", "old.npy"))], check=True)
    wanted = runner.enhance(noisy, steps=4, noise_scale=1.0)
    assert np.abs(np.load(tmp_path / "old.npy") - wanted).max() < TOLERANCE * rms(wanted)
