"""Runs survive: signals, kills, full disks, and the next run of the same name."""

import errno
import json
import os
import shutil
import signal
import stat

import pytest
from cli_run import SMALL, at_step, run, send, tokens
from leap_run import QUESTION

from leapgen import LeapGenerator, LeapOutput, checkpoints
from leapgen.checkpoints import Checkpoints
from leapgen.terminal.cli import main


@pytest.fixture(scope="module")
def whole(model_folder, tmp_path_factory):
    file = tmp_path_factory.mktemp("whole") / "run.json"
    assert run(model_folder, file) == 0
    return tokens(LeapOutput.load(file))


def resumed(file):
    assert not LeapOutput.load(file).finished
    assert main(["resume", str(file)]) == 0
    assert LeapOutput.load(file).finished
    return tokens(LeapOutput.load(file))


def full_disk(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


# -- signals ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signals", "status"), [
    ([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGHUP], 129), ([signal.SIGINT] * 3, 130),
    ([signal.SIGTERM, signal.SIGINT], 143), ([signal.SIGHUP, signal.SIGTERM, signal.SIGHUP], 129),
], ids=["INT", "TERM", "HUP", "INT-INT-INT", "TERM-INT", "HUP-TERM-HUP"])
@pytest.mark.parametrize("step", [1, 25])
def test_a_signal_stops_a_run_and_keeps_it(model_folder, whole, tmp_path, capsys, monkeypatch, signals, status, step):
    """Would catch: SLURM's SIGTERM that costs the night, an impatient second Ctrl-C that costs it after all."""
    undo = at_step(monkeypatch, step, send(*signals))
    assert run(model_folder, tmp_path / "run.json") == status
    undo()
    printed = capsys.readouterr()
    assert "resume" in printed.err and "Traceback" not in printed.err
    assert "not finished" in " ".join(printed.out.split())  # a long path breaks lines
    assert resumed(tmp_path / "run.json") == whole
    assert os.listdir(tmp_path) == ["run.json"]


def test_a_signal_while_the_run_is_saved_does_not_disturb_it(model_folder, whole, tmp_path, monkeypatch):
    """Would catch: a Ctrl-C between the two halves of the file, or one after it that throws the rest of the work away."""
    save = LeapOutput.save

    def disturbed(self, path):
        send(signal.SIGINT)()
        save(self, path)
        send(signal.SIGINT, signal.SIGTERM)()

    undo = at_step(monkeypatch, 25, send(signal.SIGINT))
    with monkeypatch.context() as patch:
        patch.setattr(LeapOutput, "save", disturbed)
        assert run(model_folder, tmp_path / "run.json") == 130
    undo()
    assert resumed(tmp_path / "run.json") == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_signal_while_loading_ends_without_a_word(model_folder, tmp_path, capsys, monkeypatch, number, status, wrapped):
    """Would catch: a page of traceback for a Ctrl-C in the first seconds, also where a library makes another error of it."""
    def loading(*arguments, **options):
        try:
            send(number)()
        except KeyboardInterrupt as interrupt:
            if wrapped:
                raise ImportError("half imported") from interrupt
            raise

    monkeypatch.setattr(LeapGenerator, "from_pretrained", loading)
    assert run(model_folder, tmp_path / "run.json") == status
    assert "Traceback" not in (error := capsys.readouterr().err) and "half imported" not in error
    assert os.listdir(tmp_path) == []


def test_ignored_signals_stay_ignored_and_handlers_come_back(model_folder, tmp_path, monkeypatch):
    """Would catch: a run under ``nohup`` that a closed terminal stops all the same."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        others = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
        at_step(monkeypatch, 5, send(signal.SIGHUP))
        assert run(model_folder, tmp_path / "run.json") == 0
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == others
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stopped_synthesis_keeps_what_is_done_and_says_how_to_go_on(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: a traceback through three libraries as the answer to SIGTERM."""
    problems = [{"problem": f"{i} + 1?", "answer": "2"} for i in range(2)]
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    at_step(monkeypatch, 70, send(signal.SIGTERM))
    options = ["--output", str(tmp_path / "out.jsonl"), "--n", "2", *SMALL]
    assert main(["synth", "--problems", str(tmp_path / "problems.json"), "--model", str(model_folder), *options]) == 143
    error = capsys.readouterr().err
    assert "goes on" in error and "Traceback" not in error
    assert len((tmp_path / "out.partial.jsonl").read_text().splitlines()) == 2  # the settings, and the first problem


