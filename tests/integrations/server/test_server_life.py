"""Requests that come, wait, fail and vanish on a server that lives on: pages go back, others notice nothing."""

from __future__ import annotations

import gc
import json
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import openai
import psutil
import pytest
from serving import LEAP, MAZES, PATHS, ask, serving

from leapgen import LeapGenerator, LeapOutput

LONG = {"leap": {"ignore_eos": True, "max_new_tokens": 700, "interval": 72}}  # seconds of work


def long(question: str = MAZES[0], **more) -> dict:
    return ask(question, **{**LONG, **more})


@contextmanager
def posted(url: str, body: dict):
    """A request that is under way, on a connection of its own; left early, the connection is closed."""
    client = httpx.Client(timeout=60)
    answers: list[httpx.Response] = []

    def post() -> None:
        with suppress(httpx.HTTPError, RuntimeError, OSError):
            answers.append(client.post(f"{url}/v1/chat/completions", json=body))

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    try:
        yield answers
        thread.join(60)
    finally:
        for connection in client._transport._pool.connections:
            stream = getattr(connection._connection, "_network_stream", None)
            if stream is not None:
                stream.get_extra_info("socket").shutdown(2)
        client.close()


class Left(Exception):
    pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("tokens", [0, 30])
def test_a_client_that_disappears_frees_its_pages_and_nobody_elses(server, client, stream, tokens):
    """Would catch: a request that runs to its end for nobody, also where nothing is streamed; pages kept for it; another's
    run that ends with it."""
    with posted(server.url, ask(MAZES[1], seed=1, n=PATHS, return_token_ids=True)) as others:
        try:
            with posted(server.url, long(stream=stream)):
                server.until(lambda: any(
                    ticket.asked.leap.ignore_eos and ticket.run.output(0).ledger.decoded >= tokens
                    for ticket in list(server.service.running)))
                raise Left
        except Left:
            began = time.monotonic()
        server.until(lambda: not any(ticket.asked.leap.ignore_eos for ticket in list(server.service.running)))
        assert time.monotonic() - began < 2
    choices = others[0].json()["choices"]
    expected = server.generator.generate(MAZES[1], PATHS, leap=LEAP, seed=1)
    assert [choice["token_ids"] for choice in choices] == [
        path.token_ids[len(path.segments[0].token_ids):] for path in expected.paths]
    server.rest(2)


def test_a_client_that_disappears_while_it_waits_leaves_the_queue(maze32):
    """Would catch: work begun for a client that left before its turn."""
    with serving(maze32, running=1) as server, posted(server.url, long()) as first:
        server.until(lambda: server.service.running)
        for stream in (False, True):
            try:
                with posted(server.url, long(stream=stream)):
                    server.until(lambda: server.service.waiting)
                    raise Left
            except Left:
                server.until(lambda: not server.service.waiting, 2)
        assert len(server.service.running) == 1
        server.service.cancel(server.service.running[0])
        server.rest()
    assert not first or first[0].status_code >= 400


class Poisoned:
    """A generator whose paths find no token to draw, or meet a processor that raises, where the question says so."""

    def __init__(self, generator: LeapGenerator) -> None:
        self._generator, self.stream_as = generator, generator.stream

    def stream(self, prompts, *arguments, sampling, **options):
        question = str(prompts)

        def processor(input_ids, scores):
            if "raise" in question and input_ids.shape[1] % 20 == 0:
                raise ZeroDivisionError("user code")
            return scores * float("nan") if input_ids.shape[1] % 20 == 0 else scores

        if "poison" in question:
            sampling = sampling.replace(logits_processors=(processor,))
        return self.stream_as(prompts, *arguments, sampling=sampling, **options)


@pytest.fixture
def poisoned(server, monkeypatch):
    monkeypatch.setattr(server.generator, "stream", Poisoned(server.generator).stream)
    return server


