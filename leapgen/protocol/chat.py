"""From a question to prompt tokens: the chat template, the explanation, the thinking marker and the opening."""

from __future__ import annotations

import numbers
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from leapgen.config import LeapConfig
from leapgen.protocol.prompts import PromptSet
from leapgen.protocol.text import Plain, Vocabulary, encode_alone

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages | Sequence[int]
Beginning = str | Sequence[int]
Beginnings = Beginning | Sequence[Beginning | None] | None  # of one question's paths: one for all, or one for each
FORMS = "a string, chat messages, token ids, or a list of these"


def parse(prompt: Any) -> tuple[list[Prompt], bool]:
    """One prompt or several, told apart by form; the flag says whether it was a list of prompts.

    Raises:
        TypeError, ValueError: it is none of the forms, or empty.
    """
    if isinstance(prompt, str) or _is_sequence_of(prompt, (Mapping, numbers.Integral)):
        return [_one(prompt)], False
    if not isinstance(prompt, (list, tuple)):
        raise TypeError(f"prompt must be {FORMS}, not {type(prompt).__name__}.")
    if not prompt:
        raise ValueError("prompt is an empty list: give at least one question.")
    return [_one(item) for item in prompt], True


def parse_beginnings(beginning: Any, prompts: int | None, n: int) -> list[list[str | tuple[int, ...] | None]]:
    """For each prompt the beginnings of its n paths, None where there is none; ``prompts`` is None for a single prompt.

    A list of integers is token ids, for all paths; a list of texts, lists and None has one for each path. For a list of
    prompts, the outer list always goes by prompts.

    Raises:
        TypeError, ValueError: it is none of the forms, or there are not as many as prompts or paths.
    """
    if prompts is None:
        return [_of_paths(beginning, n)]
    if beginning is None:
        return [[None] * n] * prompts
    if not isinstance(beginning, (list, tuple)) or len(beginning) != prompts:
        raise ValueError(f"beginning must be a list of {prompts}, one for each prompt (which may be a list of {n}, one for "
                         f"each path), not {beginning!r:.80}.")
    return [_of_paths(one, n) for one in beginning]


def _of_paths(beginning: Any, n: int) -> list[str | tuple[int, ...] | None]:
    if not isinstance(beginning, (list, tuple)) or not any(
            one is None or isinstance(one, (str, list, tuple)) for one in beginning):
        return [_one_beginning(beginning)] * n
    if len(beginning) != n:
        raise ValueError(f"beginning has {len(beginning)} beginnings for n={n} paths: give one for each (None for none), or "
                         "a text or token ids for all.")
    return [_one_beginning(one) for one in beginning]


def _one_beginning(beginning: Any) -> str | tuple[int, ...] | None:
    if beginning is None or isinstance(beginning, str):
        return beginning or None
    if isinstance(beginning, (list, tuple)) and all(
            isinstance(token, numbers.Integral) and not isinstance(token, bool) for token in beginning):
        return tuple(int(token) for token in beginning) or None
    raise TypeError(f"a beginning must be text, token ids or None, not {beginning!r:.80}.")


def _one(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(f"prompt is not text that can be encoded: {error}.") from error
        return prompt
    if isinstance(prompt, (list, tuple)) and not prompt:
        raise ValueError("prompt is empty: give a question, chat messages or token ids.")
    if _is_sequence_of(prompt, Mapping) and all(isinstance(message, Mapping) for message in prompt):
        return list(prompt)
    if _is_sequence_of(prompt, numbers.Integral) and all(
            isinstance(token, numbers.Integral) and not isinstance(token, bool) for token in prompt):
        return [int(token) for token in prompt]
    raise TypeError(f"prompt must be {FORMS}, not {prompt!r:.80}.")


def _is_sequence_of(value: Any, kind: Any) -> bool:
    """By its first element; ``_one`` looks at the others."""
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], kind)


def is_token_ids(prompt: Prompt) -> bool:
    return _is_sequence_of(prompt, int)


def question_of(prompt: str | Messages) -> str:
    """The text to show for a prompt: the last user message of a chat."""
    if isinstance(prompt, str):
        return prompt
    return next((str(m.get("content", "")) for m in reversed(prompt) if m.get("role") == "user"), "")


