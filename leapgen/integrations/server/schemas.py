"""Bodies of requests. A field that is not here is refused by its name; callables cannot be sent."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from leapgen.config import ROUTERS, SIMILARITIES, LeapConfig
from leapgen.options import did_you_mean

NAMED = {"router": Literal[ROUTERS], "similarity": Literal[SIMILARITIES]}
OWN_FIELDS = ("sampling_defaults", "stop_strings")  # said by fields of the body itself
MOST_ITEMS = 1024
LARGEST = 1 << 31

Count = Annotated[int, Field(ge=1, le=LARGEST)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, le=LARGEST)]], Field(min_length=1)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Zero = Annotated[float, Field(ge=0, le=0)]
Nothing = Annotated[list[Any], Field(max_length=0)]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


def _leap_fields() -> type[BaseModel]:
    """The fields of LeapConfig that JSON can hold, and how many paths."""
    hints = get_type_hints(LeapConfig)
    fields: dict[str, Any] = {field.name: (NAMED.get(field.name) or _as_json(hints[field.name]), None)
                              for field in dataclasses.fields(LeapConfig) if field.name not in OWN_FIELDS}
    return create_model("LeapFields", __base__=Body, __doc__="Fields of leapgen.LeapConfig, and the number of paths.",
                        paths=(Count, None), **fields)


def _as_json(hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        return Union[tuple(_as_json(kind) for kind in get_args(hint))]  # noqa: UP007
    if get_origin(hint) is tuple:
        return Annotated[list[_as_json(get_args(hint)[0])], Field(max_length=MOST_ITEMS)]  # type: ignore[misc]
    return Annotated[int, Field(ge=0, le=LARGEST)] if hint is int else hint


LeapFields: type[BaseModel] = _leap_fields()


class Part(Body):
    type: Literal["text"]
    text: str


class Message(Body):
    """``reasoning`` is accepted, so that an answer can be sent back as it came, and left out of the prompt."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part] | None = None
    name: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    tool_calls: Nothing | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @property
    def plain(self) -> dict[str, str]:
        """As chat templates take it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": self.text, **({"name": self.name} if self.name is not None else {})}


class StreamOptions(Body):
    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class ResponseFormat(Body):
    type: Literal["text"]


class Asking(Body):
    """What both kinds of completion take. Fields that change nothing are taken at the value that changes nothing."""

    model: str
    n: Annotated[int, Field(ge=1, le=LARGEST, description="choices to return, of the paths that are run")] = 1
    max_tokens: Annotated[int, Field(ge=1, le=LARGEST, description="of a path's reasoning")] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    min_p: float | None = None
    repetition_penalty: Annotated[float, Field(ge=0.1, le=10)] | None = None
    seed: Annotated[int, Field(description="drawn at random if not given; the response says which")] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    leap: LeapFields | None = None  # type: ignore[valid-type]
    user: str | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def budget(self) -> int | None:
        return self.max_tokens


class ChatRequest(Asking):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=LARGEST, description="the same as max_tokens")] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=0)] | None = None
    response_format: ResponseFormat | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None

    @property
    def budget(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> ChatRequest:
        last = self.messages[-1]
        if last.role != "user" or not last.text.strip():
            raise ValueError("messages must end with one of the user's that is not blank.")
        if self.max_tokens is not None and self.max_completion_tokens not in (None, self.max_tokens):
            raise ValueError("max_tokens and max_completion_tokens are one setting; give one of them.")
        return self


class CompletionRequest(Asking):
    prompt: Annotated[str, Field(min_length=1)] | Annotated[
        list[Annotated[str, Field(min_length=1)]], Field(min_length=1)] | TokenIds | Annotated[
        list[TokenIds], Field(min_length=1)]
    logprobs: Annotated[int, Field(ge=0, le=0, description="0 gives those of the tokens themselves")] | None = None
    echo: Literal[False] | None = None
    suffix: None = None


MODELS: dict[str, type[BaseModel]] = {"leap": LeapFields, "messages": Message, "stream_options": StreamOptions,
                                      "response_format": ResponseFormat, "content": Part}


def complaint(errors: Sequence[Any], body: type[BaseModel]) -> tuple[str, str | None, str | None]:
    """A sentence on the first of pydantic's errors, the field it is about, and a word for it."""
    names = [str(place) for place in errors[0]["loc"] if place != "body"]
    # A field of several kinds has an error for each, which follow one another; it is told of all of them.
    depth = next((place for place, name in enumerate(errors[0]["loc"]) if name in ("messages", "leap")), 1)
    depth += {"messages": 3, "leap": 2}.get(str(errors[0]["loc"][depth]) if len(errors[0]["loc"]) > depth else "", 1)
    alike = [one for one in errors if one["loc"][:depth] == errors[0]["loc"][:depth]]
    unknown = next((one for one in errors if one["type"] == "extra_forbidden"), None)
    if unknown is not None:
        path = [str(place) for place in unknown["loc"] if place != "body"]
        model = next((MODELS[name] for name in reversed(path[:-1]) if name in MODELS), body)
        hint = did_you_mean(path[-1], model.model_fields)
        return (f"unknown field {'.'.join(path)!r}{hint}: leapgen takes no field of that name, rather than ignore it.",
                ".".join(path), "unknown_parameter")
    if errors[0]["type"] in ("json_invalid", "missing", "model_attributes_type") and len(names) < 2:
        if errors[0]["type"] == "missing" and names:
            return f"{names[0]!r} is missing.", names[0], "missing_required_parameter"
        return "the body must be a JSON object, sent as application/json.", None, "invalid_json"
    said = " or ".join(dict.fromkeys(one["msg"].removeprefix("Value error, ") for one in alike))
    field = ".".join(str(place) for place in errors[0]["loc"][1:depth]) if len(alike) > 1 else ".".join(names)
    return f"{field + ': ' if field else ''}{said}", field or None, "invalid_value"
