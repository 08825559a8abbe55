"""A debate (Du et al., arXiv 2305.14325): paths state an answer, read those who state another, and argue on.

    python examples/protocols/debate.py

It ends once all state the same answer, or after the last round: then every path gives its final answer. Who states none
agrees with nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

from leapgen.answers import extract_answer, normalize_answer
from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.path import Path
from leapgen.protocol.prompts import SUMMARY_OPEN
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, Route

OPENING = f"Let me say where I stand, and why. {SUMMARY_OPEN} My answer is \\boxed{{"


class Debate(Protocol):
    """Use it by ``protocol=Debate``, or ``functools.partial(Debate, rounds=5)``. A round takes ``interval`` own tokens."""

    def __init__(self, group: Group, rounds: int = 3) -> None:
        super().__init__(group)
        self.rounds = rounds

    def go_on(self, path: Path) -> None:
        path.reason(self.group.speaker.config.interval - path.round_tokens)

    def advance(self) -> None:
        debating = [path for path in self.group.paths if path.stage in ("reasoning", "waiting")]
        if not debating or any(path.stage == "reasoning" or path.writing for path in debating):
            return
        if not any(path.pending for path in debating):
            self.ask(debating)
        else:
            self.answer([path for path in debating if path.pending])

    def ask(self, debating: Sequence[Path]) -> None:
        """Each states its answer; one whose context is full gives its final answer."""
        for path in debating:
            path.cut()
            opening = path.speaker.vocabulary.encode([exchange.gap(path.transcript.text.text) + OPENING],
                                                     after=path.live.tokens)
            if path.can_write(opening):
                path.write(opening, len(self.group.blocks))
            else:
                path.force_answer()

    def answer(self, debating: Sequence[Path]) -> None:
        """Each reads those who state another answer than its own."""
        stated = {path.index: self.statement(path) for path in debating}
        answers = {message.answer for message in stated.values()}
        open_question = len(answers) > 1 or answers == {None}
        block = BlockRecord(len(self.group.blocks), stated)
        self.group.hold(block)
        for path in debating:
            path.keep()
            others = [message for sender, message in stated.items() if message.text and sender != path.index
                      and (message.answer is None or message.answer != stated[path.index].answer)]
            if block.index + 1 < self.rounds and open_question:
                count = exchange.read(path, others[: path.speaker.config.top_k_peers], block.index)
                block.routes[path.index] = [Route(message.sender, None) for message in others[:count]]
                self.go_on(path)
            else:
                path.force_answer()

    @staticmethod
    def statement(path: Path) -> Message:
        answer = extract_answer(path.message().text)
        return path.message(answer and normalize_answer(answer))


if __name__ == "__main__":
    from leapgen import LeapGenerator
    from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze

    maze = make_maze("debate", MAZE_SHAPE)
    output = LeapGenerator.from_pretrained("maze").generate(maze.question, 8, protocol=Debate, **MAZE_SETTINGS)
    print(output, [message.answer for message in output.blocks[-1].summaries.values()])
