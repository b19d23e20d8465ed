"""Addresses of inputs taken apart: local paths, and URIs whose options or archive stand behind the name."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from urllib.parse import unquote

from appliance import storage
from appliance.storage.object_stores import refuse_password

_PROBE = "_any-name_"  # that no store writes in another way


def split_tail(uri: str) -> tuple[str, str]:
    """A remote address without what stands behind the name (options, the archive it lies in), and that."""
    tail = storage.join(uri, _PROBE).rpartition(f"/{_PROBE}")[2]
    return uri[: len(uri) - len(tail)], tail


def is_encoded(uri: str) -> bool:
    """Whether names in such an address are percent-encoded."""
    scheme = uri.partition("://")[0]
    return storage.is_remote(uri) and storage.join(f"{scheme}://-", "%").endswith("%25")


def name_of(uri: str) -> str:
    """The last name, decoded; empty for an address that ends in a slash."""
    if not storage.is_remote(uri):
        return os.path.basename(storage.local_path(uri)) if not uri.endswith("/") else ""
    name = split_tail(uri)[0].rpartition("/")[2]
    return unquote(name) if is_encoded(uri) else name


def without_slash(uri: str) -> str:
    """The address of a folder without a slash at its end."""
    if not storage.is_remote(uri):
        return uri.rstrip("/") or uri
    path, tail = split_tail(uri)
    return path.rstrip("/") + tail


def ending_of(uri: str) -> str:
    """The extension in lower case, with its dot; `.tar.gz` and the like are one."""
    suffixes = PurePosixPath(name_of(uri).lower()).suffixes
    return "".join(suffixes[-2:] if suffixes[-2:-1] == [".tar"] else suffixes[-1:])


def folder_of(uri: str) -> str:
    """The folder that a file lies in; that of a bucket is the bucket."""
    if not storage.is_remote(uri):
        return os.path.dirname(storage.absolute(uri))
    path, tail = split_tail(uri)
    scheme, mark, place = path.partition("://")
    folder, slash, _ = place.rstrip("/").rpartition("/")
    return scheme + mark + (folder if slash or not is_encoded(uri) else place) + tail


def below(root: str, path: str) -> str:
    """The path of a listed file below its folder, decoded, with forward slashes: `storage.join` undone."""
    if not storage.is_remote(root):
        return path[len(str(storage.local_path(root))) :].lstrip("/")
    before, _, after = storage.join(root, _PROBE).rpartition(_PROBE)
    name = path[len(before) : len(path) - len(after)]
    return unquote(name) if is_encoded(root) else name


def resolve(folder: str, name: str) -> str:
    """The address that a file in `folder` means by `name`: a URI, a path, or a path relative to the folder.

    Raises:
        StorageError: It holds a password, which would end up in the scores.
    """
    if storage.is_remote(name):
        refuse_password(name)
        return name
    if name.startswith(("/", "file://")) or not storage.is_remote(folder):
        return storage.absolute(os.path.join(storage.local_path(folder), storage.local_path(name)))
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part == "..":
            folder = folder_of(folder)
        elif part not in ("", "."):
            parts.append(part)
    return storage.join(folder, *parts)
