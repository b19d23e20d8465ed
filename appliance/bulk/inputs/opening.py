"""What an input is, told by its name: a folder, a picture, a list, a table, an archive or a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance import storage
from appliance.bulk.inputs import folders, lance_tables, lists, tables, tars, videos, zips
from appliance.bulk.inputs.addresses import ending_of, without_slash
from appliance.bulk.inputs.containers import Container, Files
from appliance.bulk.inputs.listing import InputKind, Listing
from appliance.bulk.inputs.patterns import NameFilter, no_pictures, split_glob
from appliance.errors import ConfigError, StorageError
from appliance.images.decoding import EXTENSIONS, ImageLimits

_ARCHIVES = (".zip", *tars.EXTENSIONS)
_LISTS = (".txt", ".csv")


@dataclass(frozen=True)
class InputOptions:
    """What is wanted of an input.

    Attributes:
        include: Patterns of names wanted, as of `NameFilter`; of folders and archives.
        exclude: Patterns of names not wanted; of folders and archives.
        column: The column with the pictures; of tables.
        frame_every: Only every so many frames; of videos.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    column: str | None = None
    frame_every: int = 1


def list_input(uri: str, options: InputOptions = InputOptions()) -> Listing:
    """The pictures of an input.

    Args:
        uri: A path or URI of one of these:
            - a folder or prefix, or a pattern such as `pictures/**/*.jpg`; one with Parquet files and no
              pictures is a table
            - a picture
            - a list: `.txt`, a path or URI a line, or `.csv`
            - a table: `.parquet`, or a folder `.lance`, with addresses or bytes of pictures
            - an archive: `.zip`, `.tar`, `.tar.gz`, `.tgz`, `.tar.bz2`, `.tar.xz`
            - a video
        options: What is wanted of it.

    Raises:
        ConfigError: An option does not apply, a pattern cannot be read, it is not clear which column has the
            pictures, or an extra is not installed.
        StorageError: It cannot be read, or has no pictures.
    """
    try:
        return _list(uri, options)
    except UnicodeEncodeError as error:
        raise StorageError(
            "The name of a picture is not UTF-8",
            where=ascii(uri),
            got=ascii(error.object),
            hint="Rename it",
        ) from None


def open_container(kind: InputKind, uri: str, limits: ImageLimits) -> Container:
    """Opens what the pictures of a listing lie in.

    Args:
        kind: Kind of the listing.
        uri: The `container` of the pictures.
        limits: The most that is read of a picture.

    Raises:
        ConfigError: An extra is not installed.
        StorageError: It cannot be opened.
    """
    if kind == "zip":
        return zips.ZipArchive(uri, limits)
    if kind == "tar":
        return tars.TarArchive(uri, limits)
    if kind == "table":
        return tables.Table(uri)
    if kind == "lance":
        return lance_tables.LanceTable(uri, limits)
    if kind == "video":
        return videos.Video(uri, limits)
    return Files(limits.max_bytes)


def _list(text: str, options: InputOptions) -> Listing:
    folder, glob = split_glob(text)
    uri = storage.absolute(folder)
    if glob is None and ending_of(without_slash(uri)) in lance_tables.EXTENSIONS:
        _check_options(options, "a table", uri, "--column")
        return lance_tables.list_lance(without_slash(uri), options.column)
    # An address that ends in a slash is a folder, and so is one that is there.
    ending = "" if glob is not None or text.endswith("/") or _is_folder(uri) else ending_of(uri)
    names = NameFilter(options.include, options.exclude)
    if ending in EXTENSIONS:
        _check_options(options, "a picture", uri)
        storage.open_input(uri).close()
        return Listing.of_files([uri])
    if ending in _ARCHIVES:
        _check_options(options, "an archive", uri, "--include", "--exclude")
        return zips.list_zip(uri, names) if ending == ".zip" else tars.list_tar(uri, names)
    if ending == ".txt":
        _check_options(options, "a list", uri)
        return lists.list_text(uri)
    if ending == ".csv":
        _check_options(options, "a table", uri, "--column")
        return lists.list_csv(uri, options.column)
    if ending in tables.EXTENSIONS:
        _check_options(options, "a table", uri, "--column")
        return tables.list_tables([uri], options.column)
    if ending in videos.EXTENSIONS:
        _check_options(options, "a video", uri, "--every")
        return videos.list_video(uri, options.frame_every)
    _refuse_other_file(uri)
    return _list_folder(uri, glob, names, options)


def _list_folder(uri: str, glob: str | None, names: NameFilter, options: InputOptions) -> Listing:
    pictures = folders.files_below(uri, EXTENSIONS, glob)
    found = [] if pictures else folders.files_below(uri, tables.EXTENSIONS, glob)
    if found:
        _check_options(options, "a table", uri, "--column")
        return tables.list_tables(found, options.column, source=uri)
    if glob is not None and not pictures:
        # Counted only now: who mistypes a pattern shall not look for pictures that are there.
        raise no_pictures("the folder", uri, len(folders.files_below(uri, EXTENSIONS)))
    _check_options(options, "a folder of pictures", uri, "--include", "--exclude")
    return folders.listing_of(uri, pictures, names)


def _is_folder(uri: str) -> bool:
    return not storage.is_remote(uri) and storage.local_path(uri).is_dir()


def _refuse_other_file(uri: str) -> None:
    if storage.is_remote(uri) or not storage.local_path(uri).exists() or _is_folder(uri):
        return
    of_tables = (*tables.EXTENSIONS, *lance_tables.EXTENSIONS)
    kinds: Sequence[Sequence[str]] = (EXTENSIONS, _LISTS, of_tables, _ARCHIVES)
    known = [ending for kind in (*kinds, videos.EXTENSIONS) for ending in kind]
    raise StorageError(
        "Not a file that pictures can be read from",
        where=uri,
        got=f"a name that ends in {ending_of(uri)}" if ending_of(uri) else "a name without ending",
        expected=f"a folder, or a file that ends in {', '.join(known)}",
    )


def _check_options(options: InputOptions, what: str, uri: str, *applicable: str) -> None:
    given = {
        "--include": bool(options.include),
        "--exclude": bool(options.exclude),
        "--column": options.column is not None,
        "--every": options.frame_every != 1,
    }
    for flag, is_given in given.items():
        if is_given and flag not in applicable:
            raise ConfigError(
                f"{flag} does not apply to {what}", where=uri, hint=f"Leave out {flag}"
            )
