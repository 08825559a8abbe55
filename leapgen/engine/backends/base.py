"""The contract of a backend: how the steps of one model, in one state, are computed.

``choice.BACKENDS`` lists them; the first that serves a model's attention layers computes it. A new backend is one more class
there: it says which layers it serves, what it makes of a step, and how it attends. The rest has defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Rows
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from torch import Tensor, nn

from leapgen.config import EngineConfig
from leapgen.engine.memory.kv import KVCache, LayerSpec
from leapgen.engine.model.paged_model import PagedModel
from leapgen.engine.sampling.host import Sampled
from leapgen.engine.scheduler import Chunk
from leapgen.engine.sequence import Sequence
from leapgen.engine.step import OwnPrepared, StepBackend


class Replays(Protocol):
    """Whole steps, the draw included, that a backend has captured."""

    def serves(self, chunks: list[Chunk]) -> bool:
        """Whether a step is one of them."""

    def step(self, chunks: list[Chunk]) -> Sampled:
        """Runs one; a token for each of the chunks' ``samples``, in their order.

        Raises:
            NonFiniteLogitsError: names path and position.
        """


class Backend(StepBackend[OwnPrepared]):
    """Computes the steps of a model, beyond ``StepBackend``: chooses its models, draws, and prepares what pays later.

    Args:
        config: limits, and what may be compiled and captured.
    """

    default_draft_tokens = 0  # where EngineConfig.draft_tokens is None

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = config or EngineConfig()

    @abstractmethod
    def serves(self, layers: Mapping[int, LayerSpec]) -> bool:
        """Whether it computes a model whose attention layers have KV of this geometry."""

    def computing(self, model: nn.Module) -> AbstractContextManager[None]:
        return nullcontext()

    @property
    def overridden(self) -> Collection[nn.Module]:
        """Modules that compute otherwise than by their own code while ``computing`` is entered; steps lock them."""
        return ()

    def sample(self, logits: Tensor, lengths: Rows[int], sequences: Rows[Sequence]) -> Sampled | None:
        """Draws as ``sampling.host.sample`` does, for one row at least; None leaves it to that, in plain torch."""
        return None

    def capture(self, paged: PagedModel, cache: KVCache) -> Replays | None:
        """Compiles and captures what takes long once and pays at every step; called when the model has been checked.

        Args:
            cache: the pool, in which no page is in use yet.

        Returns:
            Steps that are replayed as a whole, if any. What cannot be compiled or captured is computed as it is.
        """
        return None


def worth_compiling(config: EngineConfig, model: nn.Module, parameters: int) -> bool:
    """``EngineConfig.compile``; where that is None, whether the model has this number of parameters."""
    if config.compile is not None:
        return config.compile
    return sum(p.numel() for p in model.parameters()) >= parameters
