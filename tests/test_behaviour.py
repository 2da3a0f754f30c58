"""Behaviour on a tiny random pair: planted truths, equal to plain hooks and to whole passes, cached, summed up, and refused."""

import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from support import plain_hooks
from support.families import FAMILIES, tiny_model
from support.random_pair import WORDS

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.__main__ import main
from mechdiff.common.cache import Store
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.decoding import Decoding, pad_left, together
from mechdiff.engine.rows import Edit, Rows
from mechdiff.inputs import answer_scoring
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.behaviour import MEASURES
from mechdiff.questions.shared import behaviour_summary

NEW = 6


@pytest.fixture
def settings(pair, tmp_path):
    """The tiny pair with prompts of several lengths, three of them with choices, two with an answer alone."""
    lines = [{"text": " ".join(WORDS[i : i + 2 + i % 5]), "template": f"t{i}"} for i in range(11)]
    for i in (0, 4, 7):
        lines[i] |= {"choices": ["w3", "w9 w5", "w1 w2 w3"], "answer": "w9 w5"}
    lines[2]["answer"] = lines[5]["answer"] = "w7"
    (tmp_path / "labelled.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return pair | {"prompts": str(tmp_path / "labelled.jsonl"), "new_tokens": NEW}


def same(folder) -> str:
    path = folder / "same.toml"
    path.write_text('[base]\nfolder = "base"\n[tuned]\nfolder = "base"\n')
    return str(path)


def written(loaded, side: str, ids: list[int], edits, count: int) -> tuple[list[int], bool]:
    """A greedy answer by whole passes of plain hooks, whose edits stay at the decision token."""
    model, ends, answer = getattr(loaded, side).model, loaded.tokenizers.ends(side), []
    at = len(ids) - 1
    for _ in range(count):
        token = int(plain_hooks.run(model, ids + answer, [(*edit, at) for edit in edits]).argmax())
        if token in ends:
            return answer, True
        answer.append(token)
    return answer, False


def check(table: pd.DataFrame, loaded, run: Run, edits_of) -> None:
    """Every line of a table against plain hooks and whole passes. edits_of(line, ids): the side that runs, and its edits."""
    clean = [
        {s: plain_hooks.run(getattr(loaded, s).model, loaded.passes.ids(s, (p.text,))[0]) for s in ("base", "tuned")}
        for p in run.chosen_prompts
    ]
    for line in table.itertuples():
        prompt = run.chosen_prompts[line.prompt]
        ids = loaded.passes.ids("tuned", (prompt.text,))[0]
        side, edits = edits_of(line, ids)
        model, tokenizer = getattr(loaded, side).model, getattr(loaded.tokenizers, side)
        here = plain_hooks.run(model, ids, edits)
        for other, there in clean[line.prompt].items():
            assert getattr(line, f"agrees_{other}") == float(here.argmax() == there.argmax())
            for column, p, q in (("kl_from", here, there), ("kl_to", there, here)):
                expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
                assert getattr(line, f"{column}_{other}") == pytest.approx(expected, abs=2e-5)
        tokens, ended = written(loaded, side, ids, edits, run.new_tokens)
        assert (line.text, line.tokens, line.ended) == (tokenizer.decode(tokens), len(tokens), ended)
        assert line.next == loaded.tokenizers.label(int(here.argmax()), side)
        if prompt.choices:
            scores = []
            for choice in prompt.choices:
                option = tokenizer(choice, add_special_tokens=False).input_ids
                later = [(*edit, len(ids) - 1) for edit in edits]
                at = [plain_hooks.run(model, ids + option[:k], later) for k in range(len(option))]
                scores.append(sum(logprobs[token].item() for logprobs, token in zip(at, option)))
            assert line.choice_logprob == pytest.approx(scores[1], abs=1e-4)
            assert line.choice_right == float(np.argmax(scores) == 1)
        else:
            assert np.isnan(line.choice_logprob) and np.isnan(line.choice_right)
        expected = float(answer_scoring.right(line.text, prompt.answer, prompt.choices)) if prompt.answer else np.nan
        assert line.exact == pytest.approx(expected, nan_ok=True)


def test_clean_and_patched_are_plain_hooks_and_whole_passes(settings):
    place = {"layers": (1,), "streams": ("resid_post", "heads"), "controls": ("self",), "limit": 5}
    run = Run("behaviour", direction="tuned-to-base", **settings | place)
    table, loaded = mechdiff.run(run), load_pair(settings["pair"], "cpu")
    assert len(table) == 5 * (2 + 2 * 2) and table["prompt"].nunique() == 5
    assert list(table["condition"].unique()[:2]) == ["clean base", "clean tuned"]

    def edits_of(line, ids):
        if line.condition.startswith("clean"):
            return line.condition.split()[1], []
        donor = loaded.tuned.model if line.control == "none" else loaded.base.model
        value = plain_hooks.state(donor, ids, int(line.layer), line.stream)
        return "base", [(int(line.layer), line.stream, lambda own: value)]

    check(table, loaded, run, edits_of)
    for line in table[table["control"] == "self"].itertuples():
        clean = table[(table["condition"] == "clean base") & (table["prompt"] == line.prompt)].iloc[0]
        assert line.kl_from_base < 1e-6 and line.text == clean["text"]
        assert abs(np.nan_to_num(line.choice_delta)) < 1e-5


def test_a_model_beside_itself_agrees_in_everything(settings, tmp_path):
    table = mechdiff.run(Run("behaviour", **settings | {"pair": same(tmp_path)}))
    assert (table[["agrees_base", "agrees_tuned"]] == 1).all(axis=None)
    assert (table[[name for name in MEASURES if name.startswith("kl")]].abs() < 1e-6).all(axis=None)
    tuned = table[table["condition"] == "clean tuned"]
    assert tuned["choice_delta"].dropna().tolist() == [0, 0, 0]
    assert tuned["text"].tolist() == table[table["condition"] == "clean base"]["text"].tolist()


def test_a_permuted_unembedding_changes_every_word_and_the_last_state_brings_them_back(settings):
    """Tuned says word n + 1 where base says n; its last state in base is base's own, so nothing moves."""
    loaded = load_pair(settings["pair"], "cpu")
    loaded.tuned.model.load_state_dict(loaded.base.model.state_dict())
    loaded.tuned.model.lm_head.weight.data = loaded.base.model.lm_head.weight.data.roll(1, 0)
    table = mechdiff.run(Run("behaviour", layers=(3,), direction="tuned-to-base", **settings)).set_index("condition")
    tuned, patched, base = (table.loc[name] for name in ("clean tuned", "patched L3 resid_post", "clean base"))
    assert (tuned["agrees_base"] == 0).all() and (base["agrees_tuned"] == 0).all() and (tuned["kl_to_base"] > 0.1).all()
    assert patched["text"].tolist() == base["text"].tolist() and (patched["agrees_base"] == 1).all()
    assert (patched["kl_from_base"] < 1e-6).all()


def test_the_mass_on_refusals_is_that_of_their_first_tokens(settings, monkeypatch):
    monkeypatch.setattr("mechdiff.questions.shared.writing.openers", lambda: ("w4", "w8 w9", "зима"))
    run = Run("behaviour", **settings)
    table, loaded = mechdiff.run(run), load_pair(settings["pair"], "cpu")
    which = [loaded.tokenizers.token_id(word, "base") for word in ("w4", "w8")]
    for line in table.itertuples():
        side = line.condition.split()[1]
        here = plain_hooks.run(getattr(loaded, side).model, loaded.passes.ids(side, (run.chosen_prompts[line.prompt].text,))[0])
        assert line.refusal_logprob == pytest.approx(here[which].exp().sum().log().item(), abs=1e-4)


def test_a_repeat_needs_no_model_and_more_layers_no_earlier_ones(settings, monkeypatch):
    first = mechdiff.run(Run("behaviour", layers=(1,), **settings))
    task = questions.task(Run("behaviour", layers=(1, 2), **settings))
    assert (task.done, task.total) == (11 * 3, 11 * 4)
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    pd.testing.assert_frame_equal(mechdiff.run(Run("behaviour", layers=(1,), **settings)), first)
    clean = mechdiff.run(Run("behaviour", **settings))
    pd.testing.assert_frame_equal(clean.drop(columns="layer"), first.iloc[:22].drop(columns="layer"))
    for other in ({"new_tokens": 3}, {"layers": (1,), "direction": "tuned-to-base"}):
        task = questions.task(Run("behaviour", **settings | other))
        assert task.done < task.total


def test_an_answer_is_in_no_other_questions_key(settings, tmp_path):
    text = (tmp_path / "labelled.jsonl").read_text().replace('"w9 w5"}', '"w3"}')
    (tmp_path / "relabelled.jsonl").write_text(text)
    mechdiff.run(Run("behaviour", **settings))
    other = settings | {"prompts": str(tmp_path / "relabelled.jsonl")}
    patched, again_patched = (
        {name: value for name, value in given.items() if name != "new_tokens"} for given in (settings, other)
    )
    mechdiff.run(Run("patch", layers=(1,), **patched))
    assert questions.task(Run("behaviour", **other)).done == 0, "its choices are others now"
    again = questions.task(Run("patch", layers=(1,), **again_patched))
    assert again.total == 0, "a whole answer that is known has nothing to do"


def test_a_stopped_request_goes_on_where_it_was(settings):
    run = Run("behaviour", layers=(0, 1), **settings)
    task = questions.task(run)
    for _ in task.steps():
        if task.done >= 11:
            break
    assert 0 < len(task.table()) < 44
    next_task = questions.task(run)
    assert 11 <= next_task.done < next_task.total
    pd.testing.assert_frame_equal(mechdiff.run(run), mechdiff.run(run))


def test_the_summary_counts_changes_from_the_reference(settings):
    run = Run("behaviour", layers=(2,), **settings)
    table = mechdiff.run(run)
    lines = run.summary(table).set_index(["condition", "measure"])
    wide = table.pivot(index="prompt", columns="condition", values="kl_from_base")
    line = lines.loc["clean tuned", "kl_from_base"]
    assert line["mean"] == pytest.approx(wide["clean tuned"].mean()) and np.isnan(line["low"]), "11 templates: no interval"
    patched = lines.loc["patched L2 resid_post", "kl_from_base"]
    assert patched["change"] == pytest.approx((wide["patched L2 resid_post"] - wide["clean tuned"]).mean())
    assert lines["change"].isna().groupby("condition").all().to_dict()["clean base"]
    assert lines.loc["clean base", "choice_logprob"]["prompts"] == 3 and lines.loc["clean base", "exact"]["prompts"] == 5
    assert set(lines.index.get_level_values("measure")) <= set(behaviour_summary.units())


def test_rates_are_sums_over_sums_and_not_means_of_rates():
    kinds = dict.fromkeys(answer_scoring.patterns(), 0.0)
    numbers = dict.fromkeys((*behaviour_summary.SHARES, *behaviour_summary.MEANS), 0.5)
    named = {"direction": "base-to-tuned", "control": "none"}
    lines = []
    for condition, counts in (("clean base", 10 * [(1, 10), (0, 30)]), ("clean tuned", 20 * [(4, 40)])):
        for prompt, (count, tokens) in enumerate(counts):
            labels = {"prompt": prompt, "condition": condition, "tokens": tokens}
            lines.append(named | labels | numbers | kinds | {"hedges": float(count)})
    summary = behaviour_summary.summary(pd.DataFrame(lines), list("abcdefghijklmnopqrst")).set_index(["condition", "measure"])
    assert summary.loc["clean base", "hedges"]["mean"] == 2.5 and summary.loc["clean tuned", "hedges"]["mean"] == 10
    tuned = summary.loc["clean tuned", "style"]
    assert (tuned["change"], tuned["low"], tuned["high"]) == (7.5, 10, 10)
    assert 4.5 <= tuned["change_low"] < 7.5 < tuned["change_high"] <= 10


def test_without_answers_exact_match_is_blank_and_says_so(pair):
    run = Run("behaviour", new_tokens=2, limit=4, **pair)
    task = questions.task(run)
    list(task.steps())
    assert task.table()["exact"].isna().all() and "exact match is blank" in task.notices[0] and "Try:" in task.notices[0]
    assert "exact" not in set(run.summary(task.table())["measure"])


def test_an_answer_ends_where_the_models_window_does(settings):
    task = questions.task(Run("behaviour", **settings | {"new_tokens": 100, "limit": 2}))
    list(task.steps())
    longest = len(load_pair(settings["pair"], "cpu").passes.ids("base", (task.run.chosen_prompts[1].text,))[0])
    assert task.table()["tokens"].max() <= 64 - longest and any("64 tokens" in said for said in task.notices)


def test_two_tokenizers_agree_by_what_their_tokens_read(settings, tmp_path):
    """Base with every word's number moved by one: the same text in another vocabulary."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path / "base"), AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    state = json.loads((tmp_path / "base" / "tokenizer.json").read_text())
    vocabulary, words = state["model"]["vocab"], [w for w in state["model"]["vocab"] if not w.startswith("<")]
    moved = {word: vocabulary[words[(k + 1) % len(words)]] for k, word in enumerate(words)}
    state["model"]["vocab"] = vocabulary | moved
    order = torch.arange(model.config.vocab_size)
    for word in words:
        order[moved[word]] = vocabulary[word]
    for name in ("model.embed_tokens", "lm_head"):
        weight = model.get_submodule(name).weight
        weight.data = weight.data[order].clone()
    model.save_pretrained(tmp_path / "moved")
    tokenizer.save_pretrained(tmp_path / "moved")
    (tmp_path / "moved" / "tokenizer.json").write_text(json.dumps(state))
    (tmp_path / "moved.toml").write_text('[base]\nfolder = "base"\n[tuned]\nfolder = "moved"\n')
    run = Run("behaviour", layers=(1,), **settings | {"pair": str(tmp_path / "moved.toml")})
    table = mechdiff.run(run)
    assert not load_pair(run.spec, "cpu").tokenizers.shared
    tuned = table[table["condition"] == "clean tuned"]
    assert (tuned["agrees_base"] == 1).all() and (tuned["agrees_tuned"] == 1).all()
    assert tuned["kl_to_base"].isna().all() and (tuned["kl_to_tuned"] == 0).all()
    assert tuned["text"].tolist() == table[table["condition"] == "clean base"]["text"].tolist()
    assert tuned["choice_delta"].dropna().abs().max() < 1e-4
    lines = run.summary(table)
    assert "kl_to_base" not in set(lines["measure"]) and "agrees_base" in set(lines["measure"])


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_prompts_with_rows_are_written_on_as_alone(family):
    model = tiny_model(family, 0)
    anatomy, texts = Anatomy(model), [[1, 5, 9], [1, 7, 8, 3, 4, 6, 20, 31], [1, 50]]
    assert together(anatomy, texts) == [[0, 1, 2]]
    value = torch.randn(3, 2, 32)
    rows, (ids, seen) = Rows(2, [Edit(1, "resid_post", torch.tensor([0, 1]), value)]), pad_left(texts)
    for patches, n in ((None, 1), (rows, 2)):
        decoding, following = Decoding(anatomy, ids, patches, 0, seen), torch.arange(3 * n) + 10
        first = decoding.logits.log_softmax(-1)
        many = decoding.after(torch.tensor([2, 0]), torch.tensor([[4, 5], [6, 7]])).log_softmax(-1)
        decoding.step(following)
        for text in range(3 * n):
            prompt = texts[text // n]
            edits = (
                [] if patches is None else [(1, "resid_post", lambda own, put=value[text // n, text % n]: put, len(prompt) - 1)]
            )
            for expected, logprobs in (
                (plain_hooks.run(model, prompt, edits), first[text]),
                (plain_hooks.run(model, [*prompt, int(following[text])], edits), decoding.logits[text].log_softmax(-1)),
                *([(plain_hooks.run(model, [*prompt, 4, 5], edits), many[0, 1])] if text == 2 else []),
                *([(plain_hooks.run(model, [*prompt, 6], edits), many[1, 0])] if text == 0 else []),
            ):
                torch.testing.assert_close(logprobs, expected, atol=1e-4, rtol=0)


def test_the_command_line_writes_a_line_per_prompt_and_condition(settings, tmp_path, capsys):
    handler, out = signal.getsignal(signal.SIGTERM), tmp_path / "said.parquet"  # main() takes it over
    words = ["--pair", settings["pair"], "--prompts", settings["prompts"], "--limit", "3", "--new-tokens", "2"]
    assert main(["run", "behaviour", *words, "--layers", "all", "--out", str(out)]) == 0
    table = pd.read_parquet(out)
    assert len(table) == 3 * (2 + 4) and table["layer"].dropna().unique().tolist() == [0, 1, 2, 3]
    assert main(["run", "behaviour", *words]) == 0
    printed = capsys.readouterr().out
    assert "clean tuned" in printed and "agrees_base" in printed and "patched" not in printed
    assert main(["run", "behaviour", *words, "--back", "2"]) == 2
    signal.signal(signal.SIGTERM, handler)
    assert "no --back" in capsys.readouterr().err


@pytest.mark.slow
def test_it_can_be_taken_away_and_computed_anew(settings, tmp_path, monkeypatch):
    """As Python, with the prompts' labels, and as a bundle."""
    from mechdiff.inputs import prompts
    from mechdiff.reporting import bundle, bundle_reader, notebooks, replay

    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    mine = prompts.keep_prompts(prompts.read_prompts(settings["prompts"])[:3])
    run = Run("behaviour", layers=(1,), **settings | {"prompts": mine})
    table, namespace = mechdiff.run(run), {}
    exec(notebooks.snippet(run, texts=True), namespace)
    pd.testing.assert_frame_equal(namespace["table"], table)
    finding = bundle_reader.read(bundle.write([bundle.Answer(run, table)], [], "./", texts=True))
    task = replay.ReplayTask(finding, Store(tmp_path / "fresh"), "cpu", pair=settings["pair"])
    list(task.steps())
    assert [verdict.kind in ("same", "rounding") for verdict in task.verdicts] == [True], task.verdicts


MISTAKES = {
    "controls": ({"controls": ("self",)}, "no layer is named.*--layers 8,16,24"),
    "back": ({"back": 2}, "no --back"),
    "horizon": ({"horizon": 2}, "no --horizon"),
    "target": ({"target": " yes"}, "no --target"),
    "tokens": ({"new_tokens": 0}, "New tokens 0 .*--new-tokens 32"),
    "map": ({"layers": (1,), "controls": ("shuffled",)}, "--map ridge"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_is_a_sentence(name):
    details, says = MISTAKES[name]
    with pytest.raises(UserError, match=f"(?s){says}"):
        Run("behaviour", **details)


@pytest.mark.usefixtures("demo")
def test_a_few_cells_of_the_demo_pair_are_plain_hooks_and_whole_passes(own_store, tmp_path):
    (tmp_path / "mine.jsonl").write_text('{"text": "What is 3 + 4?", "answer": "7"}')
    run = Run("behaviour", "demo-cognitive", prompts=str(tmp_path / "mine.jsonl"), layers=(20,), new_tokens=3, device="cpu")
    table, loaded = mechdiff.run(run), load_pair("demo-cognitive", "cpu")

    def edits_of(line, ids):
        if line.condition.startswith("clean"):
            return line.condition.split()[1], []
        value = plain_hooks.state(loaded.base.model, ids, 20, "resid_post")
        return "tuned", [(20, "resid_post", lambda own: value)]

    check(table, loaded, run, edits_of)
    patch = mechdiff.run(Run("patch", "demo-cognitive", prompts=run.prompts, layers=(20,), device="cpu"))
    patched = table[table["condition"] == "patched L20 resid_post"]
    np.testing.assert_allclose(patched["kl_from_tuned"], patch["kl"], atol=1e-4)
    np.testing.assert_allclose(patched["kl_to_base"], patch["kl_to_donor"], atol=1e-4)
