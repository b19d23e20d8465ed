"""Several models behind one endpoint: loaded when first asked for, the least recently used one given up.

The model a replica starts with is its default and always stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from appliance.errors import ApplianceError, ServiceError
from serve_app.errors import RequestError
from serve_app.scoring.engine import ScoringEngine
from serve_app.settings import ServiceSettings

logger = logging.getLogger(__name__)


def _nobody(model: str, version: str) -> None:
    """Listens to nothing."""


def _no_other(name: str) -> ScoringEngine:
    raise KeyError(name)


class ModelPool:
    """Engines by the names that clients use; all methods belong to one event loop.

    Args:
        default: The engine that answers when no name is given. The pool takes it over.
        load: Makes the engine of one of the further models; runs in a thread.
        names: The further models.
        max_loaded: Most of the further models in memory at once; when all of them are in use, one more is
            loaded rather than a request refused.
    """

    def __init__(
        self,
        default: ScoringEngine,
        load: Callable[[str], ScoringEngine] = _no_other,
        names: tuple[str, ...] = (),
        max_loaded: int = 1,
    ) -> None:
        self.default = default
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
        """Loads the default model; the others wait until they are asked for.

        Args:
            settings: Which models, and how they run.
            on_batch: As of `ScoringEngine`.

        Raises:
            StorageError, ModelFileError, ConfigError: As `ScoringEngine.load`.
        """
        further: Mapping[str, str] = settings.models

        def load(name: str) -> ScoringEngine:
            return ScoringEngine.load(
                settings.model_copy(update={"model": further[name]}), on_batch
            )

        default = ScoringEngine.load(settings, on_batch)
        return cls(default, load, tuple(further), settings.max_loaded_models)

    @property
    def loaded(self) -> dict[str, ScoringEngine]:
        """The engines in memory by name, the default first."""
        return {self.default_name: self.default, **self._engines}

    @asynccontextmanager
    async def lend(self, name: str | None = None) -> AsyncIterator[ScoringEngine]:
        """An engine for the time of the block, in which it is not given up.

        Args:
            name: As clients call the model; None for the default.

        Raises:
            RequestError: 404, there is no such model.
            ServiceError: It cannot be loaded.
        """
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
        for engine in self.loaded.values():
            on_load(*_name_and_version(engine))

    async def check_health(self) -> None:
        """Asks every model in memory whether it answers.

        Raises:
            ServiceError: One does not.
        """
        for engine in self.loaded.values():
            await engine.check_health()

    async def close(self) -> None:
        """Answers what was accepted, then stops all engines."""
        engines = [self.default, *self._engines.values()]
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
