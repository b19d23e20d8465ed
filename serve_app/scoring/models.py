"""Several models behind one endpoint: loaded when first asked for, the least recently used one given up.

The model a replica starts with is its default and always stays. Beside it may be a canary: another version of it
that answers some of the requests, as long as it is well.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.errors import ApplianceError, ServiceError
from serve_app.errors import RequestError
from serve_app.scoring.engine import ScoringEngine
from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)


def _nobody(model: str, version: str) -> None:
    """Listens to nothing."""


def _no_other(name: str) -> ScoringEngine:
    raise KeyError(name)


@dataclass
class Canary:
    """A model on trial.

    Attributes:
        engine: The model.
        percent: How many of the requests it answers.
        is_well: Whether it does; else the default answers them.
        draw: A number from 0 up to 1 for each request.
    """

    engine: ScoringEngine
    percent: float
    is_well: bool = True
    draw: Callable[[], float] = random.random

    @property
    def takes_the_next(self) -> bool:
        """Whether the next request is one of its own."""
        return self.is_well and self.engine.ready and 100 * self.draw() < self.percent

    async def check_health(self) -> None:
        """Asks whether it is well. What is on trial may fail without the replica being replaced."""
        try:
            await self.engine.check_health()
        except ServiceError as error:
            if self.is_well:
                logger.warning("the canary gets no requests: %s", error)
            self.is_well = False
        else:
            self.is_well = True


class ModelPool:
    """Engines by the names that clients use; all methods belong to one event loop.

    Args:
        default: The engine that answers when no name is given. The pool takes it over.
        load: Makes the engine of one of the further models; runs in a thread.
        names: The further models.
        max_loaded: Most of the further models in memory at once; when all of them are in use, one more is
            loaded rather than a request refused.
        canary: Answers some of the requests that name no model. The pool takes it over.
    """

    def __init__(
        self,
        default: ScoringEngine,
        load: Callable[[str], ScoringEngine] = _no_other,
        names: tuple[str, ...] = (),
        max_loaded: int = 1,
        canary: Canary | None = None,
    ) -> None:
        self.default = default
        self.canary = canary
        self.default_name = default.scorer.predictor.model_name
        self.names = (self.default_name, *(name for name in names if name != self.default_name))
        self._load = load
        self._max_loaded = max_loaded
        self._engines: OrderedDict[str, ScoringEngine] = OrderedDict()
        self._users: dict[str, int] = {}
        self._loading = asyncio.Lock()
        self._on_load: Callable[[str, str], None] = _nobody
        self._on_give_up: Callable[[str, str], None] = _nobody

    @classmethod
    def load(
        cls, settings: ServiceSettings, on_batch: Callable[[str, int], None] | None = None
    ) -> ModelPool:
        """Loads the default model, and the canary; the others wait until they are asked for.

        Args:
            settings: Which models, and how they run.
            on_batch: As of `ScoringEngine`.

        Raises:
            StorageError, ModelFileError, ConfigError: As `ScoringEngine.load`.
        """
        further: Mapping[str, str] = settings.models

        def load_from(model: str) -> ScoringEngine:
            return ScoringEngine.load(settings.model_copy(update={"model": model}), on_batch)

        default = load_from(settings.model)
        canary = None
        if settings.canary_model is not None:
            canary = Canary(load_from(settings.canary_model), settings.canary_percent)
        return cls(
            default,
            lambda name: load_from(further[name]),
            tuple(further),
            settings.max_loaded_models,
            canary,
        )

    @property
    def loaded(self) -> dict[str, ScoringEngine]:
        """The engines in memory by name, the default first."""
        return {self.default_name: self.default, **self._engines}

    @property
    def engines(self) -> list[ScoringEngine]:
        """All engines in memory, that of the canary among them, which has no name of its own."""
        on_trial = [] if self.canary is None else [self.canary.engine]
        return [*self.loaded.values(), *on_trial]

    @asynccontextmanager
    async def lend(self, name: str | None = None) -> AsyncIterator[ScoringEngine]:
        """An engine for the time of the block, in which it is not given up.

        Args:
            name: As clients call the model; None for the default.

        Raises:
            RequestError: 404, there is no such model.
            ServiceError: It cannot be loaded.
        """
        if name is None and self.canary is not None and self.canary.takes_the_next:
            yield self.canary.engine
            return
        if name is None or name == self.default_name:
            yield self.default
            return
        if name not in self.names:
            raise RequestError(
                404,
                "unknown_model",
                f"There is no model of the name {name[:100]}",
                hint="GET /v1/models lists the models of the service",
            )
        self._users[name] = self._users.get(name, 0) + 1
        try:
            yield await self._loaded(name)
        finally:
            self._users[name] -= 1

    def watch(
        self, on_load: Callable[[str, str], None], on_give_up: Callable[[str, str], None]
    ) -> None:
        """Has name and version of each model told as it comes and goes, those in memory at once."""
        self._on_load, self._on_give_up = on_load, on_give_up
        for engine in self.engines:
            on_load(*_name_and_version(engine))

    async def check_health(self) -> None:
        """Asks every model in memory whether it answers; a canary that does not gets no more requests.

        Raises:
            ServiceError: One of the others does not.
        """
        if self.canary is not None:
            await self.canary.check_health()
        for engine in self.loaded.values():
            await engine.check_health()

    async def close(self) -> None:
        """Answers what was accepted, then stops all engines."""
        engines = self.engines
        self._engines.clear()
        await asyncio.gather(*(engine.close() for engine in engines))

    async def _loaded(self, name: str) -> ScoringEngine:
        async with self._loading:
            if name not in self._engines:
                await self._give_up_unused()
                try:
                    self._engines[name] = await asyncio.to_thread(self._load, name)
                except ApplianceError:
                    # Where the file lies is not a client's business: the log has it.
                    logger.exception("model %s cannot be loaded", name)
                    raise ServiceError(f"The model {name} cannot be loaded at present") from None
                self._on_load(*_name_and_version(self._engines[name]))
                logger.info("loaded model %s", name)
            self._engines.move_to_end(name)
            return self._engines[name]

    async def _give_up_unused(self) -> None:
        for name in list(self._engines):
            if len(self._engines) < self._max_loaded:
                return
            if not self._users.get(name):
                logger.info("giving up model %s", name)
                engine = self._engines.pop(name)
                self._on_give_up(*_name_and_version(engine))
                await engine.close()


def _name_and_version(engine: ScoringEngine) -> tuple[str, str]:
    predictor = engine.scorer.predictor
    return predictor.model_name, predictor.model_version
