"""The applications of Ray Serve on the cluster of this process, with what `serve.status` leaves out.

Importing this module costs no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RUNNING = "RUNNING"


def applications() -> dict[str, Any]:
    """What Serve tells of each application by its name, as of `ServeInstanceDetails`; empty without Serve."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    return {} if client is None else dict(client.get_serve_details()["applications"])


def replicas_of(name: str) -> frozenset[str]:
    """Ids of all of an application's replicas, those that start or end too; none without such an application.

    An update is over when none of those from before it is left. What Serve says of the application as a
    whole does not tell: autoscaling that changes its mind in the middle turns that to RUNNING (Ray 2.60: an
    update becomes an upscaling), while the version before still answers. One that ends answers on until
    Serve's proxy has learned of it, and one that just starts will.
    """
    return frozenset(str(replica["replica_id"]) for replica in _replicas(_details(name)))


def answering_replicas(name: str) -> frozenset[str]:
    """Ids of those of them that new requests are meant for."""
    return answering_among(_details(name))


def answering_among(details: Mapping[str, Any]) -> frozenset[str]:
    """The same, of one application as `applications` tells of it."""
    return frozenset(
        str(replica["replica_id"])
        for replica in _replicas(details)
        if state_of(replica["state"]) == _RUNNING
    )


def _details(name: str) -> Mapping[str, Any]:
    details: Mapping[str, Any] = applications().get(name, {})
    return details


def _replicas(details: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        replica for part in details.get("deployments", {}).values() for replica in part["replicas"]
    ]


def state_of(state: Any) -> str:
    """A state's name, which Serve gives as a text or as a member of an enumeration."""
    return str(getattr(state, "value", state))
