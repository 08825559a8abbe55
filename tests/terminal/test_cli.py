"""The command line, on a tiny model saved to disk: what a run prints and leaves, what is refused, how it ends."""

import os
import pty
import re
import subprocess
import sys

import pytest
import torch
from cli_run import SMALL, at_step, run, tokens
from leap_run import LEAP, QUESTION
from sample_output import sample

import leapgen
from leapgen import BlockEvent, FinishEvent, LeapOutput, TokenEvent
from leapgen.record.ledger import Ledger
from leapgen.record.message import Message
from leapgen.record.run import BlockRecord, PathOutput, Route, Segment
from leapgen.terminal import progress
from leapgen.terminal.cli import main


def big_run(n=32, blocks=4):
    """A run as large as the paper's, with long words everywhere."""
    def path(i):
        segments = [Segment("prompt", [1])]
        for block in range(blocks):
            said = rf" \boxed{{{'x' * 60} {i % (9 - block)}}}" if block else " thinking"
            segments += [Segment("own", [2] * 9, said), Segment("summary", [3], "y" * 900, block),
                         Segment("comment", [4], "z" * 900, block)]
        return PathOutput(i, segments, f"{'x' * 60} {i % 7}" if i % 5 else None, "stop", {"stage": "finished"})

    records = [BlockRecord(b, {i: Message(i, f"begin{b} {'y ' * 450}end{b}", b, num_tokens=9) for i in range(n)},
                           {i: [Route((i + k) % n, 0.5) for k in range(1, 5)] for i in range(n)}) for b in range(blocks)]
    return LeapOutput("Why " * 400, [path(i) for i in range(n)], records,
                      Ledger(decoded=10**7, prefilled=10**6, recomputed=10**6, reused=10**8, seconds={"reason": 1e5}),
                      model="/a/long/way/to/" + "m" * 60, leap={"max_new_tokens": 99}, finished=True)


@pytest.fixture
def big(tmp_path):
    big_run().save(tmp_path / "big.json")
    return tmp_path / "big.json"


# -- a run and what it leaves -----------------------------------------------------------------------------------------------


def test_run_prints_and_saves_the_exchange(model_folder, tmp_path, capsys):
    """Would catch: options that do not reach the run, a report without blocks or votes, a run that is not saved."""
    assert run(model_folder, tmp_path / "run.json", "--path", "1") == 0
    printed = capsys.readouterr()
    output = LeapOutput.load(tmp_path / "run.json")
    assert output.finished and len(output.paths) == 3 and output.leap["interval"] == LEAP.interval
    assert len(output.blocks) >= 1
    for expected in ("block 1", "at the end", "majority", "prefilled", "path 1"):
        assert expected in printed.out
    assert "leapgen show" in printed.err
    assert main(["show", str(tmp_path / "run.json")]) == 0
    shown = capsys.readouterr().out
    for expected in ("block 1", "conclusions", "majority", "prefilled", "read from"):
        assert expected in shown


