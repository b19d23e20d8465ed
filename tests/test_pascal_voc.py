import pytest

from appliance.annotations.formats import pascal_voc
from appliance.annotations.source import ObjectAnnotation, PictureAnnotation
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
    assert annotation == PictureAnnotation(
        objects=(
            ObjectAnnotation("joghurt", (213, 337, 329, 473)),
            ObjectAnnotation("water", (1, 2, 30, 40), difficult=True, truncated=True),
        ),
        size_hw=(1333, 1000),
        filename="0.jpg",
    )


def test_no_objects_is_an_annotation():
    assert parse("<annotation/>") == PictureAnnotation(objects=())


def test_any_order_missing_flags_float_coordinates_parts_and_spaces():
    annotation = parse(
        "<annotation><object>"
        "<part><name>lid</name><bndbox><xmin>9</xmin></bndbox></part>"
        "<bndbox><ymax> 40.75 </ymax><xmax>3e1</xmax><ymin>2</ymin><xmin>-0.5</xmin></bndbox>"
        "<name> egg box\n</name></object>"
        "<filename/><size><height>20.0</height><width>10</width></size></annotation>"
    )
    assert annotation == PictureAnnotation(
        (ObjectAnnotation("egg box", (-0.5, 2.0, 30.0, 40.75)),), size_hw=(20, 10)
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
            "<name>cup</name><polygon><x1>3</x1><y1>4</y1></polygon>",
            (
                "Object 1 (cup) has an outline instead of a box: a.xml (got <polygon> without <bndbox>, "
                "expected <bndbox> with xmin, ymin, xmax and ymax)"
            ),
        ),
        (
            "<name>cup</name><robndbox><cx>3</cx><angle>1</angle></robndbox>",
            (
                "Object 1 (cup) has a rotated box instead of an upright one: a.xml (got <robndbox> "
                "without <bndbox>, expected <bndbox> with xmin, ymin, xmax and ymax)"
            ),
        ),
        (
            f"<name>cup</name>{box_xml(xmin='-1e7')}",
            (
                "Object 1 (cup) has no usable xmin: a.xml (got '-1e7', expected a number of pixels "
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
        parse(objects_xml(content)).refuse_faults()
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
    "doctype",
    [
        # A billion laughs, a file of the machine, an address in the network, a declaration elsewhere,
        # a parameter entity, and one that is harmless.
        '[<!ENTITY a "haha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;">]',
        '[<!ENTITY b SYSTEM "file:///etc/passwd">]',
        '[<!ENTITY b SYSTEM "http://127.0.0.1:9/">]',
        'SYSTEM "http://127.0.0.1:9/annotation.dtd"',
        '[<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]',
        "",
    ],
)
def test_document_types_and_entities_are_refused(doctype):
    bomb = f"<!DOCTYPE annotation {doctype}><annotation><filename>&b;</filename></annotation>"
    with pytest.raises(DatasetError) as caught:
        parse(bomb)
    assert str(caught.value) == (
        "The annotation has a DOCTYPE, which can declare entities; it is not read for safety: a.xml. "
        "Remove its DOCTYPE and entities."
    )


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "UTF-8", "utf-16", "iso-8859-1", "windows-1252", "gb18030", "big5hkscs", "cp437"],
)
def test_encodings(encoding):
    name = "Spülmittel" if encoding not in ("gb18030", "big5hkscs") else "牛奶"
    text = f"<?xml version='1.0' encoding='{encoding}'?><annotation><filename>{name}</filename></annotation>"
    assert pascal_voc.parse(text.encode(encoding), source="a.xml").filename == name


def test_encoding_that_is_declared_wrongly():
    # What a text in memory declares does not survive its way into a file of UTF-8.
    text = '<?xml version="1.0" encoding="utf-16"?><annotation><filename>ü</filename></annotation>'
    assert parse(text).filename == "ü"
    with pytest.raises(DatasetError, match="no well-formed XML.*can't decode"):
        pascal_voc.parse(text.encode().replace(b"utf-16", b"shift_jis") + b"\xff", source="a.xml")


def test_byte_order_mark():
    text = '<?xml version="1.0"?><annotation><filename>ü</filename></annotation>'
    assert pascal_voc.parse(text.encode("utf-8-sig"), source="a.xml").filename == "ü"


def test_reads_what_cvat_writes():
    annotation = parse(
        "<annotation><folder>monday</folder><filename>monday/1.jpg</filename>"
        "<source><database>Unknown</database></source>"
        "<size><width>96</width><height>64</height><depth></depth></size><segmented>0</segmented>"
        "<object><name>egg</name><truncated>0</truncated><occluded>1</occluded>"
        "<difficult>0</difficult><bndbox><xmin>1.5</xmin><ymin>2.25</ymin><xmax>30.0</xmax>"
        "<ymax>40.75</ymax></bndbox><attributes><attribute><name>rotation</name><value>0.0</value>"
        "</attribute></attributes></object></annotation>"
    )
    assert annotation == PictureAnnotation(
        (ObjectAnnotation("egg", (1.5, 2.25, 30, 40.75)),), (64, 96), "monday/1.jpg"
    )


def test_parts_of_an_object_do_not_count():
    # As PASCAL annotated people: the first name and box within an object are those of a part.
    part = f"<part><name>head</name>{box_xml('9', '9', '10', '10')}</part>"
    annotation = parse(objects_xml(f"{part}<name>person</name>{part}{box_xml()}"))
    assert annotation.objects == (ObjectAnnotation("person", (1, 2, 3, 4)),)
    with pytest.raises(DatasetError, match="no usable xmin"):
        parse(objects_xml(f"<name>person</name>{part}")).refuse_faults()


def test_write_and_read_back(tmp_path):
    annotation = PictureAnnotation(
        objects=(
            ObjectAnnotation("a & <b>", (0, 1.25, 30, 40)),
            ObjectAnnotation("Spülmittel", (5, 6, 7.5, 8), difficult=True, truncated=True),
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
    pascal_voc.write(tmp_path / "a.xml", PictureAnnotation(()))
    assert pascal_voc.read(tmp_path / "a.xml") == PictureAnnotation(())


def test_missing_file(tmp_path):
    with pytest.raises(StorageError, match=r"nothing\.xml"):
        pascal_voc.read(tmp_path / "nothing.xml")
