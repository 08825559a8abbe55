"""Options: one for every field that a command line can hold, each with help."""

import argparse
import dataclasses

import pytest

from leapgen import EngineConfig, LeapConfig, SamplingConfig
from leapgen.terminal.cli import build_parser
from leapgen.terminal.options import argument_docs, byte_count, given

COMMANDS = ("run", "demo", "show", "resume", "synth", "sft", "eval", "experiment", "serve")
NOT_WRITABLE = {"logits_processors", "sampling_defaults"}  # objects; what official() says of sampling


def parser_of(command):
    commands = next(action for action in build_parser()._actions if isinstance(action, argparse._SubParsersAction))
    assert set(commands.choices) == set(COMMANDS)
    return commands.choices[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_says_what_it_is(command):
    """Would catch: forty bare names to be looked up in the source."""
    parser = parser_of(command)
    assert [action.dest for action in parser._actions if not (action.help or "").strip()] == []
    text = parser.format_help()
    assert "``" not in text and max(map(len, text.split("\n"))) <= max(80, parser.formatter_class("")._width)


@pytest.mark.parametrize("command", ["run", "demo", "synth", "eval", "experiment"])
@pytest.mark.parametrize("config", [LeapConfig, SamplingConfig, EngineConfig])
def test_every_field_is_an_option_with_the_words_of_its_docstring(command, config):
    """Would catch: a setting that only Python can reach, or a field added without a word on it."""
    actions = {option: action for action in parser_of(command)._actions for option in action.option_strings}
    docs = argument_docs(config)
    for field in dataclasses.fields(config):
        assert docs[field.name]
        if field.name not in NOT_WRITABLE:
            action = actions[f"--{field.name.replace('_', '-')}"]
            assert action.help.startswith(docs[field.name].replace("%", "%%")[:15])


@pytest.mark.parametrize(("config", "arguments", "values"), [
    (LeapConfig, ["--blocks", "0", "2", "--stop-strings", "a", "--stop-strings", "b c", "--stop-token-ids", "1", "2"],
     {"blocks": [0, 2], "stop_strings": ["a", "b c"], "stop_token_ids": [1, 2]}),
    (LeapConfig, ["--max-blocks", "none", "--no-explain", "--think-start", ""],
     {"max_blocks": None, "explain": False, "think_start": ""}),
    (SamplingConfig, ["--top-k", "None", "--temperature", "0.5"], {"top_k": None, "temperature": 0.5}),
    (EngineConfig, ["--kv-cache-bytes", "8G", "--max-step-tokens", "64", "--no-compile", "--kv-cache-fraction", "0.25"],
     {"kv_cache_bytes": 8 << 30, "max_step_tokens": 64, "compile": False, "kv_cache_fraction": 0.25}),
])
def test_values_are_read_as_the_fields_have_them(config, arguments, values):
    """Would catch: ``"8G"`` as text, one stop string of two, a default that overrides a preset's value."""
    options = build_parser().parse_args(["run", "?", "--model", "m", *arguments])
    assert given(options, config) == values
    assert config(**given(options, config)) == config().replace(**values)


@pytest.mark.parametrize(("text", "number"), [("1024", 1024), ("8G", 8 << 30), ("8GiB", 8 << 30), ("1.5m", 3 << 19),
                                              ("2 TB", 2 << 40), ("512k", 512 << 10)])
def test_bytes_have_units(text, number):
    assert byte_count(text) == number


@pytest.mark.parametrize("arguments", [["--kv-cache-bytes", "much"], ["--interval", "x"], ["--blocks", "0", "x"],
                                       ["--top-k", "1.5"]])
def test_a_value_of_the_wrong_kind_is_named(capsys, arguments):
    """Would catch: ``invalid <lambda> value``."""
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args(["run", "?", "--model", "m", *arguments])
    error = capsys.readouterr().err
    assert left.value.code == 2 and arguments[0] in error and repr(arguments[-1]) in error and "lambda" not in error
