"""Stored sweeps, reports, cache entries and status files of version 0.1 hold what they held."""

import hashlib
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
from support.version_01 import DATA, DRIVER, ROOT, cli, copied, estimates, lines_of, python, recorded, summary_of

RUNNER = """
import contextlib, io, json, sys
from mechdiff.__main__ import main

for arguments in json.load(open(sys.argv[1])):
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        status = main(arguments)
    print(json.dumps([status, output.getvalue()]), flush=True)
"""
# The page's list of sweeps with the first lines of a table, and its manifest.
FRAMES = """
        "frames": [json.loads(frame.value.head(5).to_json(orient="split", double_precision=6)) for frame in at.dataframe],
        "facts": [json.loads(table.value.to_json(orient="split")) for table in at.table],
        """
STATUS = """
import json
from dataclasses import asdict
from mechdiff.study import sweep_process
(status,) = sweep_process.statuses()
pace = sweep_process.pace(status.request, "tiny")
print(json.dumps(asdict(status) | {"pace": pace, "arguments": status.request.arguments}))
"""


def text_of(html: str) -> str:
    """What is read on a page, pictures and styles apart."""
    plain = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", plain)))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the package whose only stored sweep is the old one."""
    place = tmp_path_factory.mktemp("checkout")
    shutil.copytree(DATA / "sweep", copied(place))
    return place


def test_a_stored_sweep_holds_its_values():
    """Every table can be read, and has the lines, columns and means that it had."""
    old, now = recorded("summaries.json")["tables"], {}
    for path in stored_tables():
        now[path.relative_to(DATA / "sweep").as_posix()] = summary_of(pd.read_parquet(path))
    assert now.keys() == old.keys()
    for name in old:
        assert now[name] == pytest.approx(old[name], rel=1e-6, nan_ok=True), name


def stored_tables() -> list[Path]:
    return sorted((DATA / "sweep").glob("*/rq*/tiny/*.parquet"))


def stored_page(folder: Path) -> dict:
    """What the Sweeps page shows of the stored sweep."""
    link = folder / "links.json"
    link.write_text(json.dumps({"stored": f"sweeps?tab=Stored&folder={DATA / 'sweep'}"}))
    driver = DRIVER.replace('"warnings"', FRAMES.lstrip() + '"warnings"')
    (line,) = lines_of(python("-c", driver, ROOT, link, cache=folder / "cache"))
    return {name: line["stored"][name] for name in ("frames", "facts", "commands", "problems")}


@pytest.mark.slow
def test_the_sweeps_page_shows_a_stored_sweep(tmp_path):
    now, old = stored_page(tmp_path), recorded("summaries.json")["page"]
    assert old["problems"] == [] and len(old["frames"]) == 2 and len(old["facts"][0]["data"]) > 10
    (swept, table), (swept_then, table_then) = now.pop("frames"), old.pop("frames")
    assert now == old and table == table_then
    words = {"Questions", "Manifest"}  # what today's page calls them
    assert row_of(swept, leave=words) == row_of(swept_then, leave=words)


def row_of(frame: dict, leave: set[str]) -> dict:
    (row,) = frame["data"]
    return {name: value for name, value in zip(frame["columns"], row, strict=True) if name not in leave}


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_the_report_of_a_stored_sweep_says_the_same(checkout, tmp_path, direction):
    out = tmp_path / "report.html"
    flags = ("--pair", "tiny", "--domain", "cultural", "--direction", direction, "--out", out)
    done = cli("report", *flags, cache=tmp_path / "cache", package=checkout, place=tmp_path)
    assert done.returncode == 0, done.stderr
    now = estimates(text_of(out.read_text(encoding="utf-8")))
    for sentence in recorded("summaries.json")["report"][direction]:
        assert " ".join(estimates(sentence)) in " ".join(now), sentence
    if direction == "base-to-tuned":
        old = estimates(text_of((DATA / "report.html").read_text(encoding="utf-8")))
        assert in_order(old, now) and len(old) > 300, "quantities may have been added"


def in_order(few: list[str], many: list[str]) -> bool:
    """Whether all of a list stands in another one, in its order."""
    rest = iter(many)
    return all(value in rest for value in few)


