import json

import pandas as pd
import pyarrow.dataset
import pytest

from appliance.bulk.inputs.listing import Listing
from appliance.bulk.scores.folder import ScoresFolder
from appliance.bulk.scores.manifest import (
    MANIFEST,
    open_dataset,
    read_manifest,
    read_records,
)
from appliance.bulk.scores.part_file import read_counts, write_part
from appliance.errors import ImageError, StorageError
from appliance.records import DetectedObject, Record

FACTS = {
    "created_at": "2030-01-01T00:00:00+00:00",
    "model": {"name": "tiny", "version": "1", "labels": ["circle"]},
    "input": {},
    "settings": {},
}


def record(image_uri):
    return Record(image_uri, "00", 4, 3, "tiny", "1")


def begin(uri, names, *, mode="new", images_per_part=1):
    folder = ScoresFolder(str(uri))
    folder.prepare()
    return folder.begin(Listing.of_files(names), images_per_part, mode=mode, **FACTS)


def write_parts(job, names):
    """Parts of one picture each."""
    return [
        write_part(job.part_uri(index), index, [record(name)], "1")
        for index, name in enumerate(names)
    ]


def write_job(uri, names, *, mode="new", before=None):
    job = begin(uri, names, mode=mode)
    job.decide(write_parts(job, names), {"images": len(names)}, before)
    job.publish()


def test_records_come_back_in_the_order_of_the_parts(tmp_path):
    names = [f"{index}.jpg" for index in (3, 1, 2, 0, 9)]
    write_job(tmp_path / "out", names)
    assert read_records(tmp_path / "out") == [record(name) for name in names]
    assert open_dataset(tmp_path / "out").count_rows() == 5


def test_a_running_job_is_invisible(tmp_path):
    out = tmp_path / "out"
    job = begin(out, ["a.jpg"])
    parts = write_parts(job, ["a.jpg"])
    assert pyarrow.dataset.dataset(out, format="parquet").files == []
    with pytest.raises(StorageError, match="No scores of a finished job"):
        read_records(out)
    job.decide(parts, {}, None)
    assert pyarrow.dataset.dataset(out, format="parquet").files == []
    job.publish()
    assert pd.read_parquet(out)["image_uri"].tolist() == ["a.jpg"]
    assert sorted(entry.name for entry in out.iterdir()) == [
        "_manifest.json",
        "_summary.json",
        "parts",
    ]


@pytest.mark.parametrize("where", ["disk", "store"])
def test_an_unfinished_job_is_found_with_what_is_done_of_it(where, tmp_path, s3_uri):
    out = str(tmp_path / "out") if where == "disk" else f"{s3_uri}/out"
    names = ["a.jpg", "b.jpg", "c.jpg"]
    job = begin(out, names)
    write_part(job.part_uri(1), 1, [record("b.jpg")], "1")
    found = ScoresFolder(out).unfinished()
    assert found.plan == job.plan
    assert (found.plan.images, found.plan.parts) == (3, 3)
    assert list(found.done()) == [1]
    assert found.decided() is None
    assert ScoresFolder(out).finished() is None


