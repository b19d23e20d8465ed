"""The Bearer keys that open scoring: from the settings, and from a file that may change at any time."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from appliance import storage
from appliance.access_keys import (
    AccessKey,
    RateLimit,
    parse_key_file,
    read_key_file,
    sha256_of,
)
from appliance.errors import ConfigError, InputError
from serve_app.errors import RequestError

if TYPE_CHECKING:
    from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0


class KeyRing:
    """The keys that open scoring; without keys and without a file, it is open.

    A ring belongs to one event loop.

    Args:
        keys: Keys as they are sent; called key-1, key-2 and so on.
        key_file: File of hashed keys, see `appliance.access_keys`. It is read again at the first request of
            each second, which takes less than 0.1 ms; a new file that is broken leaves the keys
            as they were and is logged once. A file without a key lets nobody in.
        default_rate: For keys that have no rate of their own.
        clock: Seconds that never go back.

    Raises:
        StorageError: The file cannot be read.
        ConfigError: It is not a key file.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        *,
        key_file: str | None = None,
        default_rate: RateLimit | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._of_settings = tuple(
            AccessKey(f"key-{number}", sha256_of(key.encode()))
            for number, key in enumerate(keys, 1)
        )
        self._file = key_file
        self._default_rate = default_rate
        self._clock = clock
        self._next_look_s = clock() + _LOOK_EVERY_S
        self._content = b""
        self._of_file: tuple[AccessKey, ...] = ()
        self._complaint: str | None = None
        self._use(() if key_file is None else self._read(key_file))

    @classmethod
    def of(cls, settings: ServiceSettings) -> KeyRing:
        """The ring of a service; raises as the constructor does."""
        return cls(
            (key.get_secret_value() for key in settings.keys),
            key_file=settings.key_file,
            default_rate=None if settings.key_rate is None else RateLimit.parse(settings.key_rate),
        )

    @property
    def required(self) -> bool:
        """Whether keys are on."""
        return self._file is not None or bool(self._of_settings)

    def identify(self, authorization: str | None) -> str | None:
        """Looks at an Authorization header; the name of its key, or None when keys are off.

        Raises:
            RequestError: 401, keys are on and this is none of them.
        """
        key = self.find(authorization)
        return None if key is None else key.name

    def find(self, authorization: str | None) -> AccessKey | None:
        """The key of an Authorization header, or None when keys are off.

        Raises:
            RequestError: 401, keys are on and this is none of them.
        """
        if not self.required:
            return None
        self._look_again()
        scheme, _, given = (authorization or "").partition(" ")
        # HTTP headers come as Latin-1, whatever their bytes mean.
        given_sha256 = sha256_of(given.strip().encode("latin-1", "replace"))
        found = None
        for key in self._keys:
            # All are compared, each in constant time, so that the answer's time tells nothing.
            if hmac.compare_digest(given_sha256, key.sha256):
                found = key
        if scheme.lower() != "bearer" or found is None:
            raise RequestError(
                401,
                "unauthorized",
                "The service asks for a key and this is none of its keys"
                if authorization
                else "The service asks for a key",
                hint="Send the header Authorization: Bearer KEY",
                headers={"WWW-Authenticate": "Bearer"},
            )
        return found

    def rate_of(self, name: str) -> RateLimit | None:
        """How often the key of a name may be used; None means as often as one likes."""
        return self._rates.get(name)

    def _use(self, of_file: tuple[AccessKey, ...]) -> None:
        self._keys = self._of_settings + of_file
        self._rates = {key.name: key.rate or self._default_rate for key in self._keys}

    def _look_again(self) -> None:
        now_s = self._clock()
        if self._file is None or now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_EVERY_S
        before = self._content
        try:
            of_file = self._read(self._file)
        except InputError as error:
            if str(error) != self._complaint:
                logger.warning("%s The keys from before stay.", f"{error}".rstrip(".") + ".")
            self._complaint = str(error)
            return
        if self._content != before or self._complaint is not None:
            logger.info("the key file has changed: it has %d keys now", len(of_file))
            self._complaint = None
            self._use(of_file)

    def _read(self, path: str) -> tuple[AccessKey, ...]:
        content = storage.read_bytes(path)
        if content == self._content and content:
            return self._of_file
        if not content:
            # Who writes into the file itself empties it first; who takes the last key out leaves a comment.
            raise ConfigError(
                "The key file is empty", where=path, hint="Make a key with `appliance keys new`"
            )
        self._of_file = parse_key_file(content, where=path)
        self._content = content
        return self._of_file


def checked_key_file(path: str) -> str:
    """The absolute path of a key file, before a service starts that is to read it.

    Raises:
        StorageError: It cannot be read.
        ConfigError: It is not a key file, or has no key.
    """
    if not read_key_file(path):
        raise ConfigError(
            "The key file has no keys",
            where=path,
            hint=f"Make one with `appliance keys new NAME --file {path}`",
        )
    return storage.absolute(storage.local_path(path).expanduser())


def require_admin_key(settings: ServiceSettings) -> None:
    """Refuses a trainer that nobody could use, or anybody.

    Raises:
        ConfigError: It is switched on, and there is no admin key.
        StorageError: The key file cannot be read.
    """
    file = settings.key_file
    if settings.trainer and not (file and any(key.admin for key in read_key_file(file))):
        raise ConfigError(
            "The trainer wants a key file with an admin key",
            got=file or "no key file",
            hint="Make one with `appliance keys new NAME --admin --file keys.txt` and give --keys keys.txt",
        )


def require_keys(host: str, settings: ServiceSettings) -> None:
    """Refuses to listen where others can reach the service while it asks for no keys.

    Whoever starts a listener calls this first.

    Args:
        host: Address that is to be listened on.
        settings: Whether there are keys, or none are wanted.

    Raises:
        ConfigError: There are no keys, others can reach that address, and nobody has said `no_keys`.
    """
    if settings.keys or settings.key_file or settings.no_keys or _is_loopback(host):
        return
    raise ConfigError(
        "Without keys the service listens only on loopback",
        got=host or "all addresses",
        hint="Make a key with `appliance keys new NAME --file keys.txt` and give --keys keys.txt, "
        "or say --no-keys",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
