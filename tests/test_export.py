"""What every page exports: each chart for print, and code that gives the number on the screen in a clean process."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import export
import nbformat
import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import app_at, metric, open_demo
from support.lab_page import STACK, TEXT, keep, open_lab

from mechdiff.common.paths import CACHE
from mechdiff.reporting import bundle, bundle_reader, figures, notebooks

pytestmark = pytest.mark.usefixtures("patient")
ROOT = Path(__file__).parents[1]
SITES = {  # a page's address, and its number: which metric, and how it is written
    "drift": ({"layer": "1"}, "CKA over templates at layer 1", "{:.3f}"),
    "patching": ({"layer": "2", "stream": "mlp_out"}, "Mean effect at layer 2", "{:.4f} nats"),
    "transport": ({"layer": "1", "fit": "ridge", "alpha": "0.5"}, "Effect at layer 1", "{:.4f} nats"),
    "rank": ({"layer": "2", "rank": "4"}, "Effect at rank 4", "{:.4f} nats"),
    "heads": ({"layer": "2", "heads": ["1", "3"], "blend": "0.5"}, "Heads 1, 3", "{:.5f} nats"),
}
RUNNER = """
import ast, json, sys
place = {}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] == "code":
        *body, last = ast.parse(cell["source"]).body
        exec(compile(ast.Module(body, []), "cell", "exec"), place)
        shown = eval(compile(ast.Expression(last.value), "cell", "eval"), place) if isinstance(last, ast.Expr) else None
        if hasattr(shown, "to_dict"):
            print("chart:", shown.to_dict()["title"]["text"])