@pytest.mark.parametrize("how", ["poison", "poison and raise"])
def test_a_failing_request_fails_alone(poisoned, client, how):
    """Would catch: NaN in one request's logits that ends everybody's; an error told as an answer; a server that is dead
    afterwards."""
    with posted(poisoned.url, ask(MAZES[1], seed=1, n=PATHS, return_token_ids=True)) as others:
        poisoned.until(lambda: poisoned.service.running)
        with pytest.raises(openai.InternalServerError, match=r"the run failed.*(non-finite|user code)"):
            client.chat.completions.create(**ask(how, seed=1))
        chunks = client.chat.completions.create(**ask(how, seed=1, n=PATHS, stream=True))
        with pytest.raises(openai.APIError, match="the run failed"):
            for chunk in chunks:
                assert not chunk.choices or chunk.choices[0].finish_reason is None
    expected = poisoned.generator.generate(MAZES[1], PATHS, leap=LEAP, seed=1)
    assert [choice["token_ids"] for choice in others[0].json()["choices"]] == [
        path.token_ids[len(path.segments[0].token_ids):] for path in expected.paths]
    assert httpx.get(f"{poisoned.url}/health").status_code == 200
    poisoned.rest(2)


def test_the_queue_has_an_end_and_says_when_to_come_back(maze32):
    """Would catch: requests that pile up without a bound; a 429 that no client can go by; a queue that is not in order."""
    with serving(maze32, running=1, waiting=2) as server:
        url, done = f"{server.url}/v1/chat/completions", []
        with httpx.Client(timeout=60) as client:
            with client.stream("POST", url, json=long(stream=True)) as first:
                lines = first.iter_lines()
                next(lines)

                def wait(number: int) -> None:
                    assert client.post(url, json=ask(MAZES[number], max_tokens=40)).status_code == 200
                    done.append(number)

                threads = [threading.Thread(target=wait, args=(number,)) for number in (1, 2)]
                for count, thread in enumerate(threads, 1):
                    thread.start()
                    server.until(lambda count=count: len(server.service.waiting) == count)
                refused = client.post(url, json=ask(MAZES[3]))
                assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
                error = refused.json()["error"]
                assert error["type"] == "rate_limit_error" and error["code"] == "queue_full"
                assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "running": 1, "waiting": 2}
            for thread in threads:  # the first has gone
                thread.join(60)
            assert done == [1, 2]
        server.rest()


def test_a_request_waits_while_those_before_it_may_need_the_pool(maze32):
    """Would catch: groups that are let in together, and throw each other's pages out by turns."""
    generator = LeapGenerator(maze32.model, maze32.tokenizer, engine=maze32.engine.config.replace(kv_cache_bytes=12 << 20))
    leap = {"ignore_eos": True, "max_new_tokens": 100, "interval": 50}
    with serving(generator) as server:
        pool, seen = generator.engine.pool, []
        with ExitStack() as requests:
            for number in range(4):
                requests.enter_context(posted(server.url, ask(MAZES[number], leap=leap)))
            server.until(lambda: len(server.service.running) + len(server.service.waiting) == 4)
            while server.service.running or server.service.waiting:
                seen.append([ticket.positions for ticket in list(server.service.running)])
                time.sleep(0.005)
        assert max(map(len, seen)) == 2 and max(map(sum, seen)) <= 2 * pool.num_pages * pool.page_size
        server.rest()


