"""Ray Serve as its own example of object detection has it: an ingress of FastAPI before a deployment of the model.

The example fetches an address and draws; this takes the picture itself and answers with numbers.
"""

import os

from fastapi import FastAPI, UploadFile
from ray import serve
from ray.serve.handle import DeploymentHandle

from benchmarks.peers.detector import decode, detect, load_detector

app = FastAPI()


@serve.deployment(num_replicas=1)
@serve.ingress(app)
class APIIngress:
    """Takes requests."""

    def __init__(self, object_detection: DeploymentHandle) -> None:
        self.handle = object_detection

    @app.post("/detect")
    async def detect(self, image: UploadFile) -> dict[str, list]:
        """Detections of one picture."""
        return await self.handle.detect.remote(await image.read())


@serve.deployment(autoscaling_config={"min_replicas": 1, "max_replicas": 2})
class ObjectDetection:
    """Has the model."""

    def __init__(self) -> None:
        self.network = load_detector()

    def detect(self, jpeg: bytes) -> dict[str, list]:
        """Detections of one picture."""
        return detect(self.network, [decode(jpeg)])[0]


if __name__ == "__main__":
    serve.start(http_options={"port": int(os.environ["PORT"])})
    serve.run(APIIngress.bind(ObjectDetection.bind()), blocking=True)
