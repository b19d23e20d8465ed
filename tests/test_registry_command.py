"""`appliance models` as typed: what is printed, as text and as JSON, and one sentence for each mistake."""

from __future__ import annotations

import json

import pytest
from registry_cases import model_file_at, safetensors_bytes

from appliance.cli.registering import register
from appliance.errors import StorageError


@pytest.fixture
def models(run_appliance, capsys, tmp_path, monkeypatch):
    """Runs `appliance models ...` on a registry of its own and gives what was printed."""
    monkeypatch.setenv("APPLIANCE_REGISTRY", str(tmp_path / "registry"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        assert run_appliance("models", *arguments) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def test_versions_are_added_promoted_rolled_back_and_deleted(models, tmp_path):
    one = model_file_at(tmp_path / "1.safetensors", 1)
    two = model_file_at(tmp_path / "2.safetensors", 2)
    assert "No models in" in models("list")
    assert models("add", "fridge", one) == f"Added {one} as fridge:1.\n"
    assert models("add", "fridge", one) == f"{one} is fridge:1 already; nothing was added.\n"
    models("add", "fridge", two, "--note", "more pictures")
    assert models("promote", "fridge:1") == "fridge@production is version 1 now.\n"
    assert models("promote", "fridge:2") == "fridge@production is version 2 now, before 1.\n"
    assert models("promote", "fridge:2") == "fridge@production is version 2 already.\n"
    assert models("rollback", "fridge") == "fridge@production is version 1 now, before 2.\n"
    assert "nothing to go back to" in models("rollback", "fridge", code=1)
    assert "production 1" in models("list")
    listed = models("list", "fridge")
    for text in ("fridge:2", "map_50 0.5020", "more pictures", "production"):
        assert text in listed
    shown = models("show", "fridge@production")
    for text in (
        str(one),
        "circle, square",
        "map_50",
        "rollback production: version 1, before version 2",
    ):
        assert text in shown
    assert "An alias names this version" in models("delete", "fridge:1", code=1)
    assert models("delete", "fridge@production") == "Deleted fridge@production.\n"
    assert "remove production: nothing, before version 1" in models("show", "fridge")
    assert models("delete", "fridge:1") == "Deleted fridge:1.\n"
    models("delete", "fridge")
    assert "no model of that name" in models("show", "fridge", code=1)


def test_every_command_answers_in_json(models, tmp_path):
    file = model_file_at(tmp_path / "1.safetensors", 1)
    added = json.loads(models("add", "fridge", file, "--json"))
    assert (added["name"], added["number"], added["is_new"]) == ("fridge", 1, True)
    promoted = json.loads(models("promote", "fridge:1", "--alias", "live", "--json"))
    assert promoted == {"name": "fridge", "alias": "live", "before": None, "after": 1}
    listed = json.loads(models("list", "--json"))
    assert listed["registry"] == str(tmp_path / "registry")
    assert [model["aliases"] for model in listed["models"]] == [{"live": 1}]
    assert json.loads(models("list", "fridge", "--json")) == listed["models"][0]
    shown = json.loads(models("show", "fridge@live", "--json"))
    assert (shown["aliases"], shown["history"][0]["after"]) == (["live"], 1)
    assert shown["file_uri"].startswith(str(tmp_path / "registry" / "fridge" / "versions"))
    models("delete", "fridge@live")
    rolled = json.loads(models("rollback", "fridge", "--alias", "live", "--json"))
    assert rolled == {"name": "fridge", "alias": "live", "before": None, "after": 1}
    deleted = json.loads(models("delete", "fridge", "--yes", "--json"))
    assert deleted == {"deleted": "fridge"}


def test_another_registry_can_be_named(models, tmp_path):
    file = model_file_at(tmp_path / "1.safetensors")
    models("add", "fridge", file, "--registry", tmp_path / "other")
    assert "No models" in models("list")
    assert "fridge" in models("list", "--registry", tmp_path / "other")


def test_a_model_without_figures_is_listed(models, tmp_path):
    document = {"format_version": 1, "spec": {"labels": ["a"], "architecture": "b"}}
    file = tmp_path / "m.safetensors"
    file.write_bytes(safetensors_bytes({"__metadata__": {"appliance": json.dumps(document)}}))
    models("add", "plain", file)
    assert "plain:1" in models("list", "plain")


def test_a_trained_model_that_cannot_be_added_is_not_lost(tmp_path):
    file = model_file_at(tmp_path / "m.safetensors")
    (tmp_path / "occupied").write_text("")
    with pytest.raises(
        StorageError, match=r"added later: appliance models add fridge \S+ --registry"
    ):
        register("fridge", str(file), str(tmp_path / "occupied"))
