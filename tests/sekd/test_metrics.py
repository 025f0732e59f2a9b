import contextlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pesq import pesq
from pystoi import stoi
from tiny_models import noise, speech_like

from sekd.errors import InputError
from sekd.metrics import (
    METRICS,
    bootstrap_interval,
    estoi,
    pesq_nb,
    pesq_wb,
    score_pairs,
    si_sdr_db,
    summarise,
)

DATA = Path(__file__).parents[3] / "shared/data/test_pairs"


@pytest.fixture(scope="module")
def pair():
    clean = speech_like(3)
    return clean + noise(len(clean), 0.02), clean


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_energies():
    t = np.arange(16_000) / 16_000
    target, other = np.sin(2 * np.pi * 100 * t), np.sin(2 * np.pi * 300 * t)
    for gain in (1.0, -0.2, 7.0):
        assert si_sdr_db(gain * (target + 0.1 * other) + 3, target) == pytest.approx(20, abs=1e-6)


def test_si_sdr_equals_torchmetrics(pair):
    import torch
    from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio as reference

    tensors = [torch.from_numpy(x.astype(np.float64)) for x in pair]
    assert si_sdr_db(*pair) == pytest.approx(float(reference(*tensors, zero_mean=True)), abs=1e-6)


def test_wrappers_give_the_libraries_their_own_order(pair):
    estimate, target = pair
    assert pesq_wb(estimate, target) == pesq(16_000, target, estimate, "wb")
    assert pesq_nb(estimate, target) == pesq(16_000, target, estimate, "nb")
    assert estoi(estimate, target) == pytest.approx(stoi(target, estimate, 16_000, extended=True), abs=1e-9)
    assert estoi(estimate, target) != pytest.approx(estoi(target, estimate), abs=1e-3)


@pytest.mark.skipif(not DATA.is_dir(), reason="no recordings in ../shared/data")
def test_real_recordings_score_between_the_bounds():
    from sekd.audio import read_audio

    name = sorted(path.name for path in (DATA / "noisy").iterdir())[0]
    noisy, clean = (read_audio(DATA / side / name) for side in ("noisy", "clean"))
    assert 1.0 < pesq_wb(noisy, clean) < 4.0 and pesq_wb(clean, clean) > 4.6
    assert 0.2 < estoi(noisy, clean) < 1.0
    assert -5 < si_sdr_db(noisy, clean) < 5  # mixed at 0 dB


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_nothing_to_score_is_none_with_a_reason(metric, pair):
    noisy, clean = pair
    silence, broken = np.zeros_like(clean), clean.copy()
    broken[5] = np.nan
    wrong = [(silence, clean), (silence, silence), (broken, clean)]
    for estimate, target in [*wrong, (noisy, silence)] if metric.needs_target else wrong:
        value, reason = metric.outcome(estimate, target)
        assert value is None and reason
    assert metric(noisy[:1], clean[:1]) is None
    assert metric.outcome(noisy, clean).reason is None


def test_short_files_are_none_for_perceptual_metrics(pair):
    noisy, clean = (x[8_000:11_000] for x in pair)
    assert pesq_wb.outcome(noisy, clean).reason == "Buffer needs to be at least 1/4 of a second long"
    assert estoi.outcome(noisy, clean).reason == "less than 0.4 s of speech, too little for ESTOI"
    assert si_sdr_db(noisy, clean) is not None


def test_estoi_repeats_and_leaves_the_global_generator_alone(pair):
    np.random.seed(7)
    first = estoi(*pair)
    drawn = np.random.random()
    np.random.seed(7)
    assert drawn == np.random.random() and first == estoi(*pair)


def test_pesq_of_long_files_is_the_mean_over_parts_and_survives_many_utterances():
    t = np.arange(50 * 16_000) / 16_000
    clean = speech_like(50) * (np.sin(2 * np.pi * 1.9 * t) > -0.2)
    noisy = clean + noise(len(clean), 0.005)
    parts = zip(np.array_split(noisy, 3), np.array_split(clean, 3), strict=True)
    assert pesq_wb(noisy, clean) == pytest.approx(np.mean([pesq_wb(*part) for part in parts]))
    halves = np.concatenate([clean[: 16 * 16_000], np.zeros(16 * 16_000, np.float32)])
    assert pesq_wb(halves + noise(len(halves)), halves) is not None  # a silent part does not count
    muted = np.where(np.arange(len(noisy)) < 17 * 16_000, 0, noisy)
    assert pesq_wb(muted, clean) is None


