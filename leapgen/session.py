"""One loop for all runs on an engine: a thread that waits for an event steps the engine, for all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import ExitStack, contextmanager

from transformers import PreTrainedModel

from leapgen.engine import Engine, Event, Sequence
from leapgen.engine.model.support import eval_mode
from leapgen.failures import GenerationInterrupted
from leapgen.interrupts import Deferred
from leapgen.job import Job, Question
from leapgen.protocol.budget import most_positions
from leapgen.protocol.endings import Endings
from leapgen.record.events import StreamEvent
from leapgen.record.run import LeapOutput
from leapgen.stopping import Condition


class Run(Iterator[StreamEvent]):
    """The questions of one call while they are worked on: an iterator of events in the order they happened.

    Asking any run of a generator for events moves the paths of all its runs; which run is asked does not change a token.
    ``stop`` ends a run with an output event for each question, ``close`` without events. The end of a ``with`` block closes
    a run, and so does its deletion.
    """

    def __init__(self, session: Session, job: Job) -> None:
        self._session, self._job, self._closed = session, job, False

    def __next__(self) -> StreamEvent:
        """The next event.

        Raises:
            GenerationFailed: an error during the run; carries the outputs so far.
            GenerationInterrupted: Ctrl-C; carries the outputs so far.
        """
        job = self._job
        if self._closed:
            raise StopIteration
        try:
            while not self.ready:
                self._session.advance(job)
        except KeyboardInterrupt as interrupt:
            self.close()
            raise GenerationInterrupted(self.outputs()) from interrupt
        if job.events:
            return job.events.popleft()
        error, job.error = job.error, None
        if error is not None:
            raise error
        raise StopIteration

    @property
    def ready(self) -> bool:
        """Whether ``next`` needs no step: there is an event, or an error, or nothing more comes."""
        return self._closed or self._job.served

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: no event, no error."""
        return self._closed or (self._job.ended and not self._job.events and self._job.error is None)

    @property
    def endings(self) -> Endings:
        """What ends the reasoning and the answers of its paths."""
        return self._job.questions[0].group.speaker.endings

    @property
    def most_positions(self) -> int:
        """Positions of the KV pool that its paths may come to hold at most."""
        return sum(most_positions(question.group.speaker, len(question.group.paths)) for question in self._job.questions)

    def begin(self) -> None:
        """Enters the engine now, and not when the first event is asked for. An error comes in place of the events."""
        if not self._closed:
            self._session.begin(self._job)

    def take(self) -> list[StreamEvent]:
        """The events that are there, without a step.

        Raises:
            GenerationFailed: there are none, and an error stands in their place.
        """
        job, events = self._job, list[StreamEvent]()
        while job.events and not self._closed:
            events.append(job.events.popleft())
        if not events and job.error is not None and not self._closed:
            error, job.error = job.error, None
            raise error
        return events

    def __len__(self) -> int:
        """How many questions there are."""
        return len(self._job.questions)

    def outputs(self) -> list[LeapOutput]:
        """Each question's output as it stands now; those not finished can be saved and resumed."""
        return [self.output(question) for question in range(len(self))]

    def output(self, question: int) -> LeapOutput:
        """One question's output as it stands now."""
        asked = self._job.questions[question]
        if asked.open:
            with self._session.turn():
                asked.fill("interrupted")
        return asked.output

    def stop(self) -> None:
        """Lets the run end with its next events: an ``OutputEvent`` for each question, with what it has so far."""
        self._job.ending = "stopped"

    def close(self) -> None:
        """Ends the run and frees what it holds; no more events follow. Closing twice is allowed."""
        self._closed = True
        if not self._job.ended:
            self._job.ending = "interrupted"
            self._session.settle(self._job)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class Session:
    """Jobs on one engine, from any number of threads, each as if it were alone.

    The session has no thread of its own. A thread that waits for an event of its job takes its turn and steps the engine
    once, for all jobs; the other threads find their events when they look. A thread may as well ``begin`` jobs and ``step``
    for all of them, as a server's does. A step is finished before a signal is handled, so that an interrupted run stands
    between two tokens and the others go on.
    """

    def __init__(self, model: PreTrainedModel, engine: Engine) -> None:
        self._model, self._engine = model, engine
        self._jobs: list[Job] = []
        self._homes: dict[object, tuple[Job, Question]] = {}  # of paths
        self._changed = threading.Condition()
        self._owner: int | None = None  # the thread whose turn it is
        self._eval = ExitStack()

    def run(self, questions: SequenceOf[Question], until: Condition | None = None) -> Run:
        """A run that begins when its first event is asked for."""
        return Run(self, Job(questions, until))

    @contextmanager
    def turn(self, needless: Callable[[], bool] = bool) -> Iterator[bool]:
        """The right to use engine and tokenizer. Waits for it, until ``needless()``; yields whether it was granted.

        Raises:
            RuntimeError: the thread is in the middle of a step.
        """
        me, got = threading.get_ident(), False
        if self._owner == me:
            raise RuntimeError("this generator is in the middle of a step: what a step calls (a router, a similarity, a "
                               "logits processor, a stop condition) cannot use it. Give it a LeapGenerator of its own.")
        with Deferred() as signals:
            try:
                with self._changed:
                    while self._owner is not None and not needless() and not signals.arrived:
                        self._changed.wait()
                    if self._owner is None and not signals.arrived:
                        self._owner, got = me, True
                yield got
            finally:
                if got:
                    self._release()

    def _release(self) -> None:
        with self._changed:
            self._owner = None
            self._settle()
            self._changed.notify_all()

    def settle(self, job: Job) -> None:
        """Ends a job that was asked to end: now, or at the end of the turn that another thread has."""
        with self._changed:
            if job.ending is not None and job not in self._jobs:
                job.end(job.ending)
            elif self._owner is None:
                self._settle()

    def _settle(self) -> None:
        for job in self._jobs:
            if job.ending is not None:
                job.end(job.ending)
        if any(job.ended for job in self._jobs):
            self._jobs = [job for job in self._jobs if not job.ended]
            self._homes = {path: home for path, home in self._homes.items() if not home[0].ended}
            if not self._jobs:
                self._eval.close()

    def advance(self, job: Job) -> None:
        """Steps the engine once, unless another thread's turn serves the job first."""
        with self.turn(needless=lambda: job.served) as got:
            if not got or job.served:
                return
            if job not in self._jobs:
                self._admit(job)
            elif not job.ending:
                self._step()

    def begin(self, job: Job) -> None:
        """Enters a job's paths into the engine, if they have not been there yet."""
        with self.turn(needless=lambda: job.ended) as got:
            if got and not job.ended and job not in self._jobs:
                self._admit(job)

    def step(self) -> bool:
        """Steps the engine once, for all jobs that have begun; False where there is none."""
        with self.turn() as got:
            if got and self._jobs:
                self._step()
                return True
        return False

    def _admit(self, job: Job) -> None:
        with self._changed:  # another thread closes it before this or after it
            if job.ending is not None:
                return job.end(job.ending)
            if not self._jobs:
                self._eval.enter_context(eval_mode(self._model))
            self._jobs.append(job)
            self._homes |= {path: (job, question) for question in job.questions for path in question.group.paths}
        try:
            job.start()
        except BaseException as error:
            job.fail(error, begun=False)

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except BaseException as error:  # no sequence has changed
            concerned: Sequence | None = getattr(error, "sequence", None)
            for job in self._jobs if concerned is None else [self._homes[concerned.owner][0]]:
                job.fail(error)
            return
        questions: dict[tuple[Job, Question], list[Event]] = {}
        for event in events:
            questions.setdefault(self._homes[event.sequence.owner], []).append(event)
        for (job, question), own in questions.items():
            if question.open:
                try:
                    job.handle(question, own)
                except BaseException as error:
                    job.fail(error)
        if not events and not self._engine.last_step:
            for job in self._jobs:
                job.fail(RuntimeError("no path can go on, and not all have ended"))
