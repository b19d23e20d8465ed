"""The model registry on a disk and in a store: versions, aliases, damage, and who may not have what."""

from __future__ import annotations

import itertools
import json
import logging
import subprocess
import sys

import pytest
from registry_cases import model_bytes, model_file_at, safetensors_bytes

from appliance import storage
from appliance.errors import ConfigError, InUseError, ModelFileError, ServiceError, StorageError
from appliance.model import model_file
from appliance.model.address import ModelAddress
from appliance.model.file_header import read_header
from appliance.registry import registry as registry_module
from appliance.registry.references import Reference, is_reference
from appliance.registry.registry import Registry, default_root, find_model
from appliance.storage import folders, ownership


def ref(text: str) -> Reference:
    return Reference.parse(text)


@pytest.fixture
def registry(tmp_path) -> Registry:
    return Registry(tmp_path / "registry", wait_s=0.3)


@pytest.fixture
def filled(registry, tmp_path) -> Registry:
    """Three versions of `fridge`; none is promoted."""
    for seed in (1, 2, 3):
        registry.add("fridge", model_file_at(tmp_path / f"{seed}.safetensors", seed))
    return registry


@pytest.mark.parametrize("place", ["disk", "store"])
def test_what_is_added_is_found_again_with_all_that_its_file_says(place, tmp_path, s3_uri):
    registry = Registry(tmp_path / "r" if place == "disk" else s3_uri)
    file = model_file_at(tmp_path / "m.safetensors", 7, coco_ap=0.25)
    added = registry.add("fridge", file, note="the first")
    assert (added.version.number, added.is_new) == (1, True)
    version = registry.entry("fridge").version(ref("fridge"))
    assert version == added.version
    assert (version.labels, version.architecture) == (("circle", "square"), "fasterrcnn_compact")
    assert version.metrics == {"map_50": 0.507, "coco_ap": 0.25}
    assert (version.dataset_digest, version.parent) == (f"{7:064x}", "imagenet")
    assert (version.source, version.note) == (str(file), "the first")
    assert "@" in version.added_by
    assert version.added_at.endswith("+00:00")
    address = registry.address(ref("fridge:1"))
    address.check(storage.read_bytes(address.uri))
    assert registry.promote(ref("fridge:1")).after == 1
    assert [entry.name for entry in registry.entries()] == ["fridge"]
    registry.delete(ref("fridge"), with_aliases=True)
    assert registry.entries() == []
    assert folders.entries(storage.join(registry.root_uri, "fridge")) == []


def test_the_same_file_is_one_version(filled, tmp_path):
    again = filled.add("fridge", tmp_path / "2.safetensors")
    assert (again.version.number, again.is_new) == (2, False)
    assert len(filled.entry("fridge").versions) == 3
    other = filled.add("cellar", tmp_path / "2.safetensors")
    assert (other.version.number, other.is_new) == (1, True)


def test_a_version_that_was_made_from_another_says_so(filled, tmp_path):
    parent = filled.address(ref("fridge:2"))
    file = tmp_path / "child.safetensors"
    file.write_bytes(model_bytes(9, parent=str(parent)))
    assert filled.add("fridge", file).version.parent == "fridge:2"
    copied = filled.add("copy", str(parent)).version
    assert copied.source == "fridge:2"


def test_a_name_means_production_or_else_the_newest(filled):
    def number(text):
        return filled.entry("fridge").version(ref(text)).number

    assert number("fridge") == 3
    filled.promote(ref("fridge:1"))
    filled.promote(ref("fridge:2"), "staging")
    assert [number(text) for text in ("fridge", "fridge@staging", "fridge:3")] == [1, 2, 3]
    filled.promote(ref("fridge@staging"))
    assert number("fridge@production") == 2


def test_rolling_back_goes_one_further_each_time_and_past_what_was_deleted(filled):
    for number in (1, 2, 3, 1, 3):
        filled.promote(ref(f"fridge:{number}"))
    filled.delete(ref("fridge:2"))
    assert filled.rollback("fridge").after == 1
    assert filled.rollback("fridge").after == 3
    assert filled.rollback("fridge").after == 1
    with pytest.raises(
        ConfigError, match=r"nothing to go back to: fridge@production .got version 1"
    ):
        filled.rollback("fridge")
    filled.promote(ref("fridge:3"))
    assert filled.rollback("fridge") == registry_module.Switched(3, 1)
    history = filled.entry("fridge").history
    assert [change.action for change in history[-2:]] == ["promote", "rollback"]
    assert all(one.after == two.before for one, two in itertools.pairwise(history))


