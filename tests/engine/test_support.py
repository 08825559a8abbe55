"""What cannot be served exactly is refused when the engine is made, by name and with the reason."""

import copy
import logging

import pytest
import tiny
import torch
from oracle import LogitsRecorder
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoModelForSeq2SeqLM,
    LlamaForCausalLM,
)

from leapgen.config import EngineConfig, SamplingConfig
from leapgen.engine import Engine, NonFiniteLogitsError, PoolTooSmallError, Stream, UnsupportedModelError

SMALL = EngineConfig(page_size=4, kv_cache_bytes=1 << 22)
LLAMA = tiny.ARCHITECTURES["llama"]
HEAD_DIM = tiny.ARCHITECTURES["qwen3"]
PROMPT = [3 + 5 * i % 150 for i in range(30)]
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}

REFUSED = {
    "t5": (AutoModelForSeq2SeqLM, {"vocab_size": 160, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
                                   "num_heads": 4},
           "T5ForConditionalGeneration cannot be served: it is an encoder-decoder"),
    "mamba": (AutoModelForCausalLM, {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
              "MambaForCausalLM cannot be served: it has recurrent layers"),
    "recurrent_gemma": (AutoModelForCausalLM, {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 3,
                                               "num_attention_heads": 4, "intermediate_size": 32},
                        "RecurrentGemmaForCausalLM cannot be served: it has recurrent layers"),
    "qwen3_next": (AutoModelForCausalLM, {
        **HEAD_DIM, **MOE, "num_hidden_layers": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8},
                   "Qwen3NextForCausalLM cannot be served: .*recurrent layers"),
    "minimax": (AutoModelForCausalLM, {**LLAMA, "num_local_experts": 2,
                                       "layer_types": ["linear_attention", "full_attention"]},
                "MiniMaxForCausalLM cannot be served: it has layers of type linear_attention"),
    "lfm2": (AutoModelForCausalLM, {**LLAMA, "layer_types": ["conv", "full_attention"]},
             "Lfm2ForCausalLM cannot be served: it has layers of type conv"),
    "llama4_text": (AutoModelForCausalLM, {**HEAD_DIM, "num_hidden_layers": 4, "intermediate_size_mlp": 48,
                                           "num_local_experts": 2, "num_experts_per_tok": 1, "attention_chunk_size": 8},
                    "Llama4ForCausalLM cannot be served: it has layers of type chunked_attention"),
    "bloom": (AutoModelForCausalLM, {"vocab_size": 160, "hidden_size": 32, "n_layer": 2, "n_head": 4},  # ALiBi
              "BloomForCausalLM cannot be served: its attention does not go through transformers' AttentionInterface"),
    "doge": (AutoModelForCausalLM, LLAMA, "DogeForCausalLM cannot be served: DogeAttention passes an attention mask"),
    "bert": (AutoModelForCausalLM, {"vocab_size": 160, "hidden_size": 32, "num_hidden_layers": 2,
                                    "num_attention_heads": 4, "intermediate_size": 32},
             "BertLMHeadModel cannot be served: BertSelfAttention is not causal"),
    "gemma3n_text": (AutoModelForCausalLM, {
        **HEAD_DIM, "num_hidden_layers": 5, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 160,
        "hidden_size_per_layer_input": 8, "laurel_rank": 4, "activation_sparsity_pattern": None, "pad_token_id": 0,
        "layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"]},
        "Gemma3nForCausalLM cannot be served: 2 of its layers read another layer's KV"),
    "llama": (AutoModel, LLAMA, "LlamaModel cannot be served: it has no language modelling head"),
    "granitemoehybrid": (AutoModelForCausalLM, {
        **LLAMA, "num_local_experts": 2, "shared_intermediate_size": 16, "mamba_n_heads": 4,
        "layer_types": ["full_attention", "linear_attention"]},
                         "GraniteMoeHybridForCausalLM cannot be served: it has recurrent layers"),
    "video_llama_3": (AutoModelForMultimodalLM, {
        "text_config": {**LLAMA, "model_type": "qwen2"},
        "vision_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                          "patch_size": 4}},
        "VideoLlama3ForConditionalGeneration cannot be served: its forward does not heed logits_to_keep"),
    "qwen2_5_omni_thinker": (AutoModelForMultimodalLM, {
        "text_config": {**LLAMA, "model_type": "qwen2_5_omni_text", "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 4,
                          "out_hidden_size": 32, "fullatt_block_indexes": [0]},
        "audio_config": {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 48,
                         "output_dim": 32, "num_mel_bins": 8}},
        "Qwen2_5OmniThinkerForConditionalGeneration cannot be served: its forward does not heed logits_to_keep"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_cannot_be_served_are_refused_by_name_and_reason(name):
    """Would catch: a model that is taken and computes something else, or that fails in its first step with a riddle."""
    auto, settings, message = REFUSED[name]
    torch.manual_seed(0)
    model = auto.from_config(AutoConfig.for_model(name, **settings)).eval()
    with pytest.raises(UnsupportedModelError, match=message):
        Engine(model, SMALL)


def test_every_refused_model_is_left_as_it_was():
    """Would catch: a probe that leaves its attention, or eval mode, behind in a model that it then refuses."""
    model = tiny.build("llama").train()
    model.model.layers[1].self_attn.is_causal = False
    before = model.config._attn_implementation
    with pytest.raises(UnsupportedModelError, match="LlamaAttention is not causal"):
        Engine(model, SMALL)
    assert model.config._attn_implementation == before
    assert model.training
    assert model.model.layers[0].training


def test_a_model_that_drops_keyword_arguments_is_refused_by_name():
    """Would catch: a TypeError from inside the attention function, where layers do not pass the step's plan on."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("nemotron", **HEAD_DIM)).eval()
    with pytest.raises(UnsupportedModelError, match="NemotronForCausalLM cannot be served"):
        Engine(model, SMALL)


def test_two_layers_that_write_into_one_cache_are_refused():
    """Would catch: modules that share a layer_idx overwriting each other's KV."""
    model = tiny.build("llama")
    model.model.layers[1].self_attn.layer_idx = 0
    with pytest.raises(UnsupportedModelError, match="two attention modules have the same layer_idx"):
        Engine(model, SMALL)


def test_a_layer_that_does_not_use_the_attention_function_is_refused():
    """Would catch: a hybrid whose config does not name its other layers; their state would not follow fork and crop."""
    model = tiny.build("llama")

    class Other(torch.nn.Module):
        def forward(self, hidden_states, **kwargs):
            return hidden_states.cumsum(dim=1), None

    model.model.layers[1].self_attn = Other()
    with pytest.raises(UnsupportedModelError, match="1 of its 2 layers use the attention function"):
        Engine(model, SMALL)


# -- rows of logits that a step asks for ---------------------------------------------------------------------------------


class KeepsAll(LlamaForCausalLM):
    """Has the parameter and ignores it."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        return super().forward(*args, **kwargs)


class KeepsTheLast(LlamaForCausalLM):
    """Takes how many rows are asked for, and returns so many from the end."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        count = len(logits_to_keep) if isinstance(logits_to_keep, torch.Tensor) else logits_to_keep
        return super().forward(*args, logits_to_keep=count, **kwargs)


class KeepsInOrder(LlamaForCausalLM):
    """Takes rows, and returns them as they follow on each other."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        if isinstance(logits_to_keep, torch.Tensor):
            logits_to_keep = logits_to_keep.sort().values
        return super().forward(*args, logits_to_keep=logits_to_keep, **kwargs)


class TakesANumber(LlamaForCausalLM):
    """Knows the number of last rows only."""

    def forward(self, *args, logits_to_keep=0, **kwargs):
        return super().forward(*args, logits_to_keep=slice(-logits_to_keep, None), **kwargs)


@pytest.mark.parametrize("kind", [KeepsAll, KeepsTheLast, KeepsInOrder])
def test_a_model_that_returns_other_rows_than_it_is_asked_for_is_refused(kind):
    """Would catch: every path's first token drawn from the logits of the prompt's first position."""
    model = tiny.build("llama")
    model.__class__ = kind
    with pytest.raises(UnsupportedModelError, match=rf"{kind.__name__} cannot be served: .* does not heed logits_to_keep"):
        Engine(model, SMALL)


def test_a_model_that_takes_no_rows_is_refused_by_name():
    """Would catch: a TypeError out of the model's code, which says nothing of leapgen."""
    model = tiny.build("llama")
    model.__class__ = TakesANumber
    with pytest.raises(UnsupportedModelError, match="TakesANumber cannot be served: its forward fails over a paged"):
        Engine(model, SMALL)


# -- hybrids, and dtypes that are mixed ----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [None, "rope"])
def test_a_hybrid_of_attention_layers_only_is_served_exactly(positions):
    """Would catch: a model refused for recurrent layers that its class may have and it has not."""
    config = AutoConfig.for_model("granitemoehybrid", **{
        **LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24, "mamba_n_heads": 4,
        "layer_types": ["full_attention"] * 2, "position_embedding_type": positions})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().eval()
    engine = Engine(model, SMALL)
    recorder = LogitsRecorder(engine)
    root = engine.add(PROMPT, SamplingConfig.greedy(), limit=len(PROMPT) + 9)
    twin = engine.fork(root)
    engine.extend(twin, [9, 8, 7], limit=len(PROMPT) + 12)
    while engine.has_work:
        engine.step()
    assert recorder.worst_error(model, [root, twin]) < 1e-5


class Float32Logits(LlamaForCausalLM):
    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.float()
        return output


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_with_float32_logits_is_judged_as_half_precision(dtype):
    """Would catch: a model refused for rounding that is its own: only the dtype of its logits was looked at."""
    model = tiny.build("llama", dtype, num_hidden_layers=4)
    model.__class__ = Float32Logits
    engine = Engine(model, SMALL)
    sequence = engine.add(PROMPT, SamplingConfig.greedy(), limit=len(PROMPT) + 4)
    while engine.has_work:
        engine.step()
    assert len(sequence) == len(PROMPT) + 4


def test_float32_is_judged_as_float32():
    """Would catch: a tolerance for half precision that all models get."""
    model = tiny.build("llama", torch.float32)
    forward = model.model.layers[0].self_attn.forward

    def rounded_over_pages(*args, **kwargs):
        output, weights = forward(*args, **kwargs)
        return (output.bfloat16().float() if "leapgen_plan" in kwargs else output), weights

    model.model.layers[0].self_attn.forward = rounded_over_pages
    with pytest.raises(UnsupportedModelError, match=r"differ from its own by .* allowed 0\.001"):
        Engine(model, SMALL)


# -- a window that only the mask knows of: over pages the mask does not exist ----------------------------------------


def windowless_mistral(window):
    """The model masks what is outside the window, and its attention layers do not pass the window on."""
    model = tiny.build("mistral", sliding_window=window)
    for layer in model.model.layers:
        layer.self_attn.config = copy.copy(layer.self_attn.config)
        layer.self_attn.config.sliding_window = None
    return model


@pytest.mark.parametrize("window", [2, 7, 512])
def test_a_sliding_window_that_does_not_reach_the_attention_function_is_refused(window):
    """Would catch: a model that reads past its window on pages, noticed by no one until a text is longer than it."""
    with pytest.raises(UnsupportedModelError):
        Engine(windowless_mistral(window), SMALL)


@pytest.mark.parametrize(("name", "changes"), [
    ("qwen2_moe", {**MOE, "use_sliding_window": True, "max_window_layers": 2}),
    ("phimoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
])
def test_models_that_only_mask_their_window_are_refused_or_exact(name, changes):
    """Would catch: the same in models that transformers ships: their attention is given a mask, never the window."""
    config = AutoConfig.for_model(name, **{**LLAMA, "sliding_window": 7, **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, experts_implementation="eager").double().eval()
    try:
        engine = Engine(model, SMALL)
    except UnsupportedModelError:
        return
    recorder = LogitsRecorder(engine)
    sequence = engine.add(PROMPT, SamplingConfig.greedy(), limit=len(PROMPT) + 3)
    while engine.has_work:
        engine.step()
    assert recorder.worst_error(model, [sequence]) < 1e-5


# -- lengths ----------------------------------------------------------------------------------------------------------


LONG = {"max_position_embeddings": 4096, "original_max_position_embeddings": 512, "rope_parameters": {
    "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}


@pytest.mark.parametrize(("name", "changes", "expected"), [
    ("llama", {}, 2048), ("phi3", LONG, 512), ("llama", DYNAMIC, 2048),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
                                   "original_max_position_embeddings": 512}}, 2048),
], ids=["default", "longrope", "dynamic", "yarn"])
def test_the_context_ends_where_cached_keys_would_change(name, changes, expected):
    """Would catch: long rotary embeddings, which change every earlier key past their original length, served beyond it;
    or scaled ones that are the same at every length cut short.
    """
    model = tiny.build(name, **changes)
    engine = Engine(model, EngineConfig(kv_cache_bytes=1 << 26))
    assert engine.context_length == expected
    with pytest.raises(ValueError, match=f"serves at most {expected} positions"):
        Engine(model, EngineConfig(kv_cache_bytes=1 << 26, context_length=expected + 1))
    assert Engine(model, EngineConfig(kv_cache_bytes=1 << 26, context_length=100)).context_length == 100


@pytest.mark.parametrize(("name", "changes", "length"), [("phi3", LONG, 512), ("llama", DYNAMIC, 2048)],
                         ids=["longrope", "dynamic"])
def test_a_context_cut_for_its_rotary_embeddings_says_so(name, changes, length, caplog):
    """Would catch: a context shorter than the model's, with no word on why."""
    kind = changes["rope_parameters"]["rope_type"]
    why = rf"its rotary embeddings \({kind}\) change every earlier key of a sequence that grows beyond {length}"
    model = tiny.build(name, **changes)
    with caplog.at_level(logging.WARNING, logger="leapgen"):
        engine = Engine(model, EngineConfig(kv_cache_bytes=1 << 26))
    (record,) = caplog.records
    assert f"{type(model).__name__} is served up to {length} positions: {why}".replace("\\", "") in record.getMessage()
    with pytest.raises(ValueError, match=f"{length + 1} tokens do not fit: the context is {length} tokens .{why}"):
        engine.add([5] * (length + 1))
    with pytest.raises(ValueError, match=f"serves at most {length} positions exactly: {why}"):
        Engine(model, EngineConfig(kv_cache_bytes=1 << 26, context_length=length + 1))
    caplog.clear()
    engine = Engine(model, EngineConfig(kv_cache_bytes=1 << 26, context_length=length - 1))
    assert not caplog.records
    with pytest.raises(ValueError, match=f"the context is {length - 1} tokens .EngineConfig.context_length"):
        engine.add([5] * length)


def test_longrope_is_exact_to_the_end_of_its_context():
    """Would catch: a cap that is off by one: the position after it switches every key to the long factors."""
    length = 40
    model = tiny.build("phi3", max_position_embeddings=4096, original_max_position_embeddings=length, rope_parameters={
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [5.0] * 4})
    engine = Engine(model, SMALL)
    recorder = LogitsRecorder(engine)
    sequence = engine.add(PROMPT, SamplingConfig.greedy())
    while engine.has_work:
        engine.step()
    assert len(sequence) == engine.context_length == length
    assert recorder.worst_error(model, [sequence]) < 1e-5


def test_a_pool_of_less_than_two_pages_is_refused(llama):
    """Would catch: an engine that can be made and can never step; a limit that is off by a page."""
    page_bytes = 4 * 2 * 2 * 2 * 8 * 8  # tokens, layers, keys and values, KV heads, width, float64
    with pytest.raises(PoolTooSmallError, match=f"{2 * page_bytes - 1} bytes holds 1 pages of {page_bytes} bytes"):
        Engine(llama, SMALL.replace(kv_cache_bytes=2 * page_bytes - 1))
    engine = Engine(llama, SMALL.replace(kv_cache_bytes=2 * page_bytes))
    assert engine.pool.num_pages == 2
    assert engine.context_length == 8
    sequence = engine.add([5, 6, 7])
    while engine.has_work:
        engine.step()
    assert len(sequence) == 8


# -- models that change or break later --------------------------------------------------------------------------------


def test_training_mode_stops_the_step_and_loses_nothing():
    """Would catch: dropout in sampled tokens, or a sequence half moved by a step that was refused."""
    runs = []
    for disturb in (False, True):
        model = tiny.build("llama")
        engine = Engine(model, SMALL)
        sequence = engine.add(PROMPT, stream=Stream(1), limit=len(PROMPT) + 6)
        engine.step()
        if disturb:
            before = list(sequence.tokens)
            model.train()
            with pytest.raises(RuntimeError, match=r"training mode.*model\.eval\(\)"):
                engine.step()
            assert sequence.tokens == before
            engine.check_integrity()
            model.eval()
        while engine.has_work:
            engine.step()
        runs.append(sequence.tokens)
    assert runs[0] == runs[1]


def test_an_engine_can_be_made_in_training_mode():
    """Would catch: a probe that runs with dropout, or that puts the user's model into eval mode for good."""
    model = tiny.build("llama", attention_dropout=0.5).train()
    Engine(model, SMALL)
    assert model.training
    assert all(module.training for module in model.modules())


def test_nan_weights_are_refused():
    """Would catch: a comparison that NaN passes."""
    model = tiny.build("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[3, 3] = torch.nan
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM cannot be served: .*not finite"):
        Engine(model, SMALL)


def test_weights_that_become_nan_stop_the_step_and_name_the_path():
    """Would catch: damage that shows as strange text; a failed step that leaves sequences with tokens or KV of it."""
    model = tiny.build("llama")
    engine = Engine(model, SMALL)
    sequences = [engine.add(PROMPT[: 9 + i], stream=Stream(1, 70 + i), limit=20) for i in range(3)]
    engine.step()
    weight = model.model.layers[1].mlp.down_proj.weight
    healthy = weight.detach().clone()
    before = [(list(s.tokens), s.num_computed, s.active) for s in sequences]
    with torch.no_grad():
        weight[3, 3] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match=r"path 70 at position 10\b"):
        engine.step()
    assert [(list(s.tokens), s.num_computed, s.active) for s in sequences] == before
    engine.check_integrity()
    with torch.no_grad():
        weight.copy_(healthy)
    recorder = LogitsRecorder(engine)
    while engine.has_work:
        engine.step()
    assert [len(s) for s in sequences] == [20] * 3
    assert recorder.worst_error(model, sequences) < 1e-5
