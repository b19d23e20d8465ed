"""Daft: paths from a glob, its own download, a class that decodes and holds the model, write_parquet.

Its own `decode_image` has a JPEG decoder whose pixels differ from libjpeg's: the same network finds other things.
"""

import os
import sys

import daft
from daft import DataType, Series
from daft.functions import download

from benchmarks.peers.batch.stamped import detect_stamped
from benchmarks.peers.detector import decode, load_detector


@daft.cls(max_concurrency=2)
class Detector:
    """The model, one for each core."""

    def __init__(self) -> None:
        self.network = load_detector()

    @daft.method.batch(return_dtype=DataType.string(), batch_size=int(os.environ.get("BATCH", "8")))
    def detect(self, jpegs: Series) -> list[str]:
        """Detections of a batch."""
        return detect_stamped(self.network, [decode(jpeg) for jpeg in jpegs.to_pylist()])


if __name__ == "__main__":
    frame = daft.from_glob_path(f"{sys.argv[1]}/*.jpg")
    frame = frame.with_column("found", Detector().detect(download(frame["path"])))
    frame.select("path", "found").write_parquet(sys.argv[2])
