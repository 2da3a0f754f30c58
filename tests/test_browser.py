"""The app in a real browser, as a researcher uses it: pages, links, back and forward, two people at once."""

import os
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from support.browser import ANSWER_S, FEW, ROOT, SHORT

DRAWN = ("", "drift", "patching", "transport", "rank", "heads", "weights", "lab", "compare")  # pages with charts
PAGES = (*DRAWN, "sweeps")
FITTED = ("transport", "rank")  # pages with a fitted map, which read a train split


def cognitive(path: str) -> str:
    return f"{path}?pair=demo-cognitive&{SHORT if path in FITTED else FEW}"


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_without_a_complaint(visit, path):
    tab = visit(cognitive(path)).fine()
    assert tab.page.get_by_role("heading").first.is_visible()
    assert (tab.page.get_by_test_id("stVegaLiteChart").count() > 0) == (path in DRAWN)


def test_the_demo_journey_and_its_link(visit):
    """Open, pick the cognitive pair, click a layer, drag the rank, toggle heads; the link gives the same numbers elsewhere."""
    tab = visit(f"?pair=demo-cultural&{SHORT}").choose("Pair", "demo-cognitive").go("Patching")
    tab.click_chart(0, 0.8, 0.5)
    layer = int(re.search(r"layer (\d+)", tab.page.get_by_test_id("stMetric").first.inner_text())[1])
    assert layer != 19, "the click on the curve chose a layer"
    tab.go("Heads").fine()
    assert tab.metric("All heads of layer").endswith("nats")
    assert f"layer {layer}" in tab.page.get_by_test_id("stMetric").first.inner_text(), "the layer came along"
    tab.after(tab.page.get_by_test_id("stButtonGroup").get_by_role("button", name="3", exact=True).click)
    heads, link = tab.metrics(), tab.page.url
    assert "cultural" not in link and f"layer={layer}" in link
    other = visit(link.split("/", 3)[3])
    assert other.metrics() == heads
    tab.go("Rank").slide("Rank", 3)
    rank = tab.metrics()
    again = visit(tab.page.url.split("/", 3)[3])
    assert again.fine().metrics() == rank


def test_back_and_forward_lead_through_the_pages(visit):
    tab = visit(f"patching?{FEW}&layer=12").go("Drift").go("Heads")
    assert "Drift" in tab.after(tab.page.go_back).page.get_by_role("heading").first.inner_text()
    assert "Patching" in tab.after(tab.page.go_back).page.get_by_role("heading").first.inner_text()
    assert "layer 12" in tab.page.get_by_test_id("stMetric").first.inner_text()
    assert "Drift" in tab.after(tab.page.go_forward).fine().page.get_by_role("heading").first.inner_text()


def test_two_people_do_not_see_each_others_numbers(visit):
    tab = visit(f"patching?{FEW}&pair=demo-cultural&layer=20")
    other = visit(f"patching?{FEW}&pair=demo-cognitive&layer=20")
    first, second = tab.metrics(), other.metrics()
    assert first != second
    tab.slide("Layer", 1).slide("Layer", -1)
    assert tab.fine().metrics() == first and other.fine().metrics() == second


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_a_telephone(visit, path):
    tab = visit(cognitive(path), viewport={"width": 390, "height": 844}, color_scheme="dark").fine()
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390


def test_a_link_that_cannot_be_says_so(visit):
    tab = visit(f"heads?{FEW}&layer=99&heads=77&pair=no-such-pair").fine()
    warning = tab.page.get_by_test_id("stAlert").first.inner_text()
    assert all(part in warning for part in ("pair=no-such-pair", "layer=99", "heads=77"))
    assert tab.page.get_by_test_id("stMetric").count() > 0


EMOJI = "Why do people give 🎁 and light 🕯️ at midnight? Answer in one word 🙂:"


def test_lab_reads_a_prompt_with_emoji(visit):
    tab = visit("lab").type("Your prompt", EMOJI).fine()
    strip = tab.page.locator(".strip").inner_text()
    assert "🎁" in strip and "🙂" in strip, "an emoji of several tokens stands as one"
    assert "own=" in tab.page.url and "gift" not in tab.page.url and "%F0" not in tab.page.url, "a link holds the hash alone"
    again = visit(tab.page.url.split("/", 3)[3]).fine()
    assert again.page.get_by_role("textbox", name="Your prompt").input_value() == EMOJI
    assert again.page.locator(".strip").inner_text() == strip


def test_lab_reads_eight_hundred_words(visit):
    tab = visit("lab").type("Your prompt", "a market of spices and old songs by the sea " * 80).fine()
    assert tab.page.locator(".strip [data-token]").count() > 100
    assert tab.page.get_by_test_id("stVegaLiteChart").count() >= 3


def test_a_stack_has_the_command_lines_number(visit, cache, tmp_path):
    tab = (
        visit("lab?v=2&stack=layer%3D20;layer%3D28 heads%3D2,5")
        .type("Your prompt", "Name a drink that guests are offered.")
        .fine()
    )
    tab.page.get_by_text("Numbers and command").first.click()
    code = tab.page.get_by_test_id("stCode").filter(has_text="run stack").first
    words = shlex.split(code.inner_text().replace("\n", " "))
    for name in ("models", "prompts"):  # the texts, but none of the results
        (tmp_path / name).symlink_to(cache / name)
    command = [sys.executable, *words[1:], "--out", str(tmp_path / "cli.csv")]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"MECHDIFF_CACHE": str(tmp_path)}, check=True, capture_output=True)
    table = pd.read_csv(tmp_path / "cli.csv", dtype={"stack": str})
    whole = table[(table["control"] == "none") & table["stack"].str.contains(";")]
    assert f"{whole['kl'].mean():.3g} nats" in tab.page.locator(".links").last.inner_text()


def test_clicked_cells_make_a_stack_and_the_models_write(visit):
    tab = visit("lab?v=2&prompts=4")
    count = tab.page.get_by_test_id("stVegaLiteChart").count()
    tab.click_chart(count - 1, 0.6, 0.5).click_chart(count - 1, 0.8, 0.5)
    assert "heads" in tab.page.url and tab.fine().page.get_by_test_id("stPopoverButton").filter(has_text="L").count() >= 1
    tab.page.get_by_role("button", name="Generate").click()
    for model in ("base", "tuned", "patched"):
        tab.page.get_by_text(re.compile(rf"{model} · \d+ tokens")).wait_for(timeout=1000 * ANSWER_S)
    tab.page.get_by_test_id("stMain").get_by_role("button", name="Stop").wait_for(state="detached", timeout=1000 * ANSWER_S)
    tab.settle().fine()


def test_compare_has_a_verdict_for_any_two_choices(visit):
    tab = visit("compare").fine()
    before = tab.page.get_by_test_id("stTable").first.inner_text()
    assert "—" in before and "[" in before, "numbers with words and intervals"
    boxes = tab.page.get_by_test_id("stSelectbox").filter(has_text="B Domain")
    assert boxes.count() == 1
    tab.choose("B Domain", "cultural")
    after = tab.fine().page.get_by_test_id("stTable").first.inner_text()
    assert after != before
    assert visit(tab.page.url.split("/", 3)[3]).page.get_by_test_id("stTable").first.inner_text() == after


def test_the_history_brings_a_view_back(visit):
    tab = visit(f"patching?{FEW}&layer=12")
    first = tab.metrics()
    tab.slide("Layer", 2).go("Heads")
    tab.after(tab.page.locator(".links a").last.click)
    assert tab.fine().metrics() == first and "patching" in tab.page.url and "layer=12" in tab.page.url
