"""Deployments on a cluster: from what a user asks for to a release that Ray Serve takes over.

The service is a package of its own (`serve_app`), so it is imported by name.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from appliance.config import parse_settings
from appliance.errors import ConfigError
from appliance.model.address import ModelAddress
from appliance.on_ray.cluster import connect, joins_a_cluster
from appliance.on_ray.serving import service_environment, whole_machine
from appliance.registry.references import checked_name
from appliance.registry.registry import Registry, find_model

logger = logging.getLogger(__name__)

_OF_THIS_MACHINE = "auto"
_ALTERNATIVES = ({"num_replicas"}, {"min_replicas", "max_replicas"})
_OF_CANARY = ("canary_model", "canary_percent")
_MODEL_HINT = "Give it as --model fridge:8, with --canary 10% for a trial"
_PATHS_OF_A_SERVICE = ("docs", "healthz", "metrics", "readyz", "score", "v1", "v2")
_UNUSED_MODEL = "model"
_USUAL_SCALE = (1, 10)


class Deployed(Protocol):
    """A deployment as Serve tells of it: see `serve_app.deployments.found.Deployed`."""

    name: str
    url: str
    record: Any
    status: str
    message: str
    replicas: int
    replicas_wanted: int

    @property
    def is_switched(self) -> bool:
        """Whether the current release has taken over."""

    @property
    def answering(self) -> Any:
        """The record of what has answered up to now, or None."""

    @property
    def model(self) -> str:
        """What it serves: `NAME:VERSION`."""


def checked_deployment_name(name: str) -> str:
    """The name itself.

    Raises:
        ConfigError: It will not do.
    """
    if name in _PATHS_OF_A_SERVICE:
        raise ConfigError(
            "That is no name for a deployment",
            got=repr(name),
            expected=f"none that is a path of every service: {', '.join(_PATHS_OF_A_SERVICE)}",
        )
    return checked_name(name, "a deployment")


def scale_settings(
    replicas: int | None, autoscale: bool | str | Sequence[int] | None
) -> dict[str, Any]:
    """The settings of the service for a number of replicas, or for autoscaling.

    Args:
        replicas: A fixed number.
        autoscale: From how many to how many, as `(0, 4)` or `"0:4"`; True is 1 to 10.

    Raises:
        ConfigError: Both are given, or one is no such thing.
    """
    if autoscale is None or autoscale is False:
        return {} if replicas is None else {"num_replicas": replicas}
    if replicas is not None:
        raise ConfigError("Give either a number of replicas, or autoscaling")
    bounds = _USUAL_SCALE if autoscale is True else autoscale
    texts = bounds.split(":") if isinstance(bounds, str) else [str(bound) for bound in bounds]
    if len(texts) != 2 or not all(text.isdecimal() for text in texts):
        raise ConfigError("Autoscaling is wrong", got=repr(autoscale), expected="MIN:MAX, as 0:4")
    return {"min_replicas": int(texts[0]), "max_replicas": int(texts[1])}


def deploy(
    name: str,
    model: str | None,
    settings: Mapping[str, Any],
    *,
    canary_percent: float | None = None,
    registry: str | None = None,
    address: str | None = None,
    own_cluster: bool = False,
    **options: Any,
) -> Deployed:
    """Makes a deployment, or lets one that runs take another model or other settings.

    What is served is always a version of the registry, so that it stays what it is as long as the deployment or
    its history names it: a plain file is added under the name of the deployment.

    Args:
        name: Of the deployment: it answers below `/NAME`.
        model: A file, or a reference of the registry; None keeps the one that it serves.
        settings: Fields of `ServiceSettings` to set; all others stay as they are.
        canary_percent: Let the model answer so many of the requests only, above 0 and below 100, beside the one
            that is served.
        registry: Root of the registry.
        address: Of the cluster.
        own_cluster: Start a cluster that ends with this process, where none is named.
        **options: Further ones of `serve_app.deployments.rollout.deploy`.

    Raises:
        ConfigError: A name, a setting or a reference is wrong.
        StorageError, ModelFileError: The model cannot be read or is not fit to be served.
        ServiceError: There is no cluster, or the new release is not well; all is as before.
    """
    checked_deployment_name(name)
    given = _parsed({"model": model or _UNUSED_MODEL, **_allowed(settings)})
    found = None if model is None else find_model(model, registry)
    if own_cluster and not joins_a_cluster(address):
        settings = {**whole_machine(given.model_dump()), **settings}
    _join(address, own_cluster=own_cluster)
    before = _module("found").deployment_of(name)
    answering = None if before is None else before.answering
    _check_model_is_named(name, answering, found, canary_percent)
    kept = {} if answering is None else dict(answering.current.settings)
    wanted = {**_without_other_scale(kept, settings), **settings}
    role = "model" if canary_percent is None else "canary_model"
    if found is not None:
        wanted = {key: value for key, value in wanted.items() if key not in _OF_CANARY}
        wanted[role] = found
    if canary_percent is not None:
        wanted["canary_percent"] = canary_percent
    parsed = _parsed(wanted)
    keys = importlib.import_module("serve_app.security.keys")
    keys.require_keys(options.get("host", "127.0.0.1"), parsed)
    if parsed.key_file is not None:
        wanted["key_file"] = keys.checked_key_file(parsed.key_file)
    importlib.import_module("serve_app.training.jobs").require_jobs_api(parsed)
    if wanted != kept:
        _module("check").check_model(parsed.model_copy(update={"model": wanted[role]}))
    wanted[role] = _pinned(name, wanted[role], registry)
    document = _parsed(wanted).model_dump(mode="json", exclude_unset=True)
    deployed: Deployed = _module("rollout").deploy(name, document, **options)
    return deployed


def roll_back(name: str, *, address: str | None = None, **options: Any) -> Deployed:
    """Lets a deployment serve what it served before.

    Raises:
        ConfigError: There is none of that name, or nothing to go back to.
        ServiceError: There is no cluster, or the earlier release is not well.
    """
    checked_deployment_name(name)
    _join(address)
    deployed: Deployed = _module("rollout").roll_back(name, **options)
    return deployed


def undeploy(name: str, *, address: str | None = None) -> None:
    """Ends a deployment.

    Raises:
        ConfigError: There is none of that name.
        ServiceError: There is no cluster.
    """
    checked_deployment_name(name)
    _join(address)
    _module("rollout").delete(name)


def deployments(*, address: str | None = None) -> list[Deployed]:
    """All deployments of a cluster, by name.

    Raises:
        ServiceError: There is no cluster.
    """
    _join(address)
    found: list[Deployed] = _module("found").deployments()
    return found


def deployment_of(name: str, *, address: str | None = None) -> Deployed | None:
    """The deployment of a name, if there is one.

    Raises:
        ConfigError: Another application has that name.
        ServiceError: There is no cluster.
    """
    _join(address)
    found: Deployed | None = _module("found").deployment_of(name)
    return found


def _join(address: str | None, *, own_cluster: bool = False) -> None:
    if joins_a_cluster(address):
        connect(address)
    elif own_cluster:
        logger.warning(
            "No cluster is named, so this deployment ends with this process; "
            "for one that stays, run `ray start --head` and give the address auto"
        )
        connect(address, environment=service_environment())
    else:
        connect(_OF_THIS_MACHINE)


def _allowed(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("model", *_OF_CANARY):
        if key in settings:
            raise ConfigError("That is no setting of a deployment", got=key, hint=_MODEL_HINT)
    if "keys" in settings:
        raise ConfigError(
            "A deployment takes its keys from a file",
            got="the setting keys, which everybody on the cluster could read",
            hint="Make one with `appliance keys new`, and give --keys FILE",
        )
    return settings


def _check_model_is_named(
    name: str, answering: object | None, found: str | None, canary_percent: float | None
) -> None:
    if answering is None and (found is None or canary_percent is not None):
        raise ConfigError(
            "Which model?" if found is None else "A canary stands beside another model",
            where=name,
            got="no deployment of that name that has answered yet",
            hint=f"appliance deploy {name} --model fridge:7",
        )
    if found is None and canary_percent is not None:
        raise ConfigError("A canary is another model", where=name, got="none", hint=_MODEL_HINT)


def _without_other_scale(kept: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What stays of the settings of before: a fixed number of replicas and autoscaling exclude each other."""
    gone = set().union(*(keys for keys in _ALTERNATIVES if not keys & given.keys()))
    is_given = any(keys & given.keys() for keys in _ALTERNATIVES)
    return {key: value for key, value in kept.items() if not (is_given and key in gone)}


def _pinned(name: str, model: str, registry: str | None) -> str:
    if ModelAddress.parse(model).sha256 is not None:
        return model
    added = Registry(registry).add(name, model, note="for the deployment of that name")
    address = find_model(f"{name}:{added.version.number}", registry)
    if added.is_new:
        logger.info("added %s to the registry as %s:%d", model, name, added.version.number)
    return address


def _parsed(settings: Mapping[str, Any]) -> Any:
    settings_class = importlib.import_module("serve_app.settings").ServiceSettings
    return parse_settings(settings_class, settings, source="deployment settings")


def _module(name: str) -> Any:
    return importlib.import_module(f"serve_app.deployments.{name}")
