"""Deployments on a real cluster: side by side, switched without a lost request, back by themselves when it goes wrong."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
import torch
from factories import jpeg_bytes, spread_outputs
from ray import serve
from registry_cases import child
from service_load import JPEG, WAIT_S, under_load, wait_for
from serving import JPEG_TYPE, ask, settings_for

from appliance import Deployment, FasterRCNN
from appliance.errors import ConfigError, ModelFileError, ServiceError, ServiceRefusalError
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.on_ray import deployments as on_ray
from appliance.on_ray.cluster import connect
from appliance.registry.registry import Registry
from serve_app.deployments import check, rollout
from serve_app.deployments.found import deployment_of, host_of
from serve_app.deployments.record import Record, Release

NAME = "shelf"
QUICK = ("--watch", 0)
# The cluster of the tests is on loopback alone, where Ray does not look for one.
JOINING = """
from appliance.cli.main import main
from appliance.on_ray.process_environment import daemons_on_loopback

with daemons_on_loopback():
    main()
"""


@pytest.fixture(scope="module")
def registry(tiny_model_path, tmp_path_factory):
    """Versions 1 and 2 of the model `shapes` are fit to be served; 3 has a number that is none."""
    folder = tmp_path_factory.mktemp("registry")
    loaded = model_file.load(str(tiny_model_path))
    torch.manual_seed(3)
    other = spread_outputs(build_network(loaded.spec))
    model_file.save(str(folder / "other.safetensors"), other, loaded.spec)
    with torch.no_grad():
        loaded.network.roi_heads.box_predictor.cls_score.bias[0] = float("nan")
    model_file.save(str(folder / "astray.safetensors"), loaded.network, loaded.spec)
    registry = Registry(folder / "models")
    for file in (tiny_model_path, folder / "other.safetensors", folder / "astray.safetensors"):
        registry.add("shapes", file)
    return registry.root_uri


@pytest.fixture(scope="module")
def said_at_first(ray_cluster):
    """What the command says of a cluster without deployments."""
    return said_by("deployments")


@pytest.fixture(scope="module")
def made(said_at_first, registry):
    """The address and the record of a deployment that another process has made and left, of one replica."""
    words = ("deploy", NAME, "--model", "shapes:1", "--registry", registry, "--port", 0)
    said = said_by(*words, "--replicas", 1, "--set", "num_cpus=0.5", *QUICK)
    yield re.search(r"http://\S+", said)[0], deployment_of(NAME).record
    rollout.delete(NAME)


@pytest.fixture
def shelf(made):
    """The address of that deployment, as it was made, whatever other tests have left."""
    url, record = made
    if deployment_of(NAME).record != record:
        rollout._run(NAME, record)
    wait_for(lambda: deployment_of(NAME).record == record and replica_states() == ["RUNNING"])
    wait_for(lambda: deployment_of(NAME).status == "RUNNING")
    return url


def said_by(*words):
    with child(JOINING, *words, "--address", connect().address) as process:
        said, complaints = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, complaints
    return said


def answer(url):
    status, headers, record = ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)
    assert status == 200
    assert headers["X-Model"] == f"{record['model_name']}:{record['model_version']}"
    return headers["X-Model"]


def replicas():
    from ray.serve.context import _get_global_client

    details = _get_global_client().get_serve_details()["applications"][NAME]
    return details["deployments"]["DetectionService"]["replicas"]


def replica_states():
    return [replica["state"].value for replica in replicas()]


def replica_names():
    return {replica["replica_id"] for replica in replicas() if replica["state"].value == "RUNNING"}


def listed(run_appliance, capsys):
    assert run_appliance("deployments", "--json") == 0
    return {one["name"]: one for one in json.loads(capsys.readouterr().out)["deployments"]}


def test_there_are_none_at_first(said_at_first):
    assert said_at_first == "There are no deployments on this cluster.\n"


def test_it_outlives_the_process_that_made_it_and_is_listed(shelf, run_appliance, capsys):
    assert answer(shelf) == "shapes:1"
    (told,) = listed(run_appliance, capsys).values()
    assert (told["url"], told["model"], told["replicas"]) == (shelf, "shapes:1", 1)
    assert run_appliance("deployments") == 0
    assert re.search(r"shelf +│ +shapes:1 +│ +1/1", capsys.readouterr().out)
    # Which `appliance serve` leaves alone, as these leave others alone.
    assert serve.status().applications.keys() == {NAME}


def test_another_scale_keeps_the_replicas_that_there_are(shelf, run_appliance, registry, capsys):
    before = replica_names()
    words = ("--replicas", 1, "--set", "downscale_delay_s=7", "--registry", registry, *QUICK)
    assert run_appliance("deploy", NAME, *words) == 0
    assert f"{NAME} serves shapes:1" in capsys.readouterr().out
    assert replica_names() == before
    told = listed(run_appliance, capsys)[NAME]
    assert told["current"]["settings"]["downscale_delay_s"] == 7
    assert told["earlier"] == []


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("deploy", "Shelf"), "That is no name for a deployment (got 'Shelf', expected up to 63 "),
        (
            ("deploy", "v1"),
            "That is no name for a deployment (got 'v1', expected none that is a path",
        ),
        (("deploy", "new"), "Which model?: new (got no deployment of that name on this cluster)"),
        (("deploy", NAME, "--model", "shape:1"), "There is no model of that name in the registry"),
        (("deploy", NAME, "--model", "shapes:9"), "The model shapes has no such version"),
        (
            ("deploy", NAME, "--model", "shapes:3"),
            "The model file is damaged: ",
        ),
        (("deploy", NAME, "--model", "no.safetensors"), "Cannot read the file: no.safetensors"),
        (("deploy", NAME, "--keys", "no.txt"), "Cannot read the file: "),
        (
            ("deploy", NAME, "--host", "0.0.0.0"),
            "Without keys the service listens only on loopback",
        ),
        (("deploy", NAME, "--no-keys", "--keys", "no.txt"), "no_keys goes with neither keys nor "),
        (("deploy", NAME, "--set", "model=a.safetensors"), "That is no setting of a deployment"),
        (("deploy", NAME, "--canary", "10%"), f"A canary is another model: {NAME} (got none)"),
        (
            ("deploy", "new", "--model", "shapes:1", "--canary", "10%"),
            "A canary stands beside anoth",
        ),
        (
            ("deploy", NAME, "--model", "shapes:2", "--canary", "100%"),
            "--canary is wrong (got '100%",
        ),
        (
            ("deploy", NAME, "--model", "shapes:2", "--canary", "few"),
            "--canary is wrong (got 'few'",
        ),
        (
            ("deploy", NAME, "--data", "test"),
            "--data compares a new model with the one that is serv",
        ),
        (("deploy", NAME, "--set", "keys=secret"), "A deployment takes its keys from a file"),
        (("deploy", NAME, "--replicas", 2, "--autoscale", "0:4"), "Give either a number of repl"),
        (("deploy", NAME, "--autoscale", "4"), "Autoscaling is wrong (got '4', expected MIN:MAX"),
        (("deploy", NAME, "--autoscale", "4:2"), "min_replicas exceeds max_replicas"),
        (("deploy", NAME, "--port", 1), "Ray Serve of this cluster listens elsewhere"),
        (("undeploy", "other"), f"no such deployment on this cluster (got other, expected {NAME})"),
        (("rollback", "other"), f"no such deployment on this cluster (got other, expected {NAME})"),
    ],
)
def test_mistakes_change_nothing(shelf, run_appliance, registry, capsys, words, message):
    before = deployment_of(NAME), replica_names()
    more = ("--registry", registry) if words[0] == "deploy" else ()
    assert run_appliance(*words, *more) == 1
    assert message in capsys.readouterr().err
    assert (deployment_of(NAME), replica_names()) == before


def test_a_model_that_is_worse_on_given_pictures_is_not_deployed(
    shelf, run_appliance, registry, tiny_model_path, tmp_path, capsys
):
    before = deployment_of(NAME), replica_names()
    data = what_it_finds(tiny_model_path, tmp_path)
    words = ("--registry", registry, *QUICK, "--data", data)
    assert run_appliance("deploy", NAME, "--model", "shapes:2", *words) == 1
    said = capsys.readouterr().err
    assert "shapes:2 is not deployed, because shapes:1 is better on these pictures" in said
    assert (deployment_of(NAME), replica_names()) == before
    assert run_appliance("deploy", NAME, "--model", "shapes:1", *words) == 0
    assert "These pictures show no difference" in capsys.readouterr().err


def test_a_model_that_fails_on_the_built_in_picture_is_told(tiny_model_path, monkeypatch):
    def fail(_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(check.ScoringEngine, "load", fail)
    with pytest.raises(ModelFileError, match="has no answer for the built-in picture.*do not fit"):
        check.check_model(settings_for(tiny_model_path))


def what_it_finds(model_path, folder):
    """Pictures whose annotations are what the model finds on them."""
    detector = FasterRCNN.load(model_path)
    lines = ["image,label,xmin,ymin,xmax,ymax"]
    for seed in range(3):
        picture = folder / f"{seed}.jpg"
        picture.write_bytes(jpeg_bytes((128, 96), seed=seed))
        found = detector.detect(picture)
        for box, class_id in zip(found.boxes_xyxy, found.class_ids, strict=True):
            sides = ",".join(f"{side:.3f}" for side in box.tolist())
            lines.append(f"{picture.name},{detector.labels[class_id - 1].name},{sides}")
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    return folder / "truth.csv"


def test_whose_cluster_is_taken(ray_cluster, monkeypatch):
    monkeypatch.setattr(on_ray, "joins_a_cluster", bool)
    asked = []
    monkeypatch.setattr(on_ray, "connect", lambda address, **more: asked.append((address, more)))
    assert on_ray.deployments() is not None
    with pytest.raises(ConfigError, match="Which model"):
        on_ray.deploy("first", None, {}, own_cluster=True)
    # Ours starts with what Serve needs; the one of this machine is only joined.
    (found, nothing), (own, more) = asked
    assert (found, nothing, own) == ("auto", {}, None)
    assert "RAY_SERVE_ENABLE_HA_PROXY" in more["environment"]


def test_each_has_its_own_path_model_keys_and_scale(
    shelf, run_appliance, registry, tiny_model_path, tmp_path, capsys
):
    assert run_appliance("keys", "new", "me", "--file", tmp_path / "keys.txt") == 0
    key = capsys.readouterr().out.split()[-1]
    settings = {"key_file": str(tmp_path / "keys.txt"), "num_cpus": 0.5}
    door = Deployment(
        "door", tiny_model_path, autoscale=(1, 2), registry=registry, settings=settings
    )
    door.deploy()
    assert door.is_existing_service()
    assert Deployment.list_deployment() == ["door", NAME]
    picture = tmp_path / "picture.jpg"
    picture.write_bytes(JPEG)
    with pytest.raises(ServiceRefusalError, match="The service asks for a key"):
        door.score_image(picture)
    with pytest.raises(ServiceRefusalError, match="this is none of its keys"):
        Deployment("door", service_key="wrong").score_image(picture)
    scored = Deployment("door", service_key=key).score_image(picture)
    expected = FasterRCNN.load(tiny_model_path).score(picture)
    assert (
        FasterRCNN.parse_serialized_result(scored)["num_detections"] == expected["num_detections"]
    )
    told = listed(run_appliance, capsys)
    assert (told["door"]["model"], told[NAME]["model"]) == ("door:1", "shapes:1")
    assert answer(shelf) == "shapes:1"
    assert run_appliance("undeploy", "door") == 0
    assert capsys.readouterr().out == "door is gone.\n"
    assert listed(run_appliance, capsys).keys() == {NAME}


@pytest.fixture
def foreign(shelf):
    """An application of somebody else, which starts well, and turns out to be not."""

    @serve.deployment(
        ray_actor_options={"num_cpus": 0.1}, health_check_period_s=0.1, health_check_timeout_s=1
    )
    class Foreign:
        def __init__(self):  # pragma: no cover - in a replica
            self.looks = 0

        def check_health(self):  # pragma: no cover - in a replica
            self.looks += 1
            assert self.looks < 5

    serve.run(Foreign.bind(), name="foreign", route_prefix="/taken")
    yield
    serve.delete("foreign")


def test_another_application_is_no_deployment(foreign, run_appliance, registry, capsys):
    assert listed(run_appliance, capsys).keys() == {NAME}
    assert run_appliance("undeploy", "foreign") == 1
    assert "That is no deployment but another application" in capsys.readouterr().err
    with pytest.raises(ServiceError, match="shapes:1 cannot be deployed: taken .got .*foreign"):
        on_ray.deploy("taken", "shapes:1", {}, registry=registry)
    with pytest.raises(rollout._NotWellError):
        rollout._watch("foreign", WAIT_S)


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
    before = replace(now, record=Record(release("/gone.safetensors")))
    rollout._restore(NAME, now.record, before)
    assert "shelf is not as it was before: No such model file: /gone.safetensors" in caplog.text
    assert deployment_of(NAME) == now


def test_on_all_addresses_it_is_reached_at_the_head_of_the_cluster():
    assert host_of("0.0.0.0", "10.0.0.5:6379") == "10.0.0.5"
    assert host_of("::", "[fd00::5]:6379") == "fd00::5"
    assert host_of("127.0.0.1", "10.0.0.5:6379") == "127.0.0.1"


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
