"""What a registry knows of one model: the document, and what may be done to it.

Pure values: nothing here reads or writes. Version numbers are given once; a deleted one does not come back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from appliance.errors import ConfigError
from appliance.registry.references import Reference, near

FORMAT_VERSION = 1
PRODUCTION = "production"
_FILE = re.compile(r"versions/[0-9a-f]+/model\.safetensors")


@dataclass(frozen=True)
class Version:
    """One version of a model.

    Attributes:
        number: From 1.
        file: Relative to the folder of the model.
        sha256: Digest of the file.
        size_bytes: Its length.
        labels: In the order of their ids.
        architecture: Word for the network.
        metrics: Name -> value, from the file.
        dataset_digest: Of its training data, from the file.
        parent: Where its starting weights came from; `NAME:VERSION` if from a registry.
        source: Where the file was added from.
        added_by: user@host.
        added_at: UTC, ISO 8601.
        note: As given.
    """

    number: int
    file: str
    sha256: str
    size_bytes: int
    labels: tuple[str, ...]
    architecture: str
    metrics: Mapping[str, float]
    dataset_digest: str | None
    parent: str | None
    source: str
    added_by: str
    added_at: str
    note: str | None = None


@dataclass(frozen=True)
class AliasChange:
    """An alias that was set, rolled back or taken off.

    Attributes:
        alias: It.
        action: "promote", "rollback" or "remove".
        before: Number of the version that it named, if any.
        after: Number of the version that it names since, if any.
        by: user@host.
        at: UTC, ISO 8601.
    """

    alias: str
    action: str
    before: int | None
    after: int | None
    by: str
    at: str


@dataclass(frozen=True)
class ModelEntry:
    """All of one model.

    Attributes:
        name: It.
        versions: In the order of their numbers.
        aliases: Alias -> number of a version.
        history: Of the aliases, the first change first.
        next_number: Of the version that comes next.
        format_version: Of the document.
    """

    name: str
    versions: tuple[Version, ...] = ()
    aliases: Mapping[str, int] = field(default_factory=dict)
    history: tuple[AliasChange, ...] = ()
    next_number: int = 1
    format_version: int = FORMAT_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ModelEntry:
        """Reads a document.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: It is none, contradicts itself or is of a newer format.
        """
        if document["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format {document['format_version']!r}")
        versions = tuple(
            Version(**{**version, "labels": tuple(version["labels"])})
            for version in document["versions"]
        )
        history = tuple(AliasChange(**change) for change in document["history"])
        entry = cls(**{**document, "versions": versions, "history": history})
        numbers = [version.number for version in versions]
        if sorted({*numbers}) != numbers or not set(entry.aliases.values()) <= {*numbers}:
            raise ValueError("an alias without its version, or a number twice")
        odd = [version.file for version in versions if not _FILE.fullmatch(version.file)]
        if odd:
            raise ValueError(f"a file at {odd[0]!r}")
        return entry

    @property
    def latest(self) -> Version | None:
        """The newest version."""
        return self.versions[-1] if self.versions else None

    def version(self, reference: Reference) -> Version:
        """What a reference means: without number and alias that of `production`, or else the newest.

        Raises:
            ConfigError: There is no such version or alias.
        """
        number = reference.version
        if reference.alias is not None:
            number = self.number_of(reference.alias)
        elif number is None and self.latest is not None:
            number = self.aliases.get(PRODUCTION, self.latest.number)
        for version in self.versions:
            if version.number == number:
                return version
        there = ", ".join(str(version.number) for version in self.versions[-20:])
        raise ConfigError(
            f"The model {self.name} has no such version",
            got="none at all" if number is None else number,
            hint=f"There are {there}"
            if there
            else f"Add one: appliance models add {self.name} FILE",
        )

    def number_of(self, alias: str) -> int:
        """The version that an alias names.

        Raises:
            ConfigError: There is no such alias.
        """
        if alias not in self.aliases:
            raise ConfigError(
                f"The model {self.name} has no such alias",
                got=alias,
                hint=near(alias, self.aliases, of=f"{self.name}@"),
            )
        return self.aliases[alias]

    def aliases_of(self, number: int) -> list[str]:
        """The aliases that name a version."""
        return sorted(alias for alias, named in self.aliases.items() if named == number)

    def of_digest(self, sha256: str) -> Version | None:
        """The version whose file has this digest."""
        return next((found for found in self.versions if found.sha256 == sha256), None)

    def with_version(self, version: Version) -> ModelEntry:
        """With one more."""
        return replace(self, versions=(*self.versions, version), next_number=version.number + 1)

    def without_version(self, number: int) -> ModelEntry:
        """Without one.

        Raises:
            ConfigError: An alias names it.
        """
        aliases = self.aliases_of(number)
        if aliases:
            raise ConfigError(
                "An alias names this version",
                where=f"{self.name}:{number}",
                got=", ".join(f"{self.name}@{alias}" for alias in aliases),
                hint="Promote another version, or take the alias off: "
                f"appliance models delete {self.name}@{aliases[0]}",
            )
        return replace(
            self, versions=tuple(found for found in self.versions if found.number != number)
        )

    def with_alias(
        self, alias: str, number: int | None, action: str, *, by: str, at: str
    ) -> ModelEntry:
        """With an alias set to a version, or taken off."""
        aliases = {name: named for name, named in self.aliases.items() if name != alias}
        if number is not None:
            aliases[alias] = number
        change = AliasChange(alias, action, self.aliases.get(alias), number, by, at)
        return replace(self, aliases=aliases, history=(*self.history, change))

    def number_before(self, alias: str) -> int:
        """The version to roll an alias back to: each step back goes one further.

        Raises:
            ConfigError: There is none.
        """
        named: list[int | None] = []
        for change in self.history:
            if change.alias != alias:
                continue
            if change.action != "rollback":
                named.append(change.after)
                continue
            while named and named[-1] != change.after:
                named.pop()
        now = self.aliases.get(alias)
        there = {version.number for version in self.versions} - {now}
        while named and named[-1] not in there:
            named.pop()
        if not named or named[-1] is None:
            raise ConfigError(
                "There is nothing to go back to",
                where=f"{self.name}@{alias}",
                got=f"version {now}, the first it had of those left" if now else "no such alias",
                hint=f"Name a version: appliance models promote {self.name}:VERSION",
            )
        return named[-1]
