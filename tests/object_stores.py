"""Real object stores on this machine: an S3, a Google Cloud Storage and an Azure server, each a child process.

They must not run in the process of the tests: some calls of Arrow hold Python's global lock while they
wait for an answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import storage

BUCKET = "pictures"

_S3_SERVER = f"""
import logging, sys, urllib.request
logging.disable()
stdout, sys.stdout = sys.stdout, sys.stderr  # it announces itself
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
port = server.get_host_and_port()[1]
bucket = f"http://127.0.0.1:{{port}}/{BUCKET}"
urllib.request.urlopen(urllib.request.Request(bucket, method="PUT")).close()
print(port, file=stdout, flush=True)
sys.stdin.read()
"""

_GS_SERVER = f"""
import logging, sys, threading
logging.disable()
from functools import partial
from http.server import ThreadingHTTPServer
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage
storage = Storage(use_memory_fs=True)
storage.create_bucket("{BUCKET}", {{"name": "{BUCKET}"}})
server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RequestHandler, storage))
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
sys.stdin.read()
"""


_AZURITE = Path(sys.prefix) / "azurite" / "node_modules" / ".bin" / "azurite-blob"
# The account that every Azurite has, by its documentation.
_AZURE_ACCOUNT = "devstoreaccount1"
_AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@contextlib.contextmanager
def served(program: str) -> Iterator[str]:
    """Runs a server that prints its port; it ends when its input does, so it never outlives the tests."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "AWS_"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as server:
        yield f"127.0.0.1:{server.stdout.readline().strip()}"
        server.stdin.close()


@pytest.fixture(scope="session")
def s3_host() -> Iterator[str]:
    """host:port of an S3 server with the bucket "pictures"."""
    with served(_S3_SERVER) as host:
        yield host


@pytest.fixture(scope="session")
def gs_host() -> Iterator[str]:
    """host:port of a Google Cloud Storage server with the bucket "pictures"."""
    with served(_GS_SERVER) as host:
        yield host


@pytest.fixture
def s3_uri(s3_host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new folder in S3, reached through the environment as users reach theirs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_host}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def gs_uri(gs_host: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new folder in Google Cloud Storage, reached through the environment."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://{gs_host}")
    return f"gs://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def az_host() -> Iterator[str]:  # pragma: no cover - where there is no npm
    """host:port of an Azure Blob Storage server."""
    if not _AZURITE.exists():
        pytest.skip("Azurite is not installed: `make setup-dev` does so where there is npm")
    command = [_AZURITE, "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"]
    with subprocess.Popen(
        [*command, "--disableTelemetry"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        told = (re.search(r"successfully listens on http://(\S+)", line) for line in server.stdout)
        yield next(match[1] for match in told if match)
        server.terminate()
        server.stdout.read()


@pytest.fixture
def az_uri(az_host: str, monkeypatch: pytest.MonkeyPatch) -> str:  # pragma: no cover - as above
    """A new folder in Azure Blob Storage, reached through the environment."""
    text = f"AccountName={_AZURE_ACCOUNT};AccountKey={_AZURE_KEY}"
    endpoint = f"BlobEndpoint=http://{az_host}/{_AZURE_ACCOUNT};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", f"{text};{endpoint}")
    filesystem, _ = storage.open_store(f"az://{BUCKET}")
    filesystem.create_dir(BUCKET)
    return f"az://{BUCKET}/{uuid.uuid4().hex}"
