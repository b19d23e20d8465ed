"""Object stores as users have them: real S3 and Google servers, other fsspec stores, Azure's addresses."""

from __future__ import annotations

import functools
import http.server
import io
import os
import subprocess
import sys
import threading
import urllib.request
import zipfile
from pathlib import Path

import pytest
from factories import jpeg_bytes
from object_stores import BUCKET

from appliance import storage
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats import pascal_voc
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
from appliance.errors import StorageError
from appliance.images.header import PictureHeader
from appliance.storage import azure, failures, object_stores

NAMES = [
    "a b.jpg",
    "sub/ü 日本.JPG",
    "100%.jpg",
    "100%25.jpg",
    "#1.jpg",
    "what?.jpg",
    "c+d&e=f.jpg",
]


@pytest.fixture(params=["s3_uri", "gs_uri", "az_uri"])
def store_uri(request) -> str:
    return request.getfixturevalue(request.param)


def test_names_of_every_kind_are_written_listed_and_read(store_uri):
    for name in [*NAMES, "notes.txt", ".hidden.jpg", ".git/x.jpg"]:
        storage.write_bytes(storage.join(store_uri, name), name.encode())
    listed = storage.list_files(store_uri, (".jpg",))
    assert [storage.read_bytes(uri).decode() for uri in listed] == sorted(NAMES, key=_quoted)
    assert storage.list_files(f"{store_uri}/", (".jpg",)) == listed
    # What people type, without knowing of percent-encoding.
    assert storage.read_bytes(f"{store_uri}/a b.jpg") == b"a b.jpg"
    assert storage.read_bytes(f"{store_uri}/#1.jpg") == b"#1.jpg"
    assert storage.list_files(f"{store_uri}/sub", (".jpg",)) == [
        f"{store_uri}/sub/%C3%BC%20%E6%97%A5%E6%9C%AC.JPG"
    ]


def _quoted(name: str) -> str:
    return storage.join("s3://b", name)


def test_a_whole_bucket_is_listed(store_uri):
    storage.write_bytes(f"{store_uri}/a.whole", b"x")
    bucket = store_uri.rpartition("/")[0]
    assert f"{store_uri}/a.whole" in storage.list_files(bucket, (".whole",))
    assert f"{store_uri}/a.whole" in storage.list_files(f"{bucket}/", (".whole",))


def test_only_what_is_read_is_fetched(store_uri):
    data = os.urandom(300_000)
    storage.write_bytes(f"{store_uri}/a.bin", data)
    with storage.open_input(f"{store_uri}/a.bin") as stream:
        fetched = []
        read_at = stream.raw._file.read_at
        stream.raw._file = _Recording(fetched, read_at)
        assert stream.seek(200_000) == 200_000
        assert stream.read(10) == data[200_000:200_010]
        assert stream.seek(5, os.SEEK_CUR) == 200_015
        assert stream.read(4) == data[200_015:200_019]
        assert stream.seek(-3, os.SEEK_END) == 299_997
        assert stream.read() == data[-3:]
        assert stream.read(1) == b""
        with pytest.raises(OSError, match="Negative"):
            stream.seek(-1)
    assert fetched == [(65536, 200_000), (3, 299_997)]


class _Recording:
    """A remote file that remembers what it was asked for."""

    def __init__(self, fetched, read_at):
        self.fetched, self.ask = fetched, read_at

    def read_at(self, size, position):
        self.fetched.append((size, position))
        return self.ask(size, position)

    def close(self):
        pass


def test_a_file_is_replaced_whole(store_uri):
    uri = f"{store_uri}/a.bin"
    storage.write_bytes(uri, b"old and longer")
    storage.write_bytes(uri, b"new")
    assert storage.read_bytes(uri) == b"new"
    with pytest.raises(TypeError):
        storage.write_bytes(f"{store_uri}/half.bin", "no bytes")
    assert storage.list_files(store_uri, (".bin",)) == [uri]


def test_what_is_missing_is_named(store_uri):
    elsewhere = store_uri.replace(BUCKET, "nobody-has-it")
    for read in (storage.read_bytes, storage.open_input):
        with pytest.raises(StorageError, match=r"Cannot read the file: .*/no\.jpg .got nothing"):
            read(f"{store_uri}/no.jpg")
        with pytest.raises(StorageError, match="Cannot read the file: .*nobody"):
            read(f"{elsewhere}/no.jpg")
    with pytest.raises(StorageError, match="Cannot list the folder: .*got nothing"):
        storage.list_files(f"{store_uri}/nowhere", (".jpg",))
    with pytest.raises(StorageError, match="Cannot list the folder: .*got no"):
        storage.list_files(elsewhere, (".jpg",))
    with pytest.raises(StorageError, match="Cannot write the file: .*got no.*Check the name"):
        storage.write_bytes(f"{elsewhere}/a.jpg", b"x")


