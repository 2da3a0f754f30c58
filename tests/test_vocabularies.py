"""Two models whose tokenizers differ: what is compared over the strings both have, and what is told of the rest."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from support import plain_hooks
from support.two_tokenizers import COMMON, OWN, PADDING, SHARED, SPECIAL, strings, tiny, write_file, write_pair, write_side

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.__main__ import main
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import digest
from mechdiff.inputs.vocabularies import (
    COUNTS,
    one_tokenizer,
    shared_ratio,
    shared_strings,
    shared_vocabulary,
    summary,
    vocabulary_of,
)
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.prompt.continuation import Continuation
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.prompt.position_map import PositionMap
from mechdiff.questions.prompt.reading import Reading
from mechdiff.study.sweep_plan import Grid

MEASURES = ["kl", "kl_to_donor", "kl_donor_clean"]
LAST = 1  # of the two layers


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_pair(tmp_path_factory.mktemp("two"))


@pytest.fixture
def pair(written, own_store):
    unload()
    folder = written.parent
    yield {"pair": str(written), "prompts": str(folder / "prompts.jsonl"), "train": str(folder / "train.jsonl"), "device": "cpu"}
    unload()


def answer(request):
    """A request's table and notices."""
    task = questions.task(request)
    list(task.steps())
    return task.table(), task.notices


# Which strings are shared


def test_ids_are_those_of_one_string_special_tokens_and_no_padding(pair):
    loaded = load_pair(pair["pair"], "cpu")
    shared = vocabulary_of(loaded)
    names = [getattr(loaded.tokenizers, side).convert_ids_to_tokens(getattr(shared, side)) for side in ("base", "tuned")]
    assert names[0] == names[1] and sorted(names[0]) == sorted(SHARED)
    assert np.array_equal(shared.base, np.sort(shared.base)) and not np.array_equal(shared.base, shared.tuned)
    assert shared.sizes == (len(SHARED) + len(OWN["base"]), len(SHARED) + len(OWN["tuned"]))
    assert (loaded.base.vocabulary, loaded.tuned.vocabulary) == tuple(n + PADDING[s] for s, n in zip(PADDING, shared.sizes))
    assert shared.across([int(shared.base[3]), strings("base").index("b1")], "base") == [int(shared.tuned[3])]


def test_one_vocabulary_is_whole_unless_an_unembedding_is_shorter(pair):
    both = load_pair(pair["pair"], "cpu").tokenizers
    same = type(both)(both.pair, both.base, both.base)
    tokens = len(strings("base"))
    assert shared_vocabulary(same, (tokens + 8, tokens + 8)) is None
    padded = shared_vocabulary(same, (tokens + 8, tokens + 64))
    assert padded.base.tolist() == padded.tuned.tolist() == list(range(tokens))
    short = shared_vocabulary(same, (tokens - 2, tokens + 64))
    assert short.tuned.tolist() == list(range(tokens - 2)) and short.sizes == (tokens - 2, tokens)


def test_nothing_in_common_is_a_sentence(pair):
    both = load_pair(pair["pair"], "cpu").tokenizers
    with pytest.raises(UserError, match=r"have 0 token strings in common.*\nTry:  python -m mechdiff run drift"):
        shared_vocabulary(both, (0, 99))


# What is compared over them


def renormalised(logprobs, side):
    """Log-probabilities of the shared strings alone, in one order for both sides, from the words themselves."""
    return logprobs[[strings(side).index(word) for word in SHARED]].log_softmax(-1)


