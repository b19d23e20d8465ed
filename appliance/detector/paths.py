"""What the user's detector takes as a picture, and as the place of a model: a path."""

from __future__ import annotations

import os

from appliance.errors import ConfigError


def check_is_path(image: object) -> None:
    """Refuses pixels of a picture, for instance.

    Raises:
        ConfigError: It is no path.
    """
    if not isinstance(image, str | os.PathLike):
        raise ConfigError(
            "This is no picture",
            got=f"{type(image).__name__} {repr(image)[:40]}",
            expected="the path or URI of a file, or a list of them",
        )


def check_is_model_path(path: object) -> None:
    """Refuses a network, for instance.

    Raises:
        ConfigError: It is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            "This is no place for a model file",
            got=f"{type(path).__name__} {repr(path)[:40]}",
            expected="a path or URI",
        )
