"""Looking into folders and prefixes, and removing what lies there; beside `storage`, which reads and writes."""

from __future__ import annotations

import shutil

from appliance.storage import is_remote, local_path, open_store
from appliance.storage.failures import explained


def entries(uri: str) -> list[str]:
    """The names directly in a folder or prefix, sorted; none where there is no such thing.

    Raises:
        StorageError: It is no folder, or cannot be listed.
    """
    with explained("Cannot look into the folder", uri):
        if not is_remote(uri):
            path = local_path(uri)
            return sorted(entry.name for entry in path.iterdir()) if path.exists() else []
        from pyarrow import fs

        filesystem, path_in_store = open_store(uri)
        selector = fs.FileSelector(path_in_store, allow_not_found=True)
        return sorted(info.base_name for info in filesystem.get_file_info(selector))


def exists(uri: str) -> bool:
    """Whether there is a file of this name.

    Raises:
        StorageError: The store does not answer.
    """
    with explained("Cannot look for the file", uri):
        if not is_remote(uri):
            return local_path(uri).is_file()
        filesystem, path = open_store(uri)
        return bool(filesystem.get_file_info(path).is_file)


def remove_file(uri: str) -> None:
    """Removes a file, if it is there.

    Raises:
        StorageError: It cannot be removed.
    """
    with explained("Cannot remove the file", uri):
        if not is_remote(uri):
            local_path(uri).unlink(missing_ok=True)
        elif exists(uri):
            filesystem, path = open_store(uri)
            filesystem.delete_file(path)


def remove_folder(uri: str) -> None:
    """Removes a folder or prefix with all below it, if it is there.

    Raises:
        StorageError: Something of it cannot be removed.
    """
    with explained("Cannot remove the folder", uri):
        if not is_remote(uri):
            if local_path(uri).exists():
                shutil.rmtree(local_path(uri))
            return
        filesystem, path = open_store(uri)
        for name in _objects(uri):
            filesystem.delete_file(name)
        # Some stores keep an object for the folder itself.
        if filesystem.get_file_info(path).type.name == "Directory":
            filesystem.delete_dir(path)


def _objects(uri: str) -> list[str]:
    from pyarrow import fs

    filesystem, path = open_store(uri)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    return [info.path for info in filesystem.get_file_info(selector) if info.is_file]


def sizes_bytes(uri: str) -> dict[str, int]:
    """Name -> length of the files directly in a folder or prefix; none where there is no such thing.

    Raises:
        StorageError: It is no folder, or cannot be listed.
    """
    with explained("Cannot look into the folder", uri):
        if not is_remote(uri):
            path = local_path(uri)
            found = sorted(path.iterdir()) if path.exists() else []
            return {entry.name: entry.stat().st_size for entry in found if entry.is_file()}
        from pyarrow import fs

        filesystem, path_in_store = open_store(uri)
        selector = fs.FileSelector(path_in_store, allow_not_found=True)
        infos = filesystem.get_file_info(selector)
        return {info.base_name: int(info.size) for info in infos if info.is_file}
