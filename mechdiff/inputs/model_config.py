"""A model's shape, from its config.json: depth, width, heads. Needs no torch, unless the file leaves defaults out."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError

NAMES = {  # a property's names in different families
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "heads": ("num_attention_heads", "n_head", "n_heads"),
    "groups": ("num_key_value_heads", "multi_query_group_num"),
    "head_width": ("head_dim",),
    "window": ("max_position_embeddings", "n_positions", "n_ctx"),
    "vocabulary": ("vocab_size",),
}
NEEDED = ("layers", "width", "heads")


@dataclass(frozen=True)
class Shape:
    """A decoder's shape.

    heads, groups: query heads and key-value heads of a layer. window: the most tokens that it reads, and sliding: how far back
    its windowed layers look; None for no such limit. softcap: whether attention logits are capped. remote: whether its code
    comes with the weights.
    """

    family: str
    architecture: str
    layers: int
    width: int
    heads: int
    groups: int
    head_width: int
    window: int | None
    sliding: int | None
    tied: bool | None
    vocabulary: int | None
    softcap: bool
    remote: bool


def read_config(folder: Path) -> dict:
    """config.json (its text part). Raises UserError if it cannot be read."""
    path = folder / "config.json"
    try:
        stat = path.stat()
        return dict(_read(path, stat.st_mtime_ns, stat.st_size))
    except OSError:
        raise UserError(f"There is no model in {folder}: config.json is missing.\nTry:  ls {folder}") from None


@lru_cache(maxsize=256)
def _read(path: Path, modified: int, size: int) -> dict:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        text = config.get("text_config") or config
        outer = {name: config[name] for name in ("architectures", "auto_map", "tie_word_embeddings") if name in config}
        return outer | text
    except (ValueError, AttributeError):
        raise UserError(f"{path} is not a readable configuration.\nTry:  download or copy it again") from None


def value(config: dict, what: str) -> Any:
    """A property of the configuration, whatever its family calls it; None if it does not give it."""
    return next((config[name] for name in NAMES[what] if config.get(name) is not None), None)


def shape_of(folder: Path) -> Shape:
    """A model's shape. Raises UserError for a configuration that does not give it."""
    config = read_config(folder)
    if any(value(config, what) is None for what in NEEDED):
        config = with_defaults(folder, config)
    layers, width, heads = (value(config, what) for what in NEEDED)
    sliding = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return Shape(
        family=config.get("model_type", "unknown"),
        architecture=", ".join(config.get("architectures") or ()),
        layers=layers,
        width=width,
        heads=heads,
        groups=1 if config.get("multi_query") else value(config, "groups") or heads,
        head_width=value(config, "head_width") or width // heads,
        window=value(config, "window"),
        sliding=sliding,
        tied=config.get("tie_word_embeddings"),
        vocabulary=value(config, "vocabulary"),
        softcap=bool(config.get("attn_logit_softcapping")),
        remote="auto_map" in config,
    )


def bare_shape(layers: int, width: int, heads: int) -> Shape:
    """The shape of a model that is not on this machine, as far as its pair's file gives it."""
    return Shape("unknown", "", layers, width, heads, heads, width // heads, None, None, None, None, False, False)


def with_defaults(folder: Path, config: dict) -> dict:
    """The configuration with its family's defaults. Raises UserError if transformers does not know the family."""
    from transformers import AutoConfig

    try:
        return config | AutoConfig.from_pretrained(folder).get_text_config().to_dict()
    except (OSError, ValueError, KeyError):
        missing = next(what for what in NEEDED if value(config, what) is None)
        raise UserError(
            f"{folder / 'config.json'} does not give the model's number of {missing}, and transformers does not know its "
            f"family, {config.get('model_type', 'unnamed')}.\nTry:  another model, or a newer transformers"
        ) from None
