"""The exception tree: messages, and the way through pickle that Ray takes."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
from ray.exceptions import RayTaskError

from appliance import errors
from appliance.errors import (
    ApplianceError,
    ImageError,
    InputError,
    ServiceError,
    StorageError,
    TrainingStopped,
)

TREE = [
    cls
    for _, cls in inspect.getmembers(errors, inspect.isclass)
    if cls.__module__ == "appliance.errors"
]


def full_error() -> ImageError:
    return ImageError(
        "The picture is damaged",
        kind="unreadable",
        where="a.jpg",
        got="3 bytes",
        expected="a JPEG",
        hint="Export it again",
    )


def test_message_says_what_where_got_expected_and_the_next_step():
    error = full_error()
    assert error.message == "The picture is damaged: a.jpg (got 3 bytes, expected a JPEG)"
    assert str(error) == f"{error.message}. Export it again."
    assert error.args == ("The picture is damaged",)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({}, "Broken"),
        ({"where": "x"}, "Broken: x"),
        ({"got": 0}, "Broken (got 0)"),
        ({"expected": 3}, "Broken (expected 3)"),
        ({"where": "x", "got": ""}, "Broken: x (got )"),
        ({"hint": "Repair it"}, "Broken. Repair it."),
    ],
)
def test_missing_facts_leave_no_gaps(facts, message):
    assert str(ApplianceError("Broken", **facts)) == message


@pytest.mark.parametrize(
    "copied", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy]
)
def test_every_fact_survives_a_copy(copied):
    error = full_error()
    again = copied(error)
    assert type(again) is ImageError
    assert vars(again) == vars(error)
    assert (str(again), again.args, again.kind) == (str(error), error.args, "unreadable")


@pytest.mark.parametrize("cls", [cls for cls in TREE if cls is not ImageError])
def test_every_class_of_the_tree_pickles(cls):
    besides = {"step": 3} if cls is TrainingStopped else {}
    error = cls("Broken", where="here", hint="Repair it", **besides)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is cls
    assert vars(again) == vars(error)
    assert str(again) == "Broken: here. Repair it."


def test_an_error_that_ray_raises_keeps_its_facts():
    raised = RayTaskError("task", "Traceback", full_error(), ip="127.0.0.1").as_instanceof_cause()
    with pytest.raises(ImageError) as caught:
        raise pickle.loads(pickle.dumps(raised.cause))
    assert caught.value.hint == "Export it again"
    assert isinstance(raised, ImageError)
    assert raised.message == full_error().message


def test_user_mistakes_and_services_can_be_told_apart():
    assert issubclass(StorageError, InputError)
    assert not issubclass(ServiceError, InputError)
    with pytest.raises(TypeError, match="kind"):
        ImageError("Broken")


def test_the_drawn_tree_is_the_real_one():
    drawn = re.findall(r"^( *)- (\w+)", errors.__doc__, re.MULTILINE)
    parents: list[str] = []
    pairs = []
    for indent, name in drawn:
        depth = len(indent) // 4
        parents[depth:] = [name]
        pairs.append((name, parents[depth - 1] if depth else "Exception"))
    assert sorted(pairs) == sorted((cls.__name__, cls.__base__.__name__) for cls in TREE)
