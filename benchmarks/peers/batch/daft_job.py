"""Daft: paths from a glob, its own download and decoding, a class that holds the model, write_parquet."""

import os
import sys

import daft
import torch
from daft import DataType, Series
from daft.functions import decode_image, download

from benchmarks.peers.batch.stamped import detect_stamped
from benchmarks.peers.detector import load_detector


@daft.cls(max_concurrency=2)
class Detector:
    """The model, one for each core."""

    def __init__(self) -> None:
        self.network = load_detector()

    @daft.method.batch(return_dtype=DataType.string(), batch_size=int(os.environ.get("BATCH", "8")))
    def detect(self, images: Series) -> list[str]:
        """Detections of a batch."""
        pixels = [
            torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255
            for image in images.to_pylist()
        ]
        return detect_stamped(self.network, pixels)


if __name__ == "__main__":
    frame = daft.from_glob_path(f"{sys.argv[1]}/*.jpg")
    frame = frame.with_column("image", decode_image(download(frame["path"])))
    frame = frame.with_column("found", Detector().detect(frame["image"]))
    frame.select("path", "found").write_parquet(sys.argv[2])