def test_five_hundred_requests_leave_nothing_behind(maze32):
    """Would catch: a page, a run, a ticket or a task kept for each request, which a server has after a week."""
    with serving(maze32, waiting=64, keep_runs=20, max_paths=8) as server:
        url, process, sizes, statuses = f"{server.url}/v1/chat/completions", psutil.Process(), [], []
        leap = {"paths": 2, "interval": 4, "summary_tokens": 4, "forced_answer_tokens": 2, "written_answer_tokens": 2}

        def work(first: int) -> None:
            with httpx.Client(timeout=60) as client:
                for number in range(first, first + 25):
                    body = ask(f"Hm, {number % 10}?", max_tokens=8, seed=number, stream=number % 3 == 0, leap=leap)
                    if number % 25 == 7:  # this one does not wait for its answer
                        with client.stream("POST", url, json={**body, "stream": True}) as response:
                            statuses.append(response.status_code)
                    else:
                        statuses.append(client.post(url, json=body).status_code)

        for half in range(2):
            threads = [threading.Thread(target=work, args=(half * 250 + first * 25,)) for first in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            server.rest()
            gc.collect()
            sizes.append(process.memory_info().rss)
        assert statuses == [200] * 500
        assert len(server.service.runs) == 20 and server.generator.engine.pool.num_used == 0
        assert sizes[1] - sizes[0] < 40 << 20, sizes
        assert not server.generator._session._jobs and not server.generator._session._homes


def test_a_stop_lets_short_requests_end_and_saves_the_long_ones(maze32, tmp_path):
    """Would catch: answers lost that were seconds away; a run that cannot be resumed; a request taken after the stop."""
    with serving(maze32, grace=1.5, save=str(tmp_path / "saved"), running=3) as server:
        with posted(server.url, long(seed=3)) as whole, posted(server.url, long(MAZES[1], seed=4, stream=True)) as stream, \
                posted(server.url, ask(MAZES[2], max_tokens=30)) as short:
            server.until(lambda: len(server.service.running) == 3)
            with posted(server.url, ask(MAZES[3])) as waiting:
                server.until(lambda: server.service.waiting)
                server.server.stop()
                server.until(lambda: server.service.draining)
            assert waiting[0].status_code == 503 and waiting[0].headers["retry-after"]
            assert httpx.get(f"{server.url}/health").json()["status"] == "draining"
            late = httpx.post(f"{server.url}/v1/chat/completions", json=ask(MAZES[0]))
            assert late.status_code == 503
        assert short[0].status_code == 200
        error = whole[0].json()["error"]
        assert whole[0].status_code == 503 and error["code"] == "stopped"
        lines = [line for line in stream[0].text.splitlines() if line]
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "stopped" and lines[-1] == "data: [DONE]"
        server.until(lambda: not server.server.started or server.service.ended)
    files = {file.name for file in (tmp_path / "saved").iterdir()}
    assert len(files) == 2 and error["message"].split()[-1].rpartition("/")[2] in files
    for file in (tmp_path / "saved").iterdir():
        part = LeapOutput.load(file)
        rest = maze32.resume(file)
        expected = maze32.generate(part.question, PATHS, seed=part.seed, leap=LEAP.replace(**LONG["leap"]))
        assert not part.finished and part.ledger.decoded > 30
        assert [path.token_ids for path in rest.paths] == [path.token_ids for path in expected.paths]


def test_a_run_that_the_disk_has_no_place_for_is_still_answered(maze32, tmp_path):
    """Would catch: a full disk that ends requests, or a stop."""
    (tmp_path / "file").write_text("")
    with serving(maze32, save=str(tmp_path / "file" / "runs"), checkpoint=True, grace=0) as server:
        response = httpx.post(f"{server.url}/v1/chat/completions", json=ask(MAZES[0], max_tokens=30))
        assert response.status_code == 200
        with posted(server.url, long()) as lost:
            server.until(lambda: server.service.running)
            server.server.stop()
        assert "could not be saved" in lost[0].json()["error"]["message"]


def test_checkpoints_go_when_their_runs_have_ended(maze32, tmp_path):
    """Would catch: a disk that fills with runs that nobody needs; nothing on it while a run goes on."""
    with serving(maze32, save=str(tmp_path), checkpoint=True) as server, posted(server.url, long()) as answered:
        server.until(lambda: server.service.running and list(tmp_path.glob("*.json")))
        (file,) = tmp_path.glob("*.json")
        assert not LeapOutput.load(file).finished
        server.until(lambda: len(LeapOutput.load(file).blocks) > 0)
        server.service.cancel(server.service.running[0])
        server.rest()
        server.until(lambda: not list(tmp_path.iterdir()))
    assert not answered or answered[0].status_code


def test_a_service_that_has_died_says_so_and_keeps_nobody_waiting(maze32, monkeypatch):
    """Would catch: clients that wait forever for a thread that is no more."""
    with serving(maze32) as server:
        def broken() -> None:
            raise MemoryError("no more")

        with posted(server.url, long()) as answered:
            server.until(lambda: server.service.running)
            monkeypatch.setattr(server.service, "_step", broken)
        assert answered[0].status_code == 503
        server.until(lambda: server.service.ended)
    maze32.engine.check_integrity()
    assert maze32.engine.pool.num_used == 0
