"""Every page, as a user sees it: choose a layer, and the number on the page is the command line's.

What needs a fitted map is tested on a tiny pair, with a small stored sweep of it.
"""

import json
import shlex
from pathlib import Path

import controls
import pandas as pd
import pytest
import session
import stored_results
from streamlit.testing.v1 import AppTest
from support.app_page import PROMPTS, app_at, badges, charts_of, metric, open_demo

import mechdiff
from mechdiff import Run, questions
from mechdiff.__main__ import main
from mechdiff.cli.run import options_of
from mechdiff.questions import Question
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.shared.command import command
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts

HOME = Path(__file__).parents[1] / "app" / "Home.py"
pytestmark = pytest.mark.usefixtures("patient")


def from_cli(tmp_path, *arguments) -> pd.DataFrame:
    out = tmp_path / "cli.parquet"
    assert main(["run", *arguments, "--pair", "demo-cultural", "--limit", str(PROMPTS), "--out", str(out)]) == 0
    return pd.read_parquet(out)


def test_home_needs_no_model_and_shows_both_pairs(monkeypatch):
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    at = AppTest.from_file(str(HOME), default_timeout=300).run()
    assert not at.exception and not at.error and not at.warning
    titles = [subheader.value for subheader in at.subheader]
    assert titles[:2] == ["Cultural fine-tune", "Cognitive fine-tune"] and controls.DEFAULTS["pair"] in titles[3]
    assert titles[2] == "The study's contrasts, and what is left of them"
    assert sum("CKA over templates" in m.value for m in at.markdown) == 2, "a figure of each pair's drift"
    for spec in charts_of(at):
        clickable = {field for p in spec.get("params", ()) for field in p["select"]["fields"]}
        assert clickable == ({"layer", "now"} if '"field": "layer"' in json.dumps(spec) else set()), "a curve over layers"


@pytest.mark.usefixtures("demo")
def test_drift_shows_the_command_lines_number(tmp_path):
    at = open_demo("drift")
    at.slider(key="layer").set_value(12).run()
    table = from_cli(tmp_path, "drift").set_index("layer")
    assert metric(at, "CKA over templates at layer 12") == f"{table.loc[12, 'cka_templates']:.3f}"


@pytest.mark.usefixtures("demo")
def test_patching_shows_the_command_lines_number(tmp_path):
    at = open_demo("patching", stream="mlp_out", direction="tuned-to-base")
    at.slider(key="layer").set_value(21).run()
    table = from_cli(tmp_path, "patch", "--streams", "mlp_out", "--layers", "21", "--direction", "tuned-to-base")
    assert metric(at, "Mean effect at layer 21") == f"{table['kl'].mean():.4f} nats"
    recovery = 1 - table["kl_to_donor"].mean() / table["kl_donor_clean"].mean()
    card = next(m for m in at.metric if m.label == "Recovery")
    assert card.value == f"{100 * recovery:z.0f} %" and card.delta == "fewer than 20 templates: no interval"


@pytest.mark.usefixtures("demo")
def test_heads_show_the_command_lines_number(tmp_path):
    at = open_demo("heads", layer="24")
    at.button_group(key="heads").set_value([1, 3]).run()
    at.slider(key="blend").set_value(0.5).run()
    table = from_cli(tmp_path, "heads", "--layers", "24", "--head-sets", "1,3", "--blend", "0.5")
    mine = table[table["heads"] == "1-3"]
    assert metric(at, "Heads 1, 3") == f"{mine['kl'].mean():.5f} nats"
    assert metric(at, "Coverage") == f"{100 * mine['kl'].mean() / mine['kl_reference'].mean():.0f} %"


@pytest.mark.usefixtures("demo")
def test_a_link_reopens_the_same_view():
    first = open_demo("patching", layer="27", stream="attn_out")
    assert first.slider(key="layer").value == 27 and first.selectbox(key="stream").value == "attn_out"
    again = open_demo("patching", layer="27", stream="attn_out")
    assert [m.value for m in again.metric] == [m.value for m in first.metric]


@pytest.mark.parametrize("view", ["drift", "patching", "transport", "rank", "heads"])
def test_a_pair_that_is_not_here_says_what_to_type(view):
    at = open_demo(view, pair="llama-8b-cognitive")
    assert any("python -m mechdiff study --pair llama-8b-cognitive" in i.value for i in at.info)
    at = open_demo(view, pair="llama-8b-cognitive", protocol="mechdiff")  # nothing is stored of it
    assert any("hf download meta-llama/Llama-3.1-8B-Instruct" in i.value for i in at.info)


@pytest.mark.usefixtures("demo")
def test_a_user_error_is_a_notice(monkeypatch):
    from mechdiff import UserError
    from mechdiff.questions.shared.effects import EffectsTask

    def fail(self):
        raise UserError("The demo does not fit.\nTry:  --limit 8")
        yield

    monkeypatch.setattr(EffectsTask, "steps", fail)
    at = app_at("patching").run()
    assert not at.exception and "does not fit" in at.error[0].value


