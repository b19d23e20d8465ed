"""Which replica of Ray Serve this is, and what the replicas on other machines have counted.

A scrape reaches one replica. Those of its own machine share a folder with it; of the other machines, it
asks the replicas that are there through Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from serve_app.telemetry.counts import Key, remove_abandoned
from serve_app.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

SNAPSHOT_METHOD = "counts_of_node"
"""Name of the method that a deployment must have, calling `NodeCounts.own`, to be asked by others."""

_OTHERS_TIMEOUT_S = 3.0
_ABANDONED_AFTER_S = 24 * 3600.0
_SHARED_MEMORY = Path("/dev/shm")
_ID_LENGTH = 8


@dataclass(frozen=True)
class Replica:
    """Where this process stands among those that serve the same application.

    Attributes:
        app_name: Of Serve's application.
        deployment: Of its deployment.
        name: Of this replica, unique in the deployment.
        node: The machine.
        session: The run of the cluster.
    """

    app_name: str
    deployment: str
    name: str
    node: str
    session: str

    @classmethod
    def of_this_process(cls) -> Replica:
        """Asks Ray; only within a replica."""
        import ray
        from ray import serve

        replica_id = serve.get_replica_context().replica_id
        cluster = ray.get_runtime_context()
        return cls(
            app_name=replica_id.deployment_id.app_name,
            deployment=replica_id.deployment_id.name,
            name=replica_id.unique_id,
            node=cluster.get_node_id()[:_ID_LENGTH],
            session=cluster.get_session_name(),
        )

    def folder(self, base: Path | None = None) -> Path:
        """Where the replicas of this machine share their counts, for as long as the cluster runs.

        Args:
            base: Given by the user; None takes one in shared memory, and removes what clusters that are
                long gone left there.
        """
        if base is None:
            base = shared_folder()
            with contextlib.suppress(OSError):
                remove_abandoned(base, _ABANDONED_AFTER_S)
        parts = (self.session, self.node, self.app_name, self.deployment)
        return base.joinpath("-".join(re.sub(r"[^\w.]", "_", part) for part in parts))


def open_metrics(metrics_dir: str | None, replica: Replica | None) -> Metrics:
    """The counts of this process, shared with the other replicas of its machine.

    Args:
        metrics_dir: Where they meet; None: in shared memory, or without Serve nowhere.
        replica: Within Serve, which one this is. Without, processes that share a folder serve the same.
    """
    base = None if metrics_dir is None else Path(metrics_dir)
    if replica is None:
        return Metrics(base, replica=str(os.getpid()))
    return Metrics(replica.folder(base), replica=replica.name)


class NodeCounts:
    """The counts of all machines, asked for on one of them."""

    def __init__(self, metrics: Metrics, replica: Replica | None = None) -> None:
        self.metrics = metrics
        self._replica = replica

    async def own(self) -> tuple[str, dict[Key, float]]:
        """Name of this machine, and the sums of the replicas on it; the name is empty without Serve."""
        self.metrics.note_queue_depth()
        # In a thread: it reads files.
        totals = await asyncio.to_thread(self.metrics.counts.totals)
        return (self._replica.node if self._replica else ""), totals

    async def all(self) -> dict[str, dict[Key, float]]:
        """The sums of each machine; of this one alone when the others cannot be asked."""
        node, totals = await self.own()
        by_node = {node: totals}
        if self._replica is not None and await asyncio.to_thread(_has_other_nodes):
            try:
                by_node |= await _counts_of_others(self._replica)
            except Exception:  # Ray has many; half of a page is better than none
                logger.exception("counts of other nodes are missing")
        by_node[node] = totals
        return by_node


async def _counts_of_others(replica: Replica) -> dict[str, dict[Key, float]]:
    """What each machine has counted, whose replicas answer in time."""
    from ray import serve

    handle = serve.get_deployment_handle(replica.deployment, replica.app_name)
    answers = await handle.broadcast(SNAPSHOT_METHOD).results_async(
        timeout_s=_OTHERS_TIMEOUT_S, return_exceptions=True
    )
    return dict(answer for answer in answers if not isinstance(answer, BaseException))


def shared_folder() -> Path:
    """This user's folder in shared memory, or where temporary files go.

    Whoever has taken its name before gets nothing to read: then it is one that no other process finds.
    """
    parent = _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    folder = parent / f"appliance-counts-{os.geteuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.lstat().st_uid == os.geteuid():
        return folder
    logger.warning("counts are kept for this process alone: %s belongs to somebody else", folder)
    return Path(tempfile.mkdtemp(prefix="appliance-counts-"))


def _has_other_nodes() -> bool:
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes()) > 1
