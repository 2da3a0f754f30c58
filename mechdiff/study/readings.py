"""Readings: what a stored sweep says, each in one sentence with its estimate, interval and number of prompts. Needs no torch.

Layers, heads and modules are chosen on the train split, on one prompt of each template, and read on val. A reading whose tables
are not stored is left out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechdiff.common.terms import OUR_MAP, sides
from mechdiff.maths import recovery_curves
from mechdiff.maths.intervals import Ends, RatioOfSums, Templates, floor_of
from mechdiff.maths.multiple import holm, p_value, tied_with_best
from mechdiff.study.quantities import rank_text
from mechdiff.study.stored_sweep import MODULES, STREAM, StoredSweep

CANDIDATES = 30  # the largest by train, among which ties are looked for on val
SURE = 0.05  # p below which a difference is clear
FLAT = 0.05  # what the last doubling of the train templates may still add, as a share of the shift's effect
KERNEL = "kernel_ridge"
NAMES = dict(zip(MODULES, ("attention", "MLP")))
DIRECTION = {"base-to-tuned": "removes the fine-tune", "tuned-to-base": "installs the fine-tune"}
LINEAR, BENT, OPEN = "linear", "not linear", "not decided"

Array = np.ndarray


@dataclass(frozen=True)
class Reading:
    """One reading. sentence: at most 25 words. estimand, control, chosen: what is estimated, next to what, chosen from what."""

    key: str
    sentence: str
    estimand: str
    control: str
    chosen: str


@dataclass(frozen=True)
class Curve:
    """Effects of the same prompts at several points: layers, ranks or others.

    clean: KL(donor || clean), [n]. to_donor, effect: KL(donor || patched) and KL(patched || clean), a row per prompt and a column
    per point; empty if not stored.
    """

    templates: Templates
    clean: Float[Array, " n"]
    to_donor: pd.DataFrame
    effect: pd.DataFrame

    @property
    def prompts(self) -> int:
        return len(self.effect)

    def recovery(self, points: list) -> Ends:
        """R at some points, with intervals."""
        return recovery_curves.recovery(self.templates, self.clean, self.to_donor[points].to_numpy(float))

    def share(self, top: Float[Array, " n"], bottom: Float[Array, " n"]) -> Ends:
        return RatioOfSums(self.templates, self.templates.sums(top), self.templates.sums(bottom)).ends()


def curve(lines: pd.DataFrame | None, x: str | list[str], seed: int = 0) -> Curve | None:
    """Stored lines, one per prompt and point, as a curve over x; None if nothing is stored. seed: of the resamples."""
    if lines is None or lines.empty or "template" not in lines:
        return None
    effect = lines.pivot(index="prompt", columns=x, values="kl").astype(float).dropna()
    names = lines.drop_duplicates("prompt").set_index("prompt")["template"].loc[effect.index].tolist()
    clean, to_donor = np.zeros(len(effect)), effect.iloc[:, :0]
    if "kl_to_donor" in lines:
        to_donor = lines.pivot(index="prompt", columns=x, values="kl_to_donor").astype(float).loc[effect.index]
        clean = lines.drop_duplicates("prompt").set_index("prompt")["kl_donor_clean"].loc[effect.index].to_numpy(float)
    return Curve(Templates(names, seed), clean, to_donor, effect)


def over_ranks(lines: pd.DataFrame | None, seed: int = 0) -> Curve | None:
    """The same over ranks as numbers, full as infinity."""
    if lines is None or lines.empty:
        return None
    return curve(lines.assign(rank=ranks_of(lines["rank"])), "rank", seed)


def share_of_shift(cuts: Curve) -> Ends:
    """The recovery by the mean shift (rank 0) as a share of the whole state's."""
    shift, whole = (cuts.clean - cuts.to_donor[point].to_numpy(float) for point in (0.0, np.inf))
    return cuts.share(shift, whole)


