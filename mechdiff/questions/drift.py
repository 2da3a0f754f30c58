"""RQ1, drift: where do the two models' representations part? Linear CKA per layer and stream.

CKA compares models of any two widths. Where the depths differ too, each of the base's layers is compared with the tuned model's
layer at the nearest share of its own depth.
"""

from collections.abc import Iterator

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.inputs import prompts
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run
from mechdiff.questions.shared.states import States

MIN_PROMPTS = 4
WITHIN = {"resid_pre": 0.0, "resid_post": 1.0}  # how far through its layer a stream is taken; the others half-way
COLUMNS = ["layer", "stream", "cka", "cka_debiased", "low", "high", "low_plain", "high_plain", "n"]


def partners(stream: str, own: int, others: int) -> list[int]:
    """For each of a model's `own` layers the layer, of `others`, whose stream lies nearest to the same share of the depth."""
    within = WITHIN.get(stream, 0.5)
    shares = [(layer + within) / own for layer in range(own)]
    return [min(range(others), key=lambda other: abs((other + within) / others - share)) for share in shares]


class DriftTask:
    """Columns: cka, cka_debiased, low, high (of the debiased), low_plain, high_plain, n; a line per layer and stream.

    tuned_layer: which of the tuned model's layers it was compared with; there only where the two depths differ.
    """

    def __init__(self, run: Run, store: Store):
        self.run, self.store, self.stage = run, store, "reading the prompts"
        self.layers = run.chosen_layers
        self.clusters = [prompt.template for prompt in run.chosen_prompts]
        if len(run.chosen_prompts) < MIN_PROMPTS:
            raise UserError(f"CKA needs at least {MIN_PROMPTS} prompts; there are {len(run.chosen_prompts)}.\nTry:  --limit 32")
        self.identity = Identity(run)
        self.depths = [run.spec.shape(side).layers for side in SIDES]
        self.found = {stream: store.table(self._key(stream)) for stream in run.streams}
        self.total = 0 if self._complete() else 2 * len(run.chosen_prompts)
        self.done = 0

    def _key(self, stream: str) -> str:
        asked = {"what": "drift", "stream": stream, "texts": prompts.digest(self.run.chosen_prompts)}
        return key(**asked, clusters=self.clusters, **self.identity.pair)

    def _complete(self) -> bool:
        return all(table is not None for table in self.found.values())

    def steps(self) -> Iterator[None]:
        if self._complete():
            return
        states = States(self.identity, self.run.chosen_prompts, self.store)
        self.done = self.total - sum(len(block) for _, block in states.missing())
        for count in states.steps():
            self.done += count
            yield
        for stream, table in self.found.items():
            if table is None:
                base, tuned = (states.read(side, stream) for side in SIDES)
                self.found[stream] = self._similarity(stream, base, tuned)
                self.store.put_table(self._key(stream), self.found[stream])
                yield

    @property
    def notices(self) -> list[str]:
        """Which prompts were left out, and which sites have no similarity: the embedding of one and the same decision token."""
        notices = [*self.run.notices]
        if self.depths[0] != self.depths[1]:
            notices.append(
                f"The base has {self.depths[0]} layers, the tuned model {self.depths[1]}: each of the base's is compared with "
                "the tuned model's at the nearest share of its depth, which the column tuned_layer names."
            )
        for stream, table in self.found.items():
            constant = [] if table is None else table.layer[table.cka.isna() & table.layer.isin(self.layers)].tolist()
            if constant:
                where = ", ".join(map(str, constant))
                notices.append(f"{stream} is the same for every prompt at layer {where}: no similarity is defined there.")
        return notices

    def _similarity(self, stream: str, base, tuned) -> pd.DataFrame:
        from mechdiff.maths import similarity

        layers = partners(stream, *self.depths)
        result = {name: value.numpy() for name, value in similarity.cka_with_interval(base, tuned[layers], self.clusters).items()}
        table = pd.DataFrame(
            {
                "layer": range(len(base)),
                "stream": stream,
                "cka": result["cka"],
                "cka_debiased": result["cka_debiased"],
                "low": result["low_debiased"],
                "high": result["high_debiased"],
                "low_plain": result["low"],
                "high_plain": result["high"],
                "n": base.shape[1],
            }
        )
        if self.depths[0] != self.depths[1]:
            table.insert(1, "tuned_layer", layers)
        return table

    def table(self) -> pd.DataFrame:
        there = [table for table in self.found.values() if table is not None]
        table = pd.concat(there) if there else pd.DataFrame(columns=COLUMNS)
        table = table[table.layer.isin(self.layers)].reset_index(drop=True)
        named = {"pair": self.run.spec.name, "domain": self.run.chosen_domain, "question": self.run.question}
        return pd.DataFrame(named, index=table.index).join(table) if len(table) else table
