import pytest

from appliance.annotations import pascal_voc
from appliance.annotations.pascal_voc import VocAnnotation, VocObject
from appliance.errors import DatasetError, StorageError

# As LabelImg writes it.
LABELIMG = b"""<annotation>
	<folder>JPEGImages</folder>
	<filename>0.jpg</filename>
	<path>C:\\Users\\somebody\\0.jpg</path>
	<source><database>Unknown</database></source>
	<size><width>1000</width><height>1333</height><depth>3</depth></size>
	<segmented>0</segmented>
	<object>
		<name>joghurt</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox><xmin>213</xmin><ymin>337</ymin><xmax>329</xmax><ymax>473</ymax></bndbox>
	</object>
	<object>
		<name>water</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>1</difficult>
		<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>
	</object>
</annotation>
"""


def parse(text):
    return pascal_voc.parse(text.encode(), source="a.xml")


def objects_xml(content):
    return f"<annotation><object>{content}</object></annotation>"


def box_xml(xmin="1", ymin="2", xmax="3", ymax="4"):
    return (
        f"<bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin>"
        f"<xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>"
    )


def test_reads_what_labelimg_writes():
    annotation = pascal_voc.parse(LABELIMG, source="0.xml")
    assert annotation == VocAnnotation(
        objects=(
            VocObject("joghurt", (213, 337, 329, 473)),
            VocObject("water", (1, 2, 30, 40), difficult=True, truncated=True),
        ),
        size_hw=(1333, 1000),
        filename="0.jpg",
    )


def test_no_objects_is_an_annotation():
    assert parse("<annotation/>") == VocAnnotation(objects=())


def test_any_order_missing_flags_float_coordinates_parts_and_spaces():
    annotation = parse(
        "<annotation><object>"
        "<part><name>lid</name><bndbox><xmin>9</xmin></bndbox></part>"
        "<bndbox><ymax> 40.75 </ymax><xmax>3e1</xmax><ymin>2</ymin><xmin>-0.5</xmin></bndbox>"
        "<name> egg box\n</name></object>"
        "<filename/><size><height>20.0</height><width>10</width></size></annotation>"
    )
    assert annotation == VocAnnotation(
        (VocObject("egg box", (-0.5, 2.0, 30.0, 40.75)),), size_hw=(20, 10)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1", True), ("true", True), ("Yes", True), ("0", False), ("Unspecified", False), ("", False)],
)
def test_flags(text, expected):
    xml = objects_xml(f"<name>a</name><difficult>{text}</difficult>{box_xml()}")
    assert parse(xml).objects[0].difficult is expected


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>wide</width><height>3</height></size>",
        "<size><width>inf</width><height>3</height></size>",
    ],
)
def test_unusable_size_is_unknown(size):
    assert parse(f"<annotation>{size}</annotation>").size_hw is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (box_xml(), "Object 1 has no class name: a.xml (expected <name> with a text)"),
        (
            "<name>cup</name>",
            (
                "Object 1 (cup) has no usable xmin: a.xml (got nothing, expected a number of pixels "
                "in <bndbox>)"
            ),
        ),
        (
            f"<name>cup</name>{box_xml(ymax='tall')}",
            (
                "Object 1 (cup) has no usable ymax: a.xml (got 'tall', expected a number of pixels "
                "in <bndbox>)"
            ),
        ),
        (
            f"<name>cup</name>{box_xml(xmax='nan')}",
            (
                "Object 1 (cup) has no usable xmax: a.xml (got 'nan', expected a number of pixels "
                "in <bndbox>)"
            ),
        ),
    ],
)
def test_one_sentence_per_mistake(content, message):
    with pytest.raises(DatasetError) as caught:
        parse(objects_xml(content))
    assert caught.value.message == message


@pytest.mark.parametrize("text", ["", "not xml", "<annotation>", "<annotation>&#0;</annotation>"])
def test_no_xml(text):
    with pytest.raises(DatasetError, match=r"no well-formed XML: a\.xml"):
        parse(text)


def test_unknown_encoding():
    with pytest.raises(DatasetError, match="no well-formed XML"):
        parse('<?xml version="1.0" encoding="klingon"?><annotation/>')


def test_another_document():
    with pytest.raises(DatasetError, match=r"Not a Pascal VOC annotation: a\.xml \(got <html>"):
        parse("<html/>")


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
        '<!ENTITY b SYSTEM "file:///etc/passwd">',
    ],
)
def test_entity_bombs_are_refused(declaration):
    bomb = f"<!DOCTYPE annotation [{declaration}]><annotation><filename>&b;</filename></annotation>"
    with pytest.raises(DatasetError, match="declares XML entities"):
        parse(bomb)


def test_write_and_read_back(tmp_path):
    annotation = VocAnnotation(
        objects=(
            VocObject("a & <b>", (0, 1.25, 30, 40)),
            VocObject("Spülmittel", (5, 6, 7.5, 8), difficult=True, truncated=True),
        ),
        size_hw=(48, 64),
        filename="a&b.jpg",
    )
    path = tmp_path / "Annotations/a.xml"
    pascal_voc.write(path, annotation)
    assert pascal_voc.read(path) == annotation
    text = path.read_text(encoding="utf-8")
    assert "<xmin>0</xmin>" in text
    assert "<ymin>1.25</ymin>" in text
    assert f"<folder>{tmp_path.name}</folder>" in text


def test_unknown_size_and_filename_are_left_out(tmp_path):
    pascal_voc.write(tmp_path / "a.xml", VocAnnotation(()))
    assert pascal_voc.read(tmp_path / "a.xml") == VocAnnotation(())


def test_missing_file(tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.xml"):
        pascal_voc.read(tmp_path / "nothing.xml")
