"""One prompt under study: reading, continuations, position maps and one's own prompts; the same numbers as plain passes."""

import json

import pytest
import torch
from support import plain_hooks
from support.plain_hooks import kl
from support.random_pair import ids

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.engine.intervention import Stack
from mechdiff.engine.intervention_text import as_toml, parse_stack, read_stack
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import Prompt
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.prompt.continuation import Continuation
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.prompt.position_map import MapTime, PositionMap
from mechdiff.questions.prompt.reading import Reading
from mechdiff.questions.shared.effect_passes import Passes

STACK = "layer=1 stream=resid_post; layer=2 stream=heads heads=1,3 blend=0.5"
HEADS = [1, 3]


def passes(loaded, tokens):
    """Log-probabilities after every token by plain forward passes, a pass each: side -> [tokens, vocabulary]."""
    sides = {"base": loaded.base.model, "tuned": loaded.tuned.model}
    return {side: torch.stack([plain_hooks.run(m, tokens[: i + 1]) for i in range(len(tokens))]) for side, m in sides.items()}


@pytest.mark.parametrize("piece", [64, 2])
def test_a_reading_is_that_of_plain_passes_at_every_token(pair, monkeypatch, piece):
    monkeypatch.setattr("mechdiff.questions.prompt.reading.PIECE", piece)
    run = Run("patch", **pair)
    table, loaded = mechdiff.run(Reading(run, 3, top=4)), load_pair(pair["pair"], "cpu")
    tokens = ids(loaded, run, 3)
    assert len(tokens) == 6 and 6 * 2 * 4 <= len(table) <= 6 * 2 * 8
    assert (table.groupby(["token", "next"])["model"].nunique() == 2).all(), "a token's probability is there for both models"
    assert (table[table["rank"] < 4].groupby(["token", "model"]).size() == 4).all()
    assert list(table.drop_duplicates("token")["text"]) == run.chosen_prompts[3].text.split() and table["own"].all()
    logprobs = passes(loaded, tokens)
    for line in table.itertuples():
        mine = logprobs[line.model][line.token]
        value, token = (part[line.rank] for part in mine.sort(descending=True))
        assert line.kl == pytest.approx(kl(logprobs["tuned"][line.token], logprobs["base"][line.token]), abs=2e-5)
        assert line.probability == pytest.approx(value.exp().item(), abs=1e-5)
        assert line.next == loaded.tokenizers.label(int(token), line.model) and line.back == 5 - line.token


def test_a_templates_tokens_are_not_the_prompts_own(pair):
    loaded = load_pair(pair["pair"], "cpu")
    for tokenizer in (loaded.tokenizers.base, loaded.tokenizers.tuned):
        tokenizer.chat_template = "w80 w81 {{ messages[0]['content'] }} w82"
    table = mechdiff.run(Reading(Run("patch", **pair), 0)).drop_duplicates("token")
    assert list(table["text"]) == ["w80", "w81", "w0", "w1", "w2", "w82"]
    assert list(table["own"]) == [False, False, True, True, True, False]


def write(model, tokens, count, ends, edits=()):
    """Greedy text by whole passes; edits stay at their token's index."""
    written = []
    for _ in range(count):
        token = int(plain_hooks.run(model, tokens + written, edits).argmax())
        if token in ends:
            break
        written.append(token)
    return written


def edits_of(loaded, tokens, back):
    """STACK by plain hooks, at the token `back` before the last."""
    before, at = tokens[: len(tokens) - back], len(tokens) - 1 - back
    post = plain_hooks.state(loaded.base.model, before, 1, "resid_post")
    heads = plain_hooks.state(loaded.base.model, before, 2, "heads").view(4, 8)

    def mix(own):
        own = own.view(4, 8).clone()
        own[HEADS] = (own[HEADS] + heads[HEADS]) / 2
        return own.flatten()

    return [(1, "resid_post", lambda own: post, at), (2, "heads", mix, at)]


@pytest.mark.parametrize("back", [0, 2])
def test_greedy_continuations_are_those_of_plain_passes(pair, back):
    run = Run("stack", stack=STACK, back=back, **pair)
    table, loaded = mechdiff.run(Continuation(run, 3, tokens=12)), load_pair(pair["pair"], "cpu")
    tokens, ends = ids(loaded, run, 3), loaded.tokenizers.ends("base")
    models = {"base": loaded.base.model, "tuned": loaded.tuned.model, "patched": loaded.tuned.model}
    edits = {"base": [], "tuned": [], "patched": edits_of(loaded, tokens, back)}
    expected = {name: write(model, tokens, 12, ends, edits[name]) for name, model in models.items()}
    assert len(set(map(tuple, expected.values()))) == 3, "three models that say three things"
    for line in table.itertuples():
        assert line.text == loaded.tokenizers.base.decode(expected[line.model])
        assert line.tokens == len(expected[line.model]) and line.ended == (line.tokens < 12)


