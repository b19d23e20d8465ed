"""LitServe before the appliance's own predictor: what remains is the share of the server."""

import base64
import os

import litserve

from appliance.scoring import DecodedUpload, ImageScorer


class Detection(litserve.LitAPI):
    """The steps of a request."""

    def setup(self, device: str) -> None:
        """Loads the model, once in each worker."""
        self.scorer = ImageScorer.load(os.environ["MODEL"], device="cpu")

    def decode_request(self, request: dict) -> DecodedUpload:
        """The picture of one request."""
        return self.scorer.decode(base64.b64decode(request["image"]), "picture")

    def batch(self, inputs: list) -> list:
        """The predictor takes lists."""
        return list(inputs)

    def predict(self, uploads: list) -> list:
        """Records of a batch."""
        return self.scorer.predict(uploads)

    def unbatch(self, output: list) -> list:
        """One answer for each request."""
        return output

    def encode_response(self, output: object) -> dict:
        """As JSON."""
        return output.to_row()


if __name__ == "__main__":
    server = litserve.LitServer(
        Detection(max_batch_size=4, batch_timeout=0.01, api_path="/detect"),
        accelerator="cpu",
        workers_per_device=2,
    )
    server.run(host="127.0.0.1", port=int(os.environ["PORT"]), generate_client_file=False)
