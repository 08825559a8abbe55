"""The states a model has been in lately, each with what was checked and compiled for it."""

from __future__ import annotations

from transformers import PreTrainedModel

from leapgen.config import EngineConfig
from leapgen.engine.model.fingerprint import ModelChangedError
from leapgen.engine.model.paged_model import locks_of
from leapgen.engine.runner import Runner

MOST = 3  # that are kept: with an adapter, without, with another


class States:
    """One model's runners: the one for the state it is in, and those of the newest states before.

    All share a KV cache. A state is forgotten when the model no longer has all of its parameters, so that weights which were
    replaced are let go.

    Raises:
        UnsupportedModelError, PoolTooSmallError: as ``Runner``.
    """

    def __init__(self, model: PreTrainedModel, config: EngineConfig) -> None:
        self.runner = Runner(model, config)
        self._model, self._config = model, config
        self._runners = [self.runner]  # the newest first; none where a cache was lost to a state that cannot be served

    def refresh(self, live: int) -> None:
        """Makes ``runner`` that of the model as it is now.

        Args:
            live: sequences whose keys and values are those of the model as it was.

        Raises:
            ModelChangedError: it has changed, and there are such sequences. Nothing has changed here.
            UnsupportedModelError, PoolTooSmallError: as ``Runner``.
        """
        if self._runners and not self.changes():
            return
        with locks_of(self._model):
            if live:
                raise ModelChangedError(self.changes(), live)
            self._go_by(next((one for one in self._runners if not one.fingerprint.changes()), None) or self._made())

    def changes(self) -> list[str]:
        """What of the model is no longer as ``runner`` has taken it."""
        with self.runner.paged.locks:
            return self.runner.fingerprint.changes()

    def _made(self) -> Runner:
        cache = self.runner.cache
        try:
            return Runner(self._model, self._config, cache)
        except Exception:
            if not cache.specs:
                self._runners.clear()
            raise

    def _go_by(self, runner: Runner) -> None:
        others = [one for one in self._runners if one is not runner and one.cache is runner.cache
                  and one.fingerprint.within_model]
        self.runner, self._runners = runner, [runner, *others][:MOST]
