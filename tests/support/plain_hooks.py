"""Plain hooks by the modules' own names, one prompt at a time: a reference that shares no code with mechdiff."""

import torch

LAYERS = {"gpt2": "transformer.h", "gpt_neox": "gpt_neox.layers"}
PARTS = {
    "gpt2": ("attn", "mlp", "attn.c_proj"),
    "gpt_neox": ("attention", "mlp", "attention.dense"),
}
USUAL = ("self_attn", "mlp", "self_attn.o_proj")


def modules(model, layer: int):
    """Block, attention, MLP and output projection of a layer."""
    kind = model.config.model_type
    block = model.get_submodule(LAYERS.get(kind, "model.layers"))[layer]
    return block, *(block.get_submodule(name) for name in PARTS.get(kind, USUAL))


def site(model, layer: int, stream: str):
    """The module to hook, and whether its input (True) or its output is the state."""
    block, attention, mlp, projection = modules(model, layer)
    return {
        "resid_pre": (block, True),
        "resid_post": (block, False),
        "attn_out": (attention, False),
        "mlp_out": (mlp, False),
        "heads": (projection, True),
    }[stream]


def hook(module, is_input: bool, change):
    """Hook a module so that change(state) sees, and may replace, its state [1, tokens, width]."""
    if is_input:

        def before(m, args, kwargs):
            new = change(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(m, args, output):
        new = change(output[0] if isinstance(output, tuple) else output)
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new

    return module.register_forward_hook(after)


@torch.no_grad()
def run(model, ids: list[int], edits=()):
    """Log-probabilities after the last token, with edits (layer, stream, function of the state there[, a token's index])."""
    handles = []
    for layer, stream, function, *token in edits:

        def change(state, function=function, at=token[0] if token else -1):
            state = state.clone()
            state[0, at] = function(state[0, at])
            return state

        handles.append(hook(*site(model, layer, stream), change))
    try:
        return model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def states(model, ids: list[int], sites) -> dict:
    """The states of one clean pass at the last token: (layer, stream) -> [width]."""
    values, handles = {}, []
    for place in sites:

        def keep(state, place=place):
            values[place] = state[0, -1].clone()

        handles.append(hook(*site(model, *place), keep))
    model(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return values


def state(model, ids: list[int], layer: int, stream: str):
    return states(model, ids, [(layer, stream)])[layer, stream]


def kl(p, q) -> float:
    """KL(p || q) of two lists of log-probabilities, in nats."""
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
