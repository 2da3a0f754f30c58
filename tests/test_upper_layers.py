"""`patch --replace all`: the recipient's upper layers on the donor's states of every token."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from support import plain_hooks
from support.families import FAMILIES, tiny_model
from support.random_pair import ids

import mechdiff
from mechdiff import Run, UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.intervention import EMBEDDING
from mechdiff.engine.upper_layers import run_above
from mechdiff.models.registry import load_pair

PROMPTS = [[5, 9, 33, 71, 8], [4, 4, 90], [17, 3, 60, 61, 62, 63, 7, 80, 11], [50, 51, 52, 53, 54]]


def by_hooks(base, tuned, tokens: list[int], layer: int) -> torch.Tensor:
    """Log-probabilities of the tuned model with the base's states at every token, by hooks on whole passes."""
    place = plain_hooks.site(base, 0, "resid_pre") if layer == EMBEDDING else plain_hooks.site(base, layer, "resid_post")
    kept = []
    handle = plain_hooks.hook(*place, lambda state: kept.append(state.clone()))
    base(input_ids=torch.tensor([tokens]))
    handle.remove()
    place = plain_hooks.site(tuned, 0, "resid_pre") if layer == EMBEDDING else plain_hooks.site(tuned, layer, "resid_post")
    handle = plain_hooks.hook(*place, lambda state: kept[0])
    try:
        return tuned(input_ids=torch.tensor([tokens])).logits[0, -1].log_softmax(-1)
    finally:
        handle.remove()


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_upper_layers_equal_whole_passes_with_hooks(family):
    base, tuned = (Anatomy(tiny_model(family, seed)) for seed in (0, 1))
    layers = [EMBEDDING, *range(len(base.layers))]
    found = torch.full((len(layers), len(PROMPTS), tuned.vocabulary), torch.nan)

    def measure(logits, prompts, rows):
        found[rows, prompts] = logits.log_softmax(-1)

    assert sum(run_above(base, tuned, PROMPTS, layers, measure, nullcontext, nullcontext)) == len(layers) * len(PROMPTS)
    for row, layer in enumerate(layers):
        for number, tokens in enumerate(PROMPTS):
            expected = by_hooks(base.model, tuned.model, tokens, layer)
            torch.testing.assert_close(found[row, number], expected, atol=2e-5, rtol=1e-4)


def test_the_question_measures_what_hooks_measure(study):
    run = Run("patch", replace="all", layers=(0, 2), direction="base-to-tuned", **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    assert set(table["replace"]) == {"all"} and set(table["layer"]) == {0, 2}
    base, tuned = loaded.base.model, loaded.tuned.model
    with torch.no_grad():
        for line in table[table["prompt"] < 3].itertuples():
            tokens = ids(loaded, run, line.prompt)
            patched, clean = by_hooks(base, tuned, tokens, line.layer), plain_hooks.run(tuned, tokens)
            donor = plain_hooks.run(base, tokens)
            assert line.kl == pytest.approx(plain_hooks.kl(patched, clean), rel=1e-3, abs=1e-6)
            assert line.kl_to_donor == pytest.approx(plain_hooks.kl(donor, patched), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_an_edit_of_some_layers_lies_there_exactly(study, direction):
    """Layers 1 and 2 are changed: nothing of the change lies below 1, and all of it at 2 and above, to rounding."""
    loaded = load_pair(study["pair"], "cpu")
    tuned, base = loaded.tuned.model, loaded.base.model
    tuned.load_state_dict(base.state_dict())
    for layer in (1, 2):
        tuned.model.layers[layer].mlp.down_proj.weight.data += 0.3 * torch.randn_like(
            tuned.model.layers[layer].mlp.down_proj.weight
        )
    run = Run("patch", replace="all", direction=direction, **study | {"limit": 20})
    lines = run.summary(mechdiff.run(run)).set_index("layer")
    assert list(lines.index) == [EMBEDDING, 0, 1, 2, 3]
    shares = lines["recovery"].to_numpy()
    np.testing.assert_allclose(shares[[0, 1]], 0, atol=1e-4)
    np.testing.assert_allclose(shares[[3, 4]], 1, atol=1e-4)
    assert lines.loc[1, "recovery_low"] <= lines.loc[1, "recovery"] <= lines.loc[1, "recovery_high"]


def test_the_last_layer_leaves_only_the_norm_and_the_unembedding(study):
    run = Run("patch", replace="all", layers=(3,), **study)
    loaded = load_pair(study["pair"], "cpu")
    loaded.tuned.model.model.norm.load_state_dict(loaded.base.model.model.norm.state_dict())
    loaded.tuned.model.lm_head.load_state_dict(loaded.base.model.lm_head.state_dict())
    np.testing.assert_allclose(mechdiff.run(run)["kl_to_donor"], 0, atol=1e-6)


def test_both_kinds_are_stored_apart(study):
    token, everywhere = (mechdiff.run(Run("patch", replace=kind, layers=(1,), **study)) for kind in ("token", "all"))
    assert (token["replace"] == "token").all() and not np.allclose(token["kl"], everywhere["kl"])
    again = mechdiff.run(Run("patch", layers=(1,), **study))
    np.testing.assert_array_equal(again["kl"], token["kl"])


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"streams": ("mlp_out",)}, "--streams resid_post"),
        ({"map": "ridge"}, "without --map"),
        ({"controls": ("self",)}, "without --map and --controls"),
        ({"back": 1}, "--back 0"),
    ],
)
def test_what_does_not_go_together_is_refused(study, fields, says):
    with pytest.raises(UserError, match=says):
        Run("patch", replace="all", **fields, **study)
