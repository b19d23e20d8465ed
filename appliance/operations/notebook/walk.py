"""The walk of `appliance demo` as a Jupyter notebook: data, training, evaluation, scoring, each with pictures.

The notebook is plain JSON, so that writing one needs no Jupyter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.errors import ConfigError

_TITLE = """# From annotated pictures to a detector

The walk of `appliance demo`, step by step: look at the data, train, measure, score. It needs no GPU and starts no cluster.
Change anything, and run it again."""
_IMPORTS = """%matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt

from appliance import FasterRCNN, ObjectDetectionDataset, count_errors, graph_error_counts, visualize"""
_DATA = """## Data

{what} Every picture's boxes are checked as they are read; `appliance data check` tells of all defects at once."""
_SCENES = """from appliance.annotations.samples.scenes import make_sample_dataset

folder = Path({folder!r})
if not folder.exists():
    make_sample_dataset(folder, train={train_images}, test={test_images}, seed={seed})
train_set = ObjectDetectionDataset.read(folder / "train", "scenes")
test_set = ObjectDetectionDataset.read(folder / "test", "test scenes", labels=train_set.labels)
train_set.print_info()"""
_OWN = """data = ObjectDetectionDataset.read({data!r})
train_set, test_set = data.split(1 - {test_fraction}, seed={seed})
train_set.print_info()"""
_SHOW = """for image in train_set.images[:2]:
    image.visualize_bounding_boxes(image_size=(7, 5))"""
_TRAINING = """## Training

From {init_text}. The run's folder holds checkpoints, metrics and TensorBoard files."""
_TRAIN = """detector = FasterRCNN(train_set.labels, init={init!r})
detector.train(train_set, num_steps={steps}, progress=False)"""
_CURVE = """from appliance.training.monitor import read_metrics

metrics = read_metrics(Path(detector.train_dir).parent)
figure, axes = plt.subplots(figsize=(7, 3))
axes.plot([line["step"] for line in metrics], [line["loss"] for line in metrics])
axes.set(xlabel="step", ylabel="loss", title="What the training minimized");"""
_EVALUATION = """## Evaluation

PASCAL average precision at IoU 0.5 of each label, on pictures that the training has not seen, and the errors at every score
threshold."""
_EVALUATE = """result = detector.evaluate_in_detail(test_set)
figures = result.metrics()
prefix = "PASCAL/PerformanceByCategory/AP@0.5IOU/"
by_label = {name.removeprefix(prefix): ap or 0 for name, ap in figures.items() if name.startswith(prefix)}
figure, axes = plt.subplots(figsize=(7, 3))
axes.barh(list(by_label), list(by_label.values()))
axes.set(xlim=(0, 1), xlabel="AP@0.5", title=f"mAP@0.5 {figures['PASCAL/Precision/mAP@0.5IOU']:.3f}");"""
_ERRORS = "graph_error_counts(count_errors(result.pascal.matches));"
_SCORING = """## Scoring

`score` takes a path or a list of them, and answers as the 2018 package did."""
_SCORE = """paths = [image.storage_path for image in test_set.images[:2]]
for path, detections in zip(paths, detector.score(paths)):
    visualize(path, detections, image_size=(7, 5), class_map=detector.class_map)"""
_SAVE = """detector.save({model!r})"""
_NEXT = """## What comes next

```
appliance evaluate {model} TEST_DATA -o report/     # the whole report
appliance score {model} PICTURES SCORES             # a folder or bucket, with Ray Data
appliance serve {model}                             # over HTTP, with a page to try it
```"""


@dataclass(frozen=True)
class NotebookPlan:
    """What the notebook walks over.

    Attributes:
        data: The user's annotated pictures; None draws sample scenes.
        init: Starting weights.
        steps: Training steps.
        train_images: Sample scenes to train on.
        test_images: Sample scenes to test on.
        test_fraction: Share of `data` to test on, 0..1.
        seed: Of scenes and split.
    """

    data: str | None = None
    init: str = "none"
    steps: int = 300
    train_images: int = 120
    test_images: int = 20
    test_fraction: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test_fraction < 1:
            raise ConfigError(
                "test_fraction is out of range", got=self.test_fraction, expected="between 0 and 1"
            )
        if min(self.steps, self.train_images, self.test_images) < 1:
            raise ConfigError("steps and numbers of pictures are at least 1")


def write_notebook(plan: NotebookPlan, file: Path) -> None:
    """Writes the notebook.

    Raises:
        ConfigError: There is a file already, or its name is no notebook's.
        StorageError: It cannot be written.
    """
    if file.suffix != ".ipynb":
        raise ConfigError("That is no name for a notebook", got=file, expected="as walk.ipynb")
    if file.exists():
        raise ConfigError("There is a file already", where=file, hint="Choose another name")
    storage.write_bytes(file, json.dumps(notebook(plan), indent=1).encode() + b"\n")


def notebook(plan: NotebookPlan) -> dict[str, Any]:
    """The notebook as Jupyter's document, format 4.5."""
    cells = [_cell(kind, text, number) for number, (kind, text) in enumerate(_cells(plan), start=1)]
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {
                "display_name": "Python 3",
                "language": "python",
                "name": "python3",
            },
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _cells(plan: NotebookPlan) -> Iterator[tuple[str, str]]:
    model = "walk.safetensors"
    yield "markdown", _TITLE
    yield "code", _IMPORTS
    if plan.data is None:
        yield "markdown", _DATA.format(what="Drawn shelf scenes of eight grocery classes.")
        numbers = {"train_images": plan.train_images, "test_images": plan.test_images}
        yield "code", _SCENES.format(folder="walk_scenes", seed=plan.seed, **numbers)
    else:
        yield "markdown", _DATA.format(what="Your own pictures, a part held out to test on.")
        yield "code", _OWN.format(data=plan.data, test_fraction=plan.test_fraction, seed=plan.seed)
    yield "code", _SHOW
    random = "random weights" if plan.init == "none" else f"the weights of `{plan.init}`"
    yield "markdown", _TRAINING.format(init_text=random)
    yield "code", _TRAIN.format(init=plan.init, steps=plan.steps)
    yield "code", _CURVE
    yield "markdown", _EVALUATION
    yield "code", _EVALUATE
    yield "code", _ERRORS
    yield "markdown", _SCORING
    yield "code", _SCORE
    yield "code", _SAVE.format(model=model)
    yield "markdown", _NEXT.format(model=model)


def _cell(kind: str, text: str, number: int) -> dict[str, Any]:
    cell = {
        "cell_type": kind,
        "id": f"step-{number:02d}",
        "metadata": {},
        "source": text.splitlines(keepends=True),
    }
    return cell if kind == "markdown" else {**cell, "execution_count": None, "outputs": []}
