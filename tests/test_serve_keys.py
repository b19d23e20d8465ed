"""Keys of the service: their file, the command that writes it, and a ring that follows it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from appliance.access_keys import (
    AccessKey,
    RateLimit,
    add_key,
    parse_key_file,
    read_key_file,
    remove_key,
    sha256_of,
)
from appliance.errors import ConfigError, StorageError
from serve_app.errors import RequestError
from serve_app.security.keys import KeyRing, checked_key_file, require_keys
from serve_app.settings import ServiceSettings

HASH = sha256_of(b"a key")
OTHER = sha256_of(b"another key")


class Clock:
    """Seconds as a test tells them."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def bearer(key):
    return f"Bearer {key}"


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.txt"


# --- the file --------------------------------------------------------------------------------------


def test_a_new_key_opens_and_stands_nowhere(key_file):
    token = add_key(key_file, "shop-floor", rate=RateLimit.parse("20/s", 40), admin=True)
    assert len(token) == 47
    assert token not in key_file.read_text()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    (key,) = read_key_file(key_file)
    assert key == AccessKey(
        "shop-floor", sha256_of(token.encode()), RateLimit(20, 40, "20/s"), True
    )
    assert KeyRing(key_file=str(key_file)).identify(bearer(token)) == "shop-floor"
    assert [path.name for path in key_file.parent.iterdir()] == ["keys.txt"]


def test_comments_order_mode_and_links_stay(key_file, tmp_path):
    first = f"# ours\n\nb {HASH} rate=5/min  admin\n  # the next one is old\na {OTHER}"
    key_file.write_text(first)
    key_file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(key_file)
    add_key(link, "c")
    assert link.is_symlink()
    assert key_file.read_text().startswith(first + "\nc  ")
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o640
    remove_key(key_file, "a")
    remove_key(key_file, "c")
    assert (
        key_file.read_text() == f"# ours\n\nb {HASH} rate=5/min  admin\n  # the next one is old\n"
    )
    assert read_key_file(key_file) == (AccessKey("b", HASH, RateLimit(5 / 60, 5, "5/min"), True),)


def test_the_last_key_leaves_a_file_that_is_not_empty(key_file):
    key_file.write_text(f"a {HASH}\n")
    remove_key(key_file, "a")
    assert read_key_file(key_file) == ()
    assert key_file.read_text().startswith("#")
    with pytest.raises(ConfigError, match="no key of that name") as caught:
        remove_key(key_file, "a")
    assert caught.value.hint == "There are none"


def test_an_empty_file_and_a_new_folder_will_do_to_begin_with(tmp_path):
    (tmp_path / "empty").touch()
    add_key(tmp_path / "empty", "a")
    add_key(tmp_path / "new" / "keys.txt", "a")
    assert [key.name for key in read_key_file(tmp_path / "empty")] == ["a"]
    assert [key.name for key in read_key_file(tmp_path / "new" / "keys.txt")] == ["a"]


def test_keys_made_at_once_are_all_there(key_file):
    with ThreadPoolExecutor(8) as threads:
        tokens = list(threads.map(lambda n: add_key(key_file, f"k{n}"), range(24)))
    ring = KeyRing(key_file=str(key_file))
    assert [ring.identify(bearer(token)) for token in tokens] == [f"k{n}" for n in range(24)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n", "A key has no hash: FILE, line 1"),
        ("# x\n\na dak_1234567890\n", "A key has no hash: FILE, line 3"),
        (f"a {HASH.upper()}\n", "A key has no hash"),
        (f"a {HASH}0\n", "A key has no hash"),
        (f"-a {HASH}\n", "That is no name for a key: FILE, line 1"),
        (f"{'a' * 65} {HASH}\n", "That is no name for a key"),
        (f"ä {HASH}\n", "That is no name for a key"),
        (f"a {HASH}\na {OTHER}\n", "The name of a key stands there twice: FILE, line 2 (got a)"),
        (f"a {HASH}\nb {HASH}\n", "The hash of a key stands there twice: FILE, line 2 (got b)"),
        (f"a {HASH} rat=5/s\n", "No such option of a key: FILE, line 1 (got rat=5/s"),
        (f"a {HASH} admin=yes\n", "No such option"),
        (f"a {HASH} admin admin\n", "No such option"),
        (f"a {HASH} rate\n", "No such option"),
        (f"a {HASH} rate=5\n", "No such rate: FILE, line 1 (got '5', expected a whole number a"),
        (f"a {HASH} rate=0/s\n", "No such rate"),
        (f"a {HASH} rate=5/day\n", "No such rate"),
        (f"a {HASH} rate=5/s burst=0\n", "No such burst: FILE, line 1"),
        (f"a {HASH} rate=5/s burst=x\n", "No such burst: FILE, line 1"),
        (f"a {HASH} burst=5\n", "A burst needs a rate: FILE, line 1"),
        (b"\xff\xfe", "Not a key file: FILE"),
    ],
)
def test_a_wrong_line_is_named_and_no_key_repeated(key_file, content, message):
    key_file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ConfigError) as caught:
        read_key_file(key_file)
    assert str(caught.value).startswith(message.replace("FILE", str(key_file)))
    assert "dak_" not in str(caught.value)


