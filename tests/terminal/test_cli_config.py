"""``--config``: options from a file, for every command."""

from __future__ import annotations

import json
import re

import pytest

from leapgen.terminal.cli import build_parser, main
from leapgen.terminal.configuration import with_config


def parsed(tmp_path, text, *arguments, name="run.yaml", command="run"):
    file = tmp_path / name
    file.write_text(text)
    parser = build_parser()
    return parser.parse_args(with_config(parser, [command, "--config", str(file), *arguments]))


def test_a_file_has_the_options_by_their_names_and_the_command_line_goes_before_it(tmp_path):
    """Would catch: an option of the file that wins over the one just typed, or a list that grows by both."""
    text = """
        model: maze
        n: 4
        top-k-peers: 2
        max_blocks: null
        explain: false
        finished_share: true
        overwrite: true
        blocks: [0, 2]
        stop_strings: ["a b", "-c"]
        temperature: 0.5
        kv_cache_bytes: 2G
    """
    options = vars(parsed(tmp_path, text, "--temp", "0.9", "--blocks", "1", "--no-finished-share", "-n8", "--", "Why?"))
    assert (options["model"], options["n"], options["question"], options["overwrite"]) == ("maze", 8, "Why?", True)
    fields = {name.partition(".")[2]: value for name, value in options.items() if "." in name}
    assert fields == {"top_k_peers": 2, "max_blocks": None, "explain": False, "finished_share": False, "blocks": [1],
                      "stop_strings": ["a b", "-c"], "temperature": 0.9, "kv_cache_bytes": 2 << 30}


def test_the_same_file_in_json(tmp_path):
    """Would catch: a JSON file that only YAML's rules can read, or the other way round."""
    text = json.dumps({"model": "maze", "n": 3, "explain": False})
    for name in ("run.json", "run.yaml"):
        options = parsed(tmp_path, text, "Why?", name=name)
        assert (options.model, options.n, vars(options)["LeapConfig.explain"]) == ("maze", 3, False)


@pytest.mark.parametrize(("command", "text"), [
    ("run", "model: maze"), ("demo", "n: 2"), ("show", "full: true"), ("resume", "no-check: true"),
    ("synth", "{problems: p.json, model: maze, at-once: 2}"),
    ("sft", "{data: d, model: m, output: o, learn: [own, answer]}"),
    ("eval", "{problems: maze, arms: [leap, 'equal:leap'], output: o}")])
def test_every_command_takes_one(tmp_path, command, text):
    """Would catch: a command that was forgotten."""
    more = ["x.json"] if command in ("show", "resume") else []
    assert parsed(tmp_path, text, *more, command=command).config == tmp_path / "run.yaml"


@pytest.mark.parametrize(("text", "said"), [
    ("intervall: 9", r"leapgen run has no option 'intervall' \(did you mean interval"),
    ("config: other.yaml", "leapgen run has no option 'config'"),
    ("help: true", "has no option 'help'"),
    ("explain: 3", "explain=3 is not allowed: it must be true or false"),
    ("model: [a, b]", "model=.* is not allowed: it must be one value"),
    ("model: {a: b}", "it must be a value or a list of values"),
    ("- a", "option names and their values were expected, not list"),
    ("a: [", "while parsing"),
    ("1: 2", "option names and their values were expected"),
])
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, capsys, text, said):
    """Would catch: a misspelled setting that is ignored, or a traceback."""
    (tmp_path / "run.yaml").write_text(text)
    assert main(["run", "--config", str(tmp_path / "run.yaml"), "Why?", "--model", "maze"]) == 2
    assert re.search(said, capsys.readouterr().err.replace("\n", " "))


def test_a_file_that_is_not_there_and_two_files_are_refused(tmp_path, capsys):
    """Would catch: a run on the defaults because of a typing error in a name."""
    assert main(["run", "--config", str(tmp_path / "no.yaml"), "Why?"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["run", "--config", "a.yaml", "--config", "b.yaml"]) == 2
    assert "give it once" in capsys.readouterr().err
