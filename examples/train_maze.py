"""Trains a maze reasoner from nothing: transformers' Trainer on an endless stream of synthetic walks.

    python examples/train_maze.py --output runs/maze
    python examples/train_maze.py --output runs/maze                  # again: goes on from the last checkpoint

Writes checkpoints, ``loss.json`` (the loss curve) and, at the end, ``model/`` in bfloat16 with its tokenizer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import IterableDataset
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from leapgen.models import save_bundled
from leapgen.tasks.maze.maze import Shape
from leapgen.tasks.maze.samples import IGNORED, Mix, Sample, SampleMaker
from leapgen.tasks.maze.tokenizer import END, build_tokenizer

TINY = (Shape(2, 2, 1), Shape(2, 2, 2), Shape(3, 2, 1), Shape(2, 3, 2))
SMALL = tuple(Shape(d, c, n) for d in (2, 3, 4) for c in (2, 3) for n in (1, 2, 3))


# Looking things up is learned from drills and tiny mazes first, in minutes; large mazes alone show little of it.


class Batches(IterableDataset):
    """Batches of samples of like length, so that little is padded; the n-th batch is the same in every run.

    Args:
        tokens: of a batch, padding included, at most.
        small: batches at the beginning whose mazes are small.
        pool: samples sorted by length at a time.
    """

    def __init__(self, tokenizer, tokens: int, seed: int, small: int, pool: int = 256) -> None:
        self.tokenizer, self.tokens, self.seed, self.small, self.pool = tokenizer, tokens, seed, small, pool

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        count = 0
        for epoch in itertools.count():
            mix = (Mix(shapes=TINY, blocks=(1.0,), drills=0.8, told=0.0) if count < self.small // 3
                   else Mix(shapes=SMALL, blocks=(0.6, 0.3, 0.1), drills=0.4, told=0.3) if count < self.small else Mix())
            maker = SampleMaker(self.tokenizer, mix, seed=f"{self.seed}/{epoch}")
            batches = list(self._batches([maker.make() for _ in range(self.pool)]))
            maker.rng.shuffle(batches)
            for batch in batches:
                count += 1
                yield self._tensors(batch)

    def _batches(self, samples: list[Sample]) -> Iterator[list[Sample]]:
        batch: list[Sample] = []
        for sample in sorted(samples, key=lambda sample: len(sample.token_ids)):
            if batch and len(sample.token_ids) * (len(batch) + 1) > self.tokens:
                yield batch
                batch = []
            batch.append(sample)
        yield batch

    def _tensors(self, batch: list[Sample]) -> dict[str, torch.Tensor]:
        """input_ids, labels: [samples, longest]. Padding is on the right, where causal attention never looks."""
        longest = max(len(sample.token_ids) for sample in batch)
        pad = self.tokenizer.pad_token_id
        return {"input_ids": torch.tensor([s.token_ids + [pad] * (longest - len(s.token_ids)) for s in batch]),
                "labels": torch.tensor([s.labels + [IGNORED] * (longest - len(s.labels)) for s in batch])}


class LossCurve(TrainerCallback):
    """Appends what the Trainer logs to a JSON file; an earlier run's curve is gone on with."""

    def __init__(self, file: Path) -> None:
        self.file, self.began = file, time.time()

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" in (logs or {}):
            curve = json.loads(self.file.read_text()) if self.file.exists() else []
            curve = [point for point in curve if point["step"] < state.global_step]
            curve.append({"step": state.global_step, "loss": logs["loss"], "learning_rate": logs["learning_rate"],
                          "seconds": round(time.time() - self.began, 1)})
            self.file.write_text(json.dumps(curve, indent=0))
            print(curve[-1], flush=True)


