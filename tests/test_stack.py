"""Stacks of interventions, earlier tokens and longer horizons: the same numbers as plain hooks; text that is read again."""

import pytest
from support import plain_hooks
from support.plain_hooks import kl
from support.random_pair import ids

import mechdiff
from mechdiff import Run, UserError
from mechdiff.engine.intervention_text import label, parse_stack, read_stack
from mechdiff.models.registry import load_pair


def test_a_patch_at_an_earlier_token_is_that_of_plain_hooks(pair):
    run = Run("patch", streams=("resid_post", "attn_out", "heads"), layers=(0, 2), back=2, limit=5, **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu")
    assert len(table) == 5 * 6
    for line in table.itertuples():
        tokens = ids(loaded, run, line.prompt)
        value = plain_hooks.state(loaded.base.model, tokens[:-2], line.layer, line.stream)
        edit = (line.layer, line.stream, lambda own, value=value: value, len(tokens) - 3)
        clean = plain_hooks.run(loaded.tuned.model, tokens)
        expected = kl(plain_hooks.run(loaded.tuned.model, tokens, [edit]), clean)
        assert line.kl == pytest.approx(expected, abs=2e-5) and expected > 1e-4


def test_a_horizon_is_the_mean_over_the_donors_own_answer(pair):
    run = Run("patch", layers=(1,), horizon=3, back=1, limit=4, **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu")
    for line in table.itertuples():
        tokens, effects, donors = ids(loaded, run, line.prompt), [], []
        start = len(tokens)
        value = plain_hooks.state(loaded.base.model, tokens[:-1], 1, "resid_post")
        for _ in range(3):
            edit = (1, "resid_post", lambda own, value=value: value, start - 2)
            clean = plain_hooks.run(loaded.tuned.model, tokens)
            donor = plain_hooks.run(loaded.base.model, tokens)
            effects.append(kl(plain_hooks.run(loaded.tuned.model, tokens, [edit]), clean))
            donors.append(kl(donor, clean))
            tokens = [*tokens, donor.argmax().item()]
            if tokens[-1] in loaded.tokenizers.ends("base"):
                break
        assert line.kl == pytest.approx(sum(effects) / len(effects), abs=2e-5)
        assert line.kl_donor_clean == pytest.approx(sum(donors) / len(effects), abs=2e-5)


def test_what_comes_after_the_donors_end_does_not_count(pair, monkeypatch):
    once, loaded = mechdiff.run(Run("patch", layers=(1,), limit=4, **pair)), load_pair(pair["pair"], "cpu")
    monkeypatch.setattr(type(loaded.tokenizers), "ends", lambda self, side: set(range(97)))  # every first token ends the answer
    longer = mechdiff.run(Run("patch", layers=(1,), limit=4, horizon=4, **pair))
    assert longer["kl"].to_numpy() == pytest.approx(once["kl"].to_numpy(), abs=1e-6)


def test_a_stack_is_that_of_plain_hooks_and_stands_beside_its_parts(study):
    text = "layer=2 stream=heads heads=1,3 blend=0.5; layer=1 stream=resid_post map=procrustes_scaled rank=4 alpha=1"
    run = Run("stack", stack=text, controls=("self",), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    first, second = "layer=1 stream=resid_post map=procrustes_scaled rank=4 complement=mean alpha=1", text.partition(";")[0]
    assert list(dict.fromkeys(table["stack"])) == [f"{first}; {second}", first, second]
    assert table.loc[table["control"] == "self", "kl"].max() < 1e-6
    alone = {"map": "procrustes_scaled", "ranks": ("4",), "complement": ("mean",), "alpha": ("1.0",)}
    mapped = mechdiff.run(Run("rank", layers=(1,), **alone, **study))["kl"].to_numpy()
    assert table.loc[table["stack"] == first, "kl"].to_numpy() == pytest.approx(mapped, abs=1e-6)
    heads = mechdiff.run(Run("heads", layers=(2,), head_sets="1,3", blend=0.5, **study)).query("heads == '1-3'")["kl"].to_numpy()
    assert table.loc[table["stack"] == second, "kl"].to_numpy() == pytest.approx(heads, abs=1e-6)
    both = table[(table["stack"] == f"{first}; {second}") & (table["control"] == "none")]["kl"].to_numpy()
    tokens = [ids(loaded, run, prompt) for prompt in range(8)]
    for prompt, sequence in enumerate(tokens):
        assert both[prompt] == pytest.approx(by_hooks(loaded, run, sequence), abs=2e-5)


def by_hooks(loaded, run, tokens):
    """The stack of the test above by plain hooks, its mapped state taken from the engine's own map."""
    from mechdiff.common.cache import default
    from mechdiff.questions.shared.fitted_maps import FittedMaps, Needs
    from mechdiff.questions.shared.identity import Identity

    fitted = FittedMaps(run, Identity(run), default(), ("resid_post",))
    list(fitted.steps())
    site = ("procrustes_scaled", "none", 1, "resid_post")
    (maps,) = list(fitted.fit({site: Needs(directions=True)}))
    donor = plain_hooks.state(loaded.base.model, tokens, 1, "resid_post")
    heads = plain_hooks.state(loaded.base.model, tokens, 2, "heads").view(4, 8)
    full, mean, v = maps[site].full.apply(donor.double()[None])[0], maps[site].mean, maps[site].directions[:, :4]
    mapped = (mean + (full - mean) @ v @ v.T).float()

    def mix(own):
        own = own.view(4, 8).clone()
        own[[1, 3]] = (own[[1, 3]] + heads[[1, 3]]) / 2
        return own.flatten()

    model = loaded.tuned.model
    patched = plain_hooks.run(model, tokens, [(1, "resid_post", lambda own: mapped), (2, "heads", mix)])
    return kl(patched, plain_hooks.run(model, tokens))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": "patch", "back": 40}, r"(?s)No token lies 40 before .* at most"),
        ({"question": "patch", "back": -1}, "Back -1 is not valid"),
        ({"question": "patch", "horizon": 0}, "Horizon 0 is not valid"),
        ({"question": "drift", "back": 1}, "drift has no --back"),
        ({"question": "stack"}, "--stack FILE"),
        ({"question": "patch", "stack": "layer=1"}, "patch has no --stack"),
        ({"question": "stack", "stack": "layer=9"}, "'9' is not a number from 0 to 3"),
        ({"question": "stack", "stack": "layer=1 heads=7"}, "head '7'"),
        ({"question": "stack", "stack": "layer=1 stream=nowhere"}, "nowhere"),
        ({"question": "stack", "stack": "layer=1 rank=3"}, "needs a map"),
        ({"question": "stack", "stack": "layer=1; layer=1 map=zscore"}, "Two interventions are at layer 1"),
        ({"question": "stack", "stack": "layr=1"}, "'layr=1' in the stack is not one of"),
        ({"question": "stack", "stack": " ; "}, "The stack is empty"),
        ({"question": "stack", "stack": "layer=1 heads=0 blend=2"}, "from 0 to 1"),
    ],
)
def test_a_place_or_stack_that_cannot_be_is_a_sentence(pair, settings, message):
    with pytest.raises(UserError, match=message):
        mechdiff.run(Run(**settings, limit=3, **pair))


def test_a_prompt_longer_than_the_window_is_a_sentence(pair, tmp_path):
    path = tmp_path / "long.jsonl"
    path.write_text('{"text": "' + "w1 " * 70 + '"}')
    with pytest.raises(UserError, match=r"has 70 tokens; tiny reads at most 64"):
        mechdiff.run(Run("patch", **pair | {"prompts": str(path)}))


def test_a_stack_is_read_from_toml_and_written_as_text(tmp_path):
    path = tmp_path / "stack.toml"
    path.write_text(
        '[[intervention]]\nlayer = 3\nheads = [2, 0]\n[[intervention]]\nlayer = 1\nmap = "ridge"\nrank = 8\nalpha = 0.5\n'
    )
    parts = parse_stack(read_stack(str(path)), 4, 4)
    assert [label(part) for part in parts] == [
        "layer=1 stream=resid_post map=ridge rank=8 complement=mean alpha=0.5",
        "layer=3 stream=heads heads=0,2",
    ]
    assert parse_stack("; ".join(map(label, parts)), 4, 4) == parts


@pytest.mark.parametrize(
    ("text", "message"), [("layer 3", "is not TOML"), ("a = 1", "has no .*intervention"), (None, "cannot be read")]
)
def test_a_broken_stack_file_is_a_sentence(tmp_path, text, message):
    path = tmp_path / "stack.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_stack(str(path))
