"""States at the decision token, of either model, kept on disk: what drift and the fitted maps are computed from."""

from collections.abc import Iterator

from mechdiff.experiments.identity import Identity
from mechdiff.models import LoadedPair, load_pair
from mechdiff.prompts import Prompt, blocks
from mechdiff.store import Store, key
from mechdiff.terms import SIDES, STREAMS


class States:
    """The states of both models on a list of prompts, computed block by block where they are not on disk."""

    def __init__(self, identity: Identity, prompts: list[Prompt], store: Store):
        self.identity, self.store, self.blocks = identity, store, blocks(prompts)

    def key(self, side: str, block: list[Prompt], stream: str) -> str:
        return key(**self.identity.states(side, block, stream))

    def missing(self) -> list[tuple[str, list[Prompt]]]:
        """The (side, block) pairs without stored states."""
        present = self.store.has
        return [(s, b) for b in self.blocks for s in SIDES if not all(present(self.key(s, b, stream)) for stream in STREAMS)]

    def compute(self, loaded: LoadedPair, side: str, block: list[Prompt]) -> None:
        trace = loaded.trace(side, tuple(prompt.text for prompt in block), keep_calls=False)
        for stream in STREAMS:
            self.store.put_arrays(self.key(side, block, stream), {"states": trace.states[stream].float().cpu().numpy()})

    def steps(self) -> Iterator[int]:
        """Compute what is missing; yields the number of prompts done after each step."""
        for side, block in self.missing():
            loaded = load_pair(self.identity.run.spec, self.identity.device, self.identity.dtype)
            self.compute(loaded, side, block)
            yield len(block)

    def read(self, side: str, stream: str):
        """Tensor [layers, n, width], float32. Computes a block again if it was evicted since."""
        import torch

        parts = []
        for block in self.blocks:
            stored = self.store.arrays(self.key(side, block, stream))
            if stored is None:
                loaded = load_pair(self.identity.run.spec, self.identity.device, self.identity.dtype)
                trace = loaded.trace(side, tuple(prompt.text for prompt in block), keep_calls=False)
                parts.append(trace.states[stream].float().cpu())
            else:
                parts.append(torch.from_numpy(stored["states"]))
        return torch.cat(parts, 1)
