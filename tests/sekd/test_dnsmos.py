"""DNSMOS OVRL: the number that speechmos gives, computed once for a pool."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from test_distillation import configure
from tiny_models import noise, speech_like

import sekd.pool as pool_module
from sekd.cache import build_once
from sekd.dnsmos import ovrl
from sekd.metrics import dnsmos_ovrl, score_pairs
from sekd.pool import Rows, write_ovrl
from sekd.preparation import prepare


@pytest.fixture
def speechmos(monkeypatch):
    """Its own code for OVRL; librosa serves P.808 alone, which is left out."""
    monkeypatch.setitem(sys.modules, "librosa", sys.modules.get("librosa") or ModuleType("librosa"))
    from speechmos import dnsmos

    monkeypatch.setattr(dnsmos.DNSMOS, "audio_melspec", lambda self, audio: np.zeros((900, 120)))
    return lambda audio: float(dnsmos.run(audio, 16_000)["ovrl_mos"])


@pytest.mark.parametrize("seconds", [2.9, 9.01, 11.2])
def test_ovrl_is_the_number_of_speechmos(speechmos, seconds):
    audio = speech_like(seconds) + noise(round(16_000 * seconds), 0.01)
    assert ovrl(audio) == pytest.approx(speechmos(audio), abs=1e-6)


GOLDEN = {0.5: 1.7022151306387396, 2.0: 1.6206528034753294}  # speechmos 0.0.1.1 with librosa 0.11.0


@pytest.mark.parametrize("seconds, value", GOLDEN.items())
def test_ovrl_has_the_value_that_speechmos_gave(seconds, value):
    audio = speech_like(seconds) + noise(round(16_000 * seconds), 0.01)
    assert ovrl(audio) == pytest.approx(value, abs=1e-3)


def test_noise_lowers_it_and_the_target_is_not_asked():
    clean = speech_like(2.0)
    noisy, silence = clean + noise(32_000, 0.1), np.zeros_like(clean)
    assert dnsmos_ovrl(clean, silence) > dnsmos_ovrl(noisy, clean)
    assert dnsmos_ovrl.outcome(silence, clean).reason == "the estimate is silent"
    assert dnsmos_ovrl.outcome(clean[:3000], clean[:3000]).reason == "less than 0.4 s, too little to judge"
    with pytest.raises(ValueError, match="16000 Hz"):
        dnsmos_ovrl(clean, clean, sample_rate=8_000)


def test_pairs_are_scored_with_it_when_asked():
    clean = speech_like(0.5)
    pair = ("a", clean + noise(8000, 0.1), clean, clean)
    (scored,) = score_pairs([pair], ["dnsmos_ovrl"]).pairs
    assert scored.unprocessed["dnsmos_ovrl"] != scored.scores["dnsmos_ovrl"] == pytest.approx(ovrl(clean))


def test_the_pool_is_judged_once_row_by_row(corpus, tmp_path):
    config = configure(corpus)
    said: list[str] = []
    made = [prepare(config.data, None, seed=0, cache=tmp_path, ovrl=True, say=said.append) for _ in range(2)]
    assert made[0] == made[1]
    assert sum(line.startswith("judging") and "done" in line for line in said) == 1
    values, noisy = np.load(made[0].ovrl / "ovrl.npy"), Rows(made[0].pool, "noisy")
    assert values.shape == (12,) and values.dtype == np.float32
    assert values[[0, 7]] == pytest.approx([ovrl(noisy[row : row + 1][0].numpy()) for row in (0, 7)], abs=1e-5)


def test_a_killed_judging_goes_on_where_it_stood(corpus, tmp_path, monkeypatch):
    config = configure(corpus)
    pool = prepare(config.data, None, seed=0, cache=tmp_path, pool=True).pool
    judged: list[float] = []

    def judge(audio: np.ndarray) -> float:
        if len(judged) == 5:
            judged.append(0.0)
            raise KeyboardInterrupt
        judged.append(float(len(judged)))
        return judged[-1]

    monkeypatch.setattr(pool_module, "ovrl_of", judge)
    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path / "ovrl-x", lambda folder: write_ovrl(folder, pool, lambda share: None))
    made = build_once(tmp_path / "ovrl-x", lambda folder: write_ovrl(folder, pool, lambda share: None))
    assert np.load(made / "ovrl.npy").tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12]
    assert [path.name for path in made.iterdir()] == ["ovrl.npy"]
