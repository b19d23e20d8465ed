"""`appliance init` and `CliSetup`: questions on a real terminal, and files that those who read them accept whole."""

from __future__ import annotations

import os
import pty
import re
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from appliance import CliSetup, Context, FasterRCNN
from appliance.cli.training_settings import read_settings
from appliance.errors import ConfigError, StorageError
from appliance.model.spec import ModelSpec
from appliance.operations.setup.answers import Answers, ask, usual_answers
from appliance.operations.setup.commented import described
from appliance.registry.registry import default_root
from appliance.training.config import TrainingConfig
from serve_app.settings import ServiceSettings


def all_lines_counting(text: str) -> str:
    """The file with every setting's comment taken away, as a user might."""
    return re.sub(r"(?m)^( *)#(?=\w+: )", r"\1", text)


def test_what_training_reads_of_it(run_appliance, tmp_path, capsys):
    words = (
        "init",
        "--out",
        tmp_path,
        "--for",
        "train",
        "--init",
        "none",
        "--epochs",
        5,
        "--data",
        "a b",
        "--gpu",
    )
    assert run_appliance(*words) == 0
    file = tmp_path / "train.yaml"
    command = f"appliance train 'a b' --config {file} --init none --out model.safetensors --gpu"
    assert capsys.readouterr().out == f"Wrote {file}\n  {command}\n"
    assert not (tmp_path / "serve.yaml").exists()
    settings = read_settings("none", str(file), {})
    assert settings.training.epochs == 5
    assert settings.open_settings == {field.name for field in fields(TrainingConfig)} - {
        "epochs",
        "seed",
    }
    text = file.read_text()
    assert command in text
    whole = tmp_path / "whole.yaml"
    whole.write_text(all_lines_counting(text))
    every = yaml.safe_load(whole.read_text())
    names = {field.name for cls in (TrainingConfig, ModelSpec) for field in fields(cls)} - {
        "labels"
    }
    assert set(every) == names
    assert read_settings("none", str(whole), {}).training == settings.training


def test_what_the_service_reads_of_it(run_appliance, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        run_appliance(
            "init", "--for", "serve", "--open", "--keys", "k.txt", "--port", 9001, "--gpu"
        )
        == 0
    )
    command = (
        "appliance serve model.safetensors --port 9001 --host 0.0.0.0 --keys k.txt --set num_gpus=1"
    )
    assert capsys.readouterr().out == f"Wrote serve.yaml\n  {command}\n"
    text = Path("serve.yaml").read_text()
    parsed = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert (parsed.http_options.host, parsed.http_options.port) == ("0.0.0.0", 9001)
    (application,) = parsed.applications
    assert application.args == {
        "model": f"{tmp_path}/model.safetensors",
        "key_file": f"{tmp_path}/k.txt",
        "num_gpus": 1,
    }
    settings = ServiceSettings(**application.args)
    whole = yaml.safe_load(all_lines_counting(text))["applications"][0]["args"]
    assert set(whole) == set(ServiceSettings.model_fields) - {"keys"}
    assert ServiceSettings(**whole) == settings
    assert run_appliance("init", "--for", "serve", "--loopback", "--overwrite", "--no-gpu") == 0
    alone = yaml.safe_load(Path("serve.yaml").read_text())
    assert alone["http_options"]["host"] == "127.0.0.1"
    assert set(alone["applications"][0]["args"]) == {"model"}
    named = ("--model", "fridge@production", "--no-gpu", "--overwrite")
    assert run_appliance("init", "--for", "serve", *named) == 0
    (application,) = yaml.safe_load(Path("serve.yaml").read_text())["applications"]
    assert application["args"] == {"model": "fridge@production"}


def test_files_of_others_and_wrong_values_are_refused(run_appliance, tmp_path, capsys):
    for words, message in [
        (("--init", "imagenot"), "error: "),
        (("--data", " "), "error: data is empty"),
    ]:
        assert run_appliance("init", "--out", tmp_path, *words) == 1
        assert message in capsys.readouterr().err
        assert list(tmp_path.iterdir()) == []
    assert run_appliance("init", "--out", tmp_path, "--yes") == 0
    assert run_appliance("init", "--out", tmp_path, "--yes") == 1
    assert "Replace it by --overwrite" in capsys.readouterr().err
    assert run_appliance("init", "--out", tmp_path, "--yes", "--overwrite") == 0
    (tmp_path / "train.yaml").write_text("steps: 3\n")
    assert run_appliance("init", "--out", tmp_path, "--yes", "--overwrite") == 1
    assert "this one is not of `appliance init`" in capsys.readouterr().err
    assert (tmp_path / "train.yaml").read_text() == "steps: 3\n"


