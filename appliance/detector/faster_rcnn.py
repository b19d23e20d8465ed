"""`FasterRCNN`: the whole library behind one object, as users of the 2018 package know it.

    detector = FasterRCNN(dataset.labels)
    detector.train(dataset, num_steps=350)
    detector.evaluate(test_dataset)["PASCAL/Precision/mAP@0.5IOU"]
    detector.score("picture.jpg")["detection_boxes"]
    detector.save("fridge.safetensors")

Everything runs in this process; `appliance.on_ray` does the same on a cluster. Loading a model, or
torchvision's own, and scoring pictures take torch, torchvision, numpy, pillow and safetensors alone: what
training and evaluation need besides is imported by the methods that train and evaluate.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from torchvision.models.detection import FasterRCNN as Network

from appliance import storage
from appliance.detections import Detections
from appliance.detector.paths import check_is_model_path, check_is_path
from appliance.errors import ConfigError, ModelFileError
from appliance.images.decoding import decode_image
from appliance.labels import Label, LabelMap
from appliance.model import model_file
from appliance.model.device import resolve_device
from appliance.model.model_file import ModelInfo
from appliance.model.predictor import Predictor
from appliance.model.pretrained import default_architecture, pretrained_detector
from appliance.model.spec import ModelSpec
from appliance.model.weights import check_init
from appliance.storage.context import Context

if TYPE_CHECKING:
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.evaluate import EvaluationResult
    from appliance.training.config import TrainingConfig


class FasterRCNN:
    """A Faster R-CNN object detector; `FasterRCNN.pretrained` needs no training.

    Args:
        labels: Classes to detect: a dataset's `labels`, or names.
        score_threshold: Detections below are dropped, 0..1.
        max_total_detections: At most so many a picture.
        architecture: One of `model.spec.ARCHITECTURES`; None takes ResNet-50 where there is a GPU and
            the compact one where there is none.
        init: Starting weights: "coco", "imagenet", "none" or a file. None takes the best there are for
            the architecture, and falls back to random ones, with a warning, where they cannot be
            downloaded.
        run_dir: Folder for checkpoints, metrics and TensorBoard files; None makes one in `runs/` of the `Context`.
        device: "cpu", "cuda" or "auto".

    Raises:
        ConfigError: A setting is out of range, or there is no such device.
        LabelError: The labels are not usable.
    """

    def __init__(
        self,
        labels: Iterable[Label | str],
        score_threshold: float = 0.0,
        max_total_detections: int = 300,
        *,
        architecture: str | None = None,
        init: str | None = None,
        run_dir: str | os.PathLike[str] | None = None,
        device: str = "auto",
    ) -> None:
        self._label_map = LabelMap.of(labels)
        self._architecture = architecture or default_architecture()
        self._init = init
        self._device = device
        self._settings: dict[str, Any] = {
            "score_threshold": score_threshold,
            "max_detections": max_total_detections,
        }
        # Refuses wrong settings now, not after hours of training.
        ModelSpec.of(self._label_map, self._architecture, **self._settings)
        resolve_device(device)
        if init is not None:
            check_init(init)
        unique = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        self._run_dir = Path(run_dir or Path(Context.current().runs_path, f"faster_rcnn-{unique}"))
        self._has_begun_run = False
        self._trained: tuple[Network, ModelSpec, ModelInfo] | None = None
        self._predictor: Predictor | None = None

    @property
    def labels(self) -> list[Label]:
        """The classes, in the order of their ids."""
        return list(self._label_map)

    @property
    def class_map(self) -> dict[str, int]:
        """Name -> class id, from 1."""
        return self._label_map.class_map

    @property
    def train_dir(self) -> str:
        """Folder of the TensorBoard files of training."""
        from appliance.training.monitor import TENSORBOARD_DIR

        return str(self._run_dir / TENSORBOARD_DIR)

    @property
    def eval_dir(self) -> str:
        """Folder of the TensorBoard files of evaluation."""
        return str(self._run_dir / "eval")

    def train(
        self,
        dataset: ObjectDetectionDataset,
        num_steps: int | None = None,
        initial_learning_rate: float | None = None,
        *,
        batch_size: int | None = None,
        validation: ObjectDetectionDataset | None = None,
        config: TrainingConfig | None = None,
        resume: bool = False,
        progress: bool = True,
        **stages: float,
    ) -> None:
        """Trains from the starting weights.

        Args:
            dataset: Annotated pictures; their labels must be among the detector's.
            num_steps: Steps of `batch_size` pictures; by default those of `config`, else 30 times the
                number of pictures. At least 10 times is a rule of thumb.
            initial_learning_rate: The peak of a one-cycle schedule; or, where stages are given, the
                rate up to the first of them. None takes what suits the starting weights.
            batch_size: Pictures a step; None takes that of `config`, else 1.
            validation: Annotated pictures to measure on while it trains, as often as `config` says; without
                one, about ten times. None measures nothing.
            config: All other settings; None takes what suits the starting weights.
            resume: Go on from the newest checkpoint in `run_dir`, if there is one: after the process was killed,
                the same call in a new one ends with the weights of a run that was not disturbed.
            progress: Show a progress bar.
            **stages: `step1=..., learning_rate1=..., step2=..., learning_rate2=...`: from each step on,
                the rate beside it.

        Raises:
            LabelError: The dataset has a label that the detector was not made for.
            ConfigError: `dataset` is something else, a path for instance, a setting is wrong, or `run_dir` holds
                a run of somebody else.
            TrainingError: See `training.engine.train`.
        """
        from appliance.detector.training import learning_rate_stages, train_detector
        from appliance.training.run_folder import RunFolder, check_free

        # A new run clears away the checkpoints of the one before.
        if not self._has_begun_run:
            check_free(RunFolder(self._run_dir), resume=resume)
        self._has_begun_run = True
        self._trained = train_detector(
            dataset,
            self._label_map,
            validation=validation,
            architecture=self._architecture,
            init=self._init,
            settings=self._settings,
            config=config,
            wishes={
                "steps": num_steps,
                "learning_rate": initial_learning_rate,
                "batch_size": 1 if config is None and batch_size is None else batch_size,
                "learning_rate_stages": learning_rate_stages(stages, self.train) or None,
            },
            run_dir=self._run_dir,
            device=self._device,
            resume=resume,
            progress=progress,
        )
        self._predictor = None

    def evaluate(self, dataset: ObjectDetectionDataset) -> dict[str, float]:
        """Measures the detector on annotated pictures.

        Returns:
            `PASCAL/PerformanceByCategory/AP@0.5IOU/<label>` for each label and
            `PASCAL/Precision/mAP@0.5IOU`, and COCO's twelve figures from `COCO/AP` on; NaN where there is
            nothing to measure. The same, charts and pictures with boxes go to `eval_dir`.

        Raises:
            LabelError: The dataset has a label that the detector does not know.
            ModelFileError: The detector was not trained yet.
        """
        from appliance.detector.evaluation import show_in_tensorboard

        result = self.evaluate_in_detail(dataset)
        show_in_tensorboard(result, dataset, self.eval_dir)
        missing = float("nan")
        return {
            name: missing if value is None else value for name, value in result.metrics().items()
        }

    def evaluate_in_detail(self, dataset: ObjectDetectionDataset) -> EvaluationResult:
        """Measures the detector on annotated pictures; see `EvaluationResult`.

        Raises:
            ConfigError: `dataset` is something else, a path for instance.
        """
        from appliance.detector.evaluation import evaluate_detector

        return evaluate_detector(self.detect, dataset, self._label_map)

    def detect(self, image_path: str | os.PathLike[str]) -> Detections:
        """Detects on one picture.

        Raises:
            ConfigError: It is no path.
            StorageError, ImageError: The picture cannot be read.
            ModelFileError: The detector was not trained yet.
        """
        check_is_path(image_path)
        predictor = self._ready()
        image = decode_image(
            storage.read_bytes(image_path),
            source=str(image_path),
            min_shorter_side_px=predictor.min_shorter_side_px,
        )
        return predictor.predict([image])[0]

    @overload
    def score(self, images: str | os.PathLike[str]) -> dict[str, Any]: ...  # type: ignore[overload-overlap] # str is a Sequence
    @overload
    def score(self, images: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]: ...
    def score(
        self, images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Detects on one picture or several.

        Args:
            images: One path or URI, or a list of them.

        Returns:
            For one path a dictionary, for a list a list of them: `detection_boxes` as [top, left,
            bottom, right] in 0..1, `detection_scores` descending, `detection_classes` from 1,
            `num_detections`.

        Raises:
            ConfigError: It is neither.
            StorageError, ImageError: A picture cannot be read.
            ModelFileError: The detector was not trained yet.
        """
        if isinstance(images, str | os.PathLike | bytes) or not isinstance(images, Iterable):
            return self.detect(images).to_score_dict()
        return [self.detect(image).to_score_dict() for image in images]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model file.

        Raises:
            ConfigError: `path` is none.
            StorageError: It cannot be written.
            ModelFileError: The detector was not trained yet.
        """
        check_is_model_path(path)
        network, spec, info = self._model()
        model_file.save(str(path), network, spec, info=info)

    @classmethod
    def pretrained(
        cls,
        weights: str = "coco",
        *,
        architecture: str | None = None,
        score_threshold: float = 0.05,
        max_total_detections: int = 100,
        device: str = "auto",
    ) -> FasterRCNN:
        """A detector of COCO's 80 classes, without training; thresholds as torchvision's own.

        Class ids count the 80 classes without COCO's gaps; `class_map` has the names.

        Args:
            weights: "coco", the only ones torchvision has for whole detectors; fetched once into its
                cache (TORCH_HOME).
            architecture: One of torchvision's; None takes ResNet-50 where there is a GPU and MobileNet v3
                where there is none.
            score_threshold: Detections below are dropped, 0..1.
            max_total_detections: At most so many a picture.
            device: "cpu", "cuda" or "auto".

        Raises:
            ConfigError: There are no such weights.
            StorageError: They cannot be downloaded; the message says which file to put where.
        """
        settings = {
            "score_threshold": score_threshold,
            "max_detections": max_total_detections,
        }
        network, spec, info = pretrained_detector(weights, architecture, **settings)
        return cls._of(network, spec, info, init=weights, device=device)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str = "auto") -> FasterRCNN:
        """Reads a model file that `save` or `appliance train` has written.

        Raises:
            ConfigError: `path` is none, or there is no such device.
            StorageError: It cannot be read.
            ModelFileError: It is no model file.
        """
        check_is_model_path(path)
        resolve_device(device)
        loaded = model_file.load(str(path))
        return cls._of(loaded.network, loaded.spec, loaded.info, init=str(path), device=device)

    @classmethod
    def _of(
        cls, network: Network, spec: ModelSpec, info: ModelInfo, *, init: str, device: str
    ) -> FasterRCNN:
        """A detector with a model that is there already."""
        detector = cls(
            spec.labels,
            spec.score_threshold,
            spec.max_detections,
            architecture=spec.architecture,
            init=init,
            device=device,
        )
        detector._trained = (network, spec, info)
        return detector

    @staticmethod
    def parse_serialized_result(json_text: str) -> dict[str, Any]:
        """Reads the JSON string that the web service's `/score` answers with for one picture.

        Raises:
            ConfigError: It is another text.
        """
        try:
            return dict(json.loads(json_text))
        except (ValueError, TypeError):
            raise ConfigError(
                "This is no answer for one picture",
                got=repr(json_text)[:80],
                expected="one of the texts that /score answers with",
            ) from None

    def _model(self) -> tuple[Network, ModelSpec, ModelInfo]:
        if self._trained is None:
            raise ModelFileError(
                "The detector was not trained yet", hint="Call train first, or load a model file"
            )
        return self._trained

    def _ready(self) -> Predictor:
        if self._predictor is None:
            network, spec, _ = self._model()
            self._predictor = Predictor(network, spec, device=self._device)
        return self._predictor
