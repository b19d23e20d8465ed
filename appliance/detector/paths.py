"""What the user's detector takes as a picture: its path."""

from __future__ import annotations

import os

from appliance.errors import ConfigError


def check_is_path(image: object) -> None:
    """Refuses pixels, for instance.

    Raises:
        ConfigError: It is no path.
    """
    if not isinstance(image, str | os.PathLike):
        raise ConfigError(
            "This is no picture",
            got=f"{type(image).__name__} {repr(image)[:40]}",
            expected="the path or URI of a file, or a list of them",
        )
