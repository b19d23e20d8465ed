"""An address of a model file that says what must be found there: `URI#NAME:VERSION@sha256:DIGEST`.

Of a copy from MLflow's registry it is `URI#models:/NAME/VERSION@sha256:DIGEST`.

A registry gives it out, and it goes wherever the URI of a model file can go: to workers, to replicas, into
manifests. Whoever loads the file checks its digest, and records say the name and version of the registry.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from appliance.errors import ModelFileError

_PINNED = re.compile(
    r"(?P<uri>.+)#(?:(?P<name>[a-z0-9_][a-z0-9._-]*):|models:/(?P<mlflow>[^/:@#]+)/)"
    r"(?P<version>[0-9]+)@sha256:(?P<sha256>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class ModelAddress:
    """Where a model file lies, and which one it is, if that is known.

    Attributes:
        uri: The file.
        name: Name in the registry; None for a plain file.
        version: Number in the registry, as text; None for a plain file.
        sha256: Digest that the file must have; None where any will do.
        is_of_mlflow: Name and version are those of MLflow's registry.
    """

    uri: str
    name: str | None = None
    version: str | None = None
    sha256: str | None = None
    is_of_mlflow: bool = False

    @classmethod
    def parse(cls, text: str) -> ModelAddress:
        """Reads an address; what is no pinned one is the URI of a plain file."""
        match = _PINNED.fullmatch(text)
        if match is None:
            return cls(text)
        name = match["mlflow"] or match["name"]
        return cls(match["uri"], name, match["version"], match["sha256"], bool(match["mlflow"]))

    def __str__(self) -> str:
        if self.sha256 is None:
            return self.uri
        return f"{self.uri}#{self.reference}@sha256:{self.sha256}"

    @property
    def reference(self) -> str | None:
        """`NAME:VERSION`, if it has a place in a registry; as MLflow writes it if that is MLflow's."""
        if self.is_of_mlflow:
            return f"models:/{self.name}/{self.version}"
        return None if self.name is None else f"{self.name}:{self.version}"

    def check(self, data: bytes) -> None:
        """Returns if these are the bytes of the file that is meant.

        Raises:
            ModelFileError: They are not.
        """
        if self.sha256 is None:
            return
        found = hashlib.sha256(data).hexdigest()
        if found != self.sha256:
            raise ModelFileError(
                f"The file of {self.reference} is damaged",
                where=self.uri,
                got=f"{len(data):,} bytes with SHA-256 {found:.12}...",
                expected=f"SHA-256 {self.sha256:.12}..., by the registry",
                hint="Put the original file back, or delete this version and add it anew",
            )
