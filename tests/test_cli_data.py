"""`appliance data` as users type it: check, fix, stats, charts, sheets."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from planted_defects import EGG, MILK, add, plant_sound_pictures

from appliance.annotations.checks.survey import check_dataset


@pytest.fixture
def run(run_appliance, capsys):
    """Runs `appliance data` in this process: exit code, standard output, standard error."""

    def run_data(*arguments):
        code = run_appliance("data", *arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_data


@pytest.fixture
def data(tmp_path):
    """Parts train and test: one error, and two warnings of one kind."""
    for part in ("train", "test"):
        plant_sound_pictures(tmp_path / "data" / part, 5)
    add(tmp_path / "data/train", "flat", EGG, MILK, ("egg", (9, 9, 9, 20)))
    for index in range(2):
        add(tmp_path / "data/train", f"edge{index}", EGG, ("milk", (85, 20, 104, 64)))
    return tmp_path / "data"


def test_check_lists_defects_and_counts_them(run, data):
    code, out, _ = run("check", data)
    assert code == 1
    annotations = f"{data}/train/Annotations"
    box = "xmin 85, ymin 20, xmax 104, ymax 64"
    assert out.splitlines() == [
        (
            f"error: {annotations}/flat.xml: object 3 (egg): the box has zero width: xmin 9, ymin 9, "
            "xmax 9, ymax 20 [box-without-area]"
        ),
        *(
            f"warning: {annotations}/edge{index}.xml: object 2 (milk): the box reaches 8 over the "
            f"right edge of 96x64 pixels: {box} [box-over-edge]"
            for index in range(2)
        ),
        "",
        "box-without-area                   1 error   a box of zero width or height",
        "box-over-edge                   2 warnings   a box that reaches outside its picture",
        "",
        (
            f"1 error, 2 warnings in {data} (train: 8 usable pictures with 16 objects, "
            "test: 5 usable pictures with 10 objects)"
        ),
    ]


def test_check_of_sound_data_is_one_line_and_exit_code_0(run, data):
    code, out, _ = run("check", data / "test")
    assert (code, out) == (
        0,
        f"0 errors, 0 warnings in {data}/test (dataset: 5 usable pictures with 10 objects)\n",
    )


def test_warnings_alone_are_exit_code_0(run, data):
    code, out, _ = run("check", data / "test", "--min-examples", 6)
    assert code == 0
    assert out.splitlines()[-1].startswith("0 errors, 2 warnings in ")
    assert run("check", data / "test", "--min-examples", 5)[1].startswith("0 errors, 0 warnings")


def test_check_as_json(run, data):
    code, out, _ = run("check", data, "--json")
    document = json.loads(out.splitlines()[-1])
    assert code == 1
    assert len(out.splitlines()) == 1
    assert (document["errors"], document["warnings"]) == (1, 2)
    assert document["by_code"] == {"box-without-area": 1, "box-over-edge": 2}
    assert document["parts"]["train"] == {
        "folder": f"{data}/train",
        "format": "voc",
        "pictures": 8,
        "negatives": 0,
        "objects": 16,
    }
    assert document["findings"][0]["object_number"] == 3
    assert document["repair"] is None


def test_fix_writes_a_copy_without_errors(run, data, tmp_path):
    code, out, _ = run("check", data, "--fix", tmp_path / "new")
    assert code == 0
    assert out.splitlines()[-6:] == [
        *(
            f"clipped: {data}/train/Annotations/edge{index}.xml: object 2 (milk): reached 8 over the "
            "right edge, now xmin 85, ymin 20, xmax 96, ymax 64 [box-over-edge]"
            for index in range(2)
        ),
        (
            f"dropped: {data}/train/Annotations/flat.xml: object 3 (egg): the box has zero width: "
            "xmin 9, ymin 9, xmax 9, ymax 20 [box-without-area]"
        ),
        f"Wrote 13 pictures to {tmp_path}/new (train: 8, test: 5)",
        f"3 changes, listed in {tmp_path}/new/changes.jsonl",
        "0 errors, 0 warnings left in the repaired copy",
    ]
    assert check_dataset(tmp_path / "new") == []
    code, _, err = run("check", data, "--fix", tmp_path / "new")
    assert code == 1
    assert err.startswith("error: The folder to write is not empty")


def test_a_copy_that_lacks_a_part_is_no_success(run, data, tmp_path):
    run("convert", data, tmp_path / "coco", "--to", "coco")
    path = tmp_path / "coco" / "annotations" / "instances_train.json"
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = None
    path.write_text(json.dumps(document))
    code, _, err = run("check", tmp_path / "coco", "--fix", tmp_path / "new")
    assert code == 1
    assert err == "warning: not in the copy: train [part-unreadable]\n"


def test_fix_as_json(run, data, tmp_path):
    code, out, _ = run("check", data, "--fix", tmp_path / "new", "--json")
    assert code == 0
    repair = json.loads(out.splitlines()[-1])["repair"]
    assert repair["pictures"] == {"train": 8, "test": 5}
    assert [change["action"] for change in repair["changes"]] == ["clipped", "clipped", "dropped"]
    assert repair["left"]["errors"] == 0


def test_only_the_first_of_many_defects_are_printed(run, tmp_path):
    add(tmp_path, "tiny", *[("egg", (x, 5, x + 1, 6)) for x in range(0, 90, 6)])
    code, out, _ = run("check", tmp_path)
    assert code == 0
    assert out.count("[object-tiny]") == 10
    assert "... and 5 more of object-tiny; --json lists all\n" in out
    assert len(json.loads(run("check", tmp_path, "--json")[1])["findings"]) == 15
    assert "0 warnings" in run("check", tmp_path, "--input-side", 1024)[1]


def test_check_against_given_labels_in_a_named_format(run, data):
    code, out, _ = run("check", data, "--labels", "egg, tea,", "--format", "voc")
    assert code == 1
    assert "has the label 'milk', which is not among the given labels" in out
    assert "class 'tea' has 0 usable examples" in out
    code, _, err = run("check", data, "--format", "yolo")
    assert code == 1
    assert err.startswith(f"error: No YOLO annotations found: {data} (got Pascal VOC (XML files")


def test_stats_print_all_parts(run, data):
    code, out, _ = run("stats", data / "test")
    assert code == 0
    assert out.startswith("Dataset name: test\nTotal classes: 2, total images: 5\n")
    assert "Objects per image: 0/5/25/50/75/95/100-percentile: 2/2/2/2/2/2/2 objects" in out
    (data / "train/Annotations/flat.xml").unlink()
    (data / "train/JPEGImages/flat.jpg").unlink()
    code, out, _ = run("stats", data)
    assert "Dataset name: data train\nTotal classes: 2, total images: 7\n" in out
    assert "Dataset name: data test\nTotal classes: 2, total images: 5\n" in out


def test_stats_as_json_with_charts(run, data, tmp_path):
    code, out, _ = run("stats", data / "test", "--json", "--charts", tmp_path / "charts")
    assert code == 0
    document = json.loads(out.splitlines()[-1])
    assert document["parts"]["dataset"]["objects_per_label"] == {"egg": 5, "milk": 5}
    assert len(document["charts"]) == 5
    for path in document["charts"]:
        with Image.open(path) as chart:
            assert chart.format == "PNG"
    _, out, _ = run("stats", data / "test", "--charts", tmp_path / "charts")
    assert f"Chart: {tmp_path}/charts/box_sizes.png\n" in out


def test_show_draws_a_sheet(run, data, tmp_path):
    code, out, _ = run("show", data, "-o", tmp_path / "sheet.png", "--count", 3, "--seed", 4)
    assert (code, out) == (0, f"Wrote {tmp_path}/sheet.png\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        wide = sheet.size
    run("show", data, "-o", tmp_path / "tall.png", "--count", 3, "--columns", 1, "--labels", "egg")
    with Image.open(tmp_path / "tall.png") as sheet:
        assert sheet.height > sheet.width
        assert sheet.width < wide[0]
    code, _, err = run("show", data, "-o", tmp_path / "a.png", "--labels", "yak")
    assert code == 1
    assert err.startswith("error: Unknown label: yak (expected one of egg, milk)")


def test_sample_refuses_a_folder_with_files(run, data):
    code, _, err = run("sample", data)
    assert code == 1
    assert err.startswith("error: The folder to write is not empty")
    code, out, _ = run("sample", data / "new", "--train", 1, "--test", 2)
    assert out == f"Wrote 1 training picture and 2 test pictures to {data}/new\n"


@pytest.mark.parametrize("command", [("check",), ("stats",), ("show", "-o", "sheet.png")])
def test_data_that_is_not_there(run, command):
    code, _, err = run(*command, "nowhere")
    assert code == 1
    assert err == "error: No such dataset folder: nowhere. Check the path of the data.\n"


def test_the_name_of_data(tmp_path, monkeypatch):
    from appliance.cli.data_check import name_of

    monkeypatch.chdir(tmp_path)
    assert name_of(".") == tmp_path.name
    assert name_of("a/fridge/") == "fridge"
    assert name_of("s3://shop/fridge?region=x") == "fridge"
