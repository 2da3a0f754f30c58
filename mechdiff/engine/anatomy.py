"""A decoder's layers, attention, MLP and output projection: identified by one tiny forward pass, not by their names.

Works for any Hugging Face causal language model whose decoder is one list of layers: the attention module is the child of a
layer that receives the key-value cache, the output projection is the last weight that the attention module calls, the MLP is
the other child with weights. Everything after the last layer (final norm, unembedding, logit soft-capping) is run by the
model's own code: see `logits`.
"""

import copy
import inspect
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache


class Unreadable(Exception):
    """The row engine cannot run this architecture, since its parts cannot be identified. Plain hooks may still work."""


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer: the block, its attention and MLP, and the projection whose input is the heads' outputs."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    projection: nn.Module


class Anatomy:
    """The parts of a causal language model.

    model: a transformers model, in eval mode. layers: its decoder layers, from 0. heads, width, head_width: counts. window: the
    most tokens that it reads, None if its configuration does not say. token_bytes: size of one token's keys and values. home:
    the device that the model runs on while its weights are elsewhere, else None.
    Raises Unreadable if the model has no single list of decoder layers with attention and MLP.
    """

    def __init__(self, model: nn.Module):
        self.model: Any = model.eval()
        self.home: torch.device | None = None
        self.decoder: Any = self.model.get_decoder()
        blocks = find_blocks(self.decoder)
        self.layers, first_input, self.token_bytes = probe(model, blocks, self.device)
        config = self.model.config.get_text_config()
        self.width = config.hidden_size
        self.window = getattr(config, "max_position_embeddings", None)
        self.heads = config.num_attention_heads
        if first_input % self.heads:
            raise Unreadable(f"the output projection's input ({first_input}) is not a multiple of the heads ({self.heads})")
        self.head_width = first_input // self.heads
        self.vocabulary = self.model.get_output_embeddings().weight.shape[0]
        self.signatures = [inspect.signature(part.block.forward) for part in self.layers]
        self._tail, self._tail_layer = tail(model, self.decoder, blocks)
        self._fused: list[tuple[Any, Callable]] = []
        self._inverse: tuple[int, Tensor, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """The device of its input. Offloaded weights are elsewhere until they are needed."""
        if self.home is not None:
            return self.home
        embedding = self.model.get_input_embeddings()
        hook = getattr(embedding, "_hf_hook", None)
        return embedding.weight.device if hook is None else torch.device(hook.execution_device)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_input_embeddings().weight.dtype

    @property
    def kernel(self) -> str:
        """The attention kernel that the model runs with: eager, sdpa, ..."""
        return self.model.config._attn_implementation

    @property
    def row_bytes(self) -> int:
        """Roughly the most memory that one token of a walk takes: its inner states in the MLP, and some of the model's width."""
        inner = sum(p.numel() for p in self.layers[0].mlp.parameters()) // self.width
        return (2 * inner + 16 * self.width) * max(2, self.dtype.itemsize)

    @contextmanager
    def fused(self) -> Iterator[None]:
        """On a GPU, compile norms, MLPs and rotations, so that elementwise operations take one pass over memory.

        If the compiler is missing or fails, they run uncompiled.
        """
        if self.device.type != "cuda" or hasattr(self.model, "_hf_hook"):  # accelerate's hooks replace forward
            yield
            return
        if not self._fused:
            modules = [m for part in self.layers for m in part.block.children() if m is not part.attention]
            self._fused = [(module, torch.compile(module.forward, dynamic=True)) for module in modules]
        try:
            for module, forward in self._fused:
                module.forward = forward
            with compiled_rotations(sys.modules[type(self.layers[0].attention).__module__]):
                yield
        finally:
            for module, _ in self._fused:
                del module.forward

    def logits(self, states: Float[Tensor, "n width"]) -> Float[Tensor, "n vocabulary"]:
        """Logits of states that left the last layer: final norm and unembedding, by the model's own code."""
        self._tail_layer.states = states.unsqueeze(1)
        token = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        mask = torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=states.device)  # given, so that the model does not build one
        return self._tail(input_ids=token, position_ids=token, attention_mask=mask, use_cache=False).logits.squeeze(1)

    @torch.no_grad()
    def head_inputs(self, layer: int, attn_out: Float[Tensor, "*b width"]) -> Float[Tensor, "*b joint"]:
        """The smallest joint outputs of a layer's heads (heads x head width) that its projection takes nearest to these outputs.

        By the pseudoinverse of the projection, in float64. Its matrix is read by calling it, so that quantised weights and
        adapters count as they run. The last layer's is kept.
        """
        if self._inverse is None or self._inverse[0] != layer:
            projection = self.layers[layer].projection
            units = torch.eye(self.heads * self.head_width, dtype=self.dtype, device=attn_out.device)
            bias = projection(torch.zeros_like(units[:1])).double()
            self._inverse = layer, bias, torch.linalg.pinv(projection(units).double() - bias)
        _, bias, inverse = self._inverse
        return (attn_out.double() - bias) @ inverse


ROTATION = "apply_rotary_pos_emb"  # the function of a transformers module that rotates queries and keys
_rotating: Counter[str] = Counter()
_rotations: dict[str, tuple[Callable, Callable]] = {}
_rotating_lock = threading.Lock()


