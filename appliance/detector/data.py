"""What the user's detector takes as data: a data set of its own classes."""

from __future__ import annotations

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import ConfigError, LabelError
from appliance.labels import LabelMap


def check_is_dataset(dataset: object) -> None:
    """Refuses a path, for instance.

    Raises:
        ConfigError: It is no data set.
    """
    if not isinstance(dataset, ObjectDetectionDataset):
        raise ConfigError(
            "This is no data set",
            got=repr(dataset),
            expected="an ObjectDetectionDataset",
            hint="Read one with ObjectDetectionDataset.read",
        )


def check_labels(dataset: ObjectDetectionDataset, labels: LabelMap) -> None:
    """Refuses classes that the detector cannot learn.

    Raises:
        LabelError: The data set has a label that is not among `labels`.
    """
    for label in dataset.labels:
        if label not in labels:
            raise LabelError(
                "The dataset has a label that the detector was not made for",
                where=dataset.name,
                got=repr(label.name),
                expected=f"one of {', '.join(labels.class_map)}",
                hint="Make the detector with the labels of this dataset",
            )
