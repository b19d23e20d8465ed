"""The model registry: versions of models by name, and aliases that say which of them is used.

It is a folder or a prefix in an object store and needs no server. Every change is one document replaced in
one piece: killed at any moment, a command has changed all of it or nothing.
"""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn

from appliance import storage
from appliance.errors import ConfigError, StorageError
from appliance.model.address import ModelAddress
from appliance.model.file_header import read_header
from appliance.registry.entry import PRODUCTION, ModelEntry, Version
from appliance.registry.mlflow_models import MlflowModel, is_of_mlflow
from appliance.registry.references import Reference, checked_name, is_reference, near, one_of
from appliance.registry.store import BEAT_S, PATIENCE_S, WAIT_S, ModelStore, names
from appliance.storage.context import Context

logger = logging.getLogger(__name__)

REGISTRY_VARIABLE = "APPLIANCE_REGISTRY"


@dataclass(frozen=True)
class Added:
    """What `Registry.add` did.

    Attributes:
        version: Of the file.
        is_new: False where the model had this very file already.
    """

    version: Version
    is_new: bool


@dataclass(frozen=True)
class Switched:
    """What became of an alias.

    Attributes:
        before: Number of the version that it named, if any.
        after: Number of the version that it names now; 0 for none.
    """

    before: int | None
    after: int


class Registry:
    """A registry of models.

    Args:
        root_uri: Folder or prefix; by default that of `APPLIANCE_REGISTRY`, or else
            `~/.local/share/detection-appliance/models`.
        beat_s: In an object store, how often a writer shows that it lives.
        patience_s: In an object store, after what silence it counts as dead.
        wait_s: How long a writer waits for another one of the same model.
    """

    def __init__(
        self,
        root_uri: str | os.PathLike[str] | None = None,
        *,
        beat_s: float = BEAT_S,
        patience_s: float = PATIENCE_S,
        wait_s: float = WAIT_S,
    ) -> None:
        # Absolute, because addresses that it gives out go to processes with other working folders.
        self.root_uri = storage.absolute(root_uri or default_root())
        self._beat_s, self._patience_s, self._wait_s = beat_s, patience_s, wait_s

    def add(
        self, name: str, model_uri: str | os.PathLike[str], *, note: str | None = None
    ) -> Added:
        """Adds a model file as the next version of a model, and takes what is known of it from the file.

        Raises:
            ConfigError: The name will not do.
            StorageError: The file cannot be read, or the registry not be written.
            ModelFileError: It is no model file, or is cut short.
        """
        store = self._store(checked_name(name))
        data, source = _read(str(model_uri))
        header = read_header(data, source=source)
        sha256 = hashlib.sha256(data).hexdigest()
        with store.held() as held:
            entry = held.entry or ModelEntry(name)
            known = entry.of_digest(sha256)
            if known is not None:
                return Added(known, is_new=False)
            version = Version(
                number=entry.next_number,
                file=held.write_file(data),
                sha256=sha256,
                size_bytes=len(data),
                labels=header.labels,
                architecture=header.architecture,
                metrics=header.metrics,
                dataset_digest=header.dataset_digest,
                parent=_parent(header.parent),
                source=source,
                added_by=who(),
                added_at=now(),
                note=note,
            )
            held.replace(entry.with_version(version))
        return Added(version, is_new=True)

    def promote(
        self,
        reference: Reference,
        alias: str = PRODUCTION,
        *,
        instead_of: int | Literal["any"] | None = "any",
    ) -> Switched:
        """Lets an alias name a version.

        Args:
            reference: The version.
            alias: It.
            instead_of: Only if the alias still names this version, or with None nothing: else all stays, and
                `after` of the answer is what somebody else has promoted.

        Raises:
            ConfigError: There is no such version, none is named, or the alias will not do.
            StorageError: The registry cannot be read or written.
        """
        checked_name(alias, "an alias")
        if reference.version is None and reference.alias is None:
            raise one_of(reference)
        self.entry(reference.name)  # before a folder is made for it
        with self._store(reference.name).held() as held:
            entry = held.entry or self._unknown(reference.name)
            before, after = entry.aliases.get(alias), entry.version(reference).number
            if instead_of not in ("any", before):
                after = 0 if before is None else before
            elif before != after:
                held.replace(entry.with_alias(alias, after, "promote", by=who(), at=now()))
        return Switched(before, after)

    def rollback(self, name: str, alias: str = PRODUCTION) -> Switched:
        """Lets an alias name the version that it had before; again, one further back.

        Raises:
            ConfigError: There is no such model, or nothing to go back to.
            StorageError: The registry cannot be read or written.
        """
        self.entry(name)
        with self._store(name).held() as held:
            entry = held.entry or self._unknown(name)
            before, after = entry.aliases.get(alias), entry.number_before(alias)
            held.replace(entry.with_alias(alias, after, "rollback", by=who(), at=now()))
        return Switched(before, after)

    def delete(self, reference: Reference, *, with_aliases: bool = False) -> None:
        """Removes a version, an alias (its version stays), or a whole model.

        Args:
            reference: What.
            with_aliases: Remove a model although it has aliases.

        Raises:
            ConfigError: There is no such thing, or an alias stands in the way.
            StorageError: The registry cannot be read or written.
        """
        name = reference.name
        self.entry(name)
        with self._store(name).held() as held:
            entry = held.entry or self._unknown(name)
            if reference.alias is not None:
                entry.number_of(reference.alias)
                held.replace(entry.with_alias(reference.alias, None, "remove", by=who(), at=now()))
            elif reference.version is not None:
                held.replace(entry.without_version(entry.version(reference).number))
            elif entry.aliases and not with_aliases:
                raise ConfigError(
                    "The model is in use",
                    where=name,
                    got=", ".join(f"{name}@{alias}" for alias in sorted(entry.aliases)),
                    hint="Add --yes to delete it with all versions and aliases",
                )
            else:
                held.remove()

    def entries(self) -> list[ModelEntry]:
        """All models; of one whose document is damaged only a warning is logged.

        Raises:
            StorageError: The registry cannot be looked into.
        """
        found = []
        for name in names(self.root_uri):
            try:
                entry = self._store(name).read()
            except StorageError as error:
                logger.warning("%s", error)
            else:
                found += [entry] if entry else []
        return found

    def entry(self, name: str) -> ModelEntry:
        """One model.

        Raises:
            ConfigError: There is none of that name.
            StorageError: It cannot be read.
        """
        return self._store(name).read() or self._unknown(name)

    def address(self, reference: Reference) -> ModelAddress:
        """Where the file of a version lies and which one it is: for all that load models.

        Raises:
            ConfigError: There is no such model, version or alias.
            StorageError: The registry cannot be read.
        """
        version = self.entry(reference.name).version(reference)
        uri = self._store(reference.name).file_uri(version)
        return ModelAddress(uri, reference.name, str(version.number), version.sha256)

    def file_uri(self, name: str, version: Version) -> str:
        """Where the file of a version lies."""
        return self._store(name).file_uri(version)

    def _store(self, name: str) -> ModelStore:
        return ModelStore(
            self.root_uri,
            name,
            beat_s=self._beat_s,
            patience_s=self._patience_s,
            wait_s=self._wait_s,
        )

    def _unknown(self, name: str) -> NoReturn:
        raise ConfigError(
            "There is no model of that name in the registry",
            where=self.root_uri,
            got=name,
            hint=near(name, names(self.root_uri)),
        )


