"""Paths as transformers' streamers take them: token by token, and nothing taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from leapgen.config import LeapConfig
from leapgen.protocol.text import ends_with_blank_line
from leapgen.record.events import CutEvent, FinishEvent, OutputEvent, SegmentEvent, StreamEvent, TokenEvent


class Streams:
    """Feeds one streamer a path: first the prompt's tokens, then the path's, each as a tensor [1]; then its end.

    A block cuts a path to its last blank line, and a streamer cannot unsay. Own words that a block to come may still cut
    are held back until a blank line, a block or the path's end settles them.

    Args:
        streamers: one for each path, the paths of the first prompt first.
        prompts: their token ids.

    Raises:
        ValueError: no streamer for a path, or none that has one.
    """

    def __init__(self, streamers: Sequence[Any], prompts: Sequence[Sequence[int]], n: int, leap: LeapConfig) -> None:
        if len(streamers) != len(prompts) * n:
            raise ValueError(f"{len(streamers)} streamers for {len(prompts) * n} paths: give leap_streamers, one for each "
                             "path of each prompt.")
        self._streamers, self._prompts, self._n = streamers, prompts, n
        self._communicates = leap.communicates
        self._by_paragraph = leap.keep_opening or not leap.self_summarize  # otherwise words before a blank line may go, too
        self._held: list[list[int]] = [[] for _ in streamers]
        self._said = [""] * len(streamers)  # own words since the path last read something

    def begin(self) -> None:
        for place, streamer in enumerate(self._streamers):
            streamer.put(torch.tensor([self._prompts[place // self._n]]))

    def __call__(self, event: StreamEvent) -> None:
        if isinstance(event, OutputEvent):
            for path in range(self._n):
                self._settle(event.question * self._n + path)
        elif isinstance(event, TokenEvent) and not event.aside:
            self._token(event.question * self._n + event.path, event)
        elif isinstance(event, SegmentEvent) and not event.aside:
            place = event.question * self._n + event.path
            self._settle(place)
            self._streamers[place].put(torch.tensor(event.segment.token_ids))
        elif isinstance(event, CutEvent):
            held = self._held[event.question * self._n + event.path]
            del held[len(held) - event.tokens :]
        elif isinstance(event, FinishEvent):
            self._settle(event.question * self._n + event.path.index)

    def end(self) -> None:
        """Also after an error: who reads from a streamer waits for its end."""
        for streamer in self._streamers:
            streamer.end()

    def _token(self, place: int, event: TokenEvent) -> None:
        if event.kind != "own":
            self._settle(place)
        self._held[place].append(event.token)
        self._said[place] += event.text
        paragraph = self._by_paragraph and ends_with_blank_line(self._said[place]) and self._said[place].strip()
        if event.kind != "own" or not self._communicates or (event.text and paragraph):
            self._release(place)

    def _settle(self, place: int) -> None:
        self._release(place)
        self._said[place] = ""

    def _release(self, place: int) -> None:
        for token in self._held[place]:
            self._streamers[place].put(torch.tensor([token]))
        self._held[place] = []
