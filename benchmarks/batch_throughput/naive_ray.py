"""Ray Data as its documentation begins: read_images, map_batches of torchvision's model, write.

Imports Ray itself: it is what users would write without the appliance.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

BATCH = 8
CORES = 2


class NaiveModel:
    """torchvision's model as an actor of Ray Data holds it; tells when it began and ended each batch."""

    def __init__(self, model: str) -> None:
        import torch

        from appliance.model import model_file
        from benchmarks.model_speed.sides import Reference

        torch.set_num_threads(1)
        self._reference = Reference.of(model_file.load(model), torch.device("cpu"))

    def __call__(  # noqa: D102 - Ray Data's own name
        self, batch: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        import torch

        began_s = time.time()
        images = [
            torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
            for image in batch["image"]
        ]
        with torch.inference_mode():
            found = self._reference.network(images)
        return {
            "path": batch["path"],
            "boxes": np.array([json.dumps(one["boxes"].tolist()) for one in found], object),
            "scores": np.array([json.dumps(one["scores"].tolist()) for one in found], object),
            "began_s": np.full(len(found), began_s),
            "ended_s": np.full(len(found), time.time()),
        }


def naive(model: str, pictures: str, output: str) -> dict[str, Any]:
    """Ray Data as one writes it first."""
    import pandas as pd
    import ray
    import ray.data

    from appliance.on_ray.cluster import local_cluster

    started_s = time.time()
    # One CPU more than there are, for the tasks that read: with all of them taken by actors, it stands still.
    with local_cluster(num_cpus=CORES + 1):
        dataset = ray.data.read_images(pictures, include_paths=True, mode="RGB").map_batches(
            NaiveModel,
            fn_constructor_args=(model,),
            batch_size=BATCH,
            compute=ray.data.ActorPoolStrategy(size=CORES),
            num_cpus=1,
        )
        dataset.write_parquet(f"{output}/scores")
    rows = pd.read_parquet(f"{output}/scores")
    first_s, last_s = rows["began_s"].min(), rows["ended_s"].max()
    return {
        "images": len(rows),
        "objects": int(rows["scores"].map(lambda text: len(json.loads(text))).sum()),
        "start_up_s": first_s - started_s,
        "images_per_s": len(rows) / (last_s - first_s),
    }
