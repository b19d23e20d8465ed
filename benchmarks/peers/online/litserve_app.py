"""LitServe as its guide to faster serving has it: base64 in JSON, dynamic batching, a worker for each core."""

import base64
import os

import litserve
import torch

from benchmarks.peers.detector import decode, detect, load_detector


class Detection(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device: str) -> None:
        """Loads the model, once in each worker."""
        self.network = load_detector()

    def decode_request(self, request: dict) -> torch.Tensor:
        """The picture of one request."""
        return decode(base64.b64decode(request["image"]))

    def batch(self, inputs: list) -> list:
        """Pictures have sizes of their own: a list is no tensor."""
        return list(inputs)

    def predict(self, images: list) -> list:
        """Detections of a batch."""
        return detect(self.network, images)

    def unbatch(self, output: list) -> list:
        """One answer for each request."""
        return output

    def encode_response(self, output: dict) -> dict:
        """As JSON."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Detection(max_batch_size=4, batch_timeout=0.01, api_path="/detect"),
        accelerator="cpu",
        workers_per_device=2,
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
