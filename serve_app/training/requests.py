"""What a client may ask to be trained, and the command line that does it.

Nothing of a request becomes part of a shell's language: every value is one word of the command line, quoted, behind
the name of its option. What the settings of training mean is told by the job: the service knows nothing of training.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from appliance.errors import ConfigError
from appliance.registry.references import checked_name

_MAX_CHARACTERS = 1024
_SETTING = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORKERS = r"[1-9][0-9]{0,3}(:[1-9][0-9]{0,3})?"


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds characters that cannot be printed")
    return text


def _place(text: str) -> str:
    if not (text.startswith("/") or "://" in text):
        raise ValueError("must be an absolute path or an address such as s3://bucket/data")
    return text


def _name(text: str) -> str:
    try:
        return checked_name(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


Text = Annotated[str, Field(min_length=1, max_length=_MAX_CHARACTERS), AfterValidator(_printable)]
Place = Annotated[Text, AfterValidator(_place)]
Name = Annotated[Text, AfterValidator(_name)]


class TrainRequest(BaseModel):
    """A training: `appliance train` with these options, as a job on the cluster of the service."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    data: Place = Field(
        description="Annotated pictures: an absolute path or an address that every node of the cluster sees; "
        "DATA#train for a part.",
        examples=["/data/shelves#train"],
    )
    model: Name = Field(
        alias="register", description="The model of the registry that gets one more version."
    )
    init: Text = Field(
        "none", description="Starting weights: none, imagenet, coco, a file, or of the registry."
    )
    settings: dict[str, Any] = Field(
        {}, description="Settings of training and network by name, as in a file of --config."
    )
    validation: Place | None = Field(
        None, description="Annotated pictures to find the best step by."
    )
    format: Literal["auto", "voc", "coco", "yolo", "csv"] = "auto"
    images: Place | None = Field(None, description="Where the pictures lie, if not in the data.")
    workers: str = Field("1", pattern=f"^{_WORKERS}$", description="N, or MIN:MAX.")
    gpu: bool = Field(False, description="One GPU for each worker.")
    check: bool = Field(True, description="Whether to look at every picture for defects first.")
    promote: Name | None = Field(
        None,
        description="Alias that is to name the new version, if that is better on `test` than what it names.",
    )
    test: Place | None = Field(None, description="Annotated pictures that decide about `promote`.")
    min_gain: float = Field(0, ge=0, lt=1, description="How much more mAP@0.5 `promote` wants.")

    @model_validator(mode="after")
    def _check_settings(self) -> TrainRequest:
        for name in self.settings:
            if not _SETTING.fullmatch(name):
                raise ValueError(f"settings: {name[:80]!r} is no name of a setting")
        return self

    @model_validator(mode="after")
    def _check_promotion(self) -> TrainRequest:
        if (self.promote is None) != (self.test is None):
            raise ValueError("promote and test go together")
        if self.min_gain and self.promote is None:
            raise ValueError("min_gain is for promote")
        return self

    def command_line(self, *, run_dir: str, out: str, registry: str) -> str:
        """The line for a shell that runs it.

        Args:
            run_dir: Folder of the run.
            out: The model file to write.
            registry: Address of the registry.
        """
        options: dict[str, object] = {
            "run-dir": run_dir,
            "out": out,
            "registry": registry,
            "register": self.model,
            "init": self.init,
            "validation": self.validation,
            "format": self.format,
            "images": self.images,
            "workers": self.workers,
            "promote": self.promote,
            "test": self.test,
            "min-gain": self.min_gain or None,
        }
        words = [sys.executable, "-P", "-m", "jobs.train", "--json"]
        words += [f"--{name}={value}" for name, value in options.items() if value is not None]
        # JSON is YAML, in which `--set` takes its values.
        words += [f"--set={name}={json.dumps(value)}" for name, value in self.settings.items()]
        words += ["--gpu"] * self.gpu + ["--no-check"] * (not self.check)
        return shlex.join([*words, "--", self.data])
