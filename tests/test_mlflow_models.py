"""Models of an MLflow registry, in a store of files; and what is said where there is no MLflow."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from registry_cases import model_bytes, model_file_at

from appliance import storage
from appliance.errors import ConfigError, ModelFileError, ServiceError
from appliance.model.address import ModelAddress
from appliance.registry.mlflow_models import COPIES
from appliance.registry.registry import Registry, find_model
from appliance.storage import folders

HAS_MLFLOW = importlib.util.find_spec("mlflow") is not None
NEEDS_MLFLOW = "needs the extra mlflow"


@pytest.mark.parametrize(
    "text", ["models:/", "models:/x", "models:/x/0", "models:/x/latest", "models:/../x/1"]
)
def test_what_names_no_model_of_mlflow_is_told(text):
    with pytest.raises(ConfigError, match="names no model of MLflow .*expected models:/NAME/VERS"):
        find_model(text)


def test_that_mlflow_is_missing_is_one_sentence(run_appliance, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    words = ("models", "add", "fridge", "models:/fridge@production", "--registry", tmp_path)
    assert run_appliance(*words) == 1
    assert "MLflow is not installed (got no module 'mlflow'). Inst" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_address_says_that_a_version_is_one_of_mlflow():
    address = ModelAddress("s3://b/m.safetensors", "Fridge 1", "7", "0" * 64, is_of_mlflow=True)
    assert ModelAddress.parse(str(address)) == address
    assert address.reference == "models:/Fridge 1/7"
    ours = ModelAddress("s3://b/m.safetensors", "fridge", "7", "0" * 64)
    assert ModelAddress.parse(str(ours)) == ours


@pytest.fixture
def of_mlflow(tmp_path, monkeypatch):  # pragma: no cover - where the extra is
    """Registers folders of artifacts as versions of the model `Fridge`; version 1 is in production."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    import mlflow

    client = mlflow.MlflowClient()
    client.create_registered_model("Fridge")
    experiment = client.create_experiment("fridges")

    def register(*files):
        run = client.create_run(experiment).info
        for file in files:
            client.log_artifact(run.run_id, str(file), "model/data")
        source = f"{run.artifact_uri}/model"
        return client.create_model_version("Fridge", source).version

    first = register(model_file_at(tmp_path / "model.safetensors", 1), __file__)
    client.set_registered_model_alias("Fridge", "production", first)
    return register


@pytest.mark.skipif(not HAS_MLFLOW, reason=NEEDS_MLFLOW)
def test_an_alias_is_looked_up_once_and_its_file_copied(of_mlflow, tmp_path):
    root = str(tmp_path / "registry")
    found = ModelAddress.parse(find_model("models:/Fridge@production", root))
    assert (found.reference, found.name, found.version) == ("models:/Fridge/1", "Fridge", "1")
    assert storage.read_bytes(found.uri) == model_bytes(1)
    assert find_model("models:/Fridge/1", root) == str(found)
    # A copy that is damaged is made anew; what it was is not loaded.
    storage.write_bytes(found.uri, b"damaged")
    with pytest.raises(ModelFileError, match="The file of models:/Fridge/1 is damaged"):
        found.check(storage.read_bytes(found.uri))
    assert find_model("models:/Fridge/1", root) == str(found)
    found.check(storage.read_bytes(found.uri))
    # Copies are no models of the registry, and what is added is told where it is from.
    assert Registry(root).entries() == []
    added = Registry(root).add("fridge", "models:/Fridge@production").version
    assert (added.number, added.source) == (1, "models:/Fridge/1")
    assert folders.entries(root) == [COPIES, "fridge"]


@pytest.mark.skipif(not HAS_MLFLOW, reason=NEEDS_MLFLOW)
def test_what_is_no_model_of_the_appliance_is_told(of_mlflow, tmp_path, monkeypatch):
    root = str(tmp_path / "registry")
    (tmp_path / "text.safetensors").write_text("no model")
    without, two = (
        of_mlflow(__file__),
        of_mlflow(tmp_path / "model.safetensors", tmp_path / "text.safetensors"),
    )
    for version in (without, two):
        with pytest.raises(ModelFileError, match=r"no model of the appliance.*expected one \.safe"):
            find_model(f"models:/Fridge/{version}", root)
    with pytest.raises(ModelFileError, match="Not a model file: models:/Fridge/4/data/text"):
        find_model(f"models:/Fridge/{of_mlflow(tmp_path / 'text.safetensors')}", root)
    for text in ("models:/Fridge/9", "models:/Fridge@trial", "models:/Door/1"):
        with pytest.raises(ConfigError, match=f"MLflow has no such model: {text}"):
            find_model(text, root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ServiceError, match="MLflow cannot be used: models:/Fridge/1"):
        find_model("models:/Fridge/1", root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigError, match="Nobody says where MLflow is"):
        find_model("models:/Fridge/1", root)
    assert not storage.local_path(root).exists()
