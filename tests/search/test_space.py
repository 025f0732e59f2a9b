"""Domains, conditions and the order in which keys are decided."""

import random

import pytest

from search.space import (
    Domain,
    check_conditions,
    check_free,
    condition,
    corners,
    in_order,
    merged,
    nested,
    only_active,
    searched,
    sweep,
)  # fmt: skip
from search.study import _draw
from sekd.config import parse
from sekd.errors import InputError


def space_of(**tables):
    return {key.replace("__", "."): parse(Domain, table, key) for key, table in tables.items()}


@pytest.mark.parametrize(
    ("table", "part"),
    [
        ({}, "exactly one"),
        ({"choice": [1], "int": [1, 2]}, "exactly one"),
        ({"choice": []}, "choice needs values"),
        ({"choice": [4, 8, 4]}, "each once"),
        ({"int": [5, 1]}, r"\[5, 1\] must be \[low, high\]"),
        ({"float": [0.0, 1.0], "log": True}, "above 0 with log"),
        ({"float": [float("nan"), 1.0]}, "must be finite"),
        ({"float": [0.0, float("inf")]}, "must be finite"),
        ({"int": [1, 9], "step": 0.5}, "must be whole"),
        ({"int": [1, 9], "step": 0}, "step must be above 0"),
        ({"float": [1.0, 9.0], "step": 1.0, "log": True}, "neither log"),
        ({"choice": [1, 2], "step": 1}, "nor choice"),
        ({"int": [1.5, 9]}, "int"),
        ({"int": [1, 2, 3]}, "int"),
        ({"float": [0.0, 1.0], "free": True}, "tries every setting"),
        ({"int": [1, 8], "log": True, "free": True}, "tries every setting"),
        ({"choice": [1, 2], "free": True, "when": "a is b"}, "do not go together"),
        ({"chioce": [1, 2]}, "did you mean 'choice'"),
    ],
)
def test_a_domain_that_makes_no_sense_is_named(table, part):
    with pytest.raises(InputError, match=part) as caught:
        parse(Domain, table, "space")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "every"),
    [
        ({"choice": ["a", "b"]}, ["a", "b"]),
        ({"int": [1, 4]}, [1, 2, 3, 4]),
        ({"int": [5, 21], "step": 5}, [5, 10, 15, 20]),
        ({"float": [0.1, 0.5], "step": 0.2}, [0.1, 0.3, 0.5]),
    ],
)
def test_a_finite_domain_lists_itself(table, every):
    domain = parse(Domain, table | {"free": True}, "space")
    assert domain.every() == every
    assert all(map(domain.holds, every))


def free_space():
    return space_of(
        student__width={"choice": [8, 12]},
        deploy__dtype={"choice": ["fp32", "int8_dynamic"], "free": True},
        deploy__exclude={"choice": [[], ["Conv"]], "free": True},
    )


def test_the_sweep_is_the_product_of_the_free_keys_in_order():
    space = free_space()
    assert list(searched(space)) == ["student.width"]
    assert [tuple(setting.values()) for setting in sweep(space)] == [
        ("fp32", []), ("fp32", ["Conv"]), ("int8_dynamic", []), ("int8_dynamic", ["Conv"]),
    ]  # fmt: skip
    assert list(sweep(space)[0]) == ["deploy.dtype", "deploy.exclude"]
    assert sweep(searched(space)) == []
    check_free(space)


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"deploy__dtype": {"choice": ["fp32"]}}, "'deploy.dtype' acts after training: it needs free = true"),
        ({"student__width": {"choice": [8], "free": True}}, r"'student.width': free = true, but it acts in training"),
        ({"train__lr": {"float": [0.1, 0.2], "when": "deploy.dtype is fp32"}}, "'deploy.dtype' is free"),
        ({"deploy__calibration_s": {"int": [1, 5], "free": True}}, "20 settings together, at most 16"),
    ],
)
def test_what_is_free_acts_after_training_and_nothing_else_is(changed, part):
    with pytest.raises(InputError, match=part):
        check_free(free_space() | space_of(**changed))