@contextmanager
def compiled_rotations(module: ModuleType) -> Iterator[None]:
    """Let a model's module rotate by a compiled function, until the last thread that needs it is done."""
    plain = getattr(module, ROTATION, None)
    if plain is None:
        yield
        return
    with _rotating_lock:
        if not _rotating[module.__name__]:
            if module.__name__ not in _rotations:
                _rotations[module.__name__] = plain, torch.compile(plain)
            setattr(module, ROTATION, _rotations[module.__name__][1])
        _rotating[module.__name__] += 1
    try:
        yield
    finally:
        with _rotating_lock:
            _rotating[module.__name__] -= 1
            if not _rotating[module.__name__]:
                setattr(module, ROTATION, _rotations[module.__name__][0])


def find_blocks(decoder: Any) -> nn.ModuleList:
    """The decoder's list of layers. Raises Unreadable if there is none."""
    depth = decoder.config.get_text_config().num_hidden_layers
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise Unreadable(f"{type(decoder).__name__} has no list of {depth} layers")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def has_weights(module: nn.Module) -> bool:
    return any(p.ndim >= 2 for p in module.parameters())


@torch.no_grad()
def probe(model: nn.Module, blocks: nn.ModuleList, device: torch.device) -> tuple[list[LayerParts], int, int]:
    """Run two tokens and watch which modules receive the cache and which are called last.

    Returns the parts, the heads' joint width, and the size in bytes of one token's keys and values.
    """
    cache, attention = DynamicCache(), {}
    calls, handles = defaultdict(list), []

    def child_called(index):
        def hook(module, args, kwargs):
            calls[blocks[index]].append(module)
            if any(value is cache for value in (*args, *kwargs.values())):
                attention[index] = module

        return hook

    def grandchild_called(module, args, kwargs):
        calls[parent[module]].append(module)
        if args:
            input_width[module] = args[0].shape[-1]

    parent, input_width = {}, {}
    for index, block in enumerate(blocks):
        for child in block.children():
            handles.append(child.register_forward_pre_hook(child_called(index), with_kwargs=True))
            for grandchild in child.children():
                parent[grandchild] = child
                handles.append(grandchild.register_forward_pre_hook(grandchild_called, with_kwargs=True))
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), past_key_values=cache, use_cache=True)
    finally:
        for handle in handles:
            handle.remove()

    parts = []
    for index, block in enumerate(blocks):
        attn = attention.get(index)
        mlps = [m for m in calls[block] if m is not attn and has_weights(m)]
        projections = [m for m in calls[attn] if has_weights(m)]
        if attn is None or not mlps or not projections:
            raise Unreadable(f"layer {index} of {type(model).__name__} has no distinct attention and MLP modules")
        parts.append(LayerParts(block, attn, mlps[-1], projections[-1]))
    tensors = [tensor for layer in range(len(blocks)) for tensor in keys_and_values(cache, layer)]
    token_bytes = sum(tensor.nbytes for tensor in tensors) // 2
    return parts, input_width[parts[0].projection], token_bytes


def keys_and_values(cache: DynamicCache, layer: int) -> tuple[Tensor, Tensor]:
    """A layer's cached keys and values, [b, key-value heads, tokens, head width] each."""
    cached: Any = cache.layers[layer]
    return cached.keys, cached.values


def tail(model: nn.Module, decoder: nn.Module, blocks: nn.ModuleList) -> tuple[nn.Module, Any]:
    """A view of the model over the same weights, in which every layer returns prepared states.

    Only the model's own code after the last layer does any work. Copies are shallow: no weight is duplicated. Returns the view,
    and the layer whose attribute `states` is returned.
    """
    replay = replayer(blocks)
    return with_layers(model, blocks, [replay] * len(blocks)), replay


def replaying(decoder: nn.Module, layer: int, states: Float[Tensor, "b tokens width"]) -> nn.Module:
    """A view of the decoder over the same weights, in which the layers up to `layer` return these states and do no work."""
    blocks = find_blocks(decoder)
    replay = replayer(blocks)
    replay.states = states
    return with_layers(decoder, blocks, [*[replay] * (layer + 1), *blocks[layer + 1 :]])


def replayer(blocks: nn.ModuleList) -> Any:
    """A layer that returns its attribute `states`, whatever it is called with."""
    replay = shallow(blocks[-1])
    replay.states = None
    replay.forward = lambda *args, **kwargs: replay.states
    return replay


def with_layers(model: nn.Module, blocks: nn.ModuleList, layers: list) -> nn.Module:
    """A shallow copy of the model with other layers in the place of its blocks."""

    def rebuild(module: nn.Module) -> nn.Module:
        if module is blocks:
            return nn.ModuleList(layers)
        if not any(m is blocks for m in module.modules()):
            return module
        twin = shallow(module)
        for name, child in module.named_children():
            twin._modules[name] = rebuild(child)
        return twin

    return rebuild(model)


def shallow(module: Any) -> Any:
    """A copy with the same weights and children."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    if hasattr(module, "_hf_hook"):  # accelerate's wrapper is bound to the original module
        twin._old_forward = type(module).forward.__get__(twin)
        twin.forward = partial(module.forward.func, twin)
    return twin


def first(output: Any) -> Tensor:
    """A module's hidden states, whether it returns them alone or as the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output