def test_an_answer_stops_at_its_end_and_shows_no_special_token(pair, monkeypatch):
    free = mechdiff.run(Continuation(Run("patch", **pair), tokens=6)).set_index("model")
    words = free.loc["tuned", "text"].split()
    loaded = load_pair(pair["pair"], "cpu")
    end = loaded.tokenizers.base.convert_tokens_to_ids(words[3])
    monkeypatch.setattr(type(loaded.tokenizers), "ends", lambda self, side: {end})
    questions.default().clear()
    cut = mechdiff.run(Continuation(Run("patch", **pair), tokens=6)).set_index("model")
    assert cut.loc["tuned", "text"].split() == words[: words.index(words[3])] and cut.loc["tuned", "ended"]


def test_sampling_is_repeated_by_its_seed_alone(pair):
    def say(**settings):
        questions.default().clear()
        return list(mechdiff.run(Continuation(Run("patch", **settings, **pair), tokens=12, temperature=1.5))["text"])

    assert say(seed=1) == say(seed=1) != say(seed=2)


@pytest.mark.slow
def test_a_temperature_draws_from_its_own_distribution(pair):
    """Over many seeds, the first token comes as often as its probability at that temperature."""
    run = Run("patch", **pair)
    loaded, drawn = load_pair(pair["pair"], "cpu"), []
    for seed in range(300):
        texts = mechdiff.run(Continuation(Run("patch", seed=seed, **pair), tokens=1, temperature=2.0)).set_index("model")["text"]
        drawn.append(texts["base"])
    shares = (plain_hooks.run(loaded.base.model, ids(loaded, run, 0)) / 2).softmax(-1)
    likeliest = int(shares.argmax())
    share, word = shares[likeliest].item(), loaded.tokenizers.base.decode([likeliest])
    assert drawn.count(word) / 300 == pytest.approx(share, abs=4 * (share * (1 - share) / 300) ** 0.5)


def test_a_finished_continuation_needs_no_model(pair, monkeypatch):
    request = Continuation(Run("stack", stack=STACK, **pair), tokens=5)
    first = mechdiff.run(request)
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    assert mechdiff.run(request).equals(first)
    others = (Run("stack", stack=STACK, back=1, **pair), Run("stack", stack="layer=1", **pair), Run("patch", **pair))
    assert all(questions.task(Continuation(other, tokens=5)).done == 0 for other in others)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens": 0}, "leave nothing to write"),
        ({"temperature": -0.1}, "not between 0"),
        ({"temperature": 10.5}, "not between 0"),
        ({"prompt": 20}, "Prompt 20 does not exist: there are 20, 0 to 19"),
        ({"tokens": 62}, r"has room for 61 more, not 62"),
    ],
)
def test_a_continuation_that_cannot_be_is_a_sentence(pair, settings, message):
    with pytest.raises(UserError, match=message):
        mechdiff.run(Continuation(Run("patch", **pair), **settings))


@pytest.mark.parametrize("back", [0, 2])
def test_next_tokens_of_a_stack_are_those_of_plain_hooks(pair, back):
    run = Run("stack", stack=STACK, back=back, **pair)
    table, loaded = mechdiff.run(NextTokens(run, Stack(run.chosen_stack), 3)), load_pair(pair["pair"], "cpu")
    tokens = ids(loaded, run, 3)
    patched = plain_hooks.run(loaded.tuned.model, tokens, edits_of(loaded, tokens, back))
    logprobs = {"base": plain_hooks.run(loaded.base.model, tokens), "tuned": plain_hooks.run(loaded.tuned.model, tokens)}
    for line in table.itertuples():
        token = loaded.tokenizers.base.convert_tokens_to_ids(line.token)
        assert line.probability == pytest.approx((logprobs | {"patched": patched})[line.model][token].exp().item(), abs=1e-5)
    likeliest = loaded.tokenizers.label(int(patched.argmax()), "tuned")
    assert likeliest in set(table["token"])


def test_next_tokens_of_a_mapped_stack_fit_its_map(study):
    text = "layer=2 stream=mlp_out map=ridge rank=3 alpha=0.5"
    run = Run("stack", stack=text, **study)
    (condition,) = run.chosen_stack
    mapped = mechdiff.run(NextTokens(run, condition, 1)).query("model == 'patched'")["probability"]
    plain = mechdiff.run(NextTokens(run, Run("stack", stack="layer=2 stream=mlp_out", **study).chosen_stack[0], 1))
    assert len(mapped) and not set(mapped) & set(plain.query("model == 'patched'")["probability"])


