"""What `appliance train --promote` decides, and what it leaves as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
from factories import plan_for
from promotion_cases import two_models

from appliance.cli import comparing
from appliance.cli.promoting import Promotion
from appliance.cli.training_report import TrainingReport
from appliance.errors import DatasetError, LabelError, StorageError
from appliance.model import model_file
from appliance.on_ray.training import TrainedModel
from appliance.registry.references import Reference
from appliance.registry.registry import Registry
from appliance.training.engine import TrainingOutcome


@pytest.fixture(scope="module")
def models(tiny_model_path, tmp_path_factory):
    return two_models(tiny_model_path, tmp_path_factory.mktemp("promoting"))


@pytest.fixture
def registry(models, tmp_path):
    """A registry with the wrong model as version 1 and the right one as version 2; no aliases."""
    registry = Registry(tmp_path / "registry")
    registry.add("shapes", models.wrong)
    registry.add("shapes", models.right)
    return registry


@pytest.fixture
def promotion(models, registry):
    return Promotion("shapes", "production", str(models.data), 0.0, "csv", None, registry.root_uri)


def add_twin_of(file, registry, folder):
    """Adds a version of other bytes and the same answers."""
    loaded = model_file.load(str(file))
    twin = folder / "twin.safetensors"
    model_file.save(str(twin), loaded.network, replace(loaded.spec, max_detections=99))
    return registry.add("shapes", twin).version.number


def aliases(registry):
    return dict(registry.entry("shapes").aliases)


def test_the_first_version_is_promoted_then_only_what_is_better(registry, promotion):
    first = promotion.carry_out(1)
    assert (first.promoted, first.before, first.map_trained) == (True, None, None)
    assert first.sentence == (
        "shapes@production is version 1 now, the first that it names: nothing was compared."
    )
    again = promotion.carry_out(1)
    assert (again.promoted, again.map_before) == (True, None)
    assert "is version 1 already" in again.sentence

    better = promotion.carry_out(2, quiet=True)
    assert (better.promoted, better.before, better.pictures) == (True, 1, 4)
    assert better.map_trained > 0.9 > 0.3 > better.map_before
    assert f"version 2 now: mAP@0.5 {better.map_trained:.3f} on 4 test pictures" in better.sentence
    assert f"version 1 has {better.map_before:.3f}" in better.sentence
    assert aliases(registry) == {"production": 2}

    worse = promotion.carry_out(1)
    assert (worse.promoted, worse.map_before, worse.map_trained) == (
        *(False, better.map_trained, better.map_before),
    )
    assert worse.sentence.startswith("shapes@production stays version 2: version 1 has mAP@0.5 ")
    assert aliases(registry) == {"production": 2}
    assert registry.rollback("shapes").after == 1


def test_a_gain_below_what_is_wanted_and_an_equal_figure_promote_nothing(
    registry, promotion, models, tmp_path
):
    promotion.carry_out(1)
    strict = replace(promotion, min_gain=0.999)
    kept = strict.carry_out(2)
    assert not kept.promoted
    assert kept.sentence.endswith(" (wanted: at least 0.999 more).")
    number = add_twin_of(models.wrong, registry, tmp_path)
    equal = promotion.carry_out(number)
    assert (equal.promoted, equal.map_before) == (False, equal.map_trained)
    assert aliases(registry) == {"production": 1}


def test_what_somebody_else_promotes_meanwhile_is_what_is_to_be_beaten(
    registry, promotion, models, monkeypatch, tmp_path
):
    promotion.carry_out(1)
    twin = add_twin_of(models.wrong, registry, tmp_path)
    real, compared = comparing.comparison, []

    def comparison(old, new, *arguments, **options):
        found = real(old, new, *arguments, **options)
        if not compared:  # as another training that ends now does
            registry.promote(Reference("shapes", version=twin))
        compared.append(old)
        return found

    monkeypatch.setattr(comparing, "comparison", comparison)
    found = promotion.carry_out(2)
    assert len(compared) == 2
    assert (found.promoted, found.before) == (True, twin)
    # Only in place of what it was, also if that was nothing.
    assert registry.promote(Reference("shapes", version=1), instead_of=1).after == 2
    assert registry.promote(Reference("shapes", version=1), "trial", instead_of=2).after == 0
    assert aliases(registry) == {"production": 2}


def test_test_pictures_that_cannot_decide_are_refused_before_training(
    registry, promotion, models, tmp_path
):
    promotion.carry_out(1)
    promotion.check(("circle", "square"))
    promotion.check(("circle",))  # square is what the present version knows
    empty = models.data.with_name("empty.csv")
    empty.write_text("image,label,xmin,ymin,xmax,ymax\n0.jpg,,,,,\n")
    with pytest.raises(DatasetError, match="have no objects to decide by"):
        replace(promotion, test=str(empty)).check(("circle", "square"))
    with pytest.raises(StorageError):
        replace(promotion, test=str(tmp_path / "nowhere")).check(("circle", "square"))
    with pytest.raises(LabelError):
        replace(promotion, name="another").check(("circle",))


def test_a_comparison_that_fails_says_how_to_promote_by_hand(registry, promotion, tmp_path):
    promotion.carry_out(1)
    broken = replace(promotion, alias="trial", test=str(tmp_path / "nowhere"))
    registry.promote(Reference("shapes", version=1), "trial")
    with pytest.raises(StorageError) as failed:
        broken.carry_out(2)
    assert failed.value.hint == (
        "The model is trained, and is shapes:2; to promote it as it is: appliance models promote "
        f"shapes:2 --alias trial --registry {registry.root_uri}"
    )
    assert aliases(registry) == {"production": 1, "trial": 1}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--test", "DATA"), "--test and --min-gain are for --promote"),
        (("--min-gain", 0.1), "--test and --min-gain are for --promote"),
        (("--min-gain", -1), "--min-gain is out of range (got -1"),
        (("--promote", "production", "--test", "DATA"), "--promote needs a name in the registry"),
        (("--promote", "production", "--register", "shapes"), "--promote needs a name"),
        (("--promote", "@", "--register", "shapes", "--test", "DATA"), "That is no name for an"),
    ],
)
def test_options_that_do_not_go_together(run_appliance, capsys, flags, sentence):
    assert run_appliance("train", "nowhere", *flags) == 1
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_the_report_of_a_training_tells_of_it(tiny_scenes, promotion, capsys):
    outcome = TrainingOutcome(step=3, best_step=2, best_metric=0.5)
    report = TrainingReport(
        *("m.safetensors", "run", plan_for(tiny_scenes, steps=3)),
        *(TrainedModel("abc", 1.0, 0.5, outcome), 6, "shapes", 1, promotion.carry_out(1)),
    )
    report.show()
    said = capsys.readouterr().out
    assert "It is shapes:1 in the registry.\n" in said
    assert "shapes@production is version 1 now, the first" in said
    assert "Best:     map_50 0.5000 after step 2" in said
    document = report.document()["promotion"]
    assert (document["alias"], document["promoted"]) == ("shapes@production", True)
    assert document["sentence"] in said
