"""How the paths of one question work together: a protocol says who waits, writes and reads; its group carries it out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from leapgen.engine import Event
from leapgen.engine import Sequence as LiveSequence
from leapgen.protocol.budget import check_prompt
from leapgen.protocol.path import Path
from leapgen.protocol.speaker import Speaker
from leapgen.record.events import BlockEvent, GroupEvent, SegmentEvent
from leapgen.record.ledger import Ledger
from leapgen.record.run import BlockRecord, PathOutput


class Protocol(ABC):
    """One object for each question; a subclass is a method. Give the class to ``LeapGenerator.generate(protocol=...)``.

    Tokens must follow from tokens: what a protocol decides may depend on what paths have said, on blocks and on seeded
    randomness, never on how far another path has come when it is asked. Then runs are repeatable and resume exactly.
    """

    def __init__(self, group: Group) -> None:
        self.group = group

    @property
    def name(self) -> str:
        """By which a saved run says what it was made with."""
        return type(self).__qualname__

    def check(self) -> None:
        """Refuses, before any work, what could never fit.

        Raises:
            ValueError: says what does not fit, and what to change.
        """
        check_prompt(self.group.speaker, max(map(len, self.group.beginnings)))

    def go_on(self, path: Path) -> None:
        """Lets a path reason, up to where it is to wait: one at its beginning, or a resumed one in its reasoning."""
        path.reason()

    @abstractmethod
    def advance(self) -> None:
        """Lets waiting paths and written messages go on. Called after every step in which a path has moved."""

    def retains(self, path: Path) -> bool:
        """Whether the KV of a path that has ended is still needed."""
        return False

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs to take up an interrupted run, besides paths and blocks; JSON values."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what ``state`` gave; paths and blocks are in place.

        Raises:
            ValueError: the state is another protocol's.
        """
        if state:
            raise ValueError(f"the run has a state of {', '.join(state)}, but {self.name} keeps none: another protocol made "
                             "it. Resume it with that protocol.")


class Independent(Protocol):
    """Paths that never meet."""

    def advance(self) -> None:
        pass


Method = Callable[["Group"], Protocol]  # what makes a question's protocol: a subclass, or a partial of one


class Group:
    """The paths of one question, in an engine.

    The owner calls ``start`` once, hands every engine event of the group's sequences to ``handle``, and calls ``advance``
    after each step; all return what happened. ``outputs`` may be read at any time; ``close`` frees the pages.

    Args:
        beginnings: tokens that each path goes on from; without any, all paths begin with the prompt's end.
    """

    def __init__(self, speaker: Speaker, protocol: Method, n: int, seed: int, question: int = 0,
                 beginnings: Sequence[Sequence[int]] = ()) -> None:
        self.speaker, self.seed, self.question = speaker, seed, question
        self.beginnings = [list(beginning) for beginning in beginnings] or [[] for _ in range(n)]
        self.ledger = Ledger(prompt=len(speaker.prompt))
        self.blocks: list[BlockRecord] = []
        self._events: list[GroupEvent] = []
        self.paths = [Path(i, question, speaker, seed, self.ledger, self._events.append) for i in range(n)]
        self._members: dict[object, Path] = {path: path for path in self.paths}
        for path, beginning in zip(self.paths, self.beginnings, strict=True):
            path.begin(beginning)
        self.protocol = protocol(self)

    def start(self, paths: Sequence[PathOutput] = (), blocks: Sequence[BlockRecord] = (),
              state: Mapping[str, Any] | None = None) -> list[GroupEvent]:
        """Enters the paths into the engine; given an interrupted run's paths, blocks and state, goes on from there."""
        self.blocks = list(blocks)
        for output in paths:
            self.paths[output.index].restore(output)
        if state is not None:
            self.protocol.restore(state)
        self._events += (SegmentEvent(self.question, path.index, segment)
                         for path in self.paths for segment in path.transcript.segments)
        self._enter([path for path in self.paths if path.stage != "finished" or self.protocol.retains(path)])
        return self._happened()

    def _enter(self, paths: Sequence[Path]) -> None:
        """The prompt is computed once, and each beginning once behind it, however many paths share them."""
        engine, prompt = self.speaker.engine, self.speaker.prompt
        root = engine.add(prompt, self.speaker.sampling, limit=len(prompt) + 1, ledger=self.ledger, then="reason")
        trunks: dict[tuple[int, ...], LiveSequence] = {(): root}
        for path in paths:
            beginning = tuple(self.beginnings[path.index])
            if beginning not in trunks:
                trunks[beginning] = engine.fork(root)
                engine.extend(trunks[beginning], beginning, limit=len(prompt) + len(beginning) + 1, phase="prompt",
                              then="reason")
            path.enter(trunks[beginning])
        for path in paths:
            if path.stage == "reasoning":
                self.protocol.go_on(path)
        for trunk in trunks.values():
            engine.release(trunk)

    def handle(self, event: Event) -> list[GroupEvent]:
        """Takes one engine event of a sequence of this group."""
        self._members[event.sequence.owner].handle(event)
        return self._happened()

    def advance(self) -> list[GroupEvent]:
        """Lets the protocol go on after a step."""
        self.protocol.advance()
        for path in self.paths:
            if path.stage == "finished" and path.sequence is not None and not self.protocol.retains(path):
                path.leave()
        return self._happened()

    def _happened(self) -> list[GroupEvent]:
        events = self._events[:]
        self._events.clear()
        return events

    def hold(self, block: BlockRecord) -> None:
        """Notes a block, and tells of it."""
        self.blocks.append(block)
        self._events.append(BlockEvent(self.question, block))

    @property
    def done(self) -> bool:
        """Whether every path has ended, and nothing is asked of its forks any more."""
        return all(path.stage == "finished" and not path.forks for path in self.paths)

    def outputs(self, unfinished: str | None = None) -> list[PathOutput]:
        """The paths as they stand; those that have not ended carry ``unfinished`` as their finish reason."""
        return [path.output(unfinished) for path in self.paths]

    def close(self) -> None:
        """Gives every page back."""
        for path in self.paths:
            path.close()
