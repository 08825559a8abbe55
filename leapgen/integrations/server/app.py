"""The routes: OpenAI's, those of runs, and those of whoever watches over the server."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from leapgen.integrations.server.access import Access
from leapgen.integrations.server.arguments import Asked, Served
from leapgen.integrations.server.completions import Completions
from leapgen.integrations.server.errors import Refused, json_response
from leapgen.integrations.server.schemas import ChatRequest, CompletionRequest, complaint
from leapgen.integrations.server.service import Service
from leapgen.integrations.server.streaming import Chunks
from leapgen.integrations.server.ticket import Ticket
from leapgen.version import __version__

REFRESH_SECONDS = 3  # of the page of a run that goes on
Result = TypeVar("Result")

_ERROR = {"content": {"application/json": {"schema": {
    "type": "object", "required": ["error"], "properties": {"error": {
        "type": "object", "required": ["message", "type", "param", "code"], "properties": {
            "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
            "code": {"type": ["string", "null"]}}}}}}}}
_JSON = {"application/json": {"schema": {"type": "object"}}}
_EVENTS = {"text/event-stream": {"itemSchema": {"type": "object", "properties": {"data": {"type": "string"}}}}}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meanings = {400: "a field or a value that is not allowed", 401: "no key, or a wrong one", 404: "not here",
                408: "the body has not come", 413: "the body is too large", 429: "too many wait",
                422: "a prompt that cannot be run, or more than the server gives", 500: "the run failed",
                503: "the server stops"}
    return {status: {"description": meanings[status], **_ERROR} for status in statuses}


def _answers(what: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": what, "content": {**_JSON, **_EVENTS}},
            **_refusals(400, 401, 404, 408, 413, 422, 429, 500, 503)}


class _Gone(Exception):
    """The client has."""


def create_app(served: Served) -> FastAPI:
    """The application; its service starts and ends with it.

    Serves by any ASGI server, with one process. ``app.state.service`` is the ``Service``.
    """
    service = Service(served)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.drain(0)
        while not service.ended:
            await asyncio.sleep(0.01)

    app = FastAPI(title="leapgen", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)  # these need a CDN
    app.state.service = service
    _add_errors(app)
    _add_completions(app, service)
    _add_runs(app, service)
    _add_state(app, service)
    app.add_middleware(Access, key=served.config.api_key or os.environ.get("LEAPGEN_API_KEY") or None,
                       most_bytes=served.config.max_body_bytes)
    app.add_middleware(service.metrics.counting)
    return app


def _add_completions(app: FastAPI, service: Service) -> None:
    async def answered(body: ChatRequest | CompletionRequest, request: Request) -> Response:
        ticket = Ticket(Asked.of(body, service.served))
        service.submit(ticket)
        streaming = False
        try:
            await _unless_gone(request.receive, ticket.accepted())
            completions = Completions(ticket, service.generator.tokenizer, ticket.run.endings)
            if ticket.asked.stream:
                streaming = True
                return _Events(service, ticket, Chunks(completions))
            outputs = await _unless_gone(request.receive, ticket.outputs())
            return json_response(completions.whole(outputs))
        except _Gone:
            return Response(status_code=499)
        finally:
            if not streaming:
                service.cancel(ticket)

    @app.post("/v1/chat/completions", responses=_answers("the answer, whole or as events"), response_class=Response)
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        """Runs ``leap.paths`` paths on a chat and returns ``n`` of them, the one that stands for the vote first."""
        return await answered(body, request)

    @app.post("/v1/completions", responses=_answers("the answer, whole or as events"), response_class=Response)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """The same behind a text, or behind token ids, as they are: without chat template and explanation."""
        return await answered(body, request)


def _add_runs(app: FastAPI, service: Service) -> None:
    @app.get("/v1/leap/runs/{run}.html", responses={
        200: {"description": "a page", "content": {"text/html": {"schema": {"type": "string"}}}},
        **_refusals(401, 404, 503)}, response_class=HTMLResponse)
    async def run_page(run: str) -> Response:
        """A run as a page to look at, also while it goes on."""
        output = await service.run(run)
        if output is None:
            raise _unknown(run)
        refresh = {} if output.finished or run in service.runs else {"Refresh": str(REFRESH_SECONDS)}
        return HTMLResponse(await asyncio.to_thread(output.to_html), headers=refresh)

    @app.get("/v1/leap/runs/{run}", responses={200: {"description": "the run", "content": _JSON},
                                               **_refusals(401, 404, 503)}, response_class=Response)
    async def run_json(run: str) -> Response:
        """A run as ``leapgen.LeapOutput.load`` reads it, also while it goes on."""
        output = await service.run(run)
        if output is None:
            raise _unknown(run)
        return json_response(output.to_dict())


def _add_state(app: FastAPI, service: Service) -> None:
    created = int(time.time())
    models = [{"id": name, "object": "model", "created": created, "owned_by": "leapgen"} for name in service.served.models]

    @app.get("/v1/models", responses={200: {"description": "the model and its baseline", "content": _JSON},
                                      **_refusals(401)}, response_class=Response)
    async def list_models() -> Response:
        return json_response({"object": "list", "data": models})

    @app.get("/v1/models/{model:path}", responses={200: {"description": "the model", "content": _JSON},
                                                   **_refusals(401, 404)}, response_class=Response)
    async def get_model(model: str) -> Response:
        found = next((one for one in models if one["id"] == model), None)
        if found is None:
            raise Refused(404, f"there is no model {model!r}.", "model", "model_not_found")
        return json_response(found)

    @app.get("/health", responses={200: {"description": "it serves", "content": _JSON},
                                   503: {"description": "it stops, or has stopped", "content": _JSON}},
             response_class=Response)
    async def health() -> Response:
        status = "ended" if service.ended else "draining" if service.draining else "ok"
        return json_response({"status": status, "running": len(service.running), "waiting": len(service.waiting)},
                             200 if status == "ok" else 503)

    @app.get("/metrics", responses={200: {"description": "for Prometheus",
                                          "content": {"text/plain": {"schema": {"type": "string"}}}}},
             response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_errors(app: FastAPI) -> None:
    """Every refusal in OpenAI's shape."""
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return error.response

    async def not_understood(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        body = ChatRequest if request.url.path.startswith("/v1/chat") else CompletionRequest
        return Refused(400, *complaint(error.errors(), body)).response

    async def not_served(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return Refused(error.status_code, f"{error.detail}.".replace("..", "."), headers=error.headers).response

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, not_understood)
    app.add_exception_handler(HTTPException, not_served)


def _unknown(run: str) -> Refused:
    return Refused(404, f"there is no run {run!r}; the newest are kept, by the ids of their responses.", None,
                   "run_not_found")


async def _unless_gone(receive: Receive, work: Awaitable[Result]) -> Result:
    """The work's result.

    Raises:
        _Gone: the client is gone before; the work is cancelled.
    """
    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _Gone
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await task


class _Events(StreamingResponse):
    """Server-sent events until they end or the client is gone; then the request is cancelled."""

    def __init__(self, service: Service, ticket: Ticket, chunks: Chunks) -> None:
        super().__init__(chunks.body(), media_type="text/event-stream",
                         headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._service, self._ticket = service, ticket

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with suppress(_Gone, OSError):
                await _unless_gone(receive, self.stream_response(send))
        finally:
            self._service.cancel(self._ticket)
