"""The service under load: its address, the keys that open it, and what it says of its model before the load begins."""

from __future__ import annotations

import itertools
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from appliance.client.access import KEY_VARIABLE, Address, Key
from appliance.errors import ConfigError, ServiceError

_TIMEOUT_S = 30


@dataclass(frozen=True)
class Model:
    """The model that answers unless another is asked for.

    Attributes:
        name: As the service calls it.
        score_threshold: Lowest score that it answers.
        max_detections: Most detections of a picture; None where the service does not say.
    """

    name: str
    score_threshold: float
    max_detections: int | None


@dataclass(frozen=True)
class Target:
    """A service, and who asks it.

    Attributes:
        base_url: Its address, without a slash at its end.
        keys: Headers of each key; those of no key where there is none.
        model: What answers.
    """

    base_url: str
    keys: tuple[dict[str, str], ...]
    model: Model

    @classmethod
    def of(cls, url: str, keys: str | None) -> Target:
        """Asks a service for its models.

        Args:
            url: Of the service.
            keys: One key, or several by commas, of which each user takes one in turn; None takes the variable
                APPLIANCE_KEY.

        Raises:
            ServiceError: It does not answer, or refuses the key.
            ConfigError: A key cannot be one.
        """
        texts = (os.environ.get(KEY_VARIABLE, "") if keys is None else keys).split(",")
        headers = tuple(Key(text).headers for text in texts)
        base_url = Address.parse(url).base_url
        for one in headers:
            model = _model_of(base_url, one)
        return cls(base_url, headers, model)

    def turns(self) -> Iterator[dict[str, str]]:
        """The headers of one key after another, without end."""
        return itertools.cycle(self.keys)


def _model_of(base_url: str, headers: dict[str, str]) -> Model:
    request = urllib.request.Request(f"{base_url}/v1/models", headers=headers)  # noqa: S310 - http(s), see Address
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            models: list[dict[str, Any]] = json.load(answer)["models"]
            first = next(model for model in models if model["default"])
            threshold = first["score_threshold"] or 0.0
            return Model(first["name"], float(threshold), first["max_detections"])
    except urllib.error.HTTPError as error:
        hint = f"Give a key of the service in {KEY_VARIABLE}" if error.code == 401 else None
        got = f"status {error.code}"
        raise ServiceError("The service refuses", where=base_url, got=got, hint=hint) from None
    except OSError as error:
        got = str(getattr(error, "reason", error))
        raise ServiceError("The service does not answer", where=base_url, got=got) from None
    except (ValueError, KeyError, TypeError, StopIteration):
        raise ConfigError(
            "No detection appliance answers there", where=base_url, expected="/v1/models of one"
        ) from None
