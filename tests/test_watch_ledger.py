"""What a stream remembers, and what it makes of an output: its own after any kill, another's, or a damaged one."""

from __future__ import annotations

import threading
import time
import tracemalloc

import pytest
from factories import jpeg_bytes
from registry_cases import registered
from tiny_fixtures import TINY
from watch_cases import (
    one_thread,  # noqa: F401 - a fixture
    parts_of,
    rows_of,
    score_once,
    streaming,
)

from appliance.bulk.stream import watcher
from appliance.bulk.stream.config import StreamConfig, parse_duration_s
from appliance.bulk.stream.intake import Intake
from appliance.bulk.stream.ledger import Ledger, key_of
from appliance.bulk.stream.output import StreamOutput
from appliance.bulk.stream.sources.identities import scan
from appliance.bulk.stream.sources.watched_folder import WatchedFolder
from appliance.errors import ConfigError, ServiceError, StorageError
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import ModelSpec
from appliance.registry.references import Reference


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes(jpeg_bytes(seed=index))
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def keys(*names):
    return [key_of(name, "1") for name in names]


def test_a_picture_is_reserved_once(tmp_path):
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite")
    first = ledger.reserve(keys("a", "b", "a"), "2030-01-01")
    assert (first.batch.number, first.fresh) == (0, (0, 1))
    assert ledger.unfinished() == [first.batch]
    assert ledger.reserved_rows(0) == 2
    ledger.finish(0, to_post=True)
    assert ledger.reserve(keys("b", "a"), "2030-01-01") is None
    second = ledger.reserve([*keys("b", "c"), key_of("a", "2")], "2030-01-01")
    assert (second.batch.number, second.fresh) == (1, (1, 2))
    ledger.forget(1)
    assert ledger.reserve(keys("c"), "2030-01-02").batch.number == 1
    ledger.finish(1, to_post=False, remember=False)
    assert ledger.scored(keys("a", "c", "d")) == set(keys("a"))
    assert (ledger.rows(), ledger.posts("waiting"), ledger.unfinished()) == (3, 1, [])
    ledger.close()
    with pytest.raises(StorageError, match="ledger of the stream cannot be used"):
        ledger.rows()


