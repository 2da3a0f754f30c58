"""The app in a real browser, as a researcher uses it: pages, links, back and forward, two people at once."""

import os
import re

import pytest
from browser import Visitor, chromium, server

if not os.environ.get("MECHDIFF_BROWSER"):  # set where a missing browser is a failure
    pytest.importorskip("playwright", reason="pip install playwright==1.65.2")
    if chromium() is None:
        pytest.skip("no chromium: apt-get install chromium", allow_module_level=True)
from playwright.sync_api import sync_playwright

PAGES = ("", "drift", "patching", "transport", "rank", "heads", "lab", "compare")
FEW = "prompts=8"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with server(tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture(scope="module")
def chrome():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chrome, address):
    """Opens a tab in a browser context of its own: visit(path, **context settings)."""
    contexts = []

    def opened(path: str = "", **settings) -> Visitor:
        contexts.append(chrome.new_context(**({"viewport": {"width": 1280, "height": 720}} | settings)))
        return Visitor(contexts[-1].new_page(), address).open(path)

    yield opened
    for context in contexts:
        context.close()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_without_a_complaint(visit, path):
    tab = visit(f"{path}?pair=demo-cognitive&{FEW}").fine()
    assert tab.page.get_by_role("heading").first.is_visible()
    assert tab.page.get_by_test_id("stVegaLiteChart").count() > 0


def test_the_demo_journey_and_its_link(visit):
    """Open, pick the cognitive pair, click a layer, drag the rank, toggle heads; the link gives the same numbers elsewhere."""
    tab = visit(f"?pair=demo-cultural&{FEW}").choose("Pair", "demo-cognitive").go("Patching")
    tab.click_chart(0, 0.8, 0.5)
    layer = int(re.search(r"layer (\d+)", tab.page.get_by_test_id("stMetric").first.inner_text())[1])
    assert layer != 19, "the click on the curve chose a layer"
    tab.go("Heads").fine()
    assert tab.metric("All heads of layer").endswith("nats")
    assert f"layer {layer}" in tab.page.get_by_test_id("stMetric").first.inner_text(), "the layer came along"
    tab.page.get_by_test_id("stButtonGroup").get_by_role("button", name="3", exact=True).click()
    tab.page.wait_for_timeout(200)
    heads, link = tab.settle().metrics(), tab.page.url
    assert "cultural" not in link and f"layer={layer}" in link
    other = visit(link.split("/", 3)[3])
    assert other.metrics() == heads
    tab.go("Rank").slide("Rank", 3)
    rank = tab.metrics()
    again = visit(tab.page.url.split("/", 3)[3])
    assert again.fine().metrics() == rank


def test_back_and_forward_lead_through_the_pages(visit):
    tab = visit(f"patching?{FEW}&layer=12").go("Drift").go("Heads")
    tab.page.go_back()
    tab.page.wait_for_timeout(300)
    assert "Drift" in tab.settle().page.get_by_role("heading").first.inner_text()
    tab.page.go_back()
    tab.page.wait_for_timeout(300)
    assert "Patching" in tab.settle().page.get_by_role("heading").first.inner_text()
    assert "layer 12" in tab.page.get_by_test_id("stMetric").first.inner_text()
    tab.page.go_forward()
    tab.page.wait_for_timeout(300)
    assert "Drift" in tab.settle().fine().page.get_by_role("heading").first.inner_text()


def test_two_people_do_not_see_each_others_numbers(visit):
    one = visit(f"patching?{FEW}&pair=demo-cultural&layer=20")
    two = visit(f"patching?{FEW}&pair=demo-cognitive&layer=20")
    first, second = one.metrics(), two.metrics()
    assert first != second
    one.slide("Layer", 1).slide("Layer", -1)
    assert one.fine().metrics() == first and two.fine().metrics() == second


@pytest.mark.parametrize("path", PAGES)
def test_nothing_is_wider_than_a_telephone(visit, path):
    tab = visit(f"{path}?pair=demo-cognitive&{FEW}", viewport={"width": 390, "height": 844}, color_scheme="dark").fine()
    wide = tab.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 390


def test_a_link_that_cannot_be_says_so(visit):
    tab = visit(f"heads?{FEW}&layer=99&heads=77&pair=no-such-pair").fine()
    assert tab.page.get_by_test_id("stMetric").count() > 0
