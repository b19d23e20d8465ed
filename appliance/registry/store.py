"""Where a registry keeps a model, and how that is changed: held by one writer, replaced in one piece.

    ROOT/NAME/_model.json                      the document; what it does not name is not there
    ROOT/NAME/versions/<unique>/model.safetensors

A writer that is killed leaves at most files that no document names: the next writer clears them away. That
is safe because it holds the model, and because who was taken for dead finds out before it does anything.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from appliance import storage
from appliance.errors import InUseError, StorageError
from appliance.registry.entry import FORMAT_VERSION, ModelEntry, Version
from appliance.registry.references import MODEL_ENDING, is_name
from appliance.storage import folders
from appliance.storage.failures import explained
from appliance.storage.ownership import Ownership, Wording, owned

DOCUMENT = "_model.json"
VERSIONS = "versions"
# What a command writes takes seconds at most but for the file of a large model, during which the lease is renewed.
BEAT_S = 1.0
PATIENCE_S = 10.0
WAIT_S = 30.0
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 4.0

_WORDING = Wording(
    writer="command",
    place="model of the registry",
    folder="folder of the registry",
    when_refused="Try again in a moment",
    when_lost="Nothing was changed: try again",
)


class ModelStore:
    """The folder of one model.

    Args:
        root_uri: Of the registry.
        name: Of the model.
        beat_s: In an object store, how often a writer shows that it lives.
        patience_s: In an object store, after what silence it counts as dead.
        wait_s: How long a second writer waits for the first.
    """

    def __init__(
        self,
        root_uri: str,
        name: str,
        *,
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
        wait_s: float = WAIT_S,
    ) -> None:
        self.name = name
        self.uri = storage.join(root_uri, name)
        self._document_uri = storage.join(self.uri, DOCUMENT)
        self._beat_s, self._patience_s, self._wait_s = beat_s, patience_s, wait_s

    def read(self) -> ModelEntry | None:
        """The document as it is now; None where there is no such model.

        Raises:
            StorageError: It cannot be read, or is damaged.
        """
        if not folders.exists(self._document_uri):
            return None
        data = storage.read_bytes(self._document_uri)
        try:
            return ModelEntry.from_json(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(
                "An entry of the registry cannot be read",
                where=self._document_uri,
                got=f"{len(data):,} bytes: {error}"[:200],
                expected=f"a document of format {FORMAT_VERSION}",
                hint="Put a good copy of this file back, or remove it to give the model up",
            ) from None

    def file_uri(self, version: Version) -> str:
        """Where the file of a version lies."""
        return storage.join(self.uri, *version.file.split("/"))

    @contextmanager
    def held(self) -> Iterator[HeldModel]:
        """Holds the model for the length of a block; waits for another writer, but not for ever.

        Raises:
            InUseError: Another writer holds it all the time.
            StorageError: It cannot be written or read.
        """
        end_s = time.monotonic() + self._wait_s
        pause_s = _FIRST_PAUSE_S
        with ExitStack() as stack:
            while True:
                self._make_folder()
                hold = owned(
                    self.uri, beat_s=self._beat_s, patience_s=self._patience_s, wording=_WORDING
                )
                try:
                    ownership = stack.enter_context(hold)
                    break
                except InUseError:
                    # A random pause, so that of two who gave way to each other one comes first.
                    paused_s = random.uniform(pause_s / 2, pause_s)
                    if time.monotonic() + paused_s > end_s:
                        raise
                    time.sleep(paused_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            yield HeldModel(self, ownership)

    def _make_folder(self) -> None:
        if not storage.is_remote(self.uri):
            with explained("Cannot write to the folder of the registry", self.uri):
                storage.local_path(self.uri).mkdir(parents=True, exist_ok=True)


class HeldModel:
    """A model while this process alone may change it.

    Args:
        store: Its folder.
        ownership: Of the folder.
    """

    def __init__(self, store: ModelStore, ownership: Ownership) -> None:
        self._store, self._ownership = store, ownership
        self.entry = store.read()
        self._clear()

    def write_file(self, data: bytes) -> str:
        """Writes the file of a version to come; it counts once a document names it.

        Returns:
            Its name within the folder of the model.
        """
        file = f"{VERSIONS}/{uuid.uuid4().hex[:12]}/model{MODEL_ENDING}"
        storage.write_bytes(storage.join(self._store.uri, *file.split("/")), data)
        return file

    def replace(self, entry: ModelEntry) -> None:
        """Makes another document the one that counts; files that it does not name go.

        Raises:
            ServiceError: Another process took the model over, and nothing was changed.
            StorageError: It cannot be written.
        """
        data = json.dumps(entry.to_json(), indent=1, sort_keys=True).encode() + b"\n"
        before = self.entry or entry
        self._ownership.check()
        storage.write_bytes(storage.join(self._store.uri, DOCUMENT), data)
        self.entry = entry
        if not _files(before) <= _files(entry):
            self._clear()

    def remove(self) -> None:
        """Removes the model: first its document, with which it is gone, then its files.

        Raises:
            ServiceError, StorageError: As of `replace`.
        """
        self._ownership.check()
        folders.remove_file(storage.join(self._store.uri, DOCUMENT))
        self.entry = None
        self._clear()

    def _clear(self) -> None:
        """Removes what no document names. On a disk the folder itself stays, for its lock lies in it."""
        uri = self._store.uri
        named = {file.split("/")[1] for file in _files(self.entry)}
        there = folders.entries(uri)
        files = storage.join(uri, VERSIONS)
        left_over = [
            storage.join(files, name)
            for name in (folders.entries(files) if VERSIONS in there else [])
            if name not in named
        ]
        if VERSIONS in there and not named:
            left_over = [files]
        for folder in left_over:
            self._ownership.check()
            folders.remove_folder(folder)
        for name in there:
            if name.startswith(f".{DOCUMENT}."):  # a document half written
                folders.remove_file(storage.join(uri, name))


def _files(entry: ModelEntry | None) -> set[str]:
    return {version.file for version in entry.versions} if entry else set()


def names(root_uri: str) -> list[str]:
    """The models in a registry, sorted.

    Raises:
        StorageError: It cannot be looked into.
    """
    return [
        name
        for name in folders.entries(root_uri)
        if is_name(name) and folders.exists(storage.join(root_uri, name, DOCUMENT))
    ]
