"""Modules that a function of the user's makes: run only on request, checked, and never an uncaught error of ours."""

import sys
from pathlib import Path

import pytest
import torch
from tiny_models import gain_onnx, noise

from sekd.config import parse
from sekd.distillation import distill, load_config
from sekd.errors import InputError
from sekd.module_teacher import ModuleTeacher
from sekd.preparation import TeacherConfig
from sekd.teacher import look_at, open_teacher
from sekd.teacher_source import TeacherSource, absolute_reference

CODE = """
from pathlib import Path
import torch
Path(__file__).with_name("marker").touch()
print("imported")

class Gain(torch.nn.Module):
    def __init__(self, gain, like=None):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(float(gain)))
        self.mode = like

    def forward(self, noisy):
        out = noisy * self.gain
        return {
            None: out, "channel": out[:, None], "short": out[:, :-3], "nan": out / 0 * 0, "tuple": (out, None),
            "double": out.double(), "complex": out.to(torch.complex64), "training": out * (2 if self.training else 1),
        }[self.mode] if self.mode != "raise" else out @ out

def load(gain=0.5, like=None):
    return Gain(gain, like)

def random():
    return Gain(torch.randn(()))

def forgets():
    return None

def fails():
    raise RuntimeError("no weights\\nhere")

def leaves():
    raise SystemExit(3)

def scripted():
    return torch.jit.script(torch.nn.Hardtanh(-9.0, 9.0))

def lazy():
    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, -1)), torch.nn.LazyConv1d(1, 3, padding=1))

def half():
    made = Gain(0.5)
    made.register_buffer("table", torch.ones(3, dtype=torch.bfloat16), persistent=False)
    return made

def meddles():
    torch.set_num_threads(3); torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False)
    import sys; sys.path.insert(0, "/nowhere")
    return Gain(0.5).float()

def beside():
    import neighbour_of_teacher
    return Gain(neighbour_of_teacher.GAIN)
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    (tmp_path / "neighbour_of_teacher.py").write_text("GAIN = 0.25\n")
    return tmp_path / "mine.py"


def teach(file: Path, function: str = "load", **options) -> ModuleTeacher:
    teacher = open_teacher(TeacherSource(module=f"{file}:{function}", options=options), trust_code=True)
    assert isinstance(teacher, ModuleTeacher)
    return teacher


def signals() -> torch.Tensor:
    return torch.from_numpy(noise(6_000, 0.1)).reshape(2, 3_000)


@pytest.mark.parametrize("like", [None, "channel", "double", "training"])
def test_it_enhances_in_the_mode_of_evaluation(file, like):
    teacher = teach(file, gain=0.3, like=like)
    output = teacher.enhance(signals())
    assert torch.allclose(output, 0.3 * signals()) and output.dtype == torch.float32
    assert not output.requires_grad and teacher.blocks == ()


def test_identity_is_reference_options_code_and_weights(file, tmp_path):
    first = teach(file)
    (tmp_path / "moved").mkdir()
    moved = file.rename(tmp_path / "moved" / file.name)
    assert teach(moved).identity == first.identity
    found = {first.identity, teach(moved, gain=0.6).identity, teach(moved, "random").identity}
    assert teach(moved, "random").identity in found  # what draws its weights draws the same again
    moved.write_text(CODE + "\n# changed\n")
    assert len({*found, teach(moved).identity}) == 4


def test_a_package_and_what_lies_beside_a_file(file, monkeypatch, tmp_path):
    assert torch.allclose(teach(file, "beside").enhance(signals()), 0.25 * signals())
    monkeypatch.delitem(sys.modules, "neighbour_of_teacher")
    (tmp_path / "lib" / "acme_teachers").mkdir(parents=True)
    (tmp_path / "lib" / "acme_teachers" / "best.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    teacher = open_teacher(TeacherSource(module="acme_teachers.best:load"), trust_code=True)
    assert torch.allclose(teacher.enhance(signals()), 0.5 * signals())


def test_nothing_of_it_stays_behind(file, capsys):
    before = (torch.get_num_threads(), torch.get_default_dtype(), list(sys.path), torch.random.get_rng_state().sum())
    teach(file, "meddles").enhance(signals())
    assert torch.is_grad_enabled()
    after = (torch.get_num_threads(), torch.get_default_dtype(), list(sys.path), torch.random.get_rng_state().sum())
    assert after == before
    out, err = capsys.readouterr()
    assert out == "" and "imported" in err  # stdout is for documents
    assert not (file.parent / "__pycache__").exists()


def test_untrusted_code_is_not_even_imported(file):
    source = TeacherSource(module=f"{file}:load")
    with pytest.raises(InputError, match=r"mine.py:load' is code to be run: give --trust-code"):
        open_teacher(source)
    look_at(source)
    assert not (file.parent / "marker").exists()
    with pytest.raises(InputError, match=r"none.py: no such file"):
        look_at(TeacherSource(module=f"{file.with_name('none.py')}:load"))


@pytest.mark.parametrize("function", ["half", "lazy", "scripted"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_modules_of_all_kinds(file, function):
    assert teach(file, function).enhance(signals()).shape == signals().shape


REFUSED = {
    "function": ("laod", {}, "no function 'laod' there; did you mean 'load'?"),
    "option": ("load", {"gian": 1}, "loading it raised TypeError"),
    "raises": ("fails", {}, "loading it raised RuntimeError: no weights here"),
    "leaves": ("leaves", {}, "loading it raised SystemExit: 3"),
    "nothing": ("forgets", {}, "returns a NoneType, not a torch.nn.Module"),
    "forward": ("load", {"like": "raise"}, "enhancing (2, 16000) raised RuntimeError"),
    "length": ("load", {"like": "short"}, "gives (2, 15997) for (2, 16000); a teacher keeps the shape"),
    "nan": ("load", {"like": "nan"}, "gives samples that are not finite numbers"),
    "tuple": ("load", {"like": "tuple"}, "gives a tuple, not the enhanced signals"),
    "complex": ("load", {"like": "complex"}, "gives complex numbers, not the enhanced signals"),
}


@pytest.mark.parametrize(("function", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_functions_that_make_no_teacher_are_one_line(file, function, options, message):
    with pytest.raises(InputError) as error:
        teach(file, function, **options)
    assert str(error.value).startswith(f"{file}:{function}: ") and message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("acme_nowhere.best:load", "loading it raised ModuleNotFoundError: No module named 'acme_nowhere'"),
        ("{here}/none.py:load", "none.py: No such file"),
        ("{here}/broken.py:load", "loading it raised SyntaxError"),
    ],
)
def test_code_that_cannot_be_imported_is_one_line(tmp_path, reference, message):
    (tmp_path / "broken.py").write_text("def load(:\n")
    with pytest.raises(InputError) as error:
        open_teacher(TeacherSource(module=reference.format(here=tmp_path)), trust_code=True)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs one of model"),
        ({"model": "a.onnx", "module": "a:b"}, "needs one of model"),
        ({"module": "a.b.load"}, "is neither 'package.module:function' nor"),
        ({"module": "a/b:load"}, "is neither 'package.module:function' nor"),
        ({"module": "a.py:"}, "is neither 'package.module:function' nor"),
        ({"model": "a.onnx", "options": {"x": 1}}, "options are given to the function of module"),
        ({"module": "a:b", "stft": {"hop": 3}}, "stft describes an .onnx model"),
        ({"model": "a.onnx", "stft": {"hopp": 3}}, "unknown key 'stft.hopp'; did you mean 'hop'?"),
        ({"model": "a.onnx", "stft": {"window": "hamming"}}, "'stft.window' = 'hamming'"),
        ({"model": "a.onnx", "stft": {"hop": 0}}, "'stft.hop' = 0"),
        ({"modules": "a:b"}, "unknown key 'modules'; did you mean 'module'?"),
        ({"module": "a:b", "trust_code": True}, "unknown key 'trust_code'"),
    ],
)
def test_tables_that_name_no_teacher(table, message):
    with pytest.raises(InputError) as error:
        parse(TeacherConfig, table, "study.toml")
    assert message in str(error.value)


def test_other_files_are_told_where_to_go(tmp_path):
    with pytest.raises(InputError, match="teacher.pt' is no .safetensors of ours and no .onnx"):
        open_teacher(TeacherSource(model=str(tmp_path / "teacher.pt")))


def test_a_file_is_named_relative_to_the_study(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELS", "/models")
    assert absolute_reference("mine.py:load", tmp_path) == f"{tmp_path}/mine.py:load"
    assert absolute_reference("${MODELS}/mine.py:load", tmp_path) == "/models/mine.py:load"
    assert absolute_reference("${NONE_SUCH:-there}/mine.py:load", tmp_path) == f"{tmp_path}/there/mine.py:load"
    assert absolute_reference("acme.best:load", tmp_path) == "acme.best:load"


STUDENT = """
[student]
width = 2
depth = 2
gru_groups = 2
bands = 16
n_fft = 128
hop = 64
[train]
steps = 2
batch = 2
[data]
train = {{ manifest = "{corpus}", segment_s = 0.5, pool_minutes = 0.1 }}
valid = {{ manifest = "{corpus}", segment_s = 0.5, count = 2 }}
[teacher]
{teacher}
"""


def write(file: Path, corpus: Path, teacher: str) -> Path:
    file.with_name("distil.toml").write_text(STUDENT.format(corpus=corpus, teacher=teacher))
    return file.with_name("distil.toml")


@pytest.mark.parametrize("teacher", ['module = "mine.py:load"', 'model = "half.onnx"'])
def test_only_networks_of_ours_can_be_looked_into(file, corpus, teacher):
    path = write(file, corpus, teacher)
    path.write_text(path.read_text().replace("batch = 2", "batch = 16") + '[distill]\nterm = "similarity"\n')
    with pytest.raises(InputError, match="looks inside the teacher, which only networks of ours allow"):
        load_config(path)


def test_a_student_of_each_kind_of_teacher(file, corpus, tmp_path):
    """The same gain as a module and as an ONNX file teaches the same; without trust nothing is made."""
    gain_onnx(tmp_path / "half.onnx", gain=0.5, without=("hop_length",))
    onnx = load_config(write(file, corpus, 'model = "half.onnx"\nstft = { hop = 256 }'))
    first = distill(onnx, cache=tmp_path / "cache")
    module = load_config(write(file, corpus, 'module = "mine.py:load"\noptions = { gain = 0.5 }'))
    with pytest.raises(InputError, match="--trust-code"):
        distill(module, cache=tmp_path / "other")
    assert not (tmp_path / "other").exists() and not (tmp_path / "marker").exists()
    second = distill(module, cache=tmp_path / "cache", trust_code=True)
    assert first.prepared.hashes.teacher != second.prepared.hashes.teacher
    for key, value in first.model.state_dict().items():
        assert torch.allclose(value, second.model.state_dict()[key], atol=1e-4)
    # What is cached needs the code no more: workers train from it.
    file.unlink()
    distill(module, prepared=second.prepared, cache=tmp_path / "cache")