class Read:
    """What is read of a sweep, each table once. seed: of the resamples."""

    def __init__(self, sweep: StoredSweep, seed: int = 0):
        self.sweep, self.seed = sweep, seed

    def lines(self, folder: str, name: str, control: str = "none", **where) -> pd.DataFrame | None:
        return self.sweep.read(folder, name, control=control, **where)

    @cached_property
    def everywhere(self) -> Curve | None:
        """Patches at every token, over the embedding and the layers."""
        return curve(self.lines("rq1", "patch_all"), "layer", self.seed)

    @cached_property
    def token(self) -> Curve | None:
        """Patches at the decision token, over layers."""
        return curve(self.lines("rq1", "patch", stream=STREAM), "layer", self.seed)

    @cached_property
    def half(self) -> int | None:
        """The first layer from which the decision token's state recovers half at all later ones, on the train split."""
        return self.sweep.half()

    @cached_property
    def depth(self) -> recovery_curves.Depth | None:
        every = self.everywhere
        if every is None:
            return None
        floors = self.lines("rq1", "patch", control="self")
        floor = 0.0 if floors is None else floor_of(floors["kl"].to_numpy(float))
        return recovery_curves.depth(every.templates, every.clean, every.to_donor.to_numpy(float), floor)

    def cuts(self, layer: int, control: str = "none") -> Curve | None:
        """Cuts of the difference at a layer, over ranks as numbers, full as infinity."""
        return over_ranks(self.lines("rq3", "difference", control, layer=layer), self.seed)

    def neutral(self, layer: int) -> Curve | None:
        """The mean shift of neutral prompts at a layer, as rank 0, and the whole state, as infinity."""
        return over_ranks(self.lines("rq3", "format", layer=layer), self.seed)

    def answer(self, layer: int) -> Curve | None:
        """The patch at a layer over the first tokens of the donor's own answer."""
        return curve(self.lines("rq1", "patch_answer", stream=STREAM, layer=layer), "layer", self.seed)

    def maps(self, layer: int) -> Curve | None:
        """Uncut maps at a layer and their mean ablation, by name, with a share of the train templates where it is not all."""
        lines = self.sweep.read("rq2", "transport", layer=layer, stream=STREAM)
        if lines is None:
            return None
        named = lines[lines["control"].isin(["none", "mean"])]
        named = named.assign(name=named["map"].where(named["control"] == "none", "mean"))
        if (learning := self.lines("rq2", "learning", layer=layer, stream=STREAM)) is not None:
            named = pd.concat([named, learning.assign(name=[share_name(share) for share in learning["train_share"]])])
        return curve(named, "name", self.seed)


def share_name(share: float) -> str:
    return f"{OUR_MAP}, {100 * share:.0f} %"


def ranks_of(texts: pd.Series) -> list[float]:
    return [np.inf if text == "full" else float(text) for text in texts]


def ends(values: Ends, form: str = ".2f", factor: float = 1.0) -> str:
    """An estimate and its interval as text."""
    value, low, high = (factor * float(np.asarray(part)) for part in values)
    return f"{value:z{form}} [{low:z{form}}, {high:z{form}}]" if low == low else f"{value:z{form}} (no interval)"


def at(values: Ends, place: int = 0) -> Ends:
    value, low, high = (part[place] for part in values)
    return value, low, high


def counted(count: int) -> str:
    return f"{count} prompts"


def depth(read: Read) -> Reading | None:
    """RQ1: where the change lies, from the states of all tokens."""
    every, where = read.everywhere, read.depth
    return None if every is None or where is None else depth_of(every, where)


def depth_of(every: Curve, where: recovery_curves.Depth) -> Reading:
    """The same, of a curve over the embedding and all layers."""
    layers, count = every.to_donor.shape[1] - 1, counted(every.prompts)
    if where.half is None:
        sentence = f"No layer's states carry half of the change: {where.why or 'the final norm and unembedding do'} ({count})."
    elif where.why:
        sentence = (
            f"Half of the change lies at or below layer {where.half} of {layers - 1} ({where.place}; {count}; no centroid)."
        )
    else:
        sentence = (
            f"Half of the change lies at or below layer {where.half} of {layers - 1}, centroid {ends(where.centroid)} "
            f"({where.place}; {count})."
        )
    quartiles = f" Quartiles of the increments: layers {', '.join(map(str, where.quartiles))}." if where.quartiles else ""
    estimand = (
        "R(l) = 1 - mean KL(donor || patched) / mean KL(donor || clean), where the recipient's layers above l run on the donor's "
        "states of layer l at every token. The centroid is 1 - the mean of R over layers: 0 at the first layer, 1 at the end. "
        f"This is one order of replacement, lower layers first.{quartiles}"
        f"{f' No centroid: {where.why}.' if where.why else ''}"
    )
    control = (
        f"The embedding alone recovers {ends(where.embedding)}; the final norm and unembedding are left {ends(where.after)}."
        if where.embedding[0] == where.embedding[0]
        else ""
    )
    return Reading("depth", sentence, estimand, control, "Nothing is chosen: all layers are in it.")


