"""Ray Data as its documentation begins: read_images, map_batches of an actor with the model, write_parquet."""

import os
import sys

import numpy as np
import ray
import torch

from benchmarks.peers.batch.stamped import detect_stamped
from benchmarks.peers.detector import load_detector


class Detector:
    """The model in an actor."""

    def __init__(self) -> None:
        self.network = load_detector()

    def __call__(self, batch: dict) -> dict:
        """Detections of a batch."""
        images = [
            torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            for image in batch["image"]
        ]
        return {"path": batch["path"], "found": np.array(detect_stamped(self.network, images))}


if __name__ == "__main__":
    # One CPU more than there are, for the tasks that read: with all of them taken by actors, it stands still.
    ray.init(num_cpus=3)
    dataset = ray.data.read_images(sys.argv[1], include_paths=True, mode="RGB")
    dataset = dataset.map_batches(
        Detector,
        batch_size=int(os.environ.get("BATCH", "8")),
        compute=ray.data.ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    dataset.write_parquet(sys.argv[2])