def test_whether_a_bucket_is_there_is_known_before_the_work(store_uri):
    storage.check_writable(f"{store_uri}/later.safetensors")
    with pytest.raises(StorageError, match="Cannot write there: .*no bucket 'nobody-has-it'"):
        storage.check_writable(store_uri.replace(BUCKET, "nobody-has-it"))


def test_a_dataset_is_read_from_a_store(store_uri):
    for name in ("one", "two"):
        storage.write_bytes(f"{store_uri}/JPEGImages/{name}.jpg", jpeg_bytes((96, 64)))
        annotation = PictureAnnotation((ObjectAnnotation("egg", (10, 20, 30, 40)),), (64, 96))
        pascal_voc.write(f"{store_uri}/Annotations/{name}.xml", annotation)
    dataset = ObjectDetectionDataset.create_from_dir("remote", store_uri)
    assert [image.name for image in dataset.images] == ["one.jpg", "two.jpg"]
    assert dataset.images[0].size_hw == (64, 96)
    assert dataset.images[1].boxes_xyxy.tolist() == [[10, 20, 30, 40]]
    assert PictureHeader.read(dataset.images[0].storage_path).stored_hw == (64, 96)


def test_denied_requests_say_so_and_what_to_set(s3_host, s3_uri, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "unknown")

    def begin_to_ask_for_rights(after_requests: int) -> None:
        url = f"http://{s3_host}/moto-api/reset-auth"
        body, headers = str(after_requests).encode(), {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, body, headers)).close()

    begin_to_ask_for_rights(0)
    try:
        with pytest.raises(StorageError, match="got permission denied.*Set AWS_ACCESS_KEY_ID"):
            storage.read_bytes(f"{s3_uri}/a.jpg")
        with pytest.raises(StorageError, match="got permission denied.*Set AWS_ACCESS_KEY_ID"):
            storage.list_files(s3_uri, (".jpg",))
        storage.check_writable(f"{s3_uri}/a.jpg")  # a right to write cannot be asked for
    finally:
        begin_to_ask_for_rights(10**9)


@pytest.mark.parametrize(
    "uri",
    [
        "s3://pictures/a.jpg?endpoint_override=127.0.0.1:1&scheme=http",
        "gs://anonymous@pictures/a?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1",
        "http://127.0.0.1:1/a.jpg",
    ],
)
def test_a_store_that_does_not_answer_is_given_up(uri):
    with pytest.raises(StorageError, match="got the store cannot be reached") as caught:
        storage.read_bytes(uri)
    assert "Check the network" in caught.value.hint
    with pytest.raises(StorageError, match="Cannot write"):
        storage.check_writable(uri) or storage.write_bytes(uri, b"x")