def token(read: Read) -> Reading | None:
    """RQ1: from which layer on the decision token's state carries half of the difference."""
    if read.token is None or read.half is None:
        return None
    here = at(read.token.recovery([read.half]))
    sentence = (
        f"The last token's state recovers half from layer {read.half} on (chosen on train), and {ends(here)} there on "
        f"{read.token.prompts} other prompts."
    )
    control = ""
    if (every := read.everywhere) is not None and every.prompts == read.token.prompts:
        parts = (curve.to_donor[[read.half]].to_numpy(float) for curve in (read.token, every))
        through = recovery_curves.share_through(every.templates, every.clean, *parts)
        control = f"That is {ends(at(through))} of what the states of all tokens recover at this layer."
    estimand = "Recovery: 1 - mean KL(donor || patched) / mean KL(donor || clean), of the next token, with one state replaced."
    chosen = "The layer is the first from which the recovery is at least 0.5 at all later ones, on one train prompt a template."
    return Reading("token", sentence, estimand, control, chosen)


def rank(read: Read) -> Reading | None:
    """RQ3: how many directions of the difference carry it."""
    layer = read.half
    cuts = None if layer is None else read.cuts(layer)
    if layer is None or cuts is None or np.inf not in cuts.to_donor:
        return None
    points = sorted(float(str(point)) for point in cuts.to_donor)
    shift, full = at(cuts.recovery([0.0])), at(cuts.recovery([np.inf]))
    where = recovery_curves.smallest(cuts.templates, cuts.clean, cuts.to_donor[points].to_numpy(float))
    takes = "cannot be told"
    if where is not None:
        smallest, low, high = (rank_text(points[i]) for i in where)
        drawn = recovery_curves.smallest_drawn(cuts.templates, cuts.clean, cuts.to_donor[points].to_numpy(float))
        share = f"{smallest} directions in {100 * np.mean(drawn == where[0]):.0f} % of resamples"
        takes = f"needs {share if low == high else f'{smallest} [{low}, {high}] directions'}"
    sentence = (
        f"At layer {read.half}, one constant shift recovers {ends(shift)}; 80 % of the patch {takes} ({counted(cuts.prompts)})."
    )
    random, control = read.cuts(layer, "random"), ""
    if random is not None and 8.0 in random.to_donor and 8.0 in cuts.to_donor:
        both = [ends(at(curve.recovery([8.0]))) for curve in (cuts, random)]
        control = f"The shift and 8 directions recover {both[0]}, the shift and 8 random directions {both[1]}."
    control = f"The whole patch recovers {ends(full)}. {control}".strip()
    estimand = (
        "The recipient's state plus the train mean of donor - recipient, plus k directions of what is left of the difference "
        "(observed on these prompts). k = 0 is the shift alone, full the ordinary patch. The number of directions is the "
        "smallest from which 80 % of full holds at all larger ones."
    )
    return Reading("rank", sentence, estimand, control, f"Layer {read.half} and the directions are chosen on train.")


def format_share(read: Read) -> Reading | None:
    """How much of the recovery the mean difference over neutral prompts gives: what any prompt would show."""
    layer = read.half
    neutral = None if layer is None else read.neutral(layer)
    if layer is None or neutral is None:
        return None
    value = share_of_shift(neutral)
    sentence = (
        f"At layer {read.half}, the mean shift of neutral prompts gives {ends(value)} of what the whole state recovers "
        f"({counted(neutral.prompts)})."
    )
    own, control = read.cuts(layer), ""
    if own is not None:
        control = f"The mean shift of the domain's own train prompts gives {ends(share_of_shift(own))}."
    estimand = (
        "Format share: R(the mean of donor - recipient over neutral train prompts, added to the recipient's state) / R(full)."
    )
    return Reading("format", sentence, estimand, control, f"Layer {read.half} is chosen on train.")


