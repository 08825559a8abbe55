"""LeaP without a barrier: a path writes at the end of each interval, reads what is there, and goes on.

    python examples/protocols/asynchronous.py

At the end of its interval k a path reads the others' messages of intervals before k. Nobody waits for what is being
written; a path waits only where another lags behind by more than a whole interval. Which messages are read must not depend
on who happened to be faster, or a run could neither be repeated nor resumed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.path import Path
from leapgen.protocol.routing import route
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, Route


class Asynchronous(Protocol):
    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.config = group.speaker.config
        self.messages: dict[int, list[Message]] = {path.index: [] for path in group.paths}  # that each path has written
        self.reading: set[int] = set()  # paths that have written and not yet read
        self.alone: set[int] = set()  # paths whose context holds no further message

    def go_on(self, path: Path) -> None:
        path.reason(None if path.index in self.alone else self.config.interval - path.round_tokens)

    def advance(self) -> None:
        for path in self.group.paths:
            if path.index in self.reading or path.stage != "waiting":
                continue
            if path.pending is None:
                self.write(path)
            elif not path.writing:
                self.messages[path.index].append(path.message())
                path.keep()
                self.reading.add(path.index)
        while ready := [path for path in self.group.paths if path.index in self.reading and self.can_read(path)]:
            for path in ready:
                self.reading.remove(path.index)
                self.read(path)
                self.go_on(path)

    def write(self, path: Path) -> None:
        path.cut()
        number = len(self.messages[path.index])
        opening = exchange.opening(path, number)
        if path.can_write(opening):
            path.write(opening, number)
        else:
            self.alone.add(path.index)
            self.go_on(path)

    def can_read(self, path: Path) -> bool:
        """Whether all that it is to read has been written: of paths that go on, as many messages as it read before."""
        before = len(self.messages[path.index]) - 1
        return all(len(self.messages[other.index]) >= before or other.index in self.alone
                   or other.stage in ("answering", "finished") for other in self.group.paths)

    def read(self, path: Path) -> None:
        *_, own = self.messages[path.index]
        newest = {sender: written[: own.block][-1] for sender, written in self.messages.items() if written[: own.block]}
        offered = {sender: message for sender, message in newest.items() if message.text and sender != path.index}
        chosen = route({**offered, path.index: own}, [own], self.config.router, self.config.top_k_peers,
                       self.config.similarity, seed=f"{self.group.seed}/{own.block}")[path.index]
        count = exchange.read(path, [offered[sender] for sender, _ in chosen], own.block)
        self.group.hold(BlockRecord(own.block, {**offered, path.index: own},
                                    {path.index: [Route(*one) for one in chosen[:count]]}))

    def state(self) -> dict[str, Any]:
        return {"messages": [[asdict(message) for message in written] for written in self.messages.values()],
                "reading": sorted(self.reading), "alone": sorted(self.alone)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.messages = {i: [Message(**fields) for fields in written] for i, written in enumerate(state["messages"])}
        self.reading, self.alone = set(state["reading"]), set(state["alone"])


if __name__ == "__main__":
    from leapgen import LeapGenerator
    from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze

    maze = make_maze("asynchronous", MAZE_SHAPE)
    output = LeapGenerator.from_pretrained("maze").generate(maze.question, 8, protocol=Asynchronous, **MAZE_SETTINGS)
    print(output, sum(maze.is_solved_by(answer) for answer in output.answers), "of 8 solve it")
