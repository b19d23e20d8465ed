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


def answering_replicas(name: str) -> frozenset[str]:
    """Ids of an application's replicas that answer; none where there is no such application.

    An update is over when none of those from before it is left. What Serve says of the application as a
    whole does not tell: autoscaling that changes its mind in the middle turns that to RUNNING (Ray 2.60: an
    update becomes an upscaling), while the version before still answers.
    """
    return answering_among(applications().get(name, {}))


def answering_among(details: Mapping[str, Any]) -> frozenset[str]:
    """The same, of one application as `applications` tells of it."""
    return frozenset(
        str(replica["replica_id"])
        for part in details.get("deployments", {}).values()
        for replica in part["replicas"]
        if state_of(replica["state"]) == _RUNNING
    )


def state_of(state: Any) -> str:
    """A state's name, which Serve gives as a text or as a member of an enumeration."""
    return str(getattr(state, "value", state))
