"""What a server does not serve: refused by name, in OpenAI's shape, at once, with nothing left behind."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter

import httpx
import openai
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from serving import MAZES, ask, serving

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SHORT = {"max_tokens": 8, "leap": {"paths": 1, "interval": 4, "summary_tokens": 2, "forced_answer_tokens": 2}}


def refused(response: httpx.Response) -> tuple[int, str | None, str]:
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and error["type"]
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize(("changes", "status", "parameter", "words"), [
    ({"temprature": 1}, 400, "temprature", "did you mean temperature"),
    ({"leap": {"intervall": 3}}, 400, "leap.intervall", "did you mean interval"),
    ({"messages": [{"role": "user", "content": "a", "cache": 1}]}, 400, "messages.0.cache", "unknown field"),
    ({"leap": {"similarity": {"callable": "f"}}}, 400, "leap.similarity", "levenshtein"),
    ({"leap": {"router": "os.system"}}, 400, "leap.router", "dispersed"),
    ({"logits_processors": []}, 400, "logits_processors", "unknown field"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "equal to 0"),
    ({"top_logprobs": 3}, 400, "top_logprobs", "equal to 0"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format.type", "text"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "0 items"),
    ({"temperature": -1}, 400, "temperature", "temperature=-1.0 is not allowed: temperature must be 0 (greedy)"),
    ({"temperature": 0}, 400, "temperature", "all would be the same"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"top_p": 2}, 400, "top_p", "top_p must be in (0, 1]"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": True}, 400, "n", "integer"),
    ({"n": 3, "leap": {"paths": 2}}, 400, "n", "at most leap.paths=2"),
    ({"seed": -1}, 400, "seed", "0 .. 2**63 - 1"),
    ({"seed": 1 << 63}, 400, "seed", "0 .. 2**63 - 1"),
    ({"stop": [""]}, 400, "stop", "at least 1 character"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, None, "one setting"),
    ({"messages": []}, 400, "messages", "at least 1 item"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, None, "must end with one of the user's"),
    ({"messages": [{"role": "user", "content": "  "}]}, 400, None, "not blank"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages.0.role", "'user'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages.0.content", "'text'"),
    ({"messages": None}, 400, "messages", "list"),
    ({"model": "gpt-5"}, 404, "model", "this server has maze, maze:independent"),
    ({"model": "maze:independen"}, 404, "model", "there is no model"),
    ({"leap": {"paths": 9}}, 422, "leap.paths", "more than the 8"),
    ({"n": 9}, 422, "leap.paths", "more than the 8"),
    ({"max_tokens": 901}, 422, "max_tokens", "more than the 900"),
    ({"leap": {"summary_tokens": 1000}}, 422, "leap.summary_tokens", "more than the 900"),
    ({"max_tokens": 1}, 422, None, "no LeaP block would be held"),
    ({"leap": {"interval": 800, "max_new_tokens": 900}}, 422, None, "no LeaP block fits"),
    ({"messages": [{"role": "user", "content": "word " * 2000}]}, 422, None, "but the context is 1024"),
])
def test_what_is_not_allowed_is_refused_by_its_name(strict, changes, status, parameter, words):
    """Would catch: a field that is ignored, a refusal that does not say what is wrong, a 500 for a client's mistake."""
    response = httpx.post(strict.url + CHAT, json={**ask(MAZES[0]), **changes}, timeout=30)
    got, named, message = refused(response)
    assert got == status and words in message and (named == parameter or parameter is None), response.text


@pytest.fixture(scope="module")
def limited(maze32):
    with serving(maze32, max_paths=8, max_tokens=900, max_body_bytes=20_000) as server:
        yield server


@pytest.fixture
def strict(limited):
    limited.rest()
    yield limited
    limited.rest()


@pytest.mark.parametrize("changes", [
    {"prompt": ""}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [5, "a"]}, {"prompt": None}, {"echo": True},
    {"suffix": "a"}, {"best_of": 2}, {"logprobs": 5}, {"prompt": [-1]}, {"prompt": {"a": 1}}])
def test_a_text_completion_that_cannot_be_is_refused(strict, changes):
    """Would catch: echo or best_of taken and not done."""
    status, parameter, _ = refused(httpx.post(strict.url + TEXT, json={"model": "maze", "prompt": "a", **SHORT, **changes}))
    assert status == 400 and parameter.partition(".")[0] == next(iter(changes))


def test_a_token_that_the_model_has_not_is_refused(strict):
    """Would catch: an index out of the embedding, in a step that serves everybody."""
    status, _, message = refused(httpx.post(strict.url + TEXT, json={"model": "maze", "prompt": [1, 1 << 20], **SHORT}))
    assert status == 422 and "vocabulary" in message