def test_wrong_rates_and_lengths_are_refused(pair):
    with pytest.raises(ValueError, match="16000 Hz"):
        pesq_wb(*pair, sample_rate=8_000)
    with pytest.raises(ValueError, match="do not pair"):
        si_sdr_db(pair[0][1:], pair[1])


def triples(estimates):
    """Two easy clips and a hard one with the estimates given for them."""
    clean = [speech_like(1, seed=seed) for seed in range(3)]
    noisy = [x + noise(len(x), level, seed=9) for x, level in zip(clean, (0.01, 0.02, 0.5), strict=True)]
    return [(f"clip{k}", noisy[k], estimates(k, noisy[k], clean[k]), clean[k]) for k in range(len(clean))]


def test_muting_the_hard_clip_does_not_win():
    muted = score_pairs(triples(lambda k, noisy, clean: noisy * (k < 2)), ["si_sdr_db"])
    score = summarise(muted)["si_sdr_db"]
    assert score.mean is None and score.low is None and score.missing == ("clip2",) and score.n == 2
    assert summarise(muted, "difference")["si_sdr_db"].mean is None
    assert summarise(muted, "unprocessed")["si_sdr_db"].mean is not None
    assert muted.pairs[2].reasons == {"si_sdr_db": "the estimate is silent"}
    dropped = score_pairs(triples(lambda k, noisy, clean: noisy if k < 2 else None), ["si_sdr_db"])
    assert summarise(dropped)["si_sdr_db"].missing == ("clip2",)


def test_clips_that_cannot_score_unprocessed_are_left_out_of_both_means():
    jobs = triples(lambda k, noisy, clean: noisy * 0.5)
    jobs.append(("silent", np.zeros(16_000), np.ones(16_000), np.zeros(16_000)))
    scores = score_pairs(jobs, ["si_sdr_db"])
    after, before = summarise(scores)["si_sdr_db"], summarise(scores, "unprocessed")["si_sdr_db"]
    assert after.n == before.n == 3 and after.missing == ()
    assert after.mean == pytest.approx(before.mean, abs=1e-4)
    assert summarise(scores, "difference")["si_sdr_db"].high < 1e-3


def test_guard_progress_and_known_scores_in_process():
    entered, done = [], []

    @contextlib.contextmanager
    def guard():
        entered.append(1)
        yield

    jobs = triples(lambda k, noisy, clean: clean + 0.1 * noisy)
    first = score_pairs(jobs, ["si_sdr_db"], guard=guard, progress=done.append)
    assert len(entered) == 3 and done == [1, 2, 3]
    without_noisy = [(name, None, estimate, target) for name, _, estimate, target in jobs]
    assert score_pairs(without_noisy, ["si_sdr_db"], unprocessed=first.unprocessed) == first
    with pytest.raises(ValueError, match="neither"):
        score_pairs(without_noisy, ["si_sdr_db"])


def test_processes_give_the_scores_of_one():
    jobs = triples(lambda k, noisy, clean: clean + 0.1 * noisy)
    names = ["estoi", "si_sdr_db"]
    assert score_pairs(iter(jobs), names, processes=2) == score_pairs(jobs, names)


def test_a_program_from_standard_input_is_scored_in_its_own_process():
    code = """
import numpy as np
from sekd.metrics import score_pairs
target = np.sin(np.arange(1000.0))
triple = ("a", target + 0.1 * np.cos(3.3 * np.arange(1000)), target * 2 + 0.1, target)
print(score_pairs([triple], ["si_sdr_db"], processes=2).pairs[0].unprocessed)
"""
    out = subprocess.run([sys.executable], input=code, capture_output=True, text=True, check=True)
    assert out.stdout.startswith("{'si_sdr_db': 19.98") and not out.stderr


def test_unknown_metric_names_the_nearest():
    with pytest.raises(InputError, match="'pesq_w'; did you mean 'pesq_"):
        score_pairs([], ["pesq_w"])


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(3, 1, 60), resamples=500)
        covered += low <= 3 <= high
    assert 0.90 <= covered / 200 <= 0.99
    assert bootstrap_interval(np.array([1.0])) == (None, None)


def test_bootstrap_width_is_the_normal_one_and_seeded():
    values = np.random.default_rng(1).normal(0, 2, 400)
    low, high = bootstrap_interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)
    assert bootstrap_interval(values) == (low, high)
