"""The process that holds one of reasoning-gym's datasets: a line of JSON a request, a line a reply."""

from __future__ import annotations

import faulthandler
import json
import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any, TextIO

from leapgen.options import did_you_mean
from leapgen.tasks.naming import config_of

MEMORY = 4 << 30  # bytes of address space


def serve(requests: TextIO, replies: TextIO) -> None:
    """Replies to each request until there are no more. A score that takes too long ends the process."""
    dataset: Any = None
    with open(os.devnull, "w") as nowhere:
        for line in requests:
            verb, values = json.loads(line)
            reply: Any
            if verb == "open":
                try:
                    dataset, reply = opened(**values), {"version": version("reasoning_gym")}
                except ValueError as error:
                    reply = {"error": str(error)}
            elif verb == "make":
                item = dataset[values["index"]]
                reply = {"question": item["question"], "answer": str(item["answer"] or "")}
            else:
                faulthandler.dump_traceback_later(values["seconds"], exit=True, file=nowhere)
                reply = {"score": score(dataset, values["index"], values["answer"])}
                faulthandler.cancel_dump_traceback_later()
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


def opened(name: str, gym: str, settings: dict[str, Any], seed: int, size: int) -> Any:
    """A dataset.

    Raises:
        ValueError: there is no such dataset or setting, or a value is not allowed.
    """
    import_module("reasoning_gym")
    datasets = import_module("reasoning_gym.factory").DATASETS
    datasets = {name: made for name, made in datasets.items() if name != "composite"}  # which is made of others
    if gym not in datasets:
        raise ValueError(f"{name}: reasoning-gym has no task {gym!r}{did_you_mean(gym, datasets)}. "
                         f"Tasks: {', '.join(sorted(datasets))}.")
    kind, config = datasets[gym]
    settled = config_of(config, name, settings, {"seed": seed, "size": size})
    try:
        return kind(settled)
    except Exception as error:  # assertions, most of them; each dataset has its own way
        raise ValueError(f"{name}: {error or type(error).__name__}") from error


def score(dataset: Any, index: int, answer: str) -> float:
    """The gym's own score of an answer; 0 where the gym fails on it."""
    try:
        return float(dataset.score_answer(answer, dataset[index]))
    except Exception:  # of whatever an answer's text brings about
        return 0.0


def main() -> None:
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a dataset prints is no reply
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, OSError, ValueError):  # no such limit here
        pass
    serve(sys.stdin, replies)
