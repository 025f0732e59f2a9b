import os

import numpy as np
import pytest
import soundfile
from tiny_models import gain_onnx, lag, noise, speech_like

from sekd.enhance import enhance_file, enhance_folder
from sekd.errors import InputError
from sekd.resampling import StreamResampler
from sekd.streaming import OnnxEnhancer


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def make(**changes):
        return OnnxEnhancer(gain_onnx(folder / "model.onnx", **changes))

    return make


def write(path, audio, rate=16_000, subtype="FLOAT"):
    soundfile.write(path, audio, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000])
def test_length_rate_and_alignment_are_kept(models, tmp_path, rate):
    x = speech_like(1.3, rate)[: -rate // 100 + 7]
    source = write(tmp_path / "in.wav", x, rate)
    summary = enhance_file(models(gain=0.5), source, tmp_path / "out.wav")
    y, out_rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    assert (out_rate, len(y), summary.frames) == (rate, len(x), len(x))
    assert abs(lag(y, x)) <= 1
    assert np.sqrt(np.mean((y - 0.5 * x) ** 2) / np.mean(x**2)) < 0.01
    assert summary.duration_s == len(x) / rate and summary.rtf > 0


def test_each_channel_is_enhanced_by_its_own_state(models, tmp_path):
    x = np.stack([speech_like(0.5), noise(8_000), np.zeros(8_000, np.float32)], axis=1)
    enhancer = models(growth=0.01)
    enhance_file(enhancer, write(tmp_path / "in.wav", x), tmp_path / "out.wav")
    y = soundfile.read(tmp_path / "out.wav", dtype="float32")[0]
    for channel in range(3):
        assert np.array_equal(y[:, channel], enhancer.enhance(x[:, channel]))


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("subtype", ["FLOAT", "PCM_16"])
def test_silence_stays_exactly_zero(models, tmp_path, rate, subtype):
    source = write(tmp_path / "in.wav", np.zeros(rate), rate, subtype)
    enhance_file(models(bias=0.1), source, tmp_path / "out.wav")
    assert not soundfile.read(tmp_path / "out.wav", dtype="float32")[0].any()


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_one_sample_is_enough(models, tmp_path, rate):
    source = write(tmp_path / "in.wav", np.array([0.25]), rate)
    enhance_file(models(), source, tmp_path / "out.wav")
    y = soundfile.read(tmp_path / "out.wav")[0]
    # Above the network's band, and in the filters' slopes, a click's energy cannot be kept.
    assert len(y) == 1 and (y[0] == pytest.approx(0.25) if rate == 16_000 else 0.05 < y[0] < 0.25)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_blocks_of_any_size_give_the_same_file(models, tmp_path, rate):
    source = write(tmp_path / "in.wav", speech_like(0.4, rate), rate)
    outputs = []
    for frames in (97, 1_000, 1 << 15):
        enhance_file(models(), source, tmp_path / "out.wav", block_frames=frames)
        outputs.append(soundfile.read(tmp_path / "out.wav", dtype="float32")[0])
    assert np.array_equal(outputs[0], outputs[2]) and np.array_equal(outputs[1], outputs[2])


@pytest.mark.parametrize("rates", [(48_000, 16_000), (16_000, 44_100), (44_100, 16_000)])
def test_the_resampler_holds_a_fixed_amount(rates):
    resampler = StreamResampler(*rates)
    received = [len(resampler.push(noise(500))) for _ in range(100)]
    assert len(resampler._buffer) < 500 + 2 * 64 * max(1, rates[0] / rates[1]) + resampler.down
    assert sum(received) + len(resampler.flush()) == -(-50_000 * rates[1] // rates[0])


def test_the_resampler_removes_what_would_alias():
    t = np.arange(48_000) / 48_000
    resampler = StreamResampler(48_000, 16_000)
    out = np.concatenate([resampler.push(np.sin(2 * np.pi * 9_000 * t)), resampler.flush()])
    assert np.abs(out[500:-500]).max() < 1e-3


def test_nan_is_refused_with_its_time_and_nothing_is_written(models, tmp_path):
    x = noise(80_000)
    x[64_000] = np.nan
    source = write(tmp_path / "in.wav", x)
    with pytest.raises(InputError, match=r"in.wav: a sample at 4.000 s is not a finite number"):
        enhance_file(models(), source, tmp_path / "out.wav")
    assert os.listdir(tmp_path) == ["in.wav"]


def test_a_model_that_breaks_is_an_error_and_not_a_file(models, tmp_path):
    source = write(tmp_path / "in.wav", noise(4_000))
    with pytest.raises(InputError, match="the model gave back samples that are not finite"):
        enhance_file(models(gain=float("nan")), source, tmp_path / "out.wav")
    assert os.listdir(tmp_path) == ["in.wav"]


def test_clipping_is_counted_where_integers_force_it(models, tmp_path):
    x = 0.9 * np.sign(speech_like(0.2) + 1e-9)
    lines = []
    source = write(tmp_path / "in.wav", x, subtype="PCM_16")
    summary = enhance_file(models(gain=2.0), source, tmp_path / "out.wav", lines.append)
    assert summary.clipped == np.count_nonzero(x)
    assert lines == [f"{tmp_path}/out.wav: {summary.clipped} samples clipped, peak 5.1 dB over full scale"]
    enhance_file(models(gain=2.0), write(tmp_path / "f.wav", x), tmp_path / "out.wav", lines.append)
    assert np.abs(soundfile.read(tmp_path / "out.wav")[0]).max() == pytest.approx(1.8, rel=1e-4)
    assert len(lines) == 1


def test_full_scale_through_an_identity_is_not_called_clipped(models, tmp_path):
    steps = np.array([-32768, 32767] * 3_000, np.int16)
    source = write(tmp_path / "in.wav", steps, subtype="PCM_16")
    assert enhance_file(models(), source, tmp_path / "out.wav").clipped == 0
    assert np.array_equal(soundfile.read(tmp_path / "out.wav", dtype="int16")[0], steps)


@pytest.mark.parametrize(
    "subtype, target, expected",
    [("PCM_24", "o.wav", ("WAV", "PCM_24")), ("ULAW", "o.wav", ("WAV", "ULAW")),
     ("FLOAT", "o.flac", ("FLAC", "PCM_24")), ("PCM_16", "o.flac", ("FLAC", "PCM_16")),
     ("PCM_16", "o.ogg", ("OGG", "VORBIS")), ("PCM_U8", "o.wav", ("WAV", "PCM_U8"))],
)  # fmt: skip
def test_the_encoding_stays_where_the_suffix_allows(models, tmp_path, subtype, target, expected):
    source = write(tmp_path / "in.wav", speech_like(0.3), subtype=subtype)
    enhance_file(models(), source, tmp_path / target)
    info = soundfile.info(tmp_path / target)
    assert (info.format, info.subtype) == expected and info.frames == 4_800


def test_a_file_is_never_written_over_its_source(models, tmp_path):
    source = write(tmp_path / "in.wav", noise(400))
    with pytest.raises(InputError, match="overwrite its own source"):
        enhance_file(models(), source, source)
    with pytest.raises(InputError, match="overwrite its own source"):
        enhance_folder(models(), tmp_path, tmp_path)


def test_folders_keep_going_past_a_broken_file(models, tmp_path):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in/a.wav", noise(400))
    (tmp_path / "in/b.wav").write_bytes(b"no audio")
    write(tmp_path / "in/c.wav", np.zeros(0))
    lines = []
    summary = enhance_folder(models(), tmp_path / "in", tmp_path / "deep/out", lines.append)
    assert [file.frames for file in summary.files] == [400] and sorted(summary.failed) == ["b.wav", "c.wav"]
    assert os.listdir(tmp_path / "deep/out") == ["a.wav"] and len(lines) == 2
