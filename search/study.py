"""A study as its user writes it: one TOML file, checked whole before anything runs."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import tomlkit
from pydantic import Field, model_validator

from search.record import COSTS, DIRECTIONS, LATENCIES, METRICS
from search.run_config import Resources, RunConfig
from search.space import (
    THRESHOLD,
    Space,
    check_conditions,
    check_free,
    corners,
    in_order,
    merged,
    nested,
    only_active,
    searched,
    sweep,
)
from sekd.config import Frozen, content_hash, expand_path, parse, read_toml
from sekd.errors import InputError, nearest
from sekd.teacher_source import absolute_reference

ALONE = ("supervised", "consistency_training")  # schedules that hear no teacher: the core's WITHOUT_TEACHER
BUILT_METRICS = ("pesq_wb", "pesq_nb", "estoi", "si_sdr_db", "dnsmos_ovrl")


class Objectives(Frozen):
    """What the search trades: one metric against one or two costs; directions come from the names."""

    quality: str = "pesq_wb"
    cost: tuple[str, ...] = ("latency_ms", "macs_per_s")

    @model_validator(mode="after")
    def _known(self) -> Objectives:
        if self.quality not in BUILT_METRICS:
            raise ValueError(f"quality = {self.quality!r}{nearest(self.quality, BUILT_METRICS)}")
        for name in self.cost:
            if name not in LATENCIES + COSTS:
                raise ValueError(f"cost {name!r}{nearest(name, LATENCIES + COSTS)}")
        if not 1 <= len(set(self.cost)) == len(self.cost) <= 2:
            raise ValueError("cost needs one or two different names")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        return (self.quality, *self.cost)

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        return [DIRECTIONS[name] for name in self.names]


class Budget(Frozen):
    """Hard limits; a student over one is never trained. Absent does not bind."""

    latency_ms: float | None = Field(None, gt=0)
    paced_p95_ms: float | None = Field(None, gt=0)
    total_latency_ms: float | None = Field(None, gt=0)
    rtf: float | None = Field(None, gt=0)
    macs_per_s: float | None = Field(None, gt=0)
    weight_kib: float | None = Field(None, gt=0)
    state_kib: float | None = Field(None, gt=0)
    expected_macs_per_s: float | None = Field(None, gt=0)  # of a student with gates judged once it is trained
    expected_latency_ms: float | None = Field(None, gt=0)

    def limits(self) -> dict[str, float]:
        """The limits that bind, in a fixed order."""
        return {key: value for key, value in self.model_dump().items() if value is not None}


class SearchConfig(Frozen):
    """``auto``: a Gaussian process where no key is conditional and trials are at most 150, else TPE."""

    sampler: Literal["auto", "tpe", "gp", "random"] = "auto"


class StudyDefinition(Frozen):
    """The whole file."""

    name: str
    device: str
    also_on: tuple[str, ...] = ()  # devices on which every trained student is measured besides
    trials: int = Field(ge=1)
    seed: int = Field(0, ge=0)
    objectives: Objectives = Objectives()
    budget: Budget = Budget()
    data: dict[str, Any]
    teacher: dict[str, Any] | None = None
    base: dict[str, Any] = {}
    space: Space
    enqueue: list[dict[str, Any]] = []  # settings to try first
    search: SearchConfig = SearchConfig()
    run: RunConfig = RunConfig()
    resources: Resources = Resources()

    def identity(self, recordings: Mapping[str, str]) -> dict[str, str]:
        """Hash of each part that makes two studies the same; ``recordings`` by content, not by path."""
        parts = self.model_dump(mode="json", include={"objectives", "space", "base", "seed"})
        teacher = {k: v for k, v in (self.teacher or {}).items() if k not in ("model", "module")}
        return {
            **{key: content_hash(value) for key, value in parts.items()},
            "data": content_hash([_without_paths(self.data), recordings.get("pool"), recordings.get("valid")]),
            "teacher": content_hash([teacher, recordings.get("teacher")]),
        }

    @property
    def device_name(self) -> str:
        """What records are kept under: ``device`` itself, or the name of the profile at that path."""
        return name_of_device(self.device)

    @property
    def trial_resources(self) -> Resources:
        """What one trial takes of a cluster."""
        if self.resources.cpus is not None:
            return self.resources
        return self.resources.model_copy(update={"cpus": float(self.run.threads)})

    @property
    def searched(self) -> Space:
        """The space without its free keys: what a proposal holds."""
        return searched(self.space)

    @property
    def sweep(self) -> list[dict[str, Any]]:
        """The settings of the free keys that every trained student is tried at; none without free keys."""
        return sweep(self.space)

    @property
    def conditional(self) -> bool:
        return any(domain.when for domain in self.space.values())

    def documents(self) -> list[dict[str, Any]]:
        """Trial documents that together touch every key of the space (see ``space.corners``)."""
        found = [self.document(params) for params in corners(self.searched)]
        return found + [self.document(setting) for setting in self.sweep]

    def document(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One trial's configuration as a plain document: the base, with ``params`` laid over it."""
        shared = {"seed": self.seed, "data": self.data, "teacher": self.teacher, "threads": self.run.threads}
        return merged(merged(self.base, nested(params)), {k: v for k, v in shared.items() if v is not None})

    def sample(self, rng: random.Random) -> dict[str, Any]:
        """One setting drawn evenly from the space."""
        drawn: dict[str, Any] = {}
        for key, domain, _ in in_order(self.searched):
            drawn[key] = _draw(domain, rng)
        return only_active(self.searched, drawn)

    @property
    def reads_features(self) -> bool:
        """Whether a setting of the space distils features, so that the teacher's activations are wanted."""
        from sekd.losses import reads_features  # late: it brings torch

        key = "distill.term"
        domain = self.space.get(key)
        found = [self.base.get("distill", {}).get("term"), *(domain.choice or () if domain else ())]
        names = {name for term in found if term for name in ([term] if isinstance(term, str) else term)}
        names |= {other.removeprefix(f"{key}.") for other in self.space if other.startswith(f"{key}.")}
        return reads_features(dict.fromkeys(names, 1.0))

    @property
    def reads_outputs(self) -> bool:
        """Whether a setting of the space follows what the teacher makes of the training audio."""
        from sekd.schedule import WITHOUT_OUTPUTS  # late: it brings torch

        return any(kind not in WITHOUT_OUTPUTS for kind in self._schedules)

    @property
    def _schedules(self) -> tuple[str, ...]:
        """The kinds of schedule that a setting may have."""
        domain = self.space.get("distill.schedule.kind")
        if domain is not None:
            return tuple(domain.choice or ())
        return (self.base.get("distill", {}).get("schedule", {}).get("kind", "one_step"),)

    @property
    def gated(self) -> bool:
        """Whether a setting of the space has gates, which train from a pool even without a teacher."""
        return "gate" in self.base.get("student", {}) or any(key.startswith("student.gate") for key in self.space)

    @property
    def reads_ovrl(self) -> bool:
        """Whether DNSMOS guides the gates of a setting of the space."""
        key, default = "distill.gate.guidance", "dnsmos"
        domain = self.space.get(key)
        found = [self.base.get("distill", {}).get("gate", {}).get("guidance", default)]
        return self.gated and default in (domain.choice or () if domain else found)

    def first(self) -> list[dict[str, Any]]:
        """What is tried before the sampler decides: the middle of the space without a teacher, then the user's."""
        middle = {key: domain.some()[len(domain.some()) // 2] for key, domain, _ in in_order(self.searched)}
        key = "distill.schedule.kind"
        alone = [kind for kind in self._schedules if kind in ALONE]
        if key in self.space and alone:
            middle[key] = alone[0]
        return [only_active(self.searched, middle), *self.enqueue]


def name_of_device(device: str) -> str:
    """What a device that a study or a command names is called: the name itself, or that of the file at a path."""
    return Path(device).stem if device.endswith(".toml") else device


def _draw(domain: Any, rng: random.Random) -> Any:
    import math

    if domain.choice is not None:
        return rng.choice(domain.choice)
    if domain.integers is not None:
        low, high = domain.integers
        if domain.log:
            return min(high, max(low, round(math.exp(rng.uniform(math.log(low), math.log(high))))))
        return rng.randrange(low, high + 1, int(domain.step or 1))
    low, high = domain.floats
    if domain.log:
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    if domain.step:
        return low + domain.step * rng.randrange(int((high - low) / domain.step + 1e-9) + 1)
    return rng.uniform(low, high)


def _without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    drop = ("manifest", "clean", "noise", "noisy")
    return {part: {k: v for k, v in value.items() if k not in drop} for part, value in data.items()}


def read_study(path: Path) -> StudyDefinition:
    """The definition at ``path``, with absolute paths; every key of it is checked, and every corner of its space.

    Raises:
        InputError: names the key and the nearest right one.
    """
    document = read_toml(path)
    _absolute(document, path.resolve().parent)
    study = parse(StudyDefinition, document, str(path))
    if study.name != path.stem and path.name != "definition.toml":
        raise InputError(f"{path}: name = '{study.name}' must equal the file's name, '{path.stem}'")
    _check_space(study, str(path))
    return study


def _check_space(study: StudyDefinition, where: str) -> None:
    from sekd.distillation import DistillConfig  # late: it brings torch
    from sekd.models.base import cannot_stream

    _check_keys(study, where)
    try:
        check_free(study.space)
        check_conditions(study.searched)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    _check_gates(study, where)
    for document in [study.document({}), *study.documents(), *(study.document(first) for first in study.first())]:
        config = parse(DistillConfig, document, where)
        if not config.student.streams:
            raise InputError(f"{where}: {cannot_stream(config.student)}")
    for settings in study.enqueue:
        for key, value in settings.items():
            if not study.space[key].holds(value):
                raise InputError(f"{where}: enqueue: {value!r} is no value of '{key}' in the space")
    if study.teacher is not None:
        kinds = study._schedules
        if "distill.schedule.kind" in study.space and not set(ALONE) & set(kinds):
            wanted = "consistency_training" if "consistency" in kinds else "supervised"
            raise InputError(
                f"{where}: space.'distill.schedule.kind' must offer '{wanted}': "
                "without it nobody can tell whether the teacher helped"
            )


def _check_gates(study: StudyDefinition, where: str) -> None:
    """A threshold of gates that are not there would make them, in a variant alone, after training without."""
    if THRESHOLD not in study.space:
        return
    for params in corners(study.searched):
        if study.document(params).get("student", {}).get("gate") is None:
            raise InputError(
                f"{where}: space.'{THRESHOLD}': a student without gates has no threshold; "
                "give them to all: [base] student = { gate = {} }"
            )


SEARCHABLE = ("student", "distill", "train", "deploy")  # the rest of a trial's configuration is the study's own


def _check_keys(study: StudyDefinition, where: str) -> None:
    """Keys that would be overwritten without a word, or that cannot stand beside each other."""
    for part, keys in (("base", study.base), ("space", study.space)):
        for key in keys:
            top = key.split(".")[0]
            if top not in SEARCHABLE:
                raise InputError(f"{where}: {part}: unknown key '{key}'{nearest(top, SEARCHABLE)}")
            if part == "space" and any(other.startswith(f"{key}.") for other in keys):
                raise InputError(f"{where}: space: '{key}' is a table of settings, not one setting")
    for settings in study.enqueue:
        for key in settings:
            if key not in study.space:
                raise InputError(f"{where}: enqueue: '{key}' is not in the space{nearest(key, study.space)}")
            if study.space[key].free:
                raise InputError(f"{where}: enqueue: '{key}' is free: every setting of it is tried anyway")


PATHS = [("data", part, key) for part in ("train", "valid") for key in ("manifest", "clean", "noise", "noisy")]


def _absolute(document: Any, base: Path) -> None:
    """Makes the paths of a document absolute in place; ``demo`` is a word, not a path."""
    if isinstance(document.get("device"), str) and document["device"].endswith(".toml"):
        document["device"] = str(expand_path(document["device"], base))
    if isinstance(also := document.get("also_on"), list):
        document["also_on"] = [
            str(expand_path(name, base)) if isinstance(name, str) and name.endswith(".toml") else name for name in also
        ]
    for *parents, key in [*PATHS, ("teacher", "model")]:
        table = document
        for name in parents:
            table = table.get(name) if isinstance(table, Mapping) else None
        if isinstance(table, Mapping) and isinstance(table.get(key), str) and table[key] != "demo":
            table[key] = str(expand_path(table[key], base))  # type: ignore[index]
    teacher = document.get("teacher")
    if isinstance(teacher, Mapping) and isinstance(teacher.get("module"), str):
        teacher["module"] = absolute_reference(teacher["module"], base)  # type: ignore[index]


def absolute_text(path: Path) -> str:
    """The file's text, comments and all, with absolute paths: what a run folder keeps."""
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    _absolute(document, path.resolve().parent)
    return tomlkit.dumps(document)


def home() -> Path:
    """Where studies, runs and the cache lie."""
    return Path(os.environ.get("SEKD_HOME") or "studies").resolve()


def cache_folder() -> Path:
    return Path(os.environ.get("SEKD_CACHE") or home() / "cache").resolve()


def shipped() -> list[str]:
    """Names of the studies that come with the package."""
    files = resources.files("studies").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def find_definition(name: str) -> Path:
    """The file of a study: a path ending in ``.toml``, a name under ``home()``, or one that is shipped.

    Raises:
        InputError: there is none; names the nearest.
    """
    if name.endswith(".toml"):
        if not Path(name).is_file():
            raise InputError(f"{name}: no such file")
        return Path(name)
    own = home() / f"{name}.toml"
    if own.is_file():
        return own
    if name in shipped():
        return Path(str(resources.files("studies") / f"{name}.toml"))
    known = {*shipped(), *(file.stem for file in home().glob("*.toml"))}
    raise InputError(f"no study '{name}' in {home()} or among the shipped ones{nearest(name, known)}")


def run_folder(name: str) -> Path:
    """The run folder that NAME means: a folder, or a study's name.

    Raises:
        InputError: no run of that name has been started; names the nearest.
    """
    direct = Path(name)
    if (direct / "definition.toml").is_file():
        return direct.resolve()
    stem = Path(name).stem if name.endswith(".toml") else name
    folder = home() / "runs" / stem
    if (folder / "definition.toml").is_file():
        return folder
    runs = [found.parent.name for found in (home() / "runs").glob("*/definition.toml")]
    raise InputError(f"no run of '{stem}' in {home() / 'runs'}: start it with sekd launch {stem}{nearest(stem, runs)}")


__all__ = ["METRICS", "Budget", "Objectives", "RunConfig", "StudyDefinition", "read_study"]
