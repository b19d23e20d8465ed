"""What a scoring command makes of what it finds at its output."""

from __future__ import annotations

import pandas as pd
import pytest
from bulk_jobs import begin_here, score_here, score_parts
from factories import jpeg_bytes
from registry_cases import registered

from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing
from appliance.bulk.job_start import Begin, GoOn, Nothing
from appliance.bulk.scores.manifest import read_manifest, read_records
from appliance.errors import LabelError, StorageError
from appliance.model import model_file
from appliance.registry.references import Reference


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / f"{index}.jpg" for index in range(5)]
    for index, path in enumerate(paths):
        path.write_bytes(jpeg_bytes(seed=index))
    return [str(path) for path in paths]


@pytest.fixture
def listing(names):
    return Listing.of_files(names)


@pytest.fixture
def other_model(tiny_model_path, tmp_path):
    """The same network with one weight changed."""
    loaded = model_file.load(str(tiny_model_path))
    next(loaded.network.parameters()).data[0] += 1
    path = tmp_path / "other.safetensors"
    model_file.save(str(path), loaded.network, loaded.spec, name=loaded.name)
    return path


def uris(output):
    return [record.image_uri for record in read_records(output)]


def test_an_interrupted_job_goes_on_with_the_pictures_it_began_with(
    tiny_model_path, listing, names, tmp_path
):
    request, start, job = begin_here(tiny_model_path, listing, tmp_path)
    assert isinstance(start, Begin)
    score_parts(job, request, only=[1])
    before = (tmp_path / f"_job-{job.plan.run_id}/parts" / job.part_name(1)).stat()
    # Meanwhile the folder has grown; the job is the one that was begun.
    _, again, same = begin_here(tiny_model_path, Listing.of_files([*names, "new.jpg"]), tmp_path)
    assert isinstance(again, GoOn)
    assert same.plan == job.plan
    summary = score_here(tiny_model_path, listing, tmp_path)
    after = (tmp_path / "parts" / job.plan.run_id / job.part_name(1)).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert (summary.images, summary.rows) == (5, 5)
    assert uris(tmp_path) == names


def test_the_speed_may_change_while_a_job_goes_on(tiny_model_path, listing, tmp_path):
    begin_here(tiny_model_path, listing, tmp_path)
    config = BatchScoringConfig(batch_size=1, workers=7, images_per_part=3, progress="off")
    _, start, job = begin_here(tiny_model_path, listing, tmp_path, config=config)
    assert isinstance(start, GoOn)
    assert job.plan.images_per_part == 2


@pytest.mark.parametrize(
    ("setting", "told"),
    [({"score_threshold": 0.9}, "score_threshold None"), ({"labels": ("circle",)}, "labels None")],
)
def test_an_unfinished_job_of_another_kind_is_refused(
    setting, told, tiny_model_path, other_model, listing, tmp_path
):
    out = tmp_path / "out"
    begin_here(tiny_model_path, listing, out)
    config = BatchScoringConfig(**setting)
    with pytest.raises(StorageError, match=f"unfinished job that is another one.*{told}"):
        begin_here(tiny_model_path, listing, out, config=config)
    with pytest.raises(StorageError, match=r"unfinished job.*model tiny"):
        begin_here(other_model, listing, out, existing="append")
    _, start, _ = begin_here(tiny_model_path, listing, out, config=config, existing="overwrite")
    assert isinstance(start, Begin)
    assert len(list(out.glob("_job-*"))) == 1


def test_the_same_again_finds_nothing_to_do(tiny_model_path, listing, tmp_path, caplog):
    caplog.set_level("INFO", "appliance")
    first = score_here(tiny_model_path, listing, tmp_path)
    _, start, job = begin_here(tiny_model_path, listing, tmp_path)
    assert job is None
    assert start == Nothing(first)
    assert "holds the scores of these pictures already" in caplog.text


def test_a_commit_that_was_interrupted_is_finished(tiny_model_path, listing, names, tmp_path):
    out = tmp_path / "out"
    request, start, job = begin_here(tiny_model_path, listing, out)
    score_parts(job, request)
    summary = score_here(tiny_model_path, listing, tmp_path / "other")
    job.decide(list(job.done().values()), summary.to_json(), start.before)
    _, again, job = begin_here(tiny_model_path, listing, out, existing="refuse")
    assert (again, job) == (Nothing(summary), None)
    assert uris(out) == names


def test_other_pictures_models_and_settings_are_refused(
    tiny_model_path, other_model, listing, names, tmp_path
):
    out = tmp_path / "out"
    score_here(tiny_model_path, listing, out)
    for model, pictures, config, told in (
        (tiny_model_path, names[:4], BatchScoringConfig(), "5 other pictures"),
        (other_model, names, BatchScoringConfig(), "model tiny"),
        (tiny_model_path, names, BatchScoringConfig(max_detections=1), "max_detections None"),
    ):
        with pytest.raises(StorageError, match=f"exists already.*{told}.*--append"):
            begin_here(model, Listing.of_files(pictures), out, config=config)
    assert uris(out) == names


