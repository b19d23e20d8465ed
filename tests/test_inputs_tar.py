"""Pictures in tar archives, plain and compressed, honest and hostile ones."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest
from factories import jpeg_bytes
from input_reading import names_of, read_all, refs_of

from appliance import storage
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.opening import list_input, open_container
from appliance.bulk.inputs.patterns import NameFilter
from appliance.bulk.inputs.tars import EXTENSIONS, TarArchive, list_tar
from appliance.errors import StorageError
from appliance.images.decoding import ImageLimits

LIMITS = ImageLimits(max_bytes=2**20)
JPEG = jpeg_bytes()
PICTURES = {f"{name}.jpg": jpeg_bytes(seed=ord(name[-1])) for name in ("b", "x/é", "a", "./c")}


def member(name: str, data: bytes = b"", **attributes) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    return info, io.BytesIO(data)


def write(uri, members, tar_format=tarfile.PAX_FORMAT, encoding="utf-8") -> str:
    """Writes an archive, compressed as its name says."""
    compression = str(uri).rpartition(".")[2].replace("tgz", "gz").replace("tar", "")
    buffer = io.BytesIO()
    options = {"format": tar_format, "encoding": encoding}
    with tarfile.open(fileobj=buffer, mode=f"w:{compression}", **options) as archive:
        for info, data in members:
            archive.addfile(info, data)
    storage.write_bytes(uri, buffer.getvalue())
    return str(uri)


def write_pictures(uri, pictures=PICTURES, **options) -> str:
    return write(uri, [member(name, data) for name, data in pictures.items()], **options)


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_a_plain_archive_is_listed_by_name_and_read_anywhere(tmp_path, tar_format):
    long_name = f"{'long/' * 18}{'n' * 90}.jpg"
    pictures = PICTURES | {
        long_name: JPEG,
        "notes.txt": b"x",
        ".hidden.jpg": b"x",
        "x/._b.jpg": b"x",
    }
    path = write_pictures(tmp_path / "p.tar", pictures, tar_format=tar_format)
    listing = list_tar(path)
    refs = refs_of(listing)
    assert listing.kind == "tar"
    assert [ref.member for ref in refs] == ["./c.jpg", "a.jpg", "b.jpg", long_name, "x/é.jpg"]
    first = PictureRef(
        f"tar://b.jpg::{path}", path, "b.jpg", refs[2].position, len(pictures["b.jpg"])
    )
    assert refs[2] == first
    assert (tmp_path / "p.tar").read_bytes()[first.position :].startswith(pictures["b.jpg"])
    assert read_all("tar", refs[::-1]) == [pictures[ref.member] for ref in refs[::-1]]
    assert read_all("tar", refs * 50, threads=8) == [pictures[ref.member] for ref in refs] * 50


@pytest.mark.parametrize("ending", EXTENSIONS[1:])
def test_a_compressed_archive_is_listed_in_its_order(tmp_path, ending):
    path = write_pictures(tmp_path / f"p{ending}")
    refs = refs_of(list_input(path))
    assert [ref.member for ref in refs] == list(PICTURES)
    assert read_all("tar", refs) == list(PICTURES.values())
    assert read_all("tar", refs[2:]) == list(PICTURES.values())[2:]
    assert read_all("tar", refs[::-1]) == list(PICTURES.values())[::-1]


def test_the_compression_is_told_by_the_content(tmp_path):
    path = write_pictures(tmp_path / "p.tar.gz")
    (tmp_path / "p.tar.gz").rename(tmp_path / "p.tar")
    refs = refs_of(list_tar(path.removesuffix(".gz")))
    assert read_all("tar", refs) == list(PICTURES.values())


def test_patterns_are_for_plain_names(tmp_path):
    path = write_pictures(tmp_path / "p.tar")
    assert names_of(list_tar(path, NameFilter(["/*.jpg"], ["a*"]))) == [
        f"tar://./c.jpg::{path}",
        f"tar://b.jpg::{path}",
    ]
    with pytest.raises(StorageError, match=r"No pictures in the archive have .*got 4 pictures"):
        list_tar(path, NameFilter(["*.png"]))


@pytest.mark.parametrize("ending", [".tar", ".tgz"])
def test_an_archive_may_lie_in_a_bucket(s3_uri, ending):
    path = write_pictures(f"{s3_uri}/p{ending}")
    refs = refs_of(list_tar(f"{path}?scheme=http"))
    assert read_all("tar", refs, threads=4) == [PICTURES[ref.member] for ref in refs]


@pytest.mark.parametrize(
    "name", ["../a.jpg", "x/../../a.jpg", "/etc/a.jpg", "C:/a.jpg", "..\\a.jpg"]
)
def test_a_name_that_points_out_of_the_archive_refuses_it_all(tmp_path, name):
    path = write(tmp_path / "p.tar", [member("good.jpg", JPEG), member(name, JPEG)])
    with pytest.raises(StorageError, match=r"a member whose name points out of it: .*p\.tar"):
        list_tar(path)


def test_only_files_are_pictures(tmp_path):
    links = [
        member("symbolic.jpg", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.jpg", type=tarfile.LNKTYPE, linkname="a.jpg"),
        member("device.jpg", type=tarfile.CHRTYPE),
        member("pipe.jpg", type=tarfile.FIFOTYPE),
        member("folder.jpg", type=tarfile.DIRTYPE),
    ]
    path = write(tmp_path / "p.tar", [member("a.jpg", JPEG), *links])
    assert names_of(list_tar(path)) == [f"tar://a.jpg::{path}"]
    with pytest.raises(StorageError, match=r"No pictures in the archive: .*p\.tar$"):
        list_tar(write(tmp_path / "p.tar", links))


@pytest.mark.parametrize("ending", [".tar", ".tgz"])
def test_of_members_with_the_same_name_the_last_one_counts(tmp_path, ending):
    members = [member("a.jpg", b"old"), member("b.jpg", b"b"), member("a.jpg", JPEG)]
    listing = list_tar(write(tmp_path / f"p{ending}", members))
    found = dict(zip(names_of(listing), read_all("tar", refs_of(listing)), strict=True))
    assert (list(found.values()), listing.repeated) == (
        [JPEG, b"b"] if ending == ".tar" else [b"b", JPEG],
        0,
    )


def test_names_that_are_no_text_stay_apart(tmp_path):
    members = [member("é.jpg", b"1"), member("è.jpg", b"2")]
    path = write(tmp_path / "p.tar", members, tar_format=tarfile.GNU_FORMAT, encoding="latin-1")
    listing = list_tar(path)
    assert names_of(listing) == [f"tar://\\xe8.jpg::{path}", f"tar://\\xe9.jpg::{path}"]
    assert read_all("tar", refs_of(listing)) == [b"2", b"1"]


def test_a_sparse_picture_is_refused(tmp_path):
    info, data = member("a.jpg", JPEG)
    info.pax_headers = {"GNU.sparse.map": "0,10", "GNU.sparse.size": "20"}
    with pytest.raises(StorageError, match=r"a sparse file: .*p\.tar .got 'a\.jpg'.*--sparse"):
        list_tar(write(tmp_path / "p.tar", [(info, data)]))


@pytest.mark.parametrize("ending", EXTENSIONS)
def test_an_archive_that_was_cut_is_damaged(tmp_path, ending):
    path = tmp_path / f"p{ending}"
    whole = (tmp_path / write_pictures(path)).read_bytes()
    for share in (0.2, 0.5, 0.8):
        path.write_bytes(whole[: int(share * len(whole)) | 1])
        with pytest.raises(StorageError, match=r"The archive cannot be read: .*a tar archive"):
            list_tar(str(path))


def test_an_archive_without_an_end_is_read_if_it_is_whole(tmp_path):
    path = write(tmp_path / "p.tar", [member("a.jpg", b"x" * 512)])
    whole = (tmp_path / "p.tar").read_bytes()
    (tmp_path / "p.tar").write_bytes(whole[:1024])
    assert read_all("tar", refs_of(list_tar(path))) == [b"x" * 512]
    # In the midst of its last header; and with that header damaged.
    for data in (whole[:1024] + whole[:100], whole[:1024] + b"x" + whole[1:]):
        (tmp_path / "p.tar").write_bytes(data)
        with pytest.raises(StorageError, match="a damaged header"):
            list_tar(path)


def test_what_is_no_archive_says_so(tmp_path):
    for data in (
        b"",
        JPEG,
        gzip.compress(JPEG),
        b"\x1f\x8b" + JPEG,
        b"BZh9" + JPEG,
        b"\xfd7zXZ\0" + JPEG,
    ):
        (tmp_path / "p.tar").write_bytes(data)
        with pytest.raises(StorageError, match=r"The archive cannot be read: .*a tar archive"):
            list_tar(str(tmp_path / "p.tar"))


def test_an_archive_that_changes_while_it_is_read(tmp_path):
    plain, packed = write_pictures(tmp_path / "p.tar"), write_pictures(tmp_path / "p.tgz")
    of_plain, of_packed = refs_of(list_tar(plain)), refs_of(list_tar(packed))
    for path in (tmp_path / "p.tar", tmp_path / "p.tgz"):
        path.write_bytes(path.read_bytes()[:600])
    assert set(read_all("tar", of_plain)) == {"unreadable"}
    with pytest.raises(StorageError, match="The archive cannot be read"):
        read_all("tar", of_packed)
    (tmp_path / "p.tar").unlink()
    with pytest.raises(StorageError, match="No such file"):
        open_container("tar", plain, LIMITS)


def test_a_disk_that_fails_is_an_error_of_the_storage():
    with pytest.raises(StorageError, match="Input/output error"):
        TarArchive("/proc/self/mem", LIMITS)  # a file that cannot be read at its beginning


@pytest.mark.parametrize("ending", [".tar", ".tgz"])
def test_large_members_are_refused_unread(tmp_path, ending):
    members = [member("a.jpg", bytes(50 * 2**20)), member("b.jpg", JPEG)]
    path = write(tmp_path / f"p{ending}", members)

    def read():
        assert read_all("tar", refs_of(list_tar(path)), LIMITS) == ["too_large", JPEG]

    assert peak_bytes(read) < 8 * 2**20


def peak_bytes(action) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("header_type", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_header_that_claims_to_be_huge_is_not_read(tmp_path, header_type):
    info = member("x", type=header_type)[0]
    info.size = 100 * 2**20
    header = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "p.tgz").write_bytes(gzip.compress(header + bytes(info.size)))

    def read():
        with pytest.raises(StorageError, match=r"a header of 104,857,\d\d\d bytes"):
            list_tar(str(tmp_path / "p.tgz"))

    assert peak_bytes(read) < 8 * 2**20


@pytest.mark.parametrize("size", [-512, -2048])
def test_a_header_that_leads_backwards_ends_the_reading(tmp_path, size):
    first, second = member("a.jpg", JPEG)[0], member("b.jpg")[0]
    second.size = size
    data = (
        first.tobuf()
        + JPEG.ljust(-(-len(JPEG) // 512) * 512, b"\0")
        + second.tobuf(tarfile.GNU_FORMAT)
    )
    (tmp_path / "p.tar").write_bytes(data + bytes(1024))
    with pytest.raises(StorageError, match="leads backwards"):
        list_tar(str(tmp_path / "p.tar"))


def test_any_damage_is_an_error_of_the_archive_or_of_a_picture(tmp_path):
    chance = random.Random(0)
    outcomes = set()
    for ending in EXTENSIONS:
        path = tmp_path / f"p{ending}"
        write(path, [member(f"{name}.jpg", jpeg_bytes((8, 8), quality=10)) for name in "abc"])
        whole = path.read_bytes()
        for _ in range(100):
            data = bytearray(whole)
            for _ in range(4):
                data[chance.randrange(len(data))] = chance.randrange(256)
            path.write_bytes(data)
            try:
                outcomes.update(map(type, read_all("tar", refs_of(list_tar(str(path))), LIMITS)))
            except StorageError:
                outcomes.add(StorageError)
    assert outcomes == {bytes, StorageError}
