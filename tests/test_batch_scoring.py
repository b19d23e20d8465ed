import json
import logging
import os
import re
import time
from pathlib import Path

import pandas as pd
import pytest
from factories import encoded, jpeg_bytes, picture
from PIL import Image

from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.listing import Listing, write_listing
from appliance.bulk.part_scorer import PartJob, PartScorer, ScorerSettings
from appliance.bulk.scores.folder import ScoresFolder
from appliance.bulk.scores.manifest import SUMMARY, read_manifest, read_records
from appliance.bulk.summary import BatchSummary
from appliance.errors import ConfigError, ModelFileError, ServiceError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.on_ray import batch_scoring, job_run
from appliance.on_ray.batch_scoring import score_input
from appliance.on_ray.part_pool import WorkerPool, run_parts
from appliance.on_ray.progress import ImageProgress
from appliance.scoring import ImageScorer

QUIET = BatchScoringConfig(progress="off")
GOOD = jpeg_bytes(seed=7)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # orientation: a quarter turn
FILES = {
    "a.jpg": jpeg_bytes(seed=1),
    "b.JPEG": jpeg_bytes((160, 120), seed=2),
    "broken/cut.jpg": GOOD[: len(GOOD) // 2],
    "broken/empty.jpg": b"",
    "broken/huge.png": encoded(Image.new("L", (3000, 2000)), "PNG"),
    "broken/text.jpg": b"this is no picture",
    "deep/er/c.png": encoded(picture((40, 90), seed=3), "PNG"),
    "deep/turned.jpg": jpeg_bytes(seed=4, exif=TURNED),
    "dot.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "notes.txt": b"not listed",
    "z.webp": encoded(picture((64, 64), seed=5), "WEBP"),
}
LISTED = sorted(name for name in FILES if name != "notes.txt")
ERROR_KINDS = {
    "broken/cut.jpg": "unreadable",
    "broken/empty.jpg": "empty",
    "broken/huge.png": "too_large",
    "broken/text.jpg": "unreadable",
}
LIMITS = ImageLimits(max_pixels=1_000_000)


def write_files(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def assert_records_agree(found, expected):
    """Equal, boxes within half a pixel and scores within a thousandth."""
    assert [row.image_uri for row in found] == [row.image_uri for row in expected]
    for one, other in zip(found, expected, strict=True):
        rows = one.to_row(), other.to_row()
        objects, others = (row.pop("detections") for row in rows)
        assert rows[0] == rows[1]
        assert [row["label"] for row in objects] == [row["label"] for row in others]
        for side in ("x1", "y1", "x2", "y2"):
            assert [row[side] for row in objects] == pytest.approx(
                [row[side] for row in others], abs=0.5
            )
        scores = [row["score"] for row in others]
        assert [row["score"] for row in objects] == pytest.approx(scores, abs=1e-3)


def part_job(folder, names, part="part.parquet"):
    listing_uri = str(folder / "listing.parquet")
    write_listing(listing_uri, Listing.of_files([str(folder / name) for name in names]), len(names))
    return PartJob(0, listing_uri, "files", str(folder / part))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("pictures"), FILES)


@pytest.fixture(scope="module")
def job(pictures, tiny_model_path, tmp_path_factory, ray_cluster):
    """One job over good and bad pictures, by two workers in parts of three."""
    output = tmp_path_factory.mktemp("scores") / "out"
    config = BatchScoringConfig(
        workers=2,
        images_per_part=3,
        batch_size=2,
        max_image_pixels=LIMITS.max_pixels,
        progress="log",
    )
    return score_input(tiny_model_path, pictures, output, config=config)


@pytest.fixture(scope="module")
def expected(pictures, tiny_model_path):
    """The records of the same files, scored in this process without Ray."""
    scorer = ImageScorer.load(str(tiny_model_path), limits=LIMITS, device="cpu")
    names = [str(pictures / name) for name in LISTED]
    return scorer.score([(name, Path(name).read_bytes()) for name in names])


def test_every_picture_gives_exactly_one_row(job, pictures):
    records = read_records(job.output_uri)
    assert [record.image_uri for record in records] == [str(pictures / name) for name in LISTED]
    assert {
        name: record.error_kind
        for name, record in zip(LISTED, records, strict=True)
        if record.error_kind is not None
    } == ERROR_KINDS


def test_rows_equal_those_of_the_scorer_in_process(job, expected):
    assert sum(len(record.detections) for record in expected) > 10
    assert_records_agree(read_records(job.output_uri), expected)


def test_summary_counts_what_was_written(job, expected, pictures):
    assert (job.images, job.rows, job.workers) == (len(LISTED), len(LISTED), 2)
    assert job.errors_by_kind == {"empty": 1, "too_large": 1, "unreadable": 2}
    labels = [found.label for record in expected for found in record.detections]
    assert job.objects_per_label == {label: labels.count(label) for label in sorted(set(labels))}
    assert 0 < job.start_up_s < job.wall_s
    assert job.images_per_s > 0
    document = json.loads((Path(job.output_uri) / SUMMARY).read_text())
    assert document == job.to_json()
    assert BatchSummary.from_json(document) == job
    assert set(job.stages) == {"read", "decode", "predict", "write", "wait"}
    assert job.error_examples["empty"] == [
        f"The picture is empty: {pictures / 'broken/empty.jpg'} (got 0 bytes)"
    ]


def test_manifest_tells_model_input_and_settings(job, pictures, tiny_model_path):
    manifest = read_manifest(job.output_uri)
    assert manifest.rows == len(LISTED)
    assert [part.rows for part in manifest.parts] == [3, 3, 3, 1]
    (run,) = manifest.runs
    assert run.model["uri"] == str(tiny_model_path)
    assert run.model["labels"] == ["circle", "square"]
    assert run.model["sha256"].startswith(job.model_version)
    assert (run.input["uri"], run.input["kind"]) == (str(pictures), "files")
    assert run.settings["max_image_pixels"] == LIMITS.max_pixels


def test_pandas_reads_the_folder_as_it_is(job):
    frame = pd.read_parquet(job.output_uri)
    assert len(frame) == len(LISTED)
    assert frame["error"].notna().sum() == len(ERROR_KINDS)
    assert frame["detections"].map(len).sum() == sum(job.objects_per_label.values())


def test_an_existing_output_is_refused_and_stays(job, pictures, tiny_model_path):
    with pytest.raises(StorageError, match="exists already"):
        score_input(tiny_model_path, pictures / "deep", job.output_uri, config=QUIET)
    assert len(read_records(job.output_uri)) == len(LISTED)


def test_who_wants_drawings_of_what_is_scored_already_is_told_how(
    job, pictures, tiny_model_path, tmp_path, caplog
):
    config = BatchScoringConfig(
        progress="off",
        max_image_pixels=LIMITS.max_pixels,
        annotated_uri=str(tmp_path / "drawn"),
    )
    score_input(tiny_model_path, pictures, job.output_uri, config=config)
    assert "no pictures are drawn into" in caplog.text
    assert not (tmp_path / "drawn").exists()
    write_files(tmp_path, {"drawn/0000000-a.jpg": GOOD})  # as when the job was begun with them
    caplog.clear()
    score_input(tiny_model_path, pictures, job.output_uri, config=config)
    assert "drawn" not in caplog.text


def test_finished_scores_with_more_errors_than_allowed_now_are_refused_and_stay(
    job, pictures, tiny_model_path
):
    config = BatchScoringConfig(
        progress="off", max_image_pixels=LIMITS.max_pixels, max_error_rate=0.1
    )
    with pytest.raises(ServiceError, match="cannot be read.*scored before.*at most 10.0%.*stay"):
        score_input(tiny_model_path, pictures, job.output_uri, config=config)
    assert len(read_records(job.output_uri)) == len(LISTED)


def test_overwriting_replaces_all_rows(tmp_path, tiny_model_path, ray_cluster, monkeypatch):
    # Relative paths, as a user types them: workers may run elsewhere, rows tell the whole path.
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path / "first", {"1.jpg": FILES["a.jpg"], "2.jpg": GOOD})
    write_files(tmp_path / "second", {"3.jpg": FILES["b.JPEG"]})
    score_input(tiny_model_path, "first", "out", config=QUIET)
    summary = score_input(tiny_model_path, "second", "out", config=QUIET, existing="overwrite")
    assert summary.rows == 1
    uris = [str(tmp_path / "second" / "3.jpg")]
    assert pd.read_parquet("out")["image_uri"].tolist() == uris
    assert [record.image_uri for record in read_records("out")] == uris


