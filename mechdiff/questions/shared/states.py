"""States of either model, stored on disk: what drift and the fitted maps are computed from.

They are read at the decision token, or at more positions: the decision token and curated ones before it.
"""

from collections.abc import Iterator
from functools import cached_property

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES, STREAMS
from mechdiff.inputs import tokenizers as tokens
from mechdiff.inputs.prompts import Prompt, blocks, read_positions
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.identity import Identity


class States:
    """The states of both models on a list of prompts, computed block by block where they are not on disk.

    positions: 1 for the decision token alone; a larger K for up to K curated positions before it (a domain's file has at
    most 16) and the decision token. seed: which are chosen if no file names them, or if it names more than K.
    streams: those that are computed and stored.
    """

    def __init__(self, identity: Identity, prompts: list[Prompt], store: Store, positions=1, seed=0, streams=STREAMS):
        if positions < 1:
            raise UserError(f"Positions {positions} leaves no token of a prompt.\nTry:  --positions 1 (decision token) or 16")
        self.identity, self.store, self.blocks = identity, store, blocks(prompts)
        self.positions, self.seed, self.streams = positions, seed, tuple(streams)

    @cached_property
    def tokenizers(self) -> tokens.Tokenizers:
        return tokens.load_tokenizers(self.identity.run.spec)

    @cached_property
    def characters(self) -> dict[str, tuple[int, ...]]:
        """Text -> its positions before the decision token, as characters. From the domain's file, else chosen here."""
        texts = [prompt.text for block in self.blocks for prompt in block]
        if self.positions == 1:
            return dict.fromkeys(texts, ())
        curated, count, seed = read_positions(self.identity.run.chosen_domain), self.positions, self.seed
        positions = {text: tokens.pick(curated[text], text, count, seed) for text in texts if text in curated}
        return positions | {text: self.tokenizers.choose(text, count, seed) for text in texts if text not in positions}

    @property
    def groups(self):
        """The prompt of each row of `read`: a long tensor [rows]."""
        import torch

        counts = [1 + len(self.characters[prompt.text]) for block in self.blocks for prompt in block]
        return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))

    def key(self, side: str, block: list[Prompt], stream: str) -> str:
        parts = self.identity.states(side, block, stream)
        if self.positions > 1:
            parts |= {"positions": self.positions, "characters": [self.characters[prompt.text] for prompt in block]}
        return key(**parts)

    def missing(self) -> list[tuple[str, list[Prompt]]]:
        """The (side, block) pairs without stored states, one model after the other."""
        present = self.store.has
        return [(s, b) for s in SIDES for b in self.blocks if not all(present(self.key(s, b, stream)) for stream in self.streams)]

    def _run(self, side: str, block: list[Prompt]):
        """The states of one block: stream -> [layers, rows, width]."""
        loaded = self.identity.load()
        texts = tuple(prompt.text for prompt in block)
        if self.positions == 1:
            return loaded.passes.trace(side, texts, keep_calls=False).states
        return self._run_positions(loaded, side, texts)

    def _run_positions(self, loaded: LoadedPair, side: str, texts: tuple[str, ...]):
        from mechdiff.engine.trace import run_states

        ids = [loaded.tokens.encode(text, side) for text in texts]
        before = [loaded.tokenizers.positions(text, self.characters[text], side) for text in texts]
        places = [[*earlier, len(i) - 1] for earlier, i in zip(before, ids)]
        anatomy = getattr(loaded, side)
        with loaded.placement.at_work(side):
            return run_states(anatomy, ids, places)

    def compute(self, side: str, block: list[Prompt]) -> None:
        states = self._run(side, block)
        for stream in self.streams:
            self.store.put_arrays(self.key(side, block, stream), {"states": states[stream].float().cpu().numpy()})

    def steps(self) -> Iterator[int]:
        """Compute what is missing; yields the number of prompts done after each step."""
        for side, block in self.missing():
            self.compute(side, block)
            yield len(block)

    def read(self, side: str, stream: str):
        """Tensor [layers, rows, width], float32: rows in the order of `groups`. Computes a block again if it was evicted."""
        import torch

        parts = []
        for block in self.blocks:
            stored = self.store.arrays(self.key(side, block, stream))
            states = self._run(side, block)[stream].float().cpu() if stored is None else torch.from_numpy(stored["states"])
            parts.append(states)
        return torch.cat(parts, 1)
