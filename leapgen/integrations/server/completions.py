"""Answers in OpenAI's form: objects, choices, log-probabilities and usage, from the outputs of runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from transformers import PreTrainedTokenizerBase

from leapgen.integrations.server.ticket import Ticket
from leapgen.integrations.server.words import Delta, Sampled, Words
from leapgen.protocol.endings import Endings
from leapgen.protocol.text import decode
from leapgen.record.run import SAMPLED_KINDS, LeapOutput, PathOutput

LENGTH = ("length", "retired", "stopped", "interrupted")  # finish reasons of paths that did not come to their end


def chosen(output: LeapOutput, n: int) -> list[PathOutput]:
    """The paths to return: all in their order; of fewer, the one that stands for the vote first, then others in order."""
    if n >= len(output.paths):
        return output.paths
    groups = output.answer_groups()
    first = max(groups, key=len)[0] if groups else (output.voters or output.paths)[0]
    return [first, *(path for path in output.paths if path is not first)][:n]


class Completions:
    """Makes the objects of one request.

    Args:
        endings: of the request's paths; where its thinking ends.
    """

    def __init__(self, ticket: Ticket, tokenizer: PreTrainedTokenizerBase, endings: Endings) -> None:
        self.ticket, self.asked, self._tokenizer = ticket, ticket.asked, tokenizer
        self.endings = endings if self.asked.chat else None
        self.kind = "chat.completion" if self.asked.chat else "text_completion"

    def whole(self, outputs: Sequence[LeapOutput]) -> dict[str, Any]:
        """The answer to a request that does not stream."""
        choices = [self._choice(path, question * self.asked.n + place)
                   for question, output in enumerate(outputs) for place, path in enumerate(chosen(output, self.asked.n))]
        leap = self.leap(outputs)
        return {**self.head(self.kind), "choices": choices, "usage": self.usage(outputs),
                "leap": leap[0] if self.asked.chat else leap}

    def head(self, kind: str) -> dict[str, Any]:
        return {"id": self.ticket.id, "object": kind, "created": self.ticket.created, "model": self.asked.model}

    def _choice(self, path: PathOutput, index: int) -> dict[str, Any]:
        words = self.words(path)
        if self.asked.chat:
            said: dict[str, Any] = {"message": {"role": "assistant", **self.said(words)}}
        else:
            said = {"text": words.content}
        return {"index": index, **said, "logprobs": self.logprobs(words.tokens), **self.ending(path)}

    def words(self, path: PathOutput) -> Delta:
        return Words.whole(path, self.endings, self.asked.leap.stop_strings)

    @staticmethod
    def said(words: Delta) -> dict[str, str]:
        """Reasoning by both of its names: clients look for one or the other."""
        reasoning = {"reasoning": words.reasoning, "reasoning_content": words.reasoning} if words.reasoning else {}
        return {"content": words.content, **reasoning}

    def ending(self, path: PathOutput) -> dict[str, Any]:
        """How a path ended, and what else is asked for of it."""
        ids = {}
        if self.asked.token_ids:
            said = path.segments[1:]
            ids = {"token_ids": [token for segment in said for token in segment.token_ids],
                   "leap_mask": [int(segment.kind in SAMPLED_KINDS) for segment in said for _ in segment.token_ids]}
        return {"finish_reason": "length" if path.finish_reason in LENGTH else "stop", **ids,
                "leap": {"path": path.index, "answer": path.answer, "finish_reason": path.finish_reason}}

    def logprobs(self, tokens: Sequence[Sampled], offset: int = 0) -> dict[str, Any] | None:
        """Of the path's own words, natural and under the model; None if nobody asked for them."""
        if not self.asked.logprobs:
            return None
        texts = [decode(self._tokenizer, [sampled.token]) for sampled in tokens]
        if self.asked.chat:
            return {"content": [{"token": text, "bytes": list(text.encode()), "logprob": sampled.logprob, "top_logprobs": []}
                                for text, sampled in zip(texts, tokens, strict=True)]}
        return {"tokens": texts, "token_logprobs": [sampled.logprob for sampled in tokens], "top_logprobs": None,
                "text_offset": list(accumulate(map(len, texts), initial=offset))[:-1]}

    def usage(self, outputs: Sequence[LeapOutput]) -> dict[str, Any]:
        """Prompts, and every token that was sampled; what nobody is shown of these counts as reasoning."""
        prompt, sampled = (sum(getattr(output.ledger, name) for output in outputs) for name in ("prompt", "decoded"))
        kinds = ("answer",) if self.endings is not None and self.endings.think_end else ("own", "answer")
        shown = sum(path.count(*kinds) for output in outputs for path in chosen(output, self.asked.n))
        return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled,
                "completion_tokens_details": {"reasoning_tokens": sampled - shown}}

    def leap(self, outputs: Sequence[LeapOutput], first: int = 0) -> list[dict[str, Any]]:
        """Of prompts from ``first`` on: where the run is found, the vote, and what the run cost."""
        return [{"run": run, "answer": output.majority(), "answers": output.answers, "blocks": len(output.blocks),
                 "seed": output.seed, "injected_tokens": output.ledger.injected, "discarded_tokens": output.ledger.discarded}
                for run, output in zip(self.ticket.run_ids[first:], outputs, strict=False)]
