"""Every page, as a user sees it: choose a layer, and the number on the page is the command line's."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from mechdiff.__main__ import main

APP = Path(__file__).parents[1] / "app"
sys.path.insert(0, str(APP))
import controls  # noqa: E402
import session  # noqa: E402

PROMPTS = 8


@pytest.fixture(autouse=True)
def patient(monkeypatch, own_store):
    monkeypatch.setattr(session, "PATIENCE", 300.0)


def open_page(view: str, **query) -> AppTest:
    """The page in its frame, as navigation runs it."""
    at = AppTest.from_string(f"import session\nfrom views import {view}\nsession.frame({view}.page)\n", default_timeout=300)
    for name, value in ({"pair": "demo-cultural", "prompts": str(PROMPTS)} | query).items():
        at.query_params[name] = value
    at.run()
    assert not at.exception and not at.error, [*at.exception, *at.error]
    return at


def metric(at: AppTest, label: str) -> str:
    return next(m.value for m in at.metric if m.label.startswith(label))


def from_cli(tmp_path, *arguments) -> pd.DataFrame:
    out = tmp_path / "cli.parquet"
    assert main(["run", *arguments, "--pair", "demo-cultural", "--limit", str(PROMPTS), "--out", str(out)]) == 0
    return pd.read_parquet(out)


def test_home_needs_no_model_and_shows_both_pairs(monkeypatch):
    monkeypatch.setattr("mechdiff.models._load", lambda *_: pytest.fail("a model was loaded"))
    at = AppTest.from_file(str(APP / "Home.py"), default_timeout=60).run()
    assert not at.exception and not at.error and not at.warning
    assert [s.value for s in at.subheader] == ["Cultural fine-tune", "Cognitive fine-tune"]
    assert sum("debiased CKA" in m.value for m in at.markdown) == 2
    assert sum("half of its full effect" in m.value for m in at.markdown) == 2


@pytest.mark.usefixtures("demo")
def test_drift_shows_the_command_lines_number(tmp_path):
    at = open_page("drift")
    at.slider(key="layer").set_value(12).run()
    table = from_cli(tmp_path, "drift").set_index("layer")
    assert metric(at, "Debiased CKA at layer 12") == f"{table.loc[12, 'cka_debiased']:.3f}"


@pytest.mark.usefixtures("demo")
def test_patching_shows_the_command_lines_number(tmp_path):
    at = open_page("patching", stream="mlp_out", direction="tuned-to-base")
    at.slider(key="layer").set_value(21).run()
    table = from_cli(tmp_path, "patch", "--streams", "mlp_out", "--layers", "21", "--direction", "tuned-to-base")
    assert metric(at, "Mean effect at layer 21") == f"{table['kl'].mean():.4f} nats"
    recovery = 1 - table["kl_to_donor"].mean() / table["kl_donor_clean"].mean()
    shown = next(m for m in at.metric if m.label == "Recovery")
    low, high = (float(part.rstrip("%")) / 100 for part in shown.delta.removeprefix("95 % interval ").split(" to "))
    assert shown.value == f"{recovery:.0%}" and low <= recovery <= high and low < high


@pytest.mark.usefixtures("demo")
def test_heads_show_the_command_lines_number(tmp_path):
    at = open_page("heads", layer="24")
    at.button_group(key="heads").set_value([1, 3]).run()
    at.slider(key="blend").set_value(0.5).run()
    table = from_cli(tmp_path, "heads", "--layers", "24", "--head-sets", "1,3", "--blend", "0.5")
    mine = table[table["heads"] == "1-3"]
    assert metric(at, "Heads 1, 3") == f"{mine['kl'].mean():.5f} nats"
    assert metric(at, "Coverage") == f"{mine['kl'].mean() / mine['kl_reference'].mean():.0%}"


@pytest.mark.usefixtures("demo")
def test_a_link_reopens_the_same_view():
    first = open_page("patching", layer="27", stream="attn_out")
    assert first.slider(key="layer").value == 27 and first.selectbox(key="stream").value == "attn_out"
    again = open_page("patching", layer="27", stream="attn_out")
    assert [m.value for m in again.metric] == [m.value for m in first.metric]


@pytest.mark.parametrize("view", ["drift", "patching", "heads"])
def test_a_pair_that_is_not_here_says_what_to_type(view):
    at = open_page(view, pair="llama-8b-cognitive")
    assert any("hf download meta-llama/Llama-3.1-8B-Instruct" in i.value for i in at.info)


@pytest.mark.usefixtures("demo")
def test_a_user_error_is_a_notice(monkeypatch):
    from mechdiff import UserError
    from mechdiff.experiments.effects import EffectsTask

    def fail(self):
        raise UserError("The demo does not fit.\nTry:  --limit 8")
        yield

    monkeypatch.setattr(EffectsTask, "steps", fail)
    at = AppTest.from_string("import session\nfrom views import patching\nsession.frame(patching.page)\n", default_timeout=60)
    at.run()
    assert not at.exception and "does not fit" in at.error[0].value


@pytest.mark.usefixtures("demo")
def test_a_page_waits_no_longer_than_its_patience(monkeypatch):
    import threading

    from mechdiff.experiments.effects import EffectsTask

    monkeypatch.setattr(session, "PATIENCE", 0.1)
    release, original = threading.Event(), EffectsTask.steps

    def slow(self):
        release.wait(60)
        yield from original(self)

    monkeypatch.setattr(EffectsTask, "steps", slow)
    at = open_page("patching", layer="3")
    assert any("moment" in c.value for c in at.caption) and any(b.label == "Cancel" for b in at.button)
    at.slider(key="layer").set_value(5).run()
    assert at.slider(key="layer").value == 5
    release.set()


def test_the_shown_command_is_the_request():
    shared = {"pair": "demo-cultural", "domain": "cognitive", "direction": "tuned-to-base", "limit": 16}
    run = controls.request("heads", shared, layers=(3,), head_sets="1,2", blend=0.5)
    import shlex

    from mechdiff.__main__ import build_parser

    args = build_parser().parse_args(shlex.split(controls.command(run))[3:])
    for name, value in {**shared, "question": "heads", "layers": (3,), "head_sets": "1,2", "blend": 0.5}.items():
        assert getattr(args, name) == value
