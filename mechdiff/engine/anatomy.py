"""Where a decoder keeps its layers, attention, MLP and output projection: read from one tiny forward pass, not from names.

Works for any Hugging Face causal language model whose decoder is one list of layers: the attention module is the child of a
layer that receives the key-value cache, the output projection is the last weight that the attention module calls, the MLP is
the other child with weights. What comes after the last layer (final norm, unembedding, logit soft-capping) is run by the
model's own code: see `logits`.
"""

import copy
import inspect
import sys
import threading
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import DynamicCache


class Unreadable(Exception):
    """This architecture cannot be taken apart, so the row engine cannot run it. Plain hooks may still."""


@dataclass(frozen=True)
class LayerParts:
    """One decoder layer: the block, its attention and MLP, and the projection whose input is the heads' outputs."""

    block: nn.Module
    attention: nn.Module
    mlp: nn.Module
    projection: nn.Module


class Anatomy:
    """A causal language model, taken apart.

    model: the model, in eval mode. layers: its decoder layers from 0. heads, width, head_width: counts. window: the most tokens
    that it reads, None if its configuration does not say. token_bytes: what one token's keys and values take.
    Raises Unreadable if the model has no single list of decoder layers with attention and MLP.
    """

    def __init__(self, model: nn.Module):
        self.model, self.home = model.eval(), None  # home: where a model runs whose weights are away meanwhile
        self.decoder = model.get_decoder()
        blocks = find_blocks(self.decoder)
        self.layers, first_input, self.token_bytes = probe(model, blocks, self.device)
        config = model.config.get_text_config()
        self.width = config.hidden_size
        self.window = getattr(config, "max_position_embeddings", None)
        self.heads = config.num_attention_heads
        if first_input % self.heads:
            raise Unreadable(f"the output projection's input ({first_input}) is not a multiple of the heads ({self.heads})")
        self.head_width = first_input // self.heads
        self.vocabulary = model.get_output_embeddings().weight.shape[0]
        self.signatures = [inspect.signature(part.block.forward) for part in self.layers]
        self._tail, self._tail_layer = tail(model, self.decoder, blocks)
        self._fused: list[tuple[nn.Module, object]] = []

    @property
    def device(self) -> torch.device:
        """Where it wants its input. Weights that were offloaded are elsewhere until they are needed."""
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
        """What one token of a walk takes at most, about: in the MLP its inner states, beside some of the model's width."""
        inner = sum(p.numel() for p in self.layers[0].mlp.parameters()) // self.width
        return (2 * inner + 16 * self.width) * max(2, self.dtype.itemsize)

    @contextmanager
    def fused(self):
        """On a GPU, let norms, MLPs and rotations run compiled: what they do element by element then costs one pass over memory.

        Where the compiler is missing or fails, they run as they are.
        """
        if self.device.type != "cuda" or hasattr(self.model, "_hf_hook"):  # hooks of accelerate sit in the place of forward
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

    def logits(self, states: Tensor) -> Tensor:
        """Final norm and unembedding of states [n, width] that left the last layer; [n, vocabulary], by the model's own code."""
        self._tail_layer.states = states.unsqueeze(1)
        token = torch.zeros(1, 1, dtype=torch.long, device=states.device)
        mask = torch.zeros(1, 1, 1, 1, dtype=self.dtype, device=states.device)  # one given keeps the model from looking for one
        return self._tail(input_ids=token, position_ids=token, attention_mask=mask, use_cache=False).logits.squeeze(1)


ROTATION = "apply_rotary_pos_emb"  # what transformers' models call to rotate queries and keys, a function of their module
_rotating: Counter = Counter()
_rotations: dict = {}
_rotating_lock = threading.Lock()


@contextmanager
def compiled_rotations(module):
    """Let a model's module rotate by a compiled function, until the last of several threads that asked for it is done."""
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


def find_blocks(decoder: nn.Module) -> nn.ModuleList:
    depth = decoder.config.get_text_config().num_hidden_layers
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise Unreadable(f"{type(decoder).__name__} has no list of {depth} layers")
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def has_weights(module: nn.Module) -> bool:
    return any(p.ndim >= 2 for p in module.parameters())


@torch.no_grad()
def probe(model: nn.Module, blocks: nn.ModuleList, device: torch.device) -> tuple[list[LayerParts], int, int]:
    """Run two tokens and watch who receives the cache and who is called last.

    Returns the parts, the heads' joint width, and the bytes of one token's keys and values.
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
            raise Unreadable(f"layer {index} of {type(model).__name__} has no attention and MLP modules that can be told apart")
        parts.append(LayerParts(block, attn, mlps[-1], projections[-1]))
    token_bytes = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) // 2
    return parts, input_width[parts[0].projection], token_bytes


def tail(model: nn.Module, decoder: nn.Module, blocks: nn.ModuleList) -> tuple[nn.Module, nn.Module]:
    """A view of the model, over the same weights, whose every layer hands out prepared states.

    What is left is the model's own code after the last layer. Copies are shallow: no weight is duplicated.
    """
    replay = shallow(blocks[-1])
    replay.states = None
    replay.forward = lambda *args, **kwargs: replay.states
    targets = {id(blocks): nn.ModuleList([replay] * len(blocks))}

    def rebuild(module: nn.Module) -> nn.Module:
        if id(module) in targets:
            return targets[id(module)]
        if not any(id(m) in targets for m in module.modules()):
            return module
        twin = shallow(module)
        for name, child in module.named_children():
            twin._modules[name] = rebuild(child)
        return twin

    return rebuild(model), replay


def shallow(module: nn.Module) -> nn.Module:
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    if hasattr(module, "_hf_hook"):  # accelerate's wrapper leads to the module it was made for
        twin._old_forward = type(module).forward.__get__(twin)
        twin.forward = partial(module.forward.func, twin)
    return twin


def first(output):
    """A module's hidden states, whether it returns them alone or first in a tuple."""
    return output[0] if isinstance(output, tuple) else output
