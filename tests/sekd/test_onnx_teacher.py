"""ONNX files as teachers: what they may be, that they stay aligned, and what is refused before a runtime opens it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tiny_models import gain_onnx, noise, speech_like, wave_onnx

from sekd.errors import InputError
from sekd.export import export_onnx
from sekd.models import ConvTasNetConfig, build
from sekd.onnx_teacher import OnnxTeacher
from sekd.teacher import open_teacher
from sekd.teacher_source import StftConfig, TeacherSource

FULL = ("sample_rate", "n_fft", "hop_length", "window_length", "window_type")
HALF = StftConfig(hop=256, window="hann_sqrt")


def signals(rows: int = 3, samples: int = 5_000) -> torch.Tensor:
    return torch.from_numpy(np.stack([noise(samples, 0.1, seed=row) for row in range(rows)]))


def teach(path: Path, stft: StftConfig = StftConfig()) -> OnnxTeacher:  # noqa: B008
    teacher = open_teacher(TeacherSource(model=str(path), stft=stft))
    assert isinstance(teacher, OnnxTeacher)
    return teacher


@pytest.mark.parametrize(
    ("without", "stft"),
    [((), StftConfig()), (FULL, HALF), (("hop_length",), StftConfig(hop=256)), ((), StftConfig(n_fft=512))],
)
def test_frames_are_aligned_and_metadata_may_be_in_the_study(tmp_path, without, stft):
    teacher = teach(gain_onnx(tmp_path / "t.onnx", gain=0.5, without=without), stft)
    noisy = signals()
    assert torch.allclose(teacher.enhance(noisy), 0.5 * noisy, atol=1e-6)
    assert teacher.blocks == ()


def test_every_row_begins_anew(tmp_path):
    teacher = teach(gain_onnx(tmp_path / "t.onnx", growth=1.0))
    noisy = signals(1).repeat(2, 1)
    output = teacher.enhance(noisy)
    assert torch.equal(output[0], output[1]) and torch.equal(teacher.enhance(noisy), output)


def test_states_of_any_rank_and_sizes_that_an_exporter_left_open(tmp_path):
    """As in the authors' GTCRN: five dimensions, no metadata, outputs whose shapes nobody worked out."""
    info, float32 = helper.make_tensor_value_info, TensorProto.FLOAT
    shapes = {"mix": [1, 257, 1, 2], "memory": [2, 1, 3, 1, 1]}
    nodes = [
        helper.make_node("ReduceMax", ["memory"], ["one"], keepdims=0),
        helper.make_node("Add", ["mix", "one"], ["added"]),
        helper.make_node("Sub", ["added", "one"], ["enh"]),
        helper.make_node("Add", ["memory", "step"], ["memory_out"]),
    ]
    inputs = [info(name, float32, shape) for name, shape in shapes.items()]
    outputs = [info("enh", float32, ["a", "b", "c", "d"]), info("memory_out", float32, list("vwxyz"))]
    step = helper.make_tensor("step", float32, [1], [1.0])
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, [step])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "t.onnx")
    noisy = signals()
    assert torch.allclose(teach(tmp_path / "t.onnx", HALF).enhance(noisy), noisy, atol=1e-4)


@pytest.mark.parametrize(
    "shape", [("batch", "sample"), (1, "sample"), (2, "sample"), (None, None), ("batch", 6_000), (2, 5_000)]
)
def test_waves_in_batches_and_lengths_that_the_file_has_fixed(tmp_path, shape):
    teacher = teach(wave_onnx(tmp_path / "t.onnx", shape=shape))
    noisy = signals(3)
    assert torch.allclose(teacher.enhance(noisy), 0.5 * noisy)


def test_a_stream_of_waves_teaches_without_its_delay(tmp_path):
    torch.manual_seed(0)
    network = build(ConvTasNetConfig(filters=16, bottleneck=8, hidden=8, layers=2, stacks=1)).eval()
    teacher = OnnxTeacher(export_onnx(network, tmp_path / "t.onnx").path, StftConfig())
    noisy = torch.from_numpy(np.stack([speech_like(0.5), noise(8000, 0.1)]))
    with torch.no_grad():
        assert torch.allclose(teacher.enhance(noisy), network(noisy), atol=1e-4)


def test_identity_is_the_files_bytes_and_what_the_study_says_of_it(tmp_path):
    path = gain_onnx(tmp_path / "a.onnx", without=FULL)
    moved = tmp_path / "b.onnx"
    moved.write_bytes(path.read_bytes())
    assert teach(path, HALF).identity == teach(moved, HALF).identity
    others = [teach(path, StftConfig(hop=128, window="hann_sqrt")), teach(gain_onnx(path, gain=0.9), HALF)]
    assert len({teach(moved, HALF).identity, *(other.identity for other in others)}) == 3


def test_a_teacher_leaves_the_denormals_of_training_alone(tmp_path):
    teacher = teach(gain_onnx(tmp_path / "t.onnx"))
    tiny = torch.tensor([1e-40])
    assert (tiny * 1.0).item() > 0
    teacher.enhance(signals(1))
    assert (tiny * 1.0).item() > 0


