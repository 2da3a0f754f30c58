"""Tiny random models of ten families."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
WINDOW = {"sliding_window": 4}
GEMMA2 = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
WITHOUT_GROUPS = {key: value for key, value in SMALL.items() if key not in ("num_key_value_heads", "head_dim")}
FAMILIES = {
    "llama": SMALL,
    "qwen2": SMALL,
    "qwen3": SMALL,
    "mistral": SMALL | WINDOW,
    "gemma2": SMALL | WINDOW | GEMMA2,
    "gemma3_text": SMALL | WINDOW | {"sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
    "phi3": SMALL | WINDOW,
    "olmo2": SMALL,
    "gpt2": {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": WITHOUT_GROUPS,
}


def tiny_model(family: str, seed: int, **changes):
    """A random model whose every part matters: weights large enough that a wrong mask, norm or cap shows.

    changes: of its family's configuration.
    """
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **FAMILIES[family] | changes)
    kernel = "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        else:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model
