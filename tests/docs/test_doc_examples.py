"""Code in README and docs runs as it stands, with a tiny random model wherever it loads one."""

import re
import shlex
from pathlib import Path

import pytest
import tiny
import tiny_tokenizer
import torch
from doc_pages import PAGES, ROOT, blocks
from transformers import AutoModelForCausalLM, AutoTokenizer

from leapgen import LeapGenerator
from leapgen.terminal.cli import build_parser

PYTHON = [block for page in PAGES for block in blocks(page, "python")]
COMMANDS = [(block, line) for page in PAGES for block in blocks(page, "sh") for line in block.text.splitlines() if line]
# Intervals and budgets that a random model gets through in no time; the pages have those of real models.
SMALL = {"interval": 8, "max_new_tokens": 18, "summary_tokens": 5, "forced_answer_tokens": 3, "written_answer_tokens": 3}


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What a page may take for granted, and a folder to run in."""
    model = tiny.build("llama", torch.float32, vocab_size=tiny_tokenizer.VOCAB, max_position_embeddings=4096)
    tokenizer = tiny_tokenizer.byte_level()
    settings = LeapGenerator.settings

    def small(self, *arguments):
        leap, sampling = settings(self, *arguments)
        return leap.replace(**SMALL), sampling

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("examples"))
        patch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: model)
        patch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
        patch.setattr(LeapGenerator, "settings", small)
        yield {"model": model, "tokenizer": tokenizer, "generator": LeapGenerator(model, tokenizer),
               "question": "What is 12 + 30?"}


@pytest.fixture(scope="module")
def ran(names):
    """The names of each page after the blocks before have run; how many that were."""
    return {page: (dict(names), 0) for page in PAGES}


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_a_block_of_python_runs_after_those_before_it_on_its_page(block, ran):
    """Would catch: a name that has changed, an example that needs a line nobody wrote."""
    if block.reason:
        pytest.skip(block.reason)
    names, line = ran[block.page]
    for one in blocks(block.page, "python"):
        if line < one.line <= block.line and not one.reason:
            exec(compile("\n" * (one.line - 1) + one.text, str(one.page), "exec"), names)
    ran[block.page] = names, block.line


@pytest.mark.parametrize(("block", "line"), COMMANDS, ids=lambda value: str(value)[:60])
def test_a_command_can_be_typed(block, line):
    """Would catch: an option, a script or a target of make that is not there."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "leapgen":
        build_parser().parse_args(arguments)  # exits where it does not understand
    elif program == "make":
        assert f"\n{arguments[0]}: " in (ROOT / "Makefile").read_text(), line
    elif program == "python":
        script = ROOT / arguments[0]
        text = script.read_text()
        for module in re.findall(r"^(?:from|import) (\w+)", text, flags=re.MULTILINE):  # options that scripts share
            beside = script.with_name(f"{module}.py")
            text += beside.read_text() if beside.is_file() else ""
        assert [option for option in arguments if option.startswith("--") and f'"{option}"' not in text] == [], line
    else:
        assert program == "pip" and Path(ROOT / arguments[2]).is_file(), line