def divergence(p, q):
    return torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_divergences_are_those_of_plain_hooks_over_the_shared_strings(pair, direction):
    run = Run("patch", streams=("resid_post", "attn_out"), direction=direction, dtype="float32", **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu", "float32")
    donor, _, recipient = direction.partition("-to-")
    assert len(table) == 14 * 4 and set(table["vocabulary"]) == {f"{len(SHARED)} shared strings"}
    for line in table.itertuples():
        tokens = {side: loaded.tokenizers.encode(run.chosen_prompts[line.prompt].text, side) for side in ("base", "tuned")}
        models = {side: getattr(loaded, side).model for side in tokens}
        value = plain_hooks.state(models[donor], tokens[donor], line.layer, line.stream)
        edit = (line.layer, line.stream, lambda own, value=value: value)
        whole = {
            "patched": plain_hooks.run(models[recipient], tokens[recipient], [edit]),
            "clean": plain_hooks.run(models[recipient], tokens[recipient]),
            "donor": plain_hooks.run(models[donor], tokens[donor]),
        }
        logprobs = {name: renormalised(values, donor if name == "donor" else recipient) for name, values in whole.items()}
        assert line.kl == pytest.approx(divergence(logprobs["patched"], logprobs["clean"]), abs=1e-5)
        assert line.kl_to_donor == pytest.approx(divergence(logprobs["donor"], logprobs["patched"]), abs=1e-5)
        assert line.kl_donor_clean == pytest.approx(divergence(logprobs["donor"], logprobs["clean"]), abs=1e-5)
        for name, clean, side in (("donor", "donor", donor), ("recipient", "clean", recipient)):
            mass = sum(whole[clean][strings(side).index(word)].exp().item() for word in SHARED)
            assert getattr(line, f"shared_mass_{name}") == pytest.approx(mass, abs=1e-6) and mass < 1


def twins(folder, order):
    """A pair of one vocabulary whose tuned side has its tokens in another order: the same models, if the order is undone."""
    base, tuned = tiny(0, len(SHARED)), tiny(1, len(SHARED))
    for weight in (tuned.model.embed_tokens.weight, tuned.lm_head.weight):
        weight.data = weight.data[order]
    write_side(folder / "base", SHARED, base)
    write_side(folder / "tuned", [SHARED[i] for i in order], tuned)
    return str(write_file(folder))


def test_a_vocabulary_in_another_order_gives_the_numbers_of_one(tmp_path, own_store):
    order = torch.randperm(len(SHARED), generator=torch.Generator().manual_seed(0)).tolist()
    tables = []
    for name, indices in (("same", range(len(SHARED))), ("permuted", order)):
        (tmp_path / name).mkdir()
        run = Run("patch", twins(tmp_path / name, list(indices)), prompts=str(tmp_path / name / "prompts.jsonl"), device="cpu")
        tables.append(mechdiff.run(run))
    same, permuted = tables
    assert "vocabulary" not in same and not any(name.startswith("shared_mass") for name in same)
    assert set(permuted["vocabulary"]) == {f"{len(SHARED)} shared strings"}
    np.testing.assert_allclose(permuted[["shared_mass_donor", "shared_mass_recipient"]], 1, atol=1e-6)
    np.testing.assert_allclose(permuted[MEASURES], same[MEASURES], atol=1e-5)


def test_an_unembedding_that_is_only_padded_further_gives_the_numbers_of_one(tmp_path, own_store):
    tables = []
    for padding in (0, 7):
        folder = tmp_path / str(padding)
        for seed, side in enumerate(("base", "tuned")):
            model = tiny(seed, len(SHARED))
            if side == "tuned" and padding:
                model.resize_token_embeddings(len(SHARED) + padding)
            write_side(folder / side, SHARED, model)
        tables.append(mechdiff.run(Run("patch", str(write_file(folder)), prompts=str(folder / "prompts.jsonl"), horizon=2)))
    assert "vocabulary" not in tables[0] and set(tables[1]["vocabulary"]) == {f"{len(SHARED)} shared strings"}
    np.testing.assert_allclose(tables[1][MEASURES], tables[0][MEASURES], atol=1e-5)
    assert tables[1]["shared_mass_recipient"].max() < 1 == pytest.approx(tables[1]["shared_mass_donor"].min(), abs=1e-6)


def test_all_of_the_last_state_recovers_the_donor_wholly_on_the_shared_strings(pair):
    """If both say a string from the same state with the same probability: nothing of the difference is left."""
    loaded = load_pair(pair["pair"], "cpu")
    shared = vocabulary_of(loaded)
    loaded.base.model.lm_head.weight.data[shared.base] = loaded.tuned.model.lm_head.weight.data[shared.tuned]
    loaded.base.model.model.norm.weight.data = loaded.tuned.model.model.norm.weight.data
    run = Run("patch", layers=(0, LAST), controls=("self",), **pair)
    table = mechdiff.run(run)
    last = table[(table["layer"] == LAST) & (table["control"] == "none")]
    assert last["kl_to_donor"].max() < 1e-5 < last["kl_donor_clean"].min()
    summary = mechdiff.summarise(table, run).set_index(["layer", "control"])
    assert summary.loc[(LAST, "none"), "recovery"] == pytest.approx(1, abs=1e-4)
    assert summary.loc[(0, "none"), "recovery"] < 0.9 and summary.loc[(LAST, "self"), "mean"] < 1e-6


def test_a_target_is_of_the_recipients_own_vocabulary_and_whole_distribution(pair):
    run = Run("patch", layers=(0,), target="t7", foil="w3", **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu")
    clean = plain_hooks.run(loaded.tuned.model, loaded.tokenizers.encode(run.chosen_prompts[0].text, "tuned"))
    seven, three = (clean[strings("tuned").index(word)].item() for word in ("t7", "w3"))
    assert table["target_logprob_clean"][0] == pytest.approx(seven, abs=1e-5)
    assert table["logit_difference_clean"][0] == pytest.approx(seven - three, abs=1e-5)
    base = mechdiff.run(Run("patch", layers=(0,), target="t7", direction="tuned-to-base", **pair))
    unknown = plain_hooks.run(loaded.base.model, loaded.tokenizers.encode(run.chosen_prompts[0].text, "base"))
    assert base["target_logprob_clean"][0] == pytest.approx(unknown[strings("base").index("<unk>")].item(), abs=1e-5)


# What is told


def test_what_was_compared_is_told_also_when_neither_model_nor_tokenizer_is_needed(pair, monkeypatch, capsys):
    run = Run("patch", layers=(0,), **pair)
    table, first = answer(run)
    masses = table.groupby("prompt").first()
    base, tuned = masses["shared_mass_donor"].astype(float), masses["shared_mass_recipient"].astype(float)
    of_base, of_tuned = (len(SHARED) / (len(SHARED) + len(OWN[side])) for side in ("base", "tuned"))
    assert first == [
        f"Effects over the {len(SHARED)} token strings that both vocabularies share ({100 * of_base:.1f} % of base, "
        f"{100 * of_tuned:.1f} % of tuned), renormalised; clean probability mass on them, mean over prompts [lowest]: "
        f"base {100 * base.mean():.1f} % [{100 * base.min():.1f} %], "
        f"tuned {100 * tuned.mean():.1f} % [{100 * tuned.min():.1f} %]."
    ]
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    monkeypatch.setattr("mechdiff.inputs.tokenizers.load_tokenizers", lambda *_: pytest.fail("a tokenizer was loaded"))
    again, notices = answer(run)
    assert again.equals(table) and notices == first
    words = [part for name in ("pair", "prompts", "device") for part in (f"--{name}", pair[name])]
    assert main(["run", "patch", "--layers", "0", *words]) == 0
    assert first[0] in capsys.readouterr().err


def test_what_was_kept_before_is_not_taken_for_this(pair, monkeypatch):
    assert not one_tokenizer(read_pair(pair["pair"])) and one_tokenizer(read_pair("demo-cognitive"))
    run = Run("patch", layers=(0,), **pair)
    mine = questions.task(run).plan.whole_key
    monkeypatch.setattr("mechdiff.questions.shared.identity.one_tokenizer", lambda pair: True)
    assert questions.task(run).plan.whole_key != mine


@pytest.mark.slow
def test_a_sweep_says_it_in_its_manifest(pair, monkeypatch, tmp_path):
    from mechdiff.study import artifacts, sweep_plan, sweeps

    grid = Grid(8, ("resid_post",), ("attn_out",), ("resid_post",), ("zscore",), ("ridge",), ("1", "full"), (), ())
    monkeypatch.setitem(sweep_plan.GRIDS, "quick", grid)
    folder = pd.Series(pair)
    monkeypatch.setattr(
        "mechdiff.questions.shared.request.read_domain",
        lambda domain, split: mechdiff.inputs.prompts.read_prompts(folder["prompts" if split == "val" else "train"]),
    )
    for task, _ in sweeps.sweep(pair["pair"], None, "quick", tmp_path, [], device="cpu"):
        list(task.steps())
    about = artifacts.manifest_of(tmp_path / "none" / "rq1" / "two")
    assert about["vocabulary"]["shared_strings"] == len(SHARED) and 0 < about["vocabulary"]["mass"]["base"]["lowest"] < 1
    assert artifacts.facts(about)["vocabulary"].startswith(f"Effects over the {len(SHARED)} token strings")
    patches = pd.read_parquet(tmp_path / "none" / "rq1" / "two" / "patch.parquet")
    assert set(patches["vocabulary"]) == {f"{len(SHARED)} shared strings"} and not patches["kl_to_donor"].isna().any()


# Every question on such a pair


QUESTIONS = [
    {"question": "transport", "map": "ridge", "layers": (0,)},
    {"question": "rank", "map": "ridge", "layers": (0,), "ranks": ("1", "full")},
    {"question": "heads", "head_sets": "greedy", "layers": (LAST,)},
    {"question": "heads", "head_sets": "each", "layers": (LAST,), "controls": ("random",)},
    {"question": "transplant", "streams": ("attn_out", "heads")},
    {"question": "stack", "stack": "layer=0 stream=mlp_out; layer=1 heads=1", "controls": ("self",)},
]


@pytest.mark.parametrize("settings", QUESTIONS, ids=lambda settings: settings["question"])
def test_every_question_of_effects_gives_numbers_and_says_over_what(pair, settings):
    run = Run(**settings, **pair)
    table, notices = answer(run)
    assert np.isfinite(table[MEASURES].to_numpy(float)).all() and set(table["vocabulary"]) == {f"{len(SHARED)} shared strings"}
    assert [text for text in notices if text.startswith("Effects over the")]
    assert mechdiff.summarise(table, run)["recovery"].notna().all()


def test_greedy_heads_are_chosen_by_the_effect_over_the_shared_strings(pair):
    table, _ = answer(Run("heads", head_sets="greedy", layers=(LAST,), **pair))
    train = mechdiff.run(Run("heads", head_sets="each", layers=(LAST,), **pair | {"prompts": pair["train"]}))
    best = train[train["heads"] != "all"].groupby("heads")["kl"].mean().idxmax()
    assert table[table["chosen"] == "greedy"]["heads"].iloc[0] == best


def test_drift_and_positions_need_no_vocabulary(pair):
    assert "vocabulary" not in answer(Run("drift", **pair))[0]
    moved = mechdiff.run(Run("transport", map="ridge", layers=(0,), positions=3, **pair))
    assert np.isfinite(moved["kl"]).all()


@pytest.mark.parametrize("place", [{"back": 1}, {"horizon": 2}])
def test_another_place_than_the_decision_token_is_a_sentence(pair, place):
    with pytest.raises(UserError, match="the two tokenizers differ, so only the decision token is the same place in both"):
        mechdiff.run(Run("patch", layers=(0,), **place, **pair))
    with pytest.raises(UserError, match="only the decision token"):
        mechdiff.run(PositionMap(Run("patch", layers=(0,), **pair), 3))


def test_a_reading_is_of_the_decision_token_over_the_shared_strings(pair):
    run = Run("patch", **pair)
    table, loaded = mechdiff.run(Reading(run, 3, top=5)), load_pair(pair["pair"], "cpu")
    assert set(table["back"]) == {0} and set(table["vocabulary"]) == {f"{len(SHARED)} shared strings"}
    whole = {}
    for side in ("base", "tuned"):
        tokens = loaded.tokenizers.encode(run.chosen_prompts[3].text, side)
        whole[side] = plain_hooks.run(getattr(loaded, side).model, tokens)
    expected = divergence(*(renormalised(whole[side], side) for side in ("tuned", "base")))
    assert table["kl"].unique() == pytest.approx([expected], abs=1e-5)
    for line in table.itertuples():
        value = whole[line.model][strings(line.model).index(line.next)].exp().item()
        assert line.probability == pytest.approx(value, abs=1e-6)
    lines = table.groupby("next")["model"].nunique()
    assert all((count == 2) == (word in SHARED) for word, count in lines.items())


def test_next_tokens_are_aligned_by_their_strings(pair):
    run = Run("patch", layers=(0,), **pair)
    condition = questions.task(run).conditions[0]
    table, loaded = mechdiff.run(NextTokens(run, condition, 3, top=12)), load_pair(pair["pair"], "cpu")
    value, table = None, table[~table["token"].str.fullmatch(r"<\d+>")]  # a token that only fills up
    for line in table.itertuples():
        side = "tuned" if line.model == "patched" else line.model
        model, tokens = getattr(loaded, side).model, loaded.tokenizers.encode(run.chosen_prompts[3].text, side)
        if line.model == "patched":
            base = loaded.tokenizers.encode(run.chosen_prompts[3].text, "base")
            value = plain_hooks.state(loaded.base.model, base, 0, "resid_post")
        edits = [(0, "resid_post", lambda own, value=value: value)] if line.model == "patched" else []
        logprob = plain_hooks.run(model, tokens, edits)[strings(side).index(line.token)]
        assert line.probability == pytest.approx(logprob.exp().item(), abs=1e-5)
    models = table.groupby("token")["model"].agg(set)
    wanted = {"b": {"base"}, "t": {"tuned", "patched"}, "w": {"base", "tuned", "patched"}}
    assert all(sides == wanted[word[0]] for word, sides in models.items() if word not in SPECIAL)
    assert {"b", "t", "w"} <= {word[0] for word in models.index}


def test_each_model_writes_on_in_its_own_words(pair):
    run = Run("stack", stack="layer=0; layer=1 heads=0", **pair)
    table = mechdiff.run(Continuation(run, 3, tokens=6)).set_index("model")
    for name, side in (("base", "base"), ("tuned", "tuned"), ("patched", "tuned")):
        assert set(table.loc[name, "text"].split()) <= set(strings(side))


# Only prompts that both can say


def test_the_shared_ratio_is_that_of_the_tokenizer_that_shares_less(pair):
    both = load_pair(pair["pair"], "cpu").tokenizers
    shared = shared_strings(both)
    assert shared == set(SHARED)
    assert shared_ratio(both, " ".join(COMMON[:4]), shared) == 1
    assert shared_ratio(both, "w1 b2 w3 w4", shared) == 3 / 4, "the other tokenizer has <unk> for b2, and that is shared"
    assert shared_ratio(both, "b1 t2 b3 w9", shared) == 2 / 4


def test_prompts_with_too_few_shared_tokens_are_left_out_of_val_and_train(pair, tmp_path):
    run = Run("transport", map="ridge", layers=(0,), min_shared_ratio=0.7, **pair)
    table, notices = answer(run)
    assert set(table["prompt"]) == set(range(13)) and len(run.train_prompts) == 30
    assert notices[:2] == [
        "1 of 14 val prompts left out: in one of the two tokenizations, under 70 % of their tokens are in both tokenizers.",
        "2 of 32 train prompts left out: in one of the two tokenizations, under 70 % of their tokens are in both tokenizers.",
    ]
    every = Run("patch", **pair).chosen_prompts
    assert Run("patch", min_shared_ratio=1, **pair).chosen_prompts == every[:12]
    (tmp_path / "turned.jsonl").write_text(mechdiff.inputs.prompts.as_lines(every[::-1]))
    few = Run("patch", min_shared_ratio=0.9, limit=3, **pair | {"prompts": str(tmp_path / "turned.jsonl")})
    assert few.chosen_prompts == every[11:8:-1], "the limit counts what is left"


def test_the_ratio_is_in_every_key_and_the_ratios_are_kept(pair, monkeypatch):
    plain, filtered = (Run("transport", layers=(0,), min_shared_ratio=ratio, **pair) for ratio in (0, 0.5))
    assert digest(plain.chosen_prompts) == digest(filtered.chosen_prompts), "none is left out"
    assert questions.task(plain).plan.whole_key != questions.task(filtered).plan.whole_key
    monkeypatch.setattr("mechdiff.inputs.vocabularies.load_tokenizers", lambda pair: pytest.fail("a tokenizer was loaded"))
    again = Run("patch", min_shared_ratio=0.7, **pair)
    assert len(again.chosen_prompts) == 13 and again.left_out == {"val": (1, 14)}


def test_no_prompt_left_is_a_sentence_with_the_best_ratio(pair, tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "b1 t2 b3 w9"}\n{"text": "w1 b2 w3 w4"}')
    settings = pair | {"prompts": str(tmp_path / "few.jsonl")}
    with pytest.raises(UserError) as caught:
        mechdiff.run(Run("patch", min_shared_ratio=0.95, **settings))
    assert str(caught.value) == (
        "No val prompt has a shared ratio of 0.95: the best of 2 prompts has 0.750 of its tokens, in either tokenization, in "
        "both tokenizers of two.\nTry:  --min-shared-ratio 0.75"
    )
    assert len(Run("patch", min_shared_ratio=0.75, **settings).chosen_prompts) == 1
    with pytest.raises(UserError, match="No train prompt has a shared ratio"):
        Run("patch", min_shared_ratio=0.95, **pair | {"train": settings["prompts"]}).train_prompts  # noqa: B018


@pytest.mark.parametrize("ratio", [-0.1, 1.5, float("nan")])
def test_a_ratio_that_cannot_be_is_a_sentence(ratio):
    with pytest.raises(UserError, match=r"a number from 0 .* to 1"):
        Run("patch", min_shared_ratio=ratio)


def test_one_vocabulary_shares_every_token(tmp_path, own_store):
    pair = twins(tmp_path, list(range(len(SHARED))))
    shutil.rmtree(tmp_path / "tuned")
    (tmp_path / "two.toml").write_text('domain = "none"\n[base]\nfolder = "base"\n[tuned]\nfolder = "base"\n')
    run = Run("patch", pair, prompts=str(tmp_path / "prompts.jsonl"), min_shared_ratio=1.0, device="cpu")
    table, notices = answer(run)
    assert run.left_out == {"val": (0, 14)} and summary({"kl": table["kl"]}, run.direction) is None and COUNTS[0] not in table
    assert notices == [
        "0 of 14 val prompts left out: in one of the two tokenizations, under 100 % of their tokens are in both tokenizers."
    ]
