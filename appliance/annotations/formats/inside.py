"""Pictures must lie in the folder of their data: what an annotation file names elsewhere is not opened.

Data comes from strangers too. A file name in it may be `/etc/passwd`, `../../secret.png` or the address of
a server in the local network, and whatever is opened may end in a message, a report or a copy. So a name
only counts below the folder of the data, or below one that the user has named (`images_root`). Names are
compared as text, with `..` resolved. Links in the file system are followed, for `data convert --link` makes
them: nobody but the owner of the folder can have put them there.
"""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import unquote

from appliance import storage
from appliance.annotations.formats.parts import PARTS
from appliance.errors import DatasetError

_FOLDER_OF_FILES = re.compile(rf"annotations?|labels|(?:{'|'.join(PARTS)})(?:[_-]?\d{{4}})?", re.I)
_FOLDERS_UP = 2


def home_of(annotation_path: str) -> str:
    """The folder of the data that an annotation file belongs to.

    It is the folder of the file; or the one above, while the folder is called `annotations` or after a
    part, as in `data/annotations/instances_train.json` or `data/train/_annotations.coco.json`.
    """
    folder = parent_of(annotation_path) or "."
    for _ in range(_FOLDERS_UP):
        above = parent_of(folder)
        name = posixpath.basename(storage.absolute(folder).partition("?")[0].rstrip("/"))
        if above is None or not _FOLDER_OF_FILES.fullmatch(name):
            break
        folder = above
    return folder


def lies_inside(path: str, folder: str) -> bool:
    """Whether a path or address is one below a folder, by its text alone."""
    if storage.is_remote(path) != storage.is_remote(folder):
        return False
    (store, inner), (store_of_folder, outer) = _store_and_path(path), _store_and_path(folder)
    within = inner == outer or inner.startswith(f"{outer.rstrip('/')}/")
    return store == store_of_folder and within


def is_absolute(name: str) -> bool:
    """Whether a name in an annotation file does not count from that file, on whatever system."""
    if storage.is_remote(name) or name.startswith("file:"):
        return True
    return re.match(r"[\\/]|[A-Za-z]:[\\/]", name) is not None


def leads_out(name: str, folder: str, home: str) -> bool:
    """Whether a name that counts from `folder` is one of a place outside of `home`."""
    if is_absolute(name):
        return not lies_inside(name, home)
    return not lies_inside(storage.join(folder, *re.split(r"[\\/]", name)), home)


def outside_error(what: str, where: str, got: str, folder: str) -> DatasetError:
    """What to say of something that an annotation file names outside of its folder.

    Args:
        what: "A picture", "The part train".
        where: The annotation file.
        got: The name as it stands there.
        folder: What it should lie in.
    """
    return DatasetError(
        f"{what} lies outside of the folder of the data and is not opened",
        where=where,
        got=got,
        expected=f"a place in {folder}",
        hint="If it is to be used, name the folder that it lies in: --images, or images_root= in Python",
    )


def parent_of(path: str) -> str | None:
    """The folder that something lies in; None above a bucket or the root."""
    if not storage.is_remote(path):
        if path in ("", "."):
            return ".."
        parent = os.path.dirname(path.rstrip("/"))
        return None if parent == path else parent or "."
    prefix, mark, options = path.partition("?")
    scheme, _, rest = prefix.partition("://")
    folder, slash, _ = rest.rstrip("/").rpartition("/")
    return f"{scheme}://{folder}{mark}{options}" if slash and folder else None


def _store_and_path(path: str) -> tuple[str, str]:
    """What has to be the same of two addresses of one store, and the path in it."""
    if not storage.is_remote(path):
        return "", os.path.normpath(storage.absolute(path))
    address, _, options = path.partition("?")  # another endpoint is another store
    scheme, _, rest = address.partition("://")
    inside, _, container = rest.partition("::")  # as in zip://inside::/pictures.zip
    return f"{scheme} {container} {options}", posixpath.normpath(f"/{unquote(inside)}")
