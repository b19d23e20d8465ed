"""Every error a user can cause or meet, as one tree.

- ApplianceError
    - InputError: something the user gave is wrong
        - ConfigError: a flag, a YAML key or a request field
        - StorageError: a path or URI that cannot be listed, read or written
            - InUseError: somebody else writes there
        - ImageError: bytes that are not a usable picture (`kind` says in which way)
        - DatasetError: annotations that cannot be used
        - LabelError: a class that is unknown, doubled or in the way
        - ModelFileError: a model file that is none, is damaged or is of a newer format
    - TrainingError: training cannot go on (`NonFiniteLossError` is its best-known case)
        - NonFiniteLossError
        - TrainingStopped: it was asked to stop, and can go on
    - ServiceError: a cluster or service that cannot be started or reached
        - WorkersLostError: workers or nodes died; those that are left may go on
        - ServiceCallError: a request to a service came to nothing
            - ServiceUnreachableError: no connection, or one that was cut
            - ServiceTimeoutError: no answer in time
            - ServiceRefusalError: the service says no, and why
                - ServiceBusyError: it says "later"
            - ForeignAnswerError: something else than the appliance answers there

A message is one sentence that says what, where, got, expected and the next step, and the parts stay
apart as attributes, so that HTTP answers can send `message` and `hint` as separate fields.
"""

from __future__ import annotations

from typing import Any


class ApplianceError(Exception):
    """An error whose message is meant to be read by the user.

    Args:
        what: What went wrong, without a full stop.
        where: The file, URI, key or address concerned.
        got: What was found there.
        expected: What was needed instead.
        hint: The next step, as a full imperative sentence without a full stop.
    """

    def __init__(
        self,
        what: str,
        *,
        where: object = None,
        got: object = None,
        expected: object = None,
        hint: str | None = None,
    ) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.got = None if got is None else str(got)
        self.expected = None if expected is None else str(expected)
        self.hint = hint
        super().__init__(what)

    @property
    def message(self) -> str:
        """The sentence without the next step."""
        text = self.what if self.where is None else f"{self.what}: {self.where}"
        facts = [f"got {self.got}"] if self.got is not None else []
        facts += [f"expected {self.expected}"] if self.expected is not None else []
        return f"{text} ({', '.join(facts)})" if facts else text

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}. {self.hint}."

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and Ray pickles every error.
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[ApplianceError], state: dict[str, Any]) -> ApplianceError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["what"])
    error.__dict__.update(state)
    return error


class InputError(ApplianceError):
    """Something the user gave is wrong."""


class ConfigError(InputError):
    """A flag, a YAML key or a request field is wrong."""


class StorageError(InputError):
    """A path or URI cannot be listed, read or written.

    Attributes:
        transient: The same may succeed a moment later: a network or a store that did not answer.
    """

    def __init__(self, what: str, *, transient: bool = False, **facts: Any) -> None:
        super().__init__(what, **facts)
        self.transient = transient


class InUseError(StorageError):
    """Somebody else writes there."""


class ImageError(InputError):
    """Bytes that are not a usable picture.

    Attributes:
        kind: One of `empty`, `unreadable`, `unsupported`, `too_large`, `missing`, `unreachable`: the word
            that summaries count by.
    """

    def __init__(self, what: str, *, kind: str, **facts: Any) -> None:
        super().__init__(what, **facts)
        self.kind = kind


class DatasetError(InputError):
    """Annotations cannot be used."""


class LabelError(InputError):
    """A class is unknown, doubled or in the way."""


class ModelFileError(InputError):
    """A model file is none, is damaged or is of a newer format."""


class TrainingError(ApplianceError):
    """Training cannot go on."""


class NonFiniteLossError(TrainingError):
    """A loss became NaN or infinite; the message names step, losses and pictures."""


class TrainingStopped(TrainingError):  # noqa: N818 - nothing failed
    """Training was asked to stop and did; its checkpoint was made before this was raised.

    Attributes:
        step: Steps done.
    """

    def __init__(self, what: str, *, step: int, **facts: Any) -> None:
        super().__init__(what, **facts)
        self.step = step


class ServiceError(ApplianceError):
    """A cluster or service cannot be started or reached."""


class WorkersLostError(ServiceError):
    """Workers or nodes died under their work; the cluster may still have others."""


class ServiceCallError(ServiceError):
    """A request to a service came to nothing.

    Attributes:
        status: HTTP status of the answer, or None without one.
        code: The service's stable word for it, or None.
        request_id: What the logs of the service call the request, or None.
        index: Which picture of a list, from 0, or None.
        transient: The same may succeed a moment later.
        retry_after_s: How long the service asks to wait, seconds, or None.
        attempts: How often it was tried.
    """

    default_kind = "unavailable"

    def __init__(
        self,
        what: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        index: int | None = None,
        transient: bool = False,
        retry_after_s: float | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(what, **facts)
        self.status = status
        self.code = code
        self.request_id = request_id
        self.index = index
        self.transient = transient
        self.retry_after_s = retry_after_s
        self.attempts = 1

    @property
    def kind(self) -> str:
        """The word to count it by: that of batch scoring for what is wrong with a picture, else the code."""
        return self.default_kind if self.code is None else self.code.removeprefix("image_")

    @property
    def message(self) -> str:
        """The sentence without the next step, with what finds the request in the service's log."""
        facts = [f"after {self.attempts} attempts"] if self.attempts > 1 else []
        facts += [f"request {self.request_id}"] if self.request_id is not None else []
        return f"{super().message} [{', '.join(facts)}]" if facts else super().message


class ServiceUnreachableError(ServiceCallError):
    """No connection to a service, or one that was cut."""

    default_kind = "unreachable"


class ServiceTimeoutError(ServiceCallError):
    """No answer in the time that a request had."""

    default_kind = "timeout"


class ServiceRefusalError(ServiceCallError):
    """The service refuses a request and says why: `code`, `message`, `hint`."""


class ServiceBusyError(ServiceRefusalError):
    """The service, or the limit of a key, has no room now (503, 429), and had none at the last attempt either."""


class ForeignAnswerError(ServiceCallError):
    """Something answers at the address, but it is not the appliance."""

    default_kind = "foreign_answer"
