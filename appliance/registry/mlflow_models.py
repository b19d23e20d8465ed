"""Models of an MLflow registry: `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

An alias is looked up once, and the file of that version copied beside the models of our registry. There every node
finds it, it stays what it is whatever becomes of MLflow, and whoever loads it checks its digest.

    ROOT/.mlflow/<place and version in MLflow>/<digest>.safetensors
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.errors import ConfigError, ModelFileError, ServiceError
from appliance.mlflow_client import first_line, mlflow_client
from appliance.model.address import ModelAddress
from appliance.model.file_header import read_header
from appliance.registry.references import MODEL_ENDING
from appliance.storage import folders

COPIES = ".mlflow"
_PREFIX = "models:/"
_FORM = re.compile(
    r"models:/(?P<name>\w[\w. -]*)(?:/(?P<version>[1-9][0-9]{0,8})|@(?P<alias>\w[\w.-]*))",
    re.ASCII,
)
# The tracking server is the registry, too, unless that is named by itself.
_PLACES = ("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_OTHERWISE = "name a model file"


def is_of_mlflow(model: str) -> bool:
    """Whether a MODEL on a command line names one of MLflow's registry."""
    return model.startswith(_PREFIX)


@dataclass(frozen=True)
class MlflowModel:
    """A version of a model in MLflow's registry.

    Attributes:
        name: Of the model, as MLflow has it.
        version: Its number there, as text.
        key: Of this very version: another one of that number, made anew or elsewhere, has another key.
        mlflow: The module.
    """

    name: str
    version: str
    key: str
    mlflow: Any

    @classmethod
    def find(cls, text: str) -> MlflowModel:
        """Looks a version up.

        Raises:
            ConfigError: There is none, the text is no name of one, MLflow is not installed, or nobody says where it is.
            ServiceError: MLflow does not answer.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            raise ConfigError(
                "That names no model of MLflow",
                got=repr(text[:100]),
                expected="models:/NAME/VERSION or models:/NAME@ALIAS",
            )
        place = next((os.environ[name] for name in _PLACES if os.environ.get(name)), "")
        # A server that is not there is told within seconds, not minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        mlflow = mlflow_client(place or "://", otherwise=_OTHERWISE)
        if not place and not mlflow.is_tracking_uri_set():
            raise ConfigError(
                "Nobody says where MLflow is",
                where=text,
                got="neither MLFLOW_TRACKING_URI nor MLFLOW_REGISTRY_URI",
                hint="export MLFLOW_TRACKING_URI=http://HOST:5000",
            )
        with _told(mlflow, text):
            client = mlflow.MlflowClient()
            name = form["name"]
            found = (
                client.get_model_version(name, form["version"])
                if form["alias"] is None
                else client.get_model_version_by_alias(name, form["alias"])
            )
            facts = (mlflow.get_registry_uri(), name, found.version, found.creation_timestamp)
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        return cls(name, str(found.version), key, mlflow)

    @property
    def uri(self) -> str:
        """The version as MLflow names it, without an alias."""
        return f"{_PREFIX}{self.name}/{self.version}"

    def read(self) -> bytes:
        """Its model file.

        Raises:
            ModelFileError: None of its artifacts is one, or several are.
            ServiceError: MLflow, or where it keeps artifacts, does not answer.
        """
        with tempfile.TemporaryDirectory() as folder, _told(self.mlflow, self.uri):
            names = list(self._artifacts())
            files = [name for name in names if name.endswith(MODEL_ENDING)]
            if len(files) != 1:
                raise ModelFileError(
                    "This is no model of the appliance",
                    where=self.uri,
                    got=f"artifacts {', '.join(names[:10])}" if names else "no artifacts",
                    expected=f"one {MODEL_ENDING} file among them",
                    hint="Log one with mlflow.log_artifact, and register its folder",
                )
            downloaded = self.mlflow.artifacts.download_artifacts(
                artifact_uri=f"{self.uri}/{files[0]}", dst_path=folder
            )
            data = Path(downloaded).read_bytes()
        read_header(data, source=f"{self.uri}/{files[0]}")
        return data

    def _artifacts(self, folder: str | None = None) -> Iterator[str]:
        below = self.uri if folder is None else f"{self.uri}/{folder}"
        for found in self.mlflow.artifacts.list_artifacts(artifact_uri=below):
            if found.is_dir:
                yield from self._artifacts(found.path)
            else:
                yield found.path

    def copied_to(self, root_uri: str) -> ModelAddress:
        """The copy in a registry of ours; made now unless there is one that is whole.

        Raises:
            ModelFileError, ServiceError: As `read`.
            StorageError: The registry cannot be read or written.
        """
        folder = storage.join(root_uri, COPIES, self.key)
        for name in folders.entries(folder):
            sha256 = name.removesuffix(MODEL_ENDING)
            there = storage.join(folder, name)
            if hashlib.sha256(storage.read_bytes(there)).hexdigest() == sha256:
                return ModelAddress(there, self.name, self.version, sha256, is_of_mlflow=True)
        data = self.read()
        sha256 = hashlib.sha256(data).hexdigest()
        uri = storage.join(folder, f"{sha256}{MODEL_ENDING}")
        storage.write_bytes(uri, data)
        return ModelAddress(uri, self.name, self.version, sha256, is_of_mlflow=True)


@contextmanager
def _told(mlflow: Any, uri: str) -> Iterator[None]:
    try:
        yield
    except mlflow.exceptions.MlflowException as error:
        if error.error_code in _ABSENT:
            raise ConfigError(
                "MLflow has no such model", where=uri, got=first_line(error)
            ) from None
        raise _failure(uri, error) from None
    except OSError as error:
        raise _failure(uri, error) from None


def _failure(uri: str, error: Exception) -> ServiceError:
    return ServiceError(
        "MLflow cannot be used",
        where=uri,
        got=first_line(error),
        hint="Check MLFLOW_TRACKING_URI, or name a model file",
    )