def default_root() -> str:
    """The registry of this user: `APPLIANCE_REGISTRY`, or a folder of the `Context`, by default at home."""
    return os.environ.get(REGISTRY_VARIABLE) or Context.current().models_path


def find_model(model: str, root_uri: str | None = None) -> str:
    """What a command got as MODEL, made into the address of a file.

    Args:
        model: A file, `NAME`, `NAME:VERSION` or `NAME@ALIAS` of a registry (see `is_reference`), or
            `models:/NAME/VERSION` or `models:/NAME@ALIAS` of MLflow's.
        root_uri: The registry.

    Raises:
        ConfigError: There is no such model, version or alias.
        StorageError: The registry cannot be read.
        ServiceError: MLflow does not answer.
    """
    if is_of_mlflow(model):
        return str(MlflowModel.find(model).copied_to(Registry(root_uri).root_uri))
    if not is_reference(model):
        return model
    return str(Registry(root_uri).address(Reference.parse(model)))


def _read(model_uri: str) -> tuple[bytes, str]:
    """The bytes of a model file, and where it is from, so that others find it."""
    if is_of_mlflow(model_uri):
        found = MlflowModel.find(model_uri)
        return found.read(), found.uri
    address = ModelAddress.parse(model_uri)
    data = storage.read_bytes(address.uri)
    address.check(data)
    return data, address.reference or storage.absolute(address.uri)


def _parent(text: str | None) -> str | None:
    return None if text is None else ModelAddress.parse(text).reference or text


def who() -> str:
    """The user of this process, for records of who did what."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container with a number instead of a user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> str:
    """The time, for records of when: ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