def prompt_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str | Messages, leap: LeapConfig, prompts: PromptSet,
                  think_start: str) -> list[int]:
    """Token ids of the prompt, up to where the path itself begins.

    The question (a chat's last user message) is put into the explanation, or into the plain prompt; a tokenizer
    without a chat template gets the text as it is. Special tokens that a message spells arrive as plain text, those of the
    chat template and of ``prompts`` as what they are.

    Raises:
        ValueError: an empty prompt, or messages without a user message at their end.
    """
    template = (prompts.explanation if leap.explain else prompts.plain) + (prompts.start_over if leap.start_over else "")
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not messages or messages[-1].get("role") != "user" or not isinstance(messages[-1].get("content"), str):
        raise ValueError("prompt must end with a user message whose content is a string, such as "
                         "[{'role': 'user', 'content': 'What is 2 + 2?'}].")
    if not messages[-1]["content"].strip():
        raise ValueError("prompt is empty: give a question.")
    opening = prompts.opening if leap.explain else ""
    veil = _Veil(Vocabulary(tokenizer), f"{messages}{template}{opening}{tokenizer.chat_template}")
    messages = [veil.hide(message) for message in messages]
    messages[-1]["content"] = template.replace("{question}", messages[-1]["content"])
    if tokenizer.chat_template is None:
        text = "\n\n".join(str(m["content"]) for m in messages) + "\n\n" + opening
        return veil.encode(text, add_special_tokens=True)
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    if opening and think_start and not text.rstrip().endswith(think_start):
        text += think_start + "\n"
    return veil.encode(text + opening, add_special_tokens=False)


class _Veil:
    """Puts a word in place of whatever spells a control token in messages, so that it goes through any chat template (which
    may strip, split or escape what it gets) and is found again in the text that comes out.
    """

    def __init__(self, vocabulary: Vocabulary, around: str) -> None:
        self.vocabulary = vocabulary
        self.hidden: list[str] = []
        self.mark = "hidden"
        while self.mark in around:
            self.mark += "x"

    def hide(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """An assistant's earlier turn keeps its thinking markers: templates look for them."""
        kept = self.vocabulary.thinking_markers() if message.get("role") == "assistant" else ()
        control = [content for content in self.vocabulary.control if content not in kept]
        return {name: self._hide(value, control) for name, value in message.items()}

    def _hide(self, value: Any, control: list[str]) -> Any:
        if isinstance(value, Mapping):
            return {name: self._hide(item, control) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._hide(item, control) for item in value]
        if not isinstance(value, str):
            return value
        spelled = sorted((content for content in control if content in value), key=len, reverse=True)
        if spelled:
            value = re.sub("|".join(map(re.escape, spelled)), lambda match: self._word(match[0]), value)
        ids = self.vocabulary.tokenizer.encode(value, add_special_tokens=False)
        if not {self.vocabulary.control[content] for content in control}.isdisjoint(ids):  # the tokenizer's normalisation
            value = re.sub(r"\S(?:.*\S)?", lambda match: self._word(self._seen(match[0])), value, flags=re.DOTALL)
        return value

    def _word(self, text: str) -> str:
        self.hidden.append(text)
        return f"{self.mark}{len(self.hidden) - 1}{self.mark}"

    def _seen(self, text: str) -> str:
        return re.sub(f"{self.mark}([0-9]+){self.mark}", lambda match: self.hidden[int(match[1])], text)

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of a text whose words stand for plain text; without such words, those of the tokenizer."""
        tokenizer = self.vocabulary.tokenizer
        first, *others = re.split(f"{self.mark}([0-9]+){self.mark}", text)
        if not others:
            return cast(list[int], tokenizer.encode(first, add_special_tokens=add_special_tokens))
        ids = encode_alone(tokenizer, first)
        pieces = [Plain(self.hidden[int(piece)]) if i % 2 == 0 else piece for i, piece in enumerate(others)]
        ids += self.vocabulary.encode(pieces, after=ids)
        return [*tokenizer.encode(""), *ids] if add_special_tokens else ids
