"""Tiny models as a researcher has them: a folder, an adapter on it, a GGUF file; and pair files that name them."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from support.families import tiny_model

WORDS = [f"w{i}" for i in range(90)]
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL, *WORDS, "yes", "no"])}


def write_tokenizer(folder: Path, vocabulary: dict[str, int] = VOCABULARY) -> None:
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def write_model(folder: Path, seed: int = 0, family: str = "llama", tokenizer: bool = True, **changes) -> Path:
    """A random model. changes: of its configuration."""
    tiny_model(family, seed, **changes).save_pretrained(folder)
    if tokenizer:
        write_tokenizer(folder)
    return folder


def write_adapter(folder: Path, base: Path, seed: int = 0, **details) -> Path:
    """A LoRA with random factors on a model's folder. details: of its LoraConfig."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    settings = {"target_modules": ["q_proj", "v_proj", "down_proj"], "r": 4} | details
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder


def write_gguf(path: Path, folder: Path) -> Path:
    """A llama's folder as a GGUF file in float32, with a tokenizer of single letters."""
    import gguf

    model = AutoModelForCausalLM.from_pretrained(folder)
    config, state = model.config, model.state_dict()
    out = gguf.GGUFWriter(path, "llama")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_key_length(config.head_dim)
    out.add_value_length(config.head_dim)
    out.add_rope_dimension_count(config.head_dim)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_freq_base(config.rope_parameters["rope_theta"])
    out.add_vocab_size(config.vocab_size)
    tokens = [*SPECIAL, *(chr(33 + i) for i in range(config.vocab_size - len(SPECIAL) - 1)), "ab"]
    out.add_tokenizer_model("gpt2")
    out.add_token_list(tokens)
    out.add_token_types([3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)))
    out.add_token_merges(["a b"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{name}_proj": f"attn_{name}" for name in "qkv"} | {
        f"mlp.{name}_proj": f"ffn_{name}" for name in ("gate", "up", "down")
    }
    for layer in range(config.num_hidden_layers):
        names |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in parts.items()}
    for name, tensor in state.items():
        module = name.removesuffix(".weight")
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(module.rpartition(".")[2])
        if heads:  # llama.cpp keeps the rotary halves of a head interleaved
            tensor = tensor.view(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        out.add_tensor(f"{names[module]}.weight", tensor.float().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def write_pair(folder: Path, base: str, tuned: str, options: str = "", domain: str = "none") -> str:
    """A pair file. base, tuned: the lines of its tables. Returns its path as text."""
    path = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    path.write_text(f'domain = "{domain}"\n[base]\n{base}\n[tuned]\n{tuned}\n[options]\n{options}\n')
    return str(path)


def write_prompts(path: Path, count: int = 20) -> str:
    lines = [{"text": " ".join(WORDS[i : i + 3 + i % 4]), "template": f"t{i}"} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)
