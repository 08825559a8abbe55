"""A small LeaP setting in which random models hold blocks: short intervals, no end tokens unless asked for."""

from __future__ import annotations

import tiny
import tiny_tokenizer
import torch

from leapgen import EngineConfig, LeapConfig, LeapGenerator, SamplingConfig

QUESTION = "What is 12 + 30?"
LEAP = LeapConfig(interval=12, max_new_tokens=36, summary_tokens=10, top_k_peers=2, forced_answer_tokens=6,
                  written_answer_tokens=8, explain=False)
SAMPLING = SamplingConfig(temperature=1.0, top_k=50, top_p=0.95)


def generator(name: str = "llama", dtype: torch.dtype = torch.float32, engine: EngineConfig | None = None,
              thinking: bool = False, **changes) -> LeapGenerator:
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    model = tiny.build(name, dtype, vocab_size=tiny_tokenizer.VOCAB, **experts, **changes)
    engine = engine or EngineConfig(page_size=4, kv_cache_bytes=1 << 25, max_step_tokens=64)
    return LeapGenerator(model, tiny_tokenizer.byte_level(thinking), engine=engine)


class Script:
    """Forces the tokens of a text from the n-th token after the prompt (or after a marker) on."""

    def __init__(self, leap, text, at=0, after=None):
        self.tokens = leap.tokenizer.encode(text, add_special_tokens=False)
        self.at, self.after, self.tokenizer = at, after, leap.tokenizer
        self.prompt = None

    def __call__(self, input_ids, scores):
        ids = input_ids[0].tolist()
        if self.prompt is None:
            self.prompt = len(ids)  # the first call is for the first token after the prompt
        begin = self.prompt
        if self.after is not None:
            found = [i for i in range(self.prompt, len(ids) + 1)
                     if self.tokenizer.decode(ids[self.prompt : i]).endswith(self.after)]
            begin = found[0] if found else len(ids) + 1
        index = len(ids) - begin - self.at
        if 0 <= index < len(self.tokens):
            scores = torch.full_like(scores, -torch.inf)
            scores[0, self.tokens[index]] = 0.0
        return scores