"""


def run_clean(content: bytes, folder: Path, cache: Path) -> str:
    """What a notebook prints in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.py").write_text(RUNNER)
    (folder / "finding.ipynb").write_bytes(content)
    environment = os.environ | {"MECHDIFF_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "run.py", "finding.ipynb"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def notebook_of(at: AppTest, **details) -> bytes:
    """The page's notebook; it holds the snippet as it is shown."""
    record = at.session_state["_page_record"]
    request = export.main_request(record)
    content = notebooks.notebook(request, record.headline, "page?layer=1", "python -m mechdiff ...", **details)
    nbformat.validate(nbformat.reads(content.decode(), 4))
    cells = [cell["source"] for cell in json.loads(content)["cells"]]
    assert notebooks.snippet(request, record.headline, **details).rstrip() in cells
    return content


@pytest.mark.parametrize("page", SITES)
def test_the_snippet_gives_the_number_on_the_screen(tiny, tmp_path, page):
    query, label, template = SITES[page]
    at = open_demo(page, **query)
    value = at.session_state["_page_record"].headline.value
    assert metric(at, label) == template.format(value)
    printed = run_clean(notebook_of(at), tmp_path / "clean", tmp_path / "clean")
    first, low, high = map(float, printed.split("\n")[0].split())
    assert template.format(first) == metric(at, label) and low <= first <= high
    assert ("chart:" in printed) == (page in ("drift", "patching"))


@pytest.mark.parametrize("texts", [False, True])
def test_the_labs_snippet_gives_the_stacks_number(shared, tmp_path, texts):
    at = open_lab(own=keep(TEXT, TEXT + " w50"), stack=STACK)
    value = at.session_state["_page_record"].headline.value
    assert export.has_own(at.session_state["_page_record"])
    content = notebook_of(at, texts=texts)
    assert (TEXT.encode() in content) == texts
    printed = run_clean(content, tmp_path / "clean", tmp_path / ("clean" if texts else "kept"))
    assert float(printed.split()[0]) == pytest.approx(value, rel=1e-5)


@pytest.mark.slow
def test_compares_snippet_gives_the_verdict_on_the_screen(tmp_path):
    at = app_at("compare").run()
    printed = run_clean(notebook_of(at), tmp_path / "clean", CACHE)
    table = at.table[0].value
    for column in table.columns[1:3]:
        for text in table[column]:
            assert text.partition(" — ")[0] in printed
    assert "chart: Where does patching move the next token?" in printed


def specifications(at: AppTest) -> list[dict]:
    return [export.specification(figure) for figure in at.session_state["_page_record"].charts]


def well_printed(spec: dict) -> None:
    """A chart's PNG and SVG: the right size, the common font, nothing that hides."""
    png, svg = figures.png(spec), figures.svg(spec).decode()
    width, _ = struct.unpack(">II", png[16:24])
    assert png[:4] == b"\x89PNG" and abs(width - figures.WIDTH * 300 / 96) < 2
    assert re.search(r'<svg[^>]* width="([\d.]+)"', svg)[1] == str(figures.WIDTH)
    assert set(re.findall(r'font-family="([^"]*)"', svg)) == {figures.FONT}
    assert figures.title(spec).split()[0] in svg
    assert len(figures.numbers(spec))


def test_every_chart_of_every_page_prints(swept):
    for page, charts in {"drift": 1, "patching": 4, "transport": 2, "rank": 1, "heads": 3}.items():
        figures_drawn = specifications(open_demo(page, layer="1"))
        assert len(figures_drawn) >= charts and len({figures.title(spec) for spec in figures_drawn}) == len(figures_drawn), page
        for spec in figures_drawn:
            well_printed(spec)


def test_every_chart_of_the_lab_prints(shared):
    for measure in ("effect", "recovery"):
        at = open_lab(own=keep(TEXT), stack=STACK, measure=measure)
        assert len(specifications(at)) >= 4
        for spec in specifications(at):
            well_printed(spec)


@pytest.mark.slow
@pytest.mark.parametrize("view", ["compare", "home"])
def test_every_chart_of_stored_sweeps_prints(view):
    figures_drawn = specifications(app_at(view).run())
    assert len(figures_drawn) >= 4
    for spec in figures_drawn:
        well_printed(spec)


def test_print_is_the_same_whatever_the_screen_looks_like(tiny):
    spec = specifications(open_demo("drift"))[0]
    dark = spec | {"config": {"background": "#000000", "axis": {"labelColor": "#ffffff"}}, "width": 333}
    assert figures.svg(dark) == figures.svg(spec) and b"#ffffff" in figures.svg(spec)


def test_the_table_of_a_chart_is_what_it_draws(tiny):
    at = open_demo("patching", layer="1")
    table = figures.numbers(specifications(at)[0])
    lines = table[table["live"].eq(True)].set_index("layer")
    assert metric(at, "Mean effect at layer 1") == f"{lines.loc[1, 'mean']:.4f} nats"


def test_what_is_bundled_is_every_answer_of_the_page(tiny, tmp_path):
    record = open_demo("heads", layer="1", heads=["0"]).session_state["_page_record"]
    content = bundle.write(list(record.answers.values()), [], "heads", record.headline)
    finding = bundle_reader.read(content)
    assert [entry.asked["head_sets"] for entry in finding.entries] == ["0", "each"]
    assert finding.headline.value == record.headline.value and finding.headline.where == {"heads": "0", "control": "none"}


def test_a_legends_columns_do_not_wait_for_a_width():
    spec = {"mark": "line", "encoding": {"color": {"field": "a", "legend": {"columns": {"expr": "width < 420 ? 2 : 5"}}}}}
    assert figures.printed(spec)["encoding"]["color"]["legend"]["columns"] == figures.COLUMNS


def test_a_closed_popover_makes_nothing(tiny, monkeypatch):
    monkeypatch.setattr(export, "specification", lambda figure: pytest.fail("a chart was made while nobody asked"))
    monkeypatch.setattr(export, "code", lambda *_: pytest.fail("code was written while nobody asked"))
    assert open_demo("patching").metric


@pytest.mark.parametrize(
    ("subtitle", "lines"),
    [
        (
            ["stored sweep: 150 prompts; bands,", "bars: 95 %; click a layer", "The other map leaves"],
            ["bars: 95 %", "The other map"],
        ),
        ("A dot a prompt; click one. Line and shade: mean", ["A dot a prompt. Line and shade: mean"]),
        (["One state replaced. Click a cell to add it", "to the stack, or to remove it"], ["One state replaced"]),
        ("", []),
    ],
)
def test_a_printed_subtitle_says_nothing_of_the_mouse(subtitle, lines):
    texts = figures.subtitle_lines(subtitle)
    assert "lick" not in " ".join(texts) and len(texts) == len(lines)
    assert all(line in whole for line, whole in zip(lines, texts))
