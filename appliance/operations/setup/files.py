"""The files that `appliance init` writes: every setting of training, and a service, each with its meaning."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.errors import StorageError
from appliance.operations.setup.answers import Answers
from appliance.operations.setup.commented import commented, described, in_yaml
from appliance.registry.references import is_reference

TRAINING_FILE, SERVICE_FILE = "train.yaml", "serve.yaml"
_MARK = "# Written by `appliance init`"
_OF_TRAINING = """{mark}, for: {command}
#
# Lines of a setting count when the # before them is taken away; what stands there is what is taken otherwise, for these
# starting weights. Flags of the command win over this file. Misspelt names are refused.

"""
_OF_SERVICE = """{mark}, for a Ray cluster that runs: serve deploy {file}
# The same on this machine alone, without a file: {command}
#
# Lines of a setting count when the # before them is taken away; what stands there is what is taken otherwise. Paths are
# those of the machines with replicas. Misspelt names are refused.

# HeadOnly answers on the head of the cluster, EveryNode on all nodes with replicas.
proxy_location: HeadOnly
http_options:
  # {host_meaning}
  host: {host}
  port: {port}
applications:
  - name: appliance
    route_prefix: /
    import_path: serve_app.app:build_app
    args:
"""


def training_command(answers: Answers, file: Path) -> str:
    """The command that trains with the file."""
    words = ["appliance", "train", answers.data, "--config", str(file)]
    words += ["--init", answers.init, "--out", answers.model, *(["--gpu"] if answers.gpu else [])]
    return shlex.join(words)


def service_command(answers: Answers) -> str:
    """The command that serves as the file does, on this machine."""
    words = ["appliance", "serve", answers.model, "--port", str(answers.port)]
    words += ["--host", "0.0.0.0", "--keys", answers.key_file] if answers.beyond else []  # noqa: S104 - asked for
    words += ["--set", "num_gpus=1"] if answers.gpu else []
    return shlex.join(words)


def training_text(answers: Answers, file: Path) -> str:
    """What `appliance train --config` takes.

    Raises:
        ConfigError: There are no such starting weights.
    """
    from appliance.model.spec import ModelSpec
    from appliance.model.weights import check_init
    from appliance.training.config import TrainingConfig
    from appliance.training.plan import settings_for

    check_init(answers.init)
    training = asdict(settings_for(answers.init, epochs=answers.epochs))
    network = asdict(ModelSpec(labels=("any",)))
    del network["labels"]
    meanings = {**described(TrainingConfig), **described(ModelSpec)}
    head = _OF_TRAINING.format(mark=_MARK, command=training_command(answers, file))
    return (
        f"{head}# ---- Training ----\n\n{commented(training, meanings, frozenset({'epochs', 'seed'}))}\n"
        f"# ---- Network; sizes and anchors are found from the data where nothing stands here ----\n\n"
        f"{commented(network, meanings, frozenset())}"
    )


def service_text(answers: Answers, file: Path) -> str:
    """What `serve deploy` takes; its `args` are all settings of the service."""
    # Named as text: the library does not import the service.
    fields = importlib.import_module("serve_app.settings").ServiceSettings.model_fields
    named = is_reference(answers.model)
    chosen: dict[str, Any] = {"model": answers.model if named else storage.absolute(answers.model)}
    if answers.beyond:
        chosen["key_file"] = storage.absolute(answers.key_file)
    if answers.gpu:
        chosen["num_gpus"] = 1
    # Keys do not belong into a file that is shown around: their hashes have one of their own.
    usual: Mapping[str, Any] = {
        name: field.get_default(call_default_factory=True)
        for name, field in fields.items()
        if name not in ("model", "keys")
    }
    meanings = {name: field.description or "" for name, field in fields.items()}
    values = {**chosen, **{name: value for name, value in usual.items() if name not in chosen}}
    head = _OF_SERVICE.format(
        mark=_MARK,
        file=file,
        command=service_command(answers),
        host_meaning="All addresses of the machine: it starts only with key_file below, or no_keys."
        if answers.beyond
        else "This machine alone; 0.0.0.0 opens it to the network, and needs key_file below.",
        host="0.0.0.0" if answers.beyond else "127.0.0.1",  # noqa: S104 - asked for
        port=in_yaml(answers.port),
    )
    return head + commented(values, meanings, frozenset(chosen), indent=6)


def write_files(answers: Answers, folder: Path, *, overwrite: bool = False) -> dict[Path, str]:
    """Writes the files that are wanted.

    Args:
        answers: What is wanted.
        folder: Where to.
        overwrite: Whether earlier ones of `appliance init` may be replaced; other files never are.

    Returns:
        Each file, and the command that uses it.

    Raises:
        StorageError: There is a file already, or it cannot be written.
        ConfigError: There are no such starting weights.
    """
    files: dict[Path, tuple[str, str]] = {}
    if answers.trains:
        file = folder / TRAINING_FILE
        files[file] = training_text(answers, file), training_command(answers, file)
    if answers.serves:
        file = folder / SERVICE_FILE
        files[file] = service_text(answers, file), service_command(answers)
    for file in files:
        if not file.exists():
            continue
        ours = file.is_file() and file.read_bytes().startswith(_MARK.encode())
        if not (ours and overwrite):
            raise StorageError(
                "There is a file already",
                where=file,
                hint="Replace it by --overwrite, or choose another folder with --out"
                if ours
                else "Choose another folder with --out; this one is not of `appliance init`",
            )
    for file, (text, _) in files.items():
        storage.write_bytes(file, text.encode())
    return {file: command for file, (_, command) in files.items()}