def test_a_position_map_is_single_runs_further_and_further_back(pair):
    run = Run("patch", layers=(0, 2), streams=("resid_post", "mlp_out"), **pair)
    table = mechdiff.run(PositionMap(run, 3))
    tokens = run.chosen_prompts[3].text.split()
    assert list(table["text"].unique()) == tokens[::-1] and len(table) == 6 * 4, "the last token comes first"
    for back in range(6):
        at = Run("patch", layers=(0, 2), streams=("resid_post", "mlp_out"), back=back, **pair | {"prompts": one_prompt(run, 3)})
        single = mechdiff.run(at)
        mine = table[table["back"] == back].merge(single, on=["layer", "stream"], suffixes=("", "_single"))
        assert len(mine) == 4
        for measure in ("kl", "kl_to_donor", "kl_donor_clean"):
            assert mine[measure].to_numpy() == pytest.approx(mine[f"{measure}_single"].to_numpy(), abs=2e-5)


def one_prompt(run, index):
    return prompts.keep_prompts([run.chosen_prompts[index]])


@pytest.fixture(autouse=True)
def own_prompts(tmp_path, monkeypatch):
    """One's own prompts are kept in this test's folder."""
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    return tmp_path / "kept"


def test_a_stopped_position_map_goes_on_where_it_was(pair, monkeypatch):
    request = PositionMap(Run("patch", layers=(1, 3), **pair), 3)
    whole = mechdiff.run(request)
    questions.default().clear()
    task = questions.task(request)
    for _ in task.steps():
        if len(task.parts) == 2:
            break
    assert set(task.table()["back"]) == {0, 1} and 0 < task.done < task.total
    computed, original = [], Passes.compute
    monkeypatch.setattr(Passes, "compute", lambda self, *args: computed.append(self.plan.run.back) or original(self, *args))
    again = questions.task(request)
    list(again.steps())
    assert sorted(set(computed)) == [2, 3, 4, 5] and again.done == again.total
    assert again.table()["kl"].to_numpy() == pytest.approx(whole["kl"].to_numpy(), abs=1e-6)


def test_the_time_of_a_map_is_that_of_a_column_it_then_has(pair, monkeypatch):
    run, clock, original = Run("patch", layers=(1, 3), **pair), [0.0], Passes.compute
    monkeypatch.setattr("mechdiff.questions.prompt.position_map.time.monotonic", lambda: clock[0])

    def slow(self, *args):  # a second for every token that is run
        clock[0] += self.plan.run.back + 1
        return (yield from original(self, *args))

    monkeypatch.setattr(Passes, "compute", slow)
    request = MapTime(run, 3)
    (line,) = mechdiff.run(request).itertuples()
    assert line.columns == 6 and line.seconds == 6 + 5 + 4 + 3 + 2 + 1 and clock[0] == 4 + 3
    again = questions.task(request)
    assert again.done == again.total and again.table()["seconds"].item() == line.seconds
    mechdiff.run(PositionMap(run, 3))
    assert clock[0] == 21, "the timed columns were not computed again"


def test_a_map_of_a_prompt_of_one_token_has_a_time_too(pair, tmp_path):
    (tmp_path / "short.jsonl").write_text('{"text": "w1"}')
    run = Run("patch", layers=(1,), **pair | {"prompts": str(tmp_path / "short.jsonl")})
    assert mechdiff.run(MapTime(run))["seconds"].item() > 0
    assert mechdiff.run(MapTime(Run("patch", layers=(1,), seed=1, **pair | {"prompts": run.prompts})))["columns"].item() == 1
    with pytest.raises(UserError, match="run patch"):
        MapTime(Run("heads", **pair))


TEXTS = ["Grüße 😀👩‍👩‍👧", "line\u2028separated\nand\r\nbroken", "مرحبا بالعالم", ' "quoted" \\ and {"text": 1}']


def test_own_prompts_come_back_as_they_were(own_prompts):
    mine = [Prompt(text, f"t{i}") for i, text in enumerate(TEXTS)]
    name = prompts.keep_prompts(mine)
    assert prompts.read_prompts(name) == mine
    assert prompts.keep_prompts(mine) == name != prompts.keep_prompts(mine[:2])
    assert not any(word in name for word in ("Gr", "line", "quoted"))
    assert len(list((own_prompts / "prompts").iterdir())) == 2, "no file is left half-written"


@pytest.mark.parametrize("name", ["0123456789abcdef", "", "../../x", "../secret", "/etc/passwd", "a/b"])
def test_a_name_that_is_not_ones_own_opens_no_file(own_prompts, name):
    own_prompts.mkdir()
    for path in (own_prompts / "x.jsonl", own_prompts / "secret.jsonl", own_prompts.parent / "x.jsonl"):
        path.write_text(json.dumps({"text": "not yours"}))
    with pytest.raises(UserError, match="no prompts of your own named"):
        prompts.read_prompts(prompts.OWN + name)


def test_a_stack_is_written_as_toml_and_read_again(tmp_path):
    text = "layer=1 map=procrustes_scaled rank=8 complement=own alpha=0.5; layer=2 heads=0,3 blend=0.25; layer=3"
    parts, path = parse_stack(text, 4, 4), tmp_path / "stack.toml"
    path.write_text(as_toml(parts))
    assert parse_stack(read_stack(str(path)), 4, 4) == parts
