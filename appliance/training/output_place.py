"""Whether a model file may be written where the user wants it: what lies there is never lost without a word."""

from __future__ import annotations

from appliance import storage
from appliance.errors import ConfigError, StorageError
from appliance.model import model_file
from appliance.storage.failures import denied, explained
from appliance.training.runs import has_written


def check_model_place(
    model_uri: str, *, overwrite: bool = False, resumed_run: str | None = None
) -> None:
    """Refuses, before any work, to write over what is there.

    Args:
        model_uri: Where the model file shall go.
        overwrite: Whether a model file that is there may be replaced.
        resumed_run: Folder of the run that goes on: the model file it has written itself may be replaced.

    Raises:
        StorageError: It is a folder, or nobody can say what is there.
        ConfigError: Something else than a model file is there, or a model file that is to stay.
    """
    if not _is_taken(model_uri):
        return
    if not model_file.is_model_file(model_uri):
        raise ConfigError(
            "There is a file already, and it is no model file of the appliance",
            where=model_uri,
            hint="Name another file with --out; this one is never replaced",
        )
    if overwrite or (resumed_run is not None and has_written(resumed_run, model_uri)):
        return
    raise ConfigError(
        "There is a model file already",
        where=model_uri,
        hint="Name another one with --out, or replace it by --overwrite",
    )


def _is_taken(uri: str) -> bool:
    """Whether a file with something in it is there."""
    if not storage.is_remote(uri):
        path = storage.local_path(uri)
        if path.is_dir() or uri.endswith("/"):
            raise StorageError(
                "Cannot write the model file there",
                where=uri,
                got="a folder",
                expected="the path of a file",
                hint=f"For instance --out {storage.join(uri, 'model.safetensors')}",
            )
        # A device has no size, and is no place for a model either.
        return path.exists() and (not path.is_file() or path.stat().st_size > 0)
    with explained("Cannot look for the model file", uri):
        filesystem, path_in_store = storage.open_store(uri)
        try:
            found = filesystem.get_file_info(path_in_store)
        except OSError as error:
            if denied(error):
                return False  # who may write may not have the right to look
            raise
    return bool(found.is_file and found.size != 0)
