"""A real server and a real browser: what the browser tests and the latency table drive. Needs Playwright and chromium."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

from mechdiff.common.paths import CACHE, SHIPPED_DOMAINS

ROOT = Path(__file__).parents[2]
# Longest waits in seconds: every wait ends as soon as the state is there, so a busy machine is no failure.
SERVER_S, ANSWER_S = 300, 900  # the start of a server, and an answer
PATIENCE = 240  # anything else: a text, a button, an address, a download
RUN_S = 60  # a page's run to begin after an action; an action that changes nothing begins none
QUIET_S = 0.25  # a page that has run nothing for so long has settled
FEW = "v=2&prompts=8"  # of a page's address
SHORT = f"{FEW}&domain=short"  # for pages with fitted maps: they read the whole train split
TRAIN = 48  # its prompts
NOISE = ("_stcore/", "favicon")  # Streamlit's own look for its health on a page's path
# Counts the page's runs from its start on: how a page that has not begun to run is told from one that has ended.
COUNTING = """window.__runs = 0;
new MutationObserver((changes) => {
  if (changes.some(({ target }) => target.dataset?.testScriptState && target.dataset.testScriptState !== 'notRunning'))
    window.__runs += 1;
}).observe(document, { subtree: true, attributes: true, attributeFilter: ['data-test-script-state'] });"""
SETTLED = """quiet => {
  const app = document.querySelector('[data-testid="stApp"]');
  const busy = !app || app.dataset.testScriptState !== 'notRunning' || app.dataset.testConnectionState !== 'CONNECTED';
  const stale = document.querySelector('[data-stale="true"], [data-testid="stSkeleton"], [data-testid="stProgress"]');
  if (busy || stale) { window.__since = null; return false; }
  window.__since = window.__since || performance.now();
  return performance.now() - window.__since > quiet;
}"""


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")


def write_short_domain(folder: Path) -> None:
    """A domain of one's own: the first prompts of a shipped one."""
    folder.mkdir(parents=True)
    for split, count in (("val", 8), ("train", TRAIN)):
        lines = (SHIPPED_DOMAINS / "cognitive" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / f"{split}.jsonl").write_text("".join(lines[:count]), encoding="utf-8")


@contextmanager
def server(folder: Path):
    """The app on a free port, with an empty result cache in `folder` and the models converted before. Yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "models").exists():
        (folder / "models").symlink_to(CACHE / "models")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app/Home.py", "--server.headless", "true", "--server.port", str(port)]
    environment = os.environ | {"MECHDIFF_CACHE": str(folder), "PYTHONPATH": str(ROOT)}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(port)
            yield f"http://localhost:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # a thread at work keeps it
                process.kill()
                process.wait(20)


def wait_for(port: int) -> None:
    deadline = time.monotonic() + SERVER_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"the app did not start within {SERVER_S} s")


class Visitor:
    """One browser tab. errors: what its console complained about."""

    def __init__(self, page, address: str):
        self.page, self.address, self.errors = page, address, []
        page.set_default_timeout(1000 * PATIENCE)
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(COUNTING)

    def _heard(self, message) -> None:
        place = message.location.get("url", "") if message.location else ""
        if message.type == "error" and not any(noise in place or noise in message.text for noise in NOISE):
            self.errors.append(f"{message.text} {place}")

    def open(self, path: str = "") -> "Visitor":
        self.page.goto(f"{self.address}/{path}")
        return self.ran(0).settle()

    def after(self, act) -> "Visitor":
        """Do something that makes the page run, and wait until it has."""
        before = self.page.evaluate("window.__runs")
        act()
        return self.ran(before).settle()

    def ran(self, before: int) -> "Visitor":
        """Wait until the page has begun to run once more than `before`; not for ever, since two runs can look like one."""
        from playwright.sync_api import TimeoutError

        with suppress(TimeoutError):
            self.page.wait_for_function("before => window.__runs > before", arg=before, timeout=1000 * RUN_S)
        return self

    def settle(self) -> "Visitor":
        """Wait until nothing runs and nothing is stale any more, for as long as the progress moves."""
        from playwright.sync_api import TimeoutError

        before, now = None, self.progress()
        while before != now:
            with suppress(TimeoutError):
                self.page.wait_for_function(SETTLED, arg=1000 * QUIET_S, timeout=1000 * ANSWER_S)
                return self
            before, now = now, self.progress()
        raise TimeoutError(f"the page has not moved for {ANSWER_S} s: {now}")

    def progress(self) -> list[str]:
        """How far the page's jobs are, without the time that they say is left."""
        return [text.split("%")[0] for text in self.page.get_by_test_id("stProgress").all_inner_texts()]

    def go(self, title: str) -> "Visitor":
        """To another page, by the navigation."""
        return self.after(self.page.get_by_test_id("stSidebarNavLink").filter(has_text=title).click)

    def metric(self, label: str) -> str:
        metric = self.page.get_by_test_id("stMetric").filter(has_text=label).first
        return metric.get_by_test_id("stMetricValue").inner_text()

    def metrics(self) -> list[str]:
        return self.page.get_by_test_id("stMetricValue").all_inner_texts()

    def slide(self, label: str, steps: int) -> "Visitor":
        """Move a slider by so many steps, as with the arrow keys."""
        thumb = self.page.get_by_role("slider", name=label)
        thumb.focus()

        def press():
            for _ in range(abs(steps)):
                thumb.press("ArrowRight" if steps > 0 else "ArrowLeft")

        return self.after(press)

    def type(self, label: str, text: str) -> "Visitor":
        """Write a text into a box, and leave it."""
        box = self.page.get_by_role("textbox", name=label)
        box.fill(text)
        return self.after(lambda: box.press("Control+Enter"))

    def choose(self, label: str, option: str, number: int = 0) -> "Visitor":
        """Pick an option of the number-th select box of this label."""
        self.page.get_by_test_id("stSelectbox").filter(has_text=label).nth(number).locator("input").click()
        return self.after(self.page.get_by_role("option", name=option, exact=True).click)

    def click_chart(self, number: int, x: float, y: float) -> "Visitor":
        """Click into the plotted area of the number-th chart of the page: x and y as shares of its width and height."""
        chart = self.page.get_by_test_id("stVegaLiteChart").nth(number)
        chart.scroll_into_view_if_needed()
        box = chart.bounding_box()
        return self.after(lambda: self.page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"]))

    def fine(self) -> "Visitor":
        """No exception box and no console error."""
        assert self.page.get_by_test_id("stException").count() == 0, self.page.get_by_test_id("stException").all_inner_texts()
        assert self.errors == [], self.errors
        return self
