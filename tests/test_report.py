"""The report: its numbers are the tables', it is one file that loads nothing, and it opens in a browser without a network."""

import re
import shutil
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from support.browser import NOISE

from mechdiff import UserError
from mechdiff.__main__ import main
from mechdiff.common.terms import DIRECTIONS, OUR_MAP
from mechdiff.reporting import findings, html_report
from mechdiff.reporting.sentences import listed
from mechdiff.study import artifacts, quantities, stored_sweep
from mechdiff.study.compare_sweeps import is_shown
from mechdiff.study.estimates import estimates
from mechdiff.study.quantities import QUANTITIES
from mechdiff.study.stored_sweep import STREAM

pytestmark = pytest.mark.slow
LOADS = {"src", "href", "xlink:href", "data", "action", "poster", "srcset", "background"}


def choice(pair="demo-cultural", direction=DIRECTIONS[0]) -> stored_sweep.StoredSweep:
    return stored_sweep.parse(pair, direction)


@pytest.fixture(scope="module", params=["demo-cultural", "demo-cognitive"])
def made(request):
    """A pair's choice, its report as HTML, and that as text."""
    sweep = choice(request.param)
    html = html_report.build(sweep)
    return sweep, html, text_of(html)


def text_of(html: str) -> str:
    """What is read on the page, pictures and styles apart."""
    plain = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", plain)))


def table(sweep: stored_sweep.StoredSweep, folder: str, name: str, **where) -> pd.DataFrame:
    """A stored table, read without any code of the report."""
    frame = pd.read_parquet(artifacts.ARTIFACTS / sweep.domain / folder / sweep.pair / f"{name}.parquet")
    where = where if name == "drift" else where | {"direction": sweep.direction}
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def nats(line: pd.Series) -> str:
    return f"{line['mean']:#.3g} [{line['low']:#.3g}, {line['high']:#.3g}]"


def test_the_verdict_is_the_commands(made):
    sweep, _, text = made
    values = estimates(sweep, None)
    shown = {key: estimate for key, estimate in values.items() if is_shown(key, values)}
    assert len(shown) >= 10 and "effect" not in shown
    for key, estimate in shown.items():
        quantity = QUANTITIES[key]
        assert f"{quantity.name} {quantities.text(quantity, estimate)} {quantities.word(quantity, estimate)}" in text
    assert quantities.INTERVALS in text and "not over other fine-tunes" in text


def test_where_says_the_tables_numbers(made):
    sweep, _, text = made
    drift = table(sweep, "rq1", "drift", stream=STREAM)
    low = drift.loc[drift["cka_templates"].idxmin()]
    said = f"{low['cka_templates']:#.3g} [{low['low_templates']:#.3g}, {low['high_templates']:#.3g}]"
    assert f"diverge most at layer {low['layer']} of {drift['layer'].max()}, with a CKA over templates of {said}" in text
    patch = table(sweep, "rq1", "patch_summary", stream=STREAM, map="none")
    effects = patch[patch["control"] == "none"].sort_values("layer")
    top = effects.loc[effects["mean"].idxmax()]
    half = effects[effects["mean"] >= top["mean"] / 2].iloc[0]
    assert (
        f"most at layer {top['layer']}: {nats(top)} nats. Half of that is first reached at layer {half['layer']}: {nats(half)}"
        in text
    )
    for control, name in (("self", "self (floor)"), ("mean", "mean ablation"), ("random", "random map")):
        (line,) = patch[(patch["control"] == control) & (patch["layer"] == top["layer"])].to_dict("records")
        assert f"{name} {nats(line)} {100 * line['recovery']:z.0f} [" in text
    modules = table(sweep, "rq1", "transplant_summary", control="none")
    modules = modules[modules["stream"].isin(["attn_out", "mlp_out"])]
    assert nats(modules.loc[modules["mean"].idxmax()]) in text


def test_linear_says_the_tables_numbers(made):
    sweep, _, text = made
    lines = table(sweep, "rq2", "transport_summary", stream=STREAM, map=OUR_MAP, control="none")
    here = lines[lines["layer"] == sweep.layer(None)].iloc[0]
    drop = f"{here['drop']:z.0f} % [{here['drop_low']:z.0f}, {here['drop_high']:z.0f}]"
    assert f"removes {drop} of the z-score effect" in text and f"its effect is {nats(here)} nats" in text
    above = (lines["drop_low"] > 0).sum()
    assert f"above zero at {above} of {lines['drop'].notna().sum()} layers" in text
    controls = table(sweep, "rq2", "transport_summary", stream=STREAM)
    mine = controls[(controls["map"] == OUR_MAP) | ((controls["control"] == "mean") | (controls["map"] == "zscore"))]
    rest = mine[(mine["control"] != "self") & ~((mine["map"] == OUR_MAP) & (mine["control"] == "none"))]
    names = rest[rest["control"] != "none"].groupby("layer")["mean"].min()
    beats = sum(line.mean < names[line.layer] for line in lines.itertuples())
    said = int(re.search(r"clearly less effect than every control at (\d+) of 30 layers", text)[1])
    assert 20 < said <= beats, "no more than have less effect at all"


