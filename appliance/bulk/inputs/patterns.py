"""Patterns that choose pictures by their names, as shells and `.gitignore` have them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from appliance import storage
from appliance.bulk.inputs.addresses import is_encoded, split_tail
from appliance.errors import ConfigError, StorageError

_ANY_FOLDERS = r"(?:.*/)?"


class NameFilter:
    """Keeps the names that match a pattern of `include`, if there is any, and none of `exclude`.

    A pattern without a slash is for the name of the file, in any folder; one with a slash, be it the first
    letter, for the whole path. `*` and `?` do not cross slashes, `**/` stands for any number of folders,
    `[abc]` for one of these letters, `[!abc]` for any other. One that ends in a slash is for a folder
    with all below it. Case counts.

    Args:
        include: Patterns of what is wanted; none wants all.
        exclude: Patterns of what is left out.

    Raises:
        ConfigError: A pattern cannot be read.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self._include = [_compiled(pattern) for pattern in include]
        self._exclude = [_compiled(pattern) for pattern in exclude]

    @property
    def keeps_all(self) -> bool:
        """Whether there is no pattern at all."""
        return not self._include and not self._exclude

    def keeps(self, relative_path: str) -> bool:
        """Whether a file is wanted.

        Args:
            relative_path: Its path below the input, with forward slashes.
        """
        wanted = not self._include or any(p.fullmatch(relative_path) for p in self._include)
        return wanted and not any(p.fullmatch(relative_path) for p in self._exclude)


def split_glob(uri: str) -> tuple[str, str | None]:
    """The folder of a pattern like `pictures/**/*.jpg`, and the pattern below it; None where it is a plain name.

    A local path that exists, or whose folders do, is what it says, whatever characters it holds. In
    remote addresses a `?` begins the options, so there only `*` and `[` make a pattern.
    """
    if storage.is_remote(uri):
        return _split_remote(uri)
    parts = str(storage.local_path(uri)).split("/") + [""] * uri.endswith("/")
    for index, part in enumerate(parts):
        if re.search(r"[*?\[]", part) and not os.path.lexists("/".join(parts[: index + 1])):
            folder = "/".join(parts[:index]) or ("/" if index else ".")
            return folder, "/".join(parts[index:])
    return uri, None


def no_pictures(place: str, uri: str, found: int = 0) -> StorageError:
    """What to raise of an input without pictures.

    Args:
        place: What the input is, with its article.
        uri: Where it is.
        found: Pictures in it before patterns left them all out.
    """
    if not found:
        return StorageError(f"No pictures in {place}", where=uri)
    return StorageError(
        f"No pictures in {place} have a wanted name",
        where=uri,
        got=f"{found:,} {'picture' if found == 1 else 'pictures'} with other names",
        hint="Change the patterns; case counts, and a pattern with a slash is for the whole path",
    )


def _split_remote(uri: str) -> tuple[str, str | None]:
    path, tail = split_tail(uri)
    scheme, mark, place = path.partition("://")
    parts = place.split("/")
    first = 1 if scheme in ("http", "https") else 0  # [::1] is a host
    for index in range(first, len(parts)):
        if re.search(r"[*\[]", parts[index]):
            pattern = "/".join(parts[index:])
            if is_encoded(uri):
                # What is encoded stands for itself.
                pattern = unquote(re.sub(r"%(2A|3F|5B)", r"[%\1]", pattern, flags=re.IGNORECASE))
            return scheme + mark + "/".join(parts[:index]) + tail, pattern
    return uri, None


def _compiled(pattern: str) -> re.Pattern[str]:
    if not pattern.strip("/"):
        raise ConfigError("A pattern is empty", got=repr(pattern))
    below = pattern.endswith("/")
    whole = "/" in pattern.rstrip("/")
    parts = pattern.strip("/").split("/")
    try:
        expression = "" if whole else _ANY_FOLDERS
        for part in parts[:-1]:
            expression += _ANY_FOLDERS if part == "**" else f"{_expression(part)}/"
        last = ".+" if parts[-1] == "**" else _expression(parts[-1])
        return re.compile(expression + last + ("/.*" if below else ""), re.DOTALL)
    except re.error as error:
        raise ConfigError("A pattern cannot be read", where=pattern, got=error.msg) from None


def _expression(part: str) -> str:
    """The regular expression of a pattern for one name between slashes."""
    pieces = re.split(r"(\*+|\?|\[!?\]?[^\]]*\])", part)
    return "".join(map(_piece, pieces))


def _piece(piece: str) -> str:
    if piece.startswith("*"):
        return "[^/]*"
    if piece == "?":
        return "[^/]"
    letters = piece[1:-1].removeprefix("!")
    if letters and piece[0] == "[" and piece[-1] == "]":
        negation = "^" if piece[1] == "!" else ""
        escaped = re.sub(r"([][^&~|\\])", r"\\\1", letters)
        return f"(?!/)[{negation}{escaped}]"
    return re.escape(piece)
