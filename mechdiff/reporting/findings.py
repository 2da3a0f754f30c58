"""What a stored sweep answers to the four questions, in sentences whose every number is from its tables.

Every number has its 95 % interval over prompts, and its controls next to it. Needs no torch.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from mechdiff.common.terms import WHITENED, sides
from mechdiff.maths.intervals import LEVEL, Templates
from mechdiff.maths.multiple import holm, p_value
from mechdiff.reporting import chart_tables, charts
from mechdiff.reporting.sentences import (
    COVERAGE,
    DROP,
    EFFECT,
    against_controls,
    by_condition,
    largest,
    listed,
    missing,
    number,
    recovery,
)
from mechdiff.study import quantities, readings
from mechdiff.study.compare_sweeps import is_shown
from mechdiff.study.quantities import QUANTITIES, REACH, Estimate
from mechdiff.study.stored_sweep import MODULES, STREAM, StoredSweep, half_effect

Estimates = dict[str, Estimate]
NAMES = dict(zip(MODULES, ("attention", "MLP")))
CLEAR = "clearly: p < 0.05, paired over prompts, Holm over the controls of a layer"
APART = f"clearly: their {LEVEL} % intervals do not overlap, since no effects by prompt are stored"
SENTENCES = {  # a quantity's estimate in a sentence, if it has a word
    "centroid": "The change is {word}: its centroid is {text}, from 0 (first layer) to 1 (the end).",
    "drift": "The drift is {word}: its mean relative depth is {text}, from 0 (first layer) to 1 (last).",
    "effect": "The effect of patching is {word}: its mean relative depth is {text}.",
    "attention": "Single modules' changes are {word}: attention's share of their summed effects is {text}.",
    "rank_mean": f"Where a cut deletes the rest, {{word}}: rank {{text}} reaches {REACH} % of the full map's drop.",
    "rank_own": f"Where it keeps the recipient's own, {{word}}: rank {{text}} reaches {REACH} % of the full map's effect.",
    "streams": "Across streams, {word}: its drop less that of attn_out is {text} points.",
    "directions": "Against the other direction, {word}: its summed effects are {text} times the other's.",
    "greedy": f"Chosen one after another, {{word}}: {{text}} reach {REACH} % of all heads' effect.",
    "topk": "Chosen by their single effects, {word}: {text} do.",
}


@dataclass
class Section:
    """The answer to one question. answer: in one sentence; details: further sentences. controls: a line per condition.

    about_controls: what that table shows. missing: what is not stored. readings: the keys of the readings that answer it.
    """

    question: str
    answer: str
    details: list[str] = field(default_factory=list)
    controls: pd.DataFrame | None = None
    about_controls: str = ""
    missing: str = ""
    readings: tuple[str, ...] = ()


def read(section: Section, sweep: StoredSweep) -> Section:
    """The section with the sweep's readings as its answer, each with its estimand and control among the details.

    What answered it before is a detail then.
    """
    chosen = [reading for reading in readings.readings(sweep) if reading.key in section.readings]
    if not chosen:
        return section
    about = [f"{reading.sentence} {reading.control} {reading.estimand} {reading.chosen}" for reading in chosen]
    answer = " ".join(reading.sentence for reading in chosen)
    return replace(section, answer=answer, details=[*about, section.answer, *section.details])


def in_words(key: str, estimates: Estimates) -> str:
    """A quantity in a sentence, with its word, its value and its interval; or why there is none."""
    quantity, estimate = QUANTITIES[key], estimates[key]
    word, text = quantities.word(quantity, estimate), quantities.text(quantity, estimate)
    return SENTENCES[key].format(word=word, text=text) if word else f"{quantity.name}: {text}."


def where(sweep: StoredSweep, estimates: Estimates) -> Section:
    """RQ1: where do representations diverge, and where does that move the next token?"""
    keys = ("depth", "token", "answer", "transplant")
    place = "centroid" if is_shown("centroid", estimates) else "effect"
    answer = f"{in_words('drift', estimates)} {in_words(place, estimates)}"
    section = Section("Where do the models differ?", answer, readings=keys)
    drift, effect = sweep.drift(), sweep.effect()
    if drift is not None:
        section.details.append(lowest_similarity(drift))
    if effect is not None:
        top = largest(effect)
        section.details.append(largest_effect(sweep, effect))
        at = sweep.read("rq1", "patch_summary", stream=STREAM, layer=int(top["layer"]))
        if at is not None:
            section.controls = by_condition(at, EFFECT | recovery(at), "patched")
            section.about_controls = f"Patching {STREAM} at layer {top['layer']}"
    modules = [table.assign(module=name) for module, name in NAMES.items() if (table := sweep.transplants(module)) is not None]
    if modules:
        line = largest(pd.concat(modules, ignore_index=True))
        section.details.append(
            f"Of single modules' own weights (transplants), the {line['module']} of layer {line['layer']} changes most: "
            f"{number(line)}. {in_words('attention', estimates)}"
        )
    section.details.append(in_words("directions", estimates))
    section.missing = missing({"drift": drift, "patches": effect, "transplants": modules or None})
    return section


def lowest_similarity(drift: pd.DataFrame) -> str:
    line = drift.iloc[int(drift["mean"].argmin())]
    return (
        f"Representations diverge most at layer {line['layer']} of {drift['layer'].max()}, with a {line['similarity']} of "
        f"{number(line, unit='')}; 1 is the same geometry. (The interval is a jackknife over prompt templates.)"
    )


def largest_effect(sweep: StoredSweep, effect: pd.DataFrame) -> str:
    donor, recipient = sides(sweep.direction)
    top, half = largest(effect), half_effect(effect)
    return (
        f"The {donor} model's state moves the {recipient} model's next token most at layer {top['layer']}: {number(top)}. "
        f"Half of that is first reached at layer {half['layer']}: {number(half)}."
    )


def uncut(sweep: StoredSweep) -> pd.DataFrame | None:
    """The study's map by layer, with z-score and the controls, as on the app's page."""
    every = sweep.read("rq2", "transport_summary", stream=STREAM)
    table = every if every is None else chart_tables.of_uncut(every, every.iloc[:0], sweep.map, sweep.alpha)
    return None if table is None or table.empty else table


def linear(sweep: StoredSweep, estimates: Estimates) -> Section:
    """RQ2: is the change a linear map?"""
    table, (layer, why) = uncut(sweep), sweep.read_at()
    if table is None or layer is None:
        return Section("Is the change a linear map?", "Not stored.", missing="maps")
    mapped = table[(table["map"] == sweep.map) & (table["control"] == "none")]
    controls = table[~table["control"].isin(["none", "self"])]
    at_layer, line = table[table["layer"] == layer], mapped[mapped["layer"] == layer].iloc[0]
    judged, how = judge(sweep, mapped, controls)
    comparison = against_controls(judged[judged["layer"] == layer])
    details = [f"At layer {layer} its effect is {number(line)}. {comparison} ({how})", *drops(mapped)]
    below = [int(str(at)) for at, lines in judged.groupby("layer") if (lines["more"] == 1).all()]
    details.append(
        f"The map has clearly less effect than every control at {len(below)} of {len(mapped)} layers ({listed(below)})."
    )
    answer = (
        f"At layer {layer}, {why}, the fitted map ({sweep.map}) removes "
        f"{number(line, 'drop', 1, '%')} of the z-score effect (its drop). At 100 % the mapped state would act like the "
        "recipient's own."
    )
    details.append(in_words("streams", estimates))
    rows = by_condition(at_layer, EFFECT | DROP | recovery(at_layer), sweep.map)
    about = f"The full map at layer {layer}, {STREAM}"
    return Section("Is the change a linear map?", answer, details, rows, about, readings=("map",))


def judge(sweep: StoredSweep, mapped: pd.DataFrame, controls: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The controls of every layer, with whether each clearly has more effect than the map (1), less (-1) or neither (0).

    mapped, controls: the summaries, which are compared where no effects by prompt are stored. Also: how they were compared.
    """
    controls = controls.assign(shown=controls["control"].map(charts.CONTROL_NAMES).fillna("zscore"))
    controls = controls.drop_duplicates(["layer", "shown"])
    lines = sweep.read("rq2", "transport", stream=STREAM)
    if lines is None:
        own = controls[["layer"]].merge(mapped[["layer", "low", "high"]], on="layer", how="left")
        above, below = controls["low"].to_numpy() > own["high"], controls["high"].to_numpy() < own["low"]
        return controls.assign(more=above.to_numpy(int) - below.to_numpy(int)), APART
    lines = chart_tables.named(chart_tables.of_uncut(lines, lines.iloc[:0], sweep.map, sweep.alpha))
    lines = lines.drop_duplicates(["prompt", "layer", "shown"])  # mean ablation is stored with each map
    wide = lines.pivot(index="prompt", columns=["layer", "shown"], values="kl").astype(float).dropna()
    templates = Templates(sweep.templates("rq2", list(wide.index)))
    pairs = list(zip(controls["layer"], controls["shown"]))
    gaps = wide[pairs].to_numpy() - wide[[(layer, sweep.map) for layer, _ in pairs]].to_numpy()
    controls = controls.assign(gap=gaps.mean(0), p=p_value(templates.average(gaps)))
    adjusted = controls.groupby("layer")["p"].transform(lambda p: holm(p.to_numpy(float)))
    return controls.assign(more=np.where(adjusted < readings.SURE, np.sign(controls["gap"]), 0).astype(int)), CLEAR