@pytest.mark.parametrize(("own", "clear"), [(0.5, 1), (1.0, 0), (2.0, -1)])
def test_a_map_is_judged_against_controls_on_the_same_prompts(own, clear):
    """Prompts differ far more than the two conditions do, so that only a paired comparison can tell them apart."""
    rng = np.random.default_rng(0)
    of_prompts, noise = rng.lognormal(0, 1.5, 120), rng.normal(1, 0.02, (2, 120))
    effects = pd.DataFrame({"map": own * noise[0] * of_prompts, "control": noise[1] * of_prompts})
    common = {"layer": 3, "alpha": "1.0", "stream": STREAM, "template": [f"t{i}" for i in range(120)], "prompt": range(120)}
    parts = [
        pd.DataFrame(common | {"map": OUR_MAP, "control": c, "kl": effects[n]}) for n, c in zip(effects, ("none", "shuffled"))
    ]
    both = pd.DataFrame({"layer": 3, "map": OUR_MAP, "control": ["none", "shuffled"], "low": 0.0, "high": 9.0})

    class Planted(stored_sweep.StoredSweep):
        def read(self, folder, name, **where):
            return pd.concat(parts) if name == "transport" else both.assign(alpha="1.0") if name == "transport_summary" else None

    judged, how = findings.judge(Planted("a", "b", DIRECTIONS[0]), both[:1], both[1:])
    assert judged["more"].tolist() == [clear] and "paired" in how


def test_dimensions_say_the_tables_numbers(made):
    sweep, _, text = made
    cuts = table(sweep, "rq3", "rank_summary", stream=STREAM, map=OUR_MAP, layer=sweep.layer(None), complement="mean")
    for rank in ("1", "8", "full"):
        row = [cuts[(cuts["rank"] == rank) & (cuts["control"] == name)].iloc[0] for name in ("none", "random", "shuffled")]
        assert f" {rank} " + " ".join(f"{x['drop']:z.0f} [{x['drop_low']:z.0f}, {x['drop_high']:z.0f}]" for x in row) in text
    maps = table(sweep, "rq2", "maps", stream=STREAM, map=OUR_MAP, layer=sweep.layer(None))
    assert f"8: {maps['overlap_8'].iloc[0]:.2f}" in text


def test_heads_say_the_tables_numbers(made):
    sweep, _, text = made
    singles = table(sweep, "rq4", "heads_summary", layer=sweep.strongest(), control="none")
    whole, singles = singles[singles["heads"] == "all"].iloc[0], singles[singles["heads"] != "all"]
    best = singles.loc[singles["mean"].idxmax()]
    assert (
        f"have the largest effect at layer {sweep.strongest()}: {nats(whole)} nats. Its strongest single head is {best['heads']}"
        in text
    )
    assert f"{100 * best['coverage']:.0f} % [{100 * best['coverage_low']:.0f}, {100 * best['coverage_high']:.0f}] of that" in text
    sets = table(sweep, "rq4", "coverage_summary", layer=sweep.strongest(), chosen="random")
    four = 100 * sets.loc[sets["heads"].str.count("-") == 3, "coverage"]
    low, middle, high = four.quantile([0.025, 0.5, 0.975])
    assert f"4: {middle:.0f} % ({low:.0f} to {high:.0f})" in text


def test_the_numbers_behind_a_chart_are_all_there(made):
    sweep, html, _ = made
    figures = re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    assert len(figures) == 12
    numbers = next(text_of(part) for part in figures if "Which layers" in part)
    patch = table(sweep, "rq1", "patch_summary", stream=STREAM, map="none")
    assert patch["band_low"].notna().sum() > 100, "150 templates have bands"
    ends = {end: patch[f"band_{end}"].fillna(patch[end]) for end in ("low", "high")}
    for line in patch.assign(**ends).itertuples():
        assert f" {line.layer} " in numbers and f"{line.mean:#.3g} {line.low:#.3g} {line.high:#.3g}" in numbers