def test_without_credentials_google_is_given_up_with_a_hint(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(StorageError, match="gs://pictures/a.jpg") as caught:
        storage.read_bytes("gs://pictures/a.jpg?retry_limit_seconds=1")
    assert caught.value.got


def test_options_are_those_a_store_knows(s3_host, s3_uri, monkeypatch):
    options = f"?endpoint_override={s3_host}&scheme=http"
    storage.write_bytes(f"{s3_uri}/a b.jpg", b"x")
    folder = s3_uri.replace(BUCKET, f"anonymous@{BUCKET}")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    (listed,) = storage.list_files(f"{folder}{options}", (".jpg",))
    assert listed == f"{folder}/a%20b.jpg{options}"
    assert storage.read_bytes(listed) == b"x"
    with pytest.raises(StorageError, match="Unknown option.*got draft.*Write a . that belongs"):
        storage.read_bytes("s3://bucket/what?draft=1")
    with pytest.raises(StorageError, match="Unknown option.*expected none"):
        storage.read_bytes("az://bucket/what?draft=1")


@pytest.mark.parametrize("uri", ["s3://", "gs:///key", "abfs://"])
def test_an_address_without_a_bucket_is_refused(uri):
    with pytest.raises(StorageError, match="names no bucket"):
        storage.read_bytes(uri)


@pytest.mark.parametrize(
    ("folder", "names", "joined"),
    [
        ("/data", ("a", "b.jpg"), "/data/a/b.jpg"),
        ("file:///my%20data", ("a",), "/my data/a"),
        ("s3://b/x/", ("a b", "ü#?.jpg"), "s3://b/x/a%20b/%C3%BC%23%3F.jpg"),
        ("s3://b?region=eu-west-1", ("a",), "s3://b/a?region=eu-west-1"),
        ("memory://x", ("a b%.jpg",), "memory://x/a b%.jpg"),
        ("zip://in::/data/a.zip", ("b.jpg",), "zip://in/b.jpg::/data/a.zip"),
        ("zip://::/data/a.zip", ("b.jpg",), "zip:///b.jpg::/data/a.zip"),
    ],
)
def test_addresses_are_joined(folder, names, joined):
    assert storage.join(folder, *names) == joined


def test_a_zip_file_is_a_folder_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/a b%.jpg", b"hello")
        archive.writestr("in/sub/ü.jpg", b"x")
    for folder, count in (("in", 2), ("in/sub", 1), ("", 2)):
        listed = storage.list_files(f"zip://{folder}::{tmp_path}/a.zip", (".jpg",))
        assert len(listed) == count
    uri = f"zip://in/a b%.jpg::{tmp_path}/a.zip"
    assert storage.read_bytes(uri) == b"hello"
    with storage.open_input(uri) as stream:
        stream.seek(1)
        assert stream.read(3) == b"ell"
    with pytest.raises(StorageError, match="Cannot write the file: zip://"):
        storage.write_bytes(f"zip://in/new.jpg::{tmp_path}/a.zip", b"x")
    with pytest.raises(StorageError, match="Cannot open the address: .*got nothing"):
        storage.read_bytes(f"zip://a.jpg::{tmp_path}/nowhere.zip")


def test_the_store_in_memory_needs_no_prefix(tmp_path):
    storage.write_bytes(f"memory://{tmp_path}/a b#?.jpg", b"hello")
    (listed,) = storage.list_files(f"memory://{tmp_path}", (".jpg",))
    assert storage.read_bytes(listed) == b"hello"
    storage.check_writable(listed)


def test_pictures_on_a_web_server(tmp_path):
    (tmp_path / "a b.jpg").write_bytes(jpeg_bytes((96, 64)))
    handler = functools.partial(_QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        site = f"http://127.0.0.1:{server.server_port}"
        assert storage.list_files(site, (".jpg",)) == [f"{site}/a%20b.jpg"]
        assert storage.read_bytes(f"{site}/a b.jpg") == (tmp_path / "a b.jpg").read_bytes()
        # This server sends no ranges: the file is read whole.
        assert PictureHeader.read(f"{site}/a%20b.jpg").size_hw == (64, 96)
        with pytest.raises(StorageError, match="got nothing"):
            storage.read_bytes(f"{site}/no.jpg")
        with pytest.raises(StorageError, match="Cannot write the file"):
            storage.write_bytes(f"{site}/no.jpg", b"x")
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("uri", "located"),
    [
        ("az://pictures/a/b.jpg", (None, "pictures", "a/b.jpg")),
        ("abfs://pictures", (None, "pictures", "")),
        ("abfs://pictures@shop.dfs.core.windows.net/a%20b", ("shop", "pictures", "a b")),
        ("abfss://pictures@shop/a", ("shop", "pictures", "a")),
        ("abfss://shop.blob.core.windows.net/pictures/a", ("shop", "pictures", "a")),
    ],
)
def test_addresses_in_azure(uri, located):
    address = object_stores.BucketAddress.parse(uri)
    assert azure.locate(address.user, address.bucket, address.key, source=uri) == located


def test_an_azure_account_without_container_is_refused():
    with pytest.raises(StorageError, match="names no container: abfs://shop"):
        storage.read_bytes("abfs://shop.dfs.core.windows.net")


@pytest.mark.parametrize(
    ("account", "environment", "settings"),
    [
        ("shop", {}, {"account_name": "shop"}),
        (
            None,
            {"AZURE_STORAGE_ACCOUNT": "shop", "AZURE_STORAGE_KEY": "k"},
            {"account_name": "shop", "account_key": "k"},
        ),
        (
            "other",
            {"AZURE_STORAGE_ACCOUNT_NAME": "shop", "AZURE_STORAGE_SAS_TOKEN": "?sv=1"},
            {"account_name": "other", "sas_token": "?sv=1"},
        ),
        (
            None,
            {
                "AZURE_STORAGE_CONNECTION_STRING": "AccountName=dev;AccountKey=a+b==;"
                "BlobEndpoint=http://127.0.0.1:10000/dev;",
                "AZURE_STORAGE_SAS_TOKEN": "?sv=1",
            },
            {
                "account_name": "dev",
                "account_key": "a+b==",
                "blob_storage_authority": "127.0.0.1:10000",
                "blob_storage_scheme": "http",
                "dfs_storage_authority": "127.0.0.1:10000",
                "dfs_storage_scheme": "http",
            },
        ),
        (
            None,
            {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=shop;SharedAccessSignature=sv=1"},
            {"account_name": "shop", "sas_token": "sv=1"},
        ),
    ],
)
def test_azure_is_reached_as_its_environment_says(account, environment, settings):
    assert azure.settings(account, environment) == settings


@pytest.fixture
def no_azure(monkeypatch) -> None:
    for name in ("ACCOUNT", "ACCOUNT_NAME", "KEY", "ACCOUNT_KEY", "SAS_TOKEN", "CONNECTION_STRING"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}", raising=False)


def test_an_unknown_azure_account_is_asked_for(no_azure):
    with pytest.raises(StorageError, match="account is not known: az://pictures/a.*Set AZURE_"):
        storage.read_bytes("az://pictures/a")


def test_without_credentials_azure_does_not_end_the_process(no_azure, monkeypatch):
    # Its library does where it finds none; here a child that is ended stands for it.
    monkeypatch.setattr(azure, "_CHECK", "import os; os.abort()")
    with pytest.raises(StorageError, match="No credentials for Azure were found: aborted"):
        storage.read_bytes("abfs://pictures@aborted/a.jpg")
    monkeypatch.setattr(azure, "_CHECK", "input()")
    monkeypatch.setattr(azure, "_CHECK_TIMEOUT_S", 0.0)
    with pytest.raises(StorageError, match="No credentials for Azure were found: silent"):
        storage.read_bytes("abfs://pictures@silent/a.jpg")
    monkeypatch.undo()


def test_azure_opens_with_a_key(no_azure, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
    filesystem, path = storage.open_store("abfs://pictures@shop/a%20b.jpg")
    assert filesystem.type_name == "abfs"
    assert path == "pictures/a b.jpg"


def test_a_store_is_opened_once_and_anew_when_the_environment_changes(s3_uri, monkeypatch):
    first = storage.open_store(f"{s3_uri}/a.jpg")[0]
    assert storage.open_store(f"{s3_uri}/b.jpg")[0] is first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    assert storage.open_store(f"{s3_uri}/b.jpg")[0] is not first


@pytest.mark.parametrize(
    ("message", "got"),
    [
        ("AWS Error NO_SUCH_BUCKET during ListObjectsV2", "no such bucket"),
        ("AWS Error ACCESS_DENIED during HeadObject operation", "permission denied"),
        ("google::cloud::Status(PERMISSION_DENIED: a)", "permission denied"),
        ("Azure Error: [AuthorizationFailure] 403 Server failed", "permission denied"),
        ("Could not create a OAuth2 access token to authenticate", "no credentials were found"),
        ("curlCode: 28, Timeout was reached", "the store cannot be reached"),
        ("something new\nwith details", "something new"),
        ("", "OSError()"),
    ],
)
def test_what_stores_say_becomes_a_few_words(message, got):
    raising = OSError(message) if message else OSError()
    with (
        pytest.raises(StorageError, match="Cannot read: s3://b/a") as caught,
        failures.explained("Cannot read", "s3://b/a"),
    ):
        raise raising
    assert caught.value.got == got


def test_local_work_loads_no_store(tmp_path):
    program = f"""
import sys
from appliance import storage
storage.write_bytes("{tmp_path}/a.jpg", b"x")
storage.list_files("{tmp_path}", (".jpg",))
storage.open_input("{tmp_path}/a.jpg").close()
assert not {{"pyarrow", "fsspec", "aiohttp"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_a_local_file_is_opened_to_read_parts(tmp_path):
    (tmp_path / "a").write_bytes(b"hello")
    with storage.open_input(tmp_path / "a") as stream:
        stream.seek(1)
        assert stream.read(2) == b"el"
        assert not isinstance(stream, io.BytesIO)
    with pytest.raises(StorageError, match="Cannot read the file: .*No such file"):
        storage.open_input(tmp_path / "b")
