"""A stored sweep as one HTML file: the four answers with charts, intervals, controls and provenance, to attach to a model card.

The file needs no network and no script. Each chart is drawn twice, for wide and for narrow windows, in the page's colours.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from mechdiff.common.errors import UserError
from mechdiff.common.paths import DATA
from mechdiff.common.terms import DIRECTIONS, sides
from mechdiff.common.versions import version_of
from mechdiff.inputs.protocols import STUDY
from mechdiff.reporting import chart_tables, charts, figures, findings
from mechdiff.reporting.findings import Estimates, Section
from mechdiff.reporting.sentences import digits
from mechdiff.study import artifacts, quantities, readings
from mechdiff.study.compare_sweeps import is_shown
from mechdiff.study.estimates import estimates
from mechdiff.study.quantities import QUANTITIES
from mechdiff.study.stored_sweep import STREAM, StoredSweep

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
COLUMNS = {"layer": "layer", "rank": "rank", "head": "head", "size": "heads", "stream": "stream", "shown": "what"}
COLUMNS |= {"cka": "CKA", "cka_debiased": "debiased CKA", "mean": "mean", "low": "low", "high": "high", "share": "coverage"}
COLUMNS |= {"overlap": "overlap", "prompts": "prompts", "templates": "templates"}


@dataclass(frozen=True)
class Figure:
    """A chart: its question, its caption, its whole specification, its pictures by their width, and the lines that it draws."""

    title: str
    about: str
    spec: dict
    pictures: dict[str, Markup]
    table: pd.DataFrame


@dataclass(frozen=True)
class Part:
    """One of the report's four parts. anchor: its address on the page. label: its name."""

    anchor: str
    label: str
    section: Section
    figures: list[Figure]


def build(sweep: StoredSweep) -> str:
    """The report as HTML. Raises UserError, with the command that stores it, if there is no sweep."""
    everything = artifacts.sweep_folders(*(sweep.roots or artifacts.places()))
    folders = [folder for folder in everything if (folder.pair, folder.domain) == (sweep.pair, sweep.domain)]
    if not folders:
        raise UserError(f"No sweep of {sweep.label} is stored.\nTry:  {sweep.command}")
    values = estimates(sweep, None)
    donor, recipient = sides(sweep.direction)
    others = sorted({folder.domain for folder in everything if folder.pair == sweep.pair} - {sweep.domain})
    manifests = [folder.manifest for folder in folders if folder.manifest]
    shown = {key: quantity for key, quantity in QUANTITIES.items() if is_shown(key, values)}
    return template().render(
        sweep=sweep,
        donor=donor,
        recipient=recipient,
        version=version_of("mechdiff"),
        intervals=quantities.INTERVALS,
        words=[(quantity, quantities.scale(quantity).replace("**", "")) for quantity in QUANTITIES.values()],
        estimates=[(q.name, quantities.text(q, values[key]), quantities.word(q, values[key])) for key, q in shown.items()],
        parts=parts(sweep, values),
        on_other_domains=findings.on_other_domains(sweep, others) if others else pd.DataFrame(),
        folders=folders,
        unknown=[folder.folder for folder in folders if folder.manifest is None],
        facts=artifacts.facts(manifests[0]) if manifests else {},
        commands=[*dict.fromkeys(manifest["command"] for manifest in manifests if "command" in manifest), command(sweep)],
    )


def command(sweep: StoredSweep) -> str:
    """The command line that makes the same report."""
    direction = "" if sweep.direction == DIRECTIONS[0] else f" --direction {sweep.direction}"
    return f"python -m mechdiff report --pair {sweep.pair} --domain {sweep.domain}{direction}"


def file_name(sweep: StoredSweep) -> str:
    return f"report-{sweep.pair}-{sweep.domain}.html"