def linear(maps: Curve) -> tuple[str, str]:
    """Whether the change is linear at a layer, and why: `linear`, `not linear` or `not decided`."""
    effect = maps.effect

    def gain(better: str, worse: str) -> RatioOfSums:
        return maps.templates.average((effect[worse] - effect[better]).to_numpy(float))

    beaten = [gain(OUR_MAP, name) for name in ("shift", "mean")]
    p = holm(np.array([float(p_value(estimate)) for estimate in beaten]))
    beats = all(estimate.value > 0 for estimate in beaten) and bool((p < SURE).all())
    if KERNEL not in effect:
        return OPEN, "Kernel ridge is not stored."
    bent = gain(KERNEL, OUR_MAP)
    better = bool(bent.value > 0 and p_value(bent) < SURE)
    why = (
        f"It has {'clearly' if beats else 'not clearly'} less effect than the shift and mean ablation (paired, Holm), and kernel "
        f"ridge is {'' if better else 'not '}clearly better."
    )
    if beats and not better:
        return LINEAR, why
    if not better or share_name(0.5) not in effect:
        return OPEN, why
    _, _, most = maps.share((effect[share_name(0.5)] - effect[OUR_MAP]).to_numpy(float), effect["shift"].to_numpy(float))
    flat = bool(most < FLAT)
    why += f" Twice the train templates add at most {100 * most:.0f} % of the shift's effect."
    return (BENT if flat else OPEN), why


def map_reading(read: Read) -> Reading | None:
    """RQ2: what a linear map does beyond one constant shift, and whether the change is linear."""
    maps = None if read.half is None else read.maps(read.half)
    if maps is None or not {OUR_MAP, "shift", "mean", "zscore"} <= set(maps.effect):
        return None
    effect, shift = maps.effect, maps.effect["shift"].to_numpy(float)
    value = maps.share(shift - effect[OUR_MAP].to_numpy(float), shift)
    verdict, why = linear(maps)
    on_train = read.lines("rq1", "patch_train", stream=STREAM)
    train = 0 if on_train is None else on_train["template"].nunique()
    says = {LINEAR: "the change is linear here", BENT: "the change is not linear here"}
    ending = says.get(verdict, f"linear or not is undecided with {train} templates")
    sentence = (
        f"At layer {read.half}, {OUR_MAP} removes {ends(value, '.0f', 100)} % of the constant shift's effect; {ending} "
        f"({counted(maps.prompts)})."
    )
    means = {name: f"{effect[name].mean():.3g}" for name in (OUR_MAP, "shift", "mean", "zscore", KERNEL) if name in effect}
    control = f"Effects in nats: {', '.join(f'{name} {value}' for name, value in means.items())}. {why}"
    estimand = "1 - KL_map / KL_shift, with KL(patched || clean) of the mapped state, and of the state moved by one constant."
    r2 = read.sweep.read("rq2", "maps", layer=read.half, stream=STREAM, map=OUR_MAP)
    if r2 is not None:
        estimand += f" Its R2 on val, about the train mean, is {r2['r2_val'].iloc[0]:.2f}."
    return Reading("map", sentence, estimand, control, f"Layer {read.half}, the map and lambda are chosen on train.")


def answer(read: Read) -> Reading | None:
    """The same patch over the first tokens of the donor's own answer."""
    written = None if read.half is None else read.answer(read.half)
    if written is None or read.half is None:
        return None
    sentence = (
        f"Over the first 8 tokens of the donor's answer, layer {read.half}'s state recovers "
        f"{ends(at(written.recovery([read.half])))} of the difference ({counted(written.prompts)})."
    )
    control = "" if read.token is None else f"At the first token alone it recovers {ends(at(read.token.recovery([read.half])))}."
    estimand = "The mean KL over 8 tokens of the donor's greedy answer, given to both models (teacher-forced)."
    return Reading("answer", sentence, estimand, control, f"Layer {read.half} is chosen on train.")


