"""Plain FastAPI: a path operation that blocks, so FastAPI runs it in a thread; uvicorn with a worker for each core."""

import os

import uvicorn
from fastapi import FastAPI, UploadFile

from benchmarks.peers.detector import decode, detect, load_detector

app = FastAPI()
network = load_detector()


@app.post("/detect")
def detect_upload(image: UploadFile) -> dict[str, list]:
    """Detections of one picture."""
    return detect(network, [decode(image.file.read())])[0]


if __name__ == "__main__":
    uvicorn.run("benchmarks.peers.online.fastapi_app:app", port=int(os.environ["PORT"]), workers=2)
