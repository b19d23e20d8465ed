"""The deployments of the cluster that this process is connected to, as Ray Serve tells of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from appliance.errors import ConfigError
from serve_app.applications import answering_among, applications, state_of
from serve_app.deployments.record import DEPLOYMENT_NAME, Record
from serve_app.ingress.listening import url_of

_UP = ("RUNNING", "UNHEALTHY")
_ANY_HOSTS = ("0.0.0.0", "::", "")  # noqa: S104 - read, not listened on


@dataclass(frozen=True)
class Deployed:
    """A deployment.

    Attributes:
        name: Of the deployment.
        url: Where it answers, without a slash at the end.
        record: Its releases.
        status: Of the application, by Serve: RUNNING, DEPLOYING, DEPLOY_FAILED, UNHEALTHY, DELETING.
        message: What Serve has to say about it, or nothing.
        replicas: How many answer.
        replicas_wanted: How many should.
    """

    name: str
    url: str
    record: Record
    status: str
    message: str
    replicas: int
    replicas_wanted: int

    @property
    def is_switched(self) -> bool:
        """Whether the current release has taken over; not while it starts, or when it could not."""
        return self.status in _UP

    @property
    def answering(self) -> Record | None:
        """The record of what has answered up to now; None where nothing has yet."""
        return self.record.of_what_answers(is_over=self.is_switched)

    @property
    def model(self) -> str:
        """What it serves: `NAME:VERSION`; while a switch is not over, what it served before."""
        return (self.answering or self.record).current.model


def deployments() -> list[Deployed]:
    """All deployments by name; other applications of Serve are none."""
    found = (_deployed(name, details) for name, details in sorted(applications().items()))
    return [deployed for deployed in found if deployed is not None]


def deployment_of(name: str) -> Deployed | None:
    """The deployment of a name, or None where there is no application of that name.

    Raises:
        ConfigError: There is one that is no deployment.
    """
    details = applications().get(name)
    if details is None:
        return None
    deployed = _deployed(name, details)
    if deployed is None:
        raise ConfigError(
            "That is no deployment but another application of Ray Serve",
            got=name,
            hint="Choose another name, or end that application first",
        )
    return deployed


def existing(name: str) -> Deployed:
    """The deployment of a name.

    Raises:
        ConfigError: There is none.
    """
    deployed = deployment_of(name)
    if deployed is None:
        names = [other.name for other in deployments()]
        raise ConfigError(
            "There is no such deployment on this cluster",
            got=name,
            expected=" or ".join(names) or "any, but none runs",
        )
    return deployed


def _deployed(name: str, details: dict[str, Any]) -> Deployed | None:
    part = details["deployments"].get(DEPLOYMENT_NAME, {})
    record = Record.of_json(part.get("deployment_config", {}).get("user_config"))
    if record is None:
        return None
    return Deployed(
        name=name,
        url=_base_url() + str(details["route_prefix"]).rstrip("/"),
        record=record,
        status=state_of(details["status"]),
        message=str(details["message"] or part["message"]),
        replicas=len(answering_among(details)),
        replicas_wanted=int(part["target_num_replicas"]),
    )


def _base_url() -> str:
    import ray
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client()
    listening = client.http_config
    head = ray.get_runtime_context().gcs_address
    return url_of(host_of(listening.host or "", head), int(listening.port))


def host_of(listening: str, head: str) -> str:
    """Where others reach what listens on a host; on all of them, that is the address of the cluster's head."""
    return head.rpartition(":")[0].strip("[]") if listening in _ANY_HOSTS else listening
