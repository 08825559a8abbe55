"""One call's questions while the session works on them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from leapgen.config import LeapConfig
from leapgen.engine import Event
from leapgen.failures import GenerationFailed, GenerationInterrupted
from leapgen.protocol.base import Group
from leapgen.protocol.prompts import warn_of_example
from leapgen.record.events import OutputEvent, StreamEvent
from leapgen.record.run import LeapOutput
from leapgen.stopping import Condition, Progress


class Question:
    """A group of paths and the output it fills; ``earlier`` is the output to go on from."""

    def __init__(self, group: Group, output: LeapOutput, earlier: LeapOutput | None = None) -> None:
        self.group, self.output, self.earlier = group, output, earlier
        self.open = True
        self.began = 0.0

    def start(self) -> list[StreamEvent]:
        self.began = time.perf_counter()
        if self.earlier is None:
            return [*self.group.start()]
        return [*self.group.start(self.earlier.paths, self.earlier.blocks, self.earlier.state)]

    def fill(self, unfinished: str) -> None:
        """Brings the output up to date; paths that have not ended get ``unfinished`` as their finish reason."""
        if self.open:
            self.output.paths = self.group.outputs(unfinished)
            self.output.blocks, self.output.ledger = list(self.group.blocks), self.group.ledger
            self.output.state, self.output.finished = self.group.protocol.state(), self.group.done

    def end(self, unfinished: str) -> list[StreamEvent]:
        """Frees the pages; gives the output, as far as it has come."""
        if not self.open:
            return []
        self.fill(unfinished)
        self.open = False
        self.group.close()
        speaker = self.group.speaker
        if isinstance(speaker.config, LeapConfig) and speaker.config.explain:
            warn_of_example(self.output.majority(), speaker.prompts)
        return [OutputEvent(self.group.question, self.output)]

    def progress(self) -> Progress:
        group, voters = self.group, [path for path in self.group.paths if path.votes]
        return Progress(time.perf_counter() - self.began, group.ledger.decoded, len(group.blocks),
                        [path.answer_found for path in voters if path.stage == "finished"], len(voters))


class Job:
    """One call's questions. Only the thread whose turn it is works on them; a ``Run`` sets ``ending`` and takes events."""

    def __init__(self, questions: Sequence[Question], until: Condition | None) -> None:
        self.questions, self.until = questions, until
        self.events: deque[StreamEvent] = deque()
        self.error: BaseException | None = None
        self.ending: str | None = None  # set to end the job: the finish reason of paths that have not ended

    @property
    def ended(self) -> bool:
        return not any(question.open for question in self.questions)

    @property
    def served(self) -> bool:
        """Whether a run that asks gets something: an event, an error, the end."""
        return bool(self.events) or self.ended

    def start(self) -> None:
        for question in self.questions:
            self.events += question.start()
            self.handle(question, [])

    def handle(self, question: Question, events: Sequence[Event]) -> None:
        """Takes the engine's events of a question. A block of one question does not hold up the paths of another."""
        for event in events:
            self.events += question.group.handle(event)
        self.events += question.group.advance()
        if question.group.done:
            self.events += question.end("")
        elif events and self.until is not None and self.until(question.progress()):
            self.events += question.end("stopped")

    def end(self, unfinished: str) -> None:
        for question in self.questions:
            self.events += question.end(unfinished)

    def fail(self, error: BaseException, begun: bool = True) -> None:
        """Ends the job. The error is raised after the events before it; unwrapped, if the job had not begun."""
        self.end("interrupted")
        outputs = [question.output for question in self.questions]
        if isinstance(error, KeyboardInterrupt):
            self.error = GenerationInterrupted(outputs)
        else:
            self.error = GenerationFailed(error, outputs) if begun else error