@pytest.mark.usefixtures("demo")
def test_a_page_waits_no_longer_than_its_patience(monkeypatch):
    import threading

    from mechdiff.questions.shared.effects import EffectsTask

    monkeypatch.setattr(session, "PATIENCE", 0.1)
    release, original = threading.Event(), EffectsTask.steps

    def slow(self):
        release.wait(60)
        yield from original(self)

    monkeypatch.setattr(EffectsTask, "steps", slow)
    at = open_demo("patching", layer="3")
    assert not at.metric and any(b.label == "Cancel" for b in at.button), "the page is there, its numbers are not"
    at.slider(key="layer").set_value(5).run()
    assert at.slider(key="layer").value == 5
    release.set()


def cli_fields(run: Question) -> dict:
    """What the command line makes of a shown command."""
    given = vars(options_of(type(run)).parse_args(shlex.split(command(run))[5:]))
    return {name: value for name, value in given.items() if name not in ("out", "diagnostics")}


@pytest.mark.parametrize(
    ("question", "details"),
    [
        ("heads", {"layers": (3,), "head_sets": "1,2", "blend": 0.5}),
        ("heads", {"layers": (3,), "head_sets": "0;3;0,5", "controls": ("self", "random")}),
        ("transport", {"map": "none", "alpha": ("0.3", "auto"), "controls": ("self", "mean"), "positions": 16}),
        ("rank", {"map": "ridge", "ranks": ("0", "full"), "complement": ("own",), "streams": ("mlp_out",), "seed": 3}),
        ("patch", {"map": "zscore", "prompts": "my prompts.jsonl", "target": " yes"}),
        ("transplant", {"streams": ("heads",), "dtype": "float32"}),
    ],
)
def test_the_shown_command_is_the_request(question, details):
    shared = {"pair": "demo-cultural", "domain": "cognitive", "direction": "tuned-to-base", "limit": 16}
    run = Selection(**shared).run(question, **details)
    assert type(run)(**cli_fields(run)) == run


def test_a_shown_command_names_what_is_not_the_default():
    shared = {"pair": "demo-cultural", "domain": "cultural", "direction": "base-to-tuned", "limit": 8}
    run = Selection(**shared).run("rank", ranks=("8",), complement=("mean",), alpha=("0.8",), controls=("self",))
    options = "run rank --pair demo-cultural --domain cultural --limit 8 --controls self --complement mean --alpha 0.8 --ranks 8"
    assert command(run) == f"python -m mechdiff {options}"


def answer(shared: dict, question: str, **details) -> pd.Series:
    """The summary of the one condition asked for, as the command line prints it."""
    run = Run(question, controls=("self",), **details, **shared)
    lines = run.summary(mechdiff.run(run))
    (line,) = lines[lines["control"] == "none"].itertuples()
    return line


def test_patching_has_no_recovery_where_the_models_differ_by_rounding(tiny, monkeypatch):
    """Both ways of saying so agree: the page's number and the question's summary."""
    computed = session.answer

    def answer_of_equal_models(request, **details):
        table = computed(request, **details)
        rounding = {"kl_donor_clean": 2e-7, "kl_to_donor": 1e-7}
        own = table["control"] == "self" if "control" in table else False
        return table.assign(kl=table["kl"].mask(own, 3e-7), **rounding) if "kl_to_donor" in table else table

    monkeypatch.setattr(session, "answer", answer_of_equal_models)
    assert metric(open_demo("patching", layer="1"), "Recovery") == "—"


def test_patching_shows_the_summarys_recovery(tiny):
    at, line = open_demo("patching", layer="1"), answer(tiny, "patch", layers=(1,))
    card = next(m for m in at.metric if m.label == "Recovery")
    assert card.value == f"{100 * line.recovery:z.0f} %"
    assert card.delta == f"95 % interval {100 * line.recovery_low:z.0f} to {100 * line.recovery_high:z.0f} %"


def test_transport_shows_the_command_lines_number(swept):
    at = open_demo("transport", layer="1", stream="mlp_out", fit="ridge", alpha="0.5")
    line = answer(swept, "transport", map="ridge", layers=(1,), streams=("mlp_out",), alpha=("0.5",))
    assert metric(at, "Effect at layer 1") == f"{line.mean:.4f} nats"
    assert metric(at, "Drop") == f"{line.drop:z.0f} %" and metric(at, "Recovery") == f"{100 * line.recovery:z.0f} %"
    delta = next(m.delta for m in at.metric if m.label == "Drop")
    assert delta == f"95 % interval {line.drop_low:z.0f} to {line.drop_high:z.0f} %"
    at.selectbox(key="alpha").set_value("auto").run()
    assert [b for b in badges(at) if "green" in b and "within the stored interval" in b], "of this stream only means are stored"
    at.selectbox(key="stream").set_value("resid_post").run()
    assert [b for b in badges(at) if "green" in b and "20 of 20 prompts" in b]


