"""A talk in a real browser with the network cut: keys step, sliders move, and every other host stays unasked."""

import os
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
from support.browser import ANSWER_S, ROOT, Visitor

TALK = """title = "Short"
[[step]]
headline = "Effects by layer"
page = "patching"
pair = "demo-cultural"
prompts = 8
layer = 16
note = "Say why."
[[step]]
headline = "Two heads"
page = "heads"
pair = "demo-cultural"
prompts = 8
layer = 21
heads = [6, 7]
show = ["bars"]
[[step]]
headline = "Both"
page = "home"
"""
HIDDEN = ("stSidebar", "stHeader", "stExpander", "stPopover")


@pytest.fixture(scope="module")
def prepared(chrome, cache, address):
    """The address of an app whose cache was filled by `talk prepare`."""
    (cache / "short.toml").write_text(TALK)
    command = [sys.executable, "-m", "mechdiff", "talk", "prepare", str(cache / "short.toml"), "--minutes", "2"]
    environment = os.environ | {"MECHDIFF_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "58 of 58 slider positions ready" in done.stdout and "?talk=short" in done.stdout.splitlines()[-1]
    return address


@pytest.fixture
def visit(chrome, prepared):
    """Opens a tab without a network: visit(path) gives it, and its list of other hosts that were asked for."""
    contexts = []

    def opened(path: str, **settings) -> tuple[Visitor, list[str]]:
        context, requests = chrome.new_context(**({"viewport": {"width": 1280, "height": 720}} | settings)), []
        contexts.append(context)

        def stop(route):
            requests.append(route.request.url)
            route.abort()

        context.route(lambda url: urlsplit(url).hostname not in ("localhost", None), stop)
        return Visitor(context.new_page(), prepared).open(path), requests

    yield opened
    for context in contexts:
        context.close()


def press(tab: Visitor, *keys: str) -> Visitor:
    for key in keys:
        tab.page.keyboard.press(key)
    return tab.settle()


def on(tab: Visitor, step: int, headline: str) -> Visitor:
    """The tab shows this step, or will."""
    tab.page.wait_for_url(re.compile(rf"[?&]step={step}\b"), wait_until="commit")
    tab.page.get_by_role("heading", name=headline, exact=True).wait_for(timeout=1000 * ANSWER_S)
    tab.page.get_by_text(f"{step} / 3", exact=True).wait_for()
    return tab.settle().fine()  # the headline comes first, then the numbers


def test_keys_step_and_sliders_move_with_the_network_cut(visit):
    tab, requests = visit("?talk=short")
    on(tab, 1, "Effects by layer")
    first = tab.metrics()
    assert tab.metric("Mean effect at layer 16") == first[0]
    tab.slide("Layer", 2)
    moved = tab.metrics()
    assert tab.metric("Mean effect at layer 18") == moved[0] != first[0], "arrows moved the slider, and no step"
    on(tab, 1, "Effects by layer")
    on(press(tab, "PageDown"), 2, "Two heads")
    assert "Heads 6, 7" in " ".join(tab.page.get_by_test_id("stMetric").all_inner_texts())
    on(press(tab, "ArrowRight"), 3, "Both")
    on(press(tab, "ArrowRight"), 3, "Both")
    on(press(tab, "Home"), 1, "Effects by layer")
    assert tab.metrics() == first, "the step's own view is back"
    on(press(tab, " ", "ArrowRight"), 3, "Both")
    on(press(tab, "2"), 2, "Two heads")
    assert requests == []


def test_a_slide_shows_its_parts_and_nothing_else(visit):
    tab, _ = visit("?talk=short")
    on(tab, 1, "Effects by layer")
    for name in HIDDEN:
        assert not any(element.is_visible() for element in tab.page.get_by_test_id(name).all()), name
    charts = [chart for chart in tab.page.get_by_test_id("stVegaLiteChart").all() if chart.is_visible()]
    assert len(charts) == 1 and charts[0].bounding_box()["height"] > 720 / 2, "half of the slide"
    box = charts[0].bounding_box()
    assert box["x"] + box["width"] <= 1280 and box["y"] + box["height"] <= 720
    inside = charts[0].locator("svg").bounding_box()
    assert inside["height"] <= box["height"] + 1 and inside["width"] <= box["width"] + 1
    assert [slider.get_attribute("aria-label") for slider in tab.page.get_by_role("slider").all() if slider.is_visible()] == [
        "Layer"
    ]


def test_the_note_a_reload_and_the_way_out(visit):
    tab, _ = visit("?talk=short")
    note = on(tab, 1, "Effects by layer").page.get_by_text("Say why.")
    assert not note.is_visible()
    press(tab, "n")
    note.wait_for()
    on(press(tab, "ArrowRight", "ArrowLeft", "ArrowRight"), 2, "Two heads")
    note.wait_for(state="hidden")
    numbers = tab.metrics()
    tab.page.reload()
    on(tab.ran(0), 2, "Two heads")
    assert tab.metrics() == numbers
    on(tab.after(tab.page.go_back), 1, "Effects by layer")
    tab.page.wait_for_url(re.compile("layer=16"), wait_until="commit")  # the slide's whole address, which is kept
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_url(lambda url: "talk" not in url, wait_until="commit")
    tab.ran(0).page.wait_for_url(re.compile(r"/patching\?.*layer=16"), wait_until="commit")  # written once the page is there
    tab.settle()
    assert "talk" not in tab.page.url and "step" not in tab.page.url
    tab.page.get_by_test_id("stSidebar").wait_for()
    assert tab.metric("Mean effect at layer 16")
    assert tab.page.get_by_role("heading", name=re.compile("^Patching")).is_visible()
    press(tab.fine(), "ArrowRight")
    assert "step" not in tab.page.url, "outside a talk its keys do nothing"


def test_an_unknown_talk_and_a_step_beyond_the_last(visit):
    tab, _ = visit("?talk=nothing")
    assert "talk prepare" in tab.fine().page.get_by_test_id("stAlert").first.inner_text()
    tab, _ = visit("?talk=short&step=77")
    assert tab.fine().page.get_by_text("3 / 3", exact=True).is_visible()
