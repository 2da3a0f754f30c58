"""Positions before the decision token: where they lie, how they are chosen, and the states there."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import plain_hooks
from support.byte_tokenizer import byte_tokenizer
from support.families import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mechdiff import Run, UserError
from mechdiff.common.cache import key
from mechdiff.common.paths import SHIPPED_DOMAINS
from mechdiff.common.terms import SIDES, STREAMS
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.trace import run_states, run_trace
from mechdiff.inputs import domain_files
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import read_domain, read_positions, read_rows, shipped_domains
from mechdiff.inputs.tokenizers import NEAR_END, Tokenizers, covering, eligible, load_tokenizers, pick, special_ids
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.states import States

LENGTHS = (60, 20, 58, 22, 7, 40, 1)
PROMPTS = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in LENGTHS]
PLACES = [[0, 7, 59], [19], [], [3, 3, 21], [5, 6], [1, 38], [0]]
TEXTS = [
    "one two three four five six seven",
    "  three   four\n five six seven ",
    "system user one two",
    "сәлем 👋 one two three four",
]
TEMPLATE = "{{ bos_token }}system one two</s>user {{ messages[0]['content'] | trim }}</s>assistant"


# The tokens of a text


def word_tokenizer():
    """Words, without their white space; adds nothing."""
    known = ["<pad>", "<s>", "</s>", "<unk>", "one", "two", "three", "four", "five", "six", "seven", "user"]
    vocabulary = {word: i for i, word in enumerate(known)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.fixture(params=[None, TEMPLATE], ids=["plain", "template"])
def two(request):
    """A pair's tokenizers that divide texts differently."""
    base, tuned = word_tokenizer(), byte_tokenizer()
    tuned.chat_template = request.param
    return Tokenizers(SimpleNamespace(name="two", chat_template="auto", system=""), base, tuned)


@pytest.mark.parametrize("text", TEXTS)
def test_two_tokenizers_study_the_same_place(two, text):
    characters = [i for i, letter in enumerate(text) if not letter.isspace()]
    places = {side: two.positions(text, characters, side) for side in SIDES}
    assert len(places["base"]) == len(places["tuned"]) == len(characters)
    for side, places_there in places.items():
        spans, ids = two.spans(text, side), two.encode(text, side)
        assert len(spans) == len(ids) and places_there == sorted(places_there) and max(places_there) < len(ids)
        assert all(spans[i][0] <= c < spans[i][1] for i, c in zip(places_there, characters))


@pytest.mark.parametrize("text", TEXTS)
def test_the_words_are_found_in_the_text_not_in_the_template(two, text):
    starts = [i for i, letter in enumerate(text) if not letter.isspace() and (i == 0 or text[i - 1].isspace())]
    ids = two.encode(text, "base")
    tokens = two.base.convert_ids_to_tokens([ids[i] for i in two.positions(text, starts, "base")])
    assert tokens == [word if word in two.base.vocab else "<unk>" for word in text.split()]
    upto = [two.tuned.decode(two.encode(text, "tuned")[: i + 1]) for i in two.positions(text, starts, "tuned")]
    before = (
        two.render(text, "base").removesuffix("</s>assistant").removesuffix(text.strip()) if two.tuned.chat_template else "<s>"
    )
    lead = len(text) - len(text.lstrip()) if two.tuned.chat_template else 0
    assert upto == [before + text[lead : start + 1] for start in starts]


def test_where_no_token_covers_a_character_the_one_before_stands_for_it():
    spans = [(0, 0), (2, 5), (6, 8), (7, 8), (0, 0)]
    assert [covering(spans, c) for c in (0, 2, 4, 5, 6, 7, 9)] == [1, 1, 1, 1, 2, 3, 3]


def test_eligible_are_neither_special_nor_template_nor_last():
    ids = [1, 9, 9, 2, 9, 9, 9, 9, 9, 9]
    spans = [(0, 0), (0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 8)]
    assert eligible(ids, spans, {1, 2}) == [2, 4, 5]
    assert eligible(ids[:3], spans[:3], {1, 2}) == []


