"""Each library doing the work: a cell at a time as its own documentation does it, then with what spares it work, then in batches.

What spares work: only the last token's logits are computed, and no cache of keys and values is kept. A batch holds the same
prompt once for every cell.
"""

from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.work import Cell

SPARING = {"logits_to_keep": 1, "use_cache": False}  # what transformers' models understand, and so all that run them
ONE, SPARED, BATCHED = "one by one", "one by one, sparing", "batched, sparing"


class Peer:
    """One library on one subject.

    forms: how cells can be done, name -> method. clean_logits: [1, vocabulary], of the prompt whose clean passes were last.
    """

    library: str
    packages: tuple[str, ...] = ()
    forms: ClassVar = {ONE: "one", SPARED: "one", BATCHED: "batch"}

    def __init__(self, subject):
        anatomy = subject.anatomies()[1]
        self.ids, self.donor_ids, self.head_width, self.device = (
            subject.ids,
            subject.donor_ids,
            anatomy.head_width,
            anatomy.device,
        )
        self.donor, self.recipient = self.wrap(subject)

    def wrap(self, subject):
        """Donor and recipient as this library holds them."""
        return subject.models(own=False)

    def work(self, form: str, cells: list[Cell]) -> Tensor:
        """The cells' logits at the last token, in this form: [cells, vocabulary]."""
        self.settings = {} if form == ONE else SPARING
        return getattr(self, self.forms[form])(cells)

    def clean(self, prompt: int) -> None:
        """The passes that come before every cell of a prompt: the donor's heads at its last token, the recipient's own logits."""
        self.settings = SPARING
        self.tokens = torch.tensor([self.ids[prompt]], device=self.device)
        self.heads = self.read_heads(torch.tensor([self.donor_ids[prompt]], device=self.device))
        self.clean_logits = self.read_clean()

    def slice(self, head: int) -> slice:
        """Where a head lies in the heads' joint output."""
        return slice(head * self.head_width, (head + 1) * self.head_width)

    def one(self, cells: list[Cell]) -> Tensor:
        """A pass a cell."""
        return torch.cat([self.patch(*cell) for cell in cells])


class Hooks(Peer):
    """PyTorch's own forward pre-hooks on the attention's output projection."""

    library, packages = "plain hooks", ("torch", "transformers")

    def projection(self, model, layer: int):
        return model.model.layers[layer].self_attn.o_proj

    def logits(self, tokens: Tensor) -> Tensor:
        return self.recipient(input_ids=tokens, **self.settings).logits[:, -1]

    def read_heads(self, tokens: Tensor) -> list[Tensor]:
        inputs, handles = {}, []
        for layer in range(len(self.donor.model.layers)):

            def keep(module, args, layer=layer):
                inputs[layer] = args[0][0, -1].clone()

            handles.append(self.projection(self.donor, layer).register_forward_pre_hook(keep))
        self.donor(input_ids=tokens, **self.settings)
        for handle in handles:
            handle.remove()
        return [inputs[layer] for layer in range(len(inputs))]

    def read_clean(self) -> Tensor:
        return self.logits(self.tokens)

    def patch(self, layer: int, head: int) -> Tensor:
        where = self.slice(head)

        def change(module, args):
            states = args[0].clone()
            states[:, -1, where] = self.heads[layer][where]
            return (states,)

        handle = self.projection(self.recipient, layer).register_forward_pre_hook(change)
        try:
            return self.logits(self.tokens)
        finally:
            handle.remove()

    def batch(self, cells: list[Cell]) -> Tensor:
        handles = []
        for layer in {layer for layer, _ in cells}:

            def change(module, args, layer=layer):
                states = args[0].clone()
                for item, (its_layer, head) in enumerate(cells):
                    if its_layer == layer:
                        states[item, -1, self.slice(head)] = self.heads[layer][self.slice(head)]
                return (states,)

            handles.append(self.projection(self.recipient, layer).register_forward_pre_hook(change))
        try:
            return self.logits(self.tokens.expand(len(cells), -1))
        finally:
            for handle in handles:
                handle.remove()


