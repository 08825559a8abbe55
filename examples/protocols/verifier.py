"""A verifier beside the solvers: the last path solves nothing, but checks what the others report.

    python examples/protocols/verifier.py

At each block the solvers write summaries, the verifier reads them all and writes its verdict, and every solver reads that.
Once all solvers have ended, the verifier, who has read everything, gives its answer, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from leapgen.protocol import exchange
from leapgen.protocol.base import Group, Protocol
from leapgen.protocol.path import Path
from leapgen.protocol.prompts import SUMMARY_OPEN
from leapgen.record.run import BlockRecord, Route

VERDICT = f"I check each of these reports step by step. {SUMMARY_OPEN} What holds up and what does not:"


class Verified(Protocol):
    """Use it by ``protocol=Verified``; of n paths n - 1 solve."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        *self.solvers, self.verifier = group.paths

    def go_on(self, path: Path) -> None:
        if path is self.verifier:
            path.wait()
        else:
            path.reason(path.speaker.config.interval - path.round_tokens)

    def advance(self) -> None:
        verifier = self.verifier
        if verifier.stage != "waiting":
            return
        solving = [path for path in self.solvers if path.stage in ("reasoning", "waiting")]
        if not solving:
            if all(path.stage == "finished" for path in self.solvers):
                verifier.force_answer()
        elif all(path.stage == "waiting" and not path.writing for path in solving) and not verifier.writing:
            if verifier.pending is not None:
                self.tell([path for path in solving if path.pending])
            elif any(path.pending for path in solving):
                self.verify([path for path in solving if path.pending])
            else:
                self.report(solving)

    def report(self, solving: Sequence[Path]) -> None:
        """The solvers write. One whose context is full gives its answer; all do, once the verifier's context is full."""
        fits = self.verifier.free_positions > 2 * (len(solving) + 1) * self.group.speaker.config.summary_tokens
        for path in solving:
            path.cut()
            opening = exchange.opening(path, len(self.group.blocks))
            if fits and path.can_write(opening):
                path.write(opening, len(self.group.blocks))
            else:
                path.force_answer()

    def verify(self, reporting: Sequence[Path]) -> None:
        """The verifier reads the reports, unless it had when the run was interrupted, and writes its verdict."""
        verifier, block = self.verifier, len(self.group.blocks)
        read = [segment.block for segment in verifier.transcript.segments if segment.kind == "comment"]
        if block not in read:
            exchange.read(verifier, [path.message() for path in reporting], block)
        verifier.write(verifier.speaker.vocabulary.encode([f"\n\n{VERDICT}"], after=verifier.live.tokens), block)

    def tell(self, reporting: Sequence[Path]) -> None:
        """Every solver reads the verdict."""
        verdict = self.verifier.message()
        block = BlockRecord(verdict.block, {path.index: path.message() for path in reporting})
        block.summaries[self.verifier.index] = verdict
        block.routes[self.verifier.index] = [Route(path.index, None) for path in reporting]
        self.group.hold(block)
        self.verifier.keep()
        for path in reporting:
            path.keep()
            block.routes[path.index] = [Route(self.verifier.index, None)][: exchange.read(path, [verdict], block.index)]
            self.go_on(path)


if __name__ == "__main__":
    from leapgen import LeapGenerator
    from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze

    maze = make_maze("verifier", MAZE_SHAPE)
    output = LeapGenerator.from_pretrained("maze").generate(maze.question, 8, protocol=Verified, **MAZE_SETTINGS)
    print(output, sum(maze.is_solved_by(answer) for answer in output.answers), "of 8 solve it")
