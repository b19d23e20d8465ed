"""Whether a result may be written where the user wants it: what lies there is never lost without a word."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance import storage
from appliance.errors import ConfigError, StorageError
from appliance.storage.failures import denied, explained


@dataclass(frozen=True)
class OutputKind:
    """What a command writes as its result.

    Attributes:
        name: As sentences say it.
        example: A name for such a file.
        is_one: Whether the file at an address is of this kind; only such a one may be replaced.
    """

    name: str
    example: str
    is_one: Callable[[str], bool]


def check_output_place(
    uri: str,
    kind: OutputKind,
    *,
    overwrite: bool = False,
    is_own: Callable[[str], bool] | None = None,
) -> None:
    """Refuses, before any work, to write over what is there.

    Args:
        uri: Where the file shall go.
        kind: What it is.
        overwrite: Whether a file of this kind that is there may be replaced.
        is_own: Whether the file at an address is what this very work has written there before: it may be replaced.

    Raises:
        StorageError: It is a folder, or nobody can say what is there.
        ConfigError: A file of another kind is there, or one of this kind that is to stay.
    """
    if not _is_taken(uri, kind):
        return
    if not kind.is_one(uri):
        raise ConfigError(
            f"There is a file already, and it is no {kind.name} of the appliance",
            where=uri,
            hint="Name another file with --out; this one is never replaced",
        )
    if overwrite or (is_own is not None and is_own(uri)):
        return
    raise ConfigError(
        f"There is a {kind.name} already",
        where=uri,
        hint="Name another one with --out, or replace it by --overwrite",
    )


def _is_taken(uri: str, kind: OutputKind) -> bool:
    """Whether a file with something in it is there."""
    if not storage.is_remote(uri):
        path = storage.local_path(uri)
        if path.is_dir() or uri.endswith("/"):
            raise StorageError(
                f"Cannot write the {kind.name} there",
                where=uri,
                got="a folder",
                expected="the path of a file",
                hint=f"For instance --out {storage.join(uri, kind.example)}",
            )
        # A device has no size, and is no place for a result either.
        return path.exists() and (not path.is_file() or path.stat().st_size > 0)
    with explained(f"Cannot look for the {kind.name}", uri):
        filesystem, path_in_store = storage.open_store(uri)
        try:
            found = filesystem.get_file_info(path_in_store)
        except OSError as error:
            if denied(error):
                return False  # who may write may not have the right to look
            raise
    return bool(found.is_file and found.size != 0)
