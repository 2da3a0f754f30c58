"""Taking a finding away in a real browser: files for print, and a bundle down and up again in a fresh context."""

import io
import re
import struct

import pandas as pd
import pytest
from support.browser import FEW, Visitor

from mechdiff.reporting import figures

VIEW = f"patching?pair=demo-cultural&{FEW}&layer=12"


def take(tab: Visitor, part: str) -> Visitor:
    """Open Export & share, at one of its tabs."""
    tab.after(tab.page.get_by_role("button", name="Export & share").click)
    tab.page.get_by_role("tab", name=part).click()
    return tab.settle()


def link_of(tab: Visitor) -> str:
    """The link that Export & share shows, without the server's address."""
    code = tab.page.get_by_test_id("stPopoverBody").get_by_test_id("stCode").first
    return code.inner_text().strip().split("/", 3)[3]


def downloaded(tab: Visitor, label: str) -> tuple[str, bytes]:
    """What a button gives: the file's name, and its content."""
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name=label, exact=True).first.click()
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_a_chart_leaves_as_png_and_svg_with_its_table(visit):
    tab = take(visit(VIEW), "Figures")
    name, png = downloaded(tab, "PNG")
    assert name == "where-in-the-depth-does-the-change-lie.png"
    width, height = struct.unpack(">II", png[16:24])
    assert abs(width - figures.WIDTH * 300 / 96) < 2 and height > 800
    name, content = downloaded(tab, "SVG")
    svg = content.decode()
    assert name.endswith(".svg") and f'width="{figures.WIDTH}"' in svg
    assert set(re.findall(r'font-family="([^"]*)"', svg)) == {figures.FONT}
    csv = pd.read_csv(io.BytesIO(downloaded(tab, "CSV")[1]))
    names, parquet = ["layer", "shown", "mean", "low", "high"], pd.read_parquet(io.BytesIO(downloaded(tab, "Parquet")[1]))
    pd.testing.assert_frame_equal(csv[names], parquet[names], check_dtype=False)
    tab.fine()


@pytest.mark.parametrize("path", ["drift", "heads", "lab", "compare"])  # the others read a train split for minutes
def test_every_page_can_be_taken_away(visit, path):
    tab = take(visit(f"{path}?pair=demo-cultural&{FEW}&layer=12", viewport={"width": 1280, "height": 1000}), "Figures")
    assert tab.page.get_by_role("button", name="SVG", exact=True).count() >= 1
    assert downloaded(tab, "SVG")[1].startswith(b"<svg")
    tab.page.get_by_role("tab", name="Link and code").click()
    assert link_of(tab.settle()).startswith(f"{path}?")
    tab.fine()


def test_the_link_opens_the_same_view(visit):
    tab = take(visit(VIEW), "Link and code")
    assert visit(link_of(tab)).fine().metrics() == tab.metrics()


def test_a_bundle_comes_up_again_elsewhere_with_the_same_numbers(visit, tmp_path):
    tab = take(visit(VIEW), "Finding bundle")
    name, content = downloaded(tab, "Finding bundle")
    (tmp_path / name).write_bytes(content)
    seen = tab.fine().metrics()
    other = visit("sweeps?tab=Replay")
    other.after(lambda: other.page.locator('input[type="file"]').set_input_files(tmp_path / name))
    assert float(other.metric("patch · resid_post · L12").split()[0]) == pytest.approx(float(seen[0].split()[0]), abs=5e-4)
    assert other.page.get_by_role("img", name=re.compile("Which layers")).count() or other.page.locator("img").count() >= 4
    other.after(other.page.get_by_role("button", name="Re-check").click)
    verdicts = [text for text in other.page.locator(".stMarkdownBadge").all_inner_texts() if ": " in text]
    assert verdicts and all(text.endswith(": same") for text in verdicts), verdicts
    other.after(other.page.get_by_text(re.compile("Open .* Patching")).click)
    assert other.fine().metrics() == seen
