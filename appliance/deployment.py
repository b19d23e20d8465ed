"""`Deployment`: a detector as a web service, as users of the 2018 package know it.

    service = Deployment("wsdeployment", detector, replicas=2)
    service.deploy()
    service.score_image("picture.jpg")
    service.delete()

The same as `appliance deploy|deployments|undeploy`. On a cluster that runs already a deployment outlives the process
that made it, and several live side by side, each below a path of its own.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from appliance.client import Client
from appliance.errors import ConfigError, ServiceError
from appliance.on_ray import deployments as on_ray
from appliance.on_ray.cluster import joins_a_cluster

if TYPE_CHECKING:
    from appliance.detector import FasterRCNN
    from appliance.on_ray.deployments import Deployed

_ENVIRONMENTS = ("local", "cluster")


class Deployment:
    """A web service of a detector on a Ray cluster.

    Args:
        deployment_name: Its name, which is also where it answers: `/NAME/score`, `/NAME/v1/detect`, ...
        model: A detector, a model file, or a reference such as `fridge:7` of the registry. A detector or a file
            is added to the registry under the name of the deployment. None for one that runs already.
        replicas: A fixed number of replicas; None for one, or for `autoscale`.
        autoscale: From how many to how many, as `(1, 10)` or `"1:10"`; True is that.
        aml_env: "cluster": one that runs already, at `address`, RAY_ADDRESS, or on this machine. "local": the same
            where `address` or RAY_ADDRESS name one, else one that is started here and ends with this process.
        address: `host:port` of the cluster, or "auto" for the one of this machine.
        associated_DNNModel: The model, by the name of 2018.
        registry: Root of the registry; None takes the usual one.
        service_key: Sent by `score_image` where the service asks for keys; None takes the variable APPLIANCE_KEY.
        port: Where to listen, if the cluster has no deployment yet; None takes what it listens on, or else 8000.
        settings: Further settings of the service by name, such as `key_file` or `num_cpus`.

    Raises:
        ConfigError: The name will not do, or arguments exclude each other.
    """

    def __init__(
        self,
        deployment_name: str,
        model: FasterRCNN | str | os.PathLike[str] | None = None,
        replicas: int | None = None,
        autoscale: bool | str | Sequence[int] | None = None,
        aml_env: Literal["local", "cluster"] = "cluster",
        address: str | None = None,
        *,
        associated_DNNModel: FasterRCNN  # noqa: N803 - the name of 2018
        | str
        | os.PathLike[str]
        | None = None,
        registry: str | None = None,
        service_key: str | None = None,
        port: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.deployment_name = on_ray.checked_deployment_name(deployment_name)
        if model is not None and associated_DNNModel is not None:
            raise ConfigError("The model is given twice", got="model and associated_DNNModel")
        if aml_env not in _ENVIRONMENTS:
            raise ConfigError("aml_env is wrong", got=repr(aml_env), expected="local or cluster")
        self._model = model if associated_DNNModel is None else associated_DNNModel
        self._settings = {**on_ray.scale_settings(replicas, autoscale), **(settings or {})}
        self._is_local = aml_env == "local"
        self._address = address
        self._registry = registry
        self._service_key = service_key
        self._port = port

    def __repr__(self) -> str:
        return f"Deployment({self.deployment_name!r})"

    def deploy(self) -> None:
        """Makes the service, and returns when it answers.

        One of that name that runs already takes over the model and the settings given here, replica by replica and
        without a lost request; when the new model is not well, it goes on with the old one.

        Raises:
            ConfigError: There is no such model, or no model at all; a setting is wrong.
            StorageError, ModelFileError: The model cannot be read, or is not fit to be served.
            ServiceError: There is no cluster, or the model does not come up; all is as before.
        """
        with tempfile.TemporaryDirectory() as folder:
            on_ray.deploy(
                self.deployment_name,
                self._model_text(Path(folder)),
                self._settings,
                registry=self._registry,
                address=self._address,
                own_cluster=self._is_local,
                port=self._port,
            )

    def score_image(
        self,
        image_path_or_url: str | os.PathLike[str],
        image_resize_dims: Sequence[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """Detects on one picture.

        Args:
            image_path_or_url: A path, a URI of an object store, or an address of the web, fetched here.
            image_resize_dims: Width and height in pixels that the picture is scaled to before it is sent.
            parameters: `score_threshold` and `max_total_detections`.

        Returns:
            JSON text for `FasterRCNN.parse_serialized_result`.

        Raises:
            ServiceError: There is no such service, or it refuses.
            ImageError, StorageError: The picture cannot be read.
        """
        return self.score_existing_service_with_image(
            image_path_or_url,
            self.service_url,
            service_key=self._service_key,
            image_resize_dims=image_resize_dims,
            parameters=parameters,
        )

    def delete(self) -> None:
        """Ends the service when it has answered what it accepted.

        Raises:
            ConfigError: It does not run.
            ServiceError: There is no cluster.
        """
        self._require_cluster()
        on_ray.undeploy(self.deployment_name, address=self._address)

    def is_existing_service(self) -> bool:
        """Whether a deployment of this name runs.

        Raises:
            ServiceError: There is no cluster where one has to run already.
        """
        return self._found() is not None

    @property
    def service_url(self) -> str:
        """Where it takes requests of the 2018 package; `appliance.client.Client` takes this address, too.

        Raises:
            ServiceError: It does not run.
        """
        found = self._found()
        if found is None:
            raise self._is_not_there()
        return f"{found.url}/score"

    @staticmethod
    def list_deployment(address: str | None = None) -> list[str]:
        """The names of all deployments on a cluster.

        Raises:
            ServiceError: There is no cluster.
        """
        return [deployed.name for deployed in on_ray.deployments(address=address)]

    @staticmethod
    def delete_if_service_exist(deployment_name: str, address: str | None = None) -> bool:
        """Ends a deployment if there is one of that name; gives whether there was.

        Raises:
            ServiceError: There is no cluster.
        """
        if on_ray.deployment_of(deployment_name, address=address) is None:
            return False
        on_ray.undeploy(deployment_name, address=address)
        return True

    @staticmethod
    def score_existing_service_with_image(
        image_path_or_url: str | os.PathLike[str],
        service_endpoint_url: str,
        service_key: str | None = None,
        image_resize_dims: Sequence[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> str:
        """Detects on one picture with a service that runs anywhere: see `score_image`.

        Args:
            image_path_or_url: As for `score_image`.
            service_endpoint_url: `service_url` of a deployment, or the address of any service of the appliance.
            service_key: None takes the variable APPLIANCE_KEY, if it is set.
            image_resize_dims: As for `score_image`.
            parameters: As for `score_image`.
        """
        with Client(service_endpoint_url, key=service_key) as client:
            found = client.score_compat(
                image_path_or_url, image_resize_dims=image_resize_dims, parameters=parameters
            )
        return json.dumps(found)

    def build_docker_image(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        device: Literal["cpu", "cuda"] = "cpu",
        tag: str | None = None,
    ) -> str:
        """Writes what an image of the model and its service is built from, and builds it: `appliance docker --build`.

        Args:
            folder: Where to write; a new folder, or an earlier one of this. None takes `docker/NAME`.
            device: Whether for machines without or with NVIDIA GPUs.
            tag: Name of the image; None makes one of the model's name and version.

        Returns:
            The name of the image.

        Raises:
            ConfigError: There is no model, or something else lies in the folder.
            StorageError, ModelFileError: The model cannot be read.
            ServiceError: There is no Docker engine here, or it fails; the folder stays.
        """
        from appliance.operations.container.context import ContainerPlan, write_context
        from appliance.operations.container.engine import build_image
        from appliance.registry.registry import find_model

        with tempfile.TemporaryDirectory() as scratch:
            model = self._model_text(Path(scratch))
            if model is None:
                raise ConfigError("An image needs a model", got="none", hint="Name one")
            plan = ContainerPlan(find_model(model, self._registry), device)
            place = Path("docker") / plan.name if folder is None else Path(folder)
            name = tag or plan.tag
            write_context(plan, place, tag=name)
        build_image(place, name)
        return name

    def _model_text(self, folder: Path) -> str | None:
        """A file or a reference; a detector becomes a file in the folder."""
        if self._model is None or isinstance(self._model, str | os.PathLike):
            return None if self._model is None else os.fspath(self._model)
        file = folder / f"{self.deployment_name}.safetensors"
        self._model.save(file)
        return str(file)

    def _found(self) -> Deployed | None:
        if self._is_local and not joins_a_cluster(self._address):
            return None
        return on_ray.deployment_of(self.deployment_name, address=self._address)

    def _require_cluster(self) -> None:
        if self._is_local and not joins_a_cluster(self._address):
            raise self._is_not_there()

    def _is_not_there(self) -> ServiceError:
        return ServiceError(
            "There is no such deployment on this cluster",
            got=self.deployment_name,
            hint="Call deploy first",
        )