def test_an_alias_that_was_taken_off_can_be_had_back(filled):
    filled.promote(ref("fridge:2"))
    filled.delete(ref("fridge@production"))
    assert filled.entry("fridge").aliases == {}
    assert filled.rollback("fridge") == registry_module.Switched(None, 2)
    with pytest.raises(ConfigError, match="nothing to go back to.*got no such alias"):
        filled.rollback("fridge", "staging")


def test_to_promote_what_is_promoted_changes_nothing(filled):
    filled.promote(ref("fridge:2"))
    assert filled.promote(ref("fridge:2")) == registry_module.Switched(2, 2)
    assert len(filled.entry("fridge").history) == 1


def test_numbers_of_deleted_versions_do_not_come_back(filled, tmp_path):
    filled.delete(ref("fridge:3"))
    assert filled.add("fridge", tmp_path / "3.safetensors").version.number == 4
    for number in (1, 2, 4):
        filled.delete(ref(f"fridge:{number}"))
    assert folders.entries(storage.join(filled.root_uri, "fridge")) == ["_model.json"]
    with pytest.raises(
        ConfigError, match="no such version .got none at all.*models add fridge FILE"
    ):
        filled.address(ref("fridge"))


def test_what_an_alias_names_stays(filled):
    filled.promote(ref("fridge:2"), "staging")
    with pytest.raises(ConfigError, match=r"An alias names.*fridge:2.*fridge@staging"):
        filled.delete(ref("fridge:2"))
    with pytest.raises(ConfigError, match=r"in use: fridge .got fridge@staging.*--yes"):
        filled.delete(ref("fridge"))
    filled.delete(ref("fridge@staging"))
    filled.delete(ref("fridge:2"))
    filled.delete(ref("fridge"))
    assert filled.entries() == []


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("frige", "no model of that name in the registry.*got frige.*Did you mean fridge"),
        ("cellar:1", "no model of that name.*There are fridge"),
        ("fridge:9", r"no such version .got 9.*There are 1, 2, 3"),
        ("fridge@live", "no such alias .got live.*There are none"),
        ("fridge:latest", "No such version.*'latest'.*Write fridge@latest"),
        ("fridge:", r"No such version: fridge: .got ''"),
        ("fridge:99999999999", "whole number"),
        ("Fridge", "no name for a model .got 'Fridge'"),
        ("fridge@", "no name for an alias .got ''"),
        (".fridge", "no name"),
        ("-fridge", "no name"),
        ("f" * 64, "no name"),
    ],
)
def test_what_is_not_there_is_told_in_one_sentence(filled, reference, sentence):
    with pytest.raises(ConfigError, match=sentence):
        filled.address(ref(reference))


def test_near_aliases_are_proposed(filled):
    filled.promote(ref("fridge:1"))
    with pytest.raises(ConfigError, match="Did you mean fridge@production"):
        filled.address(ref("fridge@productoin"))
    with pytest.raises(ConfigError, match="There are none"):
        Registry(filled.root_uri + "-empty").entry("x")


def test_a_version_has_to_be_named_where_it_matters(filled):
    with pytest.raises(ConfigError, match=r"Which version\? .got fridge, expected as fridge:3"):
        filled.promote(ref("fridge"))


def test_commands_on_unknown_models_leave_nothing_behind(registry):
    for command in (
        lambda: registry.promote(ref("x:1")),
        lambda: registry.rollback("x"),
        lambda: registry.delete(ref("x")),
    ):
        with pytest.raises(ConfigError, match="no model of that name"):
            command()
    assert folders.entries(registry.root_uri) == []


