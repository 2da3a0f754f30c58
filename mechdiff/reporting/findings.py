"""What a stored sweep answers to the four questions, in sentences with numbers: nothing is said that is not in its tables.

Every number comes with its 95 % interval over prompts, and beside it stand its controls. Needs no torch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from mechdiff.common.terms import sides
from mechdiff.maths.intervals import LEVEL
from mechdiff.reporting import chart_tables, charts
from mechdiff.study import estimates
from mechdiff.study.estimates import QUANTITIES, REACH, Estimate
from mechdiff.study.stored_sweep import ALPHA, MAP, MODULES, STREAM, Choice, half_effect

NAMES = dict(zip(MODULES, ("attention", "MLP")))
CLEAR = f"clearly: their {LEVEL} % intervals do not overlap"
SENTENCES = {  # what a quantity's estimate says, once it has a word
    "drift": "The drift is {word}: its mean relative depth is {text}, from 0 (first layer) to 1 (last).",
    "effect": "The effect of patching is {word}: its mean relative depth is {text}.",
    "attention": "Single modules' changes are {word}: attention's share of their summed effects is {text}.",
    "rank_mean": f"Where a cut deletes the rest, {{word}}: rank {{text}} reaches {REACH} % of the full map's drop.",
    "rank_own": f"Where it keeps the recipient's own, {{word}}: rank {{text}} reaches {REACH} % of the full map's effect.",
    "greedy": f"Chosen one after another, {{word}}: {{text}} reach {REACH} % of all heads' effect.",
    "topk": "Chosen by their single effects, {word}: {text} do.",
}
MEASURED = {"effect, nats": ("mean", "low", "high")}


@dataclass
class Finding:
    """The answer to one question. answer: in one sentence; told: what else. controls: a line per condition, at the layer named.

    missing: what is not stored, if anything.
    """

    question: str
    answer: str
    told: list[str] = field(default_factory=list)
    controls: pd.DataFrame | None = None
    about_controls: str = ""
    missing: str = ""


def figure(value: float) -> str:
    """Three digits."""
    return f"{value:#.3g}".rstrip(".")


def number(line: pd.Series, name: str = "", factor: float = 1.0, unit: str = "nats") -> str:
    """A line's mean, or one of its ratios, with its interval. In per cent no digits after the point."""
    columns = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    mean, low, high = (factor * line[column] for column in columns)
    if mean != mean:
        return "not defined"
    show = "{:z.0f}".format if unit == "%" else figure
    ends = f" [{show(low)}, {show(high)}]" if low <= high else " (no interval)"
    return f"{show(mean)} %{ends}" if unit == "%" else f"{show(mean)}{ends} {unit}".strip()


def judged(key: str, found: dict[str, Estimate]) -> str:
    """A quantity in a sentence, with its word, its value and its interval; or why there is none."""
    quantity, estimate = QUANTITIES[key], found[key]
    word, text = estimates.word(quantity, estimate), estimates.text(quantity, estimate)
    return SENTENCES[key].format(word=word, text=text) if word else f"{quantity.name}: {text}."


def largest(table: pd.DataFrame, name: str = "mean") -> pd.Series:
    return table.loc[table[name].idxmax()]


