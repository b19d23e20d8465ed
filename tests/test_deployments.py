"""Deployments on a real cluster: side by side, each with its own path, model, keys and scale."""

from __future__ import annotations

import re

import pytest
from deployment_cases import (
    NAME,
    QUICK,
    answer,
    as_made,
    listed,
    registry_of_shapes,
    replica_names,
    said_by,
)
from factories import jpeg_bytes
from ray import serve
from service_load import JPEG, WAIT_S
from serving import settings_for

from appliance import Deployment, FasterRCNN
from appliance.errors import ConfigError, ModelFileError, ServiceError, ServiceRefusalError
from appliance.on_ray import deployments as on_ray
from serve_app.deployments import check, rollout
from serve_app.deployments.found import deployment_of


@pytest.fixture(scope="module")
def registry(tiny_model_path, tmp_path_factory):
    return registry_of_shapes(tiny_model_path, tmp_path_factory.mktemp("registry"))


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
    """The address of that deployment, as it was made."""
    url, record = made
    as_made(record)
    return url


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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("deploy", "Shelf"), "That is no name for a deployment (got 'Shelf', expected up to 63 "),
        (
            ("deploy", "v1"),
            "That is no name for a deployment (got 'v1', expected none that is a path",
        ),
        (
            ("deploy", "new"),
            "Which model?: new (got no deployment of that name that has answered yet)",
        ),
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
        (
            ("deploy", NAME, "--set", "trainer=true"),
            "This cluster takes no jobs, so nothing can be",
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
    said = capsys.readouterr().err
    assert (
        "A serves, B is to: 3 pictures are too few to tell A from B: mAP@0.5 1.000 and 1.000"
        in said
    )


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
