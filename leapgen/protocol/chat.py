"""From a question to prompt tokens: the chat template, the explanation, the thinking marker and the opening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from leapgen.config import LeapConfig
from leapgen.protocol.prompts import PromptSet

Messages = Sequence[Mapping[str, Any]]


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
