"""Remake the pictures of docs/ and README.md from the real app on the demo pairs: `python -m mechdiff shots` runs it.

It starts a server of its own on the user's cache, waits until a page has settled, and keeps the pictures small.
"""

import io
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Error, sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from support.browser import Visitor, chromium, server  # noqa: E402

from mechdiff.common.errors import one_of  # noqa: E402
from mechdiff.common.paths import CACHE  # noqa: E402

WIDTH, HEIGHT, SCALE = 1280, 800, 1.5
COLOURS = (None, 256, 128)  # of a picture's palette, if it needs one to be small enough
LARGEST = 250_000  # bytes
CULTURAL, COGNITIVE = "v=2&pair=demo-cultural", "v=2&pair=demo-cognitive"
STACK = "layer%3D26+stream%3Dresid_post+map%3Dprocrustes_scaled+rank%3D8%3B+layer%3D28+stream%3Dheads+heads%3D2%2C5"
OWN = "What do people in Kazakhstan eat at a wedding?"


@dataclass(frozen=True)
class Shot:
    """path: what is opened. do: what is done there. height, top: what is seen of it, in CSS pixels."""

    path: str
    do: str = ""
    height: int = HEIGHT
    top: int = 0
    window: tuple[int, int] = (WIDTH, HEIGHT)


SHOTS = {
    "pictures/home.png": Shot(f"?{CULTURAL}"),
    "pictures/drift.png": Shot(f"drift?{CULTURAL}&layer=26"),
    "pictures/patching.png": Shot(f"patching?{CULTURAL}&layer=14"),
    "pictures/transport.png": Shot(f"transport?{CULTURAL}&layer=14"),
    "pictures/rank.png": Shot(f"rank?{CULTURAL}&layer=29&rank=8"),
    "pictures/heads.png": Shot(f"heads?{CULTURAL}&layer=21&heads=6&heads=7&heads=8", height=900, window=(WIDTH, 900)),
    "pictures/lab.png": Shot(f"lab?{CULTURAL}&stack={STACK}", do="own", height=1000, window=(WIDTH, 1000)),
    "pictures/weights.png": Shot(f"weights?{CULTURAL}&layer=24"),
    "pictures/compare.png": Shot("compare?v=2&a_pair=demo-cultural&b_pair=demo-cognitive", height=1000, window=(WIDTH, 1000)),
    "pictures/take-away.png": Shot(f"patching?{CULTURAL}&layer=14", do="away"),
    "pictures/talk.png": Shot(f"transport?{CULTURAL}&talk=1&step=6&layer=14&prompts=150", height=720, window=(WIDTH, 720)),
}


def type_own(tab: Visitor) -> None:
    """The Lab, with a prompt of one's own."""
    tab.page.get_by_role("textbox", name="Your prompt").fill(OWN)
    tab.page.get_by_role("button", name="Run").click()
    tab.page.wait_for_timeout(500)
    tab.settle()


def open_takeaway(tab: Visitor) -> None:
    tab.page.get_by_role("button", name="Export & share").click()
    tab.page.wait_for_timeout(1500)


DEEDS = {"own": type_own, "away": open_takeaway}


def small(picture: bytes) -> bytes:
    """The picture as it is, or with a palette of its own where it would be too large."""
    drawn = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        out = io.BytesIO()
        made = drawn if colours is None else drawn.quantize(colours, kmeans=1, dither=Image.Dither.NONE)
        made.save(out, "PNG", optimize=True)
        if out.tell() < LARGEST:
            break
    return out.getvalue()


def take(tab: Visitor, shot: Shot) -> bytes:
    width, height = shot.window
    tab.page.set_viewport_size({"width": width, "height": height})
    tab.page.goto(f"{tab.address}/{shot.path}")
    tab.settle()
    if shot.do:
        DEEDS[shot.do](tab)
    tab.page.mouse.move(width - 2, height - 2)
    tab.page.wait_for_timeout(800)
    tab.settle().fine()
    return tab.page.screenshot(clip={"x": 0, "y": shot.top, "width": width, "height": shot.height})


def main(names: list[str]) -> int:
    for name in names:
        if name not in SHOTS:
            print(f"mechdiff: {one_of('Picture', name, SHOTS)}", file=sys.stderr)
            return 2
    executable = chromium()
    if executable is None:
        print("mechdiff: Pictures are taken with chromium, which is not here.\nTry:  apt-get install chromium", file=sys.stderr)
        return 2
    with server(CACHE) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        context = browser.new_context(color_scheme="light", device_scale_factor=SCALE)
        for name in names or SHOTS:
            start, tab = time.monotonic(), Visitor(context.new_page(), address)
            try:
                picture = small(take(tab, SHOTS[name]))
            except Error as error:
                print(f"mechdiff: {name} cannot be taken: {error.message}\nTry:  --only {name}", file=sys.stderr)
                return 2
            tab.page.close()
            (ROOT / "docs" / name).write_bytes(picture)
            print(f"docs/{name}: {len(picture) / 1000:.0f} kB, after {time.monotonic() - start:.0f} s", flush=True)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