class Reader(HTMLParser):
    """Every address that a page would load, every tag that may, and every id."""

    def __init__(self):
        super().__init__()
        self.loaded, self.tags, self.ids = [], set(), []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            self.loaded += [value] if name in LOADS else []
            self.ids += [value] if name == "id" else []
            self.loaded += re.findall(r"url\(([^)]*)\)", value or "")


def test_it_is_one_file_that_loads_nothing(made):
    _, html, _ = made
    reader = Reader()
    reader.feed(html)
    assert {address[:1] for address in reader.loaded if not address.startswith("data:,")} == {"#"}
    assert not reader.tags & {"script", "iframe", "object", "embed", "img", "image", "base"}
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    assert "@import" not in style and "url(" not in style
    assert len(reader.ids) == len(set(reader.ids))
    assert {address[1:] for address in reader.loaded if address.startswith("#")} <= set(reader.ids)
    assert html.startswith("<!doctype html>") and len(html) < 3_000_000


def test_it_is_the_same_file_every_time(made):
    sweep, html, _ = made
    assert html_report.build(sweep) == html


def test_it_ends_with_its_origin_and_its_commands(made):
    sweep, _, text = made
    about = sweep.manifest("rq1")
    for name in ("prompts_hash", "device_name", "finished", "command"):
        assert str(about[name]) in text
    assert about["base"]["fingerprint"] in text and html_report.command(sweep) in text


def copy(tmp_path, monkeypatch, *folders):
    """Some folders of a stored sweep, as if it were all there is."""
    sweep = choice()
    for folder in folders:
        source = artifacts.ARTIFACTS / sweep.domain / folder / sweep.pair
        shutil.copytree(source, tmp_path / sweep.domain / folder / sweep.pair)
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    return sweep


def test_what_is_not_stored_is_said(tmp_path, monkeypatch):
    sweep = copy(tmp_path, monkeypatch, "rq1", "rq4")
    (tmp_path / sweep.domain / "rq4" / sweep.pair / "coverage_summary.parquet").unlink()
    text = text_of(html_report.build(sweep))
    for missing in ("maps", "rank cuts", "sets of heads"):
        assert f"Not stored: {missing}. Try: {sweep.command}" in text


def test_without_a_manifest_it_says_so_and_escapes_all_it_is_given(tmp_path, monkeypatch):
    sweep = copy(tmp_path, monkeypatch, "rq1", "rq4")
    path = tmp_path / sweep.domain / "rq1" / sweep.pair
    (path / "manifest.json").unlink()
    shutil.move(path, path.with_name("<script>alert(1)&"))
    odd = stored_sweep.StoredSweep("<script>alert(1)&", sweep.domain, sweep.direction)
    html = html_report.build(odd)
    assert "<script" not in html and "No manifest in rq1" in text_of(html)
    assert "<script>alert(1)& on" in text_of(html), "it is shown as it is"


def test_without_a_sweep_it_says_what_to_type(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    with pytest.raises(UserError, match=r"No sweep of demo-cultural on .* is stored"):
        html_report.build(choice())
    assert main(["report", "--pair", "demo-cultural", "--out", str(tmp_path / "r.html")]) == 2
    assert "python -m mechdiff sweep --pair demo-cultural" in capsys.readouterr().err and not (tmp_path / "r.html").exists()


def test_the_command_writes_the_file(tmp_path, capsys):
    path = tmp_path / "r.html"
    assert main(["report", "--pair", "demo-cognitive", "--direction", DIRECTIONS[1], "--out", str(path)]) == 0
    html = path.read_text(encoding="utf-8")
    assert "the base model runs with the tuned model's state" in text_of(html) and str(path) in capsys.readouterr().out
    assert main(["report", "--pair", "demo-cognitive", "--out", str(tmp_path / "no" / "r.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_layers_are_listed_as_runs():
    assert listed([7, 3, 4, 5, 9]) == "3 to 5, 7, 9" and listed([]) == "none"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_opens_in_a_browser_without_a_network(chrome, tmp_path, scheme, width):
    path, heard, urls = tmp_path / "r.html", [], []
    html_report.write(html_report.build(choice()), path)
    context = chrome.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: urls.append(request.url))
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("figure svg:visible").count() == page.locator("figure").count() == 12
    ink, ground = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    page.locator("figure summary").first.click()
    assert page.locator("figure table").first.is_visible()
    context.close()
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
    assert (light[0] > light[1]) == (scheme == "dark")
    assert heard == [] and [url for url in urls if not url.startswith(("file:", "data:"))] == []
    assert not any(noise in url for url in urls for noise in NOISE)
