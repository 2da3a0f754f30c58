"""`rank --basis difference`, the format share, the train split as prompts, and shares of it: planted truths and plain hooks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support import plain_hooks
from support.random_pair import TEXTS, TRAIN, ids, write_domain

import mechdiff
from mechdiff import Run, UserError
from mechdiff.inputs import prompts
from mechdiff.maths.intervals import Templates
from mechdiff.maths.linear_maps import pca_spread
from mechdiff.maths.recovery_curves import smallest
from mechdiff.models.registry import load_pair

LAYER = 3  # the last one: what is edited there lies wholly in the decision token's state


@pytest.fixture
def equal(study):
    """The pair with both models equal. Gives the request's fields, and both models."""
    loaded = load_pair(study["pair"], "cpu")
    loaded.tuned.model.load_state_dict(loaded.base.model.state_dict())
    return study, loaded.base.model, loaded.tuned.model


def written(model):
    """The matrix through which a layer's MLP writes."""
    return model.model.layers[LAYER].mlp.down_proj


def add_constant(model, vector):
    written(model).bias = torch.nn.Parameter(vector.to(torch.float32), requires_grad=False)


def add_rank(model, rank, size=0.4):
    matrix = written(model).weight
    torch.manual_seed(3)
    matrix.data += size * torch.randn(matrix.shape[0], rank) @ torch.randn(rank, matrix.shape[1]) / rank**0.5


def recoveries(run):
    """Recovery by rank, without controls."""
    lines = run.summary(mechdiff.run(run))
    return lines[lines["control"] == "none"].set_index("rank")["recovery"]


@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_a_constant_vector_needs_no_direction(equal, direction):
    study, _, tuned = equal
    add_constant(tuned, torch.randn(32))
    run = Run("rank", layers=(LAYER,), direction=direction, **study | {"limit": 20})
    assert run.basis == "difference"
    np.testing.assert_allclose(recoveries(run), 1, atol=1e-4)


def test_an_edit_of_four_directions_needs_four(equal):
    study, _, tuned = equal
    add_rank(tuned, 4)
    run = Run("rank", layers=(LAYER,), ranks=("0", "1", "2", "3", "4", "8", "full"), **study | {"limit": 20})
    by_rank = recoveries(run)
    assert by_rank["0"] < 0.5 and by_rank["3"] < 0.999
    np.testing.assert_allclose(by_rank[["4", "8", "full"]], 1, atol=1e-4)
    table = mechdiff.run(run)
    cuts = table.pivot(index="prompt", columns="rank", values="kl_to_donor")[list(run.ranks)].to_numpy()
    clean = table.groupby("prompt")["kl_donor_clean"].first().to_numpy()
    where = smallest(Templates(table.groupby("prompt")["template"].first().to_list()), clean, cuts, reach=0.9999)
    assert run.ranks[where[0]] == "4"


