"""BentoML: a Service with adaptive batching and a worker for each core."""

import os

import bentoml
from PIL.Image import Image
from torchvision.transforms.functional import pil_to_tensor

from benchmarks.peers.detector import detect, load_detector


@bentoml.service(workers="cpu_count", traffic={"timeout": 120, "max_concurrency": 256})
class Detection:
    """The model behind HTTP."""

    def __init__(self) -> None:
        self.network = load_detector()

    @bentoml.api(batchable=True, max_batch_size=4, max_latency_ms=60_000)
    def detect(self, images: list[Image]) -> list[dict]:
        """Detections of a batch."""
        pixels = [pil_to_tensor(image.convert("RGB")).float() / 255 for image in images]
        return detect(self.network, pixels)


if __name__ == "__main__":
    # By its name: a service of the module that is run as a program is refused.
    bentoml.serve(f"{__spec__.name}:Detection", port=int(os.environ["PORT"]), blocking=True)
