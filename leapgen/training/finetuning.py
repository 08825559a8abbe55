"""Supervised fine-tuning on LeaP responses (section 4 and appendix E of arXiv 2505.07787), by transformers' Trainer."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from leapgen.hub import save_custom_generate
from leapgen.pretrained import vocabulary_size
from leapgen.record.run import KINDS
from leapgen.training.recipe import Recipe

IGNORED = -100  # the label of tokens without loss
LONG = 4096  # tokens from which on activations are computed again in the backward pass


class Responses(Dataset[dict[str, list[int]]]):
    """Responses as ``leapgen.training.synthesis`` writes them: input_ids and labels, both [length].

    Raises:
        ValueError: a line is malformed, or nothing is to be learned from a file; names file and line.
        OSError: the file cannot be read.
    """

    def __init__(self, file: str | os.PathLike[str], learned: Sequence[str], max_length: int,
                 vocab_size: int | None = None) -> None:
        self.samples: list[tuple[list[int], list[int]]] = []
        for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
            if not line.strip():
                continue
            try:
                self.samples.append(_labelled(json.loads(line), learned, max_length, vocab_size))
            except (ValueError, KeyError, TypeError) as error:
                what = f"no field {error}" if isinstance(error, KeyError) else error
                raise ValueError(f"{file}, line {number}: {what}.") from error
        if not any(label != IGNORED for _, labels in self.samples for label in labels):
            raise ValueError(f"{file} has no token to learn from ({len(self.samples)} responses, learned: "
                             f"{', '.join(learned)}).")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> dict[str, list[int]]:
        return dict(zip(("input_ids", "labels"), self.samples[i], strict=True))


def _labelled(entry: dict[str, Any], learned: Sequence[str], max_length: int,
              vocab_size: int | None) -> tuple[list[int], list[int]]:
    tokens, runs = entry["token_ids"], entry["provenance"]
    if not all(isinstance(token, int) and 0 <= token < (vocab_size or token + 1) for token in tokens):
        raise ValueError(f"a token id is outside the model's vocabulary of {vocab_size}: another tokenizer made the data")
    if sum(length for _, length in runs) != len(tokens) or not {kind for kind, _ in runs} <= set(KINDS):
        raise ValueError("provenance does not describe token_ids")
    kinds = [kind for kind, length in runs for _ in range(length)]
    labels = [token if kind in learned else IGNORED for token, kind in zip(tokens, kinds, strict=True)]
    return tokens[:max_length], labels[:max_length]


@dataclass(frozen=True)
class Padding:
    """Makes a batch: padding on the right, where causal attention never looks. All tensors int64 [responses, longest]."""

    pad: int

    def __call__(self, samples: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(sample["input_ids"]) for sample in samples)

        def padded(name: str, value: int) -> torch.Tensor:
            rows = [sample[name] + [value] * (longest - len(sample[name])) for sample in samples]
            return torch.tensor(rows, dtype=torch.int64)

        mask = [[1] * len(s["input_ids"]) + [0] * (longest - len(s["input_ids"])) for s in samples]
        return {"input_ids": padded("input_ids", self.pad), "labels": padded("labels", IGNORED),
                "attention_mask": torch.tensor(mask, dtype=torch.int64)}


def finetune(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: str | os.PathLike[str],
             output: str | os.PathLike[str], recipe: Recipe, *, per_device: int = 1, seed: int = 0, lora: int | None = None,
             **arguments: Any) -> PreTrainedModel:
    """Trains a causal LM on responses and saves it with its tokenizer in ``output/model``.

    Loaded from there with ``trust_remote_code=True``, its ``generate`` is LeaP.

    Checkpoints are kept in ``output``; called again after an interruption, it goes on from the last. Works under
    ``accelerate launch``.

    Args:
        per_device: responses a device computes at a time; the rest of ``recipe.batch_size`` is accumulated.
        lora: rank of LoRA adapters on all linear layers (needs peft); they are merged into the saved model. None trains all.
        arguments: further ones of transformers' ``TrainingArguments``.

    Raises:
        ValueError: malformed data, or a batch size the devices cannot share.
        ModuleNotFoundError: LoRA without peft; says how to install it.
    """
    set_seed(seed)
    data = Responses(file, recipe.learned, recipe.max_length, vocabulary_size(model))
    if lora is not None:
        model = _with_lora(model, lora)
    devices = int(os.environ.get("WORLD_SIZE", 1))
    if recipe.batch_size % (per_device * devices):
        raise ValueError(f"batch_size={recipe.batch_size} is no multiple of {per_device=} times {devices} devices.")
    settings = {
        "output_dir": str(output), "num_train_epochs": recipe.epochs, "per_device_train_batch_size": per_device,
        "gradient_accumulation_steps": recipe.batch_size // (per_device * devices), "learning_rate": recipe.learning_rate,
        "weight_decay": recipe.weight_decay, "warmup_steps": recipe.warmup, "lr_scheduler_type": "cosine",
        "bf16": recipe.bf16, "seed": seed,
        "logging_steps": 10, "save_strategy": "epoch", "save_total_limit": 2, "report_to": [],
        "remove_unused_columns": False, "use_cpu": not torch.cuda.is_available(),
        **arguments}
    if recipe.max_length > LONG:
        model.gradient_checkpointing_enable()
    cached = model.config.use_cache  # the Trainer switches it off, and would save it so
    trainer = Trainer(model=model, args=TrainingArguments(**settings), train_dataset=data,
                      data_collator=Padding(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(output)) if Path(output).is_dir() else None)
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    model = trained if lora is None else trained.merge_and_unload()
    model.config.use_cache = cached
    if trainer.is_world_process_zero():
        model.save_pretrained(Path(output) / "model")
        tokenizer.save_pretrained(Path(output) / "model")
        save_custom_generate(Path(output) / "model")
    return model


def _with_lora(model: PreTrainedModel, rank: int) -> PreTrainedModel:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("LoRA needs peft: pip install peft") from error
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return cast(PreTrainedModel, get_peft_model(model, config))  # it has all attributes of the model
