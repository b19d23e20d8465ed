"""What is known of a deployment: which release follows on which, and which one is gone back to."""

from __future__ import annotations

import json

import pytest

from appliance.errors import ConfigError
from appliance.on_ray import deployments as on_ray
from serve_app.deployments.found import host_of
from serve_app.deployments.record import Record, Release


def release(model="m", **settings):
    return Release({"model": model, **settings}, "2026-01-01T00:00:00+00:00", "somebody")


def test_going_back_keeps_the_scale_and_leads_one_further_each_time():
    record = Record(release("a", num_replicas=1))
    record = record.followed_by(release("b", num_replicas=1))
    record = record.followed_by(release("b", min_replicas=2, max_replicas=4))  # no other release
    record = record.followed_by(release("c", min_replicas=2, max_replicas=4))
    record = Record.of_json(json.loads(json.dumps(record.to_json())))
    seen = []
    while record.earlier:
        record = record.rolled_back()
        seen.append(record.current.settings)
    scale = {"min_replicas": 2, "max_replicas": 4}
    assert seen == [{"model": "b", **scale}, {"model": "a", **scale}]
    with pytest.raises(ConfigError, match="no earlier release"):
        record.rolled_back()
    assert Record.of_json({"somebody": "else's"}) is None


def test_what_was_on_trial_is_not_gone_back_to():
    record = Record(release("a"))
    for percent in (10, 50):
        trial = release("a", canary_model="b", canary_percent=percent)
        record = record.followed_by(trial)
    assert record.current.model == "a, 50 % b"
    assert record.rolled_back().current.model == "a"
    record = record.followed_by(release("b"))
    assert [one.model for one in record.earlier] == ["a"]


def test_only_the_last_releases_are_kept():
    record = Record(release("0"))
    for number in range(1, 30):
        record = record.followed_by(release(str(number)))
    assert [one.model for one in record.earlier] == [str(number) for number in range(28, 18, -1)]


def test_a_fixed_scale_and_autoscaling_take_turns():
    without = on_ray._without_other_scale
    fixed, auto = {"num_replicas": 2}, {"min_replicas": 0, "max_replicas": 3}
    assert without({**fixed, "device": "cpu"}, auto) == {"device": "cpu"}
    assert without({**auto, "device": "cpu"}, fixed) == {"device": "cpu"}
    assert without({**auto, "device": "cpu"}, {"num_cpus": 2}) == {**auto, "device": "cpu"}
    assert on_ray.scale_settings(None, True) == {"min_replicas": 1, "max_replicas": 10}
    assert on_ray.scale_settings(None, (0, 4)) == {"min_replicas": 0, "max_replicas": 4}
    assert on_ray.scale_settings(3, None) == {"num_replicas": 3}
    assert on_ray.scale_settings(None, None) == {}


def test_on_all_addresses_it_is_reached_at_the_head_of_the_cluster():
    assert host_of("0.0.0.0", "10.0.0.5:6379") == "10.0.0.5"
    assert host_of("::", "[fd00::5]:6379") == "fd00::5"
    assert host_of("127.0.0.1", "10.0.0.5:6379") == "127.0.0.1"


def test_of_a_switch_that_is_not_over_what_it_replaces_answers():
    first = Record(release("a"))
    assert first.of_what_answers(is_over=False) is None
    assert first.of_what_answers(is_over=True) == first
    forward = first.followed_by(release("b")).replacing(first)
    forward = Record.of_json(json.loads(json.dumps(forward.to_json())))
    assert forward.of_what_answers(is_over=False) == first
    assert forward.of_what_answers(is_over=True).replaces is None
    assert forward.rolled_back(is_over=False) == first
    back = forward.rolled_back().replacing(forward)
    # Once more goes on with the way back that is not over.
    assert back.rolled_back(is_over=False) == back
    with pytest.raises(ConfigError, match="no earlier release"):
        back.rolled_back(is_over=True)