def listed(layers: Iterable[int]) -> str:
    """Layers as text, runs of them joined: 4, 6 to 9."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"


def beside(table: pd.DataFrame, measures: dict[str, tuple[str, ...]], own: str) -> pd.DataFrame:
    """A table of controls for people: what each line is, and its numbers with their intervals. own: what is not a control."""
    rows = []
    for _, line in table.iterrows():
        row = {"condition": charts.CONTROL_NAMES.get(line["control"], own if line["map"] != "zscore" else "zscore")}
        for label, columns in measures.items():
            unit, factor = ("%", 1 if "drop" in label else 100) if label.endswith("%") else ("", 1)
            values = pd.Series([line[column] for column in columns], ["mean", "low", "high"])
            row[label] = number(values, "", factor, unit).replace(" %", "")
        rows.append(row)
    return pd.DataFrame(rows)


def clearly(mine: pd.Series, others: pd.DataFrame) -> str:
    """Which controls do clearly more than the map, which clearly less, and which cannot be told from it."""
    names = [charts.CONTROL_NAMES.get(control, "zscore") for control in others["control"]]
    more = [name for name, low in zip(names, others["low"]) if low > mine["high"]]
    less = [name for name, high in zip(names, others["high"]) if high < mine["low"]]
    rest = [name for name in names if name not in more + less]
    parts = [("Clearly more effect than the map", more), ("Clearly less", less), ("Not clearly different", rest)]
    return " ".join(f"{what}: {', '.join(found)}." for what, found in parts if found)


def where(choice: Choice, found: dict[str, Estimate]) -> Finding:
    """RQ1: where do representations part, and where does that move the next token?"""
    finding = Finding("Where do the models differ?", f"{judged('drift', found)} {judged('effect', found)}")
    drift, effect = choice.drift(), choice.effect()
    donor, recipient = sides(choice.direction)
    if drift is not None:
        line = drift.loc[drift["mean"].idxmin()]
        finding.told.append(
            f"Representations part most at layer {line['layer']} of {drift['layer'].max()}, with a debiased CKA of "
            f"{number(line, unit='')}; 1 is the same geometry. (Its interval is a jackknife over prompt templates.)"
        )
    if effect is not None:
        top = largest(effect)
        half = half_effect(effect)
        finding.told.append(
            f"The {donor} model's state moves the {recipient} model's next token most at layer {top['layer']}: {number(top)}. "
            f"Half of that is first reached at layer {half['layer']}: {number(half)}."
        )
        at = choice.read("rq1", "patch_summary", stream=STREAM, map="none", layer=int(top["layer"]))
        finding.controls = beside(at, MEASURED | recovery(at), "patched")
        finding.about_controls = f"Patching {STREAM} at layer {top['layer']}"
    modules = [table.assign(module=name) for module, name in NAMES.items() if (table := choice.transplants(module)) is not None]
    if modules:
        line = largest(pd.concat(modules, ignore_index=True))
        finding.told.append(
            f"Of single modules' own weights (transplants) the {line['module']} of layer {line['layer']} changes most: "
            f"{number(line)}. {judged('attention', found)}"
        )
    finding.missing = lacking({"drift": drift, "patches": effect, "transplants": modules or None})
    return finding


def recovery(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    return {"recovery, %": ("recovery", "recovery_low", "recovery_high")} if "recovery" in table else {}


def uncut(choice: Choice) -> pd.DataFrame | None:
    """The study's map by layer, with zscore and the controls, as the app's page shows it."""
    every = choice.read("rq2", "transport_summary", stream=STREAM)
    table = every if every is None else chart_tables.of_uncut(every, every.iloc[:0], MAP, ALPHA)
    return None if table is None or table.empty else table


def linear(choice: Choice) -> Finding:
    """RQ2: is the change a linear map?"""
    table, layer = uncut(choice), choice.affected()
    if table is None or layer is None:
        return Finding("Is the change a linear map?", "Not stored.", missing="maps")
    mapped = table[(table["map"] == MAP) & (table["control"] == "none")]
    controls = table[~table["control"].isin(["none", "self"])]
    here, line = table[table["layer"] == layer], mapped.set_index("layer", drop=False).loc[layer]
    against = clearly(line, controls[controls["layer"] == layer])
    told = [f"At layer {layer} its effect is {number(line)}. {against} ({CLEAR})"]
    drop = mapped.dropna(subset=["drop"])
    if len(drop):
        above = drop.loc[drop["drop_low"] > 0, "layer"]
        best = largest(drop, "drop")
        told.append(
            f"The drop's interval lies above nought at {len(above)} of {len(drop)} layers ({listed(above)}); it is largest at "
            f"layer {best['layer']}: {number(best, 'drop', 1, '%')}."
        )
    lowest = controls.groupby("layer")["low"].min()
    beats = [int(one["layer"]) for _, one in mapped.iterrows() if one["high"] < lowest.get(one["layer"], float("-inf"))]
    told.append(f"The map has clearly less effect than every control at {len(beats)} of {len(mapped)} layers ({listed(beats)}).")
    measures = MEASURED | {"drop, %": ("drop", "drop_low", "drop_high")} | recovery(here)
    answer = (
        f"At layer {layer}, where patching moves most, the fitted map ({MAP}) takes away {number(line, 'drop', 1, '%')} of the "
        "zscore effect (its drop). At 100 % the mapped state would pass for the recipient's own."
    )
    shown = beside(here, measures, MAP)
    return Finding("Is the change a linear map?", answer, told, shown, f"The whole map at layer {layer}, {STREAM}")


def dimensions(choice: Choice, found: dict[str, Estimate]) -> Finding:
    """RQ3: how many dimensions does the change need?"""
    layer = choice.affected()
    table = None if layer is None else choice.read("rq3", "rank_summary", stream=STREAM, layer=layer)
    finding = Finding("How many dimensions does it need?", f"{judged('rank_mean', found)} {judged('rank_own', found)}")
    if table is None:
        finding.missing = "rank cuts"
        return finding
    table = chart_tables.of_cut(table, table.iloc[:0], MAP, ALPHA)
    finding.told = [
        f"Both are read at layer {layer}. Under complement mean what a cut leaves out is deleted, so that a low rank also does "
        "damage; under complement own it stays the recipient's own. A change is of low rank only where both say so."
    ]
    maps = choice.read("rq2", "maps", stream=STREAM, layer=layer, map=MAP)
    overlaps = chart_tables.overlap(maps) if maps is not None else pd.DataFrame()
    if len(overlaps):
        said = ", ".join(f"{k}: {value:.2f}" for k, value in zip(overlaps["rank"], overlaps["overlap"]))
        finding.told.append(f"Split-half overlap of the first k directions (1: both halves of the train split agree). {said}.")
    finding.controls = by_rank(table)
    finding.about_controls = f"Cuts at layer {layer}: drop in % under complement mean; rank 0 is mean ablation"
    return finding


def by_rank(table: pd.DataFrame) -> pd.DataFrame:
    """The drop of every cut under complement mean, beside that of its controls; and its effect under complement own."""
    rows = []
    for rank in charts.rank_order(table["rank"]):
        row, here = {"rank": rank}, table[table["rank"] == rank]
        for _, line in here[here["complement"] != "own"].iterrows():
            if line["control"] != "self":
                name = {"none": MAP, "mean": MAP}.get(line["control"]) or charts.CONTROL_NAMES[line["control"]]
                row[name] = number(line, "drop", 1, "%").replace(" %", "")
        for _, line in here[(here["complement"] == "own") & (here["control"] == "none")].iterrows():
            row["complement own: effect, nats"] = number(line, unit="")
        rows.append(row)
    return pd.DataFrame(rows).fillna("—")


def heads(choice: Choice, found: dict[str, Estimate]) -> Finding:
    """RQ4: which attention heads carry the change?"""
    finding = Finding("Which attention heads carry it?", f"{judged('greedy', found)} {judged('topk', found)}")
    table, layer = choice.read("rq4", "heads_summary"), choice.strongest()
    if table is None or layer is None:
        finding.missing = "heads"
        return finding
    here = table[table["layer"] == layer]
    singles = here[(here["control"] == "none") & (here["heads"] != "all")]
    whole, best = here[(here["heads"] == "all") & (here["control"] == "none")].iloc[0], largest(singles)
    finding.told = [
        f"All heads together do most at layer {layer}: {number(whole)}. Its strongest single head is {best['heads']}, with "
        f"{number(best)}, {number(best, 'coverage', 100, '%')} of that.",
        "Sets are chosen on the train split and scored on these prompts. Above 100 % the other heads work against a set.",
    ]
    top = largest(table[(table["control"] == "none") & (table["heads"] != "all")])
    finding.told.append(f"The strongest single head of all layers is head {top['heads']} of layer {top['layer']}: {number(top)}.")
    if (sets := random_sets(choice, layer)) is not None:
        finding.told.append(sets)
    else:
        finding.missing = "sets of heads"
    shown = here[(here["heads"] == "all") | (here["heads"] == best["heads"])]
    rows = beside(shown, MEASURED | {"coverage, %": ("coverage", "coverage_low", "coverage_high")}, "")
    rows["condition"] = [control_of_heads(line) for _, line in shown.iterrows()]
    finding.controls, finding.about_controls = rows, f"Heads at layer {layer}"
    return finding


def control_of_heads(line: pd.Series) -> str:
    what = "all heads" if line["heads"] == "all" else f"head {line['heads']}"
    return what if line["control"] == "none" else f"{what}, {charts.CONTROL_NAMES[line['control']]}"


def random_sets(choice: Choice, layer: int) -> str | None:
    """The control of chosen sets: what random sets of a size reach."""
    sets = choice.random_sets(layer)
    if sets is None or sets.empty:
        return None
    heads = len(choice.read("rq4", "heads_summary", layer=layer, control="none")) - 1
    sizes = [(round(line.share * heads / 100), line) for line in sets.itertuples()]
    said = [f"{size}: {line.mean:.0f} % ({line.low:.0f} to {line.high:.0f})" for size, line in sizes]
    return (
        f"Random sets of heads of the same layer, by their size the median coverage (and the range of {LEVEL} % of the sets): "
        f"{', '.join(said)}."
    )


def lacking(parts: dict[str, object]) -> str:
    return ", ".join(name for name, part in parts.items() if part is None)


def elsewhere(choice: Choice, others: list[str]) -> pd.DataFrame:
    """The same pair on other domains' prompts, a control: where and how far it drifts and is moved."""
    rows = []
    for one in [choice, *(Choice(choice.pair, domain, choice.direction) for domain in others)]:
        drift, effect = one.drift(), one.effect()
        if drift is None or effect is None:
            continue
        low, top = drift.loc[drift["mean"].idxmin()], largest(effect)
        rows.append(
            {
                "prompts": one.domain,
                "lowest debiased CKA": f"{number(low, unit='')}, layer {low['layer']}",
                "largest effect of a patch": f"{number(top)}, layer {top['layer']}",
            }
        )
    return pd.DataFrame(rows)
