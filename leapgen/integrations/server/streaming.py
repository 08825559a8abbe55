"""A request's events as server-sent events: chunks of OpenAI's form, each choice's words as they come."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

from leapgen.integrations.server.completions import Completions, chosen
from leapgen.integrations.server.errors import Refused
from leapgen.integrations.server.words import Delta, Words
from leapgen.record.events import BlockEvent, CutEvent, FinishEvent, OutputEvent, SegmentEvent, StreamEvent, TokenEvent
from leapgen.record.run import BlockRecord, LeapOutput, PathOutput

PING_SECONDS = 10.0  # without an event, a comment is sent: proxies take a silent connection for a dead one
DONE = b"data: [DONE]\n\n"


class Chunks:
    """The chunks of one request.

    Where all paths are returned, each choice streams. Of fewer, it is not known before the end which they are: until then a
    chat's first choice has every block's summaries for its reasoning.
    """

    def __init__(self, completions: Completions) -> None:
        self._completions, self._asked = completions, completions.asked
        self._live = self._asked.n == self._asked.paths
        self._words: dict[tuple[int, int], Words] = {}
        self._outputs: dict[int, LeapOutput] = {}
        self._offsets: dict[int, int] = {}  # characters of content told so far, by choice

    async def body(self) -> AsyncIterator[bytes]:
        """The body of the response; an error after its beginning is its last event."""
        ticket = self._completions.ticket
        following = asyncio.ensure_future(ticket.next())
        try:
            while True:
                done, _ = await asyncio.wait([following], timeout=PING_SECONDS)
                if not done:
                    yield b": waiting\n\n"
                    continue
                if (some := following.result()) is None:
                    break
                following = asyncio.ensure_future(ticket.next())
                for chunk in self._told(some):
                    yield chunk
        except Refused as refused:
            yield _event(refused.body)
        else:
            if self._asked.usage:
                outputs = [self._outputs[question] for question in sorted(self._outputs)]
                yield self._chunk([], usage=self._completions.usage(outputs))
        finally:
            following.cancel()
        yield DONE

    def _told(self, events: list[StreamEvent]) -> Iterator[bytes]:
        moved: dict[tuple[int, int], Words] = {}  # a step's words of a choice are one chunk
        for event in events:
            if isinstance(event, (TokenEvent, SegmentEvent, CutEvent)) and self._live:
                moved[event.question, event.path] = self._words_of(event.question, event.path)
                moved[event.question, event.path].add(event)
            elif isinstance(event, FinishEvent) and self._live:
                moved[event.question, event.path.index] = self._words_of(event.question, event.path.index)
                moved[event.question, event.path.index].end()
            elif isinstance(event, BlockEvent) and not self._live and self._asked.chat:
                yield self._delta(self._index(event.question, 0), Delta(reasoning=_summaries(event.block)))
            elif isinstance(event, OutputEvent):
                self._outputs[event.question] = event.output
        for (question, path), words in moved.items():
            if delta := words.take():
                yield self._delta(self._index(question, path), delta)
        for event in events:
            if isinstance(event, OutputEvent):
                yield from self._output(event.question, event.output)

    def _output(self, question: int, output: LeapOutput) -> Iterator[bytes]:
        """What is left to tell of a question that is done."""
        paths = chosen(output, self._asked.n)
        if any(path.finish_reason == "interrupted" for path in paths):  # an error follows
            return
        for place, path in enumerate(paths):
            index = self._index(question, place)
            if not self._live:
                whole = self._completions.words(path)
                delta = Delta("", whole.content, whole.tokens)
            else:
                words = self._words_of(question, place)
                words.end()  # where the run was stopped before the path had ended
                delta = words.take()
            if delta:
                yield self._delta(index, delta)
            last = place == len(paths) - 1
            yield self._end(index, path, **({"leap": self._completions.leap([output], question)[0]} if last else {}))

    def _words_of(self, question: int, path: int) -> Words:
        if (question, path) not in self._words:
            leap = self._asked.leap
            self._words[question, path] = Words(self._completions.endings, leap.stop_strings, leap.communicates)
        return self._words[question, path]

    def _index(self, question: int, place: int) -> int:
        return question * self._asked.n + place

    def _delta(self, index: int, delta: Delta) -> bytes:
        offset = self._offsets.get(index)
        logprobs = self._completions.logprobs(delta.tokens, offset or 0) if delta.tokens else None
        self._offsets[index] = (offset or 0) + len(delta.content)
        if not self._asked.chat:
            return self._chunk([{"index": index, "text": delta.content, "logprobs": logprobs, "finish_reason": None}])
        role: dict[str, str] = {"role": "assistant"} if offset is None else {}
        return self._chunk([{"index": index, "delta": {**role, **self._completions.said(delta)}, "logprobs": logprobs,
                             "finish_reason": None}])

    def _end(self, index: int, path: PathOutput, **more: Any) -> bytes:
        said: dict[str, Any] = {"delta": {}} if self._asked.chat else {"text": ""}
        return self._chunk([{"index": index, **said, "logprobs": None, **self._completions.ending(path)}], **more)

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        usage = {"usage": None} if self._asked.usage else {}
        return _event({**self._completions.head(kind), "choices": choices, **usage, **more})


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, allow_nan=False).encode() + b"\n\n"


def _summaries(block: BlockRecord) -> str:
    return "".join(f"[block {block.index}, path {path}] {message.text}\n\n" for path, message in block.summaries.items())
