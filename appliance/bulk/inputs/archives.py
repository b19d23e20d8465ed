"""Which members of an archive are pictures, by their names alone; nothing is ever unpacked to disk.

Names of members travel into the scores, so an archive with names that point out of it is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from appliance.bulk.inputs.listing import InputKind, Listing, PictureRef
from appliance.bulk.inputs.patterns import NameFilter, no_pictures
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import EXTENSIONS
from appliance.storage.failures import transient


def plain_name(member: str, *, archive: str) -> str:
    """The path of a member in forward slashes, without `./`.

    Args:
        member: Its name as the archive has it.
        archive: For errors.

    Raises:
        StorageError: The name is absolute, names a drive, or leads out of the archive.
    """
    path = member.replace("\\", "/")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", path):
        raise StorageError(
            "The archive has a member whose name points out of it",
            where=archive,
            got=ascii(member),
            hint="Pack it anew with relative names",
        )
    return "/".join(parts)


def is_picture(path: str) -> bool:
    """Whether a plain name is that of a picture, and not hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
    return path.lower().endswith(EXTENSIONS) and not hidden


def listing_of(
    kind: InputKind, archive: str, members: Iterable[tuple[str, PictureRef]], names: NameFilter
) -> Listing:
    """The listing of an archive.

    Args:
        kind: "zip" or "tar".
        archive: Its address.
        members: Plain name and reference of each picture, in the order of the listing.
        names: Which are wanted, by their plain names.

    Raises:
        StorageError: There is no picture, or none that is wanted.
    """
    found = 0
    wanted = []
    for path, ref in members:
        found += 1
        if names.keeps(path):
            wanted.append(ref)
    if not wanted:
        raise no_pictures("the archive", archive, found)
    return Listing(kind, wanted)


def not_an_archive(archive: str, error: Exception, expected: str) -> StorageError:
    """What to raise of a file that cannot be read as an archive at all, or only in part."""
    return StorageError(
        "The archive cannot be read",
        where=archive,
        got=str(error).partition("\n")[0] or type(error).__name__,
        expected=expected,
        hint="It may be damaged or copied in part; make it anew",
        transient=transient(error),
    )


def damaged(ref: PictureRef, got: object) -> ImageError:
    """What to raise of a member that does not unpack to what it should be."""
    return ImageError(
        "The member of the archive is damaged", kind="unreadable", where=ref.image_uri, got=got
    )
