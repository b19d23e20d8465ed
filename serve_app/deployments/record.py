"""What is known of a deployment: the release that it serves, and those before it.

Ray Serve itself keeps it, as the `user_config` of the application, which no replica obeys: a new release and its
record are one change, there is nothing beside Serve that could say otherwise, and it outlives whoever deployed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from appliance.errors import ConfigError
from appliance.model.address import ModelAddress

DEPLOYMENT_NAME = "DetectionService"
"""What Serve calls the one part that an application of ours has."""

_FORMAT = 1
_FORMAT_KEY = "appliance_deployment"
_MOST_EARLIER = 10
_OF_SCALE = frozenset(
    {
        "num_replicas",
        "min_replicas",
        "max_replicas",
        "target_ongoing_requests",
        "upscale_delay_s",
        "downscale_delay_s",
    }
)
"""Settings that Serve obeys and replicas do not: a change of these alone restarts none."""


@dataclass(frozen=True)
class Release:
    """A model and how it is served.

    Attributes:
        settings: Fields of `ServiceSettings` as plain JSON values, those at their defaults left out.
        at: When it was deployed, ISO 8601.
        by: Who did that.
    """

    settings: Mapping[str, Any]
    at: str
    by: str

    @property
    def model(self) -> str:
        """`NAME:VERSION`, and that of a canary with its share."""
        model = _shown(str(self.settings["model"]))
        if not self.has_canary:
            return model
        canary = _shown(str(self.settings["canary_model"]))
        return f"{model}, {self.settings['canary_percent']:g} % {canary}"

    @property
    def has_canary(self) -> bool:
        """Whether another model is on trial."""
        return self.settings.get("canary_model") is not None

    @property
    def code_version(self) -> str:
        """Equal for releases whose replicas are alike; Serve keeps the replicas of an equal one."""
        of_replicas = {key: value for key, value in self.settings.items() if key not in _OF_SCALE}
        text = json.dumps(of_replicas, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def scaled_as(self, other: Release) -> Release:
        """The same on as many replicas as another one: what load there is does not depend on the model."""
        own = {key: value for key, value in self.settings.items() if key not in _OF_SCALE}
        others = {key: value for key, value in other.settings.items() if key in _OF_SCALE}
        return replace(self, settings={**own, **others})

    def to_json(self) -> dict[str, Any]:
        """The release as a JSON document."""
        return {"settings": dict(self.settings), "at": self.at, "by": self.by}


@dataclass(frozen=True)
class Record:
    """The releases of one deployment.

    Attributes:
        current: What it serves, or is about to.
        earlier: What it served before, the latest first.
        replaces: The record whose release answers until the current one does; None where nothing did. Whoever
            finds a switch that nobody waits for any more goes by it.
    """

    current: Release
    earlier: tuple[Release, ...] = ()
    replaces: Record | None = field(default=None, compare=False)

    def of_what_answers(self, *, is_over: bool) -> Record | None:
        """This one, or what it replaces as long as that switch is not over; None where nothing has answered yet."""
        return replace(self, replaces=None) if is_over else self.replaces

    def replacing(self, other: Record | None) -> Record:
        """The same, which is about to take over from another one."""
        return replace(self, replaces=other)

    def followed_by(self, release: Release) -> Record:
        """The record when another release has taken over.

        One that differs only in scale is no other one, and one with a canary was a trial: neither is gone back to.
        """
        if self.current.has_canary or release.code_version == self.current.code_version:
            return Record(release, self.earlier)
        return Record(release, (self.current, *self.earlier)[:_MOST_EARLIER])

    def rolled_back(self, *, is_over: bool = True) -> Record:
        """The record when the release before has taken over again, on as many replicas as there are now.

        Args:
            is_over: Whether the switch to the current release is; a way back that is not is gone on with.

        Raises:
            ConfigError: There is none before.
        """
        if not is_over and self.replaces is not None and self._is_behind(self.replaces):
            return self
        if not self.earlier:
            raise ConfigError(
                "There is no earlier release to go back to", got=f"only {self.current.model}"
            )
        before, *earlier = self.earlier
        return Record(before.scaled_as(self.current), tuple(earlier))

    def _is_behind(self, other: Record) -> bool:
        return self.earlier == other.earlier[1:] and [self.current.code_version] == [
            release.code_version for release in other.earlier[:1]
        ]

    def to_json(self) -> dict[str, Any]:
        """The record as Serve keeps it."""
        return {
            _FORMAT_KEY: _FORMAT,
            "current": self.current.to_json(),
            "earlier": [release.to_json() for release in self.earlier],
            "replaces": None if self.replaces is None else self.replaces.to_json(),
        }

    @classmethod
    def of_json(cls, document: Any) -> Record | None:
        """Reads what an application of Serve has as its `user_config`; None where that is no record of ours."""
        if not isinstance(document, Mapping) or document.get(_FORMAT_KEY) != _FORMAT:
            return None
        earlier = tuple(Release(**release) for release in document["earlier"])
        return cls(Release(**document["current"]), earlier, cls.of_json(document.get("replaces")))


def _shown(model: str) -> str:
    address = ModelAddress.parse(model)
    return address.reference or address.uri
