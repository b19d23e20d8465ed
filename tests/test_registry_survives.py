"""Writers of the registry that are killed at any moment, and many that write at once: real processes."""

from __future__ import annotations

import hashlib
import json
import random
import time

import pytest
from registry_cases import child, model_bytes, state_of

from appliance import storage
from appliance.registry.references import Reference
from appliance.registry.registry import Registry
from appliance.storage import folders

BEAT_S, PATIENCE_S = 0.2, 2.0

# Says before each command what is there and what shall be there, then does it, for ever.
CHANGING = """
import json, random, sys
from registry_cases import model_bytes, state_of
from appliance import storage
from appliance.registry.entry import ModelEntry
from appliance.registry.references import Reference
from appliance.registry.registry import Registry
from appliance.registry import store

root, folder, seed, beat_s, patience_s = sys.argv[1:]
registry = Registry(root, beat_s=float(beat_s), patience_s=float(patience_s))
chosen = random.Random(int(seed))
replace, remove = store.HeldModel.replace, store.HeldModel.remove

def told(entry):
    print(json.dumps([state_of(registry._store("m").read()), state_of(entry)]), flush=True)

def telling_replace(held, entry):
    told(entry)
    replace(held, entry)

def telling_remove(held):
    told(None)
    remove(held)

store.HeldModel.replace, store.HeldModel.remove = telling_replace, telling_remove
print("ready", flush=True)
count = 0
while True:
    entry = registry._store("m").read() or ModelEntry("m")
    numbers = [version.number for version in entry.versions]
    free = [number for number in numbers if not entry.aliases_of(number)]
    what = chosen.choice(["add", "add", "promote", "promote", "rollback", "delete", "all"])
    count += 1
    if what == "add" or not numbers:
        file = f"{folder}/{seed}.safetensors"
        storage.write_bytes(file, model_bytes(1000 * int(seed) + count))
        registry.add("m", file)
    elif what == "promote":
        registry.promote(Reference("m", chosen.choice(numbers)))
    elif what == "rollback" and len({change.after for change in entry.history} & {*numbers}) > 2:
        try:
            registry.rollback("m")
        except Exception as error:
            assert "nothing to go back" in str(error), error
    elif what == "delete" and free:
        registry.delete(Reference("m", chosen.choice(free)))
    elif what == "all" and count % 5 == 0:
        registry.delete(Reference("m"), with_aliases=True)
"""

ADDING = """
import sys
from registry_cases import model_bytes
from appliance import storage
from appliance.registry.references import Reference
from appliance.registry.registry import Registry

root, folder, number, rounds, beat_s, patience_s = sys.argv[1:]
registry = Registry(root, beat_s=float(beat_s), patience_s=float(patience_s), wait_s=120)
file = f"{folder}/{number}.safetensors"
for turn in range(int(rounds)):
    storage.write_bytes(file, model_bytes(100 * int(number) + turn))
    added = registry.add("m", file)
    registry.promote(Reference("m", added.version.number))
"""


def check_files(registry: Registry) -> None:
    """Each version is there with the bytes that it had, and nothing else is."""
    entry = registry._store("m").read()
    named = set()
    for version in entry.versions:
        named.add(version.file.split("/")[1])
        found = storage.read_bytes(registry.file_uri("m", version))
        assert hashlib.sha256(found).hexdigest() == version.sha256
    folder = storage.join(registry.root_uri, "m")
    assert set(folders.entries(storage.join(folder, "versions"))) == named
    assert folders.entries(folder) == ["_model.json", "versions"]


def kill_and_look(registry: Registry, folder, seed: int, *, longest_s: float) -> None:
    """Lets a process write, kills it, and looks whether a command was done wholly or not at all."""
    chosen = random.Random(seed)
    with child(CHANGING, registry.root_uri, folder, seed, BEAT_S, PATIENCE_S) as writer:
        assert writer.stdout.readline() == "ready\n", writer.stderr.read()
        writer.stdout.readline()  # of the first command
        time.sleep(chosen.uniform(0, longest_s))
        writer.kill()
        said, wrong = writer.communicate()
    assert wrong == ""
    told = [line for line in said.splitlines() if line.endswith("]")]
    there = state_of(registry._store("m").read())
    if told:
        assert there in json.loads(told[-1])
    file = folder / "next.safetensors"
    file.write_bytes(model_bytes(10**6 + seed))
    added = registry.add("m", file)
    assert added.is_new
    registry.promote(Reference("m", added.version.number))
    check_files(registry)


def test_a_writer_that_is_killed_leaves_the_state_before_or_after(tmp_path):
    registry = Registry(tmp_path / "registry")
    for seed in range(12):
        kill_and_look(registry, tmp_path, seed, longest_s=0.06)


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    registry = Registry(tmp_path / "registry")
    for seed in range(200):
        kill_and_look(registry, tmp_path, seed, longest_s=0.3)


@pytest.mark.slow
def test_kills_of_writers_to_a_bucket(tmp_path, s3_uri):
    registry = Registry(s3_uri, beat_s=BEAT_S, patience_s=PATIENCE_S)
    for seed in range(15):
        kill_and_look(registry, tmp_path, seed, longest_s=2.0)


@pytest.mark.parametrize(("place", "writers", "rounds"), [("disk", 4, 5), ("store", 3, 2)])
def test_many_writers_at_once_lose_nothing(place, writers, rounds, tmp_path, s3_uri):
    root = str(tmp_path / "registry") if place == "disk" else s3_uri
    running = [
        child(ADDING, root, tmp_path, number, rounds, BEAT_S, PATIENCE_S)
        for number in range(writers)
    ]
    assert "".join(one.communicate()[1] for one in running) == ""
    registry = Registry(root)
    entry = registry.entry("m")
    assert [version.number for version in entry.versions] == list(range(1, writers * rounds + 1))
    expected = {
        hashlib.sha256(model_bytes(100 * number + turn)).hexdigest()
        for number in range(writers)
        for turn in range(rounds)
    }
    assert {version.sha256 for version in entry.versions} == expected
    promoted = [change.after for change in entry.history]
    assert sorted(promoted) == list(range(1, writers * rounds + 1))
    assert [change.before for change in entry.history] == [None, *promoted[:-1]]
    assert entry.aliases == {"production": promoted[-1]}
    check_files(registry)
