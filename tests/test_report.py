"""The report: one file that needs nothing else, with the right numbers, safe against its data."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from factories import picture
from PIL import Image
from report_cases import SIZE_HW, decoded, evaluation_of, groceries

from appliance.annotations.dataset import AnnotatedImage
from appliance.evaluation.analysis import analyse
from appliance.evaluation.comparison import Comparison
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.predictions import read_predictions
from appliance.evaluation.report.page import (
    ReportData,
    ReportSection,
    metrics_document,
    render_report,
    result_charts,
    write_report,
)
from appliance.labels import LabelMap

NBSP = "\N{NO-BREAK SPACE}"
PICTURES = (
    AnnotatedImage(
        storage_path="test/1.jpg",
        name="1.jpg",
        size_hw=SIZE_HW,
        boxes_xyxy=np.zeros((0, 4), np.float32),
        label_names=(),
        difficult=np.zeros(0, bool),
    ),
)
VOID = {"meta", "link", "img"}


class Page(HTMLParser):
    """What a test wants to know of a page: elements with their attributes, text, open elements."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] if data.strip() else []

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def evaluation() -> EvaluationResult:
    return groceries()


@pytest.fixture(scope="module")
def report_dir(evaluation: EvaluationResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report that has everything."""
    comparison = Comparison(
        name="test_7.jpg",
        truth=picture((1200, 600)),
        prediction=picture((1200, 600), seed=1),
        score_threshold=0.3,
        num_found=5,
        wrong=(("joghurt", 0.5), ("joghurt", 0.4)),
        missed=("water", "water"),
    )
    data = ReportData(
        "groceries v3",
        evaluation,
        description="Trained on 25 pictures.",
        created=datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
        training_log=[
            {"step": step, "loss": 2.0 / step, "learning_rate": 0.02} for step in range(1, 601)
        ],
        comparisons=[comparison],
        sections=[
            ReportSection("Timings", [("Training", 361.6), ("Pictures", 12345), ("Equal", True)]),
            ReportSection(
                "Widths",
                [("water", 12.25, None), ("orange", 98765.4, False)],
                columns=("label", "median", "maximum"),
                note="Pixels of the original pictures.",
            ),
        ],
    )
    folder = tmp_path_factory.mktemp("report") / "out"
    assert write_report(folder, data, images=PICTURES) == str(folder / "index.html")
    return folder


@pytest.fixture(scope="module")
def full_page(report_dir: Path) -> str:
    return (report_dir / "index.html").read_text(encoding="utf-8")


def test_page_needs_nothing_but_itself(full_page: str) -> None:
    page = Page(full_page)
    assert page.open == []
    assert {"script", "iframe", "object", "style"} & {tag for tag, _ in page.elements} == {"style"}
    addresses = [
        attributes[name]
        for _, attributes in page.elements
        for name in ("src", "href", "srcset", "action", "data")
        if name in attributes
    ]
    assert len(addresses) > 15
    assert all(str(address).startswith(("data:", "#")) for address in addresses)
    assert "@import" not in full_page
    assert "url(" not in full_page
    policy = next(meta for meta in page.of("meta") if "http-equiv" in meta)
    assert str(policy["content"]).startswith("default-src 'none'; img-src data:")


def test_page_is_accessible(full_page: str) -> None:
    page = Page(full_page)
    assert page.of("html") == [{"lang": "en"}]
    assert {"header", "main", "nav", "footer", "figure", "figcaption"} <= {
        tag for tag, _ in page.elements
    }
    assert [tag for tag, _ in page.elements].count("h1") == 1
    images = page.of("img")
    # Seven charts, each for a light and a dark page, and two pictures.
    assert len(images) == 16
    assert all(str(image["alt"]).strip() for image in images)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [str(link["href"]) for link in page.of("a")]
    sections = ("labels", "curves", "errors", "confusions", "pictures", "coco", "training")
    assert targets == [f"#{name}" for name in (*sections, "section-1", "section-2")]
    referred = [a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a]
    assert {target[1:] for target in targets} | set(referred) <= set(ids)
    assert all(heading["scope"] in ("row", "col") for heading in page.of("th"))
    assert "prefers-color-scheme: dark" in full_page
    assert "@media print" in full_page


def test_page_has_the_numbers(full_page: str) -> None:
    text = Page(full_page).text
    assert "groceries v3" in text
    assert "Trained on 25 pictures. 01 March 2026, 12:30 UTC" in text
    # The mean of 33/35 and 1/2.
    assert "0.721 mAP@0.5, PASCAL VOC" in text
    assert (
        "At a score of 0.25 or more the model finds 6 of the 7 objects, with 2 wrong ones" in text
    )
    assert "What costs most: missed (" in text
    # One picture says nothing about others: no intervals.
    assert f"water 0.500 – 0.505 100.0{NBSP}% 50.0{NBSP}% 0.667 2 0.12" in text
    assert f"joghurt 0.943 – 0.943 100.0{NBSP}% 80.0{NBSP}% 0.889 5 0.55" in text
    assert "orange no object of it in the test data" in text
    # Worst first, the label without a figure last.
    assert text.index("water 0.500") < text.index("joghurt 0.943") < text.index("orange no object")
    assert "AP Average precision, mean over IoU 0.50 to 0.95" in text
    assert "No object was taken for another label." in text
    assert "Training 362 Pictures 12,345 Equal yes" in text
    assert "label median maximum water 12.2 – orange 98,765 no" in text
    assert "Pixels of the original pictures." in text
    assert "test_7.jpg 5 of 7 objects found Missed: water ×2 Wrong: joghurt 0.50" in text


def test_pictures_and_charts_are_in_the_page(full_page: str) -> None:
    page = Page(full_page)
    encoded = [str(image["src"]) for image in page.of("img")]
    jpegs = [uri for uri in encoded if uri.startswith("data:image/jpeg;base64,")]
    assert len(jpegs) == 2
    for uri in jpegs:
        with Image.open(io.BytesIO(decoded(uri))) as image:
            assert (image.format, image.size) == ("JPEG", (800, 400))
    charts = [uri for uri in encoded if uri.startswith("data:image/svg+xml;base64,")]
    assert len(charts) == len(set(charts)) == 14
    for uri in charts:
        root = ElementTree.fromstring(decoded(uri))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert b"DejaVu" not in decoded(uri)
        # Six hundred steps are thinned to what one can see.
        assert len(decoded(uri)) < 60_000
    alts = " ".join(str(image["alt"]) for image in page.of("img"))
    assert "Average precision: water 0.500, joghurt 0.943." in alts
    assert "Best F1: water 0.667, joghurt 0.889." in alts
    assert "3 labels: 6 objects found as what they are, 0 taken for another label, 1 missed" in alts
    # Means of 2/1, ..., 2/16 and of 2/585, ..., 2/600.
    assert "from 0.423 to 0.00338 over 600 steps" in alts


def test_text_from_data_cannot_become_markup(evaluation: EvaluationResult) -> None:
    attack = '"><script>alert(1)</script>'
    labels = LabelMap((attack, "b"))
    hostile = evaluation_of(labels, [(0, 1)], [(0, 1, 0.9)])
    comparison = Comparison(
        attack, picture(), picture(), 0.5, 0, wrong=((attack, 0.9),), missed=(attack,)
    )
    html = render_report(
        ReportData(
            attack,
            hostile,
            description=attack,
            comparisons=[comparison],
            sections=[ReportSection(attack, [(attack, attack)], columns=(attack, attack))],
        )
    )
    page = Page(html)
    assert page.of("script") == []
    assert page.open == []
    assert attack in page.text
    charts = [decoded(str(image["src"])) for image in page.of("img") if "class" in image]
    assert len(charts) == 10
    assert all(b"<script" not in svg for svg in charts)


def test_least_report_has_only_what_there_is(evaluation: EvaluationResult) -> None:
    page = Page(render_report(ReportData("model", evaluation)))
    targets = [str(link["href"]) for link in page.of("a")]
    assert targets == ["#labels", "#curves", "#errors", "#confusions", "#coco"]
    assert len(page.of("img")) == 10
    assert "Training" not in page.text


def test_model_that_finds_nothing_reads_well() -> None:
    labels = LabelMap(tuple(f"label {index}" for index in range(20)))
    blind = evaluation_of(labels, [(index, index + 1) for index in range(19)], [])
    page = Page(render_report(ReportData("model", blind)))
    assert "0.000 mAP@0.5" in page.text
    assert "The model finds none of the 19 objects, at any score threshold." in page.text
    assert "The 11 better labels are drawn in grey." in page.text
    assert "Nothing: there are none." in page.text
    # Twenty labels are more than one wants to scroll past.
    assert "The other 8 labels" in page.text
    assert len(page.of("details")) == 1


def test_folder_has_charts_figures_and_detections(
    report_dir: Path, evaluation: EvaluationResult
) -> None:
    charts = {chart.name for chart in result_charts(evaluation, analyse(evaluation, resamples=1))}
    assert charts == {
        *("precision_recall", "f1", "errors", "error_pictures"),
        *("confusion_matrix", "average_precision", "error_types"),
    }
    names = {path.name for path in report_dir.iterdir()}
    pngs = {f"{name}.png" for name in charts | {"training_loss", "learning_rate"}}
    assert names == {"index.html", "metrics.json", "detections.json", *pngs}
    for name in pngs:
        with Image.open(report_dir / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 200
    text = (report_dir / "metrics.json").read_text()
    document = json.loads(text)
    assert document == metrics_document(evaluation, analyse(evaluation))
    assert document["PASCAL/Precision/mAP@0.5IOU"] == document["map_50"]
    assert document["PASCAL/PerformanceByCategory/AP@0.5IOU/joghurt"] == pytest.approx(33 / 35)
    assert document["PASCAL/PerformanceByCategory/AP@0.5IOU/orange"] is None
    assert document["COCO/AP50"] == document["COCO/AP"] > 0.7
    assert "NaN" not in text
    read = read_predictions(report_dir / "detections.json", PICTURES, evaluation.labels)
    assert np.array_equal(read.detections[0].boxes_xyxy, evaluation.detections[0].boxes_xyxy)


def test_same_data_makes_the_same_page(evaluation: EvaluationResult) -> None:
    created = datetime(2026, 3, 1, tzinfo=UTC)
    pages = [render_report(ReportData("model", evaluation, created=created)) for _ in range(2)]
    assert pages[0] == pages[1]
