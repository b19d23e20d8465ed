"""Measures a network while it is trained, with the same prediction and the same figures as `appliance evaluate`.

It knows nothing of when it is called, of other workers and of files: the training loop decides the first,
`training.run` and `on_ray.training` hand its figures and pictures to the recorder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.errors import DatasetError
from appliance.evaluation.comparison import Comparison, compare_pictures
from appliance.evaluation.evaluate import EvaluationResult, evaluate_detections, ground_truth_of
from appliance.images.decoding import decode_image
from appliance.model.predictor import Predictor
from appliance.model.spec import ModelSpec

MAP_50 = "map_50"
COCO_AP = "coco_ap"
PICTURES_SHOWN = 4


class Validator:
    """Called with a network and a step, it gives the network's figures on pictures held out.

    It draws nothing from torch's or numpy's random generators and leaves the network as it is, so that a
    run with validation learns what one without it learns.

    Args:
        images: Annotated pictures that training does not see.
        spec: What the network was built from.
        device: Where to compute: "cpu", "cuda" or "auto".

    Raises:
        LabelError: A picture shows a class that is not among those of `spec`.
        DatasetError: No picture shows an object that counts: there would be nothing to measure.
    """

    def __init__(
        self, images: Sequence[AnnotatedImage], spec: ModelSpec, *, device: str = "auto"
    ) -> None:
        truths = [ground_truth_of(image, spec.label_map) for image in images]
        if not any((~truth.difficult & ~truth.is_crowd).any() for truth in truths):
            raise DatasetError(
                "There is nothing to validate on",
                got=f"{len(images)} pictures without an object that counts",
                hint="Choose validation data that shows what is to be found",
            )
        self.images = tuple(images)
        self._spec = spec
        self._device = device
        self._last: EvaluationResult | None = None

    def __call__(self, network: FasterRCNN, step: int) -> Mapping[str, float]:
        """Measures the network.

        Args:
            network: It is copied, not changed; in eval mode or not.
            step: Steps done, for error messages of those who call; the figures do not depend on it.

        Returns:
            `map_50` (PASCAL mAP at IoU 0.5), `coco_ap`, and `map_50/<label>` for each label that occurs.

        Raises:
            StorageError, ImageError: A picture cannot be read any more.
        """
        predictor = Predictor(network, self._spec, device=self._device)
        found = []
        for image in self.images:
            decoded = decode_image(
                storage.read_bytes(image.storage_path),
                source=image.storage_path,
                min_shorter_side_px=predictor.min_shorter_side_px,
            )
            found += predictor.predict([decoded])
        del predictor
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # training has the card to itself again
        self._last = evaluate_detections(self.images, found, self._spec.label_map)
        return figures(self._last)

    def comparisons(self, limit: int = PICTURES_SHOWN) -> list[Comparison]:
        """Truth and detections of the last call, drawn on the pictures with the most errors.

        Args:
            limit: At most so many; none before the first call.

        Raises:
            StorageError, ImageError: A picture cannot be read any more.
        """
        if self._last is None:
            return []
        return compare_pictures(self.images, self._last, limit=limit)


def figures(result: EvaluationResult) -> dict[str, float]:
    """What of an evaluation is followed during training; without what there is nothing to measure for."""
    values = {
        MAP_50: result.map_50,
        COCO_AP: result.coco.ap,
        **{f"{MAP_50}/{label}": ap for label, ap in result.ap_50.items()},
    }
    return {name: float(value) for name, value in values.items() if value is not None}
