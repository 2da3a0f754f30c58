"""A stored sweep: what the tables of a pair on a domain, in one direction, hold. Needs no torch and no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DIRECTIONS
from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import pair_names, read_pair
from mechdiff.study import artifacts

STREAM, MODULES = "resid_post", ("attn_out", "mlp_out")
MAP = "procrustes_scaled"  # the study's own
ALPHA = "auto"


@dataclass(frozen=True)
class StoredSweep:
    """A pair on a domain, in one direction. Reading a table that is not stored gives None.

    roots: the folders that it is looked for in; none: where sweeps are stored.
    """

    pair: str
    domain: str
    direction: str
    roots: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.pair} on {self.domain}"

    @property
    def command(self) -> str:
        """The command line that stores it."""
        name = self.pair if self.pair in pair_names() else f"path/to/{self.pair}.toml"
        return f"python -m mechdiff sweep --pair {name} --domain {self.domain} --grid full"

    def read(self, folder: str, name: str, **where) -> pd.DataFrame | None:
        if name != "drift":
            where = {"direction": self.direction} | where
        table = artifacts.read(self.domain, folder, self.pair, name, where, self.roots)[0]
        return None if table is None or table.empty else table

    def manifest(self, folder: str) -> dict | None:
        return artifacts.read(self.domain, folder, self.pair, "manifest", roots=self.roots)[1]

    def templates(self, folder: str, prompts: Sequence[int]) -> list[str]:
        """The template of each prompt; without a manifest, a template of its own for each."""
        manifest = self.manifest(folder)
        return [manifest["templates"][i] if manifest else str(i) for i in prompts]

    def origin(self) -> str:
        """How many prompts and templates its numbers are from, in which format and grid."""
        manifest = self.manifest("rq1")
        if manifest is None:
            return "no manifest: the origin of its numbers is unknown" if self.stamp() else "nothing stored"
        templates = len(set(manifest["templates"]))
        return f"{manifest['prompts']} prompts, {templates} templates, {manifest['dtype']}, {manifest['grid']} grid"

    def stamp(self) -> float:
        """When its stored tables last changed (s, epoch); 0 if there are none."""
        folders = artifacts.matching(f"{self.domain}/rq*/{self.pair}", self.roots)
        return max((path.stat().st_mtime for folder in folders for path in folder.glob("*")), default=0.0)

    def affected(self) -> int | None:
        """The most affected layer: where patching the residual stream has the largest mean effect."""
        table = self.read("rq1", "patch_summary", stream=STREAM, control="none")
        return None if table is None else int(table["layer"].iloc[int(table["mean"].argmax())])

    def layer(self, depth: float | None) -> int | None:
        """The layer nearest to a relative depth, 0 to 1; None: the most affected one."""
        if depth is None:
            return self.affected()
        table = self.read("rq1", "patch_summary", stream=STREAM, control="none")
        return None if table is None else round(depth * int(table["layer"].max()))

    def strongest(self) -> int | None:
        """The layer where replacing all attention heads together has the largest mean effect."""
        table = self.read("rq4", "heads_summary", heads="all", control="none")
        return None if table is None else int(table["layer"].iloc[int(table["mean"].argmax())])

    def cuts(self, layer: int) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Rank cuts and their controls at a layer, and the z-score effects that the drop refers to, by prompt."""
        where = {"layer": layer, "stream": STREAM}
        return self.read("rq3", "rank", **where), self.read("rq2", "transport", **where, map="zscore", control="none")

    def drift(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean (debiased CKA of the residual stream), low, high."""
        table = self.read("rq1", "drift", stream=STREAM)
        return table if table is None else deep(table.assign(mean=table["cka_debiased"]).dropna(subset=["mean"]))

    def effect(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean effect (nats) of the residual stream's patch, low, high."""
        return deep(self.read("rq1", "patch_summary", stream=STREAM, control="none"))

    def transplants(self, module: str) -> pd.DataFrame | None:
        """A row per layer: depth, mean effect (nats) of one module's own weights, low, high."""
        return deep(self.read("rq1", "transplant_summary", stream=module, control="none"))

    def drop(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean drop (per cent of the z-score effect) of the study's map, low, high."""
        return ratio(deep(self.read("rq2", "transport_summary", stream=STREAM, map=MAP, alpha=ALPHA, control="none")), "drop")

    def drop_by_rank(self, layer: int) -> pd.DataFrame | None:
        """A row per rank (text) at a layer: mean drop under complement mean. Rank 0 is the control mean ablation."""
        table = self.read("rq3", "rank_summary", stream=STREAM, layer=layer, complement="mean")
        return table if table is None else ratio(table[is_study_map(table)], "drop")

    def coverage(self, layer: int, chosen: str) -> pd.DataFrame | None:
        """A row per set chosen by topk or greedy, and all heads: size, share of the layer's heads, mean coverage (per cent)."""
        table = self.read("rq4", "coverage_summary", layer=layer)
        if table is None:
            return None
        table = sized(table[table["control"] != "self"])
        return ratio(table[table["chosen"].isin([chosen, "all"])].sort_values("size"), "coverage", 100)

    def random_sets(self, layer: int) -> pd.DataFrame | None:
        """Random sets: the median of their coverage by size, and the range of 95 % of the sets."""
        table = self.read("rq4", "coverage_summary", layer=layer)
        if table is None:
            return None
        table = sized(table)
        table = table.assign(mean=100 * table["coverage"])
        quantiles = table[table["chosen"] == "random"].groupby("share")["mean"].quantile(np.array([0.025, 0.5, 0.975])).unstack()
        return quantiles.set_axis(["low", "mean", "high"], axis=1).reset_index()


def is_study_map(table: pd.DataFrame) -> pd.Series:
    """Which lines are the study's map at its own scale, or the mean ablation that stands for it at rank 0."""
    mapped = (table["map"] == MAP) & (table["alpha"] == ALPHA) & (table["control"] == "none")
    return mapped | (table["control"] == "mean")


def deep(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """Layers with their relative depth: 0 for the first, 1 for the last."""
    return table if table is None else table.assign(depth=table["layer"] / table["layer"].max()).sort_values("layer")


def half_effect(table: pd.DataFrame) -> pd.Series:
    """The line of the first layer whose mean effect is at least half of the largest one.

    table: a line per layer, with columns layer and mean. Half of the largest, not of the last layer's: only resid_post has its
    full effect at the last layer, and even its curve may peak before; the largest exists for every stream and direction, and is
    the one that the reports name.
    """
    by_layer = table.sort_values("layer")
    return by_layer[by_layer["mean"] >= by_layer["mean"].max() / 2].iloc[0]


def ratio(table: pd.DataFrame | None, name: str, factor: float = 1.0) -> pd.DataFrame | None:
    """The lines with one of their ratios as mean, low and high."""
    if table is None:
        return None
    return table.assign(mean=factor * table[name], low=factor * table[f"{name}_low"], high=factor * table[f"{name}_high"])


def sized(table: pd.DataFrame) -> pd.DataFrame:
    """Sets of heads with their size and their share, in per cent, of the layer's heads."""
    single = {head for text in table["heads"] if text != "all" for head in text.split("-")}
    sizes = np.array([len(single) if text == "all" else text.count("-") + 1 for text in table["heads"]])
    return table.assign(size=sizes, share=100 * sizes / len(single))


def stored_pairs() -> list[str]:
    """Every pair that can be compared: those with a stored sweep, shipped ones first, then the shipped ones without."""
    swept = {path.name for path in artifacts.matching("*/rq1/*")}
    named = pair_names()
    return [name for name in named if name in swept] + sorted(swept - set(named)) + [name for name in named if name not in swept]


def own_domain(pair: str) -> str:
    """The domain that a pair is about: from its file, or, for a pair whose file is elsewhere, the first that is stored."""
    if pair in pair_names():
        return read_pair(pair).domain
    return min(path.parents[1].name for path in artifacts.matching(f"*/rq1/{pair}"))


def parse(text: str, direction: str) -> StoredSweep:
    """A stored sweep from PAIR or PAIR@DOMAIN. Raises UserError for a name that does not exist, or a missing domain."""
    pair, _, domain = text.partition("@")
    if direction not in DIRECTIONS:
        raise one_of("Direction", direction, DIRECTIONS)
    if pair not in stored_pairs() or not domain:
        spec = read_pair(pair)
        pair, domain = spec.name, domain or spec.domain
    if not domain:
        raise UserError(f"{pair} has no domain of its own.\nTry:  {text}@{prompts.domains()[0]}")
    if not any((place / domain).is_dir() for place in artifacts.places()) and domain not in prompts.domains():
        raise one_of("Domain", domain, prompts.domains())
    return StoredSweep(pair, domain, direction)
