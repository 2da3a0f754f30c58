"""RQ2 and RQ3: is the change a linear transport, and how many dimensions does it need?

A mapped state is patched in; beside every effect stands that of the zscore map, the reference of `drop`.
"""

from itertools import product

import pandas as pd

from mechdiff.conditions import Condition
from mechdiff.experiments.effects import EffectsTask, rank_label
from mechdiff.experiments.request import AUTO, FULL, Run
from mechdiff.store import Store


def transport_task(run: Run, store: Store) -> EffectsTask:
    """The uncut map at every chosen layer, stream and scale."""
    return MappedTask(run, [(None, "")], store)


def rank_task(run: Run, store: Store) -> EffectsTask:
    """The map cut to every chosen rank, under every complement. The uncut map is one condition under either."""
    cuts = [(rank, complement) for rank, complement in product(run.chosen_ranks, run.complement) if rank is not None]
    return MappedTask(run, [*cuts, *([(None, "")] if None in run.chosen_ranks else [])], store)


class MappedTask(EffectsTask):
    """Effects of mapped states, with the zscore effect at the same site beside each as kl_reference.

    cuts: rank and complement of every condition.
    """

    def __init__(self, run: Run, cuts: list[tuple[int | None, str]], store: Store):
        groups = []
        for stream, layer in product(run.streams, run.chosen_layers):
            heads = tuple(range(run.spec.heads)) if stream == "heads" else None
            ways = product(run.chosen_alphas, cuts)
            asked = tuple(Condition(layer, stream, run.map, alpha, rank, fill, heads=heads) for alpha, (rank, fill) in ways)
            reference = Condition(layer, stream, "zscore", heads=heads)
            groups += [asked] if reference in asked else [(reference,), asked]
            groups += [tuple(dict.fromkeys(c.as_control(control) for c in asked)) for control in run.controls]
        super().__init__(run, groups, store)

    def table(self) -> pd.DataFrame:
        table, run, place = super().table(), self.run, ["layer", "stream", "prompt"]
        zscore = (table["map"] == "zscore") & (table["alpha"] == "1.0") & (table["rank"] == FULL) & (table["control"] == "none")
        reference = table[zscore].drop_duplicates(place).set_index(place)["kl"].rename("kl_reference")
        alphas, ranks = [AUTO if a is None else str(a) for a in run.chosen_alphas], [rank_label(r) for r in run.chosen_ranks]
        asked = (table["map"] == run.map) & table["alpha"].isin(alphas)
        if run.question == "rank":
            asked &= table["rank"].isin(ranks)
        table = table[asked | (table["control"] != "none")].join(reference, on=place)
        return under_each_complement(table, run) if run.question == "rank" else table.reset_index(drop=True)


def under_each_complement(table: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The uncut map leaves nothing to fill: its lines stand under every complement asked for."""
    uncut = (table["rank"] == FULL) & (table["map"] == run.map) & (table["control"] != "self")
    copies = [table[uncut].assign(complement=complement) for complement in run.complement]
    return pd.concat([table[~uncut], *copies], ignore_index=True)
