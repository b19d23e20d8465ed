"""Asks a service for detections: from a program, a notebook, or asyncio.

    from appliance.client import Client

    with Client("http://127.0.0.1:8000") as client:
        record = client.detect("shelf.jpg", score_threshold=0.5)
        for record in client.detect_many(paths, concurrency=8):
            ...

Answers are `appliance.Record`s, as batch scoring writes them; `record.to_detections()` has them as arrays.
"""

from appliance.client.access import KEY_VARIABLE
from appliance.client.answers import ModelInfo
from appliance.client.asynchronous import AsyncClient
from appliance.client.pictures import Picture, Url
from appliance.client.requests import DetectOptions
from appliance.client.synchronous import Client
from appliance.client.trainings import TrainingInfo

__all__ = [
    "KEY_VARIABLE",
    "AsyncClient",
    "Client",
    "DetectOptions",
    "ModelInfo",
    "Picture",
    "TrainingInfo",
    "Url",
]
