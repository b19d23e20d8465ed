"""The one record schema: a Parquet row and a JSON document alike, one per input picture.

Every picture given in yields exactly one record, also when nothing was found on it or it could not be
read: then `error` and `error_kind` are set and `detections` is empty. Batch, stream and online scoring
write nothing else. pyarrow is imported only by the functions that make tables, so that a GPU box with
torch alone can still make records.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from appliance.detections import Detections
from appliance.errors import ApplianceError, ImageError
from appliance.labels import LabelMap

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class DetectedObject:
    """One detection of a record: a box in pixels of the original picture, a score and a class."""

    x1: float
    y1: float
    x2: float
    y2: float
    score: float
    class_id: int
    label: str

    def to_row(self) -> dict[str, Any]:
        """A plain dictionary in the order of the schema."""
        return {
            "x1": self.x1,
            "y1": self.y1,
            "x2": self.x2,
            "y2": self.y2,
            "score": self.score,
            "class_id": self.class_id,
            "label": self.label,
        }


@dataclass(frozen=True)
class Record:
    """What is known of one picture after scoring.

    Attributes:
        image_uri: Where the picture came from; for HTTP uploads the name the client gave.
        content_sha256: Hash of the encoded bytes, or None when they could not be read.
        width_px: Width of the original picture, EXIF orientation applied; None when unread.
        height_px: Its height.
        model_name: Name of the model that scored it.
        model_version: Its version.
        detections: Best score first.
        error: One sentence, or None.
        error_kind: A word to count errors by, or None.
    """

    image_uri: str
    content_sha256: str | None
    width_px: int | None
    height_px: int | None
    model_name: str
    model_version: str
    detections: tuple[DetectedObject, ...] = ()
    error: str | None = None
    error_kind: str | None = None

    @classmethod
    def of_detections(
        cls,
        detections: Detections,
        labels: LabelMap,
        *,
        image_uri: str,
        content_sha256: str | None,
        model_name: str,
        model_version: str,
    ) -> Record:
        """The record of a picture that was read and scored."""
        objects = tuple(
            DetectedObject(x1, y1, x2, y2, score, class_id, labels.name_of(class_id))
            for (x1, y1, x2, y2), score, class_id in zip(
                detections.boxes_xyxy.tolist(),
                detections.scores.tolist(),
                detections.class_ids.tolist(),
                strict=True,
            )
        )
        height_px, width_px = detections.size_hw
        return cls(
            image_uri, content_sha256, width_px, height_px, model_name, model_version, objects
        )

    @classmethod
    def of_error(
        cls,
        error: ApplianceError,
        *,
        image_uri: str,
        content_sha256: str | None,
        model_name: str,
        model_version: str,
    ) -> Record:
        """The record of a picture that could not be read or scored."""
        kind = getattr(error, "kind", type(error).__name__)
        return cls(
            image_uri, content_sha256, None, None, model_name, model_version, (), str(error), kind
        )

    def to_row(self) -> dict[str, Any]:
        """A dictionary of plain Python values: a Parquet row, and JSON as it stands."""
        return {
            "image_uri": self.image_uri,
            "content_sha256": self.content_sha256,
            "width_px": self.width_px,
            "height_px": self.height_px,
            "model_name": self.model_name,
            "model_version": self.model_version,
            "detections": [found.to_row() for found in self.detections],
            "error": self.error,
            "error_kind": self.error_kind,
        }

    def to_detections(self) -> Detections:
        """What was found as arrays.

        Raises:
            ImageError: The picture was not scored; says why.
        """
        if self.width_px is None or self.height_px is None:
            raise ImageError(
                "The picture was not scored",
                where=self.image_uri,
                got=self.error,
                kind=self.error_kind or "unreadable",
            )
        found = self.detections
        return Detections(
            np.array([(one.x1, one.y1, one.x2, one.y2) for one in found], np.float32),
            np.array([one.score for one in found], np.float32),
            np.array([one.class_id for one in found], np.int64),
            (self.height_px, self.width_px),
        )

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Record:
        """Reads `to_row` back, from JSON or from a Parquet row."""
        objects = tuple(DetectedObject(**found) for found in row["detections"])
        return cls(**{**row, "detections": objects})


def read_detections(batch: pa.RecordBatch) -> list[Detections]:
    """What was found, picture by picture, without a Python object for each box.

    Args:
        batch: Of `arrow_schema()`. A picture that could not be read has no detections, and stands as
            one of 1x1 pixels.
    """
    import pyarrow.compute as pc

    def column(name: str) -> npt.NDArray[Any]:
        values: npt.NDArray[Any] = pc.fill_null(batch.column(name), 1).to_numpy()
        return values

    found = batch.column("detections")
    objects = found.flatten()
    boxes_xyxy = np.stack([objects.field(side).to_numpy() for side in ("x1", "y1", "x2", "y2")], 1)
    scores = objects.field("score").to_numpy()
    class_ids = objects.field("class_id").to_numpy().astype(np.int64)
    ends = np.cumsum(pc.list_value_length(found).to_numpy())
    return [
        Detections(boxes_xyxy[first:end], scores[first:end], class_ids[first:end], size_hw)
        for first, end, size_hw in zip(
            [0, *ends[:-1].tolist()],
            ends.tolist(),
            zip(column("height_px").tolist(), column("width_px").tolist(), strict=True),
            strict=True,
        )
    ]


def arrow_schema() -> pa.Schema:
    """The Parquet schema of `Record`; boxes are float32 as the model made them."""
    import pyarrow as pa

    found = pa.struct(
        [(name, pa.float32()) for name in ("x1", "y1", "x2", "y2", "score")]
        + [("class_id", pa.int32()), ("label", pa.string())]
    )
    return pa.schema(
        [
            pa.field("image_uri", pa.string(), nullable=False),
            pa.field("content_sha256", pa.string()),
            pa.field("width_px", pa.int32()),
            pa.field("height_px", pa.int32()),
            pa.field("model_name", pa.string(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("detections", pa.list_(found), nullable=False),
            pa.field("error", pa.string()),
            pa.field("error_kind", pa.string()),
        ]
    )


def records_to_table(records: Iterable[Record]) -> pa.Table:
    """The records as one Arrow table of `arrow_schema()`, in the order given."""
    import pyarrow as pa

    return pa.Table.from_pylist([record.to_row() for record in records], schema=arrow_schema())


def table_to_records(table: pa.Table) -> list[Record]:
    """Reads `records_to_table` back."""
    return [Record.from_row(row) for row in table.to_pylist()]


def records_agree(
    first: Record, second: Record, *, box_tolerance_px: float = 0.5, score_tolerance: float = 1e-3
) -> bool:
    """Whether two records of one picture say the same.

    Every detection of one must have its own counterpart in the other: same class, every coordinate
    within `box_tolerance_px`, score within `score_tolerance`. Order is left open, since scores that
    differ in their last bit may change places.
    """
    if first.error_kind != second.error_kind or len(first.detections) != len(second.detections):
        return False
    left = list(second.detections)
    for found in first.detections:
        counterpart = next(
            (other for other in left if _agree(found, other, box_tolerance_px, score_tolerance)),
            None,
        )
        if counterpart is None:
            return False
        left.remove(counterpart)
    return True


def _agree(a: DetectedObject, b: DetectedObject, box_px: float, score: float) -> bool:
    sides = ((a.x1, b.x1), (a.y1, b.y1), (a.x2, b.x2), (a.y2, b.y2))
    return (
        a.class_id == b.class_id
        and abs(a.score - b.score) <= score
        and all(abs(p - q) <= box_px for p, q in sides)
    )