def test_what_is_no_model_file_is_not_added(registry, tmp_path):
    file = tmp_path / "odd.safetensors"
    whole = model_bytes()
    spec = {"format_version": 1, "spec": {"labels": 3}}
    odd = {
        "Not a model file:": b"\xff" * 100,
        "Not a model file: .*got 0 bytes": b"",
        "Not a model file of the appliance": safetensors_bytes({}),
        "of a newer format": safetensors_bytes(
            {"__metadata__": {"appliance": '{"format_version": 99}'}}
        ),
        "damaged.*KeyError": safetensors_bytes(
            {"__metadata__": {"appliance": '{"format_version": 1}'}}
        ),
        "damaged.*TypeError": safetensors_bytes({"__metadata__": {"appliance": json.dumps(spec)}}),
        "damaged.*bytes, by its header": whole[:-1],
    }
    for sentence, data in odd.items():
        file.write_bytes(data)
        with pytest.raises(ModelFileError, match=sentence):
            registry.add("fridge", file)
    assert folders.entries(registry.root_uri) == []


def test_texts_and_figures_of_a_file_are_fit_to_be_shown(tmp_path):
    document = {
        "format_version": 1,
        "spec": {"labels": ["a\x1b[2J"], "architecture": "x\ny"},
        "metrics": {"map_50": float("nan"), "good": 1, "text": "0.5", "flag": True},
    }
    header = read_header(
        safetensors_bytes({"__metadata__": {"appliance": json.dumps(document)}}), source="x"
    )
    assert (header.labels, header.architecture) == (("a?[2J",), "x?y")
    assert (header.metrics, header.dataset_digest, header.parent) == ({"good": 1.0}, None, None)


def test_a_damaged_file_is_told_when_it_is_loaded(filled):
    address = filled.address(ref("fridge:2"))
    data = bytearray(storage.read_bytes(address.uri))
    data[-1] ^= 1
    storage.write_bytes(address.uri, bytes(data))
    with pytest.raises(ModelFileError, match=r"The file of fridge:2 is damaged: .*by the registry"):
        ModelAddress.parse(str(address)).check(storage.read_bytes(address.uri))
    with pytest.raises(ModelFileError, match="fridge:2 is damaged"):
        filled.add("copy", str(address))


def test_who_loads_by_an_address_gets_name_and_number_of_the_registry(registry, tiny_model_path):
    registry.add("shapes", tiny_model_path)
    plain = model_file.load(str(tiny_model_path))
    loaded = model_file.load(str(registry.address(ref("shapes"))))
    assert (plain.name, plain.version) == ("tiny", plain.sha256[:12])
    assert (loaded.name, loaded.version, loaded.sha256) == ("shapes", "1", plain.sha256)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b'{"format_version": 1',
        b"[]",
        b"{}",
        b'{"format_version": 2}',
        b'{"format_version": 1, "name": "x", "versions": [], "history": [], "aliases": {"a": 1}}',
        b'{"format_version": 1, "name": "x", "versions": [], "history": [], "aliases": []}',
    ],
)
def test_a_damaged_entry_is_told_and_spares_the_others(filled, tmp_path, caplog, content):
    filled.add("cellar", tmp_path / "1.safetensors")
    document = storage.join(filled.root_uri, "cellar", "_model.json")
    storage.write_bytes(document, content)
    for command in (
        lambda: filled.address(ref("cellar")),
        lambda: filled.add("cellar", tmp_path / "2.safetensors"),
    ):
        with pytest.raises(
            StorageError, match=r"entry of the registry cannot .*cellar/_model.json"
        ):
            command()
    with caplog.at_level(logging.WARNING):
        assert [entry.name for entry in filled.entries()] == ["fridge"]
    assert "cellar/_model.json" in caplog.text
    assert storage.read_bytes(document) == content
    assert folders.exists(storage.join(filled.root_uri, "cellar", "versions")) is False
    assert len(folders.entries(storage.join(filled.root_uri, "cellar", "versions"))) == 1


def test_a_document_cannot_name_files_elsewhere(filled):
    document = storage.join(filled.root_uri, "fridge", "_model.json")
    values = json.loads(storage.read_bytes(document))
    values["versions"][0]["file"] = "versions/../../secret/model.safetensors"
    storage.write_bytes(document, json.dumps(values).encode())
    with pytest.raises(StorageError, match="a file at 'versions/../../secret"):
        filled.entry("fridge")