def drops(mapped: pd.DataFrame) -> list[str]:
    """At how many layers the map's drop is above zero, and where it is largest."""
    drop = mapped.dropna(subset=["drop"])
    if drop.empty:
        return []
    above, best = drop.loc[drop["drop_low"] > 0, "layer"], largest(drop, "drop")
    return [
        f"The drop's 95 % CI is above zero at {len(above)} of {len(drop)} layers ({listed(above)}); it is largest at layer "
        f"{best['layer']}: {number(best, 'drop', 1, '%')}."
    ]


CUTS = {
    "mean": "Both are measured at layer {layer}. Under complement mean, what a cut leaves out is deleted, so a low rank also "
    "does damage; under complement own it keeps the recipient's own value. A change is low-rank only if both say so.",
    WHITENED: "Measured at layer {layer}. The map itself is cut, between whitened states, as in the original study: its scale "
    "shrinks with the rank, so a low rank puts in nearly the mean, and does the harm of mean ablation.",
}


def dimensions(sweep: StoredSweep, estimates: Estimates) -> Section:
    """RQ3: how many dimensions does the change need?"""
    layer = sweep.layer(None)
    table = None if layer is None else sweep.read("rq3", "rank_summary", stream=STREAM, layer=layer)
    answer = f"{in_words('rank_mean', estimates)} {in_words('rank_own', estimates)}"
    section = Section("How many dimensions does it need?", answer, readings=("rank", "format"))
    if table is None:
        section.missing = "rank cuts"
        return section
    table = chart_tables.of_cut(table, table.iloc[:0], sweep.map, sweep.alpha)
    section.details = [CUTS[sweep.complement].format(layer=layer)]
    maps = sweep.read("rq2", "maps", stream=STREAM, layer=layer, map=sweep.map)
    overlaps = chart_tables.overlap(maps) if maps is not None else pd.DataFrame()
    if len(overlaps):
        values = ", ".join(f"{k}: {value:.2f}" for k, value in zip(overlaps["rank"], overlaps["overlap"]))
        section.details.append(
            f"Split-half overlap of the first k directions (1: both halves of the train split agree). {values}."
        )
    section.controls = by_rank(table, sweep.map)
    section.about_controls = f"Cuts at layer {layer}: drop in % under complement {sweep.complement}; rank 0 is mean ablation"
    return section


