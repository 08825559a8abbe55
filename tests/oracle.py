"""What the engine is held against: one full forward pass of the model as it is."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from leapgen.engine import Engine, Sequence


@torch.no_grad()
def full_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    """Logits [len(tokens), vocab] of one forward over the tokens, without any cache."""
    return model(torch.tensor([tokens], device=model.device), use_cache=False).logits[0]


@torch.no_grad()
def full_cache(model: PreTrainedModel, tokens: list[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """For each layer, keys and values [len(tokens), kv_heads, dim] of one forward over the tokens."""
    cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
    return [(layer.keys[0].transpose(0, 1), layer.values[0].transpose(0, 1)) for layer in cache.layers]


def paged_cache(engine: Engine, sequence: Sequence) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same, read from the sequence's pages."""
    size, cache = engine.config.page_size, engine.runner.cache
    positions = np.arange(sequence.num_computed)
    slots = torch.from_numpy(np.array(sequence.pages)[positions // size] * size + positions % size)
    return [(cache.keys[i].flatten(0, 1)[slots], cache.values[i].flatten(0, 1)[slots]) for i in sorted(cache.specs)]


class LogitsRecorder:
    """Keeps the logits each sample was drawn from: ``rows[sequence][length] = logits [vocab]``."""

    def __init__(self, engine: Engine) -> None:
        self.rows: dict[Sequence, dict[int, torch.Tensor]] = {}
        forward = engine.runner.forward

        def recording_forward(chunks):
            logits = forward(chunks)
            samples = [sample for chunk in chunks for sample in chunk.samples]
            for (length, sequence), row in zip(samples, logits, strict=True):
                self.rows.setdefault(sequence, {})[length] = row.clone()
            return logits

        engine.runner.forward = recording_forward

    def worst_error(self, model: PreTrainedModel, sequences) -> float:
        """Largest difference to the full forward over each sequence's own tokens, at every position it sampled."""
        worst, compared = 0.0, 0
        for sequence in sequences:
            expected = full_logits(model, sequence.tokens)
            for length, row in self.rows.get(sequence, {}).items():
                if length < len(sequence.tokens) and sequence.sampled[length]:
                    worst = max(worst, float((row - expected[length - 1]).abs().max()))
                    compared += 1
        assert compared, "nothing was compared"
        return worst