class NNsight(Peer):
    """nnsight's traces. Batched in two ways: an invoke for every cell, and one batch edited by index."""

    library, packages = "nnsight", ("nnsight",)
    forms: ClassVar = {ONE: "one", SPARED: "one", "batched, sparing, one invoke per cell": "invokes", BATCHED: "batch"}

    def wrap(self, subject):
        from nnsight import TransformersModel

        models = subject.models()
        wrapped = [TransformersModel(m, task="text-generation", tokenizer=subject.tokenizer()) for m in dict.fromkeys(models)]
        return wrapped[0], wrapped[-1]

    def read_heads(self, tokens: Tensor) -> list[Tensor]:
        import nnsight

        with self.donor.trace(tokens, **self.settings):
            inputs = nnsight.save([])
            for layer in self.donor.model.layers:
                inputs.append(layer.self_attn.o_proj.input[0, -1].clone())
        return inputs

    def read_clean(self) -> Tensor:
        with self.recipient.trace(self.tokens, **self.settings):
            logits = self.recipient.lm_head.output[:, -1].save()
        return logits

    def patch(self, layer: int, head: int) -> Tensor:
        model, value, where = self.recipient, self.heads[layer], self.slice(head)
        with model.trace(self.tokens, **self.settings):
            model.model.layers[layer].self_attn.o_proj.input[:, -1, where] = value[where]
            logits = model.lm_head.output[:, -1].save()
        return logits

    def invokes(self, cells: list[Cell]) -> Tensor:
        import nnsight

        model, heads = self.recipient, self.heads
        with model.trace(**self.settings) as tracer:
            logits = nnsight.save([])
            for layer, head in cells:
                where = self.slice(head)
                with tracer.invoke(self.tokens):
                    model.model.layers[layer].self_attn.o_proj.input[:, -1, where] = heads[layer][where]
                    logits.append(model.lm_head.output[:, -1])
        return torch.cat(logits)

    def batch(self, cells: list[Cell]) -> Tensor:
        model, heads = self.recipient, self.heads
        with model.trace(self.tokens.expand(len(cells), -1), **self.settings):
            for item, (layer, head) in sorted(enumerate(cells), key=lambda entry: entry[1]):
                where = self.slice(head)
                model.model.layers[layer].self_attn.o_proj.input[item, -1, where] = heads[layer][where]
            logits = model.lm_head.output[:, -1].save()
        return logits


class TransformerLens(Peer):
    """TransformerLens' bridge, raw weights, its hooks on hook_z."""

    library, packages = "TransformerLens", ("transformer-lens",)

    def wrap(self, subject):
        from transformer_lens.model_bridge import TransformerBridge

        models = subject.models()
        device, dtype = models[0].device, models[0].dtype
        wrapped = [
            TransformerBridge.boot_transformers(
                "local/model", hf_model=model, tokenizer=subject.tokenizer(), device=device, dtype=dtype
            )
            for model in dict.fromkeys(models)
        ]
        return wrapped[0], wrapped[-1]

    def name(self, layer: int) -> str:
        return f"blocks.{layer}.attn.hook_z"

    def read_heads(self, tokens: Tensor) -> list[Tensor]:
        _, cache = self.donor.run_with_cache(tokens, names_filter=lambda name: name.endswith("attn.hook_z"), **self.settings)
        return [cache[self.name(layer)][0, -1] for layer in range(len(self.donor.blocks))]

    def read_clean(self) -> Tensor:
        return self.recipient(self.tokens, **self.settings)[:, -1]

    def patch(self, layer: int, head: int) -> Tensor:
        def change(z, hook):
            z[:, -1, head] = self.heads[layer][head]
            return z

        return self.recipient.run_with_hooks(self.tokens, fwd_hooks=[(self.name(layer), change)], **self.settings)[:, -1]

    def batch(self, cells: list[Cell]) -> Tensor:
        def changing(layer):
            def change(z, hook):
                for item, (its_layer, head) in enumerate(cells):
                    if its_layer == layer:
                        z[item, -1, head] = self.heads[layer][head]
                return z

            return change

        hooks = [(self.name(layer), changing(layer)) for layer in sorted({layer for layer, _ in cells})]
        return self.recipient.run_with_hooks(self.tokens.expand(len(cells), -1), fwd_hooks=hooks, **self.settings)[:, -1]


PEERS = {"hooks": Hooks, "nnsight": NNsight, "transformerlens": TransformerLens}
