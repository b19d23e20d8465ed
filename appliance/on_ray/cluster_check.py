"""What a running cluster has, and what the appliance would use of it.

Every node is asked by a task of its own, for its packages: a worker with another torch than ours computes other
figures, and one with another Ray cannot be spoken to.
"""

from __future__ import annotations

import platform
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

from appliance.errors import ConfigError
from appliance.on_ray.cluster import connect, joins_a_cluster
from appliance.on_ray.part_pool import WorkerPool, size_pool
from appliance.on_ray.workers import Workers, cpus_for_each

COMPARED = ("detection-appliance", "ray", "torch", "torchvision")
ANSWER_TIMEOUT_S = 60.0
Protection = Literal["token", "open", "no dashboard", "no answer"]
_MANY = 1_000_000


@dataclass(frozen=True)
class NodeReport:
    """One node.

    Attributes:
        address: Its IP address.
        is_head: Whether it keeps the cluster's state.
        cpus: CPUs that Ray gives out.
        gpus: GPUs that Ray gives out.
        gpu_names: As the driver names them.
        memory_bytes: For tasks and actors.
        versions: Name -> version of Python and of `COMPARED`; a package that is not there is missing.
        faults: What of it does not fit ours, each as a sentence.
    """

    address: str
    is_head: bool
    cpus: float
    gpus: float
    gpu_names: tuple[str, ...]
    memory_bytes: int
    versions: Mapping[str, str]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class ClusterReport:
    """A cluster.

    Attributes:
        address: `host:port` of its head.
        protection: Whether its dashboard and Jobs API ask for a token.
        nodes: Those that live, the head first.
        batch: Workers of a large batch job.
        training_cpus: Cores of one training worker on each node that has any.
        training_workers: How many such workers there is room for; with `--gpu`, as many as GPUs.
    """

    address: str
    protection: Protection
    nodes: tuple[NodeReport, ...]
    batch: WorkerPool
    training_cpus: int
    training_workers: int

    @property
    def faults(self) -> list[str]:
        """All that is wrong."""
        found = [f"{node.address}: {fault}" for node in self.nodes for fault in node.faults]
        if self.protection == "open":
            found.insert(
                0, "Whoever reaches the dashboard runs code: start Ray with RAY_AUTH_MODE=token"
            )
        return found


def check_cluster(
    address: str | None = None, *, timeout_s: float = ANSWER_TIMEOUT_S
) -> ClusterReport:
    """Asks a cluster that runs already, and all of its nodes.

    Args:
        address: `host:port` of the head, or "auto"; by default `RAY_ADDRESS`.
        timeout_s: How long the nodes may take to answer, all together.

    Raises:
        ConfigError: No cluster is named.
        ServiceError: None answers.
    """
    if not joins_a_cluster(address):
        raise ConfigError(
            "No cluster is named",
            hint="Give --address host:port or auto, or set RAY_ADDRESS; `appliance doctor` looks at this machine alone",
        )
    info = connect(address)
    import ray

    living = [node for node in ray.nodes() if node["Alive"]]
    answers = _ask_nodes([node["NodeID"] for node in living], timeout_s)
    nodes = [_report(node, answers[node["NodeID"]]) for node in living]
    cpus = [node.cpus for node in nodes if node.cpus]
    each = cpus_for_each(Workers(max(1, len(cpus))), cpus)
    return ClusterReport(
        info.address,
        protection_of(dashboard_url()),
        tuple(sorted(nodes, key=lambda node: (not node.is_head, node.address))),
        size_pool(_MANY),
        each,
        sum(int(of_node // each) for of_node in cpus),
    )


def our_versions() -> dict[str, str]:
    """Versions of this process."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in COMPARED},
    }


def faults_of(versions: Mapping[str, str], ours: Mapping[str, str]) -> tuple[str, ...]:
    """How the versions of a node differ from ours, each as a sentence."""
    faults = []
    for name, wanted in ours.items():
        found = versions.get(name)
        if found is None:
            faults.append(f"{name} is missing")
        elif _compared(name, found) != _compared(name, wanted):
            faults.append(f"{name} is {found} there and {wanted} here")
    return tuple(faults)


def dashboard_url() -> str | None:
    """`host:port` of the dashboard of the cluster that this process is in; None where there is none."""
    from ray._private.worker import get_dashboard_url

    return get_dashboard_url() or None


def protection_of(dashboard: str | None, *, timeout_s: float = 5.0) -> Protection:
    """Whether the Jobs API, by which one runs code, answers who brings no token."""
    if dashboard is None:
        return "no dashboard"
    try:
        with urllib.request.urlopen(f"http://{dashboard}/api/jobs/", timeout=timeout_s):
            return "open"
    except urllib.error.HTTPError as error:
        return "token" if error.code in (401, 403) else "no answer"
    except OSError:
        return "no answer"


def _compared(name: str, version: str) -> str:
    # Pythons of one minor version understand each other's pickles.
    return ".".join(version.split(".")[:2]) if name == "python" else version


def _ask_nodes(node_ids: Sequence[str], timeout_s: float) -> dict[str, dict[str, Any] | str]:
    """What each node says of itself, or why it says nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(num_cpus=0, max_retries=0)(_probe())
    asked = {
        probe.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote(list(COMPARED)): node_id
        for node_id in node_ids
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    answers: dict[str, dict[str, Any] | str] = {
        asked[one]: f"it does not answer within {timeout_s:.0f} s" for one in late
    }
    for one in done:
        try:
            answers[asked[one]] = ray.get(one)
        except ray.exceptions.RayError as error:
            answers[asked[one]] = f"it does not run tasks: {str(error).strip().splitlines()[-1]}"
    return answers


def _probe() -> Callable[[list[str]], dict[str, Any]]:
    """The task; made here, so that it travels whole to nodes that may lack this package."""

    def versions_and_gpus(names: list[str]) -> dict[str, Any]:  # pragma: no cover - in a worker
        import platform
        import subprocess
        from importlib import metadata

        versions = {"python": platform.python_version()}
        for name in names:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        try:
            listed = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout  # noqa: PLW1510
        except (OSError, subprocess.TimeoutExpired):
            listed = ""
        return {"versions": versions, "gpus": [line for line in listed.splitlines() if line]}

    return versions_and_gpus


def _report(node: Mapping[str, Any], answer: dict[str, Any] | str) -> NodeReport:
    resources = node["Resources"]
    versions: Mapping[str, str] = {}
    names: tuple[str, ...] = ()
    faults: tuple[str, ...] = (str(answer),)
    if isinstance(answer, dict):
        versions, names = answer["versions"], tuple(answer["gpus"])
        faults = faults_of(versions, our_versions())
    return NodeReport(
        node["NodeManagerAddress"],
        "node:__internal_head__" in resources,
        resources.get("CPU", 0.0),
        resources.get("GPU", 0.0),
        names,
        int(resources.get("memory", 0)),
        versions,
        faults,
    )
