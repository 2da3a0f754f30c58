"""Bundles and notebooks of version 0.1 give the same numbers."""

import ast
import os
import re
from pathlib import Path

import numpy as np
import pytest
from support.version_01 import DATA, ROOT, cli, estimates, python, recorded

FINDINGS = {"finding.zip": [], "finding-tiny.zip": ["--pair", "tiny/tiny.toml"]}  # bundles, and what a replay of them needs
SAME = ("same", "rounding")


def add_tiny(cache: Path) -> None:
    """The tiny pair as one that was added on this machine. (A replay needs its file beside that, as everywhere.)"""
    sources = "".join(f'[{side}]\nfolder = "{DATA / "tiny" / side}"\n' for side in ("base", "tuned"))
    (cache / "pairs").mkdir(parents=True)
    (cache / "pairs" / "tiny.toml").write_text(f'domain = "cultural"\n{sources}')


@pytest.fixture(scope="module")
def demo_cache(tmp_path_factory):
    """An empty cache, but for the demo model."""
    usual = Path(os.environ.get("MECHDIFF_CACHE", ROOT / "cache"))
    done = cli("demo", cache=usual)
    assert done.returncode == 0, done.stderr
    cache = tmp_path_factory.mktemp("demo") / "cache"
    cache.mkdir()
    (cache / "models").symlink_to(usual / "models", target_is_directory=True)
    return cache


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDINGS)
def test_a_bundle_replays_to_the_same_numbers(name, request, tmp_path):
    cache = request.getfixturevalue("demo_cache") if name == "finding.zip" else tmp_path
    if name == "finding-tiny.zip":
        add_tiny(cache)
    old, done = recorded("replay.json")[name], cli("replay", name, "--device", "cpu", *FINDINGS[name], cache=cache)
    assert done.returncode == old["exit"] == 0, done.stdout + done.stderr
    now, then = (verdicts(text) for text in (done.stdout, old["output"]))
    assert now == then and set(now["verdicts"].values()) <= {SAME}


def verdicts(output: str) -> dict:
    """What a replay printed: its first lines, each table's verdict and count of values, and the headline's two numbers."""
    tables = re.findall(r"^(\S+) +(same|rounding|differs|other|unchecked) ", output, re.MULTILINE)
    headline = re.search(r"Headline: (\S+) in the bundle, (\S+) here", output)
    assert headline[1] == pytest.approx(headline[2]) or float(headline[1]) == pytest.approx(float(headline[2]), rel=1e-4)
    return {
        "opening": output.splitlines()[:2],
        "verdicts": {name: SAME if verdict in SAME else verdict for name, verdict in tables},
        "values": re.findall(r"^ +(\d+) values", output, re.MULTILINE),
        "headline": headline[1],
    }


def run_notebook(name: str, cache: Path) -> tuple[str, str]:
    """A notebook's words, and what its code prints in a process of its own; a chart at a cell's end has to be one.

    Its domains, which had no versions then, are given the first one, as the changelog says to do.
    """
    cells = recorded(name)["cells"]
    code = ["\n".join(cell["source"]) if isinstance(cell["source"], list) else cell["source"] for cell in cells]
    code = [re.sub(r'(domain="|@)(cultural|cognitive)\b', r"\1\2@1", text) for text in code]
    words = "\n".join(text for text, cell in zip(code, cells) if cell["cell_type"] == "markdown")
    script = ""
    for text in (text for text, cell in zip(code, cells) if cell["cell_type"] == "code"):
        *_, last = ast.parse(text).body
        is_chart = isinstance(last, ast.Expr) and ast.unparse(last).startswith("charts.")
        script += (text if not is_chart else text.replace(ast.get_source_segment(text, last), f"_ = {ast.unparse(last)}")) + "\n"
        script += "print('chart:', _.to_dict()['title']['text'])\n" if is_chart else ""
    done = python("-c", script, cache=cache)
    assert done.returncode == 0, done.stderr
    return words, done.stdout


@pytest.mark.slow
def test_a_notebook_gives_the_number_that_it_states(demo_cache):
    words, printed = run_notebook("finding.ipynb", demo_cache)
    stated = float(re.search(r"On the screen: \*\*(\S+) nats\*\*", words)[1])
    value, low, high = map(float, printed.splitlines()[0].split())
    assert value == pytest.approx(stated, rel=1e-4) and np.isnan([low, high]).all(), "8 prompts have no interval any more"
    assert "chart: Which layers' states move the next token?" in printed


@pytest.mark.slow
def test_the_notebook_of_a_comparison_says_the_same_verdict(tmp_path):
    _, printed = run_notebook("compare.ipynb", tmp_path)
    old = (DATA / "compare.txt").read_text(encoding="utf-8")
    keys = [[line.split()[0] for line in text.splitlines()[2:]] for text in (printed, old)]
    assert [key for key in keys[0] if key in keys[1]] == keys[1] and keys[0][-1] == "chart:", "quantities may have been added"
    same = "\n".join(line for line in printed.splitlines() if line.split()[:1] not in (["streams"], ["directions"]))
    assert estimates(same) == estimates(old) and len(estimates(old)) > 8
