"""Models and tokenizers of transformers: loaded by name, and found from each other."""

from __future__ import annotations

import os
from typing import Any, cast

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from leapgen.models import SMOLLM2, model_path, smollm2_files


def load(name: str, **model_options: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model, in evaluation mode, and tokenizer: of a folder, else of a bundled model, else of transformers' hub.

    Raises:
        FileNotFoundError, ValueError: files of a bundled model are missing or damaged.
    """
    path = model_path(name)
    tokenizer = AutoTokenizer.from_pretrained(path)
    return AutoModelForCausalLM.from_pretrained(path, **model_options).eval(), tokenizer


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that ``load`` loads, or of SmolLM2.

    Raises:
        ModuleNotFoundError: SmolLM2 is not installed. OSError, ValueError: transformers cannot load it.
    """
    if name == SMOLLM2:
        folder, file = smollm2_files()
        return AutoTokenizer.from_pretrained(folder, gguf_file=file)
    return AutoTokenizer.from_pretrained(model_path(name))


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that stands where the model was loaded from.

    Raises:
        ValueError: there is none.
    """
    name = getattr(model.config, "name_or_path", "")
    hint = "Pass it: LeapGenerator(model, tokenizer)."
    if not name:
        raise ValueError(f"no tokenizer was given and the model does not say where it came from. {hint}")
    try:
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:  # whatever keeps a tokenizer from loading, the way out is the same
        raise ValueError(f"no tokenizer was given and none can be loaded from {name!r}: {error}. {hint}") from error


def name_of(model: PreTrainedModel) -> str:
    """The name to load a model by; for a folder its whole path, which is right from everywhere."""
    name = str(getattr(model.config, "name_or_path", "") or "")
    return os.path.abspath(name) if name and os.path.isdir(name) else name


def vocabulary_size(model: PreTrainedModel) -> int:
    """Token ids that the model has embeddings for."""
    return cast(Tensor, model.get_input_embeddings().weight).shape[0]
