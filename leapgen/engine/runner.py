"""A model in one state: its pool of keys and values, the backend that computes it, and how to tell that it has changed."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from leapgen.config import EngineConfig
from leapgen.engine.backends.choice import choose
from leapgen.engine.backends.reference import ReferenceBackend
from leapgen.engine.memory.kv import KVCache
from leapgen.engine.memory.sizing import pages_within
from leapgen.engine.model import support
from leapgen.engine.model.fingerprint import Fingerprint
from leapgen.engine.model.paged_model import PagedModel, locks_of
from leapgen.engine.sampling.host import Sampled, rows_by_config, sample
from leapgen.engine.sampling.scoring import score
from leapgen.engine.scheduler import Chunk
from leapgen.engine.scores import Scored
from leapgen.engine.sequence import Sequence
from leapgen.engine.step import Step


class Runner:
    """Runs a step's chunks through the model in the state it was in when this was made.

    Args:
        model: in any mode, and left in it.
        cache: of an earlier state, taken over where this one's keys and values have the same geometry and emptied where not;
            no page is in use.

    Raises:
        UnsupportedModelError: the model cannot be served exactly.
        PoolTooSmallError: the KV limit does not hold two pages.
    """

    @torch.inference_mode(False)  # the pool outlives the call
    def __init__(self, model: PreTrainedModel, config: EngineConfig, cache: KVCache | None = None) -> None:
        self.paged = PagedModel(model, support.check_config(model, config.context_length))
        self.vocab_size = self.paged.vocab_size
        self.context_length, self.context_reason = self.paged.context
        plain = ReferenceBackend(config)
        with locks_of(model), support.eval_mode(model):
            layers = support.learn_layers(self.paged, plain)
            self.backend = choose(layers, config)
            support.check_forward(self.paged, self.backend, layers)
            if cache is not None and cache.specs != layers:
                cache.empty()  # before the new one is cut from what is free
                cache = None
            self.cache = cache or KVCache(layers, pages_within(config, layers, self.context_length), config.page_size)
            self.replays = self.backend.capture(self.paged, self.cache)
            self.paged.also_lock(self.backend.overridden)
            self.fingerprint = Fingerprint(model, addresses=self.replays is not None)
            support.learn_layers(self.paged, plain)  # any step by the model's own modules
            self.fingerprint.settle()

    def step(self, chunks: list[Chunk]) -> tuple[Sampled | None, list[Scored]]:
        """One forward pass: a token for each of the chunks' ``samples`` in their order, None where there are none, and what
        each of their ``scores`` comes to.

        Raises:
            NonFiniteLogitsError: names path and position.
        """
        if self.replays is not None and self.replays.serves(chunks):
            return self.replays.step(chunks), []
        logits = self.forward(chunks)
        rows = [row for chunk in chunks for row in chunk.samples]
        scored = score(logits[len(rows) :], [row for chunk in chunks for row in chunk.scores])
        if not rows:
            return None, scored
        lengths, sequences = zip(*rows, strict=True)
        return self._draw(logits[: len(rows)], lengths, sequences), scored

    def _draw(self, logits: Tensor, lengths: Rows[int], sequences: Rows[Sequence]) -> Sampled:
        """Rows with the same settings go together: how a row is drawn, to the last bit, does not depend on others'."""
        groups = rows_by_config(sequences)
        if len(groups) == 1:
            sampled = self.backend.sample(logits, lengths, sequences)
            return sample(logits, lengths, sequences) if sampled is None else sampled
        drawn: list[list[Any]] = [[None] * len(sequences) for _ in Sampled._fields]
        for _, rows in groups:
            part: tuple[Any, ...] = self._draw(
                logits[torch.tensor(rows, device=logits.device)], [lengths[row] for row in rows],
                [sequences[row] for row in rows])
            for values, theirs in zip(drawn, part, strict=True):
                for row, value in zip(rows, theirs, strict=True):
                    values[row] = value
        return Sampled(*drawn)

    def forward(self, chunks: list[Chunk]) -> Tensor:
        """One forward pass; logits [samples + scores, vocab]: of all chunks' ``samples``, then of all ``scores``."""
        starts, ends = [c.start for c in chunks], [c.end + len(c.sequence.drafts) for c in chunks]
        step = Step.build(self.cache, [c.sequence.pages for c in chunks], starts, ends)
        tokens = [token for c in chunks for token in c.tokens]
        wanted = [(i, length) for i, c in enumerate(chunks) for length, _ in c.samples]
        wanted += [(i, length) for i, c in enumerate(chunks) for length, _ in c.scores]
        rows = np.array([step.query_starts[i] + length - 1 - starts[i] for i, length in wanted], dtype=np.int64)
        unique, order = np.unique(rows, return_inverse=True)
        logits = self.paged.run(tokens, self.backend.prepare(step), unique)
        return logits if np.array_equal(unique, rows) else logits[torch.from_numpy(order).to(logits.device)]
