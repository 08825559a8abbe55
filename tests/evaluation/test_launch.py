"""The launch examples: what their commands say, and a study on Ray."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from leapgen.evaluation.arms import arms
from leapgen.evaluation.study import Study
from leapgen.terminal.cli import build_parser

EXAMPLES = Path(__file__).parents[2] / "examples" / "launch"


@pytest.mark.parametrize("name", ["slurm.sh", "torchrun.sh"])
def test_a_script_s_command_is_one_that_leapgen_understands(name):
    """Would catch: an example that fails after a day in the queue, because an option was renamed."""
    script = (EXAMPLES / name).read_text()
    command = re.search(r"^    leapgen (eval .*?)(?<!\\)$", script, flags=re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    options = build_parser().parse_args(shlex.split(command))
    assert options.device_map == "cuda" and len(arms(options.arms)) == 3 and not subprocess.run(
        ["bash", "-n", EXAMPLES / name]).returncode


def test_workers_of_a_ray_cluster_share_a_study(model_folder, tmp_path):
    """Would catch: an example that Ray cannot send to its workers, or workers that each do everything."""
    pytest.importorskip("ray")
    (tmp_path / "problems.json").write_text(json.dumps([{"problem": f"{i} + {i}?", "answer": str(2 * i)} for i in range(4)]))
    done = subprocess.run(
        [sys.executable, EXAMPLES / "ray_eval.py", "--workers", "2", "--here", "2", "--", "--problems",
         tmp_path / "problems.json", "--model", model_folder, "--n", "2", "--interval", "8", "--max-new-tokens", "24",
         "--summary-tokens", "8", "--forced-answer-tokens", "4", "--no-explain", "--at-once", "1", "--groups", "4",
         "--output", tmp_path / "study"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    study = Study.open(tmp_path / "study")
    assert not study.missing() and len(study.units) == 32 and (tmp_path / "study" / "report" / "report.txt").exists()
