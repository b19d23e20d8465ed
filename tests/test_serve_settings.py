"""The settings, the application builder and the file for `serve run`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.schema import ServeDeploySchema
from registry_cases import registered

from appliance.errors import ConfigError, ModelFileError
from appliance.registry.references import Reference
from serve_app.app import build_app
from serve_app.settings import ServiceSettings

CONFIG_YAML = Path(__file__).resolve().parents[1] / "serve_app" / "config.yaml"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "model"),
        ({"model": ""}, "model"),
        ({"model": "m", "num_replica": 2}, "num_replica"),
        ({"model": "m", "num_cpus": "many"}, "num_cpus"),
        ({"model": "m", "score_threshold": 1.5}, "score_threshold"),
        ({"model": "m", "min_replicas": 1}, "go together"),
        ({"model": "m", "min_replicas": 3, "max_replicas": 2}, "exceeds"),
        ({"model": "m", "min_replicas": 1, "max_replicas": 2, "num_replicas": 1}, "either"),
        ({"model": "m", "keys": "a,,b"}, "a key is empty"),
        ({"model": "m", "gpu_jpeg": True}, "gpu_jpeg needs num_gpus above 0"),
        ({"model": "m", "gpu_jpeg": True, "num_gpus": 1, "device": "cpu"}, "other than cpu"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        ServiceSettings(**values)


def test_settings_may_come_as_text():
    settings = ServiceSettings(model="m", num_cpus="2.5", keys="key-1,key-2", max_body_bytes="1000")
    assert (settings.num_cpus, settings.max_body_bytes) == (2.5, 1000)
    assert [key.get_secret_value() for key in settings.keys] == ["key-1", "key-2"]
    assert "key-1" not in repr(settings)


def test_the_model_gets_as_many_threads_as_the_replica_has_cpus():
    assert ServiceSettings(model="m").model_threads == 1
    assert ServiceSettings(model="m", num_cpus=2.5).model_threads == 3
    assert ServiceSettings(model="m", num_cpus=4, num_threads=2).model_threads == 2


def built_deployment(**values):
    """The deployment that `serve run serve_app.app:build_app key=value ...` would start."""
    app = call_user_app_builder_with_args_if_necessary(
        build_app, {key: str(value) for key, value in values.items()}
    )
    return app._bound_deployment


def test_serve_run_builds_the_application_from_text(tiny_model_path):
    deployment = built_deployment(model=tiny_model_path, num_replicas=2, num_cpus=0.5)
    assert deployment.name == "DetectionService"
    assert deployment.num_replicas == 2
    assert deployment.ray_actor_options["num_cpus"] == 0.5
    (settings,) = deployment.init_args
    assert settings == ServiceSettings(model=str(tiny_model_path), num_replicas=2, num_cpus=0.5)


def test_autoscaling_is_passed_on(tiny_model_path):
    deployment = built_deployment(model=tiny_model_path, min_replicas=0, max_replicas=3)
    autoscaling = deployment._deployment_config.autoscaling_config
    assert (autoscaling.min_replicas, autoscaling.max_replicas) == (0, 3)
    assert autoscaling.upscale_delay_s == 1


def test_a_relative_model_path_is_made_absolute(tiny_model_path, monkeypatch):
    monkeypatch.chdir(tiny_model_path.parent)
    (settings,) = built_deployment(model=tiny_model_path.name).init_args
    assert settings.model == str(tiny_model_path)


def test_a_model_in_an_object_store_is_left_to_the_replicas():
    (settings,) = built_deployment(model="s3://bucket/model.safetensors").init_args
    assert settings.model == "s3://bucket/model.safetensors"


def test_an_alias_is_looked_up_once_for_all_replicas(tiny_model_path, tmp_path, monkeypatch):
    models = registered(tmp_path / "models", tiny_model_path)
    monkeypatch.setenv("APPLIANCE_REGISTRY", models.root_uri)
    (settings,) = built_deployment(model="shapes@production", models="b=shapes:1").init_args
    assert settings.model == str(models.address(Reference("shapes", 1)))
    assert settings.models == {"b": settings.model}
    with pytest.raises(ConfigError, match="no such alias"):
        build_app(ServiceSettings(model="shapes@live"))


def test_a_missing_model_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelFileError, match="No such model file") as caught:
        build_app(ServiceSettings(model="models/none.safetensors"))
    assert caught.value.where == str(tmp_path / "models/none.safetensors")
    assert str(tmp_path) in caught.value.hint
    with pytest.raises(ModelFileError, match="got a folder"):
        build_app(ServiceSettings(model=str(tmp_path)))


def test_the_config_file_fits_serve_and_our_settings():
    values = yaml.safe_load(CONFIG_YAML.read_text())
    schema = ServeDeploySchema.model_validate(values)
    # Serve's own schema lets unknown keys pass in silence.
    assert set(values) <= set(ServeDeploySchema.model_fields)
    assert set(values["http_options"]) <= set(type(schema.http_options).model_fields)
    (application,) = schema.applications
    assert set(values["applications"][0]) <= set(type(application).model_fields)
    assert schema.http_options.host == "127.0.0.1"
    assert application.import_path == f"{build_app.__module__}:{build_app.__name__}"
    ServiceSettings(**application.args)