def test_the_choice_is_seeded_and_a_larger_one_holds_a_smaller():
    many = range(100)
    few = pick(many, "a text", 16, 0)
    assert few == pick(many, "a text", 16, 0) == tuple(sorted(set(few))) and len(few) == 16
    assert few != pick(many, "a text", 16, 1) and few != pick(many, "another", 16, 0)
    assert set(pick(many, "a text", 5, 0)) < set(few) and pick([4, 2, 4], "a text", 16, 0) == (2, 4)


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_chosen_lies_in_the_text_before_the_last_four(two, text):
    ids, special = two.encode(text, "base"), special_ids(two.base)
    places = two.positions(text, two.choose(text, 16, 0), "base")
    own = two.base(text, add_special_tokens=False).input_ids
    room = len(own) if two.tuned.chat_template else max(len(own) - NEAR_END, 0)
    assert len(set(places)) == len(places) <= room
    assert all(i < len(ids) - NEAR_END and ids[i] not in special for i in places)
    assert not two.tuned.chat_template or min(places) > ids.index(two.base.vocab["user"])


def test_a_template_that_rewrites_the_prompt_is_refused(two):
    two.tuned.chat_template = "{{ messages[0]['content'] | upper }}"
    with pytest.raises(UserError, match="rewrites the prompt 'one two'"):
        two.positions("one two", [1], "base")


def test_a_slow_tokenizer_is_refused(two):
    two.base = SimpleNamespace(is_fast=False)
    with pytest.raises(UserError, match="base tokenizer is not a fast one"):
        two.spans("one two", "base")


# The curated files


@pytest.fixture(scope="module")
def demo_tokenizers(demo):
    return load_tokenizers(read_pair(domain_files.DEFAULT_PAIR))


@pytest.mark.parametrize("domain", shipped_domains())
def test_curated_positions_are_content_tokens_of_the_text(domain, demo_tokenizers):
    special, curated = special_ids(demo_tokenizers.base), read_positions(domain)
    for prompt in read_domain(domain, "train")[:8]:
        characters, ids = curated[prompt.text], demo_tokenizers.encode(prompt.text, "base")
        places = demo_tokenizers.positions(prompt.text, characters, "base")
        assert len(characters) == min(16, len(demo_tokenizers.base(prompt.text).input_ids)) == len(set(places))
        assert all(ids[i] not in special and i < len(ids) - NEAR_END for i in places)
        for i, character in zip(places, characters):
            assert prompt.text[character] in demo_tokenizers.base.decode([ids[i]])
            assert demo_tokenizers.base.decode(ids[: i + 1]).endswith(prompt.text[: character + 1])


@pytest.mark.parametrize("domain", shipped_domains())
def test_the_script_would_write_the_shipped_positions_again(domain, demo_tokenizers):
    rows = read_rows(SHIPPED_DOMAINS / domain / "train.jsonl")[:5]
    again = domain_files.choose_positions(rows, demo_tokenizers, 16, 0)
    assert json.loads(json.dumps(again)) == read_rows(SHIPPED_DOMAINS / domain / "positions.jsonl")[:5]


# The states there


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "gpt2", "gpt_neox"])
def test_states_at_positions_equal_plain_hooks(family):
    model = tiny_model(family, 0)
    by_stream = run_states(Anatomy(model), PROMPTS, PLACES)
    rows = [(ids, place) for ids, places in zip(PROMPTS, PLACES) for place in places]
    sites = [(layer, stream) for stream in STREAMS for layer in range(4)]
    for row, (ids, place) in enumerate(rows):  # what comes after a token does not change its state
        for (layer, stream), expected in plain_hooks.states(model, ids[: place + 1], sites).items():
            torch.testing.assert_close(by_stream[stream][layer, row], expected, atol=1e-4, rtol=0)
    assert {states.shape[1] for states in by_stream.values()} == {len(rows)}


def test_at_the_last_token_they_are_the_clean_pass():
    anatomy = Anatomy(tiny_model("llama", 0))
    by_stream, trace = run_states(anatomy, PROMPTS, [[len(ids) - 1] for ids in PROMPTS]), run_trace(anatomy, PROMPTS)
    for stream in STREAMS:
        torch.testing.assert_close(by_stream[stream], trace.states[stream], atol=1e-5, rtol=0)


