"""Mixing: a pure function of seed and index, at the stated ratio and level, from whatever files there are."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from conftest import RATE
from tiny_models import noise, speech_like

from sekd.audio import active_rms, rms_dbfs
from sekd.config import parse
from sekd.data import Mixer, Recipe, TrainRecipe, ValidRecipe, recipe_hash, source_files
from sekd.errors import InputError
from sekd.pool import LiveBatches, PoolBatches, Rows, RowsWriter, write_pool


def recipe(corpus, **changes) -> Recipe:
    return Recipe(manifest=str(corpus), split="train", segment_s=1.0, **changes)


@pytest.fixture(scope="module")
def mixer(corpus) -> Mixer:
    return Mixer(recipe(corpus), seed=3)


def write(folder, **files: np.ndarray):
    folder.mkdir(exist_ok=True)
    for name, audio in files.items():
        soundfile.write(folder / f"{name}.wav", audio, RATE, subtype="FLOAT")
    return folder


def test_a_segment_depends_on_seed_and_index_alone(corpus, mixer):
    forward = [mixer.segment(index) for index in range(4)]
    again = Mixer(recipe(corpus), seed=3)
    backward = [again.segment(index) for index in reversed(range(4))][::-1]
    for one, other in zip(forward, backward, strict=True):
        assert np.array_equal(one.noisy, other.noisy) and np.array_equal(one.clean, other.clean)
    assert not np.array_equal(forward[0].noisy, forward[1].noisy)
    assert not np.array_equal(forward[0].noisy, Mixer(recipe(corpus), seed=4).segment(0).noisy)


def test_segments_are_float32_of_the_stated_length(mixer):
    for part in mixer.segment(0):
        assert part.dtype == np.float32 and part.shape == (RATE,)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
def test_ratio_is_over_active_speech_and_level_over_the_mixture(corpus, snr_db):
    mixer = Mixer(recipe(corpus, snr_db=(snr_db, snr_db), level_dbfs=(-30, -30)), seed=0)
    for index in range(5):
        noisy, clean = mixer.segment(index)
        residue = float(np.sqrt(np.mean(np.square(noisy - clean, dtype=np.float64))))
        assert 20 * np.log10(active_rms(clean) / residue) == pytest.approx(snr_db, abs=0.1)
        assert rms_dbfs(noisy) == pytest.approx(-30, abs=0.1)


def test_ratios_and_levels_cover_their_ranges(corpus):
    mixer = Mixer(recipe(corpus, snr_db=(-5, 15), level_dbfs=(-45, -25)), seed=0)
    segments = [mixer.segment(index) for index in range(40)]
    levels = [rms_dbfs(segment.noisy) for segment in segments]
    assert min(levels) < -40 and max(levels) > -30 and -45.1 < min(levels) and max(levels) < -24.9
    ratios = [20 * np.log10(active_rms(s.clean) / np.std(s.noisy - s.clean)) for s in segments]
    assert -5.1 < min(ratios) < 0 and 10 < max(ratios) < 15.1


def test_loud_mixtures_are_not_clipped(corpus):
    mixer = Mixer(recipe(corpus, level_dbfs=(0, 0)), seed=0)
    assert max(float(np.abs(mixer.segment(index).noisy).max()) for index in range(5)) <= 0.99 + 1e-6


def test_splits_do_not_share_recordings(corpus):
    splits = [source_files(Recipe(manifest=str(corpus), split=split)) for split in ("train", "valid")]
    names = [{file.name for files in split for file in files} for split in splits]
    assert names == [{"0.flac", "1.flac"}, {"2.flac", "3.flac"}]


def test_stereo_is_folded_with_a_notice_and_rates_are_matched(tmp_path):
    t = np.arange(48_000 * 2) / 48_000
    tone = (0.3 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    (tmp_path / "clean").mkdir()
    soundfile.write(tmp_path / "clean" / "a.wav", np.stack([tone, tone], 1), 48_000)
    write(tmp_path / "noise", n=noise(2 * RATE))
    notices: list[str] = []
    made = Recipe(clean=str(tmp_path / "clean"), noise=str(tmp_path / "noise"), segment_s=1.0)
    mixer = Mixer(made, seed=0, notice=notices.append)
    assert len(notices) == 1 and notices[0].endswith("a.wav: 2 channels folded to one")
    assert mixer.speech.lengths.tolist() == [2 * RATE]
    crop = mixer.speech.crop(0, 0, RATE)
    assert np.argmax(np.abs(np.fft.rfft(crop))) == 440
    assert float(np.abs(crop[1000:]).max()) == pytest.approx(0.3, rel=0.01)


def test_samples_that_are_no_numbers_are_refused(tmp_path):
    broken = speech_like(0.5)
    broken[1600] = np.nan
    write(tmp_path / "clean", a=broken)
    write(tmp_path / "noise", n=noise(RATE))
    with pytest.raises(InputError, match=r"a\.wav: a sample at 0\.100 s is not a finite number"):
        Mixer(Recipe(clean=str(tmp_path / "clean"), noise=str(tmp_path / "noise")), seed=0)


def test_samples_over_full_scale_keep_their_shape(tmp_path):
    loud = 4 * noise(RATE, 1.0)
    write(tmp_path / "clean", a=loud)
    write(tmp_path / "noise", n=noise(RATE))
    mixer = Mixer(Recipe(clean=str(tmp_path / "clean"), noise=str(tmp_path / "noise")), seed=0)
    assert np.corrcoef(mixer.speech.crop(0, 0, RATE), loud)[0, 1] > 0.99999


@pytest.mark.parametrize(
    "text, message",
    [
        ("file,split\nclean/0.flac,train\n", "needs the columns path and split"),
        ("", "needs the columns path and split"),
        ("path,split\nclean/0.flac,train\n", "no noise recordings in split 'train' (splits: train)"),
        ("path,split\n,train\nclean/0.flac\n", "no clean recordings in split 'train'"),
        ("path,split\nclean/none.flac,train\nnoise/none.flac,train\n", "none.flac: no such file"),
    ],
)
def test_manifests_that_cannot_be_used_are_one_line(tmp_path, text, message):
    (tmp_path / "MANIFEST.csv").write_text(text)
    with pytest.raises(InputError) as error:
        Mixer(Recipe(manifest=str(tmp_path / "MANIFEST.csv"), split="train"), seed=0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_manifests_and_empty_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="none.csv: cannot read the manifest"):
        Mixer(Recipe(manifest=str(tmp_path / "none.csv"), split="train"), seed=0)
    with pytest.raises(InputError, match="no audio files"):
        Mixer(Recipe(clean=str(tmp_path), noise=str(tmp_path)), seed=0)
    with pytest.raises(InputError, match="none: no such folder"):
        Mixer(Recipe(clean=str(tmp_path / "none"), noise=str(tmp_path)), seed=0)


@pytest.mark.parametrize(
    "document, message",
    [
        ({"manifest": "m.csv", "split": "test"}, "'split' = 'test': Input should be 'train' or 'valid'"),
        ({"manifest": "m.csv", "clean": "c", "noise": "n"}, "either a manifest, or folders"),
        ({"clean": "c"}, "either a manifest, or folders"),
        ({"manifest": "m.csv", "snr_db": [5, 0]}, "snr_db = [5.0, 0.0] must be [low, high]"),
        ({"manifest": "m.csv", "segment_s": 0}, "segment_s = 0.0"),
        ({"manifest": "m.csv", "noises": [0, 1]}, "noises must be at least 1"),
        ({"manifest": "m.csv", "snr": [0, 5]}, "unknown key 'snr'; did you mean 'snr_db'?"),
        ({"manifest": "m.csv", "level_dbfs": [float("nan"), 0]}, "level_dbfs"),
    ],
)
def test_nonsense_recipes_are_one_line(document, message):
    with pytest.raises(InputError) as error:
        parse(TrainRecipe, document, "study.toml: data.train")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("document", [{"pool_minutes": 0}, {"pool_minutes": -1}])
def test_a_pool_needs_minutes(document):
    with pytest.raises(InputError, match="pool_minutes"):
        parse(TrainRecipe, {"manifest": "m.csv", **document}, "study.toml")


def test_validation_needs_pairs():
    with pytest.raises(InputError, match="count"):
        parse(ValidRecipe, {"manifest": "m.csv", "count": 0}, "study.toml")


def test_ready_pairs_are_cut_at_the_same_place(tmp_path):
    clean = speech_like(2.0)
    write(tmp_path / "clean", a=clean, short=clean[:4000])
    write(tmp_path / "noisy", a=0.5 * clean, short=0.5 * clean[:4000])
    pairs = Recipe(clean=str(tmp_path / "clean"), noisy=str(tmp_path / "noisy"), segment_s=1.0)
    mixer = Mixer(pairs, seed=0)
    starts = set()
    for index in range(10):
        noisy, target = mixer.segment(index)
        assert noisy.shape == target.shape == (RATE,)
        assert np.allclose(noisy, 0.5 * target, atol=1e-4)
        starts.add(target.tobytes())
    assert len(starts) > 5


def test_pairs_that_do_not_match_are_refused(tmp_path):
    write(tmp_path / "clean", a=speech_like(1.0))
    write(tmp_path / "noisy", b=speech_like(1.0))
    pairs = Recipe(clean=str(tmp_path / "clean"), noisy=str(tmp_path / "noisy"))
    with pytest.raises(InputError, match="no noisy file named 'a'"):
        Mixer(pairs, seed=0)
    write(tmp_path / "noisy", a=speech_like(0.5))
    with pytest.raises(InputError, match="a.wav: its clean pair has another length"):
        Mixer(pairs, seed=0)


ODD = {
    "one sample": (np.full(1, 0.1, np.float32), noise(RATE)),
    "silent speech": (np.zeros(RATE, np.float32), noise(RATE)),
    "silent noise": (speech_like(1.0), np.zeros(RATE, np.float32)),
    "silence": (np.zeros(RATE, np.float32), np.zeros(RATE, np.float32)),
    "short noise": (speech_like(1.0), noise(50)),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_clips_are_mixed_all_the_same(tmp_path, case):
    speech, hiss = ODD[case]
    write(tmp_path / "clean", a=speech)
    write(tmp_path / "noise", n=hiss)
    made = Recipe(clean=str(tmp_path / "clean"), noise=str(tmp_path / "noise"), segment_s=0.5)
    mixer = Mixer(made, seed=0)
    for index in range(3):
        for part in mixer.segment(index):
            assert part.shape == (RATE // 2,) and bool(np.isfinite(part).all())


def test_identity_of_a_recipe_is_its_content_not_its_place(tmp_path):
    hashes = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "c", a=speech_like(0.5))
        write(tmp_path / place / "n", b=noise(8000))
        made = Recipe(clean=str(tmp_path / place / "c"), noise=str(tmp_path / place / "n"))
        hashes.append(recipe_hash(made, 0))
    assert hashes[0] == hashes[1]
    louder = made.model_copy(update={"snr_db": (0.0, 1.0)})
    assert len({hashes[0], recipe_hash(made, 1), recipe_hash(louder, 0)}) == 3
    write(tmp_path / "there" / "n", c=noise(8000))
    assert recipe_hash(made, 0) != hashes[0]


@pytest.fixture(scope="module")
def pool(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pool")
    made = TrainRecipe(manifest=str(corpus), segment_s=0.5, pool_minutes=10 / 120)
    write_pool(folder, made, Mixer(made, seed=0), lambda share: None)
    return folder, Mixer(made, seed=0)


def test_a_pool_holds_the_segments_of_its_mixer(pool):
    folder, mixer = pool
    noisy, clean = Rows(folder, "noisy"), Rows(folder, "clean")
    assert len(noisy) == len(clean) == 10
    for index in range(10):
        segment = mixer.segment(index)
        for rows, part in ((noisy, segment.noisy), (clean, segment.clean)):
            step = float(np.abs(part).max()) / 32767
            assert np.abs(rows[slice(index, index + 1)][0].numpy() - part).max() <= 0.51 * step


def test_rows_keep_silence_and_any_level(tmp_path):
    writer = RowsWriter(tmp_path, "x", 3, 100)
    signals = [np.zeros(100, np.float32), 1e-5 * noise(100, 1.0), 30 * noise(100, 1.0)]
    for row, signal in enumerate(signals):
        writer.put(row, signal)
    writer.close()
    for row, signal in enumerate(signals):
        found = Rows(tmp_path, "x")[np.array([row])][0].numpy()
        assert np.allclose(found, signal, atol=1e-4 * max(float(np.abs(signal).max()), 1e-12))


def test_batches_depend_on_seed_and_step_alone(pool):
    folder, mixer = pool
    for one, other in [
        (PoolBatches(folder, None, batch=4, seed=1), PoolBatches(folder, None, batch=4, seed=1)),
        (LiveBatches(mixer, batch=4), LiveBatches(mixer, batch=4)),
    ]:
        forward = [one(step).noisy for step in range(5)]
        backward = [other(step).noisy for step in reversed(range(5))][::-1]
        assert all(bool((a == b).all()) for a, b in zip(forward, backward, strict=True))
    assert not bool((PoolBatches(folder, None, batch=4, seed=2)(0).noisy == forward[0]).all())


def test_an_epoch_of_a_pool_holds_every_segment_once(pool):
    batches = PoolBatches(pool[0], None, batch=4, seed=1)
    rows = np.concatenate([batches._rows(step) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
