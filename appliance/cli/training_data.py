"""The data of a command that trains: looked at, read, with labels that fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.annotations.source import FormatName


def read_training_data(
    data: str,
    validation: str | None,
    *,
    data_format: FormatName | Literal["auto"],
    images_root: str | None,
    check: bool,
) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset | None]:
    """The training data, and what to validate on.

    Args:
        data: Address of the training data.
        validation: Of the validation data.
        data_format: How both are written, or "auto".
        images_root: Folder of the pictures of both, if they lie elsewhere.
        check: Whether to look at every picture for defects.

    Raises:
        StorageError, DatasetError, LabelError: What is wrong with them.
    """
    from appliance.annotations.checks.survey import CheckConfig, refuse_errors
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.annotations.formats.opening import open_source
    from appliance.errors import DatasetError

    parts = {"train": data} if validation is None else {"train": data, "validation": validation}
    if check:
        config = CheckConfig(format=data_format, images_root=images_root)
        try:
            refuse_errors(parts, config=config)
        except DatasetError:
            # What is no single part of data, or is not there, has a sentence of its own.
            for part in parts.values():
                open_source(part, data_format, images_root=images_root)
            raise
    train = ObjectDetectionDataset.read(data, format=data_format, images_root=images_root)
    if validation is None:
        return train, None
    return train, ObjectDetectionDataset.read(
        validation, format=data_format, labels=train.labels, images_root=images_root
    )
