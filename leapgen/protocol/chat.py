"""From a question to prompt tokens: the chat template, the explanation, the thinking marker and the opening."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from leapgen.config import LeapConfig
from leapgen.protocol.prompts import PromptSet

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Messages | Sequence[int]
Beginning = str | Sequence[int]
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


def parse_beginnings(beginning: Any, prompts: int | None) -> list[str | list[int] | None]:
    """One beginning for each prompt, None where there is none; ``prompts`` is None for a single prompt.

    Raises:
        TypeError, ValueError: it is none of the forms, or there are not as many as prompts.
    """
    if beginning is None:
        return [None] * (prompts or 1)
    if prompts is None:
        return [_one_beginning(beginning)]
    if not isinstance(beginning, (list, tuple)) or len(beginning) != prompts:
        raise ValueError(f"beginning must be a list of {prompts}, one for each prompt, not {beginning!r:.80}.")
    return [_one_beginning(one) for one in beginning]


def _one_beginning(beginning: Any) -> str | list[int] | None:
    if beginning is None or isinstance(beginning, str):
        return beginning or None
    if isinstance(beginning, (list, tuple)) and all(
            isinstance(token, numbers.Integral) and not isinstance(token, bool) for token in beginning):
        return [int(token) for token in beginning] or None
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
        return prompt
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
    without a chat template gets the text as it is.

    Raises:
        ValueError: an empty prompt, or messages without a user message at their end.
    """
    template = prompts.explanation if leap.explain else prompts.plain
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(m) for m in prompt]
    if not messages or messages[-1].get("role") != "user" or not isinstance(messages[-1].get("content"), str):
        raise ValueError("prompt must end with a user message whose content is a string, such as "
                         "[{'role': 'user', 'content': 'What is 2 + 2?'}].")
    if not messages[-1]["content"].strip():
        raise ValueError("prompt is empty: give a question.")
    messages[-1]["content"] = template.replace("{question}", messages[-1]["content"])
    opening = prompts.opening if leap.explain else ""
    if tokenizer.chat_template is None:
        text = "\n\n".join(str(m["content"]) for m in messages) + "\n\n" + opening
        return tokenizer.encode(text)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if opening and think_start and not text.rstrip().endswith(think_start):
        text += think_start + "\n"
    return tokenizer.encode(text + opening, add_special_tokens=False)
