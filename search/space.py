"""The space of a study: for each path into the trial configuration, the values it may take, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from sekd.config import Frozen
from sekd.errors import InputError, nearest


class Domain(Frozen):
    """One of ``choice``, ``int`` or ``float``; ``when`` names the setting of another key that makes it matter."""

    choice: tuple[Any, ...] | None = None
    integers: tuple[int, int] | None = Field(None, alias="int")
    floats: tuple[float, float] | None = Field(None, alias="float")
    step: float | None = None
    log: bool = False
    when: str | None = None
    free: bool = False  # swept on the trained student instead of searched

    @model_validator(mode="after")
    def _one_kind(self) -> Domain:
        given = [kind for kind in (self.choice, self.integers, self.floats) if kind is not None]
        if len(given) != 1:
            raise ValueError("needs exactly one of choice, int and float")
        bounds = self.integers or self.floats
        if bounds is not None and (bounds[0] > bounds[1] or (self.log and bounds[0] <= 0)):
            raise ValueError(f"{list(bounds)} must be [low, high]" + (", above 0 with log" if self.log else ""))
        if bounds is not None and not all(math.isfinite(bound) for bound in bounds):
            raise ValueError(f"{list(bounds)} must be finite")
        choice = self.choice
        if choice is not None and (not choice or any(value in choice[:k] for k, value in enumerate(choice))):
            raise ValueError("choice needs values, each once")
        if self.step is not None and (not 0 < self.step < math.inf or self.log or self.choice is not None):
            raise ValueError("step must be above 0, and goes with neither log nor choice")
        if self.step is not None and self.integers is not None and self.step % 1:
            raise ValueError(f"step = {self.step} of whole numbers must be whole")
        if self.free and self.when is not None:
            raise ValueError("free = true and when do not go together: every setting is tried on every student")
        if self.free and self.choice is None and (self.log or (self.floats is not None and self.step is None)):
            raise ValueError("free = true tries every setting: give choice, or int or float with a step")
        return self

    def holds(self, value: Any) -> bool:
        """Whether the search may take ``value``."""
        if self.choice is not None:
            return value in self.choice
        low, high = self.integers or self.floats or (0, 0)
        if isinstance(value, bool) or not isinstance(value, int if self.integers else int | float):
            return False
        steps = (value - low) / self.step if self.step else 0
        return low <= value <= high and math.isclose(steps, round(steps), abs_tol=1e-9)

    def every(self) -> list[Any]:
        """All values of a finite domain, in order."""
        if self.choice is not None:
            return list(self.choice)
        if self.integers is not None:
            return list(range(self.integers[0], self.integers[1] + 1, int(self.step or 1)))
        (low, high), step = self.floats or (0, 0), self.step or 1
        # Rounded, because 0.1 + 2 * 0.1 is no setting that anybody wrote.
        return [round(low + step * k, 12) for k in range(int((high - low) / step + 1e-9) + 1)]

    def some(self) -> list[Any]:
        """A few values that span the domain: all choices, or both ends and the middle."""
        if self.choice is not None:
            return list(self.choice)
        low, high = self.integers or self.floats or (0, 0)
        middle = math.sqrt(low * high) if self.log else (low + high) / 2
        if self.integers is not None:
            step = int(self.step or 1)
            return sorted({low, low + round((middle - low) / step) * step, low + (high - low) // step * step})
        if self.step:
            values = self.every()
            return sorted({values[0], values[len(values) // 2], values[-1]})
        return [low, middle, high]


Space = dict[str, Domain]

# What acts on a trained student; every other key decides how one is trained.
THRESHOLD = "student.gate.threshold"
STEPS = "student.steps"  # evaluations of a consistency function, and how it is asked
OF_SEVERAL = ("student.last_time", "student.renoise")  # what one evaluation alone never looks at
SAMPLING = (STEPS, *OF_SEVERAL, "student.noise_scale", "student.noise_seed")
SEGMENTS = ("student.segment_frames", "student.overlap_hops")  # of a consistency function: it learnt on any length
AFTER_TRAINING = ("deploy.", THRESHOLD, *SAMPLING, *SEGMENTS)
MOST_SETTINGS = 16  # of all free keys together: each costs an export, a scoring and a measurement of every student


def check_free(space: Space) -> None:
    """Refuses a free key that acts in training, a searched one that acts after it, and a sweep without end.

    Raises:
        InputError: names the key.
    """
    for key, domain in space.items():
        after = key.startswith(AFTER_TRAINING)
        if after and not domain.free:
            raise InputError(f"space.'{key}' acts after training: it needs free = true")
        if domain.free and not after:
            raise InputError(
                f"space.'{key}': free = true, but it acts in training; "
                f"after training act {', '.join(f'{k}*' if k.endswith('.') else k for k in AFTER_TRAINING)}"
            )
        if domain.when is not None and (wanted := condition(domain.when, f"space.'{key}'").key) in space:
            if space[wanted].free:
                raise InputError(f"space.'{key}'.when: '{wanted}' is free: it has every value on every student")
    count = math.prod(len(domain.every()) for domain in space.values() if domain.free)
    if count > MOST_SETTINGS:
        raise InputError(f"space: the free keys have {count} settings together, at most {MOST_SETTINGS}")


def searched(space: Space) -> Space:
    """The keys that decide how a student is trained: all that a sampler may see."""
    return {key: domain for key, domain in space.items() if not domain.free}


def sweep(space: Space) -> list[dict[str, Any]]:
    """Every setting of the free keys that is a student of its own, in order; none where there is no free key."""
    free = {key: domain.every() for key, domain in space.items() if domain.free}
    settings = [dict(zip(free, values, strict=True)) for values in product(*free.values())] if free else []
    first = {key: values[0] for key, values in free.items() if key in OF_SEVERAL}
    return [one for one in settings if one.get(STEPS) != 1 or first.items() <= one.items()]


class Condition(NamedTuple):
    """A parsed ``when``: the key it looks at and what it wants to see there."""

    key: str
    test: Literal["is", "is not", "starts with"]
    value: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        have = str(values.get(self.key))
        if self.test == "starts with":
            return have.startswith(self.value)
        return (have == self.value) == (self.test == "is")


def condition(text: str, where: str) -> Condition:
    """``"KEY is VALUE"``, ``"KEY is not VALUE"`` or ``"KEY starts with TEXT"``.

    Raises:
        InputError: the text reads otherwise.
    """
    for test in ("starts with", "is not", "is"):
        key, found, value = text.partition(f" {test} ")
        if found:
            return Condition(key.strip(), test, value.strip().strip("'\""))  # type: ignore[arg-type]
    raise InputError(f"{where}.when = {text!r}: write 'KEY is VALUE', 'KEY is not VALUE' or 'KEY starts with TEXT'")


def check_conditions(space: Space) -> None:
    """Refuses what ``in_order`` refuses, and a condition that no value can meet.

    Raises:
        InputError: names the key and the nearest value that the other one can take.
    """
    for key, _, wanted in in_order(space):
        choice = space[wanted.key].choice if wanted is not None else None
        if wanted is None or choice is None:
            continue
        values = [str(value) for value in choice]
        same = str.startswith if wanted.test == "starts with" else str.__eq__
        if not any(same(value, wanted.value) for value in values):
            raise InputError(
                f"space.'{key}'.when: '{wanted.key}' is never '{wanted.value}'{nearest(wanted.value, values)}"
            )


def in_order(space: Space) -> list[tuple[str, Domain, Condition | None]]:
    """The keys so that each comes after the one its condition looks at.

    Raises:
        InputError: a condition looks at a key that is not in the space, or two look at each other.
    """
    conditions = {k: condition(d.when, f"space.'{k}'") if d.when else None for k, d in space.items()}
    for key, wanted in conditions.items():
        if wanted is not None and wanted.key not in space:
            raise InputError(f"space.'{key}'.when: '{wanted.key}' is not in the space{nearest(wanted.key, space)}")
    ordered: list[str] = []
    while len(ordered) < len(space):
        ready = [
            key
            for key, wanted in conditions.items()
            if key not in ordered and (wanted is None or wanted.key in ordered)
        ]
        if not ready:
            raise InputError("space: conditions look at each other in a circle")
        ordered.extend(ready)
    return [(key, space[key], conditions[key]) for key in ordered]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a.b": 1}`` to ``{"a": {"b": 1}}``."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *parents, leaf = path.split(".")
        place = result
        for name in parents:
            place = place.setdefault(name, {})
        place[leaf] = value
    return result


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``over`` laid on top, table by table."""
    result = dict(base)
    for key, value in over.items():
        below = result.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def corners(space: Space, at_most: int = 64) -> list[dict[str, Any]]:
    """Settings that take each key through its span, the others at their first value; then combinations."""
    ordered = in_order(space)
    first = {key: domain.some()[0] for key, domain, _ in ordered}
    singles = [first | {key: value} for key, domain, _ in ordered for value in domain.some()]
    spans: Sequence[list[Any]] = [domain.some() for _, domain, _ in ordered]
    total = math.prod(map(len, spans))
    combined = (
        [dict(zip([k for k, _, _ in ordered], values, strict=True)) for values in product(*spans)]
        if total <= at_most
        else []
    )
    return [only_active(space, values) for values in singles + combined]


def only_active(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without the keys whose condition does not hold."""
    kept: dict[str, Any] = {}
    for key, _, wanted in in_order(space):
        if key in values and (wanted is None or wanted.holds(kept)):
            kept[key] = values[key]
    return kept
