"""`appliance score` with its options, on real inputs: what lies in the output, and what people are told."""

from __future__ import annotations

import csv
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from bulk_jobs import score_here
from factories import jpeg_bytes, picture
from odd_pictures import GOOD, KINDS, ODD
from PIL import Image
from pycocotools.coco import COCO
from registry_cases import registered

from appliance import storage
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.inputs.opening import list_input
from appliance.bulk.scores.manifest import read_records
from appliance.errors import ConfigError
from appliance.model.tiling import Tiling
from appliance.registry.references import Reference


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "pictures.zip"
    with zipfile.ZipFile(path, "w") as members:
        for index in range(6):
            members.writestr(f"a/{index}.jpg", jpeg_bytes(seed=index))
        members.writestr("a/broken.jpg", b"no picture")
        members.writestr("b/left_out.jpg", jpeg_bytes(seed=9))
    return path


def test_one_command_uses_all_options(
    archive, tiny_model_path, tmp_path, run_appliance, ray_cluster, capsys
) -> None:
    out, drawn = tmp_path / "scores", tmp_path / "drawn"
    options = [
        *("--exclude", "b/", "--labels", "circle", "--min-score", 0.4, "--concurrency", "1:2"),
        *("--format", "coco,csv,jsonl", "--annotated", drawn, "--annotated-pictures", "3"),
        *("--tile", "1x2:0.2", "--batch-size", 2, "--images-per-part", 3),
        *("--max-error-rate", 0.5),
    ]
    models = registered(tmp_path / "models", tiny_model_path)
    options += ["--registry", models.root_uri]
    assert run_appliance("score", "shapes@production", archive, out, *options) == 0
    shown = capsys.readouterr().out
    records = read_records(out)
    assert [record.image_uri for record in records] == [
        *(f"zip://a/{index}.jpg::{archive}" for index in range(6)),
        f"zip://a/broken.jpg::{archive}",
    ]
    found = [one for record in records for one in record.detections]
    assert {one.label for one in found} == {"circle"}
    assert min(one.score for one in found) >= 0.4
    # The same without a cluster.
    config = BatchScoringConfig(
        score_threshold=0.4, labels=("circle",), tiling=Tiling(1, 2, 0.2), batch_size=2
    )
    listing = list_input(str(archive)).without(
        pa.chunked_array([[f"zip://b/left_out.jpg::{archive}"]])
    )
    address = models.address(Reference("shapes"))
    score_here(address, listing, tmp_path / "here", config=config)
    assert read_records(tmp_path / "here") == records
    assert {(one.model_name, one.model_version) for one in records} == {("shapes", "1")}
    # And in other forms.
    lines = (out / "_records.jsonl").read_text().splitlines()
    assert [json.loads(line)["image_uri"] for line in lines] == [r.image_uri for r in records]
    rows = list(csv.DictReader((out / "_detections.csv").read_text().splitlines()))
    assert sum(bool(row["label"]) for row in rows) == len(found)
    assert len(COCO(str(out / "_detections.coco.json")).anns) == len(found)
    pictures = sorted(path.name for path in drawn.iterdir())
    assert pictures == ["0000000-0.jpg", "0000003-3.jpg", "0000005-5.jpg"]
    with Image.open(drawn / pictures[1]) as shown_picture:
        assert shown_picture.size == picture(seed=3).size
    assert re.search(r"errors: unreadable +│ +1 ", shown)
    assert "for example: Not a picture: zip://a/broken.jpg" in shown
    assert re.search(r"predict: images/s a thread +│", shown)


