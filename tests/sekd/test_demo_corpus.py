"""The embedded corpus: reproducible, split by voice and recording, audible, and clear when it fails."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sekd.demo_corpus import BABBLE_VOICES, COLUMNS, NOISE_KINDS, SHARES, VOICES, make_demo_corpus
from sekd.demo_noise import GENERATORS, SAMPLE_RATE_HZ
from sekd.demo_text import SENTENCES, compose
from sekd.errors import InputError
from sekd.speak import SPEECH_HZ, Utterance, speak


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def variants(voices: tuple[str, ...]) -> set[str]:
    return {voice.partition("+")[2] for voice in voices}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return make_demo_corpus(tmp_path_factory.mktemp("demo") / "new" / "corpus", minutes=0.5).parent


@pytest.fixture(scope="module")
def rows(corpus: Path) -> list[dict[str, str]]:
    with open(corpus / "MANIFEST.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def waves(corpus: Path, rows) -> dict[str, np.ndarray]:
    return {row["path"]: soundfile.read(corpus / row["path"])[0] for row in rows}


def test_equal_seeds_give_equal_bytes(corpus, tmp_path):
    lines: list[str] = []
    # An empty folder is as good as none, and being told of progress changes nothing.
    again = make_demo_corpus(tmp_path, minutes=0.5, progress=lines.append)
    assert digests(again.parent) == digests(corpus)
    assert [line.split(":")[0] for line in lines] == ["train", "train", "valid", "valid", "test", "test"]


def test_another_seed_changes_every_recording(corpus, tmp_path):
    other = make_demo_corpus(tmp_path / "other", minutes=0.1, seed=1)
    assert not set(digests(other.parent).values()) & set(digests(corpus).values())


def test_manifest_names_every_file_once_with_its_length(corpus, rows, waves):
    assert tuple(rows[0]) == COLUMNS
    assert sorted([row["path"] for row in rows] + ["MANIFEST.csv"]) == sorted(digests(corpus))
    for row in rows:
        assert float(row["seconds"]) == pytest.approx(len(waves[row["path"]]) / SAMPLE_RATE_HZ, abs=1e-3)


def test_no_two_files_hold_the_same_recording(corpus):
    assert len(set(digests(corpus).values())) == len(digests(corpus))


def test_files_are_16_khz_mono_16_bit_flac(corpus, rows):
    for row in rows:
        info = soundfile.info(corpus / row["path"])
        assert (info.samplerate, info.channels, info.format, info.subtype) == (16000, 1, "FLAC", "PCM_16")


def test_no_clip_is_silent_or_clipped(waves):
    for path, wave in waves.items():
        rms_db = 20 * np.log10(np.sqrt(np.mean(wave**2)))
        assert -32 < rms_db < -23.9, path
        assert np.abs(wave).max() <= 0.9001, path


def test_clips_last_3_to_8_seconds(rows):
    assert all(3 <= float(row["seconds"]) <= 8 for row in rows)


def test_speech_fills_the_share_of_each_split(rows):
    for split, share in SHARES.items():
        lengths = [float(r["seconds"]) for r in rows if (r["split"], r["path"][:5]) == (split, "clean")]
        assert 30 * share <= sum(lengths) < 30 * share + 8


def test_a_split_speaks_with_its_own_voices_only(rows):
    for row in rows:
        if row["path"].startswith("clean/"):
            assert row["speaker_or_class"] in VOICES[row["split"]]


def test_no_variant_is_shared_by_two_splits_or_by_speech_and_babble():
    groups = [variants(voices) for plan in (VOICES, BABBLE_VOICES) for voices in plan.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_plan_has_twenty_voices_and_four_languages_in_every_split():
    assert sum(map(len, VOICES.values())) == 20
    for voices in (*VOICES.values(), *BABBLE_VOICES.values()):
        assert {voice[:2] for voice in voices} == {"en", "de", "fr", "es"}


def test_smallest_train_split_has_all_languages_and_noises(rows):
    train = [row for row in rows if row["split"] == "train"]
    names = {row["speaker_or_class"] for row in train if row["path"].startswith("clean/")}
    assert {name[:2] for name in names} == {"en", "de", "fr", "es"}
    kinds = {row["speaker_or_class"] for row in train if row["path"].startswith("noise/")}
    assert kinds == set(NOISE_KINDS) and len(kinds) == 10


@pytest.mark.parametrize("split", ["valid", "test"])
def test_held_out_splits_have_several_noises(rows, split):
    kinds = [r["speaker_or_class"] for r in rows if (r["split"], r["path"][:5]) == (split, "noise")]
    assert len(set(kinds)) >= 4


@pytest.mark.parametrize("kind", GENERATORS)
def test_noise_follows_its_generator_and_is_finite(kind):
    make = GENERATORS[kind]
    first, again, other = (make(np.random.default_rng(seed), 16000) for seed in (5, 5, 6))
    assert first.shape == (16000,) and np.isfinite(first).all()
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_hum_lies_on_the_harmonics_of_the_mains():
    power = np.abs(np.fft.rfft(GENERATORS["hum"](np.random.default_rng(0), 64000) * np.hanning(64000))) ** 2
    hz = np.fft.rfftfreq(64000, 1 / 16000)
    shares = []
    for mains_hz in (50, 60):
        order = np.maximum(np.round(hz / mains_hz), 1)
        # The drift of the mains widens a harmonic in proportion to its order.
        shares.append(power[np.abs(hz - order * mains_hz) < 1 + 0.006 * hz].sum() / power.sum())
    assert max(shares) > 0.9


def test_engine_is_low_and_rain_is_high():
    def centroid_hz(kind: str) -> float:
        power = np.abs(np.fft.rfft(GENERATORS[kind](np.random.default_rng(1), 48000))) ** 2
        return float((power * np.fft.rfftfreq(48000, 1 / 16000)).sum() / power.sum())

    assert centroid_hz("engine") < 1000 < 1500 < centroid_hz("rain")


def test_sentences_are_many_and_composed_to_a_least_length():
    assert all(len(set(sentences)) >= 24 for sentences in SENTENCES.values())
    text = compose("de", 90, np.random.default_rng(0))
    assert 90 <= len(text) < 160 and any(sentence in text for sentence in SENTENCES["de"])


def test_a_faster_rate_shortens_and_a_variant_changes_the_voice():
    text = "A quiet river runs behind the old factory."
    slow, fast, other = speak(
        [Utterance("en+f2", text, 140), Utterance("en+f2", text, 200), Utterance("en+m3", text, 140)]
    )
    assert slow.dtype == np.int16 and 2 < len(slow) / SPEECH_HZ < 5
    assert len(fast) == pytest.approx(len(slow) * 140 / 200, rel=0.1)
    assert len(other) != len(slow)


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("en+f22", "unknown voice variant 'f22' in 'en+f22'; did you mean 'f2'"),
        ("xx", "unknown language 'xx'"),
    ],
)
def test_unknown_voice_is_one_line(voice, message):
    with pytest.raises(InputError, match=message.replace("+", r"\+")) as caught:
        speak([Utterance(voice, "hello")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "espeak-ng crashed (SIGSEGV)"),
        ("raise ImportError('no loader here')", "ImportError: no loader here"),
        (
            "get_library_path = lambda: '/nowhere/libespeak-ng.so'; get_data_path = lambda: '/nowhere'",
            "espeak-ng does not load: /nowhere/libespeak-ng.so: cannot open shared object file",
        ),
    ],
)
def test_a_crash_in_the_child_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, loader, message):
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "espeakng_loader.py").write_text(loader)
    monkeypatch.setenv("PYTHONPATH", str(poison))
    with pytest.raises(InputError) as caught:
        make_demo_corpus(tmp_path / "corpus", minutes=0.1)
    assert str(caught.value).startswith(f"speech synthesis: {message}")
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["poison"]


def test_a_child_that_hangs_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "espeakng_loader.py").write_text("import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("sekd.speak.TIMEOUT_S", 0.5)
    with pytest.raises(InputError, match="no answer within 0.5 s"):
        speak([Utterance("en", "hello")])


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_minutes_must_be_positive(tmp_path, minutes):
    with pytest.raises(InputError, match="minutes = .*: must be above 0"):
        make_demo_corpus(tmp_path / "corpus", minutes=minutes)
    assert not any(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="is not an empty folder"):
        make_demo_corpus(tmp_path, minutes=0.1)
    assert digests(tmp_path) == {"mine.txt": hashlib.sha256(b"keep").hexdigest()}


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=f"{tmp_path}/file/corpus: cannot be written"):
        make_demo_corpus(tmp_path / "file" / "corpus", minutes=0.1)
