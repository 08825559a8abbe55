"""Random tiny models of real architectures."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 160

_LLAMA = {"vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048,
          "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
          "tie_word_embeddings": False}  # tied random models repeat their input
_HEAD_DIM = {**_LLAMA, "head_dim": 8}

ARCHITECTURES: dict[str, dict] = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _HEAD_DIM,
    "qwen3_moe": {**_HEAD_DIM, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "mistral": {**_HEAD_DIM, "sliding_window": 7},
    "gemma2": {**_HEAD_DIM, "sliding_window": 7, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0,
               "final_logit_softcapping": 20.0},
    "gemma3_text": {**_HEAD_DIM, "num_hidden_layers": 3, "sliding_window": 7, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "gpt_oss": {**_HEAD_DIM, "sliding_window": 7, "num_local_experts": 4, "num_experts_per_tok": 2,
                "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": {**_LLAMA, "sliding_window": 9, "pad_token_id": 0},
    "olmo2": _LLAMA,
    "granite": {**_LLAMA, "attention_multiplier": 0.3, "residual_multiplier": 0.5, "logits_scaling": 2.0},
    "glm4": {**_HEAD_DIM, "pad_token_id": 0},
    "smollm3": {**_LLAMA, "no_rope_layers": [1, 0], "pad_token_id": 0},
    "gpt_neox": {**_LLAMA, "rotary_pct": 0.5},
    "gpt2": {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 2048, "bos_token_id": 1,
             "eos_token_id": 2, "tie_word_embeddings": False},
    "deepseek_v3": {**_LLAMA, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 4,
                    "qk_nope_head_dim": 8, "v_head_dim": 6, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
                    "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 24},
    "granitemoehybrid": {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 24,
                         "layer_types": ["full_attention"] * 2, "mamba_n_heads": 4, "position_embedding_type": "rope"},
}


def build(name: str, dtype: torch.dtype = torch.float64, attention: str | None = None, **changes) -> PreTrainedModel:
    """A random model whose logits differ clearly from token to token, so that greedy decoding is no constant."""
    config = AutoConfig.for_model(name, **{**ARCHITECTURES[name], **changes})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5 * 2, generator=generator)
            elif "sinks" in next(n for n, p in model.named_parameters() if p is parameter):
                parameter.normal_(0, 1, generator=generator)
    return model.to(dtype).eval()
