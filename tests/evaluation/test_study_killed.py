"""kill -9 at random moments of real processes that share a study."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from leapgen.evaluation.study import Study
from leapgen.terminal.cli import main

ROUNDS = int(os.environ.get("LEAPGEN_STUDY_KILLS", "1"))  # studies of which two processes are killed
ARMS = "leap,independent,equal:leap,strangers"
SETTINGS = ["--problems", "maze", "--model", "maze", "--dtype", "float32", "--n", "2", "--interval", "24",
            "--max-new-tokens", "72", "--arms", ARMS, "--no-compile", "--draft-tokens", "0", "--stale", "2",
            "--at-once", "2", "--kv-cache-bytes", "256M", "-q"]
# Imports once, then forks: each process is a worker of its own, and they need no ten seconds to begin.
PROGRAM = """
import os, random, signal, sys, time
import torch, transformers
import leapgen.evaluation.study, leapgen.evaluation.table, leapgen.tasks.loading, leapgen.generator
from pathlib import Path
from leapgen.terminal.cli import main
torch.set_num_threads(1)
folder, seed, units, arguments = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:]
def begin():
    pid = os.fork()
    if not pid:
        os._exit(main(arguments))
    return pid
def done():
    return sum(part.read_bytes().count(b"\\n") for part in folder.glob("parts/*.jsonl"))
rng, workers = random.Random(seed), [begin() for _ in range(4)]
for at in sorted(rng.sample(range(1, units), 2)):  # killed when so many units are done, and a random moment later
    while done() < at:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.5))
    killed = workers.pop(0)
    os.kill(killed, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(killed, 0)[1]) == -signal.SIGKILL, "it had ended before"
    workers.append(begin())
sys.exit(any([os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]))
"""


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_four_processes_of_which_two_are_killed_give_the_report_of_one(tmp_path, seed):
    """Would catch: a unit lost, or done twice and counted twice; numbers that depend on who computed what beside what."""
    large = ["--problems-limit", "2" if seed == 0 else "8", "--groups", "2"]
    assert main(["eval", *SETTINGS, *large, "--output", str(tmp_path / "one")]) == 0
    units = len(Study.open(tmp_path / "one").units)
    four = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "four"), str(seed), str(units // 2), "eval",
                           *SETTINGS, *large, "--output", str(tmp_path / "four")], capture_output=True, text=True,
                          timeout=300)
    assert four.returncode == 0, four.stderr
    for name in ("report.json", "report.txt", "index.html"):
        assert (tmp_path / "one" / "report" / name).read_bytes() == (tmp_path / "four" / "report" / name).read_bytes()
    assert len(list((tmp_path / "four" / "parts").iterdir())) > 2, "the work was shared"
