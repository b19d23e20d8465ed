"""LitServe without batching and with one thread of torch a worker: what measuring on a few cores teaches."""

import base64
import os

import litserve
import torch

from benchmarks.peers.detector import decode, detect, load_detector


class Detection(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device: str) -> None:
        """Loads the model, once in each worker."""
        torch.set_num_threads(1)
        self.network = load_detector()

    def decode_request(self, request: dict) -> torch.Tensor:
        """The picture of one request."""
        return decode(base64.b64decode(request["image"]))

    def predict(self, image: torch.Tensor) -> dict:
        """Its detections."""
        return detect(self.network, [image])[0]

    def encode_response(self, output: dict) -> dict:
        """As JSON."""
        return output


if __name__ == "__main__":
    server = litserve.LitServer(
        Detection(api_path="/detect"), accelerator="cpu", workers_per_device=2
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
