"""Typed, frozen configuration read from TOML; a mistyped key names its path and the nearest right one."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from sekd.errors import InputError, nearest


class Frozen(BaseModel):
    """Base of everything read from or written to files: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The TOML document at ``path``.

    Raises:
        InputError: the file is missing, unreadable or not TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error


def parse(model: type[Model], document: Mapping[str, Any], where: str) -> Model:
    """``document`` as a ``model``; every problem is one line that begins with ``where``.

    Raises:
        InputError: a key is unknown or missing, or a value does not fit.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [_describe(model, problem) for problem in error.errors()]
        raise InputError(f"{where}: {'; '.join(problems[:3])}") from error


def _describe(model: type[BaseModel], problem: Any) -> str:
    path, fields = _place(model, problem["loc"])
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{dotted}'{nearest(path[-1], fields)}"
    if problem["type"] == "missing":
        return f"missing key '{dotted}'"
    if problem["type"] == "union_tag_invalid":
        known = problem["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"'{dotted}': unknown kind {problem['ctx']['tag']!r}{nearest(problem['ctx']['tag'], known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem.get("input"), str | int | float | bool):
        return f"'{dotted}' = {problem['input']!r}: {message}"
    return f"'{dotted}': {message}" if dotted else message


def _place(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], list[str]]:
    """The path of a problem as its user wrote it, and the names of the fields beside its last key.

    Where a field takes one of several models, pydantic puts the name of the one it took into the path.
    """
    path: list[str] = []
    choices: list[type[BaseModel]] = []
    for part in map(str, loc):
        taken = [choice for choice in choices if part in _tags(choice)]
        if taken:
            model, choices = taken[0], []
            continue
        if len(choices) == 1:
            model = choices[0]
        path.append(part)
        field = model.model_fields.get(part)
        choices = [] if field is None else _models_in(field.annotation)
    return path, [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _tags(model: type[BaseModel]) -> list[Any]:
    """Defaults of the fields that can hold only one word: what tells the models of a union apart."""
    return [f.default for f in model.model_fields.values() if get_args(f.annotation) == (f.default,)]


def content_hash(value: Any, length: int = 12) -> str:
    """Hex digest of ``value`` written as canonical JSON: equal content gives an equal hash on any machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def expand_path(text: str, base: Path) -> Path:
    """``text`` with ``${VAR:-default}`` filled in, relative to ``base``.

    Raises:
        InputError: a variable without a default is not set.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise InputError(f"'{text}': environment variable {match[1]} is not set")
        return found

    return (base / Path(_VARIABLE.sub(value, text)).expanduser()).resolve()
