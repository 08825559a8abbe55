"""Engines side by side: each in a process with the Python of its own environment, one working at a time."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

WORKER = Path(__file__).with_name("worker.py")


@dataclass
class System:
    """A worker process. ``spec`` is NAME[@DTYPE][=PYTHON]: vllm@float32=/venvs/vllm/bin/python."""

    name: str
    dtype: str
    process: subprocess.Popen = field(repr=False)
    log: object = field(repr=False)

    @classmethod
    def start(cls, spec: str, folder: str, dtype: str, threads: int) -> System:
        name, _, python = spec.partition("=")
        name, _, own_dtype = name.partition("@")
        log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the worker is
        command = [python or sys.executable, str(WORKER), name, folder,
                   "--dtype", own_dtype or dtype, "--threads", str(threads)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        system = cls(name, own_dtype or dtype, process, log)
        system._read()
        process.send_signal(signal.SIGSTOP)
        return system

    def generate(self, prompts: list[list[int]], copies: int, steps: int) -> tuple[list[list[int]], float]:
        """Tokens of each prompt's samples, prompt by prompt, and the seconds the engine took."""
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps({"prompts": prompts, "copies": copies, "steps": steps}), file=self.process.stdin, flush=True)
        answer = self._read()
        self.process.send_signal(signal.SIGSTOP)  # some engines' idle threads spin, at the expense of whose turn it is
        return answer["tokens"], answer["seconds"]

    def leap(self, request: dict) -> dict:
        """The LeaP workload of ``leap.py``: seconds, the paths' lengths and how many prompt tokens were handed over."""
        self.process.send_signal(signal.SIGCONT)
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self._read()
        self.process.send_signal(signal.SIGSTOP)
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.wait(60)

    def _read(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"{self.name} ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder of a model; FOLDER-openvino beside it for OpenVINO")
    parser.add_argument("--systems", nargs="+", default=["leapgen", "transformers"], metavar="NAME[@DTYPE][=PYTHON]")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
