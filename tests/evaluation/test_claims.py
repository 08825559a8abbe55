"""Claims and records of units as a state machine: processes that come, go, are killed and suspended."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from leapgen.evaluation.claims import Claims
from leapgen.evaluation.parts import Parts
from leapgen.evaluation.records import Record
from leapgen.evaluation.units import Unit

STALE = 10.0
UNITS = [Unit("leap", str(problem), 0) for problem in range(3)]


class Process:
    """A worker without a model: what ``Worker`` does with claims and parts."""

    def __init__(self, folder, clock):
        self.claims, self.parts = Claims(folder / "claims", STALE, clock), Parts(folder / "parts")
        self.mine, self.silent = {}, 0.0

    def take(self, unit):
        claim = self.claims.take(unit.name, self.claims.look())
        self.parts.refresh()
        if claim and unit in self.parts:
            self.claims.drop(claim)
        elif claim:
            self.mine[unit] = claim
        return claim

    def finish(self, unit):
        claim = self.mine.pop(unit)
        self.parts.refresh()
        if unit not in self.parts:
            self.parts.append(self.claims.worker, claim.generation, Record(unit.arm, unit.problem, 0, id(self)))
        self.claims.drop(claim)


class Processes(RuleBasedStateMachine):
    """Would catch: a unit that two work on at once though both are heard; one that is lost for good; a record that changes
    when a suspended process comes back."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1_000_000.0
        self.processes = [self.started() for _ in range(3)]
        self.recorded = {}

    def started(self):
        return Process(self.folder, self.clock)

    def clock(self, file):
        os.utime(file, (self.now, self.now))
        return self.now

    @rule(who=st.integers(0, 2), unit=st.sampled_from(UNITS))
    def take(self, who, unit):
        process = self.processes[who]
        holders = [other for other in self.processes if unit in other.mine and other.silent <= STALE]
        claim = None if unit in process.mine else process.take(unit)
        if claim:
            assert not holders, "a unit was taken from a process that was heard"

    @rule(who=st.integers(0, 2), unit=st.sampled_from(UNITS))
    def finish(self, who, unit):
        if unit in self.processes[who].mine:
            self.processes[who].finish(unit)

    @rule(who=st.integers(0, 2))
    def beat(self, who):
        self.processes[who].claims.beat()
        self.processes[who].silent = 0.0

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def time_passes(self, seconds):
        self.now += seconds
        for process in self.processes:
            process.silent += seconds

    @rule(who=st.integers(0, 2), half=st.booleans())
    def kill(self, who, half):
        """The file of a killed process may end with half a line."""
        process = self.processes[who]
        file = self.folder / "parts" / f"{process.claims.worker}.jsonl"
        if half:
            file.parent.mkdir(exist_ok=True)
            with file.open("a") as opened:
                opened.write('{"generation": 0, "record": {"arm": "le')
        self.processes[who] = self.started()

    @rule(who=st.integers(0, 2))
    def stop(self, who):
        process, self.processes[who] = self.processes[who], self.started()
        process.claims.__exit__()

    @invariant()
    def a_record_that_was_seen_stays(self):
        seen = Parts(self.folder / "parts")
        seen.refresh()
        for unit in UNITS:
            if unit in seen:
                assert self.recorded.setdefault(unit, seen[unit]) == seen[unit]
            else:
                assert unit not in self.recorded

    def teardown(self):
        """Whatever happened, a process that begins later finishes everything."""
        self.now += STALE + 1
        last = self.started()
        for unit in UNITS:
            if last.take(unit) and unit in last.mine:
                last.finish(unit)
        last.parts.refresh()
        assert all(unit in last.parts for unit in UNITS)
        shutil.rmtree(self.folder)


TestProcesses = Processes.TestCase
TestProcesses.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_of_many_who_take_a_unit_at_once_one_gets_it(tmp_path):
    """Would catch: a claim that is looked for and then made, with time between."""
    claims = [Claims(tmp_path, STALE) for _ in range(16)]
    start, got = threading.Barrier(len(claims)), []

    def take(own):
        standing = own.look()
        start.wait()
        got.append(own.take("unit", standing))

    threads = [threading.Thread(target=take, args=(own,)) for own in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([claim for claim in got if claim]) == 1


def test_a_heartbeat_goes_on_while_its_process_is_busy(tmp_path):
    """Would catch: a unit taken over because one forward pass took longer than a claim lasts."""
    with Claims(tmp_path, 0.4) as own:
        own.take("unit", {})
        other, until = Claims(tmp_path, 0.4), time.monotonic() + 1.5
        while time.monotonic() < until:
            assert other.take("unit", other.look()) is None
    assert other.take("unit", other.look()) is not None, "claims are given back at the end"


def test_a_unit_of_a_dead_process_is_free_at_once(tmp_path):
    """Would catch: minutes of waiting after a kill on the same machine."""
    code = (f"import os, signal; from pathlib import Path; from leapgen.evaluation.claims import Claims\n"
            f"Claims(Path({str(tmp_path)!r}), 1000).take('unit', {{}}); os.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", code])
    own = Claims(tmp_path, 1000)
    assert own.look() == {"unit": (0, False)} and own.take("unit", own.look()).generation == 1


def test_a_claim_of_another_machine_goes_by_its_heartbeat_alone(tmp_path):
    """Would catch: process numbers of one machine looked up on another."""
    own = Claims(tmp_path, 1000)
    (tmp_path / "unit.3").write_text(json.dumps({"worker": "other", "machine": "other/1", "pid": 1 << 22}))
    assert own.look() == {"unit": (3, True)}
    os.utime(tmp_path / "unit.3", (time.time() - 2000,) * 2)
    assert own.look() == {"unit": (3, False)}


def test_a_unit_that_was_done_twice_has_the_first_generation_s_record_whoever_reads(tmp_path):
    """Would catch: a report that depends on the order in which a folder lists its files."""
    unit = UNITS[0]
    for names in (("a", "b"), ("b", "a")):
        parts = Parts(tmp_path / names[0])
        parts.append(names[0], 1, Record(unit.arm, unit.problem, 0, seed=1))
        parts.refresh()
        parts.append(names[1], 0, Record(unit.arm, unit.problem, 0, seed=0))
        parts.refresh()
        assert parts[unit].seed == 0 and len(parts) == 1


def test_a_damaged_line_does_not_count_and_is_said(tmp_path, caplog):
    """Would catch: a study that cannot be read any more, or a unit that counts as done, after a disk fault."""
    (tmp_path / "a.jsonl").write_text('{"generation": 0}\nnonsense\n[]\n')
    parts = Parts(tmp_path)
    parts.refresh()
    assert len(parts) == 0 and caplog.text.count("does not count") == 3
    parts.append("a", 0, Record("leap", "0", 0, 0))
    parts.refresh()
    assert len(parts) == 1


@pytest.mark.parametrize("id", ["1", "a/b", "A", "a", "ä", "../x", "x" * 300, "a.b", "nul\n", ""])
def test_a_unit_s_name_is_a_file_name_of_its_own(tmp_path, id):
    """Would catch: problems whose ids a file system holds for one, or for a path."""
    name = Unit("leap:router=random,top_k_peers=2", id, 0).name
    (tmp_path / f"{name}.0").touch()
    assert name == name.lower() and len(name) < 120 and [file.name for file in tmp_path.iterdir()] == [f"{name}.0"]
    assert name not in {Unit("leap:router=random,top_k_peers=2", other, 0).name for other in ("b", "a_b", "B", "..x", "_")}
