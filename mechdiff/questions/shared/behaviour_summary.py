"""Behaviour in numbers: a line per condition and measure, with 95 % intervals over prompts. Needs no torch."""

import numpy as np
import pandas as pd

from mechdiff.common.terms import SIDES, sides
from mechdiff.inputs.answer_scoring import patterns
from mechdiff.maths.intervals import RatioOfSums, Templates, difference
from mechdiff.questions.shared.in_words import bracketed

KEYS = ("pair", "domain", "direction", "condition", "layer", "stream", "map", "control")
AGAINST_CLEAN = ("agrees_base", "agrees_tuned", "kl_from_base", "kl_to_base", "kl_from_tuned", "kl_to_tuned")
MEASURES = (*AGAINST_CLEAN, "refusal_logprob", "choice_logprob", "choice_right")  # where an answer begins, in every table
SHARED = "_shared"  # ends the name of a measure that is over the tokens of both tokenizers alone
SHARES = ("agrees_base", "agrees_tuned", "refused", "exact", "choice_right", "choice_right_shared")  # zero or one for each prompt
MEANS = (  # nats
    *AGAINST_CLEAN[2:],
    *("refusal_logprob", "soft_refusal", "soft_refusal_shared", "choice_logprob", "choice_logprob_shared"),
)
STYLE = "style"  # all marks of style together
PER = 100  # marks are counted per so many tokens
SHARE, NATS, RATE = "share", "nats", f"per {PER} tokens"


def units() -> dict[str, str]:
    """Every measure, in the order of a summary, with its unit."""
    return dict.fromkeys(SHARES, SHARE) | dict.fromkeys(MEANS, NATS) | dict.fromkeys((STYLE, *patterns()), RATE)


def summary(table: pd.DataFrame, clusters: list[str]) -> pd.DataFrame:
    """A line per condition and measure: mean, low, high; and change, change_low, change_high: its mean minus its reference's.

    The reference of tuned is the clean base model, that of a patch the clean recipient, on the same prompts, resampled together.
    unit: share (of the prompts), nats, or marks per 100 tokens of all answers. prompts, templates: their numbers. A measure that
    no prompt has (exact match without answers), or that the table lacks, has no line. clusters: the template of each prompt.
    """
    conditions, rows = table[[name for name in KEYS if name in table]].drop_duplicates().dropna(axis=1, how="all"), []
    present = set(conditions["condition"])
    references = [reference(str(line["condition"]), str(line["direction"]), present) for _, line in conditions.iterrows()]
    table = table.assign(**{STYLE: table[[kind for kind in patterns() if kind in table]].sum(axis=1)})
    for measure, unit in units().items() if len(table) else ():
        if measure not in table:
            continue
        wide = {name: table.pivot(index="prompt", columns="condition", values=name) for name in (measure, "tokens")}
        complete = wide[measure].notna().all(axis=1)
        if not complete.any():
            continue
        chosen = [clusters[prompt] for prompt in complete.index[complete]]
        names = conditions["condition"].tolist()
        values, tokens = (part.loc[complete, names].to_numpy(float) for part in wide.values())
        templates = Templates(chosen)
        top, bottom = (PER * values, tokens) if unit == RATE else (values, np.ones_like(values))
        own = [RatioOfSums(templates, *sums) for sums in zip(templates.sums(top).T, templates.sums(bottom).T)]
        place = {name: number for number, name in enumerate(names)}
        counts = {"prompts": len(chosen), "templates": templates.count}
        for number, line in enumerate(conditions.to_dict("records")):
            other = references[number]
            change = (np.nan,) * 3 if other is None else difference(own[place[other]], own[number], paired=True)
            ends = np.clip(own[number].ends(), 0, 1) if unit == SHARE else own[number].ends()
            numbers = dict(zip(("mean", "low", "high"), ends))
            numbers |= dict(zip(("change", "change_low", "change_high"), change))
            rows.append(line | {"measure": measure, "unit": unit} | numbers | counts)
    return pd.DataFrame(rows, columns=None if rows else [*KEYS, "measure", "unit", "mean", "low", "high"])


def reference(condition: str, direction: str, present: set[str]) -> str | None:
    """The condition that another one's change is measured from; None for the clean base model, and if it is not present."""
    if condition == f"clean {SIDES[0]}":
        return None
    name = f"clean {SIDES[0] if condition == f'clean {SIDES[1]}' else sides(direction)[1]}"
    return name if name in present else None


NAMES = {  # the measures in tables for people, in this order
    "agrees_base": "Same next token",
    "kl_from_base": "KL(tuned || base)",
    "kl_to_base": "KL(base || tuned)",
    "refusal_logprob": "Soft refusal",
    "soft_refusal": "Refusals against neutral phrases",
    "soft_refusal_shared": "The same over shared tokens",
    "refused": "Refusals",
    "exact": "Exact match",
    "choice_right": "Right choice",
    "choice_logprob": "Its log-probability",
    "choice_right_shared": "Right choice over shared tokens",
    "choice_logprob_shared": "Its log-probability over shared tokens",
    STYLE: "Marks of style",
}
OF_BOTH = ("agrees_base", "kl_from_base", "kl_to_base")  # measures that describe both models at once


def in_words(lines: pd.DataFrame) -> pd.DataFrame:
    """The clean models' lines of a summary in words, a row per measure: name, base, tuned, change, both (in place of the three).

    Measures that the prompts do not have are left out.
    """
    clean = {side: lines[lines["condition"] == f"clean {side}"] for side in SIDES}
    rows = []
    for measure, name in NAMES.items():
        base, tuned = (part[part["measure"] == measure] for part in clean.values())
        if base.empty or tuned.empty:
            continue
        base, tuned = base.iloc[0], tuned.iloc[0]
        row = {"measure": measure, "name": name, "both": text(tuned) if measure in OF_BOTH else ""}
        if measure not in OF_BOTH:
            row |= {"base": text(base), "tuned": text(tuned), "change": text(tuned, "change")}
        rows.append(row)
    return pd.DataFrame(rows, columns=["measure", "name", "both", "base", "tuned", "change"]).fillna("").set_index("measure")


def text(line: pd.Series, what: str = "mean") -> str:
    """A number of a summary's line with its interval. what: mean, or change (with its sign)."""
    ends = ("low", "high") if what == "mean" else (f"{what}_low", f"{what}_high")
    factor, form = (100, ".0f") if line["unit"] == SHARE else (1, ".2f")
    value = f"{factor * line[what]:{'' if what == 'mean' else '+'}z{form}}"
    unit = {SHARE: " %" if what == "mean" else " points", NATS: " nats" if what == "mean" else ""}.get(line["unit"], "")
    low, high = (line[name] for name in ends)
    return f"{value}{unit}{bracketed(low, high, f'z{form}', factor)}"


def style(lines: pd.DataFrame) -> pd.DataFrame:
    """The clean models' marks of style as a chart draws them: kind, model, mean, low, high."""
    marks = lines[lines["measure"].isin(patterns()) & lines["condition"].isin([f"clean {side}" for side in SIDES])]
    kind, model = marks["measure"].str.replace("_", " "), marks["condition"].str.removeprefix("clean ")
    return marks[["mean", "low", "high"]].assign(kind=kind, model=model)
