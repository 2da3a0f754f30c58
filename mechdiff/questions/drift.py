"""Drift (RQ1): where do the two models' representations diverge? Linear CKA per layer and stream.

CKA compares models of any two widths. Where the depths differ too, each of the base's layers is compared with the tuned model's
layer at the nearest share of its own depth.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.inputs import prompts
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.states import States
from mechdiff.questions.shared.table_tasks import StreamTablesTask

MIN_PROMPTS = 4
WITHIN = {"resid_pre": 0.0, "resid_post": 1.0}  # how far through its layer a stream is taken; the others half-way
OVER_TEMPLATES, DEBIASED = "CKA over templates", "debiased CKA"
OF_TEMPLATES = ("cka_templates", "low_templates", "high_templates", "cka_null")
COLUMNS = ["layer", "stream", "cka", "cka_debiased", "low", "high", "low_plain", "high_plain", *OF_TEMPLATES, "n"]


@dataclass(frozen=True)
class Drift(Question):
    """How similarly the two models place the same prompts, at every chosen layer and stream.

    Its table has a row per layer and stream: cka, cka_debiased, both without unit, 1 for the same geometry; low, high: the 95 %
    interval of the debiased one; low_plain, high_plain: that of the plain one; cka_templates, low_templates, high_templates: the
    debiased one over templates, so that near copies of a prompt do not count as agreement; cka_null: the same with the tuned
    model's templates in other orders, 0 but for chance; n: prompts. tuned_layer: the layer of the tuned model, if the two depths
    differ. The two models may differ in width and depth.
    Raises UserError for a value that is not valid, and for fewer than 4 prompts.
    Source: linear CKA, Kornblith et al. 2019, arXiv:1905.00414; debiased, Song et al. 2012 and Murphy et al. 2024.

    Example:
        >>> pair.drift(layers=[0, 1]).table[["layer", "cka", "low", "high"]].shape
        (2, 4)
        >>> table = md.run(md.Drift(pair=pair.spec.path, layers=(0, 1), streams=("resid_post", "mlp_out")))
        >>> len(table)
        4
    """

    question: ClassVar[str] = "drift"
    title: ClassVar[str] = "Where do representations diverge?"
    averages: ClassVar[bool] = False
    same_shape: ClassVar[bool] = False

    def task(self, store: Store) -> "DriftTask":
        return DriftTask(self, store)


def similarity_of(table: pd.DataFrame) -> pd.DataFrame:
    """Drift's lines with the similarity that is read, as columns mean, low, high and similarity, its name.

    That is the one over templates; or the debiased one where there are too few templates, or the table is older.
    """
    table = table.reindex(columns=list(dict.fromkeys([*table, *OF_TEMPLATES, "low_plain", "high_plain"])))
    over = table["cka_templates"].notna()
    ends = {end: table[f"{end}_templates"].where(over, table[end]) for end in ("low", "high")}
    names = over.map({True: OVER_TEMPLATES, False: DEBIASED})
    return table.assign(mean=table["cka_templates"].where(over, table["cka_debiased"]), **ends, similarity=names)


def partners(stream: str, own: int, others: int) -> list[int]:
    """For each of a model's `own` layers the layer, of `others`, whose stream lies nearest to the same share of the depth."""
    within = WITHIN.get(stream, 0.5)
    shares = [(layer + within) / own for layer in range(own)]
    return [min(range(others), key=lambda other: abs((other + within) / others - share)) for share in shares]


class DriftTask(StreamTablesTask):
    """A line per layer and stream, in COLUMNS; low and high are of the debiased CKA.

    tuned_layer: which of the tuned model's layers it was compared with; there only where the two depths differ.
    """

    def __init__(self, run: Drift, store: Store):
        self.layers, self.clusters = run.chosen_layers, run.templates
        if len(run.chosen_prompts) < MIN_PROMPTS:
            raise UserError(f"CKA needs at least {MIN_PROMPTS} prompts; there are {len(run.chosen_prompts)}.\nTry:  --limit 32")
        self.depths = [run.spec.shape(side).layers for side in SIDES]
        super().__init__(run, store, 2 * len(run.chosen_prompts))
        self.entering("reading the prompts")

    def stream_key(self, stream: str) -> str:
        parts = {"what": "drift over templates too", "stream": stream, "texts": prompts.digest(self.run.chosen_prompts)}
        return key(**parts, clusters=self.clusters, **self.identity.pair)

    def steps(self) -> Iterator[None]:
        if self.complete:
            return
        states = States(self.identity, self.run.chosen_prompts, self.store)
        self.progress.done = self.total - sum(len(block) for _, block in states.missing())
        for count in states.steps():
            self.progress.done += count
            yield
        for stream in self.missing:
            base, tuned = (states.read(side, stream) for side in SIDES)
            self.keep(stream, self._similarity(stream, base, tuned))
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
        for stream, table in self.tables.items():
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
                **{name: result[name] for name in OF_TEMPLATES},
                "n": base.shape[1],
            }
        )
        if self.depths[0] != self.depths[1]:
            table.insert(1, "tuned_layer", layers)
        return table

    def table(self) -> pd.DataFrame:
        table = self.joined(COLUMNS)
        table = table[table.layer.isin(self.layers)].reset_index(drop=True)
        named = {"pair": self.run.spec.name, "domain": self.run.chosen_domain, "question": self.run.question}
        return pd.DataFrame(named, index=table.index).join(table) if len(table) else table
