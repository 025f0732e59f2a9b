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
    path = [str(part) for part in problem["loc"]]
    dotted = ".".join(path)
    if problem["type"] == "extra_forbidden":
        fields = _fields_at(model, path[:-1])
        return f"unknown key '{dotted}'{nearest(path[-1], fields)}"
    if problem["type"] == "missing":
        return f"missing key '{dotted}'"
    message = problem["msg"].removeprefix("Value error, ")
    if isinstance(problem.get("input"), str | int | float | bool):
        return f"'{dotted}' = {problem['input']!r}: {message}"
    return f"'{dotted}': {message}" if dotted else message


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the nested model at ``path``."""
    for name in path:
        field = model.model_fields.get(name)
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        models = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if models:
            model = models[0]
    return [field.alias or name for name, field in model.model_fields.items()]


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
