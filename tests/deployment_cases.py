"""A deployment on the cluster of the tests, of which the tests of a module find always the same."""

from __future__ import annotations

import json

import torch
from factories import spread_outputs
from registry_cases import child
from service_load import JPEG, WAIT_S, wait_for
from serving import JPEG_TYPE, ask

from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.on_ray.cluster import connect
from appliance.registry.registry import Registry
from serve_app.deployments import rollout
from serve_app.deployments.found import deployment_of

NAME = "shelf"
QUICK = ("--watch", 0)
# The cluster of the tests is on loopback alone, where Ray does not look for one.
JOINING = """
from appliance.cli.main import main
from appliance.on_ray.process_environment import daemons_on_loopback

with daemons_on_loopback():
    main()
"""


def registry_of_shapes(model_path, folder):
    """Versions 1 and 2 of the model `shapes` are fit to be served; 3 has a number that is none."""
    loaded = model_file.load(str(model_path))
    torch.manual_seed(3)
    other = spread_outputs(build_network(loaded.spec))
    model_file.save(str(folder / "other.safetensors"), other, loaded.spec)
    with torch.no_grad():
        loaded.network.roi_heads.box_predictor.cls_score.bias[0] = float("nan")
    model_file.save(str(folder / "astray.safetensors"), loaded.network, loaded.spec)
    registry = Registry(folder / "models")
    for file in (model_path, folder / "other.safetensors", folder / "astray.safetensors"):
        registry.add("shapes", file)
    return registry.root_uri


def as_made(record):
    """The deployment serves that again, whatever other tests have left."""
    if deployment_of(NAME).record != record:
        rollout._run(NAME, record)
    wait_for(lambda: deployment_of(NAME).record == record and replica_states() == ["RUNNING"])
    wait_for(lambda: deployment_of(NAME).status == "RUNNING")


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
