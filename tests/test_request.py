"""Run: every field that cannot be is refused with the mistake and the choices."""

import dataclasses

import pytest
from support.tiny_pair import HEADS, LAYERS, write_pair

from mechdiff.common.errors import UserError
from mechdiff.common.terms import CONTROLS, DEVICES, DIRECTIONS, DTYPES, MAPS, STREAMS
from mechdiff.questions import QUESTIONS, Run

pytestmark = pytest.mark.usefixtures("own_store")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return str(write_pair(tmp_path_factory.mktemp("pair")))


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("question", "drfit", QUESTIONS),
        ("map", "affine", MAPS),
        ("streams", ("resid_post", "resid"), STREAMS),
        ("streams", (), ["No stream", "--streams"]),
        ("direction", "tuned->base", DIRECTIONS),
        ("controls", ("self", "placebo"), CONTROLS),
        ("device", "gpu", DEVICES),
        ("dtype", "fp16", DTYPES),
        ("blend", 1.5, ["between 0 (own state) and 1", "--blend 1.0"]),
        ("blend", -0.1, ["between 0 (own state) and 1"]),
        ("blend", float("nan"), ["between 0 (own state) and 1"]),
        ("limit", 0, ["at least 1", "--limit 32"]),
        ("limit", -3, ["at least 1"]),
        ("foil", " no", ["needs a target", "--target ' yes' --foil ' no'"]),
    ],
)
def test_a_field_that_cannot_be_is_named_with_the_choices(field, value, says):
    with pytest.raises(UserError) as caught:
        Run(**{"question": "heads" if field == "blend" else "patch"} | {field: value})
    wrong = value[-1] if isinstance(value, tuple) and value else value
    for text in (*says, field.rstrip("s") if field != "blend" else f"{wrong:g}"):
        assert text.lower() in str(caught.value).lower()
    if isinstance(wrong, str) and field != "foil":
        assert f"'{wrong}'" in str(caught.value)


@pytest.mark.parametrize("layers", [(LAYERS,), (0, 99), (-1,)])
def test_a_layer_that_does_not_exist_is_named_with_those_that_do(pair, layers):
    with pytest.raises(UserError) as caught:
        Run("patch", pair, layers=layers).chosen_layers  # noqa: B018
    assert f"Layer {layers[-1]} does not exist" in str(caught.value)
    assert f"tiny has {LAYERS} layers, 0 to {LAYERS - 1}" in str(caught.value)


@pytest.mark.parametrize(("sets", "head"), [(str(HEADS), HEADS), ("0;1,99", 99), ("-1", -1)])
def test_a_head_that_does_not_exist_is_named_with_those_that_do(pair, sets, head):
    with pytest.raises(UserError) as caught:
        Run("heads", pair, head_sets=sets).chosen_sets  # noqa: B018
    assert f"Head {head} does not exist" in str(caught.value)
    assert f"tiny has {HEADS} heads a layer, 0 to {HEADS - 1}" in str(caught.value)


@pytest.mark.parametrize("sets", ["", "0;", ";", "0,,1", "0;x", "every", "0-5", "0;all", "1.5"])
def test_head_sets_that_cannot_be_read_never_mean_no_heads(pair, sets):
    with pytest.raises(UserError, match=r'cannot be read\.\nTry:  --head-sets each, all, topk, greedy, random, or "0;3;0,5,7"'):
        Run("heads", pair, head_sets=sets).chosen_sets  # noqa: B018


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        ("0;3;0,5,2", ((0,), (3,), (0, 2, 5))),
        ("5,2;2,5;3", ((2, 5), (3,))),
        ("1,1;1", ((1,),)),
        (" 4 , 0 ; 2", ((0, 4), (2,))),
        ("all", (tuple(range(HEADS)),)),
        ("each", tuple((head,) for head in range(HEADS))),
    ],
)
def test_head_sets_are_read_in_the_order_given_without_repeats(pair, sets, expected):
    assert Run("heads", pair, head_sets=sets).chosen_sets == expected


def test_layers_keep_the_order_given_without_repeats(pair):
    assert Run("patch", pair, layers=(2, 0, 2)).chosen_layers == (2, 0)
    assert Run("patch", pair).chosen_layers == tuple(range(LAYERS))


def test_equal_requests_are_one_key_also_after_use(pair):
    first, second = (Run("heads", pair, streams=("heads",), layers=(0, 1)) for _ in range(2))
    assert first.chosen_sets and first.chosen_prompts
    assert hash(first) == hash(second) and first == second and {first: "answer"}[second] == "answer"
    assert first != dataclasses.replace(first, dtype="float32")


def test_a_request_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Run("drift").limit = 3


def test_prompts_come_from_the_file_else_the_domain_else_the_pairs_domain(pair, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}\n')
    assert [p.text for p in Run("patch", pair, prompts=str(file), limit=2).chosen_prompts] == ["a", "b"]
    assert [p.text for p in Run("patch", pair, train=str(file)).train_prompts] == ["a", "b", "c"]
    assert Run("patch", pair).chosen_domain == "cognitive"
    assert Run("patch", pair).chosen_prompts != Run("patch", pair, domain="cultural").chosen_prompts
    assert len(Run("patch", pair, limit=7).chosen_prompts) == 7


@pytest.mark.parametrize("field", ["chosen_prompts", "train_prompts"])
def test_an_unknown_domain_is_answered_with_the_choices(pair, field):
    with pytest.raises(UserError, match=r"Domain 'weather' does not exist\. Choose from: cognitive, cognitive@1, cultural"):
        getattr(Run("patch", pair, domain="weather"), field)


def test_every_field_but_the_question_has_a_line_of_help():
    assert all(spec.metadata["help"] for kind in QUESTIONS.values() for spec in dataclasses.fields(kind))
