"""A stored sweep: what the tables of a pair on a domain, in one direction, hold. Needs no torch and no weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DIRECTIONS, OUR_MAP, STUDYS_MAP, WHITENED
from mechdiff.inputs import prompts, protocols
from mechdiff.inputs.pair_file import pair_names, read_pair
from mechdiff.maths.recovery_curves import HALF, first_from
from mechdiff.questions.drift import similarity_of
from mechdiff.questions.shared.in_words import counted
from mechdiff.study import artifacts

STREAM, MODULES = "resid_post", ("attn_out", "mlp_out")
MAPS = {protocols.STUDY: (STUDYS_MAP,)}  # a protocol's map, if it has one of its own
JUDGED = (OUR_MAP, "procrustes_scaled")  # the first that is stored: older sweeps have the second alone
ALPHAS = ("auto", "1.0")  # the first that is stored


@dataclass(frozen=True)
class StoredSweep:
    """A pair on a domain, in one direction. Reading a table that is not stored gives None.

    pair: the name of its folders: of a pair, with @PROTOCOL under another protocol than the default. roots: the folders that it
    is looked for in; none: where sweeps are stored.
    """

    pair: str
    domain: str
    direction: str
    roots: tuple[Path, ...] = ()

    @property
    def label(self) -> str:
        return f"{self.pair} on {self.domain}"

    @property
    def pair_name(self) -> str:
        """The pair without its protocol."""
        return self.pair.partition("@")[0]

    @property
    def protocol(self) -> str:
        return self.pair.partition("@")[2] or protocols.DEFAULT

    @cached_property
    def map(self) -> str:
        """The map whose drop is judged."""
        names = MAPS.get(self.protocol, JUDGED)
        tables = (self.read("rq2", "transport_summary"), self.read("rq3", "rank_summary"))
        stored = {name for table in tables if table is not None for name in table["map"].unique()}
        return next((name for name in names if name in stored), names[-1])

    @property
    def complement(self) -> str:
        """What its rank cuts are judged under."""
        cut = protocols.settings(self.protocol, "rank", self.domain, None).get("cut")
        return WHITENED if cut == WHITENED else "mean"

    @cached_property
    def alpha(self) -> str:
        """The scale whose drop is judged: the fitted one, if it is stored."""
        table = self.read("rq2", "transport_summary", stream=STREAM, map=self.map, control="none")
        stored = set() if table is None else set(table["alpha"])
        return next((alpha for alpha in ALPHAS if alpha in stored), ALPHAS[0])

    @property
    def heads(self) -> int | None:
        """A layer's heads, for tables that do not name all of them."""
        return read_pair(self.pair_name).heads if self.imported else None

    @property
    def imported(self) -> bool:
        """Whether it is the original study's own files."""
        return (self.manifest("rq1") or {}).get("kind") == "import"

    @property
    def command(self) -> str:
        """The command line that stores it."""
        name = self.pair_name if self.pair_name in pair_names() else f"path/to/{self.pair_name}.toml"
        under = f" --protocol {self.protocol}" if self.protocol != protocols.DEFAULT else ""
        return f"python -m mechdiff sweep --pair {name} --domain {self.domain} --grid full{under}"

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
        if manifest is not None and self.imported:
            return "the original study's result files: means without intervals"
        if manifest is None:
            return "no manifest: the origin of its numbers is unknown" if self.stamp() else "nothing stored"
        templates = len(set(manifest["templates"]))
        return f"{counted(manifest['prompts'], templates)}, {manifest['dtype']}, {manifest['grid']} grid"

    def stamp(self) -> float:
        """When its stored tables last changed (s, epoch); 0 if there are none."""
        folders = artifacts.matching(f"{self.domain}/rq*/{self.pair}", self.roots)
        return max((path.stat().st_mtime for folder in folders for path in folder.glob("*")), default=0.0)

    def half(self) -> int | None:
        """The first layer from which the last token's state recovers half at all later ones, on the train split."""
        train = self.read("rq1", "patch_train", stream=STREAM, control="none")
        if train is None:
            return None
        means = train.groupby("layer")[["kl_to_donor", "kl_donor_clean"]].mean()
        first = first_from((1 - means["kl_to_donor"] / means["kl_donor_clean"]).to_numpy(float) >= HALF)
        return None if first is None else int(means.index[first])

    def read_at(self) -> tuple[int | None, str]:
        """The layer at which maps and ranks are read, and why: see `half`, or else where patching has the largest effect."""
        if (half := self.half()) is not None:
            return half, "the first layer from which the last token's state recovers half, chosen on train"
        table = self.read("rq1", "patch_summary", stream=STREAM, control="none")
        layer = None if table is None else int(table["layer"].iloc[int(table["mean"].argmax())])
        return layer, "where patching has the largest effect"

    def layer(self, depth: float | None) -> int | None:
        """The layer nearest to a relative depth, 0 to 1; None: see `read_at`."""
        if depth is None:
            return self.read_at()[0]
        table = self.read("rq1", "patch_summary", stream=STREAM, control="none")
        if table is None:
            return None
        wanted = depth * self.last_layer(table)
        return int(min(table["layer"], key=lambda layer: abs(layer - wanted)))

    def strongest(self) -> int | None:
        """The layer where all attention heads together have the largest mean effect, on the train split where that is stored."""
        where = {"heads": "all", "control": "none"}
        table = self.read("rq4", "heads_train_summary", **where)
        table = self.read("rq4", "heads_summary", **where) if table is None else table
        return None if table is None else int(table["layer"].iloc[int(table["mean"].fillna(0).argmax())])

    def cuts(self, layer: int) -> tuple[pd.DataFrame | None, pd.DataFrame | None]:
        """Rank cuts and their controls at a layer, and the z-score effects that the drop refers to, by prompt."""
        where = {"layer": layer, "stream": STREAM}
        return self.read("rq3", "rank", **where), self.read("rq2", "transport", **where, map="zscore", control="none")

    def drift(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean (CKA of the residual stream: over templates, or plain under the study's protocol), low,
        high, and similarity, its name."""
        table = self.read("rq1", "drift", stream=STREAM)
        if table is None:
            return None
        if self.protocol == protocols.STUDY:
            plain = {"mean": table["cka"], "low": table["low_plain"], "high": table["high_plain"]}
            table = table.assign(**plain, similarity="plain CKA")
        else:
            table = similarity_of(table)
        return self.deep(table.dropna(subset=["mean"]))

    def recovery(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean recovery with the states of all tokens, low, high."""
        table = self.read("rq1", "patch_all_summary", control="none")
        return None if table is None else ratio(self.deep(table[table["layer"] >= 0]), "recovery")

    def beyond(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean part of the constant shift's effect (per cent) that the map removes, low, high."""
        where = {"map": self.map, "alpha": self.alpha, "control": "none"}
        table = self.deep(self.read("rq2", "transport_summary", stream=STREAM, **where))
        return None if table is None or "beyond_shift" not in table else ratio(table, "beyond_shift", 100)

    def directions(self, layer: int) -> pd.DataFrame | None:
        """A row per rank (text) at a layer: mean recovery of the shift and so many directions of the difference, low, high."""
        return ratio(self.read("rq3", "difference_summary", stream=STREAM, layer=layer, control="none"), "recovery")

    def effect(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean effect (nats) of the residual stream's patch, low, high."""
        return self.deep(self.read("rq1", "patch_summary", stream=STREAM, control="none"))

    def transplants(self, module: str) -> pd.DataFrame | None:
        """A row per layer: depth, mean effect (nats) of one module's own weights, low, high."""
        return self.deep(self.read("rq1", "transplant_summary", stream=module, control="none"))

    def drop(self) -> pd.DataFrame | None:
        """A row per layer: depth, mean drop (per cent of the z-score effect) of the study's map, low, high."""
        where = {"map": self.map, "alpha": self.alpha, "control": "none"}
        return ratio(self.deep(self.read("rq2", "transport_summary", stream=STREAM, **where)), "drop")

    def drop_by_rank(self, layer: int) -> pd.DataFrame | None:
        """A row per rank (text) at a layer: mean drop under complement mean. Rank 0 is the control mean ablation."""
        table = self.read("rq3", "rank_summary", stream=STREAM, layer=layer)
        if table is None:
            return None
        judged = table["complement"] == ("mean" if self.complement == "mean" else WHITENED)
        flat = (table["control"] == "mean") & (table["complement"] == "mean")  # rank 0 under either cut
        table = table[self.is_own_map(table) & (judged | flat)]
        return ratio(table, "drop") if len(table) else None

    def effect_by_rank(self, layer: int) -> pd.DataFrame | None:
        """A row per rank (text) at a layer: mean effect (nats) under complement own."""
        table = self.read("rq3", "rank_summary", stream=STREAM, layer=layer, complement="own")
        if table is None:
            return None
        table = table[self.is_own_map(table) & (table["control"] == "none")]
        return table if len(table) else None

    def is_own_map(self, table: pd.DataFrame) -> pd.Series:
        """Which lines are the judged map at the judged scale, or the mean ablation that stands for it at rank 0."""
        mapped = (table["map"] == self.map) & (table["alpha"] == self.alpha) & (table["control"] == "none")
        return mapped | (table["control"] == "mean")

    def deep(self, table: pd.DataFrame | None) -> pd.DataFrame | None:
        """Layers with their relative depth: 0 for the first, 1 for the last of the model."""
        if table is None:
            return None
        return table.assign(depth=table["layer"] / self.last_layer(table)).sort_values("layer")

    def last_layer(self, table: pd.DataFrame) -> int:
        """The model's last layer: as its pair's file says, where a protocol stores only some layers."""
        stored = int(table["layer"].max())
        if self.protocol == protocols.DEFAULT or self.pair_name not in pair_names():
            return stored
        return max(stored, (read_pair(self.pair_name).depth or 0) - 1)

    def coverage(self, layer: int, chosen: str) -> pd.DataFrame | None:
        """A row per set chosen by topk or greedy, and all heads: size, share of the layer's heads, mean coverage (per cent)."""
        table = self.read("rq4", "coverage_summary", layer=layer)
        if table is None:
            return None
        table = sized(table[table["control"] != "self"], self.heads)
        return ratio(table[table["chosen"].isin([chosen, "all"])].sort_values("size"), "coverage", 100)

    def random_sets(self, layer: int) -> pd.DataFrame | None:
        """Random sets: the median of their coverage by size, and the range of 95 % of the sets."""
        table = self.read("rq4", "coverage_summary", layer=layer)
        if table is None:
            return None
        table = sized(table, self.heads)
        table = table.assign(mean=100 * table["coverage"])[table["chosen"] == "random"]
        if table.empty:
            return None
        quantiles = table.groupby("share")["mean"].quantile(np.array([0.025, 0.5, 0.975])).unstack()
        return quantiles.set_axis(["low", "mean", "high"], axis=1).reset_index()


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


def sized(table: pd.DataFrame, count: int | None = None) -> pd.DataFrame:
    """Sets of heads with their size and their share, in per cent, of the layer's heads. count: those; default: all it names."""
    count = count or len({head for text in table["heads"] if text != "all" for head in text.split("-")})
    sizes = np.array([count if text == "all" else text.count("-") + 1 for text in table["heads"]])
    return table.assign(size=sizes, share=100 * sizes / count)


def stored_pairs() -> list[str]:
    """Every pair that can be compared: those with a stored sweep, shipped ones first, then the shipped ones without."""
    swept = {path.name for path in artifacts.matching("*/rq1/*")}
    named = pair_names()
    every = [name for pair in named for name in (pair, *sorted(s for s in swept if s.startswith(f"{pair}@"))) if name in swept]
    return [*every, *sorted(swept - set(every)), *(name for name in named if not any(e.partition("@")[0] == name for e in every))]


def own_domain(pair: str) -> str:
    """The domain that a pair is about: from its file, or, for a pair whose file is elsewhere, the first that is stored."""
    if (name := pair.partition("@")[0]) in pair_names():
        return read_pair(name).domain
    return min(path.parents[1].name for path in artifacts.matching(f"*/rq1/{pair}"))


def divided(text: str) -> tuple[str, str]:
    """PAIR and DOMAIN of PAIR@DOMAIN; no domain if none is named. Both may have an @ of their own: pair@study, cultural@1."""
    if text in stored_pairs():
        return text, ""
    known = {*prompts.domains(), *(path.parents[1].name for path in artifacts.matching("*/rq1/*"))}
    for domain in sorted(known, key=len, reverse=True):
        if text.endswith(f"@{domain}"):
            return text.removesuffix(f"@{domain}"), domain
    pair, _, domain = text.rpartition("@")
    return (pair, domain) if pair else (text, "")


def parse(text: str, direction: str) -> StoredSweep:
    """A stored sweep from PAIR or PAIR@DOMAIN. Raises UserError for a name that does not exist, or a missing domain."""
    pair, domain = divided(text)
    if direction not in DIRECTIONS:
        raise one_of("Direction", direction, DIRECTIONS)
    if pair not in stored_pairs() or not domain:
        name, at, protocol = pair.partition("@")
        spec = read_pair(name)
        pair, domain = f"{spec.name}{at}{protocol}", domain or spec.domain
    if not domain:
        raise UserError(f"{pair} has no domain of its own.\nTry:  {text}@{prompts.domains()[0]}")
    if not any((place / domain).is_dir() for place in artifacts.places()) and domain not in prompts.domains():
        raise one_of("Domain", domain, prompts.domains())
    return StoredSweep(pair, domain, direction)
