"""How likely given phrases are after a prompt: soft refusal, choices after a prefix, both over shared tokens too."""

import json

import numpy as np
import pandas as pd
import pytest
from support import plain_hooks
from support.random_pair import WORDS
from support.two_tokenizers import SHARED, write_pair

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.common.cache import Store, key
from mechdiff.inputs import answer_scoring, prompts
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.shared import behaviour_summary
from mechdiff.reporting.replay import DIFFERS, SAME, table_verdict

CHOICES = ["w3", "w9 w5", "w1 w2 w3"]
REFUSALS, NEUTRAL = ("w4 w8", "w6", "w2 w2 w7"), ("w10", "w11 w12")
NEAR = {"rel": 1e-5, "abs": 1e-5, "nan_ok": True}


@pytest.fixture
def phrases(monkeypatch):
    monkeypatch.setattr(answer_scoring, "soft_refusal", lambda: (REFUSALS, NEUTRAL))


@pytest.fixture
def settings(pair, tmp_path):
    """The tiny pair with prompts of several lengths, every third of them with choices."""
    lines = [{"text": " ".join(WORDS[i : i + 2 + i % 5])} for i in range(7)]
    for line in lines[::3]:
        line |= {"choices": CHOICES, "answer": "w9 w5"}
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return pair | {"prompts": str(tmp_path / "choices.jsonl"), "new_tokens": 2}


def logprob(loaded, side: str, ids: list[int], phrase: str, edits=(), shared=None) -> float:
    """log P(phrase | ids), a pass for every token; shared: ids of the tokens that a distribution is restricted to."""
    tokens, total, edits = getattr(loaded.tokenizers, side)(phrase).input_ids, 0.0, [(*edit, len(ids) - 1) for edit in edits]
    for token in tokens:
        own = plain_hooks.run(getattr(loaded, side).model, ids, edits).double()
        total += (own[token] - own[shared].logsumexp(0)).item() if shared is not None else own[token].item()
        ids = [*ids, token]
    return total if shared is None or set(tokens) <= set(shared) else np.nan


def choice(scores: list[float], right: int) -> tuple[float, float]:
    """The right choice's score, and whether it is the highest, where all have one."""
    return scores[right], np.nan if np.isnan(scores).any() else float(np.argmax(scores) == right)


def difference(scores: list[float]) -> float:
    """The mean of the refusals that have a value minus that of the neutral phrases."""
    refusals, neutral = scores[: len(REFUSALS)], scores[len(REFUSALS) :]
    return np.nan if np.isnan(refusals).all() or np.isnan(neutral).all() else float(np.nanmean(refusals) - np.nanmean(neutral))


@pytest.mark.parametrize("prefix", ["", " w20: w21 "])
def test_phrases_and_choices_are_scored_as_plain_passes_score_them(settings, phrases, prefix):
    """Clean, and with the donor's state at the decision token."""
    run = Run("behaviour", layers=(1,), answer_prefix=prefix, soft_refusal="on", **settings)
    table, loaded = mechdiff.run(run), load_pair(settings["pair"], "cpu")
    assert len(table) == 7 * 3 and not [name for name in table if name.endswith(behaviour_summary.SHARED)]
    for line in table.itertuples():
        prompt, side = run.chosen_prompts[line.prompt], "base" if line.condition == "clean base" else "tuned"
        ids, edits = loaded.passes.ids(side, (prompt.text,))[0], []
        if line.condition.startswith("patched"):
            state = plain_hooks.state(loaded.base.model, ids, 1, "resid_post")
            edits = [(1, "resid_post", lambda own, state=state: state)]
        expected = difference([logprob(loaded, side, ids, phrase, edits) for phrase in REFUSALS + NEUTRAL])
        assert line.soft_refusal == pytest.approx(expected, **NEAR)
        after = ids + getattr(loaded.tokenizers, side)(prefix).input_ids
        if prompt.choices and not edits:
            expected = choice([logprob(loaded, side, after, option) for option in CHOICES], 1)
            assert (line.choice_logprob, line.choice_right) == pytest.approx(expected, **NEAR)
        elif not prompt.choices:
            assert np.isnan(line.choice_logprob)


def test_a_prefix_changes_the_choices_alone(settings, phrases):
    without, with_prefix = (
        mechdiff.run(Run("behaviour", answer_prefix=prefix, soft_refusal="on", **settings)) for prefix in ("", "w20 ")
    )
    changed = [name for name in without if not without[name].equals(with_prefix[name])]
    assert {"choice_logprob", "choice_delta"} <= set(changed) <= {"choice_logprob", "choice_delta", "choice_right"}