# -- while it goes on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 25, 45])
def test_what_is_on_disk_at_any_moment_can_be_resumed(model_folder, whole, tmp_path, monkeypatch, step):
    """Would catch: nothing left after kill -9 or a power failure; a file that resumes to other tokens."""
    undo = at_step(monkeypatch, step, lambda: shutil.copy(tmp_path / "run.json", tmp_path / "killed.json"))
    run(model_folder, tmp_path / "run.json")
    undo()
    assert len(LeapOutput.load(tmp_path / "killed.json").blocks) == {1: 0, 25: 1, 45: 2}[step]
    assert resumed(tmp_path / "killed.json") == whole


def test_between_blocks_the_clock_saves(model_folder, tmp_path, monkeypatch):
    """Would catch: an interval of hours, of which a crash leaves nothing."""
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", 1e9)
    seen = []
    at_step(monkeypatch, 20, lambda: seen.append(LeapOutput.load(tmp_path / "run.json")))
    run(model_folder, tmp_path / "run.json", "--max-blocks", "0")
    assert sum(path.count("own") for path in seen[0].paths) > 30


class SlowRun:
    """A run whose output takes ``seconds`` of a false clock to save."""

    def __init__(self, clock, seconds):
        self.clock, self.seconds, self.saved, self.made_with = clock, seconds, [], {}

    def outputs(self):
        return [self]

    def save(self, path):
        self.clock[0] += self.seconds
        self.saved.append(self.clock[0])


@pytest.mark.parametrize(("seconds", "every"), [(0.1, 60), (1.8, 60), (9, 300)])
def test_saving_by_the_clock_takes_a_small_part_of_the_time(monkeypatch, seconds, every):
    """Would catch: a run on a slow file system that does nothing but save itself."""
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    slow = SlowRun(clock, seconds)
    saved = Checkpoints(slow, ["run.json"])
    for _ in range(4000):
        clock[0] += 0.5
        saved.update(object())
    gaps = [later - earlier - seconds for earlier, later in zip(slow.saved, slow.saved[1:], strict=False)]
    assert len(gaps) >= 5 and all(every - 1e-9 < gap < every + 1 for gap in gaps)


def test_a_full_disk_costs_neither_the_run_nor_what_is_on_it(model_folder, whole, tmp_path, capsys, monkeypatch):
    """Would catch: a run that dies of one failed save, or one that ends with status 0 and is nowhere."""
    file, save = tmp_path / "run.json", LeapOutput.save

    def fill():
        monkeypatch.setattr(LeapOutput, "save", full_disk)

    undo = at_step(monkeypatch, 20, fill)
    assert run(model_folder, file) == 1
    undo()
    monkeypatch.setattr(LeapOutput, "save", save)
    printed = capsys.readouterr()
    assert "majority" in printed.out
    assert printed.err.count("No space left") == 2  # when it first failed, and at the end
    assert resumed(file) == whole


def test_a_disk_that_has_room_again_gets_the_run(model_folder, whole, tmp_path, capsys, monkeypatch):
    """Would catch: a run given up for a disk that was full for a moment."""
    save = LeapOutput.save
    at_step(monkeypatch, 10, lambda: monkeypatch.setattr(LeapOutput, "save", full_disk))
    at_step(monkeypatch, 50, lambda: monkeypatch.setattr(LeapOutput, "save", save))
    assert run(model_folder, tmp_path / "run.json") == 0
    assert "No space left" in capsys.readouterr().err
    assert tokens(LeapOutput.load(tmp_path / "run.json")) == whole


