"""What goes into a path at a block: the words that open its message, and those it was sent."""

from __future__ import annotations

import random
from collections.abc import Sequence

from leapgen.protocol.path import Path
from leapgen.protocol.text import Quoted
from leapgen.record.message import Message, Source


def opening(path: Path, block: int) -> list[int]:
    """Trigger and lead-in, drawn for this path and block, to follow what the path has said.

    Of a path that concluded, what it said up to the end of its reasoning.
    """
    speaker, text = path.speaker, path.transcript.text
    rng = random.Random(f"{path.seed}/{path.index}/{block}")
    trigger, lead_in = rng.choice(speaker.prompts.triggers), rng.choice(speaker.prompts.lead_ins)
    said, tokens = text.text, path.live.tokens
    if path.concluded:
        said, tokens = text.span(0, path.reason_end), tokens[: len(speaker.prompt) + path.reason_end]
    return speaker.vocabulary.encode([f"{gap(said)}{trigger} {lead_in}"], after=tokens)


def read(path: Path, messages: Sequence[Message], block: int) -> int:
    """Lets a path read messages between comment tags: as many of the first ones as fit its context.

    Returns:
        How many it reads. Where not even the tags fit, it reads nothing.
    """
    count, tokens, sources = fitting(path, messages)
    if tokens:
        path.read("comment", tokens, block, sources)
    return count


def fitting(path: Path, messages: Sequence[Message]) -> tuple[int, list[int], list[Source]]:
    """How many of the first messages fit a path's context, and the comment with them; no tokens if not even its tags fit."""
    for count in range(len(messages), -1, -1):
        tokens, sources = comment(path, messages[:count])
        if len(tokens) < path.free_positions:
            return count, tokens, sources
    return 0, [], []


def comment(path: Path, messages: Sequence[Message]) -> tuple[list[int], list[Source]]:
    """The tokens that tell a path these messages, and which of them are whose."""
    frame = path.speaker.prompts.comment(len(messages))
    pieces: list[str] = [gap(path.transcript.text.text) + frame[0]]
    for message, following in zip(messages, frame[1:], strict=True):
        pieces += [Quoted(message.text), following]
    encoded = path.speaker.vocabulary.encode_pieces(pieces, after=path.live.tokens)
    tokens, sources = list(encoded[0]), []
    for message, words, behind in zip(messages, encoded[1::2], encoded[2::2], strict=True):
        sources.append(Source(len(tokens), len(tokens) + len(words), message.sender, message.block))
        tokens += [*words, *behind]
    return tokens, sources


def gap(text: str) -> str:
    """What makes the text end with a blank line."""
    return "" if not text or text.endswith("\n\n") else "\n" if text.endswith("\n") else "\n\n"