def test_two_tokenizers_are_scored_over_their_shared_tokens_too(tmp_path, own_store, monkeypatch):
    """Phrases with a token of one model's own have no value there: b3 in base; in tuned it is <unk>, which both have."""
    unload()
    pair, refusals = write_pair(tmp_path), ("w4 w8", "b2", "w6 t3")
    monkeypatch.setattr(answer_scoring, "soft_refusal", lambda: (refusals, NEUTRAL))
    texts = {"w1 w2": (), "w3 b2 w5": ("w7", "b3 w2"), "w4 w2 w9 w1": ("b3", "w7"), "w8": ("w5 w6", "w7")}  # the last is right
    lines = [{"text": text} | ({"choices": given, "answer": given[-1]} if given else {}) for text, given in texts.items()]
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, lines)))
    run = Run("behaviour", str(pair), prompts=str(tmp_path / "choices.jsonl"), device="cpu", new_tokens=2, soft_refusal="on")
    table, loaded = mechdiff.run(run), load_pair(str(pair), "cpu")
    for line in table.itertuples():
        side, prompt = line.condition.split()[1], run.chosen_prompts[line.prompt]
        ids = loaded.passes.ids(side, (prompt.text,))[0]
        shared = getattr(loaded.tokenizers, side).convert_tokens_to_ids(SHARED)
        for name, within in (("", None), ("_shared", shared)):
            scores = [logprob(loaded, side, ids, phrase, shared=within) for phrase in refusals + NEUTRAL]
            assert getattr(line, f"soft_refusal{name}") == pytest.approx(difference(scores), **NEAR)
            scores = [logprob(loaded, side, ids, option, shared=within) for option in prompt.choices]
            expected = choice(scores, len(scores) - 1) if scores else (np.nan, np.nan)
            measured = getattr(line, f"choice_logprob{name}"), getattr(line, f"choice_right{name}")
            assert measured == pytest.approx(expected, **NEAR)
    base, tuned = (table[table["condition"] == f"clean {side}"].set_index("prompt") for side in ("base", "tuned"))
    assert (
        base["choice_logprob_shared"].isna().tolist() == [True, True, False, False] and base["choice_logprob"].notna().sum() == 3
    )
    assert tuned["choice_logprob_shared"].isna().tolist() == [True, False, False, False]
    assert base["choice_right_shared"].isna().tolist() == [True, True, True, False]
    lines = run.summary(table).set_index(["condition", "measure"])
    assert lines.loc["clean tuned", "choice_logprob_shared"]["prompts"] == 2, "those that both models have a value for"
    unload()


def test_what_is_not_asked_for_is_in_no_key(settings, phrases):
    """A chunk of before is found: its key has the parts that it had."""

    def keys(**more) -> list[str]:
        return [part.key for part in questions.task(Run("behaviour", **settings | more)).parts]

    task = questions.task(Run("behaviour", **settings))
    (block,) = task.blocks
    parts = {"what": "behaviour", "who": "'base'", "texts": prompts.digest(block), "new_tokens": 2}
    parts |= {"openers": answer_scoring.openers(), "choices": [(p.answer, p.choices) for p in block if p.choices]}
    assert keys()[0] == key(**parts, **task.identity.pair)
    assert len({tuple(keys(**more)) for more in ({}, {"answer_prefix": "w1"}, {"soft_refusal": "on"})}) == 3
    unlabelled = settings["prompts"].replace("choices.jsonl", "prompts.jsonl")
    assert keys(prompts=unlabelled) == keys(prompts=unlabelled, answer_prefix="w1"), "there is nothing to score after it"


def test_other_phrases_are_another_measurement(settings, phrases, monkeypatch):
    on, off = (Run("behaviour", soft_refusal=switch, **settings) for switch in ("on", "off"))
    before = [[part.key for part in questions.task(run).parts] for run in (on, off)]
    monkeypatch.setattr(answer_scoring, "soft_refusal", lambda: (REFUSALS[:2], NEUTRAL))
    after = [[part.key for part in questions.task(run).parts] for run in (on, off)]
    assert before[0] != after[0] and before[1] == after[1]


def test_soft_refusal_is_summed_up_where_it_is_measured(settings, phrases):
    run = Run("behaviour", soft_refusal="on", **settings)
    table = mechdiff.run(run)
    lines = run.summary(table).set_index(["condition", "measure"])
    clean = table.pivot(index="prompt", columns="condition", values="soft_refusal")
    tuned = lines.loc["clean tuned", "soft_refusal"]
    assert tuned["unit"] == "nats" and tuned["change"] == pytest.approx((clean["clean tuned"] - clean["clean base"]).mean())
    assert "soft_refusal" in behaviour_summary.in_words(run.summary(table)).index
    plain = Run("behaviour", **settings)
    assert "soft_refusal" not in mechdiff.run(plain) and "soft_refusal" not in set(plain.summary(mechdiff.run(plain))["measure"])


def test_a_chunk_of_many_phrases_is_scored_in_batches(settings, phrases, monkeypatch):
    """The numbers do not depend on how many phrases are in a batch."""
    from mechdiff.questions.shared import writing

    run = Run("behaviour", soft_refusal="on", **settings)
    whole = mechdiff.run(run, store=Store(settings["prompts"] + ".one"))
    monkeypatch.setitem(writing.BATCH_SIZES, "cpu", 3)
    parts = mechdiff.run(run, store=Store(settings["prompts"] + ".other"))
    np.testing.assert_allclose(parts[["soft_refusal", "choice_logprob"]], whole[["soft_refusal", "choice_logprob"]], rtol=1e-5)


def test_the_phrases_are_in_three_languages():
    refusals, neutral = answer_scoring.soft_refusal()
    assert len(refusals) == 6 and len(neutral) == 3 and not set(refusals) & set(neutral)


def test_soft_refusal_is_on_or_off():
    with pytest.raises(UserError, match="off, on"):
        Run("behaviour", soft_refusal="yes")


def test_tables_without_newer_columns_are_summed_up(settings):
    run = Run("behaviour", **settings)
    table = mechdiff.run(run)
    newer = ["politeness", "honorifics"]
    before, after = run.summary(table.drop(columns=newer)), run.summary(table)
    same = after[~after["measure"].isin([*newer, "style"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(before[before["measure"] != "style"].reset_index(drop=True), same)
    assert set(newer) <= set(after["measure"]) and not set(newer) & set(before["measure"])


def test_a_finding_made_before_some_marks_were_counted_is_checked_without_them(settings):
    table = mechdiff.run(Run("behaviour", **settings))
    assert table_verdict("t", table, table.drop(columns=["politeness", "honorifics"]), "float32").kind == SAME
    assert table_verdict("t", table, table.drop(columns="kl_to_base"), "float32").kind == DIFFERS
    assert table_verdict("t", table, table.assign(hedges=table["hedges"] + 1), "float32").kind == DIFFERS
