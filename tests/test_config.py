"""Settings from outside: accepted, converted, or refused with one sentence."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, Field, model_validator

from appliance.config import load_yaml, parse_settings
from appliance.errors import ConfigError, StorageError


@dataclass(frozen=True)
class Schedule:
    steps: int = 10
    rates: tuple[float, ...] = (0.1,)


class Limits(BaseModel):
    max_bytes: int = Field(default=100, ge=1)
    min_bytes: int = 0

    @model_validator(mode="after")
    def ordered(self) -> Limits:
        if self.min_bytes > self.max_bytes:
            raise ValueError("min_bytes must not exceed max_bytes")
        return self


class Service(BaseModel):
    name: str
    limits: Limits = Limits()


def test_dataclasses_and_models_are_built_from_plain_values():
    assert parse_settings(Schedule, {}, source="x") == Schedule()
    assert parse_settings(Schedule, {"steps": "7", "rates": [1, 2]}, source="x") == Schedule(
        7, (1, 2)
    )
    built = parse_settings(Service, {"name": "a", "limits": {"max_bytes": 3}}, source="x")
    assert built == Service(name="a", limits=Limits(max_bytes=3))


@pytest.mark.parametrize("cls", [Schedule, Limits])
def test_an_unknown_key_is_answered_with_the_known_ones(cls):
    with pytest.raises(
        ConfigError, match=r"Unknown setting: a\.yaml .got 'colour'.. Known are \w+, \w+"
    ):
        parse_settings(cls, {"colour": 1}, source="a.yaml")


def test_a_typing_error_is_answered_with_the_nearest_key():
    with pytest.raises(ConfigError, match=r"got 'stepps'.. Did you mean 'steps'"):
        parse_settings(Schedule, {"stepps": 1}, source="command line")


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (Schedule, {"steps": "many"}, "steps is wrong: here .got 'many'.. .*valid integer"),
        (Schedule, {"steps": True}, "steps is wrong: here .got true, expected a number"),
        (Schedule, {"steps": 1.5}, "steps is wrong: here .got 1.5"),
        (Schedule, {"rates": [1, "x"]}, r"rates\.1 is wrong: here .got 'x'"),
        (
            Limits,
            {"max_bytes": 0},
            "max_bytes is wrong: here .got 0.. .*greater than or equal to 1",
        ),
        (Service, {"name": "a", "limits": {"max_bytes": 0}}, r"limits\.max_bytes is wrong"),
        (Service, {}, "name is wrong: here .*Field required"),
        (Limits, {"min_bytes": 101}, r"must not exceed.*: here$"),
    ],
)
def test_a_value_that_does_not_fit_is_named(cls, values, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(cls, values, source="here")


def test_yaml_gives_a_mapping(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("steps: 3\nrates: [0.1, 0.2]\n")
    assert parse_settings(Schedule, load_yaml(str(path)), source="a") == Schedule(3, (0.1, 0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", r"Not valid YAML: .*a\.yaml"),
        (
            "steps: 3\nrates: [1, 2\nseed: 1\n",
            r"a\.yaml, line 3, column 5 .got expected ',' or '\]', .*`name: value`",
        ),
        ("- 1\n- 2\n", "Not a settings file: .*expected a mapping"),
        ("", "Not a settings file: .*got nothing"),
        ("!!python/object/apply:os.getcwd []", "Not valid YAML"),
        ("\x00", "Not valid YAML"),
    ],
)
def test_other_yaml_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(str(path))
    assert "\n" not in str(caught.value)


def test_a_missing_yaml_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match=r"Cannot read the file: .*a\.yaml"):
        load_yaml(str(tmp_path / "a.yaml"))
