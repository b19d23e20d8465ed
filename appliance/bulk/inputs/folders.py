"""Pictures that lie in a folder, or below a prefix of an object store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance import storage
from appliance.bulk.inputs.addresses import below
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.inputs.patterns import NameFilter, no_pictures


def files_below(folder: str, endings: Iterable[str], glob: str | None = None) -> list[str]:
    """The files below a folder that end so, sorted.

    Args:
        folder: A local folder, or a prefix in an object store.
        endings: Lower-case endings with their dot.
        glob: A pattern as of `NameFilter` for the whole path below the folder.

    Raises:
        ConfigError: The pattern cannot be read.
        StorageError: There is no such folder, or it cannot be listed.
    """
    matching = NameFilter(() if glob is None else (f"/{glob}",))
    paths = storage.list_files(folder, endings)
    return [path for path in paths if matching.keeps(below(folder, path))] if glob else paths


def listing_of(uri: str, pictures: Sequence[str], names: NameFilter) -> Listing:
    """The listing of a folder.

    Args:
        uri: The folder or prefix.
        pictures: What `files_below` found in it.
        names: Which are wanted, by their paths below it.

    Raises:
        StorageError: None of them is wanted.
    """
    wanted = pictures
    if not names.keeps_all:
        wanted = [picture for picture in pictures if names.keeps(below(uri, picture))]
    if not wanted:
        raise no_pictures("the folder", uri, len(pictures))
    return Listing.of_files(wanted)
