"""`appliance deploy|deployments|rollback|undeploy`: services that stay on a Ray cluster, side by side."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli.options import (
    Json,
    KeysOption,
    NoKeysOption,
    RegistryOption,
    SettingsOption,
    further_settings,
)
from appliance.cli.tables import print_json, print_table
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.on_ray.deployments import Deployed

logger = logging.getLogger(__name__)

NameArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="Of the deployment: it answers below /NAME.")
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        help="Ray cluster, host:port; by default RAY_ADDRESS, or the one that runs on this machine.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", min=1, help="Seconds for the switch; then all is as before."),
]
WatchOption = Annotated[
    float,
    typer.Option("--watch", min=0, help="Seconds to watch the new release before it is believed."),
]


def deploy(
    name: NameArgument,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model file; NAME, NAME:VERSION or NAME@ALIAS in the registry; models:/NAME/VERSION of MLflow; "
            "of a deployment that runs, "
            "by default the one that it serves.",
        ),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            metavar="PERCENT",
            help="Let MODEL answer so many of the requests only, as 10%, beside the one that is served.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Annotated pictures: a model that is worse on them than the one that is served is not deployed.",
        ),
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="A fixed number of replicas.")] = None,
    autoscale: Annotated[
        str | None, typer.Option(metavar="MIN:MAX", help="As many as there is work for, as 0:4.")
    ] = None,
    keys: KeysOption = None,
    no_keys: NoKeysOption = False,
    host: Annotated[
        str, typer.Option(help="Address to listen on, for the first deployment of a cluster.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port to listen on, likewise; by default 8000."),
    ] = None,
    further: SettingsOption = None,
    timeout_s: TimeoutOption = 300.0,
    watch_s: WatchOption = 10.0,
    registry: RegistryOption = None,
    address: ClusterOption = None,
    json: Json = False,
) -> None:
    """Deploy a model on a running cluster, or let a deployment take another model or other settings.

    Of a deployment that runs, replica by replica is replaced, and no request is lost. A model that has no answer for
    a built-in picture, or does not start, replaces nothing.

    Example: appliance deploy shelf --model fridge:7 --replicas 2
    """
    from appliance.on_ray import deployments as on_ray

    settings: dict[str, Any] = on_ray.scale_settings(replicas, autoscale)
    if keys is not None:
        settings["key_file"] = keys
    if no_keys:
        settings["no_keys"] = True
    settings |= further_settings(further or [], settings)
    if data is not None:
        _refuse_worse(name, model, data, registry=registry, address=address)
    deployed = on_ray.deploy(
        name,
        model,
        settings,
        canary_percent=None if canary is None else _percent(canary),
        registry=registry,
        address=address,
        host=host,
        port=port,
        timeout_s=timeout_s,
        watch_s=watch_s,
    )
    _tell(deployed, json=json)


def rollback(
    name: NameArgument,
    timeout_s: TimeoutOption = 300.0,
    watch_s: WatchOption = 10.0,
    address: ClusterOption = None,
    json: Json = False,
) -> None:
    """Let a deployment serve what it served before, on as many replicas as now; once more goes one further back.

    Example: appliance rollback shelf
    """
    from appliance.on_ray.deployments import roll_back

    _tell(roll_back(name, address=address, timeout_s=timeout_s, watch_s=watch_s), json=json)


def undeploy(name: NameArgument, address: ClusterOption = None, json: Json = False) -> None:
    """End a deployment when it has answered what it accepted.

    Example: appliance undeploy shelf
    """
    from appliance.on_ray.deployments import undeploy as end

    end(name, address=address)
    print_json({"undeployed": name}) if json else print(f"{name} is gone.")


def deployments(address: ClusterOption = None, json: Json = False) -> None:
    """List the deployments of a cluster.

    Example: appliance deployments
    """
    from appliance.on_ray.deployments import deployments as all_of

    found = all_of(address=address)
    if json:
        print_json({"deployments": [_document(deployed) for deployed in found]})
    elif not found:
        print("There are no deployments on this cluster.")
    else:
        columns = ("name", "model", "replicas", "status", "url", "before", "since")
        rows = [_row(deployed) for deployed in found]
        print_table(columns, rows, dispensable=("since", "before"))


def _refuse_worse(
    name: str, model: str | None, data: str, *, registry: str | None, address: str | None
) -> None:
    from appliance.cli.comparing import comparison
    from appliance.on_ray.deployments import deployment_of
    from appliance.registry.registry import find_model

    found = None if model is None else find_model(model, registry)
    served = deployment_of(name, address=address)
    if found is None or served is None or served.answering is None:
        raise ConfigError(
            "--data compares a new model with the one that is served",
            where=name,
            got="no --model"
            if found is None
            else "no deployment of that name that has answered yet",
        )
    result = comparison(str(served.answering.current.settings["model"]), found, data)
    # Of so few pictures that no test can tell, only the figures themselves are left to go by.
    if result.verdict == "worse" or (result.too_few and (result.map.difference or 0) < 0):
        raise ConfigError(
            f"{model} is not deployed, because {served.model} is better on these pictures",
            where=data,
            got=f"A serves, B was to: {result.sentence.rstrip('.')}",
            hint="Leave out --data to deploy it all the same",
        )
    logger.info("A serves, B is to: %s", result.sentence)


def _percent(text: str) -> float:
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = float("nan")
    if not 0 < percent < 100:
        raise ConfigError(
            "--canary is wrong", got=repr(text), expected="a share such as 10%, below 100%"
        )
    return percent


def _row(deployed: Deployed) -> tuple[str, ...]:
    record = deployed.answering or deployed.record
    coming = _coming(deployed)
    return (
        deployed.name,
        deployed.model,
        f"{deployed.replicas}/{deployed.replicas_wanted}",
        deployed.status if coming is None else f"{deployed.status} {coming}",
        deployed.url,
        record.earlier[0].model if record.earlier else "-",
        record.current.at,
    )


def _coming(deployed: Deployed) -> str | None:
    """The model of a switch that is not over, or has failed with nobody there to go back."""
    is_switched = deployed.is_switched or deployed.answering is None
    return None if is_switched else str(deployed.record.current.model)


def _tell(deployed: Deployed, *, json: bool) -> None:
    if json:
        print_json(_document(deployed))
        return
    print(f"{deployed.name} serves {deployed.model} at {deployed.url}")
    if deployed.record.earlier:
        before = deployed.record.earlier[0].model
        print(f"Back to {before}: appliance rollback {deployed.name}")


def _document(deployed: Deployed) -> dict[str, Any]:
    return {
        "name": deployed.name,
        "url": deployed.url,
        "model": deployed.model,
        "coming": _coming(deployed),
        "status": deployed.status,
        "message": deployed.message,
        "replicas": deployed.replicas,
        "replicas_wanted": deployed.replicas_wanted,
        **deployed.record.to_json(),
    }
