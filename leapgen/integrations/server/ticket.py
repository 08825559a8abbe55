"""One request on its way through the service: its events come from the service's thread into an event loop."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from leapgen.checkpoints import Checkpoints
from leapgen.integrations.server.arguments import Asked
from leapgen.record.events import OutputEvent, StreamEvent
from leapgen.record.run import LeapOutput
from leapgen.session import Run


class Ticket:
    """Made in an event loop, where ``accepted``, ``next`` and ``outputs`` are awaited; the service has the rest.

    ``id`` names the request; ``run_ids`` its runs, one for each prompt.
    """

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.id = ("chatcmpl-" if asked.chat else "cmpl-") + uuid.uuid4().hex
        several = len(asked.prompts) > 1
        self.run_ids = [f"{self.id}-{i}" if several else self.id for i in range(len(asked.prompts))]
        self.created, self.arrived = int(time.time()), time.monotonic()
        self.run: Run  # set when it is accepted, as the positions that it may come to need
        self.positions = 0
        self.checkpoints: Checkpoints | None = None
        self.cancelled = self.begun = False
        self._loop = asyncio.get_running_loop()
        self._accepted: asyncio.Future[None] = self._loop.create_future()
        self._accepted.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to see it
        self._events: asyncio.Queue[list[StreamEvent] | BaseException | None] = asyncio.Queue()

    # -- of the service's thread --------------------------------------------------------------------------------------

    def accept(self, run: Run) -> None:
        self.run, self.positions = run, run.most_positions
        self._call(lambda: None if self._accepted.done() else self._accepted.set_result(None))

    def put(self, events: list[StreamEvent]) -> None:
        """Hands events on; without streaming the outputs alone, which are all that is needed then."""
        if not self.asked.stream:
            events = [event for event in events if isinstance(event, OutputEvent)]
        if events:
            self._call(lambda: self._events.put_nowait(events))

    def close(self, error: BaseException | None = None) -> None:
        """Nothing more comes; or the error."""
        def told() -> None:
            if error is not None and not self._accepted.done():
                self._accepted.set_exception(error)
            self._events.put_nowait(error)

        self._call(told)

    def _call(self, function: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function)

    # -- of the event loop --------------------------------------------------------------------------------------------

    async def accepted(self) -> None:
        """Returns once the request is checked and waits for the engine.

        Raises:
            Refused: it is not served.
        """
        await self._accepted

    async def next(self) -> list[StreamEvent] | None:
        """The next events; None at the end.

        Raises:
            Refused: the run failed, or the server stops.
        """
        item = await self._events.get()
        if isinstance(item, BaseException):
            raise item
        return item

    async def outputs(self) -> list[LeapOutput]:
        """At the end, one for each prompt. Raises as ``next``."""
        found: dict[int, LeapOutput] = {}
        while (events := await self.next()) is not None:
            found.update((event.question, event.output) for event in events if isinstance(event, OutputEvent))
        return [found[question] for question in range(len(self.run_ids))]