def test_many_keys_are_looked_up_at_once(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    many = keys(*map(str, range(1500)))
    ledger.reserve(many[:1200], "2030-01-01")
    ledger.finish(0, to_post=False)
    assert ledger.scored(many) == set(many[:1200])
    ledger.close()


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    with pytest.raises(StorageError, match="UNIQUE"):
        ledger.begin({"run": "1"}) or ledger.begin({"other": 1, "run": "2"})
    assert ledger.about() == {"run": "1"}
    ledger.close()


def test_a_ledger_is_held_by_one_process_and_must_be_one(tmp_path):
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    with pytest.raises(StorageError, match="another process that holds it"):
        Ledger(path)
    ledger.close()
    path.write_bytes(b"no database " * 100)
    with pytest.raises(StorageError, match="file is not a database"):
        Ledger(path)
    with pytest.raises(StorageError, match="cannot be used"):
        Ledger(path / "below")


class CutOff(BaseException):
    """What nothing catches: stands for a kill."""


@pytest.mark.parametrize("at", ["before the part", "after the part"])
def test_a_batch_that_was_cut_off_is_in_one_part(at, tiny_model_path, incoming, out, monkeypatch):
    """Between reservation and part, and between part and ledger. Real kills are in `test_watch_survives`."""
    with monkeypatch.context() as patch:

        def cut_off(*_, **__):
            raise CutOff

        where = (StreamOutput, "write") if at == "before the part" else (Ledger, "finish")
        patch.setattr(*where, cut_off)
        with pytest.raises(CutOff):
            score_once(tiny_model_path, incoming, out)
    assert len(parts_of(out)) == (at == "after the part")
    for leftover in (
        out / "._summary.json.0a.part",
        *[p.with_name(f".{p.name}.0a.part") for p in parts_of(out)],
    ):
        leftover.write_bytes(b"half")
    summary = score_once(tiny_model_path, incoming, out, webhook_url=None)
    assert (summary.images, summary.rows) == ((3, 3) if at == "before the part" else (0, 3))
    assert len(rows_of(out)) == 3
    assert list(out.rglob(".*")) == []


def test_a_part_that_is_damaged_is_scored_again(tiny_model_path, incoming, out, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            score_once(tiny_model_path, incoming, out)
    (part,) = parts_of(out)
    part.write_bytes(part.read_bytes()[:-5])
    assert score_once(tiny_model_path, incoming, out).images == 3
    assert parts_of(out) == [part]
    assert len(rows_of(out)) == 3


def test_another_model_source_or_setting_is_refused(tiny_model_path, incoming, out, tmp_path):
    score_once(tiny_model_path, incoming, out)
    other = tmp_path / "other.safetensors"
    spec = ModelSpec.of(LabelMap(("dog",)), **TINY)
    model_file.save(str(other), build_network(spec), spec, name="other")
    with pytest.raises(StorageError, match=r"belongs to another stream: .*model tiny"):
        score_once(other, incoming, out)
    with pytest.raises(StorageError, match=r"belongs to another stream: .*input uri .*incoming"):
        score_once(tiny_model_path, tmp_path, out)
    with pytest.raises(StorageError, match=r"another stream: .*score_threshold None"):
        score_once(tiny_model_path, incoming, out, score_threshold=0.7)
    ledger = str(out / "_ledger.sqlite")
    with pytest.raises(StorageError, match=r"another stream: .*got output .*out"):
        score_once(tiny_model_path, incoming, tmp_path / "out2", ledger_path=ledger)
    assert score_once(tiny_model_path, incoming, out, include=("0.jpg",)).images == 0


def test_a_stream_does_not_go_on_with_what_an_alias_names_since(
    tiny_model_path, incoming, out, tmp_path
):
    spec = ModelSpec.of(LabelMap(("dog",)), **TINY)
    other = tmp_path / "other.safetensors"
    model_file.save(str(other), build_network(spec), spec)
    models = registered(tmp_path / "models", tiny_model_path, other)
    score_once(models.address(Reference("shapes")), incoming, out)
    models.promote(Reference("shapes", 2))
    with pytest.raises(StorageError, match=r"model shapes 1 rather than .*as shapes:1 to go on"):
        score_once(models.address(Reference("shapes")), incoming, out)
    assert score_once(models.address(Reference("shapes", 1)), incoming, out).images == 0


def test_scores_without_their_ledger_are_refused(tiny_model_path, incoming, out, tmp_path):
    score_once(tiny_model_path, incoming, out, ledger_path=str(tmp_path / "mine.sqlite"))
    for ledger in (None, str(tmp_path / "fresh.sqlite")):
        with pytest.raises(StorageError, match="their ledger is not there"):
            score_once(tiny_model_path, incoming, out, ledger_path=ledger)
    (tmp_path / "empty.sqlite").touch()
    with pytest.raises(StorageError, match="their ledger is not there"):
        score_once(tiny_model_path, incoming, out, ledger_path=str(tmp_path / "empty.sqlite"))
    with pytest.raises(ConfigError, match="must lie on a disk"):
        score_once(tiny_model_path, incoming, out, ledger_path="s3://bucket/ledger")


def test_an_output_of_others_is_refused(tiny_model_path, incoming, out):
    out.mkdir()
    (out / "_manifest.json").write_text("{}")
    (out / "holiday.jpg").write_text("mine")
    with pytest.raises(StorageError, match=r"holds other files.*_manifest.json, holiday.jpg"):
        score_once(tiny_model_path, incoming, out)
    with pytest.raises(StorageError, match="Cannot write to the output folder"):
        score_once(tiny_model_path, incoming, out / "holiday.jpg")


def test_an_output_has_one_stream_at_a_time(tiny_model_path, incoming, out):
    with streaming(tiny_model_path, incoming, out) as stream:
        stream.wait_for_rows(3)
        with pytest.raises(StorageError, match="Another job writes to this output"):
            score_once(tiny_model_path, incoming, out)
        stream.stop()


def test_a_stream_that_lost_its_output_writes_no_more(tiny_model_path, incoming, out, monkeypatch):
    class Lost:
        def check(self):
            raise ServiceError("Another job has taken over the output")

    monkeypatch.setattr(watcher, "owned", lambda uri: _entered(Lost()))
    with pytest.raises(ServiceError, match="taken over"):
        score_once(tiny_model_path, incoming, out)
    assert parts_of(out) == []


class _entered:  # noqa: N801 - stands in for a function
    def __init__(self, value):
        self._value = value

    def __enter__(self):
        return self._value

    def __exit__(self, *_):
        return None


def test_a_store_that_refuses_for_a_while_is_waited_for(
    tiny_model_path, incoming, out, monkeypatch, caplog
):
    write, failures = StreamOutput.write, [True, True]
    monkeypatch.setattr(watcher, "_FIRST_PAUSE_S", 0.05)

    def refusing(self, *arguments):
        if failures:
            raise StorageError("Cannot write the file", transient=failures.pop())
        return write(self, *arguments)

    monkeypatch.setattr(StreamOutput, "write", refusing)
    assert score_once(tiny_model_path, incoming, out).images == 3
    assert caplog.text.count("writing again") == 2
    failures.append(False)
    (incoming / "new.jpg").write_bytes(jpeg_bytes(seed=9))
    with pytest.raises(StorageError, match="Cannot write the file"):
        score_once(tiny_model_path, incoming, out)
    failures.clear()
    assert score_once(tiny_model_path, incoming, out).rows == 4


def test_a_summary_that_cannot_be_written_is_no_reason_to_end(
    tiny_model_path, incoming, out, caplog
):
    caplog.set_level("INFO")
    (out / "_summary.json").mkdir(parents=True)
    assert score_once(tiny_model_path, incoming, out, report_every_s=0.01).images == 3
    assert "cannot write the summary" in caplog.text
    assert "3 waiting, the oldest for" in caplog.text


def test_what_fails_in_a_thread_ends_the_stream(tiny_model_path, incoming, out, monkeypatch):
    monkeypatch.setattr(Intake, "_read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        score_once(tiny_model_path, incoming, out)


def test_a_read_that_hangs_does_not_hold_up_the_end(tiny_model_path, incoming, out, monkeypatch):
    monkeypatch.setattr("appliance.bulk.stream.intake._END_S", 0.2)
    entered, go_on = threading.Event(), threading.Event()

    def hanging(*_):
        entered.set()
        go_on.wait(60)

    monkeypatch.setattr(Intake, "_read", hanging)
    with streaming(tiny_model_path, incoming, out) as stream:
        assert entered.wait(30)
        assert stream.stop().images == 0
        go_on.set()


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("1s", 1), ("1.5s", 1.5), ("2m", 120), ("1h", 3600)]
)
def test_durations(text, seconds):
    assert parse_duration_s(text, "--poll") == seconds


@pytest.mark.parametrize("text", ["", "1", "s", "-1s", "1 s", "1d", "1e3s", "nans"])
def test_what_is_no_duration(text):
    with pytest.raises(ConfigError, match="--poll is no duration"):
        parse_duration_s(text, "--poll")


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 0},
        {"memory_bytes": 0},
        {"settle_s": -1.0},
        {"poll_s": 0.0},
        {"max_image_bytes": 0},
    ],
)
def test_settings_out_of_range(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        StreamConfig(**settings)


@pytest.mark.slow
def test_a_hundred_thousand_known_files_are_cheap(tiny_model_path, tmp_path, out):
    """A look at them all: seconds of one core, and no memory to speak of."""
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(100_000):
        (folder / f"{index}.jpg").touch()
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.reserve(
        [key_of(uri, identity) for _, uri, identity in scan(str(folder), (".jpg",))], "d"
    )
    ledger.finish(0, to_post=False)
    watched = WatchedFolder(str(folder), ledger, max_bytes=1, settle_s=0, poll_s=1, once=True)
    started_s = time.process_time()
    assert list(watched.arrivals()) == []
    took_s = time.process_time() - started_s
    tracemalloc.start()
    watched._look_round(2)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"{took_s:.2f} s, {peak_bytes:,} bytes")
    assert took_s < 5
    assert peak_bytes < 20e6
    ledger.close()
