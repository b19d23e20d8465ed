"""The search for settings: what may be searched, what is tried, and a result that trains."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys

import pytest
import yaml
from factories import TINY, plan_for

from appliance.cli.training_settings import read_settings
from appliance.errors import ConfigError, TrainingError
from appliance.on_ray.tuning import Search, check_search, search_on_ray, with_values
from appliance.training.search import SearchRange, SearchResult, Trial, settings_document


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("learning_rate=1e-4:1e-2:log", SearchRange("learning_rate", (), 1e-4, 1e-2, "log")),
        ("flip = 0:0.5", SearchRange("flip", (), 0.0, 0.5)),
        ("batch-size=1:4", SearchRange("batch_size", (), 1.0, 4.0, whole=True)),
        ("optimizer=sgd,adamw", SearchRange("optimizer", ("sgd", "adamw"))),
        ("learning_rate=1e-3,0.01", SearchRange("learning_rate", (0.001, 0.01))),
        ("fpn_channels=32,64", SearchRange("fpn_channels", (32, 64))),
        (
            "anchor_ratios=[1e-1,1,2],[1,2,4]",
            SearchRange("anchor_ratios", ((0.1, 1, 2), (1, 2, 4))),
        ),
    ],
)
def test_ranges_are_read(text, expected) -> None:
    assert SearchRange.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("learning_rate", "Not a range to search"),
        ("learning_rate=", "Not a range to search"),
        ("learning_rate=a:b", "Not a range to search"),
        ("learning_rate=1:2:cubic", "Not a range to search"),
        ("optimizer=[", "Not a range to search"),
        ("learning_rate=5", "One value leaves nothing to search"),
        ("optimizer=sgd,sgd", "One value leaves nothing to search"),
        ("learning_rate=2:1", "The range is empty"),
        ("learning_rate=0:1:log", "begins above 0"),
        (
            "learning_rat=0:1",
            "No setting to search for .got 'learning_rat'.. Did you mean 'learning_rate'",
        ),
        ("zebra=1:2", "No setting to search for.*expected one of accumulation_steps, "),
        ("steps=10:20", "No setting to search for"),
    ],
)
def test_what_cannot_be_searched_is_refused(text, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        SearchRange.parse(text)


def test_trials_are_ranked_and_the_best_becomes_settings(tmp_path) -> None:
    trials = [
        Trial(1, {"learning_rate": 0.1}, 4, 0.5, 2, 1.0),
        Trial(2, {"learning_rate": 0.2}, 1, None, None, 1.0, "failed"),
        Trial(3, {"learning_rate": 0.03, "anchor_sizes_px": (8, 16, 32)}, 4, 0.7, 4, 1.0),
        Trial(4, {"learning_rate": 0.4}, 2, 0.7, 2, 1.0),
    ]
    found = SearchResult.of("map_50", 4, trials)
    assert [trial.number for trial in found.trials] == [3, 4, 1, 2]
    text = settings_document(
        found.best, {"steps": 4, "learning_rate": 9.0}, metric="map_50", command="do it"
    )
    assert text.splitlines() == [
        "# map_50 0.7000 in trial 3. do it",
        "anchor_sizes_px: [8, 16, 32]",
        "learning_rate: 0.03",
        "steps: 4",
    ]
    path = tmp_path / "best.yaml"
    path.write_text(text)
    settings = read_settings("none", str(path), {})
    assert (settings.training.steps, settings.training.learning_rate) == (4, 0.03)
    assert settings.network == {"anchor_sizes_px": (8, 16, 32)}


@pytest.mark.usefixtures("ray_cluster")
def test_a_search_tries_the_recipe_first_and_writes_settings_that_train(
    run_appliance, tiny_scenes_dir, tmp_path, capsys
) -> None:
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(yaml.safe_dump({**TINY, "anchor_sizes_px": [16, 32, 64], "seed": 3}))
    best = tmp_path / "best.yaml"
    arguments = [
        *("tune", tiny_scenes_dir / "train", "--config", tiny, "--steps", 4, "--out", best),
        *("--range", "learning_rate=1e-4:1e-2:log", "--range", "optimizer=sgd,adamw"),
        *("--validation", tiny_scenes_dir / "test", "--trials", 3, "--parallel", 2),
        *("--set", "validate_every_steps=2"),
    ]
    assert run_appliance(*arguments, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)  # Tune itself says nothing
    trials = {trial["number"]: trial for trial in found["trials"]}
    assert sorted(trials) == [1, 2, 3]
    assert trials[1]["values"] == {"learning_rate": 0.001, "optimizer": "adamw"}  # the recipe
    rates = [trials[number]["values"]["learning_rate"] for number in (2, 3)]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    assert len({0.001, *rates}) == 3
    assert max(trial["step"] for trial in trials.values()) == 4
    assert all(trial["error"] is None and 1 <= trial["step"] <= 4 for trial in trials.values())
    assert found["best"] == found["trials"][0]
    assert "trial 3 of 3: " in err
    first_line = best.read_text().splitlines()[0]
    assert first_line.endswith(f"--config {best} --validation {tiny_scenes_dir / 'test'}")
    settings = read_settings("none", str(best), {})
    assert settings.training.learning_rate == found["best"]["values"]["learning_rate"]
    assert (settings.training.steps, settings.training.seed) == (4, 3)
    assert settings.network["backbone"] == "mobilenet_v3_small"


@pytest.mark.usefixtures("ray_cluster")
def test_trials_that_fail_are_told_and_spoil_nothing_unless_all_do(
    tiny_scenes, monkeypatch, caplog
) -> None:
    images = tiny_scenes.images
    plan = plan_for(tiny_scenes, steps=2, optimizer="sgd")
    wild = Search((SearchRange.parse("learning_rate=1e-3,1e30"),), trials=2, seed=0)
    caplog.set_level(logging.INFO, "appliance")
    found = search_on_ray(plan, images, images[:2], wild)
    failed = [trial for trial in found.trials if trial.error]
    assert {trial.values["learning_rate"] for trial in failed} == {1e30}
    assert all("not finite at step" in str(trial.error) for trial in failed)
    assert found.best.values == {"learning_rate": 0.001}
    hopeless = Search((SearchRange.parse("learning_rate=1e29,1e30"),), trials=1)
    with pytest.raises(TrainingError, match=r"Every trial failed.*not finite"):
        search_on_ray(plan, images, images[:2], hopeless, progress=False)


def test_what_is_no_range_is_told_before_anything_else(run_appliance, capsys) -> None:
    assert run_appliance("tune", "nowhere", "--range", "colour=1:2") == 1
    assert "error: No setting to search for" in capsys.readouterr().err
    assert run_appliance("tune", "nowhere", "--range", "flip=0:1", "--hold-out", 0) == 1
    assert "error: --hold-out is out of range (got 0.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ranges", "sentence"),
    [
        (["learning_rate=-1,1"], "learning_rate is out of range"),
        (["backbone=resnet18,resnet1"], "Unknown backbone"),
        (["anchor_sizes_px=8,16"], r"anchor_sizes_px is wrong: --range .got 8.*valid tuple"),
        (["learning_rate=high,low"], "learning_rate is wrong: --range .got 'high'"),
        (["batch_size=1.5,2"], "batch_size is wrong"),
        (["architecture=fasterrcnn_compact,compact"], "Unknown architecture"),
        (["flip=0:0.5", "flip=0.5:1"], "A setting has two ranges"),
    ],
)
def test_what_no_trial_could_take_is_refused_before_a_cluster_starts(
    tiny_scenes, ranges, sentence
) -> None:
    search = Search(tuple(map(SearchRange.parse, ranges)))
    with pytest.raises(ConfigError, match=sentence):
        check_search(plan_for(tiny_scenes, steps=2), tiny_scenes.images, search)


def test_values_go_to_the_network_or_to_training(tiny_scenes) -> None:
    plan = plan_for(tiny_scenes, steps=2)
    assert with_values(plan, {}) == plan
    changed = with_values(plan, {"anchor_sizes_px": (8, 16, 32), "flip": 0.25})
    assert (changed.spec.anchor_sizes_px, changed.config.flip) == ((8, 16, 32), 0.25)


def test_what_lies_at_out_is_not_lost(run_appliance, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    begun = "error: No such dataset folder"  # so far it comes where nothing is in the way

    def told(*arguments: object) -> str:
        assert run_appliance("tune", "nowhere", "--range", "flip=0:0.5", *arguments) == 1
        return capsys.readouterr().err.splitlines()[-1]

    assert told().startswith(begun)
    (tmp_path / "best.yaml").write_text("# map_50 0.7\nflip: 0.5\nfpn_channels: 32\n")
    assert told() == (
        "error: There is a settings file already: best.yaml. Name another one with --out, or replace it "
        "by --overwrite."
    )
    assert told("--overwrite").startswith(begun)
    for name, text in (("notes", "milk and eggs"), ("other.yaml", "a: 1"), ("broken.yaml", "[")):
        (tmp_path / name).write_text(text)
        for flags in ((), ("--overwrite",)):
            message = told("--out", name, *flags)
            assert message.startswith("error: There is a file already, and it is no settings file")
        assert (tmp_path / name).read_text() == text
    assert "For instance --out ./best.yaml" in told("--out", ".")
    os.mkfifo(tmp_path / "pipe")
    assert "it is no settings file" in told("--out", "pipe", "--overwrite")


def test_the_job_is_the_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "jobs.tune", "--help"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert ": appliance tune " in shown.stdout