def test_speech_and_silence(tmp_path):
    teacher = teach(gain_onnx(tmp_path / "t.onnx", gain=0.5))
    speech = torch.from_numpy(speech_like(0.5))[None]
    assert torch.allclose(teacher.enhance(speech), 0.5 * speech, atol=1e-6)
    assert not teacher.enhance(torch.zeros(1, 2_000)).any()


def external(path: Path) -> Path:
    """A model whose weights are said to lie in a file that would be readable."""
    model = onnx.load(wave_onnx(path))
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    tensor.ClearField("float_data")
    path.write_bytes(model.SerializeToString())
    return path


def hidden(path: Path, part: str) -> Path:
    """A model whose branch holds what its top level does not."""
    info = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    constant = helper.make_tensor("inner", TensorProto.FLOAT, [1], [1.0])
    node = helper.make_node("Constant", [], ["y"], value=constant)
    if part == "operator":
        node = helper.make_node("Evil", [], ["y"], domain="evil.org")
    branch = helper.make_graph([node], "branch", [], [info])
    model = onnx.load(wave_onnx(path))
    choice = helper.make_node("If", ["never"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.node.append(choice)
    if part == "tensor":
        for attribute in choice.attribute:
            tensor = attribute.g.node[0].attribute[0].t
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="weights.bin")
        model.graph.node[-1].CopyFrom(choice)
    path.write_bytes(model.SerializeToString())
    return path


def without_opset(path: Path) -> None:
    model = onnx.load(gain_onnx(path))
    del model.opset_import[:], model.metadata_props[:]
    path.write_bytes(model.SerializeToString())


REFUSED = {
    "missing": (lambda path: path, "no such file"),
    "folder": (lambda path: path.mkdir(), "Is a directory"),
    "empty": (lambda path: path.write_bytes(b""), "not an ONNX file"),
    "text": (lambda path: path.write_text("hello, this is no model"), "not a whole ONNX file"),
    "truncated": (lambda path: path.write_bytes(gain_onnx(path).read_bytes()[:-45]), "not a whole ONNX file"),
    "cut between two parts": (lambda path: without_opset(path), "not a whole ONNX file"),
    "external data": (external, "keeps tensor 'gain' in another file"),
    "external data in a branch": (lambda path: hidden(path, "tensor"), "keeps tensor 'inner' in another file"),
    "custom operator": (lambda path: wave_onnx(path, operator=("acme", "Magic")), "custom operator acme.Magic"),
    "custom operator in a branch": (lambda path: hidden(path, "operator"), "custom operator evil.org.Evil"),
    "rate of frames": (lambda path: gain_onnx(path, sample_rate=48_000), "sample_rate = 48000; a teacher must be of"),
    "rate of waves": (lambda path: wave_onnx(path, metadata={"sample_rate": "8000"}), "sample_rate = 8000"),
    "metadata": (lambda path: gain_onnx(path, without=("hop_length", "window_type")), "say hop = SAMPLES and window ="),
    "no pair": (lambda path: gain_onnx(path, rename={"tra_cache": "h"}), "state 'h' has no output 'h_out'"),
    "inputs": (lambda path: gain_onnx(path, rename={"mix": "noisy"}), "its inputs are noisy [1, 257, 1, 2]"),
    "rank": (lambda path: wave_onnx(path, shape=(1, 1, "n")), "a teacher takes STFT frames 'mix'"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_files_that_cannot_teach_are_one_line(tmp_path, make, message):
    path = tmp_path / "t.onnx"
    make(path)
    with pytest.raises(InputError) as error:
        teach(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)


def test_data_in_other_files_is_refused_before_the_runtime_sees_it(tmp_path, monkeypatch):
    import onnxruntime

    def opened(*arguments, **options):
        raise AssertionError("a session was opened")

    monkeypatch.setattr(onnxruntime, "InferenceSession", opened)
    for path in (external(tmp_path / "a.onnx"), wave_onnx(tmp_path / "b.onnx", operator=("acme", "Magic"))):
        with pytest.raises(InputError):
            teach(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gain": float("nan")}, "gives samples that are not finite numbers"),
        ({"drop": 7}, "gives (3, 4993) for (3, 5000)"),
        ({"shape": ("batch", 1_000)}, "takes 1000 samples at most, and a signal has 5000"),
    ],
)
def test_outputs_that_cannot_be_followed(tmp_path, changes, message):
    path = wave_onnx(tmp_path / "t.onnx", **changes)
    with pytest.raises(InputError) as error:
        teach(path).enhance(signals())
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


@pytest.mark.parametrize(
    ("made", "stft", "message"),
    [
        (gain_onnx, StftConfig(hop=128), "its metadata say hop_length = 256, [teacher.stft] says 128"),
        (wave_onnx, StftConfig(hop=128), "[teacher.stft] describes frames, but the file has no input 'mix'"),
    ],
)
def test_a_description_that_contradicts_the_file(tmp_path, made, stft, message):
    with pytest.raises(InputError) as error:
        teach(made(tmp_path / "t.onnx"), stft)
    assert message in str(error.value)