@pytest.fixture
def states(pair, own_store):
    """States of the tiny pair's prompts, after loading nothing: call it with positions and seed."""
    run = Run("drift", **pair | {"pair": long_prompts(pair)})

    def make(**settings):
        return States(Identity(run), run.chosen_prompts, own_store, **settings)

    return make


def long_prompts(pair):
    """Rewrite the pair's prompts so that most have room for positions before the last four tokens."""
    lines = [{"text": " ".join(f"w{(7 * i + j) % 90}" for j in range(3 + i))} for i in range(20)]
    with open(pair["prompts"], "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    return pair["pair"]


def test_one_position_is_the_decision_token_under_its_old_key(states):
    single = states()
    assert sum(single.steps()) == 40 and single.groups.equal(torch.arange(20))
    block = single.blocks[0]
    assert single.key("base", block, "heads") == key(**single.identity.states("base", block, "heads"))
    trace = load_pair(single.identity.run.spec, "cpu").passes.trace("tuned", tuple(p.text for p in block), keep_calls=False)
    assert single.read("tuned", "mlp_out")[:, :16].equal(trace.states["mlp_out"])


def test_states_at_positions_are_rows_in_the_order_of_groups(states):
    many = states(positions=6)
    assert sum(many.steps()) == 40 and not many.missing()
    counts = [1 + min(max(3 + i - 4, 0), 6) for i in range(20)]
    assert torch.bincount(many.groups).tolist() == counts and many.groups.equal(many.groups.sort().values)
    single = states()
    list(single.steps())
    last = many.groups.bincount().cumsum(0) - 1
    loaded, prompts = load_pair(many.identity.run.spec, "cpu"), [p for block in many.blocks for p in block]
    for side in SIDES:
        rows = many.read(side, "resid_post")
        assert rows.shape == (4, sum(counts), 32) and rows.dtype == torch.float32
        torch.testing.assert_close(rows[:, last], single.read(side, "resid_post"), atol=1e-5, rtol=0)
        row, text = int(last[18]) + 1, prompts[19].text
        ids = loaded.tokenizers.encode(text, side)
        for place in loaded.tokenizers.positions(text, many.characters[text], side):
            expected = plain_hooks.state(getattr(loaded, side).model, ids[: place + 1], 2, "resid_post")
            torch.testing.assert_close(rows[2, row], expected, atol=1e-4, rtol=0)
            row += 1


def test_stored_positions_need_no_model(states, monkeypatch):
    first = states(positions=6)
    list(first.steps())
    before = first.read("tuned", "heads")
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    again = states(positions=6)
    assert not again.missing() and again.read("tuned", "heads").equal(before) and again.groups.equal(first.groups)
    assert len(states(positions=6, seed=1).missing()) == len(states(positions=5).missing()) == len(states().missing()) == 4


def test_an_evicted_block_is_computed_again(states, own_store):
    many = states(positions=3, streams=("mlp_out",))
    list(many.steps())
    before = many.read("base", "mlp_out")
    own_store.clear()
    np.testing.assert_allclose(many.read("base", "mlp_out"), before, atol=1e-6)


def test_a_domains_file_is_used_for_its_prompts_alone(states, monkeypatch):
    many = states(positions=6)
    text, other = (many.blocks[1][i].text for i in (1, 2))
    monkeypatch.setattr("mechdiff.questions.shared.states.read_positions", lambda domain: {text: (2, 5)})
    chosen = many.tokenizers.choose(other, 6, 0)
    assert many.characters[text] == (2, 5) and many.characters[other] == chosen != ()


@pytest.mark.parametrize("domain", shipped_domains())
def test_curated_prompts_need_no_tokenizer(domain, demo, own_store, monkeypatch):
    monkeypatch.setattr("mechdiff.inputs.tokenizers.load_tokenizers", lambda _: pytest.fail("a tokenizer was loaded"))
    train = read_domain(domain, "train")[:20]
    many = States(Identity(Run("drift", domain=domain)), train, own_store, positions=16)
    assert len(many.groups) == sum(1 + len(read_positions(domain)[prompt.text]) for prompt in train)
    assert len(many.missing()) == 4


@pytest.mark.parametrize("positions", [0, -3])
def test_no_position_is_refused(states, positions):
    with pytest.raises(UserError, match=f"Positions {positions} leaves no token"):
        states(positions=positions)
