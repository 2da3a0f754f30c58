"""`import mechdiff as md`: a pair to ask, results that show themselves, interventions and metrics of one's own."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import plain_hooks
from support.random_pair import TEXTS

import mechdiff
import mechdiff as md
from mechdiff.engine import hooks
from mechdiff.questions import QUESTIONS

ROOT = Path(__file__).parents[1]


def models(pair):
    loaded = md.load_pair(pair.spec.path, "cpu")
    return loaded.base.model, loaded.tuned.model, loaded.tokenizers


def kl_of_hooks(pair, texts, edits_of) -> list[float]:
    """KL(patched || clean) by plain hooks. edits_of(states of base, states of tuned): the edits of one prompt."""
    base, tuned, tokenizers = models(pair)
    values = []
    for text in texts:
        ids = tokenizers.encode(text, "tuned")
        seen = [hooks_states(model, ids) for model in (base, tuned)]
        clean, patched = plain_hooks.run(tuned, ids), plain_hooks.run(tuned, ids, edits_of(*seen))
        values.append(float((patched.exp() * (patched - clean)).sum()))
    return values


def hooks_states(model, ids):
    """State of every layer and stream at the last token, by plain hooks."""
    states = {}
    for layer in range(model.config.num_hidden_layers):
        for stream in ("resid_post", "mlp_out", "heads"):
            plain_hooks.run(model, ids, [(layer, stream, lambda state, at=(layer, stream): states.setdefault(at, state.clone()))])
    return states


def test_the_import_is_light():
    heavy = "{'torch', 'pandas', 'altair', 'numpy', 'transformers'}"
    code = f"import sys, mechdiff as md; md.at; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr == ""


def test_every_public_name_is_there_for_completion_and_for_type_checkers():
    (block,) = [node for node in ast.parse(inspect.getsource(mechdiff)).body if isinstance(node, ast.If)]
    typed = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names} - {"questions"}
    assert typed | {"summarise"} == set(md.__all__) <= set(dir(md))
    assert all(getattr(md, name) is not None for name in md.__all__) and md.__version__
    assert {kind.__name__ for kind in QUESTIONS.values() if kind.__module__.startswith("mechdiff")} <= set(md.__all__)


def test_a_question_is_a_method_and_gives_what_its_request_gives(toy):
    result = toy.patch(layers=range(2), limit=4, controls="self")
    expected = md.run(md.Patch(pair=toy.spec.path, layers=(0, 1), limit=4, controls=("self",), device="cpu"))
    pd.testing.assert_frame_equal(result.table, expected)
    pd.testing.assert_frame_equal(result.summary(), md.summarise(expected, result.request))
    options = "--limit 4 --layers 0,1 --device cpu --controls self"
    assert result.command == f"python -m mechdiff run patch --pair {toy.spec.path} {options}"
    assert result.provenance["base"]["fingerprint"] and result.provenance["prompts"] == 4
    assert set(QUESTIONS) <= set(dir(toy)) and "layers" in inspect.signature(toy.drift).parameters
    assert "a domain of curated prompts" in inspect.getdoc(toy.drift)
    with pytest.raises(AttributeError, match="no question 'patchwork'"):
        toy.patchwork()


def test_a_result_shows_itself_and_comes_back_from_its_file(toy, tmp_path):
    result = toy.patch(layers=[0, 1], limit=4)
    result.notices.append("a <b> notice")
    result.to_parquet(tmp_path / "patch.parquet")
    again = md.Result.from_parquet(tmp_path / "patch.parquet")
    pd.testing.assert_frame_equal(again.table, result.table)
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    assert (again.request, again.notices, again.provenance) == (result.request, result.notices, result.provenance)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "patch.parquet"), result.table)
    page = again._repr_html_()
    assert "a &lt;b&gt; notice" in page and f"{result.summary()['mean'][0]:.4g}" in page
    assert again.chart().to_dict()["title"]
    result.table.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(md.UserError, match="was not written by Result"):
        md.Result.from_parquet(tmp_path / "bare.parquet")


@pytest.mark.parametrize("texts", [None, TEXTS[:3]])
def test_a_result_of_own_rows_comes_back_from_its_file(toy, tmp_path, texts):
    """With all that it shows. What a function does is not in a file, so the request names its interventions and cannot be run."""

    def entropy(patched, clean, donor):
        return -(patched.exp() * patched).sum(-1)

    rows = [md.at(1).donor(), md.at(0, "mlp_out").set(lambda clean: 2 * clean.own).named("twice"), md.at(0).set(torch.ones(32))]
    fields = {"limit": 4, "direction": "tuned-to-base"} if texts is None else {}
    result = toy.run(rows, texts, [md.kl_to_donor, entropy, md.logit_difference("yes", "no")], **fields)
    result.notices.append("a notice")
    assert result.command.startswith("# ") and "pair.run" in result.command and "\n" not in result.command
    result.to_parquet(tmp_path / "rows.parquet")
    again = md.Result.from_parquet(tmp_path / "rows.parquet")
    pd.testing.assert_frame_equal(again.table, result.table)
    pd.testing.assert_frame_equal(again.summary(), result.summary())
    pd.testing.assert_frame_equal(md.summarise(again.table, again.request), result.summary())
    for name in ("notices", "provenance", "command"):
        assert getattr(again, name) == getattr(result, name)
    assert repr(again) == repr(result) and again._repr_html_() == result._repr_html_()
    assert again.chart().to_dict()["title"] == result.chart().to_dict()["title"]
    assert again.request.rows == tuple(row.name for row in rows) and again.request.direction == result.request.direction
    with pytest.raises(md.UserError, match=r"twice.*\nTry:  pair\.run"):
        toy.ask(again.request)
    again.to_parquet(tmp_path / "again.parquet")
    assert md.Result.from_parquet(tmp_path / "again.parquet").request == again.request
    assert not any(text.encode() in (tmp_path / "rows.parquet").read_bytes() for text in TEXTS[:3]), "texts stay here"


def test_intervals_are_computed_once(toy, monkeypatch):
    result = toy.patch(layers=1, limit=4)
    first = result.summary()
    monkeypatch.setattr(type(result.request), "summary", lambda *_: pytest.fail("computed again"))
    first["mean"] = 0.0
    assert (result.summary()["mean"] > 0).all(), "a reader's change is not the next reader's"


def test_two_models_are_a_pair_without_a_file(toy, tmp_path):
    folder = Path(toy.spec.path).parent
    mine = md.load(folder / "base", folder / "tuned", domain="toy", device="cpu")
    pd.testing.assert_frame_equal(
        mine.patch(layers=1, limit=4).table.drop(columns="pair"), toy.patch(layers=1, limit=4).table.drop(columns="pair")
    )
    comment, command = mine.patch(layers=1, limit=4).command.splitlines()
    assert comment.endswith('pair.save("base-and-tuned.toml")') and "--pair base-and-tuned.toml" in command
    mine.save(tmp_path / "again.toml")
    assert md.load(tmp_path / "again.toml").spec.base == mine.spec.base
    with pytest.raises(md.UserError, match="another pair named"):
        md.load(folder / "tuned", folder / "base", name=mine.name, domain="toy")
    with pytest.raises(md.UserError, match="another pair named"):
        md.load(folder / "base", folder / "tuned", name="demo-cultural")
    with pytest.raises(md.UserError, match="hf download org/model"):
        _ = md.load("org/model", folder / "tuned", domain="toy").layers


EDITS = {
    "donor": (lambda: md.at(1).donor(), lambda base, own: [(1, "resid_post", lambda _: base[1, "resid_post"])]),
    "module": (lambda: md.at(0, "mlp_out").donor(), lambda base, own: [(0, "mlp_out", lambda _: base[0, "mlp_out"])]),
    "tensor": (
        lambda: md.at(1, "mlp_out").set(torch.linspace(-1, 1, 32)),
        lambda base, own: [(1, "mlp_out", lambda _: torch.linspace(-1, 1, 32))],
    ),
    "function": (
        lambda: md.at(0).set(lambda clean: clean.own + 2 * (clean.donor_at(1, "resid_post") - clean.own_at(1, "resid_post"))),
        lambda base, own: [(0, "resid_post", lambda x: x + 2 * (base[1, "resid_post"] - own[1, "resid_post"]))],
    ),
    "stack": (
        lambda: md.at(1).set(lambda clean: 0.5 * clean.donor) & md.at(0, "mlp_out").donor(),
        lambda base, own: [
            (0, "mlp_out", lambda _: base[0, "mlp_out"]),
            (1, "resid_post", lambda _: 0.5 * base[1, "resid_post"]),
        ],
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_own_rows_equal_plain_hooks(toy, name):
    row, edits = EDITS[name]
    by_rows = toy.run([row()], limit=6).table["kl"]
    np.testing.assert_allclose(by_rows, kl_of_hooks(toy, TEXTS[:6], edits), atol=1e-4)
    assert by_rows.min() > 1e-4, "the intervention does something"


def test_named_rows_equal_the_questions(toy):
    """Mapped states, heads, the mean and the own state are those of the questions that plain hooks check."""
    rows = [md.at(1).mapped("ridge", rank=4), md.at(0).heads(1, 3, blend=0.5), md.at(1).mean(), md.at(0, "heads").donor()]
    table = toy.run([*rows, md.at(1).own()], limit=4).table
    kl = [table.loc[table["intervention"] == row.name, "kl"].to_numpy() for row in rows]
    rank = toy.rank(layers=1, map="ridge", ranks="4", complement="mean", limit=4, controls="mean").table
    heads = toy.heads(layers=0, head_sets="1,3;0,1,2,3", limit=4).table
    half = toy.heads(layers=0, head_sets="1,3", blend=0.5, limit=4).table
    np.testing.assert_allclose(kl[0], rank.loc[(rank["control"] == "none") & (rank["rank"] == "4"), "kl"], atol=1e-6)
    np.testing.assert_allclose(kl[1], half.loc[half["heads"] == "1-3", "kl"], atol=1e-6)
    np.testing.assert_allclose(kl[2], rank.loc[rank["control"] == "mean", "kl"], atol=1e-6)
    np.testing.assert_allclose(kl[3], heads.loc[heads["heads"] == "all", "kl"], atol=1e-6)
    assert table.loc[table["intervention"] == "layer=1 resid_post own", "kl"].max() < 1e-6


@pytest.mark.parametrize("place", [{}, {"back": 1}, {"horizon": 3}, {"back": 1, "horizon": 3}, {"direction": "tuned-to-base"}])
def test_a_function_that_returns_the_donors_state_is_the_donors_row(toy, place):
    copied, donor = md.at(1).set(lambda clean: clean.donor), md.at(1).donor()
    table = toy.run([copied, donor, copied & md.at(0, "mlp_out").donor()], limit=6, **place).table
    by_name = {name: lines["kl"].to_numpy() for name, lines in table.groupby("intervention")}
    np.testing.assert_array_equal(by_name[copied.name], by_name[donor.name])
    np.testing.assert_allclose(by_name[donor.name], toy.patch(layers=1, limit=6, **place).table["kl"], atol=1e-6)


def test_own_metrics_are_what_they_say(toy):
    def entropy(patched, clean, donor):
        return -(patched.exp() * patched).sum(-1)

    def as_kl(patched, clean, donor):
        return (patched.exp() * (patched - clean)).sum(-1)

    metrics = [md.kl, entropy, as_kl, md.logit_difference("yes", "no"), md.target_logprob("yes")]
    result = toy.run([md.at(1).donor(), md.at(0).own()], limit=20, metrics=metrics)
    table, expected = result.table, toy.patch(layers=1, limit=20, target="yes", foil="no").table
    donor = table[table["intervention"] == "layer=1 stream=resid_post"]
    np.testing.assert_allclose(table["as_kl"], table["kl"], atol=1e-6)
    for name in ("logit_difference", "target_logprob", "logit_difference_clean", "target_logprob_clean"):
        np.testing.assert_allclose(donor[name], expected[name], atol=1e-5)
    own = table[table["intervention"] != "layer=1 stream=resid_post"]
    np.testing.assert_allclose(own["entropy"], own["entropy_clean"], atol=1e-5)
    assert "kl_to_donor" not in table
    lines = result.summary()
    np.testing.assert_allclose(lines["entropy"], table.groupby("intervention", sort=False)["entropy"].mean(), rtol=1e-6)
    assert (lines["entropy_low"] <= lines["entropy"]).all() and (lines["entropy"] <= lines["entropy_high"]).all()


def test_named_metrics_belong_to_every_question_about_effects(toy):
    def entropy_by_hand(patched, clean, donor):
        return -(patched.exp() * patched).sum(-1)

    def same_token(patched, clean, donor):
        return (patched.argmax(-1) == donor.argmax(-1)).float()

    table = toy.patch(layers=(0, 1), limit=20, metrics="entropy,top1_agreement")
    rows = [md.at(layer).donor() for layer in (0, 1)]
    by_hand = toy.run(rows, limit=20, metrics=[entropy_by_hand, same_token, "entropy"]).table
    np.testing.assert_allclose(table.table["entropy"], by_hand["entropy_by_hand"], atol=1e-6)
    np.testing.assert_array_equal(table.table["top1_agreement"], by_hand["same_token"])
    np.testing.assert_array_equal(by_hand["entropy"], by_hand["entropy_by_hand"])
    lines = table.summary()
    assert {"entropy_low", "entropy_high", "top1_agreement_low"} <= set(lines) and (
        lines["entropy_low"] <= lines["entropy"]
    ).all()
    assert "--metrics entropy,top1_agreement" in table.command
    with pytest.raises(md.UserError, match="'perplexity' does not exist"):
        toy.patch(layers=1, metrics="perplexity")


@pytest.fixture
def needs_engine(toy, monkeypatch, own_store):
    """Whether the engine had to run for these rows."""
    from mechdiff.questions.shared import measure

    real, runs = measure.run_rows, []
    monkeypatch.setattr(measure, "run_rows", lambda *args: runs.append(1) or real(*args))

    def ran(rows, **fields) -> bool:
        runs.clear()
        toy.run(rows, limit=4, **fields)
        return bool(runs)

    return ran


def test_tensors_are_known_by_their_content(needs_engine):
    state = torch.linspace(0.1, 1, 32)
    assert needs_engine([md.at(1).set(state)]) and not needs_engine([md.at(1).set(state.clone())])
    alike = state + 1e-7
    assert repr(alike) == repr(state) and not torch.equal(alike, state)
    assert needs_engine([md.at(1).set(alike)]), "two tensors that print alike"
    assert needs_engine([md.at(1).set(state.double())]) and needs_engine([md.at(0).set(state)])


def function_of(source: str, **scope):
    """A function whose source can be read, as in a notebook."""
    import linecache

    name = f"<cell {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), scope)
    return scope["change"]


def test_functions_are_kept_by_name_version_and_source(needs_engine):
    change = function_of("def change(clean):\n    return 2 * clean.own\n")
    assert needs_engine([md.at(1).set(change)]) and needs_engine([md.at(1).set(change)]), "without a name it is not kept"
    named = {"name": "double", "version": 1}
    assert needs_engine([md.at(1).set(change, **named)]) and not needs_engine([md.at(1).set(change, **named)])
    edited = function_of("def change(clean):\n    return 3 * clean.own\n")
    assert needs_engine([md.at(1).set(edited, **named)]), "an edited function under its old name"
    assert needs_engine([md.at(1).set(change, name="double", version=2)])


def test_what_a_function_reads_belongs_to_its_key(needs_engine):
    source = "def change(clean):\n    return clean.own + shift\n"
    with pytest.raises(md.UserError, match=r"reads shift.*\nTry:  key="):
        md.at(1).set(function_of(source, shift=torch.ones(32)), name="shift", version=1)
    assert needs_engine([md.at(1).set(function_of(source, shift=1.0), name="shift", version=1)])
    assert needs_engine([md.at(1).set(function_of(source, shift=2.0), name="shift", version=1)]), "a number that it reads"
    ones, twos = (function_of(source, shift=torch.full((32,), value)) for value in (1.0, 2.0))
    assert needs_engine([md.at(1).set(ones, name="shift", version=1, key="ones")])
    assert not needs_engine([md.at(1).set(ones, name="shift", version=1, key="ones")])
    assert needs_engine([md.at(1).set(twos, name="shift", version=1, key="twos")])


def test_a_function_that_reads_a_module_needs_a_key():
    """A module is callable, but its weights are not in any source."""
    source = "def change(clean):\n    return layer(clean.own)\n"
    with pytest.raises(md.UserError, match="reads layer"):
        md.at(1).set(function_of(source, layer=torch.nn.Linear(32, 32)), name="layer", version=1)


def test_metrics_belong_to_the_key(needs_engine):
    rows, source = [md.at(1).donor()], "def change(patched, clean, donor):\n    return patched[:, 0] * {}\n"
    named = {"name": "first", "version": 1}
    assert needs_engine(rows) and not needs_engine(rows)
    first, edited = (md.metric(function_of(source.format(factor)), **named) for factor in (1, 2))
    assert needs_engine(rows, metrics=[first]) and not needs_engine(rows, metrics=[first])
    assert needs_engine(rows, metrics=[edited]) and needs_engine(rows, metrics=[lambda patched, clean, donor: patched[:, 0]])


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        ([], {}, "no intervention"),
        (["layer 3"], {}, "is no intervention"),
        ([("at", 99)], {}, "Layer 99 does not exist"),
        ([("heads", 99)], {}, "Head 99 does not exist"),
        ([("set", 3)], {}, r"is \[3\]. It must be a tensor \[width\] = \[32\]"),
        ([("at", 1), ("at", 1)], {}, "Two interventions are named"),
        ([("at", 1)], {"metrics": [lambda p, c, d: p]}, "It must be a tensor"),
        ([("at", 1)], {"metrics": ["kl_of"]}, "Metric 'kl_of' does not exist"),
        ([("at", 1)], {"metrics": [3]}, "is no metric"),
        ([("at", 1)], {"metrics": [md.target_logprob("w1 w2")]}, "is 2 tokens"),
        ([("at", 1)], {"prompts": "missing.jsonl"}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_a_sentence(toy, rows, fields, message):
    make = {"at": lambda n: md.at(n).donor(), "heads": lambda n: md.at(0).heads(n), "set": lambda n: md.at(0).set(torch.zeros(n))}
    made = [row if isinstance(row, str) else make[row[0]](row[1]) for row in rows]
    with pytest.raises(md.UserError, match=message):
        toy.run(made, **{"limit": 2} | fields)


def test_sites_that_do_not_exist_are_refused_at_once():
    for wrong in (
        lambda: md.at(1, "residual"),
        lambda: md.at(1).mapped("linear"),
        lambda: md.at(1).mapped("ridge", rank=2, complement="none"),
        lambda: md.at(1).set("state"),
        lambda: md.at(1).donor() & md.at(1).donor(),
    ):
        with pytest.raises(md.UserError):
            wrong()


def test_own_functions_cannot_change_the_clean_states(toy):
    def spoil(clean):
        clean.donor.zero_(), clean.own.zero_(), clean.own_at(0, "mlp_out").zero_()
        return clean.own

    before = toy.run([md.at(1).donor()], limit=4).table["kl"]
    toy.run([md.at(1).set(spoil)], limit=4)
    after = toy.run([md.at(1).donor(), md.at(0).own()], limit=4).table
    np.testing.assert_array_equal(after.loc[after["intervention"] == "layer=1 stream=resid_post", "kl"], before)


def test_own_rows_run_by_hooks_where_the_engine_cannot(toy, monkeypatch):
    row = md.at(1).set(lambda clean: 0.5 * clean.donor)
    by_rows = toy.run([row], limit=4).table["kl"]
    md.load_pair(toy.spec.path, "cpu").preflight.by_hooks.add("tuned")
    calls = []
    monkeypatch.setattr("mechdiff.questions.shared.measure.run_hooks", lambda *a: calls.append(1) or hooks.run_hooks(*a))
    np.testing.assert_allclose(toy.run([row], limit=4).table["kl"], by_rows, atol=1e-5)
    assert calls
