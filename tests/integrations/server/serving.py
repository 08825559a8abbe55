"""A real uvicorn in this process, on a free port, and what tests ask of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from leapgen import LeapConfig, LeapGenerator
from leapgen.integrations.server.arguments import Served
from leapgen.integrations.server.config import ServerConfig
from leapgen.integrations.server.serving import Server
from leapgen.tasks.maze import MAZE_SETTINGS, MAZE_SHAPE, make_maze

MAZES = [make_maze(f"held-out/{number}", MAZE_SHAPE).question for number in range(10)]
LEAP = LeapConfig(**MAZE_SETTINGS)
PATHS = 4


def ask(question: str, **more) -> dict:
    """A chat's arguments, for the openai client or as a body."""
    return {"model": "maze", "messages": [{"role": "user", "content": question}], **more}


class Running:
    def __init__(self, server: Server, url: str) -> None:
        self.server, self.url, self.service = server, url, server.service
        self.generator: LeapGenerator = self.service.generator

    def rest(self, seconds: float = 5.0) -> float:
        """Waits until nothing is left of any request, and says how long that took."""
        began, engine = time.monotonic(), self.generator.engine
        while self.service.running or self.service.waiting or engine.pool.num_used:
            assert time.monotonic() - began < seconds, f"{engine.pool.num_used} pages are still in use"
            time.sleep(0.005)
        engine.check_integrity()
        return time.monotonic() - began

    def until(self, holds, seconds: float = 20.0) -> None:
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, "it has not come to that"
            time.sleep(0.002)


@contextmanager
def serving(generator: LeapGenerator, name: str = "maze", leap: LeapConfig = LEAP, sampling=None,
            **config) -> Iterator[Running]:
    addresses: list[str] = []
    served = Served(generator, name, leap, sampling or {}, ServerConfig(**{"port": 0, "paths": PATHS, **config}))
    server = Server(served, addresses.append)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not addresses:
        assert thread.is_alive(), "the server has not started"
        time.sleep(0.01)
    try:
        yield Running(server, addresses[0])
    finally:
        server.stop()
        server.stop()
        thread.join(30)
        assert not thread.is_alive(), "the server does not stop"