def by_rank(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The drop of every cut of the map of this name and of its controls; and its effect under complement own."""
    rows = []
    for rank in charts.rank_order(table["rank"]):
        row, cuts = {"rank": rank}, table[table["rank"] == rank]
        for _, line in cuts[cuts["complement"] != "own"].iterrows():
            if line["control"] != "self":
                what = name if line["control"] in ("none", "mean") else charts.CONTROL_NAMES[line["control"]]
                row[what] = number(line, "drop", 1, "%").replace(" %", "")
        for _, line in cuts[(cuts["complement"] == "own") & (cuts["control"] == "none")].iterrows():
            row["complement own: effect, nats"] = number(line, unit="")
        rows.append(row)
    return pd.DataFrame(rows).fillna("—")


def heads(sweep: StoredSweep, estimates: Estimates) -> Section:
    """RQ4: which attention heads carry the change?"""
    answer = f"{in_words('greedy', estimates)} {in_words('topk', estimates)}"
    section = Section("Which attention heads carry it?", answer, readings=("heads",))
    table, layer = sweep.read("rq4", "heads_summary"), sweep.strongest()
    if table is None or layer is None:
        section.missing = "heads"
        return section
    singles = table[(table["control"] == "none") & (table["heads"] != "all")]
    at_layer = table[table["layer"] == layer]
    whole = at_layer[(at_layer["heads"] == "all") & (at_layer["control"] == "none")].iloc[0]
    best, top = largest(singles[singles["layer"] == layer]), largest(singles)
    section.details = [
        f"All heads together have the largest effect at layer {layer}: {number(whole)}. Its strongest single head is "
        f"{best['heads']}, with {number(best)}, {number(best, 'coverage', 100, '%')} of that.",
        "Sets are chosen on the train split and scored on these prompts. Above 100 %, the other heads counteract a set.",
        f"The strongest single head of all layers is head {top['heads']} of layer {top['layer']}: {number(top)}.",
    ]
    if (sets := random_sets(sweep, layer)) is not None:
        section.details.append(sets)
    else:
        section.missing = "sets of heads"
    lines = at_layer[(at_layer["heads"] == "all") | (at_layer["heads"] == best["heads"])]
    section.controls = by_condition(lines, EFFECT | COVERAGE, "")
    section.controls["condition"] = [control_of_heads(line) for _, line in lines.iterrows()]
    section.about_controls = f"Heads at layer {layer}"
    return section


def control_of_heads(line: pd.Series) -> str:
    name = "all heads" if line["heads"] == "all" else f"head {line['heads']}"
    return name if line["control"] == "none" else f"{name}, {charts.CONTROL_NAMES[line['control']]}"


def random_sets(sweep: StoredSweep, layer: int) -> str | None:
    """The control for chosen sets: the coverage of random sets, by size."""
    sets, singles = sweep.random_sets(layer), sweep.read("rq4", "heads_summary", layer=layer, control="none")
    if sets is None or sets.empty or singles is None:
        return None
    heads = len(singles) - 1
    sizes = [round(share * heads / 100) for share in sets["share"]]
    lines = zip(sizes, sets["mean"], sets["low"], sets["high"])
    values = [f"{size}: {middle:.0f} % ({low:.0f} to {high:.0f})" for size, middle, low, high in lines]
    return (
        f"Random sets of heads of the same layer, by size: the median coverage (and the range of {LEVEL} % of the sets). "
        f"{', '.join(values)}."
    )


def on_other_domains(sweep: StoredSweep, domains: list[str]) -> pd.DataFrame:
    """The same pair on other domains' prompts, as a control: where it drifts and where patching has an effect, and how much."""
    rows = []
    for other in [sweep, *(replace(sweep, domain=domain) for domain in domains)]:
        drift, effect = other.drift(), other.effect()
        if drift is None or effect is None:
            continue
        low, top = drift.iloc[int(drift["mean"].argmin())], largest(effect)
        rows.append(
            {
                "prompts": other.domain,
                "lowest CKA": f"{number(low, unit='')}, layer {low['layer']}",
                "largest effect of a patch": f"{number(top)}, layer {top['layer']}",
            }
        )
    return pd.DataFrame(rows)
