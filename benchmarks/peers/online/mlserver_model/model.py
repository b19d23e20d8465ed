"""MLServer: a custom runtime with adaptive batching, and parallel workers."""

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.detector import decode, detect, load_detector


class Detection(MLModel):
    """The model behind the inference protocol."""

    async def load(self) -> bool:
        """Loads it, once in each worker."""
        self.network = load_detector()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Detections of a batch, one JSON text each."""
        images = [decode(jpeg) for jpeg in Base64Codec.decode_input(payload.inputs[0])]
        answers = [json.dumps(found) for found in detect(self.network, images)]
        return InferenceResponse(
            model_name=self.name, outputs=[StringCodec.encode_output("detections", answers)]
        )
