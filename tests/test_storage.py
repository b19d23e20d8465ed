"""Listing, reading and writing: local paths, file URIs and a store in memory."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance import storage
from appliance.errors import StorageError

ENDINGS = (".jpg", ".png")


@pytest.fixture
def memory_uri(tmp_path) -> str:
    """A folder of its own in fsspec's store in memory, reached through pyarrow like any bucket."""
    return f"fsspec+memory://{tmp_path}"


@pytest.mark.parametrize(
    ("uri", "remote"),
    [
        ("pictures", False),
        ("/data/pictures", False),
        ("file:///data/pictures", False),
        (Path("/data"), False),
        ("C:/data", False),
        ("odd:name.jpg", False),
        ("s3://bucket/key", True),
        ("gs://bucket", True),
        ("fsspec+memory://x", True),
    ],
)
def test_what_is_remote(uri, remote):
    assert storage.is_remote(uri) is remote


def test_file_uris_are_decoded(tmp_path):
    path = tmp_path / "a b%ü.jpg"
    storage.write_bytes(path.as_uri(), b"x")
    assert path.read_bytes() == b"x"
    assert storage.local_path(path.as_uri()) == storage.local_path(path) == path
    assert storage.read_bytes(path.as_uri()) == storage.read_bytes(str(path)) == b"x"


@pytest.mark.parametrize("as_uri", [Path, str, Path.as_uri])
def test_local_listing_is_sorted_deep_and_skips_what_is_hidden(tmp_path, as_uri):
    for name in ("b.jpg", "a.PNG", "sub/c.Jpg", "sub/.hidden.jpg", ".git/d.jpg", "e.txt", "sub/f"):
        storage.write_bytes(tmp_path / name, b"")
    listed = storage.list_files(as_uri(tmp_path), ENDINGS)
    assert [str(Path(path).relative_to(tmp_path)) for path in listed] == [
        "a.PNG",
        "b.jpg",
        "sub/c.Jpg",
    ]


def test_an_empty_folder_lists_nothing(tmp_path):
    assert storage.list_files(tmp_path, ENDINGS) == []


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"No such folder: .*/nowhere .got nothing"):
        storage.list_files(tmp_path / "nowhere", ENDINGS)


def test_a_file_is_no_folder(tmp_path):
    storage.write_bytes(tmp_path / "a.jpg", b"x")
    with pytest.raises(StorageError, match=r"No such folder: .*a\.jpg .got a file"):
        storage.list_files(tmp_path / "a.jpg", ENDINGS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "No such file"),
        (".", "Is a directory"),
        ("nul\0.jpg", "null"),
        ("/dev/zero", "a device"),  # to read it would take all memory there is
    ],
)
def test_an_unreadable_file_says_which_and_why(tmp_path, name, reason):
    with pytest.raises(StorageError, match=f"Cannot read the file: .*{reason}") as caught:
        storage.read_bytes(tmp_path / name)
    assert caught.value.where == str(tmp_path / name)


def test_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    storage.write_bytes(path, b"old and longer")
    storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", "file/below", "nul\0"])
def test_an_unwritable_file_says_which_and_leaves_nothing(tmp_path, name):
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(StorageError, match="Cannot write the file: "):
        storage.write_bytes(f"{tmp_path}/{name}", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"kept"


def test_a_pipe_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for use in (storage.check_writable, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError, match="pipe .got a device or pipe"):
            use(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_write_that_fails_half_way_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.bin"
    storage.write_bytes(path, b"old")
    with pytest.raises(TypeError):
        storage.write_bytes(path, "text")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_see_the_old_content_or_the_new_never_a_part(tmp_path):
    path = tmp_path / "a.bin"
    contents = [b"a" * 300_000, b"b" * 200_000, b"c" * 400_000]
    storage.write_bytes(path, contents[0])
    seen: set[bytes] = set()
    begun, done = threading.Event(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(storage.read_bytes(path))
            begun.set()

    with ThreadPoolExecutor(1) as reader, path.open("rb") as early:
        reading = reader.submit(read)
        begun.wait()
        half = early.read(1000)
        for content in contents * 20:
            storage.write_bytes(path, content)
        done.set()
        reading.result()
        assert half + early.read() == contents[0]
    assert seen <= set(contents)
    assert list(tmp_path.iterdir()) == [path]


def test_a_store_in_memory_reads_lists_and_writes(memory_uri):
    names = ["a b%20.jpg", "sub/ü.PNG"]
    for name in [*names, "c.txt"]:
        storage.write_bytes(f"{memory_uri}/{name}", name.encode())
    listed = storage.list_files(f"{memory_uri}/", ENDINGS)
    assert listed == [f"{memory_uri}/{name}" for name in names]
    assert [storage.read_bytes(uri).decode() for uri in listed] == names


def test_what_a_store_does_not_have_is_named(memory_uri):
    with pytest.raises(StorageError, match=r"Cannot list the folder: .*/nowhere"):
        storage.list_files(f"{memory_uri}/nowhere", ENDINGS)
    with pytest.raises(StorageError, match=r"Cannot read the file: .*/a\.jpg"):
        storage.read_bytes(f"{memory_uri}/a.jpg")


def test_arrows_own_errors_are_sentences_too():
    with pytest.raises(StorageError, match="Cannot write the file: mock:///no/folder"):
        storage.write_bytes("mock:///no/folder/a.jpg", b"x")


@pytest.mark.parametrize("uri", ["nosuch://bucket/a.jpg", "fsspec+no://a", "sftp://a"])
def test_an_address_that_no_store_knows_is_refused(uri):
    with pytest.raises(StorageError, match="Cannot open the address: ") as caught:
        storage.read_bytes(uri)
    assert caught.value.where == uri
    assert caught.value.got


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(StorageError, match="must not hold a password: s3://bucket/key") as caught:
        storage.read_bytes("s3://KEY:hush@bucket/key")
    assert "hush" not in str(vars(caught.value))
    assert "AWS_SECRET_ACCESS_KEY" in str(caught.value)


def test_whether_a_file_can_be_written_is_known_before_the_work(tmp_path):
    storage.check_writable(tmp_path / "new" / "model.safetensors")
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(StorageError, match="Cannot write there"):
        storage.check_writable("/proc/nowhere/model.safetensors")
    with pytest.raises(StorageError, match="got a folder"):
        storage.check_writable(tmp_path)
