"""A control without summaries: every path is told which answers have been found, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from leapgen.answers import extract_answer, normalize_answer
from leapgen.config import LeapConfig
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.budget import check_block
from leapgen.protocol.path import Path
from leapgen.protocol.schedule import Schedule
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, Route

WORDING = "The answer is \\boxed{{answer}}."


class Broadcast(Protocol):
    """What is gained by knowing the answers that others have found: ``generate(..., protocol=Broadcast)``.

    Blocks are held when LeaP holds them. A path reads each answer that another has stated by then, once, in LeaP's comment;
    it writes nothing for the others. A path that reads nothing is not interrupted. The block waits for answers that are
    being written: who has ended tells what it ended with.

    Args:
        wording: how an answer is told; ``{answer}`` stands for it.
    """

    def __init__(self, group: Group, wording: str = WORDING) -> None:
        super().__init__(group)
        if not isinstance(group.speaker.config, LeapConfig):
            raise TypeError(f"a broadcast needs a LeapConfig, not {group.speaker.config!r:.80}.")
        if "{answer}" not in wording:
            raise ValueError(f"wording={wording!r} is not allowed: it must contain {{answer}}.")
        self.wording, self.config = wording, group.speaker.config
        self.schedule = Schedule.of(self.config)

    def check(self) -> None:
        super().check()
        for speaker in self.group.speakers:
            check_block(speaker, self.config, min(map(len, self.group.beginnings)))

    def go_on(self, path: Path) -> None:
        block, interval = self.schedule.next_block(len(self.group.blocks)), self.config.interval
        begun = len(self.group.beginnings[path.index]) // interval  # intervals that hold no block
        path.reason(None if block is None else (begun + block + 1) * interval - path.own_tokens)

    def advance(self) -> None:
        stages = {path.stage for path in self.group.paths}
        if "waiting" in stages and stages <= {"waiting", "finished"}:
            self.tell([path for path in self.group.paths if path.stage == "waiting"])

    def tell(self, waiting: Sequence[Path]) -> None:
        block = BlockRecord(len(self.group.blocks))
        for path in self.group.paths:
            answer = path.answer_found if path.stage == "finished" else extract_answer(path.transcript.thought())
            if answer is not None:
                words = self.wording.replace("{answer}", answer)
                block.summaries[path.index] = Message(path.index, words, block.index, answer)
        self.group.hold(block)
        for path in waiting:
            told: dict[str, Message] = {}  # of each answer the first who stated it
            for message in block.summaries.values():
                if message.sender != path.index:
                    told.setdefault(normalize_answer(message.answer or ""), message)
            if told:
                path.cut()
                count = exchange.read(path, list(told.values()), block.index)
                block.routes[path.index] = [Route(message.sender, None) for message in list(told.values())[:count]]
            self.go_on(path)
