import io
import json

import pandas as pd
import pyarrow.dataset
import pyarrow.parquet
import pytest

from appliance import storage
from appliance.errors import StorageError
from appliance.on_ray.scores_folder import (
    MANIFEST,
    Manifest,
    Part,
    ScoresFolder,
    open_dataset,
    read_manifest,
    read_records,
)
from appliance.records import Record, records_to_table


def record(image_uri):
    return Record(image_uri, "00", 4, 3, "tiny", "1")


def write_part(folder, index, image_uris):
    table = records_to_table(record(uri) for uri in image_uris)
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    storage.write_bytes(folder.part_uri(index), buffer.getvalue())
    name = f"parts/{folder.part_name(index)}"
    return Part(name, len(image_uris), len(buffer.getvalue()))


def manifest_of(folder, parts):
    rows = sum(part.rows for part in parts)
    return Manifest(folder.run_id, "2030-01-01T00:00:00+00:00", rows, tuple(parts), {}, {}, {})


def write_job(uri, image_uris, *, overwrite=False):
    folder = ScoresFolder.create(str(uri), overwrite=overwrite)
    parts = [write_part(folder, index, [name]) for index, name in enumerate(image_uris)]
    folder.commit(manifest_of(folder, parts), {"images": len(image_uris)})
    return folder


def test_records_come_back_in_the_order_of_the_parts(tmp_path):
    names = [f"{index}.jpg" for index in (3, 1, 2, 0, 9)]
    write_job(tmp_path / "out", names)
    assert read_records(tmp_path / "out") == [record(name) for name in names]
    assert open_dataset(tmp_path / "out").count_rows() == 5


def test_scores_may_lie_in_an_object_store(s3_uri):
    names = ["b.jpg", "a.jpg"]
    write_job(f"{s3_uri}/out", names)
    assert read_records(f"{s3_uri}/out") == [record(name) for name in names]
    with pytest.raises(StorageError, match="The output exists already"):
        ScoresFolder.create(f"{s3_uri}/out")


def test_a_running_job_is_invisible(tmp_path):
    out = tmp_path / "out"
    folder = ScoresFolder.create(str(out))
    part = write_part(folder, 0, ["a.jpg"])
    assert pyarrow.dataset.dataset(out, format="parquet").files == []
    with pytest.raises(StorageError, match="No scores of a finished job"):
        read_records(out)
    folder.commit(manifest_of(folder, [part]), {})
    assert pd.read_parquet(out)["image_uri"].tolist() == ["a.jpg"]
    folder.discard()  # after a commit there is nothing to discard
    assert sorted(entry.name for entry in out.iterdir()) == [
        "_manifest.json",
        "_summary.json",
        "parts",
    ]


def test_a_discarded_job_leaves_nothing(tmp_path):
    folder = ScoresFolder.create(str(tmp_path / "new" / "out"))
    write_part(folder, 0, ["a.jpg"])
    folder.discard()
    assert not (tmp_path / "new" / "out").exists()


def test_a_discarded_replacement_leaves_the_earlier_job(tmp_path):
    write_job(tmp_path, ["old.jpg"])
    folder = ScoresFolder.create(str(tmp_path), overwrite=True)
    write_part(folder, 0, ["new.jpg"])
    folder.discard()
    assert read_records(tmp_path) == [record("old.jpg")]


def test_an_existing_output_is_refused_unless_overwritten(tmp_path):
    write_job(tmp_path, ["old.jpg", "older.jpg"])
    with pytest.raises(StorageError, match="exists already"):
        ScoresFolder.create(str(tmp_path))
    write_job(tmp_path, ["new.jpg"], overwrite=True)
    assert read_records(tmp_path) == [record("new.jpg")]
    assert pd.read_parquet(tmp_path)["image_uri"].tolist() == ["new.jpg"]
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


@pytest.mark.parametrize("name", ["holiday.jpg", "parts/other.parquet", "parts"])
def test_other_files_are_never_replaced(tmp_path, name):
    tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
    tmp_path.joinpath(name).write_bytes(b"mine")
    with pytest.raises(StorageError, match="holds other files"):
        ScoresFolder.create(str(tmp_path), overwrite=True)
    assert tmp_path.joinpath(name).read_bytes() == b"mine"


def test_an_output_that_is_a_file_is_refused(tmp_path):
    tmp_path.joinpath("out").write_text("a file")
    with pytest.raises(StorageError, match="no folder"):
        ScoresFolder.create(str(tmp_path / "out"))
    with pytest.raises(StorageError, match="Cannot write to the output folder"):
        ScoresFolder.create(str(tmp_path / "out" / "below"))


def test_of_two_jobs_on_one_folder_the_second_fails_and_the_first_stays(tmp_path):
    first, second = (ScoresFolder.create(str(tmp_path)) for _ in range(2))
    for folder, name in ((first, "first.jpg"), (second, "second.jpg")):
        write_part(folder, 0, [name])
    first.commit(manifest_of(first, [write_part(first, 0, ["first.jpg"])]), {})
    with pytest.raises(StorageError, match="Cannot publish"):
        second.commit(manifest_of(second, []), {})
    second.discard()
    assert read_records(tmp_path) == [record("first.jpg")]


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
