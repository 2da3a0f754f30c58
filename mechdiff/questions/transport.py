"""RQ2 and RQ3: is the change a linear transport, and how many dimensions does it need?

A mapped state is patched in; beside every effect stands that of the zscore map, the reference of `drop`.
"""

from itertools import product

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.lines import rank_label
from mechdiff.questions.shared.request import AUTO, FULL, Run


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

    def labels(self) -> pd.DataFrame:
        """The conditions asked for, and their controls, each with the zscore condition of its site."""
        labels, run, site = super().labels(), self.run, ["layer", "stream"]
        zscore = (
            (labels["map"] == "zscore") & (labels["alpha"] == "1.0") & (labels["rank"] == FULL) & (labels["control"] == "none")
        )
        references = labels[zscore].set_index(site)["row"].rename("reference")
        alphas, ranks = [AUTO if a is None else str(a) for a in run.chosen_alphas], [rank_label(r) for r in run.chosen_ranks]
        asked = (labels["map"] == run.map) & labels["alpha"].isin(alphas)
        if run.question == "rank":
            asked &= labels["rank"].isin(ranks)
        labels = labels[asked | (labels["control"] != "none")].join(references, on=site)
        return under_each_complement(labels, run) if run.question == "rank" else labels


def under_each_complement(labels: pd.DataFrame, run: Run) -> pd.DataFrame:
    """The uncut map leaves nothing to fill: its lines stand under every complement asked for."""
    uncut = (labels["rank"] == FULL) & (labels["map"] == run.map) & (labels["control"] != "self")
    copies = [labels[uncut].assign(complement=complement) for complement in run.complement]
    return pd.concat([labels[~uncut], *copies]).sort_values("row", kind="stable")