def test_every_cut_equals_plain_hooks_and_full_is_the_patch(study):
    run = Run("rank", layers=(LAYER,), ranks=("0", "2", "full"), controls=("self", "random", "shuffled"), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    assert set(table["basis"]) == {"difference"} and set(table["complement"]) == {""} and set(table["map"]) == {"none"}
    models = loaded.base.model, loaded.tuned.model

    def state(model, tokens):
        return plain_hooks.state(model, tokens, LAYER, "resid_post").double()

    tokens = [loaded.tokenizers.encode(text, "base") for text in TRAIN]
    differences = torch.stack([state(models[0], t) - state(models[1], t) for t in tokens])
    mean, directions = differences.mean(0), pca_spread(differences[None]).directions[0]
    for line in table[(table["control"] == "none") & (table["rank"] != "full")].itertuples():
        here = ids(loaded, run, line.prompt)
        donor, own = (state(model, here) for model in models)
        basis = directions[:, : int(line.rank)]
        patched = own + mean + basis @ (basis.T @ (donor - own - mean))
        logprobs = plain_hooks.run(models[1], here, [(LAYER, "resid_post", lambda _, patched=patched: patched.float())])
        assert line.kl == pytest.approx(plain_hooks.kl(logprobs, plain_hooks.run(models[1], here)), rel=1e-3, abs=1e-5)
    patch = mechdiff.run(Run("patch", layers=(LAYER,), **study))
    np.testing.assert_array_equal(table[(table["rank"] == "full") & (table["control"] == "none")]["kl"], patch["kl"])
    assert table[table["control"] == "self"]["kl"].max() < 1e-6
    assert set(table[table["control"] == "random"]["rank"]) == {"2"}


def test_random_directions_recover_less_than_the_differences_own(equal):
    study, _, tuned = equal
    add_rank(tuned, 2)
    run = Run("rank", layers=(LAYER,), ranks=("2", "full"), controls=("random",), **study | {"limit": 20})
    lines = run.summary(mechdiff.run(run)).query("rank == '2'").set_index("control")["recovery"]
    assert lines["random"] < 0.5 < lines["none"]


@pytest.mark.parametrize(
    ("fields", "basis"),
    [({}, "difference"), ({"map": "ridge"}, "map"), ({"alpha": ("0.8",)}, "map"), ({"complement": ("own",)}, "map")],
)
def test_what_only_a_map_has_means_the_basis_map(fields, basis):
    assert Run("rank", **fields).basis == basis
    assert Run("rank", basis="map", **fields).basis == "map"
    assert Run("rank", protocol="study").basis == "map"


@pytest.fixture
def with_neutral(equal, tmp_path, monkeypatch):
    """The equal pair, and a domain `neutral` whose train prompts are others."""
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path / "domains")
    write_domain(tmp_path / "domains" / "neutral", TEXTS[:4])
    lines = [{"text": " ".join(reversed(text.split())), "template": f"n{i // 2}"} for i, text in enumerate(TRAIN)]
    (tmp_path / "domains" / "neutral" / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return equal


def format_share(study):
    """R of the mean difference over neutral prompts, and of the ordinary patch."""
    by_rank = recoveries(Run("rank", layers=(LAYER,), ranks=("0", "full"), train="neutral", **study | {"limit": 20}))
    return by_rank["0"] / by_rank["full"]


def test_the_same_vector_whatever_the_prompt_is_all_format(with_neutral):
    study, _, tuned = with_neutral
    add_constant(tuned, torch.randn(32))
    study = {name: value for name, value in study.items() if name != "train"}
    assert format_share(study) == pytest.approx(1, abs=1e-4)


def test_a_change_by_content_that_cancels_on_neutral_prompts_is_no_format(with_neutral):
    study, base, tuned = with_neutral
    study = {name: value for name, value in study.items() if name != "train"}
    add_rank(tuned, 4)
    loaded = load_pair(study["pair"], "cpu")
    texts = [prompt.text for prompt in prompts.read_domain("neutral", "train")]
    tokens = [loaded.tokenizers.encode(text, "base") for text in texts]
    states = [[plain_hooks.state(model, t, LAYER, "resid_post") for t in tokens] for model in (tuned, base)]
    add_constant(tuned, (torch.stack(states[1]) - torch.stack(states[0])).mean(0))
    assert format_share(study) == pytest.approx(0, abs=2e-3)


def test_the_train_split_gives_one_prompt_of_each_template(with_neutral):
    study = {name: value for name, value in with_neutral[0].items() if name not in ("train", "prompts", "limit")}
    table = mechdiff.run(Run("patch", layers=(LAYER,), domain="neutral", split="train", **study))
    assert len(table) == 25 and table["template"].is_unique and set(table["split"]) == {"train"}
    val = mechdiff.run(Run("patch", layers=(LAYER,), domain="neutral", **study))
    assert len(val) == 4 and set(val["split"]) == {"val"}


def test_shares_of_the_train_split_are_whole_templates_and_nested(with_neutral):
    study = {name: value for name, value in with_neutral[0].items() if name not in ("train", "limit")}
    shares = [Run("transport", train="neutral", train_share=share, **study).train_prompts for share in (0.2, 0.4, 1)]
    assert [len({prompt.template for prompt in share}) for share in shares] == [5, 10, 25]
    assert [len(share) for share in shares] == [10, 20, 50]
    assert {p.text for p in shares[0]} <= {p.text for p in shares[1]}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"shrink": "1.5", "map": "procrustes_scaled"}, "above 0 up to 1"),
        ({"shrink": "much", "map": "procrustes_scaled"}, "neither auto"),
        ({"shrink": "auto"}, "ridge_cv has no shrinkage"),
    ],
)
def test_a_shrinkage_that_nothing_uses_is_refused(fields, says):
    with pytest.raises(UserError, match=says):
        Run("transport", **fields)


def test_another_shrinkage_is_another_map(study):
    tables = [
        mechdiff.run(Run("transport", layers=(LAYER,), map="procrustes_scaled", shrink=shrink, **study))
        for shrink in ("0.05", "0.9", "auto")
    ]
    assert not np.allclose(tables[0]["kl"], tables[1]["kl"], rtol=1e-3)
    assert any(not np.allclose(tables[2]["kl"], other["kl"], rtol=1e-3) for other in tables[:2])


def test_a_map_beyond_the_shift_and_the_shift_itself(study):
    run = Run("transport", layers=(LAYER,), **study | {"limit": 20})
    assert run.map == "ridge_cv"
    line = run.summary(mechdiff.run(run)).iloc[0]
    shift = mechdiff.run(Run("transport", layers=(LAYER,), map="shift", **study | {"limit": 20}))
    assert line["beyond_shift"] == pytest.approx(1 - line["mean"] / shift["kl"].mean(), abs=1e-5)
    np.testing.assert_allclose(shift["kl"], shift["kl_shift"], atol=1e-7)


def test_folds_of_templates_and_of_prompts_give_other_scales(study, tmp_path):
    lines = [{"text": text, "template": f"t{i // 5}"} for i, text in enumerate(TRAIN)]
    path = Path(tmp_path) / "templated.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    common = study | {"train": str(path)}
    scales = [
        mechdiff.run(Run("transport", layers=(LAYER,), map="procrustes", folds=folds, **common))["alpha_used"].iloc[0]
        for folds in ("templates", "prompts")
    ]
    assert scales[0] != scales[1]
    assert Run("transport", domain="cultural@1").folds == "prompts" and Run("heads", protocol="study").folds == "prompts"