def test_the_questions_on_a_terminal(run_appliance, tmp_path, monkeypatch, capsys):
    ours, theirs = pty.openpty()
    typed = ["train", "scenes", "none", "many", "7", "n", ""]
    os.write(ours, "".join(f"{line}\n" for line in typed).encode())
    with os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        assert run_appliance("init", "--out", tmp_path, "--port", 8001) == 0
    os.close(ours)
    shown = capsys.readouterr().out
    asked = re.findall(r"([^:\n]+) \[([^]]*)\]: ", shown)
    assert [usual for _, usual in asked] == [
        *("both", "my_pictures", "imagenet", "30", "30"),
        *(asked[5][1], "model.safetensors"),
    ]
    assert "That is no number (got 'many')." in shown
    assert yaml.safe_load((tmp_path / "train.yaml").read_text()) == {"epochs": 7, "seed": 0}


def test_only_what_matters_is_asked():
    questions = []

    def reply(question: str) -> str:
        questions.append(question)
        if "Shall" in question:
            return "maybe" if len(questions) == 3 else "yes"
        return "serve" if "What is it for" in question else ""

    answers = ask(usual_answers(gpu=True, model="m"), frozenset({"gpu"}), reply)
    assert (answers.purpose, answers.beyond, answers.port) == ("serve", True, 8000)
    assert len(questions) == 6
    assert "That is neither yes nor no (got 'maybe', expected y or n)." in questions[3]

    def ends(question: str) -> str:
        raise EOFError

    assert ask(answers, frozenset(), ends) == answers
    for wrong in ({"purpose": "all"}, {"epochs": 0}, {"port": 70000}, {"model": ""}):
        with pytest.raises(ConfigError):
            Answers(**wrong)


def test_cli_setup_of_2018(tmp_path, monkeypatch):
    lines = iter(["both", "", "none", "3", "n", "m.safetensors", "n", "8080"])
    monkeypatch.setattr("builtins.input", lambda question: next(lines))
    written = CliSetup(tmp_path).run()
    assert list(written) == [str(tmp_path / "train.yaml"), str(tmp_path / "serve.yaml")]
    assert written[str(tmp_path / "serve.yaml")] == "appliance serve m.safetensors --port 8080"
    again = CliSetup(tmp_path, overwrite=True).run(Answers(purpose="train", init="none"))
    assert list(again) == [str(tmp_path / "train.yaml")]


def test_every_setting_has_a_meaning():
    assert set(described(TrainingConfig)) == {field.name for field in fields(TrainingConfig)}
    assert set(described(ModelSpec)) == {field.name for field in fields(ModelSpec)}
    assert all(field.description for field in ServiceSettings.model_fields.values())


@pytest.fixture
def own_context(monkeypatch):
    """The context of this process is as it was afterwards."""
    from appliance.storage import context

    monkeypatch.setattr(context, "_current", [None])
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    monkeypatch.delenv("APPLIANCE_REGISTRY", raising=False)


def test_the_context_of_2018_says_where_things_go(own_context, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    usual = Context.current()
    assert usual == Context()
    assert (usual.outputs_path, usual.runs_path) == (".", "runs")
    assert usual.persistent_path == f"{tmp_path}/data/detection-appliance"
    assert usual.temp_path == tempfile.gettempdir()
    assert FasterRCNN(["a"]).train_dir.startswith("runs/")
    context = Context.create(
        outputs_path=tmp_path / "out",
        persistent_path=str(tmp_path / "kept"),
        temp_path=tmp_path / "tmp",
    )
    assert Context.current() is context
    assert FasterRCNN(["a"]).train_dir.startswith(f"{tmp_path}/out/runs/faster_rcnn-")
    assert default_root() == f"{tmp_path}/kept/models"
    with tempfile.TemporaryDirectory() as folder:
        assert Path(folder).parent == tmp_path / "tmp"
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot use the folder of outputs_path"):
        Context.create(outputs_path=tmp_path / "file" / "out")
    assert Context.current() is context
