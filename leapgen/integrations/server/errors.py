"""What is refused, in the shape that clients of OpenAI's interface know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class Refused(Exception):
    """A request that is not served, or not to its end.

    Args:
        parameter: the field it is about, ``leap.interval`` say.
        code: a word that a program can go by.
    """

    def __init__(self, status: int, message: str, parameter: str | None = None, code: str | None = None,
                 headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers
        self.parameter, self.code = parameter, code

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.parameter, "code": self.code}}

    @property
    def response(self) -> Response:
        return json_response(self.body, self.status, self.headers)


def json_response(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """ASCII: what a client sent may come back in a message, half of a surrogate pair too."""
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")
