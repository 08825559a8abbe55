"""The server itself: uvicorn, which leaves signals to the command that runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import AF_INET, AF_INET6, create_server, socket

import uvicorn

from leapgen.integrations.server.app import create_app
from leapgen.integrations.server.arguments import Served


def listen(host: str, port: int) -> socket:
    """A socket that listens.

    Raises:
        OSError: the address is taken, or none of this machine's.
    """
    try:
        return create_server((host, port), family=AF_INET6 if ":" in host else AF_INET)
    except OSError as error:
        raise OSError(f"--host {host} --port {port}: {error.strerror or error}.") from error


class Server(uvicorn.Server):
    """Listens until it is stopped: gracefully the first time, and at once the second.

    Args:
        ready: called with the address once requests are served.
    """

    def __init__(self, served: Served, ready: Callable[[str], None] = lambda address: None) -> None:
        app = create_app(served)
        super().__init__(uvicorn.Config(app, served.config.host, served.config.port, log_config=None, access_log=False,
                                        h11_max_incomplete_event_size=1 << 16, timeout_graceful_shutdown=10))
        self.service, self._ready, self._grace = app.state.service, ready, served.config.grace

    def stop(self) -> None:
        """Takes no more requests; those that run have the time that the settings give them. Also for signal handlers."""
        self.service.drain(0.0 if self.service.draining else self._grace)

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self._ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        """Whether to end: it is not before every request has ended, so that until then it can say that it is stopping."""
        return await super().on_tick(counter) or self.service.ended

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
