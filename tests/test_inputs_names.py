"""Which names patterns keep, where a pattern begins in an address, and what addresses are made of."""

from __future__ import annotations

import pytest
from factories import jpeg_bytes
from input_reading import names_of

from appliance import storage
from appliance.bulk.inputs.addresses import below, ending_of, folder_of, name_of, resolve
from appliance.bulk.inputs.folders import files_below, listing_of
from appliance.bulk.inputs.opening import list_input
from appliance.bulk.inputs.patterns import NameFilter, split_glob
from appliance.errors import ConfigError, StorageError


@pytest.mark.parametrize(
    ("pattern", "kept", "left_out"),
    [
        ("*.jpg", ["a.jpg", "x/y/a.jpg", ".jpg"], ["a.JPG", "a.jpg/b", "a.jpeg"]),
        ("a?.jpg", ["ab.jpg", "x/ab.jpg", "a\n.jpg"], ["a.jpg", "abc.jpg", "a/.jpg"]),
        ("x/*.jpg", ["x/a.jpg"], ["x/y/a.jpg", "z/x/a.jpg", "a.jpg"]),
        ("/*.jpg", ["a.jpg"], ["x/a.jpg"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"], ["a.png"]),
        ("x/**/z/*.jpg", ["x/z/a.jpg", "x/y/y/z/a.jpg"], ["x/a.jpg", "xx/z/a.jpg", "x/yz/a.jpg"]),
        ("x/**", ["x/a.jpg", "x/y/a.jpg"], ["xx/a.jpg", "a.jpg"]),
        ("**", ["a.jpg", "x/y/a.jpg"], []),
        ("[ab-d]*", ["a", "x/c1"], ["e", "-"]),
        ("[!a]x", ["bx", "y/bx"], ["ax", "/x", "x"]),
        ("x/a[!b]c", ["x/a_c"], ["x/a/c", "x/abc"]),
        ("[]]", ["]"], ["[]]"]),
        ("[^a]", ["^", "a"], ["b"]),
        ("a[", ["a["], ["a"]),
        ("[!]", ["[!]"], ["a"]),
        ("[]", ["[]"], ["a"]),
        ("a[*]", ["a*"], ["ab"]),
        ("a.b+(c)", ["a.b+(c)"], ["aXb+(c)", "a.bbc"]),
        ("thumbs/", ["thumbs/a", "x/thumbs/y/a"], ["thumbs", "xthumbs/a"]),
        ("/thumbs/", ["thumbs/y/a"], ["x/thumbs/a"]),
        ("x/*/", ["x/y/a", "x/y/z/a"], ["x/a"]),
    ],
)
def test_what_a_pattern_is_for(pattern, kept, left_out):
    wanted, unwanted = NameFilter([pattern]), NameFilter((), [pattern])
    assert [name for name in kept if not wanted.keeps(name)] == []
    assert [name for name in left_out if wanted.keeps(name)] == []
    assert [name for name in kept + left_out if unwanted.keeps(name)] == left_out


def test_patterns_are_combined():
    names = ["a.jpg", "b.jpg", "b.png", "old/b.png", "c.gif"]
    some = NameFilter(["*.jpg", "*.png"], ["a.*", "old/"])
    assert [name for name in names if some.keeps(name)] == ["b.jpg", "b.png"]
    assert all(map(NameFilter().keeps, names))


@pytest.mark.parametrize("pattern", ["[z-a]", "x/[9-0]/*"])
def test_a_pattern_that_cannot_be_read_is_named(pattern):
    with pytest.raises(ConfigError, match=r"A pattern cannot be read: .*bad character range"):
        NameFilter((), [pattern])


@pytest.mark.parametrize("pattern", ["", "/"])
def test_an_empty_pattern_is_a_mistake(pattern):
    with pytest.raises(ConfigError, match="A pattern is empty"):
        NameFilter([pattern])


@pytest.mark.parametrize(
    ("uri", "folder", "pattern"),
    [
        ("pictures/**/*.jpg", "pictures", "**/*.jpg"),
        ("pictures", "pictures", None),
        ("*.jpg", ".", "*.jpg"),
        ("/*.jpg", "/", "*.jpg"),
        ("/data/a?/b[12]/", "/data", "a?/b[12]/"),
        ("file:///data/%5B1%5D*/x", "/data", "[1]*/x"),
        ("s3://b/x/*.jpg", "s3://b/x", "*.jpg"),
        ("s3://b/x/*/y?region=r", "s3://b/x?region=r", "*/y"),
        ("s3://b/x?region=*", "s3://b/x?region=*", None),
        ("s3://b/what%3F/[ab]%5B%3f%20*", "s3://b/what%3F", "[ab][[][?] *"),
        ("s3://b/%2A.jpg", "s3://b/%2A.jpg", None),
        ("http://[::1]:80/x", "http://[::1]:80/x", None),
        ("http://[::1]:80/*.jpg", "http://[::1]:80", "*.jpg"),
        ("zip://x/*.jpg::/a/p*.zip", "zip://x::/a/p*.zip", "*.jpg"),
    ],
)
def test_where_a_pattern_begins(uri, folder, pattern):
    assert split_glob(uri) == (folder, pattern)


def test_a_path_that_exists_is_no_pattern(tmp_path):
    storage.write_bytes(tmp_path / "set[1]" / "a*.jpg", b"x")
    for name in ("set[1]", "set[1]/a*.jpg"):
        assert split_glob(f"{tmp_path}/{name}") == (f"{tmp_path}/{name}", None)
    assert split_glob(f"{tmp_path}/set[1]/*.jpg") == (f"{tmp_path}/set[1]", "*.jpg")


@pytest.mark.parametrize(
    ("uri", "name", "ending", "folder"),
    [
        ("/x/a.JPG", "a.JPG", ".jpg", "/x"),
        ("/x/a b.tar.gz", "a b.tar.gz", ".tar.gz", "/x"),
        ("/x/v1.2.zip", "v1.2.zip", ".zip", "/x"),
        ("/x/y/", "", "", "/x"),
        ("s3://b/x/a%20b.Zip?region=r", "a b.Zip", ".zip", "s3://b/x?region=r"),
        ("s3://b/x/", "", "", "s3://b"),
        ("s3://b", "b", "", "s3://b"),
        ("memory://a%20.txt", "a%20.txt", ".txt", "memory://"),
        ("zip://x/l.txt::/p/q.zip", "l.txt", ".txt", "zip://x::/p/q.zip"),
    ],
)
def test_the_parts_of_an_address(uri, name, ending, folder):
    assert (name_of(uri), ending_of(uri), folder_of(uri)) == (name, ending, folder)


@pytest.mark.parametrize(
    ("folder", "name", "address"),
    [
        ("/lists", "a b.jpg", "/lists/a b.jpg"),
        ("/lists", "../x/./a.jpg", "/x/a.jpg"),
        ("/lists", "/x/a.jpg", "/x/a.jpg"),
        ("/lists", "file:///x/a%20b.jpg", "/x/a b.jpg"),
        ("/lists", "s3://b/a.jpg?region=r", "s3://b/a.jpg?region=r"),
        ("s3://b/lists?region=r", "x/100%.jpg", "s3://b/lists/x/100%25.jpg?region=r"),
        ("s3://b/lists?region=r", "../x/./a.jpg", "s3://b/x/a.jpg?region=r"),
        ("s3://b/lists", "x/../a.jpg", "s3://b/lists/a.jpg"),
        ("s3://b/lists", "../../../a.jpg", "s3://b/a.jpg"),
        ("s3://b/lists", "/x/a.jpg", "/x/a.jpg"),
        ("s3://b/lists", "https://host/a.jpg?size=1", "https://host/a.jpg?size=1"),
        ("zip://::/p/q.zip", "x/a.jpg", "zip:///x/a.jpg::/p/q.zip"),
    ],
)
def test_what_a_list_means_by_a_name(folder, name, address):
    assert resolve(folder, name) == address


def test_a_list_must_hold_no_password():
    with pytest.raises(StorageError, match="must not hold a password") as caught:
        resolve("/lists", "s3://me:secret@b/a.jpg")
    assert "secret" not in str(caught.value)


def test_names_below_a_folder_in_a_store_are_found_again(s3_uri):
    for name in ("a b.jpg", "x/100%.JPG", "x/y/c.png", "x/y/d.txt"):
        storage.write_bytes(storage.join(s3_uri, name), jpeg_bytes())
    for uri in (s3_uri, f"{s3_uri}/", f"{s3_uri}?scheme=http"):
        pictures = files_below(uri, (".jpg", ".png"))
        assert sorted(below(uri, path) for path in pictures) == [
            "a b.jpg",
            "x/100%.JPG",
            "x/y/c.png",
        ]
        assert all(len(storage.read_bytes(path)) > 100 for path in pictures)
    assert names_of(list_input(f"{s3_uri}/x/**/*.*?scheme=http")) == [
        f"{s3_uri}/x/100%25.JPG?scheme=http",
        f"{s3_uri}/x/y/c.png?scheme=http",
    ]
    with pytest.raises(StorageError, match=r"No pictures in the folder have a wanted name"):
        listing_of(s3_uri, files_below(s3_uri, (".png",)), NameFilter(["c.jpg"]))