def test_too_many_errors_fail_the_job_and_leave_nothing(
    archive, tiny_model_path, tmp_path, run_appliance, ray_cluster, capsys
) -> None:
    options = ("--max-error-rate", "0.1", "--quiet")
    assert run_appliance("score", tiny_model_path, archive, tmp_path / "out", *options) == 1
    told = capsys.readouterr().err
    assert "error: Too many pictures cannot be read" in told
    assert "got 1 unreadable of 8 so far; the first: Not a picture: zip://a/broken.jpg" in told
    assert "at most 10.0% of them" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--overwrite", "--append"], "--overwrite and --append exclude each other"),
        (["--format", "coco,xml"], "Not a form of scores (got 'xml'"),
        (["--annotated-pictures", "many"], "Not a number of pictures (got 'many'"),
        (["--concurrency", "8:1"], "The number of workers is out of range"),
        (["--tile", "2"], "This is no tiling (got 2"),
        (["--labels", "cirle"], "The model does not know this label"),
        (["--annotated", "out/drawn"], "must lie outside of the output"),
        (["--column", "x"], "--column"),
    ],
)
def test_mistakes_are_told_before_a_cluster_starts(
    options, sentence, archive, tiny_model_path, tmp_path, run_appliance, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_appliance("score", tiny_model_path, archive, "out", *options) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert sentence in told
    assert not Path("out").exists()


def test_an_error_rate_is_a_share() -> None:
    with pytest.raises(ConfigError, match="max_error_rate"):
        BatchScoringConfig(max_error_rate=1.1)


SCORE_ALL = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from bulk_jobs import score_here
from appliance.bulk.inputs.opening import list_input
score_here(sys.argv[2], list_input(sys.argv[3]), sys.argv[4])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_broken_and_enormous_pictures_give_a_row_each_in_bounded_memory(
    tiny_model_path, tmp_path
) -> None:
    def peak_mib(folder: Path, output: Path) -> int:
        tests = str(Path(__file__).parent)
        arguments = [tests, tiny_model_path, folder, output]
        done = subprocess.run(
            [sys.executable, "-c", SCORE_ALL, *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "MALLOC_ARENA_MAX": "2"},
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    few, many = tmp_path / "few", tmp_path / "many"
    for folder, copies in ((few, 1), (many, 3)):
        folder.mkdir()
        for name, data in ODD.items():
            for copy in range(copies if name == "large.png" else 1):
                (folder / f"{copy}{name}").write_bytes(data)
    first = peak_mib(few, tmp_path / "few-scores")
    records = {Path(r.image_uri).name[1:]: r for r in read_records(tmp_path / "few-scores")}
    assert {n: r.error_kind for n, r in records.items() if r.error_kind} == KINDS
    assert len(records) == len(ODD)
    assert (records["20000x10.png"].width_px, records["20000x10.png"].height_px) == (20_000, 10)
    # Two more pictures of 324 MiB each: they are not in memory together.
    assert peak_mib(many, tmp_path / "many-scores") < first + 400
    assert len(read_records(tmp_path / "many-scores")) == len(ODD) + 2


def test_a_table_of_pictures_and_a_list_of_names_are_scored_alike(
    tiny_model_path, tmp_path
) -> None:
    data = [jpeg_bytes(seed=index) for index in range(3)]
    for index, one in enumerate(data):
        (tmp_path / f"{index}.jpg").write_bytes(one)
    (tmp_path / "list.txt").write_text("0.jpg\n1.jpg\n2.jpg\n")
    pa.parquet.write_table(pa.table({"image": data}), tmp_path / "table.parquet")
    outputs = []
    for name in ("list.txt", "table.parquet"):
        outputs.append(tmp_path / f"scores-{name}")
        score_here(tiny_model_path, list_input(str(tmp_path / name)), outputs[-1])
    listed, table = ([row.to_row() for row in read_records(output)] for output in outputs)
    assert [row.pop("image_uri") for row in table] == [
        f"{tmp_path / 'table.parquet'}#row={index}" for index in range(3)
    ]
    assert [row.pop("image_uri") for row in listed] == [
        str(tmp_path / f"{index}.jpg") for index in range(3)
    ]
    assert listed == table


@pytest.mark.parametrize("store", ["s3_uri", "gs_uri", "az_uri"])
def test_a_job_from_a_bucket_into_a_bucket(store, request, tiny_model_path, tmp_path) -> None:
    uri = request.getfixturevalue(store)
    for index in range(3):
        storage.write_bytes(f"{uri}/in/{index}.jpg", jpeg_bytes(seed=index))
    listing = list_input(f"{uri}/in")
    score_here(tiny_model_path, listing, f"{uri}/out")
    names = [f"{uri}/in/{index}.jpg" for index in range(3)]
    assert [record.image_uri for record in read_records(f"{uri}/out")] == names
    storage.write_bytes(f"{uri}/in/3.jpg", jpeg_bytes(seed=3))
    score_here(tiny_model_path, list_input(f"{uri}/in"), f"{uri}/out", existing="append")
    assert len(read_records(f"{uri}/out")) == 4
    score_here(tiny_model_path, listing, f"{uri}/out", existing="overwrite")
    assert len(read_records(f"{uri}/out")) == 3


def test_a_picture_that_a_server_gives_at_the_third_time(tiny_model_path, tmp_path) -> None:
    asked = []

    class Flaky(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            busy = asked.count(self.path) < 3 and self.command == "GET"
            body = b"" if busy else GOOD
            self.send_response(503 if busy else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_HEAD(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(GOOD)))
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Flaky) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        uri = f"http://127.0.0.1:{server.server_port}/picture.jpg"
        (tmp_path / "list.txt").write_text(uri + "\n")
        score_here(tiny_model_path, list_input(str(tmp_path / "list.txt")), tmp_path / "scores")
        server.shutdown()
        thread.join()
    (record,) = read_records(tmp_path / "scores")
    assert (record.image_uri, record.error) == (uri, None)
    assert len(asked) == 3
