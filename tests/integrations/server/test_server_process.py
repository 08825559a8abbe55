"""``leapgen serve`` as a process of its own: asked to stop, and killed, in the middle of runs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from serving import LEAP, MAZES, PATHS

from leapgen import LeapOutput
from leapgen.terminal.cli import main

BODY = {"model": "maze", "messages": [{"role": "user", "content": MAZES[0]}], "seed": 9, "stream": True,
        "leap": {"ignore_eos": True, "max_new_tokens": 700, "interval": 72}}


@pytest.fixture
def started(tmp_path):
    """Starts servers; gives the process and the address of each."""
    processes = []

    def start(*options: str):
        process = subprocess.Popen(
            [sys.executable, "-m", "leapgen", "serve", "--model", "maze", "--dtype", "float32", "--port", "0", "--paths",
             str(PATHS), "--kv-cache-bytes", "256M", *options], stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        processes.append(process)
        for line in process.stderr:
            if found := re.search(r"serving maze at (http://127\.0\.0\.1:\d+)/v1", line):
                return process, found[1]
        raise AssertionError("the server has not started")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def resumed(file, maze32) -> None:
    part = LeapOutput.load(file)
    assert not part.finished and main(["resume", str(file), "--quiet"]) == 0
    expected = maze32.generate(MAZES[0], PATHS, seed=9, leap=LEAP.replace(**BODY["leap"]))
    assert [path.token_ids for path in LeapOutput.load(file).paths] == [path.token_ids for path in expected.paths]


def test_sigterm_saves_what_runs_and_resume_goes_on_with_it(started, maze32, tmp_path):
    """Would catch: a stop that loses runs, hangs, or says nothing to clients; a file that resume refuses."""
    process, address = started("--grace", "0.2", "--save", "kept")
    told: list[str] = []

    def follow() -> None:
        with httpx.stream("POST", f"{address}/v1/chat/completions", json=BODY, timeout=60) as response:
            told.extend(response.iter_lines())

    client = threading.Thread(target=follow)
    client.start()
    while "leapgen_requests_running 1.0" not in httpx.get(f"{address}/metrics").text:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    client.join(20)
    assert process.wait(20) == 128 + signal.SIGTERM
    (file,) = (tmp_path / "kept").iterdir()
    assert "data: [DONE]" in told and any(f"leapgen resume {file}" in line for line in told)
    assert "stopped by SIGTERM" in process.stderr.read()
    resumed(file, maze32)


def test_kill_9_loses_a_block_at_most_and_its_port_is_free(started, maze32, tmp_path):
    """Would catch: a file written in place, checkpoints that are not; a server that cannot be started again."""
    process, address = started("--checkpoint")
    with pytest.raises(httpx.HTTPError), httpx.stream("POST", f"{address}/v1/chat/completions", json=BODY,
                                                      timeout=60) as response:
        for line in response.iter_lines():
            if "[block 1, path 0]" in line:
                process.kill()
    (file,) = (tmp_path / "runs").glob("*.json")
    assert len(LeapOutput.load(file).blocks) >= 1
    resumed(file, maze32)
    _, again = started("--port", address.rpartition(":")[2])
    assert again == address and httpx.get(f"{again}/health").json() == {"status": "ok", "running": 0, "waiting": 0}


def test_an_address_that_is_taken_is_told_in_a_line(running, capsys):
    """Would catch: a traceback, or a model loaded for minutes before the address is looked at."""
    assert main(["serve", "--model", "no/such-model", "--port", running.url.rpartition(":")[2]]) == 1
    said = capsys.readouterr().err
    assert "Address already in use" in said and "Traceback" not in said and said.count("\n") == 1
