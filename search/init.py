"""A commented study for somebody's own recordings."""

from __future__ import annotations

from pathlib import Path

from search.study import home
from sekd.errors import InputError

TEMPLATE = """\
# A search for the student that sounds best on your device. Next: sekd check {name}, then sekd launch {name}.
name = "{name}"
device = "x86-1core"     # see: sekd devices
trials = 40
seed = 0

[objectives]
quality = "pesq_wb"                      # or estoi, si_sdr_db
cost = ["latency_ms", "macs_per_s"]      # one or two

[budget]                 # a student over a limit is never trained; remove what does not bind
latency_ms = 1.0         # burst p50 of one hop, measured on the device
weight_kib = 800

[data]
train = {{ {source}{train_split}, pool_minutes = 30 }}
valid = {{ {source}{valid_split}, count = 48, segment_s = 4.0 }}{note}

[teacher]                # trained first on the same recordings; or model = "teacher.onnx"
network = {{ channels = [8, 32, 64, 64] }}
train = {{ steps = 3000, batch = 8, lr = 3e-3 }}

[base]                   # what is not searched
train = {{ steps = 800, batch = 16, lr = 3e-3 }}   # similarities compare the signals of a batch: at least 16

[space]                  # what is: choice, int or float; `when` makes a key depend on another
"student.width" = {{ choice = [4, 6, 8, 12, 16] }}
"distill.schedule.kind" = {{ choice = ["supervised", "one_step", "two_step", "two_step_kept"] }}
"distill.schedule.kd_only_fraction" = {{ float = [0.1, 0.5], step = 0.1, when = "distill.schedule.kind starts with two_step" }}
"distill.schedule.kd_weight" = {{ float = [0.2, 0.8], step = 0.2, when = "distill.schedule.kind is not supervised" }}
"distill.term" = {{ choice = ["dispatch_l2", "dispatch_dfkd", "similarity"], when = "distill.schedule.kind is not supervised" }}
"distill.dispatch.patch" = {{ int = [10, 40], step = 10, when = "distill.term is dispatch_l2" }}
"distill.dispatch.low_patch" = {{ int = [5, 40], step = 5, when = "distill.term is dispatch_dfkd" }}
"distill.dispatch.high_patch" = {{ int = [10, 80], step = 10, when = "distill.term is dispatch_dfkd" }}
"distill.dispatch.keep" = {{ float = [0.4, 1.0], step = 0.2, when = "distill.term starts with dispatch" }}
"train.lr" = {{ choice = [1e-3, 2e-3, 4e-3] }}
# "deploy.dtype" = {{ choice = ["fp32", "int8_weights"], free = true }}   # free: each trained student is tried at all of them
"""

WARNING = "\n# Both parts draw from the same folders: a manifest with train and valid splits gives an honest estimate."


def write_study(folder: Path, name: str | None) -> Path:
    """Writes ``<name>.toml`` where studies live, for the recordings in ``folder``.

    Raises:
        InputError: the folder holds no recordings in a known layout, or a study of that name exists.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    folder = folder.resolve()
    source = _source(folder)
    name = name or folder.name.lower().replace(" ", "-")
    path = home() / f"{name}.toml"
    if path.exists():
        raise InputError(f"{path}: exists already; give another --name")
    splits = "MANIFEST" in source
    text = TEMPLATE.format(
        name=name,
        source=source,
        train_split=', split = "train"' if splits else "",
        valid_split=', split = "valid"' if splits else "",
        note="" if splits else WARNING,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot write here: {error.strerror}") from error
    return path


def _source(folder: Path) -> str:
    if (folder / "MANIFEST.csv").is_file():
        return f'manifest = "{folder / "MANIFEST.csv"}"'
    for pair in (("clean", "noise"), ("noisy", "clean")):
        if all((folder / name).is_dir() for name in pair):
            return ", ".join(f'{name} = "{folder / name}"' for name in pair)
    raise InputError(f"{folder}: needs MANIFEST.csv, or the folders clean/ and noise/, or noisy/ and clean/")
