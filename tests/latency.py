"""How long a change of any widget takes in the real app: `python tests/latency.py` prints a table.

A scripted session of 100 steps on the demo pair with 32 prompts, everything it asks for computed once before. A step begins with
the key or click and ends when the page has been drawn again. Then the Lab: new prompts of about 65 tokens, until both models'
distributions at every token are there, and until every layer's heads and streams are.
"""

import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from playwright.sync_api import sync_playwright
from support.browser import ANSWER_S, QUIET_S, Visitor, chromium, server

WORDS = ("aunt", "teacher", "neighbour", "doctor", "friend", "baker")
DRAWN = """since => {
  const app = document.querySelector('[data-testid="stApp"]');
  const busy = app.dataset.testScriptState !== 'notRunning';
  window.__ran = window.__ran || busy;
  const stale = document.querySelector('[data-stale="true"], [data-testid="stProgress"]');
  return (window.__ran || performance.now() - since > 1000) && !busy && !stale;
}"""


def timed(tab: Visitor, act) -> float:
    """Seconds from an action to the page as it is after it."""
    since = tab.page.evaluate("window.__ran = false; performance.now()")
    start = time.perf_counter()
    act()
    tab.page.wait_for_function(DRAWN, arg=since, polling=10, timeout=1000 * ANSWER_S)
    return time.perf_counter() - start


def steps(tab: Visitor):
    """The session: (what is changed, a function that changes it), one at a time."""
    page = tab.page

    def press(label: str, key: str):
        def act():
            page.get_by_role("slider", name=label).press(key)

        return act

    def pill(name: str):
        return lambda: page.get_by_test_id("stButtonGroup").get_by_role("button", name=name, exact=True).first.click()

    sliders = (("Patching", "Layer", 20), ("Transport", "Layer", 14), ("Rank", "Rank", 16), ("Heads", "Layer", 14))
    for title, label, count in sliders:
        yield "page", lambda title=title: page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()
        for number in range(count):
            yield f"{title}: {label.lower()}", press(label, "ArrowRight" if number < count // 2 else "ArrowLeft")
    for name in ("1", "4", "1", "6", "4", "6", "2", "2"):
        yield "Heads: a head", pill(name)
    yield "page", lambda: page.get_by_test_id("stSidebarNavLink").filter(has_text="Drift").click()
    for number in range(18):
        yield "Drift: layer", press("Layer", "ArrowLeft" if number < 9 else "ArrowRight")
    for title in ("Patching", "Rank", "Compare", "Heads", "Home"):
        yield "page", lambda title=title: page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click()


def session(tab: Visitor) -> dict[str, list[float]]:
    times = defaultdict(list)
    for what, act in steps(tab):
        times[what].append(timed(tab, act))
        tab.settle()
    return times


def lab(tab: Visitor) -> dict[str, list[float]]:
    """New prompts in the Lab: seconds until the strip shows a prompt, and until the maps are whole."""
    tab.open("lab?v=2&pair=demo-cultural")
    box, times = tab.page.get_by_role("textbox", name="Your prompt"), defaultdict(list)
    for word in WORDS:
        box.fill(f"My {word} asks me which presents a guest brings when visiting somebody for the first time, and why. Tell me!")
        start = time.perf_counter()
        box.press("Control+Enter")
        tab.page.locator(f".strip :text('{word}')").wait_for()
        times["Lab: distributions"].append(time.perf_counter() - start)
        tab.settle()
        times["Lab: all maps"].append(time.perf_counter() - start - QUIET_S)
    return times


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as address, sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        tab = Visitor(chrome.new_page(viewport={"width": 1280, "height": 720}), address)
        tab.open("?v=2&pair=demo-cultural&prompts=32")
        print("computing everything once ...", file=sys.stderr)
        session(tab)
        tab.open("?v=2&pair=demo-cultural&prompts=32")
        times = session(tab)
        new = lab(tab)
    print(f"{'step':18} {'count':>5} {'median s':>9} {'worst s':>8}")
    every = [second for seconds in times.values() for second in seconds]
    for what, seconds in (*times.items(), ("all", every), *new.items()):
        print(f"{what:18} {len(seconds):5} {statistics.median(seconds):9.2f} {max(seconds):8.2f}")


if __name__ == "__main__":
    main()
