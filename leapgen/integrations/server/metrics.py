"""What the server tells Prometheus."""

from __future__ import annotations

import dataclasses

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leapgen.engine import Engine
from leapgen.record.ledger import Ledger

STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
LONG_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
COUNTED = [field.name for field in dataclasses.fields(Ledger) if field.name not in ("seconds", "pages_peak")]


class Metrics:
    """Counters of a registry of their own, so that several servers may live in a process."""

    def __init__(self, engine: Engine) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("leapgen_requests", "requests answered", ["route", "status"], registry=registry)
        self.running = Gauge("leapgen_requests_running", "requests on the engine", registry=registry)
        self.waiting = Gauge("leapgen_requests_waiting", "requests that wait for the engine", registry=registry)
        self.paths = Gauge("leapgen_paths_running", "paths of the requests on the engine", registry=registry)
        self.blocks = Counter("leapgen_blocks", "LeaP blocks held", registry=registry)
        self.failures = Counter("leapgen_failures", "requests that ended with an error of the run's", registry=registry)
        self.step_seconds = Histogram("leapgen_step_seconds", "an engine step", buckets=STEP_SECONDS, registry=registry)
        self.first_seconds = Histogram("leapgen_first_token_seconds", "from a request's arrival to its first token",
                                       buckets=LONG_SECONDS, registry=registry)
        self.request_seconds = Histogram("leapgen_request_seconds", "from a request's arrival to its end",
                                         buckets=LONG_SECONDS, registry=registry)
        self._counts = Counter("leapgen_ledger", "the ledgers of ended requests, added up (leapgen.Ledger)", ["count"],
                               registry=registry)
        for name, value in (("used", lambda: engine.pool.num_used), ("total", lambda: engine.pool.num_pages)):
            Gauge(f"leapgen_pages_{name}", f"KV pages, {name}", registry=registry).set_function(value)

    def ended(self, ledger: Ledger) -> None:
        """Adds what a question has cost."""
        for name in COUNTED:
            self._counts.labels(name).inc(getattr(ledger, name))

    def counting(self, app: ASGIApp) -> ASGIApp:
        """The application, with its responses counted by route and status."""
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def seen(message: Message) -> None:
                if message["type"] == "http.response.start":
                    path = getattr(scope.get("route"), "path", "none")
                    self.requests.labels(path, str(message["status"])).inc()
                await send(message)

            await app(scope, receive, seen if scope["type"] == "http" else send)

        return counted

    def text(self) -> bytes:
        """In Prometheus' own format."""
        return generate_latest(self._registry)