def test_where_nothing_can_be_saved_nothing_is_begun(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: an hour of work for a disk that was full from the start, or an empty file that blocks the next try."""
    monkeypatch.setattr(LeapOutput, "save", full_disk)
    at_step(monkeypatch, 1, lambda: pytest.fail("a step was made"))
    assert run(model_folder, tmp_path / "run.json") == 1
    assert "No space left" in capsys.readouterr().err and os.listdir(tmp_path) == []


def test_a_failed_run_is_kept(model_folder, whole, tmp_path, capsys, monkeypatch):
    """Would catch: an out-of-memory error that takes the blocks before it along."""
    def fail():
        raise MemoryError("no more")

    undo = at_step(monkeypatch, 25, fail)
    assert run(model_folder, tmp_path / "run.json") == 1
    undo()
    assert "no more" in capsys.readouterr().err
    assert resumed(tmp_path / "run.json") == whole


# -- names ------------------------------------------------------------------------------------------------------------------


def test_a_file_is_written_over_only_when_told_so(model_folder, tmp_path, capsys):
    """Would catch: last night's run gone for a forgotten ``--save``."""
    file = tmp_path / "run.json"
    file.write_text("mine")
    assert run("never/loaded", file) == 1
    error = " ".join(capsys.readouterr().err.split())
    assert "it exists" in error and "--overwrite" in error and "never/loaded" not in error
    assert file.read_text() == "mine"
    assert run(model_folder, file, "--overwrite") == 0
    assert LeapOutput.load(file).finished


def test_without_a_name_the_next_free_one_is_taken_and_said(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: run.json of the last run overwritten by the next, or a run saved nobody knows where."""
    monkeypatch.chdir(tmp_path)
    for name in ("run.json", "run-2.json", "run-3.json"):
        assert main(["run", QUESTION, "--model", str(model_folder), "--n", "2", *SMALL]) == 0
        assert f"saved to {name}" in capsys.readouterr().err
        assert LeapOutput.load(name).finished
    assert sorted(os.listdir()) == ["run-2.json", "run-3.json", "run.json"]
    assert main(["run", QUESTION, "--model", str(model_folder), "--n", "3", "--overwrite", *SMALL]) == 0
    assert len(LeapOutput.load("run.json").paths) == 3 and len(os.listdir()) == 3


def test_a_name_is_taken_by_one_process_only(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: two jobs of an array that write the same file, of which one is lost."""
    generator_stream = LeapGenerator.stream

    def meanwhile(self, *arguments, **options):
        (tmp_path / "run.json").write_text("another's")
        return generator_stream(self, *arguments, **options)

    monkeypatch.setattr(LeapGenerator, "stream", meanwhile)
    assert run(model_folder, tmp_path / "run.json") == 1
    assert "exists" in capsys.readouterr().err and (tmp_path / "run.json").read_text() == "another's"


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
@pytest.mark.parametrize("option", ["--save", "--picture", "--output"])
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_what_is_no_regular_file_is_refused(tmp_path, capsys, kind, option, overwrite):
    """Would catch: ``--save /dev/full`` that replaces the device, as root."""
    path = tmp_path / "out"
    {"device": lambda: path.symlink_to("/dev/full"), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    (tmp_path / "problems.json").write_text('[{"problem": "1 + 1?", "answer": "2"}]')
    command = {"--save": ["run", QUESTION, "--model", "never/loaded"],
               "--picture": ["demo", "--save", str(tmp_path / "run.json")],
               "--output": ["synth", "--problems", str(tmp_path / "problems.json"), "--model", "never/loaded"]}[option]
    before = os.lstat(path).st_ino
    assert main([*command, option, str(path), *overwrite]) == 1
    error = capsys.readouterr().err
    assert option in error and ("folder" if kind == "folder" else "no regular file") in " ".join(error.split())
    assert os.lstat(path).st_ino == before and stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("option", ["--picture", "--output"])
def test_no_other_result_is_overwritten_either(tmp_path, capsys, option):
    """Would catch: days of synthesis gone for a repeated command."""
    (tmp_path / "out").write_text("mine")
    (tmp_path / "problems.json").write_text('[{"problem": "1 + 1?", "answer": "2"}]')
    command = {"--picture": ["demo", "--save", str(tmp_path / "run.json")],
               "--output": ["synth", "--problems", str(tmp_path / "problems.json"), "--model", "never/loaded"]}[option]
    assert main([*command, option, str(tmp_path / "out")]) == 1
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "out").read_text() == "mine"


def test_a_link_leads_to_where_the_run_is_saved(model_folder, tmp_path):
    """Would catch: the link to the large disk replaced by a file on the small one."""
    (tmp_path / "large").mkdir()
    (tmp_path / "run.json").symlink_to("large/there.json")
    assert run(model_folder, tmp_path / "run.json") == 0
    assert (tmp_path / "run.json").is_symlink() and LeapOutput.load(tmp_path / "large" / "there.json").finished
    assert os.listdir(tmp_path / "large") == ["there.json"]
    assert run(model_folder, tmp_path / "run.json") == 1  # it exists now
    assert run(model_folder, tmp_path / "run.json", "--overwrite") == 0 and (tmp_path / "run.json").is_symlink()
