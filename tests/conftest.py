"""Fixtures: a cache of one's own, the real demo pairs, and the app in a real browser."""

import gc
import os

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # before torch is loaded, here and in what tests start
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))

import pytest
from jaxtyping import install_import_hook
from support import browser

SHAPED = ("intervals", "linalg", "linear_maps", "similarity", "spectrum")  # every call is checked against its signature's shapes
with install_import_hook([f"mechdiff.maths.{name}" for name in SHAPED], "beartype.beartype"):
    from mechdiff.common import cache as store
    from mechdiff.maths import intervals, linear_maps, similarity, spectrum  # noqa: F401

pytest_plugins = ["support.random_pair", "support.sweeping", "support.app_page", "support.lab_page", "support.curating"]
SLOW = {"demo", "tiny", "small", "whole"}  # fixtures: the demo pair, whole pages on a tiny one, whole sweeps


@pytest.hookimpl(tryfirst=True)  # before -m selects by marker
def pytest_collection_modifyitems(items):
    """Browser tests go first, because they take longest and other workers run the rest meanwhile.

    Here tests get the markers that follow from their fixtures; a test that is slow by itself carries its own.
    """
    items.sort(key=lambda item: not item.path.stem.startswith("test_browser"))
    for item in items:
        if "chrome" in item.fixturenames:
            item.add_marker(pytest.mark.browser)
        if SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What is imported by now stays: models are unloaded between tests, and the collector need not look through all of it."""
    gc.collect()
    gc.freeze()


def pytest_xdist_make_scheduler(config, log):
    """With several workers a file's tests stay on one of them, and all of the browser's on the one that has the app."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "browser" if "test_browser" in file else file

    return Scheduling(config, log)


@pytest.fixture
def own_store(tmp_path, monkeypatch):
    """An empty cache that everything in this test uses."""
    mine = store.Store(tmp_path / "results")
    monkeypatch.setattr(store, "_default", mine)
    return mine


@pytest.fixture(scope="session")
def demo():
    """The demo base, fetched and converted on first need."""
    from mechdiff.cli.pairs import prepare_demo

    prepare_demo(lambda step, text: print(text))


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """The cache folder of the app that browser tests visit: one for all, so that what one of them computes the next one finds."""
    folder = tmp_path_factory.mktemp("cache")
    browser.write_short_domain(folder / "domains" / "short")
    return folder


@pytest.fixture(scope="session")
def address(cache, demo):
    with browser.server(cache) as url:
        yield url


@pytest.fixture(scope="module")
def chrome():
    """A real browser. Without one its tests are skipped, unless MECHDIFF_BROWSER says that this is a failure."""
    if not os.environ.get("MECHDIFF_BROWSER"):
        pytest.importorskip("playwright", reason="pip install playwright==1.65.2")
        if browser.chromium() is None:
            pytest.skip("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.chromium(), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(chrome, address):
    """Opens a tab in a browser context of its own: visit(path, **context settings)."""
    contexts = []

    def opened(path: str = "", **settings) -> browser.Visitor:
        contexts.append(chrome.new_context(**({"viewport": {"width": 1280, "height": 720}} | settings)))
        return browser.Visitor(contexts[-1].new_page(), address).open(path)

    yield opened
    for context in contexts:
        context.close()
