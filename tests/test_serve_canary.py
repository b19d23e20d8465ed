"""A canary: another model on trial answers its share, and none when it is not well."""

from __future__ import annotations

import itertools

import pytest
import torch
from factories import jpeg_bytes, spread_outputs
from serving import JPEG_TYPE, ask, plain_service, serving, settings_for

from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from serve_app.http.api import create_api
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.models import Canary, ModelPool

PICTURE = jpeg_bytes((128, 96), seed=1)


@pytest.fixture(scope="module")
def other_path(tiny_model_path, tmp_path_factory):
    loaded = model_file.load(str(tiny_model_path))
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    model_file.save(str(path), spread_outputs(build_network(loaded.spec)), loaded.spec)
    return path


def name_of_answer(url, query=""):
    status, headers, _ = ask(f"{url}/v1/detect{query}", data=PICTURE, headers=JPEG_TYPE)
    assert status == 200
    return headers["X-Model"].partition(":")[0]


def test_it_answers_its_share_as_long_as_it_is_well(tiny_model_path, other_path):
    settings = settings_for(tiny_model_path)
    draws = itertools.cycle((0.05, 0.1, 0.5, 0.9))
    canary = Canary(
        ScoringEngine.load(settings.model_copy(update={"model": str(other_path)})),
        10,
        draw=lambda: next(draws),
    )
    predict = canary.engine.scorer.predict

    def fail(_):
        raise RuntimeError("it is not well")

    pool = ModelPool(ScoringEngine.load(settings), canary=canary)
    with serving(create_api(pool, settings)) as url:
        shares = ["other", "tiny", "tiny", "tiny"]
        assert [name_of_answer(url) for _ in range(8)] == 2 * shares
        # Who asks for the model by its name gets it, and nothing is drawn.
        assert {name_of_answer(url, "?model=tiny") for _ in range(4)} == {"tiny"}
        assert [name_of_answer(url) for _ in range(4)] == shares

        canary.engine.scorer.predict = fail
        assert ask(f"{url}/v1/detect", data=PICTURE, headers=JPEG_TYPE)[0] == 500
        assert [ask(f"{url}/readyz", "GET")[0] for _ in range(2)] == [200, 200]
        assert {name_of_answer(url) for _ in range(8)} == {"tiny"}
        canary.engine.scorer.predict = predict
        assert ask(f"{url}/readyz", "GET")[0] == 200
        assert {name_of_answer(url) for _ in range(4)} == {"tiny", "other"}


def test_settings_name_it(tiny_model_path, other_path):
    with plain_service(tiny_model_path, canary_model=str(other_path), canary_percent=99.9) as url:
        assert name_of_answer(url) == "other"
    with pytest.raises(ValueError, match="canary_percent"):
        settings_for(tiny_model_path, canary_percent=100)
