"""TorchServe: a handler of its base class, which decodes, detects and answers for a batch."""

from ts.torch_handler.base_handler import BaseHandler

from benchmarks.peers.detector import decode, detect, load_detector


class Detection(BaseHandler):
    """The steps of a batch."""

    def initialize(self, context: object) -> None:
        """Loads the model, once in each worker."""
        self.network = load_detector()
        self.initialized = True

    def preprocess(self, data: list) -> list:
        """The pictures of a batch."""
        return [decode(bytes(row.get("data") or row.get("body"))) for row in data]

    def inference(self, data: list) -> list:
        """Detections of a batch."""
        return detect(self.network, data)

    def postprocess(self, data: list) -> list:
        """One answer for each request."""
        return data
