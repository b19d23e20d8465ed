"""What `appliance init` asks, and what it takes where nobody answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from appliance.errors import ConfigError

Purpose = Literal["both", "train", "serve"]
_YES, _NO = ("y", "yes"), ("n", "no")


@dataclass(frozen=True)
class Answers:
    """How somebody wants to use the appliance.

    Attributes:
        purpose: Which files to write: for training, for a service, or both.
        data: Annotated pictures.
        init: Starting weights, as `appliance train --init` takes them.
        epochs: Passes over the pictures.
        gpu: Whether to use a GPU.
        model: Model file that training writes and the service reads.
        beyond: Whether others than this machine reach the service.
        key_file: Keys that they need then.
        port: Of the service.
    """

    purpose: Purpose = "both"
    data: str = "my_pictures"
    init: str = "imagenet"
    epochs: int = 30
    gpu: bool = False
    model: str = "model.safetensors"
    beyond: bool = False
    key_file: str = "keys.txt"
    port: int = 8000

    def __post_init__(self) -> None:
        if self.purpose not in ("both", "train", "serve"):
            raise ConfigError(
                "Unknown purpose", got=repr(self.purpose), expected="both, train or serve"
            )
        if self.epochs < 1:
            raise ConfigError("epochs is out of range", got=self.epochs, expected="at least 1")
        if not 1 <= self.port <= 65535:
            raise ConfigError("port is out of range", got=self.port, expected="1..65535")
        for name in ("data", "init", "model", "key_file"):
            if not getattr(self, name).strip() or "\n" in getattr(self, name):
                raise ConfigError(f"{name} is empty", expected="one line of text")

    @property
    def trains(self) -> bool:
        """Whether there is to be a file for training."""
        return self.purpose != "serve"

    @property
    def serves(self) -> bool:
        """Whether there is to be a file for a service."""
        return self.purpose != "train"


_QUESTIONS: Mapping[str, tuple[str, Callable[[Answers], bool]]] = {
    "purpose": ("What is it for: train, serve or both", lambda answers: True),
    "data": ("Folder of annotated pictures", lambda answers: answers.trains),
    "init": (
        "Starting weights: imagenet, coco (both downloaded once), none, or a file",
        lambda answers: answers.trains,
    ),
    "epochs": ("How many passes over the pictures", lambda answers: answers.trains),
    "gpu": ("Use a GPU (y or n)", lambda answers: True),
    "model": ("Model file", lambda answers: True),
    "beyond": ("Shall others than this machine reach the service (y or n)", lambda a: a.serves),
    "key_file": ("File of their keys", lambda answers: answers.serves and answers.beyond),
    "port": ("Port of the service", lambda answers: answers.serves),
}


def usual_answers(**given: Any) -> Answers:
    """What is taken where nobody answers: a GPU where this machine has one.

    Args:
        **given: Fields of `Answers`; None leaves the usual one.

    Raises:
        ConfigError: One of them will not do.
    """
    usual = {"gpu": shutil.which("nvidia-smi") is not None}
    return Answers(**usual | {name: value for name, value in given.items() if value is not None})


def ask(usual: Answers, known: frozenset[str], reply: Callable[[str], str]) -> Answers:
    """Asks for everything that is not known and matters after what was answered so far.

    Args:
        usual: What an empty reply means.
        known: Fields that are not asked for.
        reply: Shows a question and gives what was typed; `input` does that. At the end of its input the rest
            is taken as usual.
    """
    answers = usual
    for name, (question, matters) in _QUESTIONS.items():
        if name in known or not matters(answers):
            continue
        value = getattr(answers, name)
        shown = f"{question} [{('y' if value else 'n') if isinstance(value, bool) else value}]: "
        complaint = ""
        while True:
            try:
                text = reply(complaint + shown).strip()
            except EOFError:
                return answers
            try:
                if text:
                    answers = replace(answers, **{name: _parsed(name, text)})
                break
            except ConfigError as error:
                complaint = f"{error}.\n"
    return answers


def _parsed(name: str, text: str) -> Any:
    kind = next(field.type for field in fields(Answers) if field.name == name)
    if kind == "int":
        if not text.isdecimal():
            raise ConfigError("That is no number", got=repr(text))
        return int(text)
    if kind == "bool":
        if text.lower() not in (*_YES, *_NO):
            raise ConfigError("That is neither yes nor no", got=repr(text), expected="y or n")
        return text.lower() in _YES
    return text
