import json

import numpy as np
import pytest
import soundfile
from tiny_models import gain_onnx, noise, speech_like

from sekd.errors import InputError
from sekd.evaluate import evaluate
from sekd.streaming import OnnxEnhancer


@pytest.fixture
def pairs(tmp_path):
    """Three pairs; the noisy files are WAV, the clean ones FLAC."""
    for side in ("noisy", "clean"):
        (tmp_path / side).mkdir()
    for k in range(3):
        clean = speech_like(1, seed=k)
        soundfile.write(tmp_path / f"clean/p{k}.flac", clean, 16_000, subtype="PCM_24")
        soundfile.write(tmp_path / f"noisy/p{k}.wav", clean + noise(16_000, 0.02, k), 16_000, subtype="FLOAT")
    return tmp_path


def model(tmp_path, **changes):
    return OnnxEnhancer(gain_onnx(tmp_path / "model.onnx", **changes))


def test_an_identity_changes_no_score(pairs):
    done = []
    result = evaluate(model(pairs), pairs, processes=1, progress=lambda *at: done.append(at))
    assert result.files == 3 and result.failed == {} and done == [(1, 3), (2, 3), (3, 3)]
    assert list(result.scores) == ["pesq_wb", "estoi", "si_sdr_db"]
    for metric, mean in result.scores.items():
        assert mean == pytest.approx(result.unprocessed[metric], abs=1e-3)
        assert result.intervals[metric].low <= mean <= result.intervals[metric].high
        assert result.difference[metric].mean == pytest.approx(0, abs=1e-3)
    assert [pair.name for pair in result.per_file] == ["p0", "p1", "p2"]
    json.dumps(result.model_dump(), allow_nan=False)


def test_processes_give_the_same_evaluation(pairs):
    enhancer = model(pairs, gain=0.5)
    chosen = {"metrics": ("si_sdr_db", "estoi")}
    assert evaluate(enhancer, pairs, processes=2, **chosen) == evaluate(enhancer, pairs, processes=1, **chosen)


def test_models_at_another_rate_are_scored_at_16_khz(pairs):
    enhancer = model(pairs, sample_rate=48_000, n_fft=1536, hop=768)
    result = evaluate(enhancer, pairs, metrics=["si_sdr_db"], processes=1)
    assert result.scores["si_sdr_db"] == pytest.approx(result.unprocessed["si_sdr_db"], abs=0.1)


def test_broken_and_lonely_files_are_listed_and_the_rest_is_scored(pairs):
    broken = noise(16_000)
    broken[3] = np.nan
    soundfile.write(pairs / "noisy/p0.wav", broken, 16_000, subtype="FLOAT")
    (pairs / "clean/p1.flac").write_bytes(b"fLaC, nearly")
    soundfile.write(pairs / "noisy/lonely.wav", noise(100), 16_000)
    result = evaluate(model(pairs), pairs, metrics=["si_sdr_db"], processes=1)
    assert result.files == 1 and sorted(result.failed) == ["lonely", "p0", "p1"]
    assert "not a finite number" in result.failed["p0"] and "not a readable" in result.failed["p1"]
    assert result.scores["si_sdr_db"] is not None


def test_a_model_that_breaks_has_no_mean(pairs):
    result = evaluate(model(pairs, gain=float("nan")), pairs, metrics=["si_sdr_db"], processes=1)
    assert result.scores == {"si_sdr_db": None} and result.unprocessed["si_sdr_db"] is not None
    assert result.intervals["si_sdr_db"].missing == ("p0", "p1", "p2") == tuple(result.failed)


def test_a_pair_of_unequal_lengths_is_named(pairs):
    soundfile.write(pairs / "noisy/p1.wav", noise(15_999), 16_000)
    with pytest.raises(InputError, match=r"noisy/p1.wav: 0.9999 s long, but .*p1.flac is 1.0000 s"):
        evaluate(model(pairs), pairs)


def test_folders_that_are_no_pairs_are_input_errors(pairs):
    with pytest.raises(InputError, match="noisy: no such folder"):
        evaluate(model(pairs), pairs / "clean")
    with pytest.raises(InputError, match="unknown metric 'pesq'"):
        evaluate(model(pairs), pairs, metrics=["pesq"])
    for path in (pairs / "noisy").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(InputError, match=r"no name is common to noisy/ \(xp0, xp1, xp2\)"):
        evaluate(model(pairs), pairs)
    for path in (pairs / "noisy").iterdir():
        path.with_name(path.name[1:]).write_bytes(b"")
    with pytest.raises(InputError, match="none of 3 pairs can be read"):
        evaluate(model(pairs), pairs)
