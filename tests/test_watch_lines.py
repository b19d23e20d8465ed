"""Lines on a pipe: names, pictures, nonsense, repetitions, and an end in the middle."""

from __future__ import annotations

import base64
import hashlib
import json
import os

import pytest
from factories import jpeg_bytes
from object_stores import served
from watch_cases import (
    expected_records,
    one_thread,  # noqa: F401 - a fixture
    rows_of,
    streaming,
)

from appliance.bulk.stream.sources import lines

WEB_SERVER = f"""
from http.server import BaseHTTPRequestHandler, HTTPServer
import sys, threading
data = {jpeg_bytes(seed=5)!r}

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/a.jpg" else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


class Pipe:
    """The end to write to; `descriptor` is the other."""

    def __init__(self):
        self.descriptor, writing = os.pipe()
        self._file = os.fdopen(writing, "wb", buffering=0)

    def write(self, *documents):
        for document in documents:
            line = document if isinstance(document, bytes) else json.dumps(document).encode()
            self._file.write(line + b"\n")

    def write_bytes(self, data):
        self._file.write(data)

    def close(self):
        self._file.close()


@pytest.fixture
def pipe():
    pipe = Pipe()
    yield pipe
    pipe.close()
    os.close(pipe.descriptor)


def inline(name, data):
    return {"image_uri": name, "image_in_base64": base64.b64encode(data).decode()}


def test_each_line_gives_one_row(tiny_model_path, tmp_path, pipe):
    first, second, third = (jpeg_bytes(seed=seed) for seed in range(3))
    path = tmp_path / "a.jpg"
    path.write_bytes(first)
    (tmp_path / "b.jpg").write_bytes(second)
    bad = [
        *(b"not json", b'["a.jpg"]', b'{"image_uri": ""}', b'{"image_uri": 3}', b"[" * 100_000),
        *(b'{"uri": "a.jpg"}', b"\xff\xfe", b'{"image_uri": "x", "image_in_base64": "?"}'),
        b'"s3://user:secret@bucket/a.jpg"',
    ]
    with streaming(tiny_model_path, "-", tmp_path / "out", descriptor=pipe.descriptor) as stream:
        pipe.write({"image_uri": str(path)}, str(tmp_path / "b.jpg"), inline("c", third))
        pipe.write(f"file://{path}", inline("c", third), inline("c", first), b"", b"  ")
        pipe.write(inline("broken", b"no picture"), str(tmp_path / "missing.jpg"), *bad)
        pipe.write_bytes(json.dumps(inline("last", second)).encode())  # without a line end
        pipe.close()
        summary = stream.end()
    rows = rows_of(tmp_path / "out")
    found = sorted((row.image_uri, row.content_sha256) for row in rows if row.error is None)
    named = [(str(path), first), (str(tmp_path / "b.jpg"), second), ("last", second)]
    named += [("c", third), ("c", first)]
    assert found == sorted((name, hashlib.sha256(data).hexdigest()) for name, data in named)
    wanted = expected_records(tiny_model_path, {str(path): first})[str(path)]
    assert [row for row in rows if row.image_uri == str(path)] == [wanted]
    errors = {row.image_uri: row for row in rows if row.error is not None}
    lines_of_bad = [f"-#line={number}" for number in range(11, 11 + len(bad))]
    assert sorted(errors) == sorted(["broken", str(tmp_path / "missing.jpg"), *lines_of_bad])
    assert errors[str(tmp_path / "missing.jpg")].error_kind == "missing"
    assert "got 'not json'" in errors["-#line=11"].error
    assert "secret" not in str(errors)
    assert (summary.repeated, summary.ended, summary.source) == (2, "end", "-")


def test_what_is_sent_again_is_scored_once_over_restarts(tiny_model_path, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    documents = [str(tmp_path / "a.jpg"), inline("b", jpeg_bytes(seed=1)), b"nonsense"]
    for expected in (3, 0):
        pipe = Pipe()
        with streaming(
            tiny_model_path, "-", tmp_path / "out", descriptor=pipe.descriptor, once=True
        ) as stream:
            pipe.write(*documents)
            pipe.close()
            summary = stream.end()
        os.close(pipe.descriptor)
        assert summary.images == expected
    assert summary.repeated == 3
    assert len(rows_of(tmp_path / "out")) == 3


def test_a_stop_finishes_the_lines_that_were_read(tiny_model_path, tmp_path, pipe):
    with streaming(
        *(tiny_model_path, "-", tmp_path / "out"),
        descriptor=pipe.descriptor,
        batch_size=2,
        memory_bytes=3000,
    ) as stream:
        pipe.write(*(inline(str(index), jpeg_bytes(seed=index)) for index in range(12)))
        pipe.write_bytes(b'{"image_uri": "half')
        stream.wait_for_rows(1)
        summary = stream.stop()
    rows = rows_of(tmp_path / "out")
    # Lines have no order in the scores, but none of those that were read is missing.
    assert {row.image_uri for row in rows} == {str(index) for index in range(len(rows))}
    assert (summary.images, summary.waiting, summary.ended) == (len(rows), 0, "SIGTERM")


def test_a_line_without_end_does_not_grow(tiny_model_path, tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(lines, "_READ_BYTES", 4096)
    with streaming(
        *(tiny_model_path, "-", tmp_path / "out"), descriptor=pipe.descriptor, max_image_bytes=3000
    ) as stream:
        pipe.write(b'"' + b"x" * 30_000 + b'"', inline("large", b"x" * 3001))
        pipe.write(inline("fits", jpeg_bytes()))
        pipe.write_bytes(b"y" * 20_000)
        pipe.close()
        stream.end()
    kinds = {row.image_uri: row.error_kind for row in rows_of(tmp_path / "out")}
    assert kinds == {
        "-#line=1": "unreadable",
        "large": "too_large",
        "fits": None,
        "-#line=4": "unreadable",
    }


def test_pictures_of_a_web_server_are_known_by_their_bytes(tiny_model_path, tmp_path, pipe):
    """It answers no questions about files before they are fetched."""
    with (
        served(WEB_SERVER) as host,
        streaming(tiny_model_path, "-", tmp_path / "out", descriptor=pipe.descriptor) as stream,
    ):
        pipe.write(f"http://{host}/a.jpg", f"http://{host}/none.jpg")
        stream.wait_for_rows(2)
        pipe.write(f"http://{host}/a.jpg")
        pipe.close()
        assert stream.end().repeated == 1
    kinds = {row.image_uri: row.error_kind for row in rows_of(tmp_path / "out")}
    assert kinds == {f"http://{host}/a.jpg": None, f"http://{host}/none.jpg": "missing"}


def test_a_store_that_does_not_answer_gives_an_error_and_another_chance(
    tiny_model_path, tmp_path, pipe, monkeypatch
):
    monkeypatch.setattr("appliance.bulk.stream.reading.DELAYS_S", (0.01,))
    with served(WEB_SERVER) as host:
        pass  # its port answers no more
    with streaming(tiny_model_path, "-", tmp_path / "out", descriptor=pipe.descriptor) as stream:
        pipe.write(f"http://{host}/a.jpg", f"http://{host}/a.jpg")
        (row,) = stream.wait_for_rows(1)
        pipe.close()
        assert stream.end().repeated == 1
    assert row.error_kind == "unreachable"


def test_a_file_that_changes_at_each_look_is_taken_as_it_is(
    tiny_model_path, tmp_path, pipe, monkeypatch
):
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg_bytes())
    fetch = lines.Files._fetch

    def meddling(self, uri):
        data = fetch(self, uri)
        path.write_bytes(data + b"\0")
        return data

    monkeypatch.setattr(lines.Files, "_fetch", meddling)
    with streaming(tiny_model_path, "-", tmp_path / "out", descriptor=pipe.descriptor) as stream:
        pipe.write(str(path))
        pipe.close()
        assert stream.end().images == 1
