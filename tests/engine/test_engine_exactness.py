"""Invariant 1: logits over pages equal those of one full forward, for every architecture the project names."""

import pytest
import tiny
import torch
from oracle import LogitsRecorder

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, Stream

PROMPT = [3 + 5 * i % 150 for i in range(30)]
SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 22, max_step_tokens=16)  # prefill in chunks, many pages


def build(name, dtype):
    # transformers' grouped expert kernels have no float64 form
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}
    return tiny.build(name, dtype, **experts)


@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_greedy_equals_generate(name):
    """Would catch: wrong positions, windows, scaling, sinks, softcap, head grouping or page addressing."""
    model = build(name, torch.float64)
    engine = Engine(model, SMALL)
    sequence = engine.add(PROMPT, SamplingConfig.greedy(), limit=len(PROMPT) + 24)
    while engine.has_work:
        engine.step()
    expected = model.generate(torch.tensor([PROMPT]), max_new_tokens=24, do_sample=False, eos_token_id=None)[0].tolist()
    assert len(set(expected[len(PROMPT):])) > 2, "the model says one thing only: the test could not fail"
    assert sequence.tokens == expected


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", tiny.ARCHITECTURES)
def test_logits_through_fork_crop_and_extend(name, dtype, tolerance):
    """Would catch: a stale page after a crop, a twin reading its sibling, forced tokens at wrong positions.

    The float64 bound is what transformers' float32 rotary tables and float32 softmax (eager) leave.
    """
    model = build(name, dtype)
    engine = Engine(model, SMALL)
    recorder = LogitsRecorder(engine)
    sampling = SamplingConfig(temperature=1.0, top_k=None, top_p=1.0)
    root = engine.add(PROMPT, sampling, limit=len(PROMPT) + 9)
    twins = [engine.fork(root, stream=Stream(7, i)) for i in range(1, 3)]
    while engine.has_work:
        engine.step()
    engine.crop(twins[0], len(PROMPT) + 3)
    engine.extend(twins[0], [9, 8, 7, 6, 5], limit=len(PROMPT) + 16)
    late = engine.fork(root, stream=Stream(7, 3))
    engine.extend(late, [11, 12], limit=len(PROMPT) + 20)
    engine.extend(root, limit=len(PROMPT) + 14)
    while engine.has_work:
        engine.step()
    assert recorder.worst_error(model, [root, *twins, late]) < tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_half_precision_logits_stay_close(name, dtype):
    """Would catch: half-precision pages written or read in another dtype. Bound: 5% of the logits' spread."""
    model = tiny.build(name, dtype)
    engine = Engine(model, SMALL)
    recorder = LogitsRecorder(engine)
    sequence = engine.add(PROMPT, SamplingConfig.greedy(), limit=len(PROMPT) + 8)
    while engine.has_work:
        engine.step()
    from oracle import full_logits

    expected = full_logits(model, sequence.tokens).float()
    errors = [(row.float() - expected[length - 1]).norm() / expected[length - 1].std() / row.numel() ** 0.5
              for length, row in recorder.rows[sequence].items()]
    assert max(errors) < 0.05


def test_model_is_left_as_it_was(llama):
    """Would catch: an attention implementation that stays switched, which breaks the user's own padded batches."""
    before = llama.config._attn_implementation
    engine = Engine(llama, SMALL)
    engine.add(PROMPT, limit=len(PROMPT) + 2)
    engine.step()
    assert llama.config._attn_implementation == before
    assert not llama.training


def test_layers_offloaded_by_accelerate(tmp_path):
    """Would catch: plan or pool tensors on another device than the layer; hooks that drop the plan."""
    from accelerate import dispatch_model

    prompt, outputs = PROMPT, []
    for offload in (False, True):
        model = tiny.build("llama")
        if offload:
            model = dispatch_model(model, {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
                                           "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"},
                                   main_device="cpu", offload_dir=tmp_path, force_hooks=True)
        engine = Engine(model, SMALL)
        sequence = engine.add(prompt, SamplingConfig.greedy(), limit=len(prompt) + 8)
        while engine.has_work:
            engine.step()
        outputs.append(sequence.tokens)
    assert outputs[0] == outputs[1]