def test_rank_shows_the_command_lines_number(swept):
    at = open_demo("rank", layer="2", rank="4", complement="own", basis="map", fit="procrustes_scaled")
    details = {"map": "procrustes_scaled", "layers": (2,)}
    line = answer(swept, "rank", ranks=("4",), complement=("own",), **details)
    assert metric(at, "Effect at rank 4") == f"{line.mean:.4f} nats" and metric(at, "Drop") == "—"
    assert [b for b in badges(at) if "green" in b and "within the stored interval" in b], "of cuts of maps only means are stored"
    at.radio(key="complement").set_value("mean").run()
    line = answer(swept, "rank", ranks=("4",), complement=("mean",), **details)
    assert metric(at, "Drop") == f"{line.drop:z.0f} %"
    at.select_slider(key="rank").set_value("0").run()
    assert [b for b in badges(at) if "within the stored interval" in b], "rank nought under the mean is the control mean"
    at.select_slider(key="rank").set_value("3").run()
    assert metric(at, "Effect at rank 3") and not badges(at)


@pytest.mark.parametrize("view", ["patching", "heads"])
def test_a_live_number_is_compared_with_the_stored_one(swept, view):
    at = open_demo(view, layer="1")
    assert [b for b in badges(at) if "green" in b and "20 of 20 prompts" in b]
    path = artifacts.ARTIFACTS / "none" / {"patching": "rq1/tiny/patch", "heads": "rq4/tiny/heads"}[view]
    table = pd.read_parquet(path.with_suffix(".parquet"))
    table.assign(kl=table["kl"] * 1.5).to_parquet(path.with_suffix(".parquet"))
    stored_results.read.clear()
    assert [b for b in badges(open_demo(view, layer="1")) if "orange" in b and "differs" in b]


def test_directions_of_the_difference_show_the_command_lines_number(swept):
    at = open_demo("rank", layer="2", rank="4")
    run = Run("rank", ranks=("4",), layers=(2,), controls=("self",), **swept)
    (line,) = run.summary(mechdiff.run(run)).query("rank == '4' and control == 'none'").itertuples()
    assert metric(at, "Effect at rank 4") == f"{line.mean:.4f} nats" and metric(at, "Recovery") == f"{100 * line.recovery:z.0f} %"
    assert [b for b in badges(at) if "green" in b and "20 of 20 prompts" in b]
    assert len(charts_of(at)) == 1 and at.radio(key="basis").value == "difference"


def test_stored_and_live_parts_draw(swept):
    for view, key in (("transport", "curve"), ("rank", "ranks"), ("patching", "transplants"), ("heads", "coverage")):
        stored = open_demo(view, layer="1")
        assert not [i for i in stored.info if "no stored sweep" in i.value]
        live = stored.toggle(key=key).set_value(True).run()
        assert not live.exception and not live.error, view
        assert len(charts_of(live)) == len(charts_of(stored)) >= 1, view


@pytest.mark.parametrize("view", ["transport", "rank", "patching", "heads"])
def test_without_a_stored_sweep_a_page_says_so_and_works_alone(tiny, view):
    at = open_demo(view, layer="1")
    assert any("no stored sweep" in i.value and "--domain none --grid full" in i.value for i in at.info)
    assert at.metric and not badges(at)


def test_a_mapped_view_reopens_from_its_link(tiny):
    link = {"layer": "1", "fit": "ridge", "alpha": "0.8", "rank": "16", "complement": "own", "stream": "attn_out"}
    first, again = (open_demo("rank", **link) for _ in range(2))
    assert first.select_slider(key="rank").value == "16" and first.selectbox(key="fit").value == "ridge"
    assert first.radio(key="complement").value == "own" and first.selectbox(key="alpha").value == "0.8"
    assert [m.value for m in again.metric] == [m.value for m in first.metric]


def test_weights_show_the_command_lines_numbers(tiny):
    at = open_demo("weights", layer="2", overlap="true")
    table = mechdiff.run(Run("weights", pair=tiny["pair"], layers=(2,))).set_index("module")
    first = table.iloc[0]
    assert metric(at, f"L2 {first.name}") == f"{100 * first['relative_norm']:.2f} %"
    assert metric(at, "Stable rank") == f"{first['stable_rank']:.3g}"
    linked = open_demo("weights", shown="stable rank")
    assert '"field": "stable_rank"' in json.dumps(charts_of(linked)[0]) and not linked.warning
    at.selectbox(key="module").set_value("self_attn.v_proj").run()
    assert metric(at, "L2 self_attn.v_proj") == f"{100 * table.loc['self_attn.v_proj', 'relative_norm']:.2f} %"
    settings = {name: tiny[name] for name in ("pair", "prompts", "train", "domain", "device")}
    overlap = questions.run(Overlap(Run("weights", layers=(2,), **settings))).query("k == 8")
    assert any(
        f"Mean overlap {100 * overlap['overlap'].mean():.1f} %, chance {100 * 8 / 32:.1f} %" in caption.value
        for caption in at.caption
    )
