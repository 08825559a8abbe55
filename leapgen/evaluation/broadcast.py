"""A control without summaries: every path is told which answers have been found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from leapgen.answers import extract_answer, normalize_answer
from leapgen.config import LeapConfig
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.budget import check_block
from leapgen.protocol.path import Path
from leapgen.protocol.schedule import Schedule
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, Route
from leapgen.tasks.base import boxed


class Broadcast(Protocol):
    """What is gained by knowing the answers that others have found: ``generate(..., protocol=Broadcast)``.

    Blocks are held when LeaP holds them. A path reads each answer that another has found by then, once, in LeaP's
    comment; it writes nothing for the others. A path that reads nothing is not interrupted. The block waits for answers
    that are being written, and who has ended tells what it ended with. An answer that was asked for at the end of a
    budget is a guess, and is not told.

    Args:
        told: the words by which an answer is told.

    Raises:
        TypeError: it is no function, or the settings are no ``LeapConfig``.
    """

    def __init__(self, group: Group, told: Callable[[str], str] = boxed) -> None:
        super().__init__(group)
        if not isinstance(group.speaker.config, LeapConfig):
            raise TypeError(f"a broadcast needs a LeapConfig, not {group.speaker.config!r:.80}.")
        if not callable(told):
            raise TypeError(f"told must be a function from an answer to the words that tell it, not {told!r:.80}.")
        self.told, self.config = told, group.speaker.config
        self.schedule = Schedule.of(self.config)

    def check(self) -> None:
        super().check()
        check_block(self.group.speaker, self.config, min(map(len, self.group.beginnings)))
        if self.config.paths_after is not None:
            raise ValueError(f"paths_after={self.config.paths_after} is not allowed in a broadcast: all of its paths go on.")

    def go_on(self, path: Path) -> None:
        block, interval = self.schedule.next_block(len(self.group.blocks)), self.config.interval
        begun = len(self.group.beginnings[path.index]) // interval  # intervals that hold no block
        path.reason(None if block is None else (begun + block + 1) * interval - path.own_tokens)

    def advance(self) -> None:
        stages = {path.stage for path in self.group.paths}
        if "waiting" in stages and stages <= {"waiting", "finished"}:
            self.tell([path for path in self.group.paths if path.stage == "waiting"])

    def tell(self, waiting: Sequence[Path]) -> None:
        """Holds a block: each of these paths reads the answers of others that it has not read before."""
        block = BlockRecord(len(self.group.blocks))
        for path in self.group.paths:
            answer = found(path)
            if answer is not None:
                block.summaries[path.index] = Message(path.index, self.told(answer), block.index, answer)
        known = {path.index: self.known(path) for path in waiting}
        self.group.hold(block)
        for path in waiting:
            news: dict[str, Message] = {}  # of each answer the first who found it
            for message in block.summaries.values():
                answer = normalize_answer(message.answer or "")
                if message.sender != path.index and answer not in known[path.index]:
                    news.setdefault(answer, message)
            if news:
                path.cut()
                count = exchange.read(path, list(news.values()), block.index)
                block.routes[path.index] = [Route(message.sender, None) for message in list(news.values())[:count]]
            self.go_on(path)

    def known(self, path: Path) -> set[str]:
        """The answers that a path has read."""
        return {normalize_answer(block.summaries[route.peer].answer or "")
                for block in self.group.blocks for route in block.routes.get(path.index, ())}


def found(path: Path) -> str | None:
    """The answer that a path has come to by itself; None if it has come to none yet."""
    ended = path.stage == "finished" and not path.forced
    return path.answer_found if ended else extract_answer(path.transcript.thought())