RATES = st.builds(
    lambda count, unit, burst: RateLimit.parse(f"{count}/{unit}", burst),
    st.integers(1, 999_999_999),
    st.sampled_from(["s", "min", "h"]),
    st.none() | st.integers(1, 999_999_999),
)


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    st.binary(),
    st.none() | RATES,
    st.booleans(),
)
def test_every_key_is_read_as_it_was_written(name, secret, rate, admin):
    key = AccessKey(name, sha256_of(secret), rate, admin)
    assert parse_key_file(key.line().encode(), where="x") == (key,)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_content_is_keys_or_one_sentence(content):
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    try:
        keys = parse_key_file(data, where="keys.txt")
    except ConfigError as error:
        keys = ()
        assert "keys.txt" in str(error)  # noqa: PT017 - whether there is an error depends
    assert keys == ()


def test_places_that_will_not_do(tmp_path):
    for action in (lambda path: add_key(path, "a"), lambda path: remove_key(path, "a")):
        with pytest.raises(ConfigError, match="Keys must lie in a local file"):
            action("s3://bucket/keys.txt")
        with pytest.raises(StorageError):
            action(tmp_path)
    with pytest.raises(StorageError, match="Cannot write the key file"):
        remove_key(tmp_path / "none" / "keys.txt", "a")
    assert not (tmp_path / "none").exists()
    with pytest.raises(ConfigError, match="no name for a key"):
        add_key(tmp_path / "keys.txt", "a b")


# --- the command -----------------------------------------------------------------------------------


def test_the_command_makes_lists_and_removes_keys(run_appliance, key_file, capsys):
    new = ("keys", "new", "--file", key_file)
    assert run_appliance(*new, "shop-floor", "--rate", "20/s", "--burst", 40) == 0
    printed = capsys.readouterr()
    token = printed.out.strip()
    assert printed.out == f"{token}\n"
    assert token not in printed.err
    assert "shown this once" in printed.err
    assert run_appliance(*new, "ops", "--admin") == 0
    assert run_appliance(*new, "line-2", "--rate", "100/min") == 0
    capsys.readouterr()

    assert run_appliance("keys", "list", "--file", key_file, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["keys"]
    assert [(row["name"], row["rate"], row["burst"], row["admin"]) for row in rows] == [
        ("shop-floor", "20/s", 40, False),
        ("ops", None, None, True),
        ("line-2", "100/min", 100, False),
    ]
    assert rows[0]["sha256"] == sha256_of(token.encode())
    assert run_appliance("keys", "list", "--file", key_file) == 0
    assert "shop-floor" in capsys.readouterr().out

    for name in ("shop-floor", "ops", "line-2"):
        assert run_appliance("keys", "remove", name, "--file", key_file) == 0
    assert run_appliance("keys", "list", "--file", key_file) == 0
    assert capsys.readouterr().out.endswith(f"No keys in {key_file}.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("new", "a"), "There is a key of that name: FILE (got a). Give the new key another"),
        (("new", "a b"), "That is no name for a key (got 'a b', expected at most 64 letters"),
        (("new", "b", "--rate", "5"), "No such rate (got '5', expected a whole number a second"),
        (("new", "b", "--burst", "5"), "--burst needs a rate. Add --rate 20/s."),
        (("remove", "b"), "There is no key of that name: FILE (got b). There are a."),
    ],
)
def test_mistakes_end_in_one_sentence(run_appliance, key_file, capsys, arguments, sentence):
    key_file.write_text(f"a {HASH}\n")
    assert run_appliance("keys", *arguments, "--file", key_file) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {sentence}".replace("FILE", str(key_file)))
    assert key_file.read_text() == f"a {HASH}\n"


def test_the_command_needs_neither_ray_nor_the_service(key_file):
    program = (
        "import sys; from appliance.access_keys import add_key; add_key(sys.argv[1], 'a');"
        "print({'ray', 'serve_app', 'torch', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, key_file], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


# --- the ring --------------------------------------------------------------------------------------


def refused(ring, authorization):
    with pytest.raises(RequestError) as caught:
        ring.identify(authorization)
    assert (caught.value.status, caught.value.code) == (401, "unauthorized")
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}
    return caught.value.message


def test_without_keys_the_ring_is_open():
    ring = KeyRing()
    assert not ring.required
    assert ring.identify(None) is ring.identify("Bearer x") is ring.find(None) is None


def test_keys_of_the_settings_and_of_the_file_both_open(key_file):
    token = add_key(key_file, "shop", rate=RateLimit.parse("5/s"))
    ops = add_key(key_file, "ops", admin=True)
    settings = ServiceSettings(
        model="m", keys="plain,schlüssel", key_file=str(key_file), key_rate="7/min"
    )
    ring = KeyRing.of(settings)
    assert ring.required
    # As a server hands on what a client has sent in UTF-8.
    header = bearer("schlüssel").encode().decode("latin-1")
    assert [ring.identify(each) for each in (bearer("plain"), header)] == ["key-1", "key-2"]
    assert ring.identify(f"bearer   {token} ") == "shop"
    assert (ring.find(bearer(token)).admin, ring.find(bearer(ops)).admin) == (False, True)
    assert [ring.rate_of(name).text for name in ("shop", "ops", "key-1")] == [
        "5/s",
        "7/min",
        "7/min",
    ]
    assert ring.rate_of("nobody") is None


