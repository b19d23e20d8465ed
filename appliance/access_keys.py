"""The file of keys that open the service: one line a key, read by the service, written by `appliance keys`.

    # name  sha256-of-the-key  [rate=20/s]  [burst=40]  [admin]
    shop-floor  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  rate=20/s

The key itself stands nowhere. Its SHA-256 is enough: a key is 256 random bits, so whoever has the file can
guess no key, however fast the hash is; scrypt or Argon2 exist for passwords that people make up, and would
cost each request the time that they cost an attacker. Comments and order survive what the command changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance import storage
from appliance.errors import ConfigError, StorageError

_HEADER = (
    "# Keys of the service, by `appliance keys`: name, SHA-256 of the key, rate=, burst=, admin\n"
)
_TOKEN_PREFIX = "dak_"  # noqa: S105 - what scanners for secrets may look for in text that has leaked
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_RATE = re.compile(r"([0-9]{1,9})/(s|min|h)")
_UNIT_S = {"s": 1, "min": 60, "h": 3600}
_RATE_FORM = "a whole number a second, minute or hour, as 20/s, 100/min, 1000/h"


@dataclass(frozen=True)
class RateLimit:
    """How often a key may be used.

    Attributes:
        per_s: Requests a second, in the long run.
        burst: Requests at once after a pause.
        text: As it was written, without the burst.
    """

    per_s: float
    burst: int
    text: str

    @classmethod
    def parse(cls, text: str, burst: int | None = None) -> RateLimit:
        """Reads `20/s`; the burst is the number before the stroke unless it is given.

        Raises:
            ConfigError: It is not such a rate, or a number is below 1.
        """
        match = _RATE.fullmatch(text)
        if match is None or int(match[1]) < 1:
            raise ConfigError("No such rate", got=repr(text), expected=_RATE_FORM)
        count = int(match[1])
        if burst is not None and burst < 1:
            raise ConfigError("No such burst", got=burst, expected="a whole number from 1")
        return cls(count / _UNIT_S[match[2]], count if burst is None else burst, text)


@dataclass(frozen=True)
class AccessKey:
    """One key of the file.

    Attributes:
        name: Whose it is, for logs and metrics.
        sha256: Hash of the key, in lower-case hexadecimal digits.
        rate: How often it may be used; None means as often as one likes.
        admin: Whether it also opens what changes the service.
    """

    name: str
    sha256: str
    rate: RateLimit | None = None
    admin: bool = False

    def line(self) -> str:
        """As the file has it."""
        words = [self.name, self.sha256]
        if self.rate is not None:
            words.append(f"rate={self.rate.text}")
            if self.rate != RateLimit.parse(self.rate.text):
                words.append(f"burst={self.rate.burst}")
        return "  ".join([*words, "admin"] if self.admin else words) + "\n"


def sha256_of(key: bytes) -> str:
    """The hash by which a key stands in the file."""
    return hashlib.sha256(key).hexdigest()


def parse_key_file(content: bytes, *, where: object) -> tuple[AccessKey, ...]:
    """The keys in the content of a file; none, where it has only comments.

    Args:
        content: All of it.
        where: Its name, for messages.

    Raises:
        ConfigError: A line is no key, a name or a hash stands there twice, or it is no text.
    """
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("Not a key file", where=where, expected="text in UTF-8") from None
    keys: dict[str, AccessKey] = {}
    hashes: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not _is_entry(line):
            continue
        place = f"{where}, line {number}"
        key = _parse_line(line, place)
        if key.name in keys or key.sha256 in hashes:
            what = "name" if key.name in keys else "hash"
            raise ConfigError(
                f"The {what} of a key stands there twice",
                where=place,
                got=key.name,
                hint="Remove one of the lines",
            )
        keys[key.name] = key
        hashes.add(key.sha256)
    return tuple(keys.values())


def read_key_file(path: str | os.PathLike[str]) -> tuple[AccessKey, ...]:
    """The keys in a file.

    Raises:
        StorageError: It cannot be read.
        ConfigError: It is not a key file; see `parse_key_file`.
    """
    return parse_key_file(storage.read_bytes(_local(path)), where=path)


def add_key(
    path: str | os.PathLike[str], name: str, *, rate: RateLimit | None = None, admin: bool = False
) -> str:
    """Makes a key, adds its hash to a file, which need not exist yet, and returns the key.

    Raises:
        ConfigError: The name will not do or is taken, or the file is not a key file.
        StorageError: The file cannot be read or written.
    """
    if not _NAME.fullmatch(name):
        raise _wrong_name(name)
    token = _TOKEN_PREFIX + secrets.token_urlsafe(32)
    key = AccessKey(name, sha256_of(token.encode()), rate, admin)
    file = _local(path)
    storage.check_writable(file)
    with _locked(file):
        content = storage.read_bytes(file) if file.exists() else _HEADER.encode()
        if any(known.name == name for known in parse_key_file(content, where=path)):
            raise ConfigError(
                "There is a key of that name",
                where=path,
                got=name,
                hint="Give the new key another name, and remove the old one once it is not used any more",
            )
        if content and not content.endswith(b"\n"):
            content += b"\n"
        _replace(file, content + key.line().encode())
    return token


def remove_key(path: str | os.PathLike[str], name: str) -> None:
    """Takes a key out of a file.

    Raises:
        ConfigError: There is no key of that name, or the file is not a key file.
        StorageError: The file cannot be read or written.
    """
    file = _local(path)
    with _locked(file):
        content = storage.read_bytes(file)
        names = [key.name for key in parse_key_file(content, where=path)]
        if name not in names:
            hint = f"There are {', '.join(names)}" if names else "There are none"
            raise ConfigError("There is no key of that name", where=path, got=name, hint=hint)
        kept = [
            line
            for line in content.decode().splitlines(keepends=True)
            if not (_is_entry(line) and line.split()[0] == name)
        ]
        # An empty file is taken for one that is being written, and changes nothing.
        _replace(file, ("".join(kept) or _HEADER).encode())


def _is_entry(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse_line(line: str, place: str) -> AccessKey:
    name, *rest = line.split()
    if not _NAME.fullmatch(name):
        raise _wrong_name(name, place)
    if not rest or not _SHA256.fullmatch(rest[0]):
        # What stands there may be a key that somebody wrote down as it is: it is not repeated.
        raise ConfigError(
            "A key has no hash",
            where=place,
            expected="64 hexadecimal digits in lower case after the name",
            hint="Let `appliance keys new` write the line",
        )
    options: dict[str, str] = {}
    for word in rest[1:]:
        option, mark, value = word.partition("=")
        if option in options or (option, mark) not in (
            ("rate", "="),
            ("burst", "="),
            ("admin", ""),
        ):
            raise ConfigError(
                "No such option of a key", where=place, got=word, expected="rate=, burst=, admin"
            )
        options[option] = value
    return AccessKey(name, rest[0], _rate_of(options, place), "admin" in options)


def _rate_of(options: dict[str, str], place: str) -> RateLimit | None:
    burst_text = options.get("burst")
    if burst_text is not None and not re.fullmatch(r"[0-9]{1,9}", burst_text):
        raise ConfigError(
            "No such burst", where=place, got=burst_text, expected="a whole number from 1"
        )
    if "rate" not in options:
        if burst_text is not None:
            raise ConfigError("A burst needs a rate", where=place, hint="Add rate=20/s")
        return None
    try:
        return RateLimit.parse(options["rate"], None if burst_text is None else int(burst_text))
    except ConfigError as error:
        error.where = place
        raise


def _wrong_name(name: str, place: str | None = None) -> ConfigError:
    return ConfigError(
        "That is no name for a key",
        where=place,
        got=repr(name[:80]),
        expected="at most 64 letters, digits, dots, dashes and underscores, a letter or digit first",
    )


def _local(path: str | os.PathLike[str]) -> Path:
    if storage.is_remote(path):
        raise ConfigError(
            "Keys must lie in a local file",
            got=path,
            hint="Copy the file to every machine that runs replicas",
        )
    # A link stays one: what it points to is replaced.
    return storage.local_path(path).expanduser().resolve()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Whoever changes the file has it alone; readers see the old one or the new one."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(
            "Cannot write the key file",
            where=path,
            got=error.strerror or error,
            hint="Choose another path",
        ) from None


def _replace(path: Path, content: bytes) -> None:
    """Writes the whole file; a new one for its owner alone, an old one for whom it was before."""
    before = path.stat() if path.exists() else None
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as stream:
            if before is not None:
                # Root changes the file, the service's own user reads it.
                with contextlib.suppress(PermissionError):
                    os.fchown(descriptor, before.st_uid, before.st_gid)
                os.fchmod(descriptor, before.st_mode & 0o777)
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