def test_show_prints_the_same_again(model_folder, tmp_path, capsys):
    """Would catch: a saved run that lost what the report needs."""
    run(model_folder, tmp_path / "run.json")
    first = capsys.readouterr().out
    assert main(["show", "--brief", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out == first


def test_quiet_is_the_vote_alone(model_folder, tmp_path, capsys):
    """Would catch: a script that has to pick the answer out of a report."""
    assert run(model_folder, tmp_path / "run.json", "-q") == 0
    printed = capsys.readouterr()
    assert printed.out == f"{LeapOutput.load(tmp_path / 'run.json').majority() or ''}\n" and printed.err == ""


@pytest.mark.parametrize(("options", "message"), [
    (["--interval", "0"], "interval"), (["--router", "nearest"], "dispersed"), (["--top-k", "0"], "top_k"),
    (["--interval", "5000"], "smaller interval"), (["--save", "/no/such/folder/run.json"], "/no/such/folder"),
    (["--path", "3"], "paths 0 .. 2"), (["--max-step-tokens", "0"], "max_step_tokens"), (["--temperature", "-1"], "1e-4"),
    (["--dtype", "float8"], "auto, float64, float32, bfloat16, float16"), (["--device-map", "nowhere"], "nowhere"),
])
def test_refused_input_says_why_and_exits_1(model_folder, tmp_path, capsys, options, message):
    """Would catch: a traceback for a user's slip, or one that is only found after the run."""
    assert run(model_folder, tmp_path / "run.json", *options) == 1
    error = capsys.readouterr().err
    assert message in "".join(error.split("\n")) and "Traceback" not in error
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize("options", [["--interval", "0"], ["--path", "99"], ["--dtype", "float8"], ["--temperature", "-1"],
                                     ["--kv-cache-fraction", "2"], ["--prompts", "none.json"]])
def test_slips_are_found_before_the_model_is_loaded(tmp_path, capsys, options):
    """Would catch: minutes of loading for a typing error, or hours of running."""
    assert run("never/loaded", tmp_path / "run.json", *options) == 1
    error = capsys.readouterr().err
    assert "never/loaded" not in error and (options[0][2:].replace("-", "_") in error or options[1] in error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_there_is_told_in_a_line(model_folder, tmp_path, capsys):
    """Would catch: forty lines of torch's traceback."""
    assert run(model_folder, tmp_path / "run.json", "--device-map", "cuda") == 1
    assert "--device-map cuda" in capsys.readouterr().err.strip().split("\n")[-1]


@pytest.mark.parametrize("name", ["{}/nothing", "hub/{}nothing"])
def test_a_model_that_is_not_there_is_told_in_a_line(tmp_path, capsys, name):
    """Would catch: a traceback of the hub client."""
    name = name.format(tmp_path if name.startswith("{}") else "")
    assert main(["run", QUESTION, "--model", name, "--save", str(tmp_path / "run.json")]) == 1
    last = capsys.readouterr().err.strip().split("\n")[-1]
    assert last.startswith("leapgen: ") and name in last
    assert not (tmp_path / "run.json").exists()


def test_no_command_prints_the_help_and_version_the_version(capsys):
    """Would catch: ``the following arguments are required: command`` as the first thing a new user sees."""
    assert main([]) == 2
    assert "leapgen run" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out.startswith(f"leapgen {leapgen.__version__} ")


def test_verbose_shows_the_log_and_nothing_else_does(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: log lines nobody can see, or other libraries' chatter in the middle of a bar."""
    import logging

    def chatter():
        logging.getLogger("leapgen.engine.backends.cpu.compiler.layers").info("programs made")
        logging.getLogger("leapgen.engine.backends.cpu.compiler.layers").warning("no kernel")
        logging.getLogger("transformers").warning("a flag is not used")
        logging.getLogger("torch.utils").warning("deprecated")

    undo = at_step(monkeypatch, 1, chatter)
    handlers = logging.getLogger().handlers[:], logging.getLogger("transformers").handlers[:]
    run(model_folder, tmp_path / "quiet.json")
    shown = capsys.readouterr().err
    assert "no kernel" in shown
    assert not any(words in shown for words in ("programs made", "a flag", "deprecated"))
    undo()
    at_step(monkeypatch, 1, chatter)
    run(model_folder, tmp_path / "verbose.json", "-v")
    shown = capsys.readouterr().err
    for words in ("leapgen: programs made", "leapgen: no kernel", "transformers: a flag", "torch: deprecated"):
        assert words in shown
    assert handlers == (logging.getLogger().handlers, logging.getLogger("transformers").handlers)


# -- progress ---------------------------------------------------------------------------------------------------------------


def test_where_nobody_is_looking_there_is_a_line_now_and_then(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: hours of silence in a batch job's log, or a bar's control characters in it."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setattr(progress, "SHARE", 0.0)
    run(model_folder, tmp_path / "run.json")
    lines = [line for line in capsys.readouterr().err.split("\n") if "tokens/s" in line]
    assert len(lines) > 10 and "\x1b" not in "".join(lines)
    reasoning = [line for line in lines if line.startswith("reasoning, 2 blocks")]
    form = r".*, \d/3 ended; \d+ tokens/s, at most 0:\d\d left"
    assert reasoning and all(re.fullmatch(form, line) for line in reasoning)


def test_time_left_follows_from_the_pace_and_from_the_paths_that_ended(monkeypatch):
    """Would catch: a path that ended early counted as if it went on, or what a resumed run had done as this hour's work."""
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    paths = [PathOutput(i, [], state={"stage": "reasoning", "own_tokens": 20}) for i in range(3)]
    paths.append(PathOutput(3, [], state={"stage": "finished", "own_tokens": 7}))
    tally = progress.Tally([LeapOutput("?", paths, [BlockRecord(0)], leap={"max_new_tokens": 120})])
    assert (tally.total, tally.remaining, tally.seconds_left) == (480, 300, None)
    for _ in range(10):
        now += 1
        for path in range(3):
            tally.update(TokenEvent(0, path, "own", 5, "a"))
    assert (tally.remaining, round(tally.tokens_per_second), tally.seconds_left) == (270, 3, 90)
    tally.update(BlockEvent(0, BlockRecord(1)))
    tally.update(FinishEvent(0, paths[0]))
    assert (tally.remaining, tally.seconds_left) == (180, 60)
    assert str(tally) == "reasoning, 2 blocks, 2/4 ended"


# -- show -------------------------------------------------------------------------------------------------------------------


def test_a_big_run_is_told_in_less_than_a_screen(big, capsys):
    """Would catch: the vote scrolled away under 128 summaries."""
    assert main(["show", "--brief", str(big)]) == 0
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) <= 22 and max(map(len, lines)) <= 80  # two more say where it is saved
    shown = "\n".join(lines)
    for expected in ("majority", "no answer", "more answers", "at block 4", "at the end", "decoded", "32 paths"):
        assert expected in shown


def test_summaries_are_whole_on_demand(big, capsys):
    """Would catch: the words that peers were sent seen nowhere but in the JSON."""
    def shown(*options):
        assert main(["show", str(big), *options]) == 0
        return capsys.readouterr().out

    assert "begin1" in shown() and "end1" not in shown()
    full = shown("--full")
    assert all(full.count(f"end{block}") == 32 for block in range(4))
    second = shown("--block", "2")
    assert second.count("end1") == 32 and "begin0" not in second and "conclusions" not in second
    assert "path 7" in shown("--path", "7") and "block 1" not in shown("--path", "7")
    assert main(["show", str(big), "--block", "5"]) == 1
    assert "blocks 1 .. 4" in capsys.readouterr().err


def test_nothing_is_said_of_who_made_a_path_change_its_answer(tmp_path, capsys):
    """Would catch: ``as path 1 had told it`` for a peer whose summary happens to hold the same digit."""
    output = sample(2)
    output.blocks[0].summaries[1] = Message(1, "there are 42 ways to fail", 0, num_tokens=2)
    output.save(tmp_path / "run.json")
    assert main(["show", str(tmp_path / "run.json")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "an answer" in shown and "told" not in shown


def test_show_refuses_other_files(tmp_path, capsys):
    """Would catch: a traceback for a file of another kind."""
    (tmp_path / "x.json").write_text("{}")
    assert main(["show", str(tmp_path / "x.json")]) == 1
    assert main(["show", str(tmp_path / "y.json")]) == 1
    assert main(["show", str(tmp_path)]) == 1
    assert "x.json" in capsys.readouterr().err.replace("\n", "")


@pytest.mark.parametrize("options", [[], ["--full"]])
def test_a_reader_who_leaves_early_is_no_error(big, options):
    """Would catch: a BrokenPipeError's traceback after ``leapgen show run.json | head``."""
    process = subprocess.Popen([sys.executable, "-m", "leapgen", "show", str(big), *options], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() in (0, 141)


@pytest.mark.parametrize(("options", "pager", "goes"), [
    ([], "cat >{}", True), (["--no-pager"], "cat >{}", False), (["--brief"], "cat >{}", False), ([], "", False),
    ([], "/no/such/pager", False),
], ids=["long", "forbidden", "short", "none", "missing"])
def test_what_is_longer_than_the_screen_goes_through_the_pager(big, tmp_path, options, pager, goes):
    """Would catch: a run of 32 paths that rushes past, a pager for three lines, or nothing where there is none."""
    code = f"import sys; from leapgen.terminal.cli import main; sys.exit(main(['show', {str(big)!r}, *{options!r}]))"
    environment = {"PAGER": pager.format(tmp_path / "paged"), "LINES": "40", "COLUMNS": "80", "TERM": "xterm"}
    shown = bytearray()
    before = os.environ.copy()
    os.environ.update(environment)
    try:
        child, terminal = pty.fork()
        if not child:
            os.execv(sys.executable, [sys.executable, "-c", code])
        try:
            while chunk := os.read(terminal, 1 << 16):
                shown += chunk
        except OSError:  # the child has closed it
            pass
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(terminal)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert (b"majority" in shown) is not goes
    assert (tmp_path / "paged").exists() is goes and (not goes or "majority" in (tmp_path / "paged").read_text())


# -- interruptions ----------------------------------------------------------------------------------------------------------


def test_interrupted_run_is_saved_and_resumed(model_folder, tmp_path, capsys, monkeypatch):
    """Would catch: Ctrl-C that loses the run, or a resume that ends elsewhere than the whole run."""
    def interrupt():
        raise KeyboardInterrupt

    run(model_folder, tmp_path / "whole.json")
    undo = at_step(monkeypatch, 25, interrupt)
    assert run(model_folder, tmp_path / "part.json") == 130
    undo()
    part = LeapOutput.load(tmp_path / "part.json")
    assert not part.finished and any(path.count("own") for path in part.paths)
    assert main(["resume", str(tmp_path / "part.json")]) == 0
    resumed, whole = LeapOutput.load(tmp_path / "part.json"), LeapOutput.load(tmp_path / "whole.json")
    assert resumed.finished and tokens(resumed) == tokens(whole)


def test_the_small_settings_reach_the_model(model_folder, tmp_path):
    """Would catch: an option of the three configs that is parsed and then forgotten."""
    run(model_folder, tmp_path / "run.json", "--blocks", "1", "--stop-strings", "§", "--stop-strings", "%",
        "--stop-token-ids", "3", "4", "--max-step-tokens", "64", "--kv-cache-bytes", "32M", "--top-k", "none",
        "--no-logprobs")
    output = LeapOutput.load(tmp_path / "run.json")
    assert "--interval" in SMALL and output.leap["blocks"] == [1] and output.leap["stop_strings"] == ["§", "%"]
    assert output.leap["stop_token_ids"] == [3, 4]
    assert output.sampling["top_k"] is None and output.sampling["logprobs"] is False
    assert output.made_with["engine"]["max_step_tokens"] == 64 and output.made_with["engine"]["kv_cache_bytes"] == 32 << 20