def test_left_overs_of_a_kill_are_cleared_away_by_the_next_writer(filled):
    folder = storage.join(filled.root_uri, "fridge")
    storage.write_bytes(storage.join(folder, "versions", "abc", "model.safetensors"), b"half")
    storage.write_bytes(storage.join(folder, "._model.json.1.part"), b"half")
    filled.promote(ref("fridge:1"))
    assert folders.entries(folder) == ["_model.json", "versions"]
    assert len(folders.entries(storage.join(folder, "versions"))) == 3


def test_a_model_whose_deletion_was_killed_is_gone_and_can_be_made_anew(filled, tmp_path):
    folder = storage.join(filled.root_uri, "fridge")
    folders.remove_file(storage.join(folder, "_model.json"))
    assert filled.entries() == []
    assert filled.add("fridge", tmp_path / "3.safetensors").version.number == 1
    assert len(folders.entries(storage.join(folder, "versions"))) == 1


def test_who_comes_second_waits_and_is_told_who_is_first(filled, tmp_path):
    with (
        ownership.owned(storage.join(filled.root_uri, "fridge")),
        pytest.raises(InUseError, match=r"Another command writes to this model.*Try again"),
    ):
        filled.promote(ref("fridge:1"))
    assert filled.promote(ref("fridge:1")).after == 1


def test_a_registry_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    registry = Registry(tmp_path / "file")
    with pytest.raises(StorageError, match="Cannot write to the folder of the registry"):
        registry.add("fridge", model_file_at(tmp_path / "m.safetensors"))


def test_what_a_command_takes_for_a_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    references = ["fridge", "fridge:7", "fridge@production", "Fridge", "fridge:", "a.b-c_1"]
    paths = ["here", "fridge.safetensors", "./fridge", "a/b", "s3://b/fridge", "file:///x", "", "-"]
    assert [text for text in references if not is_reference(text)] == []
    assert [text for text in paths if is_reference(text)] == []


def test_a_model_of_a_command_is_a_file_or_found_in_the_registry(filled, tmp_path, monkeypatch):
    file = str(tmp_path / "1.safetensors")
    assert find_model(file) == file
    monkeypatch.setenv("APPLIANCE_REGISTRY", filled.root_uri)
    assert find_model("fridge:2") == str(filled.address(ref("fridge:2")))
    assert find_model("fridge:2", filled.root_uri) == find_model("fridge:2")
    with pytest.raises(ConfigError, match="no model of that name"):
        find_model("fridge", str(tmp_path / "elsewhere"))


def test_where_the_registry_is_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("APPLIANCE_REGISTRY", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_root() == str(tmp_path / "detection-appliance" / "models")
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_root().endswith("/.local/share/detection-appliance/models")
    monkeypatch.setenv("APPLIANCE_REGISTRY", "s3://bucket/models")
    assert Registry().root_uri == "s3://bucket/models"


def test_a_user_without_a_name_has_a_number(filled, tmp_path, monkeypatch):
    def nobody():
        raise KeyError("no such uid")

    monkeypatch.setattr(registry_module.getpass, "getuser", nobody)
    filled.promote(ref("fridge:1"))
    assert filled.entry("fridge").history[-1].by.split("@")[0].isdecimal()


def test_the_registry_loads_none_of_the_big_libraries():
    program = "import sys, appliance.registry.registry; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = done.stdout.split()
    assert "appliance.registry.store" in loaded
    assert {"torch", "numpy", "pyarrow", "ray", "pydantic"}.isdisjoint(loaded)


def test_a_writer_that_was_taken_for_dead_changes_nothing(s3_uri, tmp_path):
    registry = Registry(s3_uri)
    registry.add("fridge", model_file_at(tmp_path / "m.safetensors"))
    store = registry._store("fridge")
    with store.held() as held:
        before = registry.entry("fridge")
        leases = [name for name in folders.entries(store.uri) if name.startswith(ownership.LEASE)]
        folders.remove_file(storage.join(store.uri, leases[0]))  # as whoever follows does
        with pytest.raises(ServiceError, match="Another command has taken over the model"):
            held.replace(before.with_alias("production", 1, "promote", by="me", at="now"))
        with pytest.raises(ServiceError, match="Another command has taken over the model"):
            held.remove()
    assert registry.entry("fridge") == before
