"""The device a student is for: what it holds, what its runtime lacks, and how latency is obtained there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, model_validator

from search.record import Cost, Kind
from sekd.config import Frozen, expand_path, parse, read_toml
from sekd.errors import InputError, nearest

Positive = Annotated[FiniteFloat, Field(gt=0)]
# Whatever onnxruntime calls them: a device's own build may have any of these.
Provider = Literal[
    "CPUExecutionProvider", "XnnpackExecutionProvider", "ACLExecutionProvider", "ArmNNExecutionProvider",
    "DnnlExecutionProvider", "OpenVINOExecutionProvider", "NnapiExecutionProvider", "CoreMLExecutionProvider",
    "QNNExecutionProvider", "DmlExecutionProvider", "CUDAExecutionProvider",
]  # fmt: skip
Cores = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class DeviceProfile(Frozen):
    """One TOML file of ``hw_profiles``. A limit that is absent does not bind; every number has its source."""

    name: str
    description: str
    # local: onnxruntime here. agent: onnxruntime on the device. model: predicted. unmeasured: not yet known.
    latency: Literal["local", "agent", "model", "unmeasured"]
    threads: Annotated[int, Field(ge=1)] = 1
    spinning: bool = False  # whether onnxruntime's threads burn the core while they wait
    provider: Provider = "CPUExecutionProvider"
    cores: Cores | None = None  # indices to pin to; free where absent
    reserve: bool = False  # nothing of ours but measurements runs on ``cores``; training then goes on meanwhile
    url: str | None = None  # of the agent; its token comes from the environment, never from here
    ca_file: str | None = None  # certificate of the agent, where no public authority signed it
    cost_model: str | None = None  # written by `sekd calibrate`
    hop_budget_share: Annotated[FiniteFloat, Field(gt=0, le=1)] | None = None
    memory_kib: Positive | None = None  # activations and streaming state
    flash_kib: Positive | None = None  # weights
    dtype: Literal["fp32", "fp16", "int16", "int8"] = "fp32"  # the precision that the numbers hold for
    forbidden_operators: tuple[str, ...] = ()  # ONNX operator types that the runtime lacks
    max_algorithmic_latency_ms: Positive | None = None
    max_segment_ms: Positive | None = None  # longest piece of audio it may hand over at once; absent: frames alone
    macs_per_s_budget: Positive | None = None
    per_node_us: Annotated[FiniteFloat, Field(ge=0)] | None = None  # fixed time of one operator call
    sources: dict[str, str] = Field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        """What a latency on this device is."""
        kinds: dict[str, Kind] = {"local": "measured", "agent": "measured", "model": "predicted"}
        return kinds.get(self.latency, "unmeasured")

    @property
    def limits(self) -> dict[str, float]:
        """What it can hold, by the names of a budget; the memory is that of the states at least."""
        limits = {"macs_per_s": self.macs_per_s_budget, "weight_kib": self.flash_kib, "state_kib": self.memory_kib}
        return {key: limit for key, limit in limits.items() if limit is not None}

    @model_validator(mode="after")
    def _complete(self) -> DeviceProfile:
        wanted = {"agent": "url", "model": "cost_model"}
        for latency, key in wanted.items():
            if (self.latency == latency) != (getattr(self, key) is not None):
                raise ValueError(f'latency = "{latency}" and {key} go together')
        if self.reserve and self.cores is None:
            raise ValueError("reserve = true needs cores")
        return self

    @model_validator(mode="after")
    def _every_number_has_a_source(self) -> DeviceProfile:
        given = {key for key in NUMERIC & self.model_fields_set if getattr(self, key) is not None}
        # A worker reads the profile with all its defaults written out: those are ours, and need no source.
        ours = {
            key for key in given - self.sources.keys() if getattr(self, key) == type(self).model_fields[key].default
        }
        bare = sorted(key for key in given - ours if not self.sources.get(key, "").strip())
        if bare:
            raise ValueError(f"no source for {', '.join(bare)}: add it under [sources]")
        loose = sorted(self.sources.keys() - given)
        if loose:
            raise ValueError(f"source of '{loose[0]}', which is no number here{nearest(loose[0], given)}")
        return self


NUMERIC = frozenset(
    ("threads", "cores", "hop_budget_share", "memory_kib", "flash_kib", "max_algorithmic_latency_ms", "max_segment_ms")
    + ("macs_per_s_budget", "per_node_us")
)


class Violation(Frozen):
    """A limit of the device that a student does not keep; ``key`` carries the unit of both figures."""

    key: str
    value: float
    limit: float
    reason: str


def list_devices() -> list[str]:
    """Names of the shipped profiles."""
    files = resources.files("hw_profiles").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def load_device(name_or_path: str | Path) -> DeviceProfile:
    """A shipped profile by name, or the one in the file at a path ending in ``.toml``.

    Raises:
        InputError: no such profile (names the nearest), or a key that is unknown, wrong or without a source.
    """
    text = str(name_or_path)
    if text.endswith(".toml"):
        return _read(Path(text))
    if text not in list_devices():
        raise InputError(f"unknown device '{text}'{nearest(text, list_devices())}")
    with resources.as_file(resources.files("hw_profiles") / f"{text}.toml") as path:
        return _read(path)


@cache
def had_kind(name_or_path: str) -> Kind:
    """What latencies of a study on this device are, where it has any.

    Raises:
        InputError: see ``load_device``.
    """
    return "predicted" if load_device(name_or_path).kind == "predicted" else "measured"


def _read(path: Path) -> DeviceProfile:
    document = read_toml(path)
    for key in ("ca_file", "cost_model"):
        if isinstance(document.get(key), str):
            document[key] = str(expand_path(document[key], path.resolve().parent))  # type: ignore[index]
    profile = parse(DeviceProfile, document, str(path))
    if profile.name != path.stem:
        raise InputError(f"{path}: name = '{profile.name}' must equal the file's name, '{path.stem}'")
    return profile


def require_torch_device(name: str) -> None:
    """Says before anything is trained that torch does not have ``name``.

    Raises:
        InputError: torch knows no such device, or this machine has none.
    """
    import torch  # late: profiles are read without it

    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        names = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0].split(". Please")[0][:120]
        raise InputError(f"torch device '{name}': {reason}{nearest(name, names)}") from error


def require_measurable(profile: DeviceProfile) -> None:
    """Guards a latency budget: a device without measurements must never borrow those of this machine.

    Raises:
        InputError: latency on the device cannot be had.
    """
    if profile.latency == "unmeasured":
        raise InputError(
            f"device '{profile.name}': latency cannot be measured yet (latency = \"unmeasured\"): "
            "it takes no latency budget; give macs_per_s, weight_kib or state_kib instead"
        )


def check_fits(
    profile: DeviceProfile,
    cost: Cost,
    *,
    operators: Iterable[str] = (),
    weight_bytes: int | None = None,
    activation_bytes: int = 0,
) -> list[Violation]:
    """Limits of ``profile`` that a student breaks, latency apart; empty if it fits.

    Args:
        operators: ONNX operator types of the exported graph, one per node.
        weight_bytes: of the file that is shipped, where it is smaller than ``cost`` says (int8).
        activation_bytes: peak memory of one frame besides the streaming state.
    """
    weights = cost.weight_bytes if weight_bytes is None else weight_bytes
    memory = cost.state_bytes + activation_bytes
    limits = (
        ("memory_kib", memory / 1024, profile.memory_kib, "states and activations exceed the memory"),
        ("flash_kib", weights / 1024, profile.flash_kib, "weights exceed the flash"),
        (
            "algorithmic_latency_ms",
            cost.algorithmic_latency_ms,
            profile.max_algorithmic_latency_ms,
            "a sample waits too long even if computing took no time",
        ),
        ("macs_per_s", cost.macs_per_s, profile.macs_per_s_budget, "counted MACs exceed what it sustains"),
    )
    broken = [
        Violation(key=key, value=value, limit=limit, reason=f"{profile.name}: {reason}")
        for key, value, limit, reason in limits
        if limit is not None and value > limit
    ]
    return broken + too_long(profile, cost) + _forbidden(profile, operators)


def too_long(profile: DeviceProfile, cost: Cost) -> list[Violation]:
    """A network that hears segments, where the device hands over frames or shorter segments."""
    longest = profile.max_segment_ms or 0.0
    if cost.segment_ms is None or cost.segment_ms <= longest:
        return []
    has = f"segments of at most {longest:g} ms" if longest else "a budget for each frame, and no segments"
    reason = f"{profile.name}: it has {has} (max_segment_ms), and the student hears {cost.segment_ms:g} ms at once"
    return [Violation(key="segment_ms", value=cost.segment_ms, limit=longest, reason=reason)]


def _forbidden(profile: DeviceProfile, operators: Iterable[str]) -> list[Violation]:
    found = Counter(operators)
    return [
        Violation(
            key=f"operator.{name}",
            value=found[name],
            limit=0,
            reason=f"{profile.name}: its runtime has no {name}",
        )
        for name in profile.forbidden_operators
        if found[name]
    ]
