"""Runs the model: a step's chunks in, one row of logits for each sample out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import psutil
import torch
from leapgen_kernels import cpu
from torch import Tensor
from transformers import PreTrainedModel

from leapgen.config import EngineConfig
from leapgen.engine.backends.cpu.compiler import layers as fast
from leapgen.engine.backends.cpu.compiler.layers import FastModules
from leapgen.engine.backends.cuda import graphs
from leapgen.engine.memory.kv import GrowingKVCache, KVCache
from leapgen.engine.model import attention, support
from leapgen.engine.model.fingerprint import Fingerprint
from leapgen.engine.model.locks import Locks
from leapgen.engine.sampling.host import Sampled, sample
from leapgen.engine.scheduler import Chunk, PoolTooSmallError
from leapgen.engine.step import StepPlan

logger = logging.getLogger(__name__)


class Runner:
    """The model in the state it is in now, and its KV cache.

    The model's attention implementation is switched only while a step runs, so between steps it is as the user left it.

    Args:
        model: in any mode, and left in it.
        cache: of an earlier state, taken over where this one's keys and values have the same geometry and emptied where not.

    Raises:
        UnsupportedModelError: the model cannot be served exactly.
        PoolTooSmallError: the KV limit does not hold two pages.
    """

    @torch.inference_mode(False)  # the pool outlives the call
    def __init__(self, model: PreTrainedModel, config: EngineConfig, cache: KVCache | None = None) -> None:
        attention.register()
        self.model = model
        self.kernels = config.kernels
        self.max_batch_size = config.max_batch_size
        self.context_length, self.context_reason = support.check_config(model, config.context_length)
        self.vocab_size = model.get_input_embeddings().weight.shape[0]
        if not self.vocab_size:
            raise support.UnsupportedModelError(model, "its input embedding is empty.")
        self.input_device = model.get_input_embeddings().weight.device
        if self.input_device.type == "meta":  # offloaded by accelerate: its hooks move the inputs
            self.input_device = model.device
        self._configs = support.attention_configs(model)
        self.locks = Locks(self._configs)
        self.fast: FastModules | None = None
        self.graphs: graphs.DecodeGraphs | None = None
        with all_of(model), support.eval_mode(model):
            probe = GrowingKVCache(num_pages=8, page_size=4)
            support.check_forward(self, probe)
            self.cache = self._cache_for(probe, config, cache)
            if config.kernels:
                support.warn_of_missing_kernels(self.cache)
            if config.kernels and all(cpu.serves(keys) for keys in self.cache.keys.values()):
                self.fast = FastModules(model, self._worth_compiling(config, fast.WORTH_COMPILING))
                self.fast.warm_up(self._run_padding, self._fast_agrees)
                self.locks = Locks([*self._configs, *self.fast.modules])
            if config.kernels and config.graphs:
                self.graphs = self._captured(self._worth_compiling(config, graphs.WORTH_COMPILING))
            self.fingerprint = Fingerprint(model, addresses=self.graphs is not None)
            self._trial(None, tokens=1)
            self.fingerprint.settle()

    def _cache_for(self, probe: KVCache, config: EngineConfig, earlier: KVCache | None) -> KVCache:
        if earlier is not None and earlier.specs == probe.specs:
            return earlier
        if earlier is not None:
            earlier.empty()  # first, as the new one is cut from what is free
        return KVCache(probe.specs, _pages_within(config, probe, self.context_length), config.page_size)

    def _worth_compiling(self, config: EngineConfig, parameters: int) -> bool:
        if config.compile is not None:
            return config.compile
        return sum(p.numel() for p in self.model.parameters()) >= parameters

    def _captured(self, compile: bool) -> graphs.DecodeGraphs | None:
        """Decode steps as graphs, where the model can be captured."""
        if not graphs.can_capture(self):
            return None
        try:
            captured = graphs.DecodeGraphs(self, compile)
            captured.warm_up()
        except Exception as error:  # a model whose code waits for the device, a device out of memory
            logger.warning("decode steps are not captured as CUDA graphs, they are slower: %s", error)
            return None
        return captured

    def step(self, chunks: list[Chunk]) -> Sampled | None:
        """One forward pass, and a token for each of the chunks' ``samples`` in their order; None where there are none.

        Raises:
            NonFiniteLogitsError: names path and position.
        """
        if self.graphs is not None and self.graphs.serve(chunks):
            return self.graphs.step(chunks)
        logits = self.forward(chunks)
        rows = [row for chunk in chunks for row in chunk.samples]
        return sample(logits, [length for length, _ in rows], [s for _, s in rows], self.kernels) if rows else None

    def forward(self, chunks: list[Chunk]) -> Tensor:
        """One forward pass; logits [samples, vocab] in the order of the chunks' ``samples``."""
        starts, ends = [c.start for c in chunks], [c.end + len(c.sequence.drafts) for c in chunks]
        plan = StepPlan.build(self.cache, [c.sequence.pages for c in chunks], starts, ends, self.kernels)
        tokens = [token for c in chunks for token in c.tokens]
        rows = np.array([plan.query_starts[i] + length - 1 - c.start
                         for i, c in enumerate(chunks) for length, _ in c.samples], dtype=np.int64)
        unique, order = np.unique(rows, return_inverse=True)
        logits = self.run(tokens, plan, unique)
        return logits if np.array_equal(unique, rows) else logits[torch.from_numpy(order).to(logits.device)]

    @torch.inference_mode(False)  # which switches gradients on
    @torch.no_grad()
    def run(self, tokens: list[int], plan: StepPlan, rows: np.ndarray) -> Tensor:
        """Logits [rows, vocab] of a packed step: tokens [total], the plan that says whose they are, rows [rows]."""
        if self.model.training:
            raise RuntimeError("the model is in training mode: dropout would change what it computes. Call model.eval().")
        device, positions = self.input_device, plan.positions
        compiled = self.fast is not None and self.fast.compiled
        if compiled and len(tokens) < 2:  # one graph serves every size but one: the second token is padding
            tokens, positions = [*tokens, 0], np.append(positions, 0)
        with self.paged_attention():
            output = self.model(
                input_ids=torch.tensor([tokens], dtype=torch.int64, device=device),  # [1, total]
                position_ids=torch.from_numpy(positions).to(device)[None],  # [1, total]
                use_cache=False, leapgen_plan=plan.packed() if compiled else plan,
                logits_to_keep=torch.from_numpy(rows).to(device))
        return output.logits[0]

    def _run_padding(self, tokens: int) -> Tensor:
        """Logits [2, vocab] of a step of nobody's tokens: every layer runs, no page is touched."""
        plan = StepPlan.build(self.cache, [], [], [])
        plan.positions = np.arange(tokens)
        return self.run([0] * tokens, plan, np.arange(2))

    def _trial(self, modules: FastModules | None, tokens: int) -> Tensor:
        """Logits [tokens, vocab] of a text in pages 0 and 1, which nobody has, by these modules or by the model's own."""
        before, self.fast = self.fast, modules
        try:
            plan = StepPlan.build(self.cache, [[0, 1]], [0], [tokens], self.kernels)
            return self.run([i % self.vocab_size for i in range(3, 3 + tokens)], plan, np.arange(tokens))
        finally:
            self.fast = before

    def _fast_agrees(self) -> bool:
        tokens = min(2 * self.cache.page_size, 7)
        own = self._trial(None, tokens)
        errors = support.relative_errors(self._trial(self.fast, tokens), own)
        return float(errors.median()) <= support.tolerance_of(self.model, own.dtype)

    @contextmanager
    def paged_attention(self) -> Iterator[None]:
        with self.locks:
            before = [config._attn_implementation for config in self._configs]
            for config in self._configs:
                config._attn_implementation = attention.NAME
            try:
                with self.fast.active() if self.fast else nullcontext():
                    yield
            finally:
                for config, implementation in zip(self._configs, before, strict=True):
                    config._attn_implementation = implementation