@pytest.mark.slow
def test_a_comparison_of_the_stored_sweep_says_the_same(checkout, tmp_path):
    flags = ("--a", "tiny@cultural", "--b", "tiny@cultural", "--direction", "tuned-to-base", "--depth", "0.5")
    done = cli("compare", *flags, cache=tmp_path / "cache", package=checkout, place=tmp_path)
    old = recorded("summaries.json")["compare"]
    assert done.returncode == 0 and in_order(estimates(old), estimates(done.stdout)) and len(estimates(old)) > 5, done.stderr


OF_ITS_DAY = {  # what a command says today to mean what it meant
    "transport": ["--folds", "prompts"],
    "rank": ["--map", "procrustes_scaled", "--folds", "prompts"],
    "stack": ["--folds", "prompts"],
}


@pytest.fixture(scope="module")
def from_cache(tmp_path_factory):
    """What the command lines of cache.json say, and their tables, from a copy of the old cache."""
    place = tmp_path_factory.mktemp("cached")
    shutil.copytree(DATA / "answers", place / "cache")
    commands = [
        [*arguments, *OF_ITS_DAY.get(arguments[1], ()), "--out", str(place / f"{name}.parquet")]
        for name, (arguments, _) in recorded("cache.json").items()
    ]
    (place / "commands.json").write_text(json.dumps(commands))
    output = lines_of(python("-c", RUNNER, place / "commands.json", cache=place / "cache"))
    return {name: (*answer, place / f"{name}.parquet") for name, answer in zip(recorded("cache.json"), output)}


@pytest.mark.slow
@pytest.mark.parametrize("name", recorded("cache.json"))
def test_an_old_cache_answers_at_once(from_cache, name):
    status, output, path = from_cache[name]
    question = recorded("cache.json")[name][0][1]
    assert status == 0, output
    if question not in (
        "drift",
        "patch",
        "transport",
    ):  # new columns, the shift's effect, and another key for controls of patches
        assert f"{question}: 0 cells" in output
    old, now = recorded("cache.json")[name][1], summary_of(pd.read_parquet(path))
    assert {column: now[column] for column in old} == pytest.approx(old, rel=1e-6, nan_ok=True), "columns may have been added"


def test_a_stopped_sweep_can_be_resumed(tmp_path):
    """Its status file is read: which sweep it was, how far it came, and how fast."""
    old = recorded("status.json")
    (tmp_path / "sweeps").mkdir()
    shutil.copy(DATA / "status.json", tmp_path / "sweeps" / "tiny@cultural.json")
    (now,) = lines_of(python("-c", STATUS, cache=tmp_path))
    assert (
        now["request"] == old["asked"] | {"metrics": None, "protocol": None, "min_shared_ratio": None, "limit": None}
        and now["cached"] == old["kept"]
        and now["state"] == "stopped"
    )
    assert all(now[name] == old[name] for name in ("name", "domain", "done", "total", "started", "updated"))
    assert now["pace"] == (old["updated"] - old["started"]) / (old["done"] - old["kept"])
    flags = ["--domain", "cultural", "--grid", "quick", "--dtype", "float32", "--out", "/data/sweeps"]
    assert now["arguments"] == ["sweep", "--pair", "tiny.toml", *flags]


def test_the_sweeps_on_the_first_prompts_are_what_they_were():
    """They are stored under the domain's first version: their summaries, drift and what the models wrote."""
    old = {re.sub(r"artifacts/(\w+)/", r"artifacts/\1@1/", name): values for name, values in recorded("stored.json").items()}
    left_out = {f"{name}.parquet" for name in ("patch", "transplant", "transport", "rank", "heads", "alpha_summary")}
    tables = {path.relative_to(ROOT / "mechdiff").as_posix(): path for path in ROOT.glob("mechdiff/artifacts/*@1/**/*.parquet")}
    assert {name for name in old if Path(name).name not in left_out} <= tables.keys()
    for name in old.keys() & tables.keys():
        assert hashlib.sha256(tables[name].read_bytes()).hexdigest() == old[name]["sha256"], name