def template() -> Template:
    """The page. Everything inserted is escaped, except the pictures."""
    environment = Environment(
        loader=FileSystemLoader(DATA), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html")


def parts(sweep: StoredSweep, values: Estimates) -> list[Part]:
    """The four parts, with their charts."""
    return [
        Part("rq1", "Where", findings.read(findings.where(sweep, values), sweep), where(sweep)),
        Part("rq2", "Map", findings.read(findings.linear(sweep, values), sweep), linear(sweep)),
        Part("rq3", "Rank", findings.read(findings.dimensions(sweep, values), sweep), dimensions(sweep, values)),
        Part("rq4", "Heads", findings.read(findings.heads(sweep, values), sweep), heads(sweep)),
    ]


def drawn(sweep: StoredSweep) -> list[tuple[str, dict]]:
    """Every chart of the report, with its part's anchor."""
    return [(part.anchor, figure.spec) for part in parts(sweep, estimates(sweep, None)) for figure in part.figures]


def where(sweep: StoredSweep) -> list[Figure]:
    drawn, origin = [], sweep.origin()
    drift, patch = sweep.read("rq1", "drift", stream=STREAM), sweep.read("rq1", "patch_summary", stream=STREAM)
    if drift is not None:
        about = f"{STREAM}, {origin}; band: 95 % CI (jackknife over templates)"
        drawn.append(draw(charts.drift_curve(drift, None, about, plain=sweep.protocol == STUDY), drift))
    every = sweep.read("rq1", "patch_all_summary", control="none")
    if patch is not None and every is not None:
        token = patch[patch["control"] == "none"]
        recoveries = chart_tables.recoveries({charts.ALL_TOKENS: every, charts.LAST_TOKEN: token})
        drawn.append(draw(charts.recovery_curve(recoveries, None, f"{origin}{chart_tables.ends(recoveries)}"), recoveries))
    if patch is not None:
        patch = chart_tables.patched(patch)
        drawn.append(draw(charts.layer_curve(patch, None, f"{STREAM}, {origin}{chart_tables.ends(patch)}"), patch))
    transplants = sweep.read("rq1", "transplant_summary")
    if transplants is not None:
        modules = chart_tables.by_module(transplants)
        about = f"Transplants: one module runs with the other model's weights, on its own input{chart_tables.ends(modules)}"
        drawn.append(draw(charts.transplant_curve(modules, None, about), modules))
    return drawn


def linear(sweep: StoredSweep) -> list[Figure]:
    table, layer = findings.uncut(sweep), sweep.layer(None)
    if table is None:
        return []
    table = chart_tables.named(table)
    about = f"{STREAM}, alpha {sweep.alpha}; dashed: layer {layer}{chart_tables.ends(table)}"
    removed = chart_tables.removed(table[(table["map"] == sweep.map) & (table["control"] == "none")], table.iloc[:0])
    return [
        draw(charts.transport_curve(table, layer, sweep.map, about), table),
        draw(charts.drop_curve(removed, layer, "no value where that effect is rounding error"), removed),
    ]


def dimensions(sweep: StoredSweep, values: Estimates) -> list[Figure]:
    layer = sweep.layer(None)
    table = None if layer is None else sweep.read("rq3", "rank_summary", stream=STREAM, layer=layer)
    if table is None:
        return []
    table, complement = chart_tables.of_cut(table, table.iloc[:0], sweep.map, sweep.alpha), sweep.complement
    enough = values["rank_mean"].value
    rank = quantities.rank_text(enough) if enough == enough else "full"
    cuts = chart_tables.by_rank(table, complement, {*table["rank"], rank})
    shares = shares_by_rank(table, complement)
    about = f"Layer {layer}, {sweep.map}, alpha {sweep.alpha}; controls under complement {complement}; dashed: rank {rank}"
    about += chart_tables.ends(cuts)
    about_shares = (
        f"Complement {complement}; recovery: of the models' difference; drop: of the z-score effect; rank 0: mean ablation"
    )
    drawn = [
        *of_difference(sweep),
        draw(charts.rank_curve(cuts, complement, rank, about), cuts),
        draw(charts.share_curve(shares, rank, about_shares), shares),
    ]
    maps = sweep.read("rq2", "maps", stream=STREAM, layer=layer, map=sweep.map)
    overlaps = chart_tables.overlap(maps) if maps is not None else pd.DataFrame()
    if len(overlaps):
        about = "1 where maps fitted on two halves of the train split find the same leading directions"
        drawn.append(draw(charts.overlap_curve(overlaps, about), overlaps))
    return drawn


def of_difference(sweep: StoredSweep) -> list[Figure]:
    """Cuts of the observed difference, at the layer that was chosen on train."""
    layer = readings.Read(sweep).half
    table = None if layer is None else sweep.read("rq3", "difference_summary", stream=STREAM, layer=layer)
    if table is None:
        return []
    rows = chart_tables.of_difference(table)
    about = f"layer {layer}, chosen on train; directions of the observed difference on these prompts{chart_tables.ends(rows)}"
    return [draw(charts.difference_curve(rows, "0", about), rows)]


def shares_by_rank(table: pd.DataFrame, complement: str) -> pd.DataFrame:
    """Recovery and drop of every cut under a complement, in per cent; mean ablation is rank 0."""
    cuts = table[(table["control"] == "none") & (table["complement"] == complement)]
    lines = chart_tables.join(table[table["control"] == "mean"].assign(rank="0"), cuts)
    factors = {"recovery": 100, "drop": 1}
    return chart_tables.join(*(chart_tables.share(lines.assign(shown=name), name, by) for name, by in factors.items()))


def heads(sweep: StoredSweep) -> list[Figure]:
    table, layer = sweep.read("rq4", "heads_summary", control="none"), sweep.strongest()
    if table is None or layer is None:
        return []
    singles = chart_tables.single_heads(table)
    about = "one head replaced by the donor's; framed: the layer whose heads together have the largest effect"
    drawn = [draw(charts.heads_map(singles, layer, [], about), singles)]
    sets = sweep.read("rq4", "coverage_summary", layer=layer)
    if sets is not None and sets["coverage"].notna().any():
        coverage = chart_tables.by_size(sets, singles["head"].nunique())
        about = "sets chosen on the train split; bands: 95 % CI over prompts (random sets: over sets)"
        drawn.append(draw(charts.coverage_curve(coverage, layer, about), coverage))
    return drawn


def draw(chart: alt.LayerChart | alt.Chart, table: pd.DataFrame) -> Figure:
    """A chart as pictures for both widths, without its title: text on the page wraps and can be searched."""
    spec = chart.to_dict(validate=False)
    whole = deepcopy(spec)
    title, subtitle = figures.title(spec), spec["title"].get("subtitle", [])
    del spec["title"]
    pictures = {name: picture(spec, *size, f"{title} {name}") for name, size in WIDTHS.items()}
    return Figure(title, " ".join([subtitle] if isinstance(subtitle, str) else subtitle), whole, pictures, for_people(table))


def picture(spec: dict, width: int, columns: int, name: str) -> Markup:
    """An SVG whose ids are unique on the page: the renderer reuses them from one picture to the next."""
    drawn = figures.svg(legends(deepcopy(spec), columns), width, STYLE).decode()
    prefix = re.sub(r"\W+", "-", name.lower())
    for number, old in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', drawn))):
        new = f"{prefix}-{number}"
        drawn = drawn.replace(f'id="{old}"', f'id="{new}"').replace(f"url(#{old})", f"url(#{new})")
    return Markup(drawn)


def legends(spec: dict, columns: int) -> dict:
    """A specification whose legends have this number of columns, in all its layers."""
    for channel in spec.get("encoding", {}).values():
        if isinstance(channel, dict) and channel.get("legend") and "columns" in channel["legend"]:
            channel["legend"]["columns"] = columns
    for layer in spec.get("layer", []):
        legends(layer, columns)
    return spec


def for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The lines behind a chart, with readable headings and digits."""
    names = {name: label for name, label in COLUMNS.items() if name in table and table[name].notna().any()}
    readable = table[list(names)].rename(columns=names)
    return readable.map(lambda value: digits(value) if isinstance(value, float) else value)


def write(text: str, path: Path) -> None:
    """Write a report in one step, so that a file of this name is a whole one. Raises UserError if it cannot be written."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.\nTry:  --out another/place.html") from None
