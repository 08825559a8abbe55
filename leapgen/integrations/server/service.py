"""One thread that owns the generator: it admits requests, steps the engine for all of them, and hands events out."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

from jinja2.exceptions import TemplateError

from leapgen.checkpoints import Checkpoints
from leapgen.engine import ModelChangedError, UnsupportedModelError
from leapgen.integrations.server.arguments import Served
from leapgen.integrations.server.errors import Refused
from leapgen.integrations.server.metrics import Metrics
from leapgen.integrations.server.runs import Runs
from leapgen.integrations.server.ticket import Ticket
from leapgen.record.events import BlockEvent, OutputEvent, StreamEvent, TokenEvent
from leapgen.record.run import LeapOutput

SHARE = 2.0  # of the pool's positions that running requests may come to need: paths seldom use up their budgets
Found = TypeVar("Found")
log = logging.getLogger(__name__)


class Service:
    """Requests of any thread, worked on by one: captured graphs and compiled code belong to a thread.

    A request is checked when it comes, waits its turn, and enters the engine while others run. ``submit``, ``cancel``,
    ``drain`` and ``ask`` may be called from anywhere, a signal handler too; what they ask for happens between two steps.
    """

    def __init__(self, served: Served) -> None:
        self.served, self.generator, self.config = served, served.generator, served.config
        self.metrics, self.runs = Metrics(self.generator.engine), Runs(self.config.keep_runs)
        self.running: list[Ticket] = []
        self.waiting: deque[Ticket] = deque()
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._submitted = 0  # requests in the inbox
        self._door = threading.RLock()  # a signal handler may call while its own thread has it
        self._closed = False  # nobody reads the inbox any more
        self._deadline: float | None = None  # set once it is to stop
        self._thread = threading.Thread(target=self._work, name="leapgen-service", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether the thread has stopped working, as it was asked to or not."""
        return not self._thread.is_alive()

    @property
    def draining(self) -> bool:
        return self._deadline is not None

    # -- from any thread ----------------------------------------------------------------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Raises:
            Refused: too many wait already, or the server stops.
        """
        with self._door:
            if self.draining:
                raise self._stopping()
            idle = max(self.config.running - len(self.running), 0)
            if len(self.waiting) + self._submitted >= self.config.waiting + idle:
                raise Refused(429, f"{len(self.waiting)} requests wait already; try again later.", None, "queue_full",
                              {"Retry-After": str(self._patience())})
            self._send(lambda: self._check(ticket))
            self._submitted += 1

    def cancel(self, ticket: Ticket) -> None:
        """Whoever asked is gone: the request's pages are freed before the next step. Allowed at any time."""
        ticket.cancelled = True
        with suppress(Refused):
            self._send(lambda: self._drop(ticket))

    def drain(self, grace: float) -> None:
        """Takes no more requests and ends; what runs after ``grace`` seconds is stopped and saved."""
        deadline = time.monotonic() + grace
        self._deadline = deadline if self._deadline is None else min(self._deadline, deadline)
        self._inbox.put(lambda: None)

    async def ask(self, question: Callable[[], Found]) -> Found:
        """What a function says when it is called between two steps.

        Raises:
            Refused: the thread has ended.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Found] = loop.create_future()

        def asked() -> None:
            try:
                found = question()
            except Exception as error:
                loop.call_soon_threadsafe(answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(answer.set_result, found)

        self._send(asked)
        return await answer

    def _send(self, message: Callable[[], None]) -> None:
        with self._door:
            if self._closed:
                raise self._stopping()
            self._inbox.put(message)

    async def run(self, run: str) -> LeapOutput | None:
        """A run by its id, as it stands."""
        kept = await asyncio.to_thread(self.runs.get, run)
        if kept is not None:
            return await asyncio.to_thread(LeapOutput.from_dict, dict(kept))
        return None if self._closed else await self.ask(lambda: self._live(run))

    # -- of the thread ------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not (self.draining and not self.running and not self.waiting and self._inbox.empty()):
                self._read()
                self._admit()
                self._step()
        except BaseException:
            log.exception("the service has ended")
        finally:
            with self._door:
                self._closed = True
            for ticket in [*self.running, *self.waiting]:
                self._close(ticket, self._stopping())
            while not self._inbox.empty():
                self._inbox.get()()

    def _read(self) -> None:
        """Does what was asked for; waits for something to do where nothing runs."""
        try:
            self._inbox.get(block=not self.running and not self.waiting)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _check(self, ticket: Ticket) -> None:
        try:
            if self.draining or self._closed:
                raise self._stopping()
            run = ticket.asked.run(self.generator)
        except Exception as error:
            ticket.close(self._refusal(error))
        else:
            ticket.accept(run)
            self.waiting.append(ticket)
        finally:
            with self._door:
                self._submitted -= 1
        if ticket.cancelled:
            self._drop(ticket)

    @staticmethod
    def _refusal(error: Exception) -> Refused:
        """Of a request that cannot be begun."""
        if isinstance(error, Refused):
            return error
        if isinstance(error, (ValueError, TypeError, TemplateError)) and not isinstance(error, UnsupportedModelError):
            return Refused(422, str(error), None, "cannot_be_run")
        if not isinstance(error, (ModelChangedError, UnsupportedModelError)):
            log.error("a request could not be begun", exc_info=error)
        return Refused(500, f"{type(error).__name__}: {error}", None, "failed")

    def _admit(self) -> None:
        """First come, first served: the next enters once the pool has a fair chance to hold it beside the others."""
        if self.draining:
            while self.waiting:
                self._close(self.waiting[0], self._stopping())
        pool = self.generator.engine.pool
        while self.waiting and len(self.running) < self.config.running:
            ticket = self.waiting[0]
            needed = ticket.positions + sum(other.positions for other in self.running)
            if self.running and needed > SHARE * pool.num_pages * pool.page_size:
                return
            self.running.append(self.waiting.popleft())
            ticket.run.begin()
            if self.config.checkpoint:
                self._save(ticket)
            self._deliver(ticket)
            self._gauge()

    def _step(self) -> None:
        if self._deadline is not None and time.monotonic() >= self._deadline:
            for ticket in self.running:
                ticket.run.stop()
        began = time.perf_counter()
        if self.generator.step():
            self.metrics.step_seconds.observe(time.perf_counter() - began)
        for ticket in self.running[:]:
            self._deliver(ticket)

    def _deliver(self, ticket: Ticket) -> None:
        """Hands on what a step brought a request; ends it where that was all."""
        error = None
        try:
            events = ticket.run.take()
        except Exception as failure:
            self.metrics.failures.inc()
            log.warning("request %s failed: %s", ticket.id, failure)
            return self._close(ticket, Refused(500, f"the run failed: {failure}", None, "run_failed"))
        self._note(ticket, events)
        stopped = [event.question for event in events if isinstance(event, OutputEvent)
                   and self.draining and not event.output.finished]
        if stopped:  # saved before it is told of
            files = self._save(ticket)
            how = [f"leapgen resume {files[question]}" for question in stopped] if files else ["it could not be saved"]
            error = Refused(503, f"the server stops in the middle of the run: {'; '.join(how)}", None, "stopped")
        elif events:
            ticket.put(events)
        if ticket.run.ended or error:
            self._close(ticket, error)

    def _note(self, ticket: Ticket, events: list[StreamEvent]) -> None:
        for event in events:
            if isinstance(event, OutputEvent):
                self.metrics.ended(event.output.ledger)
                self.runs.add(ticket.run_ids[event.question], event.output)
            elif isinstance(event, BlockEvent):
                self.metrics.blocks.inc()
            elif isinstance(event, TokenEvent) and not ticket.begun:
                ticket.begun = True
                self.metrics.first_seconds.observe(time.monotonic() - ticket.arrived)
            if ticket.checkpoints is not None:
                ticket.checkpoints.update(event)

    def _save(self, ticket: Ticket) -> list[Path]:
        """Saves a request's runs as they stand; their files, none if that fails."""
        folder = Path(self.config.save).absolute()
        files = [folder / f"{run}.json" for run in ticket.run_ids]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if ticket.checkpoints is None:
                ticket.checkpoints = Checkpoints(ticket.run, files)
            else:
                ticket.checkpoints.finish()
        except OSError as error:
            log.error("request %s is not saved: %s", ticket.id, error)
            return []
        return files

    def _drop(self, ticket: Ticket) -> None:
        if ticket in self.running or ticket in self.waiting:
            self._close(ticket)

    def _close(self, ticket: Ticket, error: Refused | None = None) -> None:
        """Ends a request. Its files stay if they are to be gone on with."""
        (self.running if ticket in self.running else self.waiting).remove(ticket)
        ticket.run.close()
        if ticket.checkpoints is not None and (error is None or error.code != "stopped"):
            for run in ticket.run_ids:
                (Path(self.config.save) / f"{run}.json").unlink(missing_ok=True)
        self.metrics.request_seconds.observe(time.monotonic() - ticket.arrived)
        self._gauge()
        ticket.close(error)

    def _live(self, run: str) -> LeapOutput | None:
        for ticket in [*self.running, *self.waiting]:
            if run in ticket.run_ids:
                return ticket.run.output(ticket.run_ids.index(run))
        return None

    def _gauge(self) -> None:
        self.metrics.running.set(len(self.running))
        self.metrics.waiting.set(len(self.waiting))
        self.metrics.paths.set(sum(ticket.asked.paths * len(ticket.run_ids) for ticket in self.running))

    def _patience(self) -> int:
        """Seconds until one of those who wait is likely to enter, from how long those on the engine have been at it."""
        since = [time.monotonic() - ticket.arrived for ticket in list(self.running)]
        return max(math.ceil(max(since, default=1.0) / max(len(since), 1)), 1)

    @staticmethod
    def _stopping() -> Refused:
        return Refused(503, "the server stops.", None, "stopping", {"Retry-After": "10"})