def all_of(model: PreTrainedModel) -> Locks:
    """Locks for whatever a step may come to change in a model."""
    return Locks([*support.attention_configs(model), *model.modules()])


def _pages_within(config: EngineConfig, probe: KVCache, context_length: int) -> int:
    """How many pages the limit allows, and never more than a full batch of full contexts could use."""
    page_bytes = probe.bytes_per_token * config.page_size
    limit = config.kv_cache_bytes
    if limit is None:
        limit = _free_bytes(probe) * config.kv_cache_fraction
    pages = int(limit // page_bytes)
    if pages < 2:
        raise PoolTooSmallError(f"a KV limit of {int(limit)} bytes holds {pages} pages of {page_bytes} bytes "
                                f"({config.page_size} tokens); at least two are needed. Raise kv_cache_bytes or "
                                "kv_cache_fraction.")
    return min(pages, config.max_batch_size * -(-context_length // config.page_size))


def _free_bytes(probe: KVCache) -> float:
    """Free memory the pool may be cut from: of the device that, for the layers it holds, has the least."""
    layers: dict[torch.device, int] = {}
    for spec in probe.specs.values():
        layers[spec.device] = layers.get(spec.device, 0) + spec.bytes_per_token
    return min(_free_on(device) * probe.bytes_per_token / held for device, held in layers.items())


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