def test_a_damaged_part_counts_as_missing(tmp_path):
    job = begin(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
    write_parts(job, ["a.jpg", "b.jpg", "c.jpg"])
    parts = tmp_path / f"_job-{job.plan.run_id}" / "parts"
    cut, foreign = (parts / job.part_name(index) for index in (0, 2))
    cut.write_bytes(cut.read_bytes()[:-9])
    pd.DataFrame({"image_uri": ["c.jpg"]}).to_parquet(foreign)
    (parts / ".part-half.part").write_bytes(b"what a killed worker leaves")
    assert list(job.done()) == [1]


def test_a_part_of_too_few_rows_counts_as_missing(tmp_path):
    job = begin(tmp_path, ["a.jpg", "b.jpg"], images_per_part=2)
    write_part(job.part_uri(0), 0, [record("a.jpg")], "1")
    assert job.done() == {}


def test_a_job_that_had_not_quite_begun_is_cleared_away(tmp_path):
    job = begin(tmp_path, ["a.jpg"])
    folder = tmp_path / f"_job-{job.plan.run_id}"
    (folder / "job.json").unlink()
    assert ScoresFolder(str(tmp_path)).unfinished() is None
    assert not folder.exists()


@pytest.mark.parametrize("where", ["disk", "store"])
@pytest.mark.parametrize("mode", ["new", "overwrite", "append"])
def test_a_commit_that_is_interrupted_anywhere_is_finished_by_the_next(
    where, mode, tmp_path, s3_uri, monkeypatch
):
    """The process is cut off at its first, second, ... change of the disk until one attempt comes through."""
    out = str(tmp_path / "out") if where == "disk" else f"{s3_uri}/out"
    before = None
    if mode != "new":
        write_job(out, ["old.jpg"])
        before = read_manifest(out)
    job = begin(out, ["a.jpg", "b.jpg"], mode=mode)
    job.decide(write_parts(job, ["a.jpg", "b.jpg"]), {"images": 2}, before)

    class CutOff(BaseException):
        """What nothing catches."""

    import os
    import shutil

    from appliance import storage
    from appliance.storage import folders

    changes = {"left": 0}

    def limited(function):
        def run(*arguments, **options):
            if changes["left"] == 0:
                raise CutOff
            changes["left"] -= 1
            return function(*arguments, **options)

        return run

    attempts = 0
    with monkeypatch.context() as patch:
        for module, name in (
            (os, "rename"),
            (storage, "write_bytes"),
            (folders, "remove_file"),
            (shutil, "rmtree"),
        ):
            patch.setattr(module, name, limited(getattr(module, name)))
        while (unfinished := ScoresFolder(out).unfinished()) is not None:
            # Each attempt gets one change further than the one before, until the job is gone.
            attempts += 1
            changes["left"] = attempts
            try:
                assert unfinished.decided() == {"images": 2}
                unfinished.publish()
            except CutOff:
                pass
            changes["left"] = 10
    assert attempts > 2
    expected = ["old.jpg"] * (mode == "append") + ["a.jpg", "b.jpg"]
    assert [row.image_uri for row in read_records(out)] == expected
    if where == "disk":
        assert sorted(pd.read_parquet(out)["image_uri"]) == sorted(expected)
        names = {"_manifest.json", "_summary.json", "parts"}
        assert {entry.name for entry in (tmp_path / "out").iterdir()} == names


def test_a_job_that_is_given_up_leaves_the_earlier_one(tmp_path):
    write_job(tmp_path, ["old.jpg"])
    job = begin(tmp_path, ["new.jpg"], mode="overwrite")
    write_parts(job, ["new.jpg"])
    job.discard()
    assert read_records(tmp_path) == [record("old.jpg")]
    assert ScoresFolder(str(tmp_path)).unfinished() is None


def test_overwriting_replaces_and_appending_adds(tmp_path):
    write_job(tmp_path, ["old.jpg", "older.jpg"])
    write_job(tmp_path, ["new.jpg"], mode="overwrite")
    assert read_records(tmp_path) == [record("new.jpg")]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1
    write_job(tmp_path, ["newer.jpg"], mode="append", before=read_manifest(tmp_path))
    assert set(pd.read_parquet(tmp_path)["image_uri"]) == {"new.jpg", "newer.jpg"}
    assert read_records(tmp_path) == [record("new.jpg"), record("newer.jpg")]
    assert len(read_manifest(tmp_path).runs) == 2


def test_other_forms_of_earlier_scores_do_not_outlive_them(tmp_path):
    write_job(tmp_path, ["old.jpg"])
    (tmp_path / "_detections.csv").write_text("of old.jpg alone")
    write_job(tmp_path, ["new.jpg"], mode="append", before=read_manifest(tmp_path))
    assert not (tmp_path / "_detections.csv").exists()


def test_what_a_late_worker_writes_is_not_published(tmp_path):
    job = begin(tmp_path, ["a.jpg"])
    late = begin(tmp_path / "elsewhere", ["late.jpg"]).part_name(7)
    parts = write_parts(job, ["a.jpg"])
    (tmp_path / f"_job-{job.plan.run_id}" / "parts" / late).write_bytes(b"late")
    job.decide(parts, {}, None)
    job.publish()
    assert [path.name for path in (tmp_path / "parts").rglob("*.parquet")] == [job.part_name(0)]


@pytest.mark.parametrize("name", ["holiday.jpg", "parts/other.parquet", "parts"])
def test_other_files_are_never_replaced(tmp_path, name):
    tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
    tmp_path.joinpath(name).write_bytes(b"mine")
    with pytest.raises(StorageError, match="holds other files"):
        ScoresFolder(str(tmp_path)).prepare()
    assert tmp_path.joinpath(name).read_bytes() == b"mine"


def test_an_output_that_is_a_file_is_refused(tmp_path):
    tmp_path.joinpath("out").write_text("a file")
    with pytest.raises(StorageError, match="no folder"):
        ScoresFolder(str(tmp_path / "out")).prepare()
    with pytest.raises(StorageError, match="Cannot write to the output folder"):
        ScoresFolder(str(tmp_path / "out" / "below")).prepare()


def test_a_disk_that_refuses_the_commit_loses_nothing(tmp_path):
    job = begin(tmp_path, ["a.jpg"])
    job.decide(write_parts(job, ["a.jpg"]), {}, None)
    (tmp_path / "parts").write_text("a file that came in between")
    with pytest.raises(StorageError, match="Cannot publish"):
        job.publish()
    (tmp_path / "parts").unlink()
    ScoresFolder(str(tmp_path)).unfinished().publish()
    assert read_records(tmp_path) == [record("a.jpg")]


def test_a_lost_or_cut_part_is_noticed(tmp_path):
    write_job(tmp_path, ["a.jpg", "b.jpg"])
    part = tmp_path / read_manifest(tmp_path).parts[1].path
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.raises(StorageError, match="incomplete"):
        read_records(tmp_path)
    part.unlink()
    with pytest.raises(StorageError, match="got no file"):
        read_records(tmp_path)


@pytest.mark.parametrize("text", ["not json", "[]", json.dumps({"format_version": 99}), "{}"])
def test_a_foreign_manifest_is_refused(tmp_path, text):
    tmp_path.joinpath(MANIFEST).write_text(text)
    with pytest.raises(StorageError, match="manifest cannot be read"):
        read_manifest(tmp_path)


def test_the_output_of_an_earlier_version_is_read(tmp_path):
    """Format 1 knew one job, whose parts lay directly in `parts`."""
    part = write_part(str(tmp_path / "parts" / "part-00000-aa.parquet"), 0, [record("a.jpg")], "1")
    document = {
        "format_version": 1,
        "run_id": "aa",
        "created_at": "2026-11-01T00:00:00+00:00",
        "rows": 1,
        "parts": [{"path": "parts/part-00000-aa.parquet", "rows": 1, "size_bytes": part.size_bytes}],
        "model": {"labels": ["circle"]},
        "input": {"uri": "pictures"},
        "settings": {},
    }  # fmt: skip
    tmp_path.joinpath(MANIFEST).write_text(json.dumps(document))
    assert read_records(tmp_path) == [record("a.jpg")]
    ScoresFolder(str(tmp_path)).prepare()
    write_job(tmp_path, ["b.jpg"], mode="append", before=read_manifest(tmp_path))
    assert read_records(tmp_path) == [record("a.jpg"), record("b.jpg")]


def test_a_part_tells_what_is_in_it_and_is_the_same_twice(tmp_path):
    found = DetectedObject(0.0, 0.0, 2.0, 2.0, 0.5, 1, "circle")
    error = ImageError("Not a picture", kind="unreadable", where="b.jpg")
    records = [
        Record("a.jpg", "00", 4, 3, "tiny", "1", (found, found)),
        *(
            Record.of_error(
                error, image_uri=f"{i}", content_sha256=None, model_name="tiny", model_version="1"
            )
            for i in range(5)
        ),
    ]
    first, second = (str(tmp_path / name) for name in ("1.parquet", "2.parquet"))
    counts = write_part(first, 3, records, "1")
    assert write_part(second, 3, records, "1") == counts
    assert (tmp_path / "1.parquet").read_bytes() == (tmp_path / "2.parquet").read_bytes()
    assert read_counts(first, counts.size_bytes) == counts
    assert counts.rows == 6
    assert counts.objects_per_label == {"circle": 2}
    assert counts.errors_by_kind == {"unreadable": 5}
    assert counts.error_examples == {"unreadable": ["Not a picture: b.jpg"] * 3}
