import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tiny_models import gain_onnx, noise, speech_like

from sekd.errors import InputError
from sekd.streaming import AlignedStream, OnnxEnhancer, StreamingStft, periodic_window


@pytest.mark.parametrize(
    "n_fft, hop, kind",
    [(512, 256, "hann_sqrt"), (512, 128, "hann_sqrt"), (512, 128, "hann"), (512, 256, "hann"),
     (400, 160, "hann_sqrt"), (64, 48, "hann_sqrt")],
)  # fmt: skip
def test_an_unchanged_spectrum_gives_the_input_back(n_fft, hop, kind):
    stft = StreamingStft(n_fft, hop, periodic_window(kind, n_fft))
    x = noise(40 * hop, 0.3)
    out = np.concatenate([stft.synthesise(stft.analyse(block)) for block in x.reshape(-1, hop)])
    assert out.dtype == np.float32 and stft.delay == n_fft - hop
    assert np.abs(out[stft.delay :] - x[: len(x) - stft.delay]).max() < 1e-6
    assert np.abs(out[: stft.delay]).max() < 1e-6


def test_frames_are_those_of_the_definition():
    window = periodic_window("hann_sqrt", 64)
    stft = StreamingStft(64, 16, window)
    x = noise(160)
    frames = [stft.analyse(block) for block in x.reshape(-1, 16)]
    padded = np.concatenate([np.zeros(48), x])
    expected = [np.fft.rfft(padded[16 * t : 16 * t + 64] * window) for t in range(10)]
    assert np.allclose(frames, expected, atol=1e-6)


def test_windows_that_cannot_reconstruct_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        StreamingStft(512, 512, periodic_window("hann_sqrt", 512))


@pytest.fixture
def enhancer(tmp_path):
    return OnnxEnhancer(gain_onnx(tmp_path / "half.onnx", gain=0.5))


def test_format_and_delay_come_from_the_metadata(enhancer):
    assert enhancer.format == (16_000, 512, 256, 512, "hann_sqrt")
    assert (enhancer.sample_rate, enhancer.hop, enhancer.delay) == (16_000, 256, 256)


def test_process_trails_by_the_delay(enhancer):
    x = speech_like(0.512)
    out = np.concatenate([enhancer.process(block) for block in x.reshape(-1, 256)])
    assert np.allclose(out[256:], 0.5 * x[:-256], atol=1e-6)
    with pytest.raises(ValueError, match="expected 256 samples"):
        enhancer.process(x[:1])


@pytest.mark.parametrize("samples", [0, 1, 255, 256, 257, 5_000])
def test_enhance_is_aligned_and_keeps_the_length(enhancer, samples):
    x = noise(samples, 0.2)
    assert np.allclose(enhancer.enhance(x), 0.5 * x, atol=1e-6)
    assert len(enhancer.enhance(x)) == samples


def test_states_carry_over_reset_and_fork(tmp_path):
    growing = OnnxEnhancer(gain_onnx(tmp_path / "g.onnx", growth=1.0))
    hop = noise(256)
    first = [growing.process(hop) for _ in range(3)]
    assert np.allclose(first[2], 2.5 * hop, atol=0.2) and not np.allclose(first[2], first[1], atol=1e-3)
    twin = growing.fork()
    again = [twin.process(hop) for _ in range(3)]
    assert np.array_equal(first, again)
    growing.process(hop)
    growing.reset()
    assert np.array_equal(first[0], growing.process(hop))


def test_enhance_does_not_disturb_a_running_stream(tmp_path):
    one, two = (OnnxEnhancer(gain_onnx(tmp_path / "g.onnx", growth=0.1)) for _ in range(2))
    hops = noise(2_560).reshape(-1, 256)
    for hop in hops:
        expected = one.process(hop)
        two.enhance(noise(1_000))
        assert np.array_equal(two.process(hop), expected)


def test_silence_stays_silent_whatever_the_network_adds(tmp_path):
    humming = OnnxEnhancer(gain_onnx(tmp_path / "b.onnx", bias=0.3))
    assert not humming.enhance(np.zeros(4_000, np.float32)).any()
    x = np.concatenate([noise(2_000), np.zeros(2_000, np.float32)])
    out = humming.enhance(x)
    assert out[:2_000].any() and not out[2_000 + 512 :].any()


def test_blocks_of_any_size_give_the_same(enhancer):
    x = speech_like(0.7)
    stream = AlignedStream(enhancer.fork())
    cuts = [0, 1, 2, 300, 900, 901, 7_000, len(x)]
    out = [stream.push(x[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
    assert np.array_equal(np.concatenate([*out, stream.flush()]), enhancer.enhance(x))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"without": ("n_fft", "window_type")}, "its metadata lack n_fft, window_type"),
        ({"window_type": "hann_sqr"}, "unknown window_type 'hann_sqr'; did you mean 'hann_sqrt'?"),
        ({"window_type": "hann", "hop": 512}, "do not overlap enough"),
        ({"hop": 0}, "hop_length 0"),
        ({"sample_rate": "fast"}, "not a number of samples: sample_rate = 'fast'"),
        ({"rename": {"mix": "noisy"}}, "no input 'mix' (noisy, conv_cache, tra_cache, inter_cache)"),
        ({"rename": {"enh": "clean"}}, "no output 'enh'"),
        ({"rename": {"tra_cache": "h"}}, "state 'h' has no output 'h_out'"),
        ({"state_out_size": 3}, "state 'inter_cache' is [1, 1] but 'inter_cache_out' is [1, 3]"),
    ],
)
def test_foreign_files_are_refused_in_one_line(tmp_path, changes, message):
    path = gain_onnx(tmp_path / "foreign.onnx", **changes)
    with pytest.raises(InputError) as error:
        OnnxEnhancer(path)
    assert str(error.value).startswith(f"{path}: not a streaming enhancer: ")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_wave_to_wave_model_is_refused(tmp_path):
    waves = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, "n"]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "wave", waves[:1], waves[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "wave.onnx")
    with pytest.raises(InputError, match="wave.onnx: not a streaming enhancer: its metadata lack"):
        OnnxEnhancer(tmp_path / "wave.onnx")


def test_missing_and_broken_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="none.onnx: no such file"):
        OnnxEnhancer(tmp_path / "none.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match="junk.onnx: not a readable ONNX file"):
        OnnxEnhancer(tmp_path / "junk.onnx")
