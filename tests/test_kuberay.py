"""`appliance cluster kuberay`: what it writes, by the schema of the operator and by those who read the parts of it."""

from __future__ import annotations

import copy
import shlex
from contextlib import nullcontext
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from appliance.errors import ConfigError
from appliance.operations.kubernetes.manifests import (
    KubernetesPlan,
    job_manifest,
    service_manifest,
)
from serve_app.ingress import variables
from serve_app.settings import ServiceSettings

SCHEMA = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
PLAN = KubernetesPlan(
    "shop/fridge:7", "/app/fridge-7.safetensors#fridge:7", gpu=True, gpu_workers=3
)


def refusals(manifest: dict) -> list[str]:
    return [
        error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest)
    ]


def cluster_of(manifest: dict) -> dict:
    spec = manifest["spec"]
    return spec["rayClusterConfig" if manifest["kind"] == "RayService" else "rayClusterSpec"]


@pytest.fixture(params=["service", "job"])
def manifest(request) -> dict:
    return yaml.safe_load({"service": service_manifest, "job": job_manifest}[request.param](PLAN))


def test_the_command_writes_both_and_replaces_nothing(run_appliance, tmp_path, capsys):
    words = (
        "cluster",
        "kuberay",
        "shop/fridge:7",
        "--model",
        "/app/m.safetensors",
        "--out",
        tmp_path / "k",
    )
    assert run_appliance(*words) == 0
    assert f"kubectl apply -f {tmp_path}/k/rayservice.yaml\n" in capsys.readouterr().out
    for name in ("rayservice.yaml", "rayjob.yaml"):
        written = yaml.safe_load((tmp_path / "k" / name).read_text())
        assert refusals(written) == []
        groups = cluster_of(written)["workerGroupSpecs"]
        assert [group["groupName"] for group in groups] == ["cpu-workers"]
    assert run_appliance(*words) == 1
    assert "error: There is a file already" in capsys.readouterr().err
    for mistake, message in [
        (("--name", "Shop"), "That is no name for Kubernetes (got 'Shop'"),
        (("--model", "m.safetensors"), "No pod finds this model (got m.safetensors"),
    ]:
        assert run_appliance(*words[:-2], "--out", tmp_path / "l", *mistake) == 1
        assert f"error: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "is_one"),
    [
        ("fridge", True),
        ("shop/fridge:7", True),
        ("registry.example.com:5000/shop/fridge-app_2:v1.2-cpu", True),
        ("localhost/fridge@sha256:" + 64 * "a", True),
        ("two words", False),
        ("shop/Fridge", False),
        ("fridge:", False),
        ("fridge:7\n", False),
        ("", False),
    ],
)
def test_an_image_has_a_name_that_can_be_pulled(image, is_one):
    refused = pytest.raises(ConfigError, match="That is no name of an image")
    with nullcontext() if is_one else refused:
        KubernetesPlan(image, "/app/m.safetensors")


def test_it_fits_the_schema_which_can_refuse(manifest):
    assert refusals(manifest) == []
    broken = []
    for change in (
        lambda cluster: cluster.update(authOption={"mode": "token"}),
        lambda cluster: cluster["authOptions"].update(mode="tokens"),
        lambda cluster: cluster["headGroupSpec"].pop("template"),
        lambda cluster: cluster["workerGroupSpecs"][0].update(maxReplicas="4"),
        lambda cluster: cluster["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ):
        other = copy.deepcopy(manifest)
        change(cluster_of(other))
        broken.append(bool(refusals(other)))
    assert broken == [True] * 5


def test_the_cluster_has_the_shape_of_the_cluster_file(manifest):
    cluster = cluster_of(manifest)
    head, groups = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [
        (group["groupName"], group["minReplicas"], group["maxReplicas"]) for group in groups
    ] == [
        ("cpu-workers", 0, 4),
        ("gpu-workers", 0, 3),
    ]
    pods = [group["template"]["spec"] for group in (head, *groups)]
    gpus = [pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for pod in pods]
    assert gpus == [None, None, "1"]
    wanted = dict(variables.serve_variables())
    wanted[variables.PROGRAM_VARIABLE] = "/opt/venv/bin/appliance-haproxy"
    for pod in pods:
        (container,) = pod["containers"]
        assert container["image"] == "shop/fridge:7"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        environment = {one["name"]: one["value"] for one in container["env"]}
        assert environment.items() >= wanted.items()
        assert environment["RAY_USAGE_STATS_ENABLED"] == "0"
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted["shared-memory"] == "/dev/shm"
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)


def test_every_part_says_what_it_is_for():
    for text in (service_manifest(PLAN), job_manifest(PLAN)):
        comments = [line for line in text.splitlines() if line.lstrip().startswith("#")]
        assert len(comments) > 25
        assert any("nodeSelector" in line and "spot" in line for line in comments)


def test_ray_serve_takes_the_application_and_the_service_its_settings():
    config = yaml.safe_load(yaml.safe_load(service_manifest(PLAN))["spec"]["serveConfigV2"])
    parsed = ServeDeploySchema.model_validate(config)
    (application,) = parsed.applications
    assert application.import_path == "serve_app.app:build_app"
    settings = ServiceSettings(**application.args)
    assert (settings.model, settings.num_gpus, settings.max_replicas) == (PLAN.model, 1, 3)
    mounts = yaml.safe_load(service_manifest(PLAN))["spec"]["rayClusterConfig"]["headGroupSpec"][
        "template"
    ]
    (keys,) = [m for m in mounts["spec"]["containers"][0]["volumeMounts"] if m["name"] == "keys"]
    assert settings.key_file == f"{keys['mountPath']}/keys.txt"
    on_cpus = yaml.safe_load(service_manifest(KubernetesPlan("i", "s3://b/m.safetensors")))
    arguments = yaml.safe_load(on_cpus["spec"]["serveConfigV2"])["applications"][0]["args"]
    assert ServiceSettings(**arguments).num_gpus == 0


def test_the_job_is_the_command_and_starts_again_where_it_was():
    spec = yaml.safe_load(job_manifest(PLAN))["spec"]
    words = shlex.split(spec["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.batch_score"]
    assert words[3:] == [PLAN.model, PLAN.pictures, PLAN.scores, "--json"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