@pytest.mark.parametrize(
    "authorization",
    [
        *(None, "", "Bearer", "Bearer ", "plain", "Basic plain", "Bearer plain2", "Bearer plai"),
        *("Bearer \u20ac", "Bearer " + "x" * 100_000, f"Bearer {sha256_of(b'plain')}"),
    ],
)
def test_anything_else_is_refused(authorization):
    message = refused(KeyRing(["plain"]), authorization)
    assert message.startswith("The service asks for a key")
    assert ("none of its keys" in message) == bool(authorization)


def test_keys_come_and_go_without_a_restart(key_file, caplog):
    caplog.set_level(logging.INFO)
    clock = Clock()
    old = add_key(key_file, "old")
    ring = KeyRing(key_file=str(key_file), clock=clock)
    new = add_key(key_file, "new", rate=RateLimit.parse("3/s"))
    refused(ring, bearer(new))  # the file has been read within this second
    clock.now_s += 1
    assert ring.identify(bearer(new)) == "new"
    assert ring.identify(bearer(old)) == "old"
    assert ring.rate_of("new") == RateLimit(3, 3, "3/s")
    remove_key(key_file, "old")
    clock.now_s += 1
    refused(ring, bearer(old))
    remove_key(key_file, "new")
    clock.now_s += 1
    refused(ring, bearer(new))
    assert ring.required
    for _ in range(3):
        clock.now_s += 1
        refused(ring, None)
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"the key file has changed: it has {count} keys now" for count in (2, 1, 0)]


@pytest.mark.parametrize("breaking", ["wrong", "emptied", "gone"])
def test_a_broken_file_leaves_the_keys_and_is_told_once(key_file, caplog, breaking):
    caplog.set_level(logging.INFO)
    clock = Clock()
    token = add_key(key_file, "shop")
    good = key_file.read_text()
    ring = KeyRing(key_file=str(key_file), clock=clock)
    if breaking == "gone":
        key_file.unlink()
    else:
        key_file.write_text({"wrong": f"{good}b dak_secret\n", "emptied": ""}[breaking])
    for _ in range(3):
        clock.now_s += 1
        assert ring.identify(bearer(token)) == "shop"
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(". The keys from before stay.")
    assert str(key_file) in record.getMessage()
    assert "dak_" not in record.getMessage()

    key_file.write_text(good)
    clock.now_s += 1
    assert ring.identify(bearer(token)) == "shop"
    key_file.write_text("broken again\n")
    clock.now_s += 1
    assert ring.identify(bearer(token)) == "shop"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_a_change_within_a_tick_of_the_file_system_is_seen(key_file):
    clock = Clock()
    key_file.write_text(f"a {HASH}\n")
    before = key_file.stat()
    ring = KeyRing(key_file=str(key_file), clock=clock)
    key_file.write_text(f"a {OTHER}\n")
    os.utime(key_file, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.now_s += 1
    assert ring.identify(bearer("another key")) == "a"


def test_a_ring_does_not_start_without_its_file(key_file):
    with pytest.raises(StorageError):
        KeyRing(key_file=str(key_file))
    key_file.touch()
    with pytest.raises(ConfigError, match="is empty"):
        KeyRing(key_file=str(key_file))


# --- before a service starts -----------------------------------------------------------------------


def test_the_key_file_is_looked_at_before_the_start(key_file, monkeypatch):
    with pytest.raises(StorageError, match="Cannot read the file"):
        checked_key_file(str(key_file))
    key_file.write_text("# none\n")
    with pytest.raises(ConfigError, match="The key file has no keys") as caught:
        checked_key_file(str(key_file))
    assert f"--file {key_file}" in caught.value.hint
    add_key(key_file, "a")
    monkeypatch.chdir(key_file.parent)
    assert checked_key_file("keys.txt") == str(key_file)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_keys(host):
    require_keys(host, ServiceSettings(model="m"))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.com", "localhost.evil"])
def test_elsewhere_keys_are_needed_or_waived(host):
    with pytest.raises(ConfigError) as caught:
        require_keys(host, ServiceSettings(model="m"))
    assert str(caught.value) == (
        f"Without keys the service listens only on loopback (got {host or 'all addresses'}). Make a key "
        "with `appliance keys new NAME --file keys.txt` and give --keys keys.txt, or say --no-keys."
    )
    for values in ({"keys": "k"}, {"key_file": "keys.txt"}, {"no_keys": True}):
        require_keys(host, ServiceSettings(model="m", **values))


def test_settings_that_do_not_fit():
    with pytest.raises(ValidationError, match="no_keys goes with neither"):
        ServiceSettings(model="m", no_keys=True, keys="k")
    with pytest.raises(ValidationError, match="No such rate"):
        ServiceSettings(model="m", key_rate="many")
