import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_models import noise, speech_like

from sekd.audio import active_rms, audio_info, list_audio, read_audio, resample, rms_dbfs, write_audio
from sekd.audio_writer import AudioWriter, Encoding
from sekd.errors import InputError


def tone(rate, seconds=0.5, hz=440.0):
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix, subtype, step", [(".wav", "PCM_16", 2**-15), (".flac", "PCM_24", 2**-23)])
def test_what_was_written_is_read(tmp_path, suffix, subtype, step):
    x = speech_like(0.3)
    write_audio(tmp_path / f"x{suffix}", x, subtype=subtype)
    back = read_audio(tmp_path / f"x{suffix}")
    assert back.dtype == np.float32
    assert np.abs(back - x).max() <= step / 2 + 1e-7


def test_integer_samples_survive_a_round_trip_exactly(tmp_path):
    steps = np.array([-32768, -3, -1, 0, 1, 2, 32767], np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 16_000, subtype="PCM_16")
    write_audio(tmp_path / "b.wav", read_audio(tmp_path / "a.wav"))
    assert np.array_equal(soundfile.read(tmp_path / "b.wav", dtype="int16")[0], steps)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_any_rate_is_resampled_in_place(tmp_path, rate):
    write_audio(tmp_path / "x.wav", tone(rate), rate)
    read, expected = read_audio(tmp_path / "x.wav"), tone(16_000)
    assert len(read) == len(expected)
    assert np.abs(read - expected)[400:-400].max() < 2e-3


def test_resample_keeps_what_has_the_rate_already():
    x = tone(16_000)
    assert resample(x, 16_000, 16_000) is x


def test_stereo_is_averaged_with_a_notice(tmp_path):
    left, right = tone(16_000), noise(8_000)
    write_audio(tmp_path / "x.wav", np.stack([left, right], axis=1), subtype="FLOAT")
    lines = []
    mono = read_audio(tmp_path / "x.wav", notice=lines.append)
    assert np.allclose(mono, (left + right) / 2, atol=1e-7)
    assert lines == [f"{tmp_path}/x.wav: 2 channels folded to one"]


def test_header_facts(tmp_path):
    write_audio(tmp_path / "x.flac", np.zeros((800, 2), np.float32), 8_000)
    assert audio_info(tmp_path / "x.flac") == (800, 8_000, 2, ("FLAC", "PCM_16"), 0.1)


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "no such file"),
        (b"RIFF, they said", "not a readable audio file"),
        (np.zeros(0, np.float32), "holds no samples"),
        (np.array([0.0, np.nan], np.float32), "a sample at 0.000 s is not a finite number"),
        (np.array([np.inf], np.float32), "not a finite number"),
    ],
)
def test_unusable_files_are_one_line_naming_them(tmp_path, content, message):
    path = tmp_path / "bad.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        soundfile.write(path, content, 16_000, subtype="FLOAT")
    with pytest.raises(InputError) as error:
        read_audio(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.wav"
    write_audio(path, tone(16_000))
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="power cut"):
        with AudioWriter(path, 16_000, 1, Encoding("WAV", "PCM_16")) as writer:
            writer.write(noise(100))
            raise RuntimeError("power cut")
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.wav"]


def test_unknown_suffix_and_impossible_rate_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="unknown audio format '.wva'; did you mean '.wav'"):
        write_audio(tmp_path / "x.wva", tone(16_000))
    with pytest.raises(InputError, match="x.flac: cannot be written"):
        write_audio(tmp_path / "x.flac", tone(16_000), 10_000_000)
    assert not list(tmp_path.iterdir())


def test_over_full_scale_becomes_floats_or_is_counted(tmp_path):
    x = np.array([0.5, 2.0, -2.0, 1.0], np.float32)
    write_audio(tmp_path / "x.wav", x)
    assert np.array_equal(read_audio(tmp_path / "x.wav"), x)
    lines = []
    write_audio(tmp_path / "x.flac", x, notice=lines.append)
    assert lines == [f"{tmp_path}/x.flac: 2 samples clipped, peak 6.0 dB over full scale"]
    with pytest.warns(UserWarning, match="2 samples clipped"):
        write_audio(tmp_path / "y.flac", x)


def test_levels():
    assert rms_dbfs(np.full(10, 0.1, np.float32)) == pytest.approx(-20)
    assert rms_dbfs(np.zeros(10, np.float32)) == float("-inf")
    assert active_rms(np.zeros(10, np.float32)) == 0.0
    assert active_rms(np.full(1, 0.5, np.float32)) == pytest.approx(0.5)


def test_active_rms_ignores_pauses_and_clicks_but_not_quiet_speech():
    speech = 0.1 * np.sign(noise(16_000))
    pauses = noise(48_000, 0.1 * 10 ** (-50 / 20))
    both = np.concatenate([speech, pauses])
    assert active_rms(both) == pytest.approx(0.1, rel=1e-3)
    assert np.sqrt(np.mean(both**2)) == pytest.approx(0.05, rel=1e-2)
    quiet = np.concatenate([speech, speech * 10 ** (-35 / 20)])
    assert active_rms(quiet) == pytest.approx(0.1 / np.sqrt(2), rel=1e-3)
    clicked = np.concatenate([speech * 0.01, np.zeros(320)])
    clicked[16_010] = 1.0
    assert active_rms(clicked) < 0.02  # the click counts as one frame, the speech is still active


def test_folders_list_their_audio_sorted(tmp_path):
    for name in ("b.wav", "a.FLAC", "._a.wav", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_audio(tmp_path)] == ["a.FLAC", "b.wav"]
    with pytest.raises(InputError, match="no such folder"):
        list_audio(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: no audio files"):
        list_audio(tmp_path / "empty")


def test_reading_at_the_right_rate_loads_neither_torch_nor_scipy():
    code = "import sys, sekd.audio, sekd.evaluate, sekd.enhance; print({'torch', 'scipy'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
