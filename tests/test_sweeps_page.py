"""The Sweeps page, as a user sees it: sweeps of the command line and its own, started, stopped, killed; and what is stored."""

import os
import shutil
import signal
from pathlib import Path

import controls
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import app_at
from support.sweeping import DOMAIN, assert_same, seen, tables, until, working
from support.swept_pair import sweep, write_pair

from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts, sweep_process
from mechdiff.study.sweep_process import FAILED, FINISHED, KILLED, RUNNING, STOPPED

EVERY = "Where, Map, Rank, Heads"  # the parts of a whole sweep, as the page calls them


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return str(write_pair(tmp_path_factory.mktemp("pair"), DOMAIN))


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    """The folder of a sweep that the command line made, undisturbed."""
    place = tmp_path_factory.mktemp("whole")
    process = sweep(place / "cache", "--pair", pair, "--domain", DOMAIN, "--out", str(place / "out"))
    process.communicate()
    assert process.returncode == 0
    return place / "out"


@pytest.fixture(autouse=True)
def selection(pair, monkeypatch, own_store):
    """What the sidebar gives: the tiny pair."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the sweeps that the page starts: another number rounds otherwise
    shared = {"pair": pair, "domain": DOMAIN, "direction": "base-to-tuned", "limit": 8}
    monkeypatch.setattr(controls, "selection", lambda: Selection(**shared))
    return shared


def open_page(tab: str, folder: Path | str = "") -> AppTest:
    at = app_at("sweeps", tab=tab, **({"folder": str(folder)} if folder else {})).run()
    assert not at.exception, at.exception
    return at


def button(at: AppTest, label: str):
    return next((widget for widget in at.button if widget.label == label), None)


def bars(at: AppTest) -> list[str]:
    return [bar.proto.text for bar in at.get("progress")]


def said(at: AppTest, text: str) -> bool:
    return any(text in element.value for element in (*at.markdown, *at.error, *at.warning, *at.info, *at.caption))


@pytest.mark.slow
def test_a_sweep_of_the_command_line_is_seen(pair, sweep_cache, tmp_path):
    at = open_page("Run", tmp_path / "out")
    assert said(at, "No sweep has been started yet") and not button(at, "Start").disabled
    assert said(at, "24,700 cells"), "the estimate comes before the beginning"
    process = sweep(sweep_cache, "--pair", pair, "--domain", DOMAIN, "--out", str(tmp_path / "out"))
    until(lambda: next((status for status in sweep_process.statuses() if status.total), None))
    os.kill(process.pid, signal.SIGSTOP)
    at.run()
    (bar,) = bars(at)
    assert f"**tiny** on **{DOMAIN}**, quick grid" in bar and "cells" in bar
    assert button(at, "Start").disabled, "one at a time"
    os.kill(process.pid, signal.SIGCONT)
    process.communicate()
    at.run()
    assert said(at, "finished") and not bars(at) and not button(at, "Start").disabled
    assert said(at, "at the pace of the last sweep"), "the next estimate knows how fast it goes here"


@pytest.mark.usefixtures("sweep_cache")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("full", "full"),
        ("full: every prompt, map, rank and set of heads", "full"),  # as links of version 0.1 have it
        ("quick: 50 prompts, few ranks, single heads", "quick"),
    ],
)
def test_a_link_holds_the_grid(text, value):
    at = app_at("sweeps", tab="Run", grid=text).run()
    assert not at.exception and not at.warning, at.warning
    assert not at.error, [error.value for error in at.error]
    assert at.session_state["grid"] == value and any(f"--grid {value}" in code.value for code in at.code)


def test_started_on_the_page_it_ends_in_the_command_lines_tables(whole, sweep_cache, tmp_path):
    at = open_page("Run", tmp_path / "out")
    button(at, "Start").click().run()
    assert not at.error and len(bars(at)) == 1, [e.value for e in at.error]
    assert os.getsid(seen(RUNNING, FINISHED).pid) != os.getsid(0), "it outlives the app"
    seen(FINISHED)
    assert_same(whole, tmp_path / "out")


@pytest.mark.slow
def test_two_people_start_one_sweep(sweep_cache, tmp_path, monkeypatch):
    page, other = (open_page("Run", tmp_path / "out") for _ in range(2))
    button(page, "Start").click().run()
    first = seen(RUNNING)
    os.kill(first.pid, signal.SIGSTOP)
    button(other, "Start").click().run()
    assert not other.error and len(bars(other)) == 1 and button(other, "Start").disabled, "the second sees the first one's"
    monkeypatch.setattr(sweep_process, "find", lambda *_: None)  # at the same moment: neither has seen the other's
    button(other.run(), "Start").click().run()
    assert said(other, f"process {first.pid}")
    os.kill(first.pid, signal.SIGCONT)
    assert seen(FINISHED).pid == first.pid


def test_stop_and_resume_end_in_the_same_tables(whole, sweep_cache, tmp_path):
    at = open_page("Run", tmp_path / "out")
    button(at, "Start").click().run()
    status = working()
    os.kill(status.pid, signal.SIGSTOP)  # it does not end while the page is drawn
    at.run()
    button(at, "Stop").click().run()
    os.kill(status.pid, signal.SIGCONT)
    assert seen(STOPPED, FINISHED).state == STOPPED and not tables(tmp_path / "out")
    at.run()
    assert said(at, "stopped") and not said(at, KILLED)
    button(at, "Resume").click().run()
    seen(FINISHED)
    assert_same(whole, tmp_path / "out")


def test_a_killed_sweep_can_be_gone_on_with(whole, sweep_cache, tmp_path):
    at = open_page("Run", tmp_path / "out")
    button(at, "Start").click().run()
    status = until(lambda: next((s for s in sweep_process.statuses() if s.total), None))
    os.kill(status.pid, signal.SIGKILL)
    seen(STOPPED)
    at.run()
    assert said(at, KILLED)
    button(at, "Resume").click().run()
    seen(FINISHED)
    assert_same(whole, tmp_path / "out")


@pytest.mark.slow
def test_a_failed_sweep_shows_its_sentence(sweep_cache, tmp_path):
    path = tmp_path / "gone.toml"
    path.write_text(f'domain = "{DOMAIN}"\n[base]\nfolder = "nowhere"\n[tuned]\nfolder = "nowhere"\n')
    sweep(sweep_cache, "--pair", str(path), "--out", str(tmp_path / "out")).communicate()
    seen(FAILED)
    at = open_page("Run")
    assert said(at, "There is no model in") and button(at, "Try again")
    button(at, "Try again").click().run()
    assert not at.exception and said(at, "There is no model in")


def test_a_folder_that_cannot_be_written_is_a_sentence(sweep_cache, tmp_path):
    (tmp_path / "file").write_text("in the way")
    at = open_page("Run", tmp_path / "file" / "folder")
    button(at, "Start").click().run()
    assert not at.exception and said(at, "Cannot write") and sweep_process.statuses() == []


def test_what_is_stored_is_listed_with_its_manifest(whole):
    at = open_page("Stored", whole)
    (line,) = at.dataframe[0].value.to_dict("records")
    assert (line["Pair"], line["Domain"], line["Questions"]) == ("tiny", DOMAIN, EVERY)
    assert (line["Grid"], line["Prompts"], line["Manifest"]) == ("quick", "50", "complete") and line["MB"] > 0
    facts = dict(zip(at.table[0].value["what"], at.table[0].value["value"]))
    about = artifacts.sweep_folders(whole)[0].manifest
    assert about["base"]["fingerprint"] in facts["base, fingerprint"] and facts["seed"] == "0"
    assert at.code[0].value == about["command"]
    at.segmented_control[0].set_value("rq4").run()
    at.selectbox[-1].set_value("heads").run()
    frame = at.dataframe[-1].value
    table = pd.read_parquet(whole / DOMAIN / "rq4" / "tiny" / "heads.parquet")
    pd.testing.assert_frame_equal(frame.reset_index(drop=True), table.head(200))
    assert said(at, f"200 of {len(table):,} lines")


def test_what_has_no_manifest_is_listed_and_says_so(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / DOMAIN / "rq2" / "tiny" / "manifest.json").unlink()
    (tmp_path / "copy" / DOMAIN / "rq1" / "tiny" / "manifest.json").write_text('{"half": ')
    at = open_page("Stored", tmp_path / "copy")
    (line,) = at.dataframe[0].value.to_dict("records")
    assert line["Manifest"] == "missing for Where, Map" and line["Questions"] == EVERY
    assert said(at, "Where has no manifest")


def test_our_own_sweeps_have_a_report_and_others_none(whole):
    assert [b.proto.label for b in open_page("Stored").get("download_button")] == ["Report (HTML)"]
    assert not open_page("Stored", whole).get("download_button")


def test_new_tables_show_without_a_restart(whole, tmp_path):
    at = open_page("Stored", tmp_path)
    assert said(at, "There are no sweeps")
    shutil.copytree(whole / DOMAIN, tmp_path / DOMAIN)
    at.run()
    assert len(at.dataframe[0].value) == 1