def best(read: Read, folder: str, name: str, x: list[str], label: Callable[..., str], what: str) -> Reading | None:
    """The largest of many effects: chosen on train, read on val, and what is tied with the best there."""
    train, val = (read.lines(folder, table) for table in (f"{name}_train", name))
    on_train, on_val = (None if lines is None else curve(singles(lines, x), x) for lines in (train, val))
    if on_train is None or on_val is None:
        return None
    order = on_train.effect.mean().sort_values(ascending=False, kind="stable").index
    candidates = [point for point in order if point in on_val.effect][:CANDIDATES]
    values = on_val.effect[candidates].to_numpy(float)
    tied = [point for point, same in zip(candidates, tied_with_best(on_val.templates, values)) if same]
    chosen = candidates[0]
    estimate = on_val.templates.mean(values[:, :1])
    others = len(tied) - (chosen in tied)
    ties = f"{others or 'none'} of {len(candidates) - 1} others tie" if chosen in tied else f"on val {others} are clearly larger"
    sentence = (
        f"Chosen on train, {label(*chosen)} has the largest effect: {ends(at(estimate), '.3f')} nats; {ties} "
        f"({counted(on_val.prompts)})."
    )
    named = ", ".join(label(*point) for point in tied[:8]) + (" ..." if len(tied) > 8 else "")
    control = f"Tied for the largest on val: {named}. The median {what} has {np.median(on_val.effect.mean()):.3f} nats."
    estimand = "Mean KL(patched || clean) of the next token. Tied: not clearly behind any other (95 %, over all pairs together)."
    return Reading(name, sentence, estimand, control, f"The {CANDIDATES} largest of {len(order)} on one train prompt a template.")


def singles(lines: pd.DataFrame, x: list[str]) -> pd.DataFrame:
    """Lines of single heads, or those of whole modules."""
    return lines[lines["stream"].isin(MODULES)] if "stream" in x else lines[lines["heads"].str.isdigit()]


def heads(read: Read) -> Reading | None:
    """RQ4: the head whose state moves the next token most."""
    return best(read, "rq4", "heads", ["layer", "heads"], lambda layer, head: f"head {head} of layer {layer}", "head")


def modules(read: Read) -> Reading | None:
    """RQ1: the module whose own weights move the next token most."""
    return best(
        read, "rq1", "transplant", ["layer", "stream"], lambda layer, stream: f"the {NAMES[stream]} of layer {layer}", "module"
    )


READINGS = (depth, token, rank, format_share, map_reading, answer, heads, modules)


def readings(sweep: StoredSweep) -> Iterator[Reading]:
    """Every reading whose tables are stored."""
    read = Read(sweep)
    yield from (reading for make in READINGS if (reading := make(read)) is not None)


def by_layer(sweep: StoredSweep) -> pd.DataFrame:
    """The curves that the readings rest on, in numbers: a row per layer; empty without the tables."""
    read = Read(sweep)
    if read.token is None:
        return pd.DataFrame()
    layers = [int(str(layer)) for layer in read.token.to_donor]
    table = {"layer": [str(layer) for layer in layers]}
    drift = sweep.read("rq1", "drift", stream=STREAM)
    if drift is not None and "cka_templates" in drift:
        lines = drift.set_index("layer").loc[layers]
        parts = zip(lines["cka_templates"], lines["low_templates"], lines["high_templates"])
        table["CKA over templates"] = [ends(part) for part in parts]
    curves = {"recovery, all tokens": read.everywhere, "recovery, last token": read.token}
    for name, values in curves.items():
        if values is not None:
            table[name] = [ends(at(values.recovery(layers), place)) for place in range(len(layers))]
    shifts = [read.cuts(layer) for layer in layers]
    if all(cuts is not None for cuts in shifts):
        table["recovery, shift alone"] = [ends(at(cuts.recovery([0.0]))) for cuts in shifts if cuts is not None]
    return pd.DataFrame(table)


def role(sweep: StoredSweep) -> str:
    """What this direction does, in words."""
    donor, recipient = sides(sweep.direction)
    return f"{sweep.direction} ({DIRECTION[sweep.direction]}: the {recipient} model with the {donor} model's states)"
