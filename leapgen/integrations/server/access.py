"""What stands before every request: its size, and the key it must show. Plain ASGI, so that disconnects go through."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from leapgen.integrations.server.errors import Refused

BODY_SECONDS = 30.0  # a body must have come by then


class Access:
    """Refuses a request under /v1 without the key (401), and any whose body is too large (413) or does not come (408).

    Args:
        key: None serves anybody.
        most_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, key: str | None, most_bytes: int) -> None:
        self._app, self._key, self._most = app, key, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        try:
            if self._key is not None and scope["path"].startswith("/v1") and not self._shown(
                    headers.get(b"authorization", b""), self._key):
                raise Refused(401, "this server asks for an API key: Authorization: Bearer KEY.", None, "invalid_api_key",
                              {"WWW-Authenticate": 'Basic realm="leapgen", charset="UTF-8"'})
            body = await self._body(headers.get(b"content-length", b""), receive)
        except Refused as refused:
            return await refused.response(scope, receive, send)
        if body is None:  # gone
            return
        told = False

        async def replay() -> Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    @staticmethod
    def _shown(header: bytes, key: str) -> bool:
        """Whether the header has the key: as a bearer's, or as the password of a browser's prompt."""
        kind, _, shown = header.partition(b" ")
        if kind.lower() == b"basic":
            try:
                shown = base64.b64decode(shown, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() != b"bearer":
            return False
        return hmac.compare_digest(shown.strip(), key.encode())

    async def _body(self, length: bytes, receive: Receive) -> bytes | None:
        too_large = Refused(413, f"the body is larger than the {self._most} bytes that this server takes.", None,
                            "body_too_large")
        if length.isdigit() and int(length[:20]) > self._most:
            raise too_large

        async def read() -> bytes | None:
            parts, size = [], 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > self._most:
                    raise too_large
                if not message.get("more_body", False):
                    return b"".join(parts)

        try:
            return await asyncio.wait_for(read(), BODY_SECONDS)
        except asyncio.TimeoutError:
            raise Refused(408, f"the body has not come within {BODY_SECONDS:.0f} seconds.") from None
