"""The engine on a real model: how it shares the cores."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import torch
from factories import jpeg_bytes
from serving import settings_for

from serve_app.scoring.engine import ScoringEngine

FOREVER_S = 60.0


def test_a_lone_picture_gets_all_cores_and_two_share_them(tiny_model_path):
    pictures = [jpeg_bytes((96, 64), seed=seed) for seed in (1, 2)]
    threads = []
    two = threading.Barrier(2)

    async def scenario():
        engine = ScoringEngine.load(
            settings_for(tiny_model_path, device="cpu", num_threads=2, max_batch_size=1)
        )
        predict = engine.scorer.predict

        def alone(uploads):
            threads.append(torch.get_num_threads())
            return predict(uploads)

        def together(uploads):
            two.wait(FOREVER_S)
            return alone(uploads)

        engine.scorer.predict = alone
        expected = [await engine.score(picture, "a picture") for picture in pictures]
        engine.scorer.predict = together
        found = await asyncio.gather(*(engine.score(picture, "a picture") for picture in pictures))
        await engine.close()
        return expected, found

    before = torch.get_num_threads()
    expected, found = asyncio.run(scenario())
    assert threads == [2, 2, 1, 1]
    assert torch.get_num_threads() == before
    for alone, together in zip(expected, found, strict=True):
        boxes = [
            [[d.x1, d.y1, d.x2, d.y2] for d in record.detections] for record in (alone, together)
        ]
        np.testing.assert_allclose(*boxes, atol=0.5)
