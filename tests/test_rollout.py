"""Roll-outs on a real cluster: no request is lost, and when it goes wrong, or is killed, all is as before."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from deployment_cases import (
    JOINING,
    NAME,
    QUICK,
    answer,
    as_made,
    listed,
    registry_of_shapes,
    replica_names,
)
from registry_cases import child
from service_load import WAIT_S, under_load, wait_for

from appliance.errors import ServiceError
from appliance.on_ray import deployments as on_ray
from appliance.on_ray.cluster import connect
from serve_app.deployments import rollout
from serve_app.deployments.found import deployment_of
from serve_app.deployments.record import Record, Release

# Stands at the door of the command until it is let in: two of them start while the test does other things.
AT_THE_DOOR = f"""
import serve_app.app, serve_app.deployments.rollout

input()
{JOINING}
"""


@pytest.fixture(scope="module")
def registry(tiny_model_path, tmp_path_factory):
    return registry_of_shapes(tiny_model_path, tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def made(ray_cluster, registry):
    """The address and the record of a deployment of one replica."""
    deployed = on_ray.deploy(
        NAME, "shapes:1", {"num_cpus": 0.5, "num_replicas": 1}, registry=registry, port=0
    )
    yield deployed.url, deployed.record
    rollout.delete(NAME)


@pytest.fixture
def shelf(made):
    """The address of that deployment, as it was made."""
    url, record = made
    as_made(record)
    return url


def test_a_trial_a_switch_and_the_way_back_lose_no_request(shelf, run_appliance, registry, capsys):
    words = ("--model", "shapes:2", "--registry", registry, "--watch", 0.5)
    with under_load(shelf, clients=2) as load:
        assert run_appliance("deploy", NAME, *words, "--canary", "50%") == 0
        assert f"{NAME} serves shapes:1, 50 % shapes:2 at" in capsys.readouterr().out
        assert {answer(shelf) for _ in range(40)} == {"shapes:1", "shapes:2"}
        assert run_appliance("deploy", NAME, *words) == 0
        said = capsys.readouterr().out
        assert f"{NAME} serves shapes:2 at {shelf}\nBack to shapes:1: appliance rollback" in said
        assert answer(shelf) == "shapes:2"
        assert run_appliance("rollback", NAME, *QUICK, "--json") == 0
        assert json.loads(capsys.readouterr().out)["model"] == "shapes:1"
        assert answer(shelf) == "shapes:1"
    assert load.failures == []
    assert run_appliance("rollback", NAME) == 1
    message = "There is no earlier release to go back to (got only shapes:1)"
    assert message in capsys.readouterr().err


def test_a_release_that_does_not_start_goes_back_by_itself(shelf, registry):
    before = replica_names()
    with (
        under_load(shelf, clients=1) as load,
        pytest.raises(ServiceError) as caught,
    ):
        # Only replicas look for their device.
        on_ray.deploy(NAME, "shapes:2", {"device": "cuda:99"}, registry=registry, watch_s=0)
    assert "shelf keeps shapes:1, because shapes:2 is not well (got " in str(caught.value)
    assert "cuda:99" in str(caught.value)
    assert load.failures == []
    assert replica_names() == before
    assert deployment_of(NAME).status == "RUNNING"
    assert deployment_of(NAME).record.current.settings.get("device") is None


def test_a_release_without_room_goes_back_in_time(shelf, registry):
    before = replica_names()
    # Ray lets also what never started take as long to end as a request may.
    large = {"num_cpus": 64, "request_timeout_s": 0.1}
    message = r"replicas are not up after 1 s\). See with `ray status`"
    with pytest.raises(ServiceError, match=message):
        on_ray.deploy(NAME, None, large, registry=registry, timeout_s=1)
    assert replica_names() == before
    with pytest.raises(ServiceError, match="shapes:1 cannot be deployed: wide .got its replicas"):
        on_ray.deploy("wide", "shapes:1", large, registry=registry, timeout_s=1)
    assert deployment_of("wide") is None


def test_what_is_gone_or_silent_is_not_well(shelf):
    with pytest.raises(rollout._NotWellError, match="somebody has deleted it meanwhile"):
        rollout._watch("nobody", WAIT_S)
    with pytest.raises(rollout._NotWellError, match="no answer after 1 s: "):
        rollout._wait_until_ready("http://127.0.0.1:1", time.monotonic() + 0.15, 1)


def test_who_interrupts_a_switch_gets_the_old_release_back(shelf, registry, monkeypatch):
    before, wait = (deployment_of(NAME).record, replica_names()), rollout._wait_until_running

    def interrupted(*_):
        monkeypatch.setattr(rollout, "_wait_until_running", wait)
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout, "_wait_until_running", interrupted)
    with pytest.raises(KeyboardInterrupt):
        on_ray.deploy(NAME, "shapes:2", {}, registry=registry)
    assert (deployment_of(NAME).record, replica_names()) == before


def test_what_somebody_else_deploys_meanwhile_stays(shelf, registry, monkeypatch):
    record = deployment_of(NAME).record
    theirs = Record(replace(record.current, by="somebody else"), record.earlier)

    def meanwhile(*_):
        rollout._run(NAME, theirs)
        wait_for(lambda: deployment_of(NAME).record == theirs)

    monkeypatch.setattr(rollout, "_watch", meanwhile)
    with pytest.raises(ServiceError, match="Somebody else has switched .* by somebody else, expec"):
        on_ray.deploy(NAME, None, {"downscale_delay_s": 8}, registry=registry)
    assert deployment_of(NAME).record == theirs


def test_a_way_back_that_is_barred_is_told(shelf, caplog):
    now = deployment_of(NAME)
    gone = Release({"model": "/gone.safetensors"}, "2026-01-01T00:00:00+00:00", "somebody")
    before = replace(now, record=Record(gone))
    rollout._restore(NAME, now.record, before)
    assert "shelf is not as it was before: No such model file: /gone.safetensors" in caplog.text
    assert deployment_of(NAME) == now


def killed_when(process, condition):
    """Lets a command in and kills it as soon as that is so."""
    process.stdin.write("\n")
    process.stdin.flush()
    wait_for(condition)
    process.kill()
    process.communicate()


def test_commands_that_are_killed_in_the_middle_leave_a_deployment_that_answers(
    shelf, run_appliance, registry, capsys
):
    to_2 = ("deploy", NAME, "--model", "shapes:2", "--registry", registry, *QUICK)
    cluster = ("--address", connect().address)
    deploying = child(AT_THE_DOOR, *to_2, *cluster)
    going_back = child(AT_THE_DOOR, "rollback", NAME, *QUICK, *cluster)
    with deploying, going_back, under_load(shelf, clients=1) as load:
        killed_when(deploying, lambda: deployment_of(NAME).record.current.model == "shapes:2")
        told = listed(run_appliance, capsys)[NAME]
        assert (told["model"], told["coming"]) == ("shapes:1", "shapes:2")
        assert answer(shelf) == "shapes:1"
        # Serve goes on without the command.
        wait_for(lambda: deployment_of(NAME).model == "shapes:2")
        assert answer(shelf) == "shapes:2"
        killed_when(going_back, lambda: deployment_of(NAME).record.current.model == "shapes:1")
        told = listed(run_appliance, capsys)[NAME]
        assert (told["model"], told["coming"]) == ("shapes:2", "shapes:1")
        assert answer(shelf) == "shapes:2"
        # The same command once more goes on with it, and not one further back.
        assert run_appliance("rollback", NAME, *QUICK) == 0
        assert f"{NAME} serves shapes:1 at" in capsys.readouterr().out
        assert answer(shelf) == "shapes:1"
    assert load.failures == []


def test_what_a_killed_command_has_left_that_does_not_start_is_gone_back_from(
    shelf, run_appliance, registry, capsys
):
    before, old = deployment_of(NAME).record, replica_names()
    broken = Release({**before.current.settings, "device": "cuda:99"}, "2026-01-01", "somebody")
    rollout._run(NAME, before.followed_by(broken).replacing(before))
    wait_for(lambda: deployment_of(NAME).status == "DEPLOY_FAILED")
    assert run_appliance("deployments") == 0
    assert "DEPLOY_FAILED shapes:1" in capsys.readouterr().out
    assert answer(shelf) == "shapes:1"
    words = ("--model", "shapes:2", "--registry", registry, *QUICK, "--json")
    assert run_appliance("deploy", NAME, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["coming"]) == ("shapes:2", None)
    # The broken one is nothing to go back to.
    assert [release["settings"] for release in told["earlier"]] == [before.current.settings]
    assert not old & replica_names()
