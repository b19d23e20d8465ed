"""What a cluster has for a job beside the services that run on it.

Whatever else runs gives its CPUs back one day; the replicas of a service keep theirs. A job that waited for all CPUs
of a node with a replica would wait for ever.
"""

from __future__ import annotations

from typing import Any

import ray

_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
_SHARED = ("CPU", "GPU")


def nodes_with_room() -> list[dict[str, float]]:
    """Resources of every node, as Ray names them; on a cluster that serves, CPUs and GPUs that are free now."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not _serves():
        return [dict(node["Resources"]) for node in nodes]
    from ray._private.state import available_resources_per_node

    free: dict[str, Any] = available_resources_per_node()
    return [
        {
            **node["Resources"],
            **{name: float(free.get(node["NodeID"], {}).get(name, 0)) for name in _SHARED},
        }
        for node in nodes
    ]


def _serves() -> bool:
    name, namespace = _CONTROLLER
    try:
        ray.get_actor(name, namespace=namespace)
    except ValueError:
        return False
    return True
