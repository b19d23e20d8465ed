"""Whether a model is fit to be served: looked at here, before any replica is replaced for it."""

from __future__ import annotations

import asyncio

from appliance.errors import ApplianceError, ModelFileError
from appliance.model.address import ModelAddress
from serve_app.scoring.engine import ScoringEngine
from serve_app.settings import ServiceSettings


def check_model(settings: ServiceSettings) -> None:
    """Has the model answer the built-in picture, on one core of this machine.

    A replica does so as well when it starts, on its own device; here a bad model costs nobody anything.

    Raises:
        StorageError: Its file cannot be read.
        ModelFileError: It is none, or has no answer for a picture.
    """
    here = {"device": "cpu", "num_threads": 1, "gpu_jpeg": False, "num_gpus": 0}
    try:
        engine = ScoringEngine.load(settings.model_copy(update=here))
    except ApplianceError:
        raise
    except Exception as error:
        raise ModelFileError(
            "The model has no answer for the built-in picture",
            where=ModelAddress.parse(settings.model).reference or settings.model,
            got=f"{type(error).__name__}: {error}",
        ) from error
    asyncio.run(engine.close())
