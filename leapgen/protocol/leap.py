"""Learning from Peers (arXiv 2505.07787): REASON, BLOCK (summarize, route, comment), REASON, ..., ANSWER."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from leapgen.answers import extract_answer
from leapgen.config import LeapConfig
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.budget import check_block
from leapgen.protocol.path import Path
from leapgen.protocol.prompts import SUMMARY_OPEN
from leapgen.protocol.routing import route
from leapgen.protocol.schedule import Schedule
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, Route


class Leap(Protocol):
    """Every path waits at the end of its interval. Once all do, each writes a summary and reads those it is sent.

    A path that has concluded goes on sharing where ``finished_share`` says so: its summary is at hand from the moment its
    thinking ended, however far its answer is, for who takes part in a block must follow from tokens and not from steps.
    """

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        if not isinstance(group.speaker.config, LeapConfig):
            raise TypeError(f"LeaP needs a LeapConfig, not {group.speaker.config!r:.80}.")
        self.config = group.speaker.config
        self.schedule = Schedule.of(self.config)
        self.skipping: set[int] = set()  # paths whose context holds no further summary: they reason on alone
        self.shared: dict[int, Message] = {}  # what paths that concluded go on sharing
        self._block: BlockRecord | None = None  # the block being held
        if self.config.paths_after is not None:
            for path in group.paths[self.config.paths_after :]:  # it neither writes an answer nor is asked for one
                path.votes, path.speaker = False, group.speaker.without_answer()

    def check(self) -> None:
        super().check()
        check_block(self.group.speaker, self.config, min(map(len, self.group.beginnings)))

    def go_on(self, path: Path) -> None:
        stretch = self.schedule.stretch(len(self.group.blocks), path.round_tokens)
        if path.index not in self.skipping and stretch is not None:
            path.reason(stretch, (SUMMARY_OPEN,) if self.config.self_summarize else ())
        elif path.votes:
            path.reason()
        else:
            path.finish("retired")

    def advance(self) -> None:
        """Begins a block when every live path waits for it; ends it when every summary is written."""
        if self._block is not None:
            if not any(path.writing for path in self.group.paths):
                self._end_block(self._block)
            return
        live = [path for path in self.group.paths
                if path.stage in ("reasoning", "waiting") and path.index not in self.skipping]
        if live and all(path.stage == "waiting" for path in live):
            self._begin_block(live)

    def retains(self, path: Path) -> bool:
        """A path that concluded is still to write its summary, at the next block."""
        return (self.config.finished_share and self.config.communicates and path.concluded
                and path.index not in self.skipping and path.index not in self.shared)

    # -- the block --------------------------------------------------------------------------------------------------

    def _begin_block(self, waiting: Sequence[Path]) -> None:
        """Cuts each path to its last thought and lets a fork of it write the summary."""
        block, speaker = len(self.group.blocks), self.group.speaker
        if not any(path.votes for path in waiting):  # nobody will read what they wrote
            for path in waiting:
                path.finish("retired")
            return
        for path in waiting:
            opening: list[int] = []
            if path.paused_at is None or not self.config.keep_opening:
                path.cut()
                opening = exchange.opening(path, block)
            if path.can_write(opening):
                path.write(opening, block, aside=not self.config.keep_summary)
            else:
                self.skipping.add(path.index)
                self.go_on(path)
        if not any(path.pending for path in waiting):
            return
        self._block = BlockRecord(block)
        for path in self.group.paths:
            if self.retains(path) and path.reason_end:
                opening = exchange.opening(path, block)
                length = len(speaker.prompt) + path.reason_end + len(opening) + self.config.summary_tokens
                if length <= speaker.engine.context_length:
                    path.write(opening, block, aside=True, from_end_of_reasoning=True)

    def _end_block(self, block: BlockRecord) -> None:
        """Routes the summaries and lets every path read what it was sent."""
        paths = self.group.paths
        answers = {path.index: extract_answer(path.transcript.thought()) for path in paths}
        written = {path.index: path.message(answers[path.index]) for path in paths if path.pending is not None}
        block.summaries = dict(sorted({**self.shared, **written}.items()))
        writers = [path for path in paths if path.index in written and path.stage == "waiting"]
        receivers = [path for path in writers if path.votes or not self.schedule.is_last(block.index)]
        # A similarity or router of the user's may raise here: no path has changed yet.
        offered = {index: message for index, message in block.summaries.items() if message.text}
        routes = route(offered, [written[path.index] for path in receivers], self.config.router,
                       self.config.top_k_peers, self.config.similarity, seed=f"{self.group.seed}/{block.index}")
        block.routes = {index: [Route(*pair) for pair in chosen] for index, chosen in routes.items()}
        self._block = None
        for path in paths:
            if path.index in written and path.concluded:
                self.shared[path.index] = written[path.index]
                path.drop()
        self.group.hold(block)
        for path in writers:
            reads = path.index in block.routes
            if self.config.keep_summary:
                path.keep(close=reads)
            else:
                path.drop()
            if reads:
                chosen = block.routes[path.index]
                told = self.told(path, [block.summaries[one.peer] for one in chosen])
                block.routes[path.index] = chosen[: exchange.read(path, told, block.index)]
            self.go_on(path)

    def told(self, path: Path, messages: Sequence[Message]) -> Sequence[Message]:
        """What a path reads where it was sent these messages; placebos put others in their place, as many."""
        return messages

    # -- an interrupted run -----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        return {"skipping": sorted(self.skipping), "shared": [asdict(message) for message in self.shared.values()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.skipping = set(state["skipping"])
        self.shared = {fields["sender"]: Message(**fields) for fields in state["shared"]}
