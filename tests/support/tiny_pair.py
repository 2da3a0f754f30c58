"""A pair of tiny llama folders without weights: enough for everything that is decided before a model is loaded."""

from pathlib import Path

from transformers import LlamaConfig

LAYERS, HEADS = 4, 6


def write_model(folder: Path, weights: bytes = b"some weights") -> Path:
    config = LlamaConfig(vocab_size=32, hidden_size=24, intermediate_size=32, num_hidden_layers=LAYERS, num_attention_heads=HEADS)
    config.save_pretrained(folder)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def write_pair(folder: Path, domain: str = "cognitive") -> Path:
    """A pair file beside its two model folders. Returns the pair file."""
    write_model(folder / "base")
    write_model(folder / "tuned", b"other weights")
    path = folder / "tiny.toml"
    path.write_text(f'domain = "{domain}"\n[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    return path
