"""Prompts and beginnings as token ids of one model, and the tokens that end its reasoning and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from transformers import PreTrainedModel

from leapgen.config import LeapConfig
from leapgen.pretrained import vocabulary_size
from leapgen.protocol.chat import Beginning, Messages, Prompt, is_token_ids, prompt_tokens, question_of
from leapgen.protocol.endings import Endings
from leapgen.protocol.prompts import PromptSet
from leapgen.protocol.text import Plain, Vocabulary, decode


class Encoder:
    """Encodes for one model, with its tokenizer's vocabulary."""

    def __init__(self, model: PreTrainedModel, vocabulary: Vocabulary) -> None:
        self._model, self._vocabulary, self._tokenizer = model, vocabulary, vocabulary.tokenizer

    def endings(self, leap: LeapConfig) -> Endings:
        """What ends sampling under these settings."""
        ends = set(leap.stop_token_ids)
        found_start, found_end = self._vocabulary.thinking_markers()
        start = found_start if leap.think_start is None else leap.think_start
        end = found_end if leap.think_end is None else leap.think_end
        if leap.ignore_eos:
            end = ""
        else:
            stated = self._model.generation_config.eos_token_id
            ends |= set(stated if isinstance(stated, (list, tuple)) else [stated])
            ends.add(self._tokenizer.eos_token_id)
        return Endings(frozenset(ends - {None}), start, end, self._vocabulary.token(end))

    def prompt(self, prompt: Prompt, leap: LeapConfig, prompts: PromptSet, endings: Endings) -> list[int]:
        """The tokens before a path's own: chat template, explanation and opening; token ids are taken as they are.

        Raises:
            ValueError: an empty prompt, a chat that does not end with the user, or a token id that the model has not.
        """
        if not is_token_ids(prompt):
            return prompt_tokens(self._tokenizer, cast(str | Messages, prompt), leap, prompts, endings.think_start)
        tokens = list(cast(Sequence[int], prompt))
        self._check("prompt", tokens)
        return tokens

    def question(self, prompt: Prompt) -> str:
        """The text to show for a prompt."""
        if is_token_ids(prompt):
            return decode(self._tokenizer, cast(Sequence[int], prompt))
        return question_of(cast(str | Messages, prompt))

    def beginning(self, beginning: Beginning | None, prompt: Sequence[int], leap: LeapConfig,
                  endings: Endings) -> list[int]:
        """The tokens that a path goes on from, to follow a prompt's.

        Raises:
            ValueError: nothing would be left to reason, or a token id that the model has not.
        """
        if beginning is None:
            return []
        if isinstance(beginning, str):
            tokens, text = self._vocabulary.encode([Plain(beginning)], after=prompt), beginning
        else:
            tokens = list(beginning)
            self._check("beginning", tokens)
            text = decode(self._tokenizer, tokens)
        if endings.reasoning & set(tokens) or (endings.think_end and endings.think_end in text):
            raise ValueError(f"beginning {text!r:.80} ends the reasoning: nothing would be left to go on with.")
        if len(tokens) >= leap.max_new_tokens:
            raise ValueError(f"beginning is {len(tokens)} tokens long and counts to max_new_tokens={leap.max_new_tokens}: "
                             "nothing would be left to generate.")
        return tokens

    def _check(self, name: str, tokens: Sequence[int]) -> None:
        size = vocabulary_size(self._model)
        wrong = [token for token in tokens if not 0 <= token < size]
        if wrong:
            raise ValueError(f"{name} has token id {wrong[0]}, outside the model's vocabulary of {size}.")
