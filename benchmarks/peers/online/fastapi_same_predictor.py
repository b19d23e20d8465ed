"""Plain FastAPI before the appliance's own predictor: what remains is the share of the server."""

import os

import uvicorn
from fastapi import FastAPI, UploadFile

from appliance.scoring import ImageScorer

app = FastAPI()
scorer = ImageScorer.load(os.environ["MODEL"], device="cpu")


@app.post("/detect")
def detect_upload(image: UploadFile) -> dict:
    """The record of one picture."""
    return scorer.score([("picture", image.file.read())])[0].to_row()


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.peers.online.fastapi_same_predictor:app",
        port=int(os.environ["PORT"]),
        workers=2,
    )