@pytest.mark.parametrize(
    ("table", "inside", "outside"),
    [
        ({"choice": [4, 8, [1, 2]]}, [4, [1, 2]], [5, "4", [2, 1]]),
        ({"int": [5, 40], "step": 5}, [5, 20, 40], [0, 7, 45, 5.5, True, "5"]),
        ({"float": [0.1, 0.5]}, [0.1, 0.3, 0.5], [0.09, 0.51, "0.3"]),
        ({"float": [0.1, 0.5], "step": 0.2}, [0.1, 0.3, 0.5], [0.2]),
    ],
)
def test_holds(table, inside, outside):
    domain = parse(Domain, table, "space")
    assert all(map(domain.holds, inside))
    assert not any(map(domain.holds, outside))


@pytest.mark.parametrize(
    ("table", "some"),
    [
        ({"choice": ["a", "b"]}, ["a", "b"]),
        ({"int": [5, 40], "step": 5}, [5, 25, 40]),
        ({"int": [5, 43], "step": 5}, [5, 25, 40]),
        ({"int": [1, 100], "log": True}, [1, 10, 100]),
        ({"float": [1e-4, 1e-2], "log": True}, [1e-4, 1e-3, 1e-2]),
        ({"float": [0.0, 1.0]}, [0.0, 0.5, 1.0]),
    ],
)
def test_some_values_span_the_domain(table, some):
    domain = parse(Domain, table, "space")
    assert domain.some() == pytest.approx(some) if not domain.choice else domain.some() == some
    rng = random.Random(0)
    assert all(domain.holds(_draw(domain, rng)) for _ in range(200))


def test_conditions():
    values = {"kind": "two_step_kept"}
    assert condition("kind starts with two_step", "k").holds(values)
    assert condition("kind is 'two_step_kept'", "k").holds(values)
    assert not condition("kind is two_step", "k").holds(values)
    assert condition("kind is not two_step", "k").holds(values)
    with pytest.raises(InputError, match=r"k\.when = 'kind == 2': write"):
        condition("kind == 2", "k")


def test_keys_come_after_what_they_look_at():
    space = space_of(c={"int": [1, 2], "when": "b is 1"}, b={"int": [1, 2], "when": "a is x"}, a={"choice": ["x", "y"]})
    assert [key for key, _, _ in in_order(space)] == ["a", "b", "c"]
    assert only_active(space, {"a": "x", "b": 1, "c": 2}) == {"a": "x", "b": 1, "c": 2}
    # A key that does not matter cannot make another one matter.
    assert only_active(space, {"a": "y", "b": 1, "c": 2}) == {"a": "y"}


@pytest.mark.parametrize(
    ("when", "part"),
    [
        ("knid is x", "'knid' is not in the space; did you mean 'kind'"),
        ("kind is one_stp", "never 'one_stp'; did you mean 'one_step'"),
        ("kind starts with tow", "never 'tow'"),
        ("key is 1", "circle"),
    ],
)
def test_a_condition_that_can_never_hold_is_refused(when, part):
    space = space_of(kind={"choice": ["supervised", "one_step"]}, key={"int": [1, 2], "when": when})
    with pytest.raises(InputError, match=part):
        check_conditions(space)


def test_corners_touch_every_value():
    space = space_of(a={"choice": ["x", "y"]}, b={"int": [1, 9]}, c={"float": [0.0, 1.0], "when": "a is y"})
    found = corners(space)
    for key, domain in space.items():
        assert {values[key] for values in found if key in values} == set(domain.some())
    assert all(("c" in values) == (values["a"] == "y") for values in found)


def test_nested_and_merged():
    assert nested({"a.b": 1, "a.c.d": 2, "e": 3}) == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {"a": {"b": 1, "c": 3}, "d": 4}


def test_a_float_with_steps_is_spanned_by_its_own_values():
    assert Domain(float=(0.2, 0.8), step=0.2).some() == [0.2, 0.6, 0.8]
    assert Domain(float=(0.1, 0.75), step=0.3).some() == [0.1, 0.4, 0.7]