def test_a_worker_that_cannot_load_the_model_tells_so_plainly(tmp_path, ray_cluster):
    tmp_path.joinpath("model.safetensors").write_bytes(b"no model")
    settings = ScorerSettings(str(tmp_path / "model.safetensors"), LIMITS)
    parts = [part_job(tmp_path, ["a.jpg"])]
    with pytest.raises(ModelFileError, match="Not a model file"):
        list(run_parts(parts, settings, WorkerPool(1, cpus=1, gpus=0), stall_timeout_s=60))


def test_a_worker_that_cannot_write_tells_so_plainly(tmp_path, tiny_model_path, ray_cluster):
    tmp_path.joinpath("taken").write_text("a file where a folder should be")
    settings = ScorerSettings(str(tiny_model_path), LIMITS)
    parts = [part_job(tmp_path, ["a.jpg"], part="taken/part.parquet")]
    with pytest.raises(StorageError, match="Cannot write"):
        list(run_parts(parts, settings, WorkerPool(1, cpus=1, gpus=0), stall_timeout_s=60))


def test_a_job_without_room_on_the_cluster_gives_up(tmp_path, tiny_model_path, ray_cluster):
    write_files(tmp_path, {"pictures/a.jpg": GOOD})
    config = BatchScoringConfig(cpus_per_worker=1000, stall_timeout_s=2.0, progress="off")
    with pytest.raises(ServiceError, match="stands still"):
        score_input(tiny_model_path, tmp_path / "pictures", tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_told_before_any_work(tmp_path, tiny_model_path):
    folder = write_files(tmp_path / "pictures", {"a.jpg": GOOD, "notes/b.txt": b""})
    output = tmp_path / "out"
    with pytest.raises(StorageError, match="No such folder"):
        score_input(tiny_model_path, tmp_path / "nowhere", output)
    with pytest.raises(StorageError, match="No pictures"):
        score_input(tiny_model_path, folder / "notes", output)
    with pytest.raises(StorageError, match="Cannot read the file"):
        score_input(tmp_path / "none.safetensors", folder, output)
    with pytest.raises(ModelFileError, match="Not a model file"):
        score_input(folder / "a.jpg", folder, output)
    with pytest.raises(StorageError, match="no folder"):
        score_input(tiny_model_path, folder, folder / "a.jpg")
    with pytest.raises(ConfigError, match="score_threshold"):
        score_input(tiny_model_path, folder, output, config=BatchScoringConfig(score_threshold=2.0))
    assert not output.exists()


@pytest.mark.parametrize(
    "setting", ["workers", "cpus_per_worker", "batch_size", "images_per_part", "max_image_bytes"]
)
def test_settings_count_from_one(setting):
    with pytest.raises(ConfigError, match=setting):
        BatchScoringConfig(**{setting: 0})


def test_negative_gpus_are_refused():
    with pytest.raises(ConfigError, match="gpus_per_worker"):
        BatchScoringConfig(gpus_per_worker=-1.0)


@pytest.mark.parametrize(
    ("images", "workers", "size"), [(1, 1, 16), (20, 1, 16), (500, 2, 32), (100_000, 4, 1024)]
)
def test_parts_are_few_and_even_out_the_end(images, workers, size):
    assert batch_scoring._images_per_part(images, WorkerPool(workers, cpus=1, gpus=0)) == size


def test_a_job_that_lost_a_part_is_not_committed(tmp_path, tiny_model_path):
    write_files(tmp_path, {"a.jpg": GOOD, "b.jpg": GOOD})
    folder = ScoresFolder(str(tmp_path / "out"))
    listing = Listing.of_files([str(tmp_path / name) for name in ("a.jpg", "b.jpg")])
    facts = {"created_at": "", "mode": "new", "model": {}, "input": {}, "settings": {}}
    job = folder.begin(listing, 1, **facts)
    scorer = PartScorer(ScorerSettings(str(tiny_model_path), LIMITS))
    parts = {part.index: scorer.score_part(part).counts for part in job_run.part_jobs(job, {})}
    job_run.check_complete(parts, job)
    del parts[1]
    with pytest.raises(ServiceError, match="lost parts"):
        job_run.check_complete(parts, job)
    job_run.check_version(parts[0], parts[0].model_version)
    with pytest.raises(StorageError, match="changed while"):
        job_run.check_version(parts[0], "another")


def test_a_picture_that_went_away_is_an_error_row(tmp_path, tiny_model_path):
    write_files(tmp_path, {"a.jpg": GOOD})
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for somebody who writes
    scorer = PartScorer(ScorerSettings(str(tiny_model_path), LIMITS))
    outcome = scorer.score_part(part_job(tmp_path, ["gone.jpg", "a.jpg", "pipe.jpg"]))
    part_path = tmp_path / "part.parquet"
    assert (outcome.counts.index, outcome.counts.rows) == (0, 3)
    assert outcome.counts.errors_by_kind == {"missing": 2}
    assert "got a pipe, socket or device" in outcome.counts.error_examples["missing"][1]
    assert outcome.counts.size_bytes == part_path.stat().st_size
    frame = pd.read_parquet(part_path)
    assert frame["error_kind"].fillna("").tolist() == ["missing", "", "missing"]
    assert pd.isna(frame["content_sha256"][0])


def test_progress_is_a_bar_or_a_line(capsys, caplog):
    caplog.set_level(logging.INFO, logger="appliance")
    with ImageProgress(3, "bar") as progress:
        progress.advance(1, time.time())
        progress.advance(2, time.time())
    assert "3/3" in capsys.readouterr().err
    assert caplog.messages == []
    # Parts that two workers began 10 s ago and finish in the same moment; stderr is no terminal here.
    with ImageProgress(41, "auto", done=1) as progress:
        progress.advance(20, time.time() - 10)
        progress.advance(20, time.time() - 9)
    (message,) = caplog.messages
    speed = re.fullmatch(r"scored 41 of 41 pictures, (.*) images/s, 0:00:00 left", message)
    assert speed is not None
    assert 3.5 < float(speed[1]) <= 4.0
    assert capsys.readouterr().out == ""
