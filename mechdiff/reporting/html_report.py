"""A stored sweep as one HTML file: the four answers with charts, intervals, controls and provenance, to attach to a model card.

The file needs no network and no script. Charts are drawn twice, for wide and for narrow windows, in the colours of the page.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mechdiff.common.errors import UserError
from mechdiff.common.paths import DATA
from mechdiff.common.terms import DIRECTIONS, sides
from mechdiff.reporting import chart_tables, charts, figures, findings
from mechdiff.study import artifacts, estimates
from mechdiff.study.estimates import QUANTITIES, Estimate
from mechdiff.study.stored_sweep import ALPHA, MAP, STREAM, Choice

FOLDERS = ("rq1", "rq2", "rq3", "rq4")
WIDTHS = {"wide": (620, 3), "narrow": (344, 2)}  # pixels, and columns of a legend
INK, LINES = "currentColor", "rgba(128, 128, 128, .28)"
STYLE = figures.STYLE | {
    "background": "transparent",
    "axis": figures.STYLE["axis"]
    | {"labelColor": INK, "titleColor": INK, "domainColor": LINES, "tickColor": LINES}
    | {"gridColor": LINES},
    "legend": {"labelColor": INK, "titleColor": INK, "titleFontWeight": "normal"},
    "view": {"stroke": LINES},
}
SHOWN = {"layer": "layer", "rank": "rank", "head": "head", "size": "heads", "stream": "stream", "shown": "what"}
SHOWN |= {"cka": "CKA", "cka_debiased": "debiased CKA", "mean": "mean", "low": "low", "high": "high", "share": "coverage"}
SHOWN |= {"overlap": "overlap", "prompts": "prompts", "templates": "templates"}


@dataclass(frozen=True)
class Figure:
    """A chart: its question, what is told of it, its pictures by the width they are for, and the lines that it draws."""

    title: str
    about: str
    pictures: dict[str, Markup]
    table: pd.DataFrame


def build(choice: Choice) -> str:
    """The report as HTML. Raises UserError, with the command that stores it, where there is no sweep."""
    everything = artifacts.listing(artifacts.ARTIFACTS)
    kept = [one for one in everything if (one.pair, one.domain) == (choice.pair, choice.domain)]
    if not kept:
        raise UserError(f"No sweep of {choice.label} is stored.\nTry:  {choice.command}")
    found = estimates.estimates(choice, None)
    donor, recipient = sides(choice.direction)
    others = sorted({one.domain for one in everything if one.pair == choice.pair} - {choice.domain})
    return template().render(
        choice=choice,
        donor=donor,
        recipient=recipient,
        version=version("mechdiff"),
        verdict=estimates,
        words=[(quantity, estimates.scale(quantity).replace("**", "")) for quantity in QUANTITIES.values()],
        estimates=[(q.name, estimates.text(q, found[key]), estimates.word(q, found[key])) for key, q in QUANTITIES.items()],
        parts=parts(choice, found),
        elsewhere=findings.elsewhere(choice, others) if others else pd.DataFrame(),
        kept=kept,
        unknown=[one.folder for one in kept if one.about is None],
        facts=next((artifacts.facts(one.about) for one in kept if one.about), {}),
        commands=[*dict.fromkeys(one.about["command"] for one in kept if one.about and "command" in one.about), command(choice)],
    )


def command(choice: Choice) -> str:
    """What makes the same report again."""
    direction = "" if choice.direction == DIRECTIONS[0] else f" --direction {choice.direction}"
    return f"python -m mechdiff report --pair {choice.pair} --domain {choice.domain}{direction}"


def file_name(choice: Choice) -> str:
    return f"report-{choice.pair}-{choice.domain}.html"


def template():
    """The page. Everything put into it is escaped, but for the pictures."""
    made = Environment(
        loader=FileSystemLoader(DATA), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return made.get_template("report.html")


def parts(choice: Choice, found: dict[str, Estimate]) -> list[tuple[str, findings.Finding, list[Figure]]]:
    """The four sections: an anchor, what was found, and the charts."""
    return [
        ("RQ1", findings.where(choice, found), where(choice)),
        ("RQ2", findings.linear(choice), linear(choice)),
        ("RQ3", findings.dimensions(choice, found), dimensions(choice, found)),
        ("RQ4", findings.heads(choice, found), heads(choice)),
    ]


def where(choice: Choice) -> list[Figure]:
    drawn, about = [], choice.origin()
    drift, patch = choice.read("rq1", "drift", stream=STREAM), choice.read("rq1", "patch_summary", stream=STREAM, map="none")
    if drift is not None:
        drawn.append(draw(charts.drift_curve(drift, None, f"{STREAM}, {about}; band: 95 % jackknife over templates"), drift))
    if patch is not None:
        patch = chart_tables.patched(patch)
        drawn.append(draw(charts.layer_curve(patch, None, f"{STREAM}, {about}; band: 95 %"), patch))
    modules = choice.read("rq1", "transplant_summary")
    if modules is not None:
        shown = chart_tables.by_module(modules)
        about = "Transplants: one module's weights of the other model, on the own input; bands: 95 %"
        drawn.append(draw(charts.transplant_curve(shown, None, about), shown))
    return drawn


def linear(choice: Choice) -> list[Figure]:
    table, layer = findings.uncut(choice), choice.affected()
    if table is None:
        return []
    table = chart_tables.named(table)
    about = f"{STREAM}, alpha {ALPHA}; dashed: the most affected layer; bands: 95 %."
    drop = chart_tables.share(table[(table["map"] == MAP) & (table["control"] == "none")].assign(shown="drop"), "drop")
    return [
        draw(charts.transport_curve(table, layer, MAP, about), table),
        draw(charts.drop_curve(drop, layer, "blank where the zscore effect is at the floor"), drop),
    ]


def dimensions(choice: Choice, found: dict[str, Estimate]) -> list[Figure]:
    layer = choice.affected()
    table = None if layer is None else choice.read("rq3", "rank_summary", stream=STREAM, layer=layer)
    if table is None:
        return []
    table, complement = chart_tables.of_cut(table, table.iloc[:0], MAP, ALPHA), "mean"
    enough = found["rank_mean"].value
    rank = estimates.rank_text(enough) if enough == enough else "full"
    shown = chart_tables.by_rank(table, complement, {*table["rank"], rank})
    about = f"Layer {layer}, {MAP}, alpha {ALPHA}; controls under complement {complement}; dashed: rank {rank}; bands: 95 %."
    cuts = table[(table["control"] == "none") & (table["complement"] == complement)]
    mine = chart_tables.join(table[table["control"] == "mean"].assign(rank="0"), cuts)
    shares = chart_tables.join(
        *(chart_tables.share(mine.assign(shown=name), name, by) for name, by in (("recovery", 100), ("drop", 1)))
    )
    told = f"Complement {complement}; recovery: of the models' difference; drop: of the zscore effect; rank 0: mean ablation"
    drawn = [draw(charts.rank_curve(shown, complement, rank, about), shown), draw(charts.share_curve(shares, rank, told), shares)]
    maps = choice.read("rq2", "maps", stream=STREAM, layer=layer, map=MAP)
    overlaps = chart_tables.overlap(maps) if maps is not None else pd.DataFrame()
    if len(overlaps):
        told = "1 where maps fitted on two halves of the train split find the same leading directions"
        drawn.append(draw(charts.overlap_curve(overlaps, told), overlaps))
    return drawn


def heads(choice: Choice) -> list[Figure]:
    table, layer = choice.read("rq4", "heads_summary", control="none"), choice.strongest()
    if table is None or layer is None:
        return []
    singles = chart_tables.single_heads(table)
    about = "one head replaced by the donor's; framed: the layer whose heads do most together"
    drawn = [draw(charts.heads_map(singles, layer, [], about), singles)]
    sets = choice.read("rq4", "coverage_summary", layer=layer)
    if sets is not None and sets["coverage"].notna().any():
        shown = chart_tables.by_size(sets, singles["head"].nunique())
        about = "sets chosen on the train split; bands: 95 % over prompts, of random sets over sets"
        drawn.append(draw(charts.coverage_curve(shown, layer, about), shown))
    return drawn


def draw(chart, table: pd.DataFrame) -> Figure:
    """A chart as pictures for both widths, its title apart: text on the page wraps, and can be searched."""
    spec = chart.to_dict(validate=False)
    title, told = figures.title(spec), spec["title"].get("subtitle", [])
    del spec["title"]
    pictures = {name: picture(spec, *size, f"{title} {name}") for name, size in WIDTHS.items()}
    return Figure(title, " ".join([told] if isinstance(told, str) else told), pictures, plain(table))


def picture(spec: dict, width: int, columns: int, name: str) -> Markup:
    """An SVG whose inner names no other one on the page has: the renderer counts on from one to the next."""
    drawn = figures.svg(legends(deepcopy(spec), columns), width, STYLE).decode()
    mark = re.sub(r"\W+", "-", name.lower())
    for number, inner in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawn))):
        own = f"{mark}-{number}"
        drawn = drawn.replace(f'id="{inner}"', f'id="{own}"').replace(f"url(#{inner})", f"url(#{own})")
    return Markup(drawn)


def legends(spec: dict, columns: int) -> dict:
    """A specification whose legends have so many columns, in all its layers."""
    for part in spec.get("encoding", {}).values():
        if isinstance(part, dict) and part.get("legend") and "columns" in part["legend"]:
            part["legend"]["columns"] = columns
    for layer in spec.get("layer", []):
        legends(layer, columns)
    return spec


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """The lines behind a chart, for people."""
    names = {name: label for name, label in SHOWN.items() if name in table and table[name].notna().any()}
    shown = table[list(names)].rename(columns=names)
    return shown.map(lambda value: findings.figure(value) if isinstance(value, float) else value)


def write(text: str, path: Path) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.\nTry:  --out another/place.html") from None