@torch.no_grad()
def begin_looking(model: LlamaForCausalLM, sharpness: float = 30.0, gain: float = 0.15, match: float = 1.2) -> None:
    """Weights to begin with from which looking things up is learned in minutes on a CPU.

    Heads copy what they attend to (mimetic initialisation, arXiv 2305.09828); those of the first layer look one, two and
    three tokens back by their biases, and three of the second seek tokens that follow the same word (induction heads,
    arXiv 2209.11895). Everything is trained on from there.

    Args:
        sharpness: logit of a look back; gain: what the first layer writes; match: scale of queries and keys that seek.
    """
    config, layers = model.config, [layer.self_attn for layer in model.model.layers]
    width, heads, size = config.hidden_size, config.num_attention_heads, config.head_dim
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(size // 2) / (size // 2))
    for layer in model.model.layers:
        layer.mlp.down_proj.weight.mul_(0.05)
        basis = torch.linalg.qr(torch.randn(heads * size, width))[0]
        layer.self_attn.v_proj.weight.copy_(0.5 * basis)
        layer.self_attn.o_proj.weight.copy_(0.5 * basis.T)
    first, second = layers[:2]
    reading = torch.linalg.qr(torch.randn(width, size))[0].T
    fast = 3  # the pairs of dimensions that tell neighbouring positions apart
    amplitude = math.sqrt(sharpness * math.sqrt(size) / fast)
    for head, back in zip(range(heads - 1), (1, 2, 3), strict=False):
        at = slice(head * size, (head + 1) * size)
        angle = -back * frequencies[:fast]
        first.k_proj.bias[at][:fast] = amplitude
        first.q_proj.bias[at][:fast] = amplitude * angle.cos()
        first.q_proj.bias[at][size // 2 : size // 2 + fast] = amplitude * angle.sin()
        first.q_proj.weight[at] *= 0.1
        first.k_proj.weight[at] *= 0.1
        first.v_proj.weight[at] = reading
        first.o_proj.weight[:, at] = gain * torch.linalg.qr(torch.randn(width, size))[0]
    before, earlier = (first.o_proj.weight[:, i * size : (i + 1) * size].T / gain for i in range(2))  # 1, 2 words back
    for head, (query, key) in enumerate(((reading, before), (before, before), (before, earlier))):
        at = slice(head * size, (head + 1) * size)
        second.q_proj.weight[at] = match * query
        second.k_proj.weight[at] = match * key


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """The model as it ships: bfloat16, with its tokenizer and checksums."""
    ends = {"eos_token_id": model.config.eos_token_id, "pad_token_id": model.config.pad_token_id}
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, top_k=None, top_p=1.0, **ends)
    save_bundled(model, tokenizer, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--small-steps", type=int, default=400, help="steps at the beginning on small mazes only")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=64, help="a sum of several rooms' names has to fit into it")
    parser.add_argument("--start", type=Path, default=None, help="begin from these weights instead of from nothing")
    parser.add_argument("--only-save", type=Path, default=None, metavar="CHECKPOINT",
                        help="train nothing: write this checkpoint to OUTPUT/model as it ships")
    parser.add_argument("--save-steps", type=int, default=250)
    options = parser.parse_args()

    set_seed(options.seed)
    tokenizer = build_tokenizer()
    if options.only_save:
        save(LlamaForCausalLM.from_pretrained(options.only_save, dtype=torch.float32), tokenizer, options.output / "model")
        return
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=options.hidden, intermediate_size=3 * options.hidden,
        num_hidden_layers=options.layers, num_attention_heads=options.heads, num_key_value_heads=options.heads,
        head_dim=options.head_dim, attention_bias=True,
        max_position_embeddings=1024, tie_word_embeddings=True, initializer_range=0.08,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END), pad_token_id=tokenizer.pad_token_id)
    if options.start:
        model = LlamaForCausalLM.from_pretrained(options.start, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(config)
        begin_looking(model)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    arguments = TrainingArguments(
        output_dir=str(options.output), max_steps=options.steps, per_device_train_batch_size=1,
        learning_rate=options.learning_rate, lr_scheduler_type="cosine", warmup_steps=min(100, options.steps // 10),
        weight_decay=0.01, adam_beta2=0.98, max_grad_norm=1.0, logging_steps=50, save_steps=options.save_steps,
        save_total_limit=2, seed=options.seed, report_to=[], disable_tqdm=True, remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available())
    trainer = Trainer(
        model=model, args=arguments, data_collator=lambda batches: batches[0],
        train_dataset=Batches(tokenizer, options.batch_tokens, options.seed, options.small_steps),
        callbacks=[LossCurve(options.output / "loss.json")])
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.output)))
    save(model, tokenizer, options.output / "model")


if __name__ == "__main__":
    main()