def test_scores_without_a_manifest_are_not_mixed_with_others(tiny_model_path, listing, tmp_path):
    score_here(tiny_model_path, listing, tmp_path)
    (tmp_path / "_manifest.json").unlink()
    for existing in ("refuse", "append"):
        with pytest.raises(StorageError, match="exists already.*scores without a manifest"):
            begin_here(tiny_model_path, listing, tmp_path, existing=existing)
    score_here(tiny_model_path, listing, tmp_path, existing="overwrite")
    assert len(pd.read_parquet(tmp_path)) == 5


def test_appending_scores_only_what_is_new(tiny_model_path, names, tmp_path, caplog):
    caplog.set_level("INFO", "appliance")
    score_here(tiny_model_path, Listing.of_files(names[:3]), tmp_path)
    summary = score_here(tiny_model_path, Listing.of_files(names), tmp_path, existing="append")
    assert summary.images == 2
    assert uris(tmp_path) == names
    assert sorted(pd.read_parquet(tmp_path)["image_uri"]) == names
    summary = score_here(tiny_model_path, Listing.of_files(names), tmp_path, existing="append")
    assert (summary.images, summary.rows) == (0, 0)
    assert "every picture has been scored by this model already" in caplog.text
    # The output is that of all pictures now: the command without --append has nothing to do.
    assert isinstance(begin_here(tiny_model_path, Listing.of_files(names), tmp_path)[1], Nothing)


def test_another_model_may_be_added_and_rows_tell_it(
    tiny_model_path, other_model, listing, names, tmp_path
):
    out = tmp_path / "out"
    score_here(tiny_model_path, listing, out)
    score_here(other_model, listing, out, existing="append")
    assert uris(out) == names * 2
    versions = [record.model_version for record in read_records(out)]
    assert len(set(versions[:5])) == len(set(versions[5:])) == 1
    assert versions[0] != versions[5]
    assert [run.model["version"] for run in read_manifest(out).runs] == [versions[0], versions[5]]


def test_a_picture_named_twice_is_scored_once_and_that_is_told(
    tiny_model_path, names, tmp_path, caplog
):
    score_here(tiny_model_path, Listing.of_files([*names, names[0], names[2]]), tmp_path)
    assert uris(tmp_path) == names
    assert "2 pictures are named more than once" in caplog.text


def test_a_label_that_the_model_does_not_know_is_refused(tiny_model_path, listing, tmp_path):
    with pytest.raises(LabelError, match=r"does not know this label.*'cirle'.*circle, square"):
        begin_here(tiny_model_path, listing, tmp_path, config=BatchScoringConfig(labels=("cirle",)))


@pytest.fixture
def addresses(tiny_model_path, other_model, tmp_path):
    """Of the two models as versions 1 and 2 of a registry."""
    registry = registered(tmp_path / "registry", tiny_model_path, other_model)
    return [str(registry.address(Reference("shapes", number))) for number in (1, 2)]


def test_rows_name_model_and_version_of_the_registry(addresses, listing, names, tmp_path):
    summary = score_here(addresses[0], listing, tmp_path / "out")
    assert (summary.model_name, summary.model_version) == ("shapes", "1")
    records = read_records(tmp_path / "out")
    assert {(record.model_name, record.model_version) for record in records} == {("shapes", "1")}
    assert read_manifest(tmp_path / "out").runs[0].model["uri"] == addresses[0]


def test_a_job_does_not_go_on_with_what_an_alias_names_since(addresses, listing, tmp_path):
    out = tmp_path / "out"
    begin_here(addresses[0], listing, out)
    with pytest.raises(
        StorageError,
        match=r"got model shapes 1 rather than shapes 2.*Name the model as shapes:1 to go on",
    ):
        begin_here(addresses[1], listing, out)
    _, start, _ = begin_here(addresses[0], listing, out)
    assert isinstance(start, GoOn)


def test_one_file_under_two_names_gives_rows_of_one_name_only(
    addresses, tiny_model_path, listing, names, tmp_path
):
    out = tmp_path / "out"
    begin_here(addresses[0], listing, out)
    with pytest.raises(StorageError, match=r"got model shapes 1 rather than tiny \w{12}.. Repeat"):
        begin_here(tiny_model_path, listing, out)
    score_here(addresses[0], listing, out)
    # What it has scored under one name it does not score again under another.
    again = Listing.of_files([*names, names[0]])
    _, start, _ = begin_here(tiny_model_path, again, out, existing="append")
    assert isinstance(start, Nothing)
