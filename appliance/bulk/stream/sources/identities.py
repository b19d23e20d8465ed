"""What tells one content of a name from the next: size and time of change, compared for equality only.

No time is ever compared with a clock, nor with that of another file: they may be those of other machines, and
clocks jump.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import quote

from appliance import storage
from appliance.storage.failures import explained

if TYPE_CHECKING:
    from pyarrow import fs

_PLACE = "-name-of-a-file-"


def of_stat(status: os.stat_result) -> str:
    """The identity of a local file."""
    return f"{status.st_size}-{status.st_mtime_ns}"


def of_info(info: fs.FileInfo) -> str:
    """The identity of an object."""
    # Asked for one object, a store gives its time to the second; listed, some give it finer.
    return f"{info.size}-{'' if info.mtime_ns is None else info.mtime_ns // 10**9}"


def is_weak(identity: str) -> bool:
    """Whether another content may have the same: nothing is known of when it changed."""
    return identity.endswith("-")


def identity_of(uri: str) -> str | None:
    """What is there now; None if nothing is.

    Raises:
        StorageError: It cannot be looked at.
    """
    with explained("Cannot look at the file", uri):
        if storage.is_remote(uri):
            filesystem, path = storage.open_store(uri)
            info = filesystem.get_file_info(path)
            return of_info(info) if info.is_file else None
        try:
            return of_stat(os.stat(storage.local_path(uri)))
        except (FileNotFoundError, NotADirectoryError):
            return None


def scan(folder: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Path below the folder, address and identity of every file with such a name, in any order.

    Hidden files and folders are left out, and so is what goes while it is looked at.

    Args:
        folder: A local folder, or a prefix in an object store.
        endings: Lower-case endings with their dot; case is ignored in names.

    Raises:
        StorageError: The folder cannot be listed.
    """
    if storage.is_remote(folder):
        yield from _scan_store(folder, endings)
    else:
        yield from _scan_disk(folder, endings)


def _scan_disk(folder: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    root = str(storage.local_path(folder))
    below_root = len(os.path.join(root, ""))
    folders = [root]
    while folders:
        parent = folders.pop()
        try:
            with os.scandir(parent) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.name.lower().endswith(endings):
                        try:
                            identity = of_stat(entry.stat())
                        except OSError:
                            continue  # a link that leads nowhere, or gone
                        if not entry.is_dir():
                            yield entry.path[below_root:], entry.path, identity
                            continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
        except OSError as error:
            if parent == root:
                with explained("Cannot list the folder", folder):
                    raise error from None


def _scan_store(folder: str, endings: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    from pyarrow import fs

    with explained("Cannot list the folder", folder):
        filesystem, path = storage.open_store(folder)
        selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
        infos = filesystem.get_file_info(selector)
    root = path.strip("/")
    # As `storage.join`, which would take the address apart anew for each of a million names.
    before, after = storage.join(folder, _PLACE).split(_PLACE)
    is_encoded = storage.join(folder, "%").endswith("%25" + after)
    for info in infos:
        name = info.path.lstrip("/")[len(root) :].lstrip("/")
        if info.is_file and name.lower().endswith(endings) and "/." not in f"/{name}":
            yield name, before + (quote(name) if is_encoded else name) + after, of_info(info)
