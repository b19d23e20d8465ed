"""Pictures in zip archives, honest and hostile ones."""

from __future__ import annotations

import io
import random
import stat
import struct
import tracemalloc
import zipfile

import pytest
from factories import jpeg_bytes
from input_reading import names_of, read_all, refs_of

from appliance import storage
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import open_container
from appliance.bulk.inputs.patterns import NameFilter
from appliance.bulk.inputs.zips import list_zip
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import ImageLimits

LIMITS = ImageLimits(max_bytes=2**20)
JPEG = jpeg_bytes()


def write(uri, members, compression=zipfile.ZIP_DEFLATED) -> str:
    """Writes an archive; `members` are names, or `ZipInfo`s, with their content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)
    storage.write_bytes(uri, buffer.getvalue())
    return str(uri)


def patch(path, pack: str, offset: int, *values, local_too: bool = False) -> None:
    """Overwrites something in the table of contents of an archive with one member."""
    data = bytearray(path.read_bytes())
    struct.pack_into(pack, data, data.rindex(b"PK\x01\x02") + offset, *values)
    if local_too:
        struct.pack_into(pack, data, data.index(b"PK\x03\x04") + offset - 2, *values)
    path.write_bytes(data)


FLAGS, CRC, SIZES, LOCAL_OFFSET = 8, 16, 20, 42


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pictures_are_listed_by_name_and_read(tmp_path, compression):
    pictures = {
        f"{name}.jpg": jpeg_bytes(seed=ord(name[-1])) for name in ("b", "a/é", "./c", "a\\d")
    }
    other = {
        "notes.txt": b"x",
        "a/": b"",
        ".hidden.jpg": JPEG,
        "__MACOSX/a/._b.jpg": JPEG,
        ".x/e.jpg": JPEG,
    }
    path = write(tmp_path / "p.zip", (pictures | other).items(), compression)
    listing = list_zip(path)
    refs = refs_of(listing)
    assert listing.kind == "zip"
    assert [ref.member for ref in refs] == ["./c.jpg", "a/é.jpg", "a\\d.jpg", "b.jpg"]
    assert refs[1] == PictureRef(f"zip://a/é.jpg::{path}", path, "a/é.jpg")
    assert read_all("zip", refs) == [pictures[ref.member] for ref in refs]


def test_patterns_are_for_plain_names(tmp_path):
    path = write(
        tmp_path / "p.zip", [(name, JPEG) for name in ("./a.jpg", "x\\b.jpg", "x/y/c.jpg")]
    )
    for pattern, member in (("/*.jpg", "./a.jpg"), ("x/*.jpg", "x\\b.jpg"), ("y/", "x/y/c.jpg")):
        assert names_of(list_zip(path, NameFilter([pattern]))) == [f"zip://{member}::{path}"]
    with pytest.raises(
        StorageError, match=r"No pictures in the archive have .*got 3 pictures with"
    ):
        list_zip(path, NameFilter(["*.png"]))


def test_eight_threads_read_at_once(tmp_path):
    pictures = {f"{index:03}.jpg": jpeg_bytes((64, 48), seed=index) for index in range(200)}
    refs = refs_of(list_zip(write(tmp_path / "p.zip", pictures.items())))
    assert read_all("zip", refs * 5, threads=8) == list(pictures.values()) * 5


@pytest.mark.parametrize("threads", [1, 8])
def test_an_archive_may_lie_in_a_bucket(s3_uri, threads):
    pictures = {f"{index}.jpg": jpeg_bytes((640, 480), seed=index) for index in range(9)}
    path = write(f"{s3_uri}/p q.zip", pictures.items())
    refs = refs_of(list_zip(f"{path}?scheme=http"))
    assert refs[0].image_uri == f"zip://0.jpg::{s3_uri}/p q.zip?scheme=http"
    assert read_all("zip", refs, threads=threads) == list(pictures.values())


@pytest.mark.parametrize(
    "name",
    [
        "../a.jpg",
        "x/../../a.jpg",
        "/etc/a.jpg",
        "C:/a.jpg",
        "c:a.jpg",
        "..\\a.jpg",
        "\\\\host\\a.jpg",
        "x/..",
        "../note",
    ],
)
def test_a_name_that_points_out_of_the_archive_refuses_it_all(tmp_path, name):
    path = write(tmp_path / "p.zip", [("good.jpg", JPEG), (name, JPEG)])
    with pytest.raises(StorageError, match=r"a member whose name points out of it: .*p\.zip"):
        list_zip(path)


def test_an_archive_without_pictures_says_so(tmp_path):
    for members in ([], [("a.txt", b"x")], [(".a.jpg", JPEG)]):
        with pytest.raises(StorageError, match=r"No pictures in the archive: .*p\.zip$"):
            list_zip(write(tmp_path / "p.zip", members))


def test_what_is_no_archive_says_so(tmp_path):
    path = tmp_path / "p.zip"
    whole = (tmp_path / write(path, [("a.jpg", JPEG), ("b.jpg", JPEG)])).read_bytes()
    middle_of_contents = whole.index(b"PK\x01\x02") + 20
    for data in (b"", JPEG, whole[: len(whole) // 2], whole[:middle_of_contents], whole[:-5]):
        path.write_bytes(data)
        for read in (list_zip, lambda path: open_container("zip", path, LIMITS)):
            with pytest.raises(
                StorageError, match=r"cannot be read: .*p\.zip .*expected a zip archive"
            ):
                read(str(path))
    with pytest.raises(StorageError, match="No such file"):
        list_zip(str(tmp_path / "nowhere.zip"))


def test_a_symbolic_link_is_no_picture(tmp_path):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = write(tmp_path / "p.zip", [(link, b"/etc/passwd"), ("a.jpg", JPEG)])
    assert names_of(list_zip(path)) == [f"zip://a.jpg::{path}"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_members_with_the_same_name_the_last_one_counts(tmp_path):
    path = write(tmp_path / "p.zip", [("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", JPEG)])
    listing = list_zip(path)
    assert (len(listing), listing.repeated) == (2, 0)
    assert read_all("zip", refs_of(listing)) == [JPEG, b"b"]


def test_members_that_cannot_be_unpacked_are_told_one_by_one(tmp_path):
    path = tmp_path / "p.zip"
    refs = refs_of(list_zip(write(path, [("a.jpg", JPEG)], zipfile.ZIP_BZIP2)))
    assert read_all("zip", refs) == ["unsupported"]
    write(path, [("a.jpg", JPEG)])
    patch(path, "<H", FLAGS, 1, local_too=True)
    assert read_all("zip", refs) == ["unsupported"]
    with open_container("zip", str(path), LIMITS) as archive:
        (fetch,) = archive.read(refs)
        with pytest.raises(ImageError, match=r"zip://a\.jpg::.*encrypted.*without a password"):
            fetch()


def test_damaged_members_are_told_one_by_one(tmp_path):
    path = tmp_path / "p.zip"
    refs = refs_of(list_zip(write(path, [("a.jpg", JPEG)])))
    whole = path.read_bytes()
    packed = whole.index(b"PK\x01\x02") - 30 - len("a.jpg")
    damages = {
        "checksum": lambda: patch(path, "<I", CRC, 1),
        "length": lambda: patch(path, "<I", SIZES + 4, 100),
        "cut": lambda: patch(path, "<I", SIZES, packed - 10),
        "no member there": lambda: patch(path, "<I", LOCAL_OFFSET, 5),
        "behind the end": lambda: patch(path, "<I", LOCAL_OFFSET, len(whole) - 10),
        "past the end": lambda: patch(path, "<I", SIZES, packed + 500),
        "bits": lambda: path.write_bytes(whole[:60] + bytes(100) + whole[160:]),
    }
    for name, damage in damages.items():
        path.write_bytes(whole)
        damage()
        assert (name, read_all("zip", refs)) == (name, ["unreadable"])


def test_a_member_that_is_gone_is_missing(tmp_path):
    refs = refs_of(list_zip(write(tmp_path / "p.zip", [("a.jpg", JPEG), ("b.jpg", JPEG)])))
    write(tmp_path / "p.zip", [("b.jpg", JPEG)])
    assert read_all("zip", refs) == ["missing", JPEG]


def test_an_archive_that_goes_while_it_is_read(tmp_path):
    refs = refs_of(list_zip(write(tmp_path / "p.zip", [("a.jpg", JPEG)])))
    with open_container("zip", refs[0].container, LIMITS) as archive:
        (tmp_path / "p.zip").unlink()
        (fetch,) = archive.read(refs)
        with pytest.raises(StorageError, match="No such file"):
            fetch()


def peak_bytes(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_bomb_does_not_go_off(tmp_path):
    path = tmp_path / "p.zip"
    refs = refs_of(list_zip(write(path, [("a.jpg", bytes(200 * 2**20))])))
    size = path.stat().st_size
    assert size < 2**20

    def read():
        assert read_all("zip", refs, LIMITS) == ["too_large"]

    assert peak_bytes(read) < size  # what it claims is enough to refuse it
    patch(path, "<I", SIZES + 4, 1000)  # it claims to be small
    assert peak_bytes(read) < 5 * 2**20
    patch(path, "<II", SIZES, 2**30, 1000)
    assert peak_bytes(read) < size


def test_any_damage_is_an_error_of_the_archive_or_of_a_picture(tmp_path):
    members = [(f"{name}.jpg", jpeg_bytes((8, 8), quality=10)) for name in "abc"]
    write(tmp_path / "p.zip", members)
    whole = (tmp_path / "p.zip").read_bytes()
    chance = random.Random(0)
    outcomes = set()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(4):
            data[chance.choice([chance.randrange(len(data)), -chance.randrange(1, 180)])] = (
                chance.randrange(256)
            )
        (tmp_path / "p.zip").write_bytes(data)
        try:
            outcomes.update(
                map(type, read_all("zip", refs_of(list_zip(str(tmp_path / "p.zip"))), LIMITS))
            )
        except StorageError:
            outcomes.add(StorageError)
    assert outcomes == {bytes, str, StorageError}
