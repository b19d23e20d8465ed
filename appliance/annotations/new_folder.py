"""A folder to write to must be new, so that nothing is overwritten and nothing old is mixed in."""

from __future__ import annotations

import os

from appliance import storage
from appliance.errors import StorageError


def check_new_folder(
    out: str | os.PathLike[str], *, not_inside: str | os.PathLike[str] | None = None
) -> None:
    """Makes sure that writing to a folder overwrites and mixes nothing.

    Args:
        out: The folder, or a prefix in an object store.
        not_inside: Data that is read, which must stay as it is.

    Raises:
        StorageError: Something is there already, or it lies inside the data that is read.
    """
    if not_inside is not None and _lies_inside(out, not_inside):
        raise StorageError(
            "Will not write into the data that is read",
            where=out,
            hint=f"Choose a folder outside of {os.fspath(not_inside)}",
        )
    if _holds_something(out):
        raise StorageError(
            "The folder to write is not empty",
            where=out,
            expected="a new or empty folder",
            hint="Choose another folder; nothing is overwritten",
        )


def _lies_inside(out: str | os.PathLike[str], data: str | os.PathLike[str]) -> bool:
    if not os.fspath(data):
        return False  # whoever reads it says so
    if not storage.is_remote(data) and not storage.local_path(data).exists():
        data = os.fspath(data).rpartition("#")[0] or data  # `DATA#train` is a part of DATA
    if storage.is_remote(out) or storage.is_remote(data):
        return f"{os.fspath(out).rstrip('/')}/".startswith(f"{os.fspath(data).rstrip('/')}/")
    return storage.local_path(out).resolve().is_relative_to(storage.local_path(data).resolve())


def _holds_something(out: str | os.PathLike[str]) -> bool:
    if storage.is_remote(out):
        try:
            return bool(storage.list_files(out, ("",)))
        except StorageError:
            return False  # a prefix that holds nothing is not there
    path = storage.local_path(out)
    return path.exists() and (not path.is_dir() or any(path.iterdir()))