@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b"{", b"\xff\xfe", b'"text"', b"[" * 15_000, b'{"a":' * 3_000, b"NaN",
    b'{"seed": ' + b"9" * 9_000 + b"}",
    b'{"model": "maze", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "\\ud800", "messages": [{"role": "user", "content": "a"}]}',
    b'{"\\ud800\\u0000": 1, "model": "maze", "messages": [{"role": "user", "content": "a"}]}',
    b'{"model": "maze", "messages": [{"role": "user", "content": "a"}], "temperature": NaN}',
    b'{"model": "maze", "messages": [{"role": "user", "content": "a"}], "top_p": 1e999}',
    b'{"model": "maze", "messages": [{"role": "user", "content": "a"}], "top_k": 1e30}',
    b'{"model": "maze", "messages": [{"role": "user", "content": "a"}], "leap": {"blocks": [' + b"1," * 3_000 + b"1]}}",
])
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_a_hostile_body_is_refused_in_words(strict, path, body):
    """Would catch: a crash while a body is read, or while what was in it is told back."""
    response = httpx.post(strict.url + path, content=body, headers={"Content-Type": "application/json"})
    assert refused(response)[0] in (400, 404, 422)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_page_of_another_site_cannot_post(strict, kind):
    """Would catch: a body that a browser sends to any address without asking first."""
    body = json.dumps(ask(MAZES[0])).encode()
    response = httpx.post(strict.url + CHAT, content=body, headers={"Content-Type": kind} if kind else {})
    assert refused(response)[0] == 400


def test_a_body_that_is_too_large_is_refused_before_it_is_read(strict):
    """Would catch: a body of any size in memory; one without a length that is taken."""
    assert refused(httpx.post(strict.url + CHAT, content=b" " * 20_001))[0] == 413
    assert refused(httpx.post(strict.url + CHAT, content=(b" " * 9_000 for _ in range(4))))[0] == 413
    host, port = strict.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\n\r\n")
        assert b" 413 " in connection.recv(1000).split(b"\r\n")[0]


def test_text_that_is_dear_to_encode_does_not_stop_the_others(maze32):
    """Would catch: a prompt of special tokens that keeps the thread busy which all others need."""
    with serving(maze32) as server:
        for text in ("<|end|>" * 140_000, "</think" * 140_000, "a" * 1_000_000, "\n" * 500_000):
            began = time.monotonic()
            assert refused(httpx.post(server.url + CHAT, json=ask(text), timeout=120))[0] in (400, 422)
            assert time.monotonic() - began < 20, text[:20]


@pytest.mark.parametrize("from_environment", [False, True])
def test_a_key_opens_what_is_under_v1_and_nothing_else_does(maze32, from_environment, monkeypatch):
    """Would catch: a route without the key, a prefix of it that opens, a key that is told."""
    key = "sk-Ünïcode-key"
    monkeypatch.setenv("LEAPGEN_API_KEY", key if from_environment else "another")
    with serving(maze32, api_key=None if from_environment else key) as server:
        headers = [{}, {"Authorization": "Bearer"}, {"Authorization": f"Bearer {key[:-1]}".encode()},
                   {"Authorization": key.encode()}, {"Authorization": "Basic ???"}, {"Authorization": b"Bearer another"}]
        for header in headers:
            for path in ("/v1/models", "/v1/leap/runs/a", "/v1/leap/runs/a.html", "/v1/nothing"):
                response = httpx.get(server.url + path, headers=header)
                assert refused(response)[0] == 401 and key not in response.text
            assert refused(httpx.post(server.url + CHAT, json=ask(MAZES[0]), headers=header))[0] == 401
        assert httpx.get(server.url + "/v1/models", headers={"Authorization": f"Bearer {key}".encode()}).status_code == 200
        assert httpx.get(server.url + "/v1/models", auth=httpx.BasicAuth("me", key)).status_code == 200
        assert httpx.get(server.url + "/health").status_code == httpx.get(server.url + "/metrics").status_code == 200
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong").models.list()


def test_errors_are_those_of_the_openai_client(strict):
    """Would catch: an error that the client cannot tell from others."""
    with openai.OpenAI(base_url=f"{strict.url}/v1", api_key="none", max_retries=0) as client:
        for changes, kind in (({"temperature": -1}, openai.BadRequestError), ({"model": "other"}, openai.NotFoundError),
                              ({"max_tokens": 901}, openai.UnprocessableEntityError)):
            with pytest.raises(kind) as caught:
                client.chat.completions.create(**{**ask(MAZES[0]), **changes})
            assert caught.value.code and caught.value.param == next(iter(changes))


def test_paths_that_are_not_there_are_told_in_the_same_shape(strict):
    """Would catch: a framework's own error page."""
    assert refused(httpx.get(strict.url + "/v1/embeddings"))[0] == 404
    assert refused(httpx.get(strict.url + CHAT))[0] == 405


def test_whatever_the_schema_allows_or_forbids_is_answered_as_the_schema_says(strict):
    """Would catch: a value within the schema that ends a step or the server; a field outside it that is taken; an answer
    that the schema does not tell of."""
    schema = schemathesis.openapi.from_url(f"{strict.url}/openapi.json")
    counts: Counter[int] = Counter()
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.method.upper() == "POST":
            for mode in GenerationMode:
                _answered(operation, mode, strict, counts)
    assert counts[200] and counts[400] > 50, counts


def _answered(operation, mode: GenerationMode, server, counts: Counter[int]) -> None:
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def each(case):
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):  # some of them are to be served
            some = case.body.get("leap") if counts.total() % 3 == 0 else None
            case.body |= {"model": "maze", "max_tokens": 8, "n": 1, "seed": 1, "leap": {**(some or {}), **SHORT["leap"]}}
            if counts.total() % 2:
                case.body |= {"temperature": 0.7, "top_p": 0.9, "min_p": 0.0}
            if case.path == CHAT:
                case.body["messages"] = [*case.body["messages"], {"role": "user", "content": "a"}]
                case.body.pop("max_completion_tokens", None)
        response = case.call(timeout=60)
        counts[response.status_code] += 1
        case.validate_response(response, checks=[
            not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
            negative_data_rejection])

    each()
