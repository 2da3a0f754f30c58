"""The original study's definitions, against their formulas written out in numpy, and by plain hooks."""

import json

import numpy as np
import pytest
import torch
from support import plain_hooks
from support.random_pair import TRAIN, ids
from support.two_tokenizers import write_pair

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.engine.anatomy import Anatomy
from mechdiff.maths.linear_maps import fit_procrustes_scaled, pca_spread
from mechdiff.maths.whitened import fit_procrustes_full, fit_whitened
from mechdiff.models.registry import load_pair
from mechdiff.questions.diagnostics.map_quality import Diagnostics

SHRINKAGE = 0.05


def power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.maximum(values, 1e-6 * values.max()) ** exponent) @ vectors.T


def shrunk(states: np.ndarray) -> np.ndarray:
    covariance, d = np.cov(states.T), states.shape[1]
    return (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / d * np.eye(d)


def study_cut(x: np.ndarray, y: np.ndarray, new: np.ndarray, rank: int, alpha: float) -> np.ndarray:
    """alpha (s_k (new - mean_x) C_x^-1/2 Q_k C_y^1/2 + mean_y), in the whole space, as the study's runners have it."""

    white_x, white_y = ((s - s.mean(0)) @ power(shrunk(s), -0.5) for s in (x, y))
    left, sigma, right = np.linalg.svd(white_x.T @ white_y)
    rotation, scale = left[:, :rank] @ right[:rank], sigma[:rank].sum() / np.square(white_x).sum()
    return alpha * (scale * (new - x.mean(0)) @ power(shrunk(x), -0.5) @ rotation @ power(shrunk(y), 0.5) + y.mean(0))


def states(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.logspace(1, -1, d) + rng.normal(size=d)
    return x, x @ rng.normal(size=(d, d)) / d**0.5 + 0.3 * rng.normal(size=(n, d)), rng.normal(size=(5, d))


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 12), (9, 20)])
@pytest.mark.parametrize("alpha", [1.0, 0.8])
def test_a_cut_is_the_studys_formula(n, d, alpha):
    x, y, new = states(n, d, n)
    fitted = fit_whitened(*(pca_spread(torch.from_numpy(s)[None]) for s in (x, y)))[0]
    ranks = [0, 1, 2, 5, min(n - 1, d)]
    cut = fitted.cut(torch.from_numpy(new), [(alpha, rank) for rank in ranks]).numpy()
    for at, rank in enumerate(ranks):
        expected = study_cut(x, y, new, rank, alpha)
        assert np.abs(cut[:, at] - expected).max() <= 1e-6 * np.abs(expected).max()


def test_the_uncut_map_is_procrustes_scaled():
    spreads = [pca_spread(torch.from_numpy(s)[None]) for s in states(30, 12, 0)[:2]]
    whole, new = fit_whitened(*spreads), torch.randn(1, 6, 12, dtype=torch.float64)
    torch.testing.assert_close(whole.apply(new), fit_procrustes_scaled(*spreads).apply(new), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(whole[0].cut(new[0], [(1.0, 99)])[:, 0], whole.apply(new)[0], rtol=1e-10, atol=1e-10)


def test_the_scale_grows_with_the_rank_so_that_a_low_rank_is_nearly_the_mean():
    x, y, new = states(40, 12, 1)
    fitted = fit_whitened(*(pca_spread(torch.from_numpy(s)[None]) for s in (x, y)))[0]
    cuts = fitted.cut(torch.from_numpy(new), [(1.0, rank) for rank in range(13)])
    assert (fitted.strength.diff() > 0).all()
    assert ((cuts - torch.from_numpy(y.mean(0))).norm(dim=-1).diff(dim=1) > -1e-9).float().mean() > 0.7
    torch.testing.assert_close(cuts[:, 0], torch.from_numpy(y.mean(0)).expand(5, -1))


def effect(model, tokens: list[int], state: np.ndarray) -> float:
    """KL(patched || clean) with a state in place of resid_post at layer 1, by plain hooks."""
    patched = plain_hooks.run(model, tokens, [(1, "resid_post", lambda own: torch.from_numpy(state).float())])
    clean = plain_hooks.run(model, tokens)
    return torch.nn.functional.kl_div(clean, patched, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("direction", ["base-to-tuned", "tuned-to-base"])
def test_the_layer_patch_is_scored_by_the_prompts_themselves(study, direction):
    without_train = {name: value for name, value in study.items() if name != "train"}
    run = Run("patch", layers=(1,), map="zscore", statistics="prompts", direction=direction, **without_train)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    models = [loaded.base.model, loaded.tuned.model][:: 1 if direction == "base-to-tuned" else -1]
    tokens = [ids(loaded, run, index) for index in range(len(run.chosen_prompts))]
    x, y = (np.stack([plain_hooks.state(model, seen, 1, "resid_post") for seen in tokens]).astype(float) for model in models)
    scored = (x - x.mean(0)) / x.std(0, ddof=1) * y.std(0, ddof=1) + y.mean(0)
    expected = [effect(models[1], seen, state) for seen, state in zip(tokens, scored)]
    np.testing.assert_allclose(table["kl"], expected, rtol=1e-3, atol=5e-5)
    on_train = mechdiff.run(Run("patch", layers=(1,), map="zscore", direction=direction, **study))
    assert not np.allclose(table["kl"], on_train["kl"], rtol=0.01), "the statistics of the train split are others"


def test_a_fitted_map_is_not_fitted_on_the_prompts():
    with pytest.raises(UserError, match="the prompts that it is judged by"):
        Run("patch", map="ridge", statistics="prompts")


def test_rank_patches_the_whitened_cut(study):
    run = Run("rank", layers=(1,), cut="whitened", ranks=("0", "1", "8", "full"), alpha=("1.0", "0.8"), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    assert set(table["complement"]) == {"whitened"}
    sides = [
        np.stack([plain_hooks.state(side.model, loaded.tokenizers.encode(text, "base"), 1, "resid_post") for text in TRAIN])
        for side in (loaded.base, loaded.tuned)
    ]
    x, y = (side.astype(np.float64) for side in sides)
    for line in table.itertuples():
        tokens = ids(loaded, run, line.prompt)
        donor = plain_hooks.state(loaded.base.model, tokens, 1, "resid_post").numpy().astype(np.float64)
        rank = 10_000 if line.rank == "full" else int(line.rank)
        state = study_cut(x, y, donor[None], min(rank, x.shape[1]), float(line.alpha))[0]
        assert line.kl == pytest.approx(effect(loaded.tuned.model, tokens, state), rel=1e-3, abs=5e-5)


def test_both_cuts_share_the_uncut_map_and_the_zscore_reference(study):
    common = {"map": "procrustes_scaled", "layers": (1,), "ranks": ("2", "full"), "complement": ("mean",), **study}
    outputs, whitened = (mechdiff.run(Run("rank", cut=cut, **common)) for cut in ("output", "whitened"))
    same = [table.loc[table["rank"] == "full", ["kl", "kl_reference"]].to_numpy() for table in (outputs, whitened)]
    np.testing.assert_allclose(*same, atol=1e-6)
    cuts = [table.loc[table["rank"] == "2", "kl"].to_numpy() for table in (outputs, whitened)]
    assert not np.allclose(*cuts, rtol=0.05)


@pytest.mark.parametrize("fields", [{"map": "ridge"}, {"controls": ("random",)}])
def test_what_cannot_be_cut_between_whitened_states_is_refused(fields):
    with pytest.raises(UserError, match="whitened states"):
        Run("rank", cut="whitened", **fields)


def test_a_whitened_cut_is_controlled(study):
    controls = ("self", "mean", "shuffled", "other-layer")
    table = mechdiff.run(Run("rank", layers=(1,), cut="whitened", ranks=("4",), controls=controls, **study))
    kl = {name: lines["kl"].to_numpy() for name, lines in table.groupby("control")}
    assert (
        kl["self"].max() < 1e-6 and not np.allclose(kl["none"], kl["shuffled"]) and not np.allclose(kl["none"], kl["other-layer"])
    )


# The map with a rotation of the whole space


def whole_rotation(x: np.ndarray, y: np.ndarray, fitted) -> np.ndarray:
    """The rotation inside a fitted map: C_x^1/2 matrix C_y^-1/2."""
    return power(shrunk(x), 0.5) @ fitted.matrix[0].numpy() @ power(shrunk(y), -0.5)


@pytest.mark.parametrize(("n", "d"), [(60, 12), (9, 20)])
def test_the_studys_map_rotates_the_whole_space(n, d):
    x, y, new = states(n, d, n)
    spreads = [pca_spread(torch.from_numpy(s)[None]) for s in (x, y)]
    fitted = fit_procrustes_full(*spreads)
    rotation = whole_rotation(x, y, fitted)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-8)
    white_x, white_y = ((s - s.mean(0)) @ power(shrunk(s), -0.5) for s in (x, y))
    left, sigma, right = np.linalg.svd(white_x.T @ white_y)
    pairs = sigma > 1e-9 * sigma[0]
    np.testing.assert_allclose(left[:, pairs].T @ rotation @ right[pairs].T, np.eye(pairs.sum()), atol=1e-8)
    assert fitted.size.item() == pytest.approx(sigma.sum() / np.square(white_x).sum())
    if n > d:
        expected = study_cut(x, y, new, d, 1.0)
        assert np.abs(fitted.apply(torch.from_numpy(new)[None])[0].numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


def test_completions_differ_only_where_the_train_states_say_nothing():
    x, y, new = states(9, 20, 3)
    spreads = [pca_spread(torch.from_numpy(s)[None]) for s in (x, y)]
    first, second, same = (fit_procrustes_full(*spreads, seed=seed) for seed in (0, 1, 0))
    partial = fit_procrustes_scaled(*spreads)
    on_train, beyond = torch.from_numpy(x)[None], torch.from_numpy(new)[None]
    for fitted in (first, second):
        torch.testing.assert_close(fitted.apply(on_train), partial.apply(on_train), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(first.matrix, same.matrix)
    assert not torch.allclose(first.apply(beyond), second.apply(beyond), rtol=0.05)


def test_the_completion_is_a_control_of_the_studys_map_alone(study, tmp_path):
    few = tmp_path / "few.jsonl"  # than dimensions
    few.write_text("\n".join(json.dumps({"text": text}) for text in TRAIN[:10]))
    common = {"layers": (1,), "alpha": ("1.0",), "controls": ("completion",)} | study | {"train": str(few)}
    table = mechdiff.run(Run("transport", map="procrustes_full", **common))
    kl = {name: lines["kl"].to_numpy() for name, lines in table.groupby("control")}
    assert not np.allclose(kl["none"], kl["completion"], rtol=1e-3)
    with pytest.raises(UserError, match="nothing arbitrary"):
        Run("transport", map="ridge", **common)


# Scales, vocabularies, layers and heads as the study has them


def answered(request):
    task = questions.task(request)
    for _ in task.steps():
        pass
    return task.table()


def both_states(loaded, texts: list[str], layer: int = 1, stream: str = "resid_post") -> tuple[np.ndarray, np.ndarray]:
    sides = loaded.base, loaded.tuned
    x, y = (
        np.stack([plain_hooks.state(side.model, loaded.tokenizers.encode(text, "base"), layer, stream) for text in texts]).astype(
            np.float64
        )
        for side in sides
    )
    return x, y


def test_alpha_is_the_median_over_val_for_every_rank(study):
    fields = {"cut": "whitened", "ranks": ("0", "2", "8"), "alpha_rows": "val"}
    run = Run("rank", layers=(1,), **fields, **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    x, y = both_states(loaded, TRAIN)
    val = [prompt.text for prompt in run.val_prompts]
    assert len(val) == 20 > run.limit == 8, "alpha is taken from the whole split"
    val_x, val_y = both_states(loaded, val)
    for rank, lines in table.groupby("rank"):
        mapped = study_cut(x, y, val_x, int(rank), 1.0)
        alpha = np.median(np.linalg.norm(val_y, axis=1) / np.linalg.norm(mapped, axis=1))
        np.testing.assert_allclose(lines["alpha_used"], alpha, rtol=1e-5)
        state = study_cut(x, y, val_x[:1], int(rank), alpha)[0]
        assert lines["kl"].iloc[0] == pytest.approx(effect(loaded.tuned.model, ids(loaded, run, 0), state), rel=1e-3, abs=5e-5)


def test_the_rows_of_alpha_belong_to_the_key_of_what_it_scales(study):
    of_train, of_val = (Run("transport", layers=(1,), alpha=("auto",), alpha_rows=rows, **study) for rows in ("train", "val"))
    assert questions.task(of_train).plan.whole_key != questions.task(of_val).plan.whole_key
    fixed = [Run("transport", layers=(1,), alpha=("1.0",), alpha_rows=rows, **study) for rows in ("train", "val")]
    assert len({questions.task(run).plan.whole_key for run in fixed}) == 1, "a given scale is the same under both"


def test_the_map_of_another_layer(study):
    run = Run("transport", layers=(1,), map="procrustes_scaled", map_from=0, alpha=("1.0",), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    assert set(table["map"]) == {"procrustes_scaled of L0"}
    x, y = both_states(loaded, TRAIN, 0)
    donor = plain_hooks.state(loaded.base.model, ids(loaded, run, 0), 1, "resid_post").numpy().astype(np.float64)
    state = study_cut(x, y, donor[None], x.shape[1], 1.0)[0]
    assert table["kl"].iloc[0] == pytest.approx(effect(loaded.tuned.model, ids(loaded, run, 0), state), rel=1e-3, abs=5e-5)
    own = Run("transport", map="procrustes_scaled", layers=(0, 1), map_from=1, alpha=("1.0",), **study)
    assert set(mechdiff.run(own).query("layer == 1")["map"]) == {"procrustes_scaled"}, "its own layer's map is its own"
    with pytest.raises(UserError, match="Layer 7 does not exist"):
        mechdiff.run(Run("transport", layers=(1,), map_from=7, **study))


def test_heads_chosen_on_the_prompts_that_they_are_scored_on(study):
    singles = mechdiff.run(Run("heads", layers=(1,), **study))
    order = singles[singles["heads"] != "all"].groupby("heads")["kl"].mean().sort_values(ascending=False).index.astype(int)
    run = Run("heads", layers=(1,), head_sets="topk", chosen_on="val", **study)
    table = mechdiff.run(run)
    sets = [sorted(order[:k]) for k in range(1, len(order))]
    assert set(table["heads"]) == {"-".join(map(str, chosen)) for chosen in sets} | {"all"}
    assert not run.uses_train


@pytest.mark.parametrize("sets", ["all", "0;1,3"])
def test_mapped_states_reach_heads_through_the_pseudoinverse(study, sets):
    run = Run("heads", layers=(1,), map="procrustes_scaled", head_sets=sets, **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    tuned = loaded.tuned.model
    x, y = both_states(loaded, TRAIN, 1, "attn_out")
    donor = plain_hooks.state(loaded.base.model, ids(loaded, run, 0), 1, "attn_out").numpy().astype(np.float64)
    weight = plain_hooks.modules(tuned, 1)[3].weight.detach().numpy().astype(np.float64)
    joint = np.linalg.pinv(weight) @ study_cut(x, y, donor[None], x.shape[1], table["alpha_used"].iloc[0])[0]
    width = len(joint) // run.spec.heads
    for heads, line in table[table["prompt"] == 0].groupby("heads"):
        chosen = range(run.spec.heads) if heads == "all" else map(int, heads.split("-"))

        def replaced(own, chosen=tuple(chosen)):
            for head in chosen:
                own[head * width : (head + 1) * width] = torch.from_numpy(joint[head * width : (head + 1) * width]).float()
            return own

        clean, patched = (plain_hooks.run(tuned, ids(loaded, run, 0), edits) for edits in ((), [(1, "heads", replaced)]))
        assert line["kl"].item() == pytest.approx(plain_hooks.kl(patched, clean), rel=1e-3, abs=5e-5)


def test_all_heads_through_a_square_projection_are_the_mapped_attention(study):
    fields = {"layers": (1,), "map": "procrustes_scaled", "alpha_rows": "val"} | study
    heads, whole = (
        mechdiff.run(Run("heads", head_sets="all", **fields)),
        mechdiff.run(Run("transport", streams=("attn_out",), **fields)),
    )
    np.testing.assert_allclose(heads["alpha_used"], whole["alpha_used"])
    np.testing.assert_allclose(heads["kl"], whole["kl"], rtol=1e-3, atol=1e-6)
    assert Run("heads", **fields).uses_train and not Run("heads", **study).uses_train


def test_the_projection_is_called_with_its_weights_locked(study, monkeypatch):
    """Another thread's hooks, and weights that are elsewhere, would change what it gives."""
    loaded, held, taken = load_pair(study["pair"], "cpu"), [], Anatomy.head_inputs

    def watched(anatomy, layer, states):
        locks = getattr(loaded.placement.lock, "locks", [loaded.placement.lock])
        held.append(all(lock._held for lock in locks))
        return taken(anatomy, layer, states)

    monkeypatch.setattr(Anatomy, "head_inputs", watched)
    mechdiff.run(Run("heads", layers=(1,), map="procrustes_scaled", head_sets="all", **study))
    assert held and all(held)


def test_the_number_of_random_sets(study):
    drawn = mechdiff.run(Run("heads", layers=(1,), head_sets="random", draws=3, **study)).query("control == 'random'")
    assert set(drawn.groupby(drawn["heads"].str.count("-"))["heads"].nunique()) == {3}


# How well a map fits, in the study's space


def test_the_fit_between_whitened_states_is_the_studys(study):
    run = Run("transport", layers=(1,), map="procrustes_scaled", **study)
    (line,) = answered(Diagnostics(run)).to_dict("records")
    loaded = load_pair(study["pair"], "cpu")
    x, y = both_states(loaded, TRAIN)
    new_x, new_y = both_states(loaded, [prompt.text for prompt in run.chosen_prompts])
    colour = power(shrunk(y), -0.5)
    for name, (rows, true) in {"train": (x, y), "val": (new_x, new_y)}.items():
        mapped, white = (study_cut(x, y, rows, x.shape[1], 1.0) - y.mean(0)) @ colour, (true - y.mean(0)) @ colour
        expected = 1 - np.square(white - mapped).sum() / np.square(white).sum()
        assert line[f"r2_whitened_{name}"] == pytest.approx(expected, rel=1e-5)
    mapped = study_cut(x, y, new_x, x.shape[1], 1.0)
    a, b = (states - states.mean(0) for states in (mapped, new_y))
    plain = np.square(a.T @ b).sum() / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert line["cka_plain"] == pytest.approx(plain, rel=1e-5)
    assert line["r2_whitened_shuffled"] < line["r2_whitened_val"]


# What effects are over where two tokenizers differ


def test_effects_over_all_tokens_of_the_recipient(tmp_path, own_store):
    settings = {"pair": str(write_pair(tmp_path)), "prompts": str(tmp_path / "prompts.jsonl"), "device": "cpu", "layers": (1,)}
    tables = {name: mechdiff.run(Run("patch", vocabulary=name, **settings)) for name in ("shared", "recipient")}
    loaded = load_pair(settings["pair"], "cpu")
    run = Run("patch", **settings)
    for prompt in range(4):
        text = run.chosen_prompts[prompt].text
        donor = plain_hooks.state(loaded.base.model, loaded.tokenizers.encode(text, "base"), 1, "resid_post").numpy()
        expected = effect(loaded.tuned.model, loaded.tokenizers.encode(text, "tuned"), donor)
        assert tables["recipient"]["kl"][prompt] == pytest.approx(expected, rel=1e-3, abs=5e-5)
    assert not np.allclose(tables["shared"]["kl"], tables["recipient"]["kl"], rtol=1e-3)
    np.testing.assert_allclose(tables["shared"]["kl_to_donor"], tables["recipient"]["kl_to_donor"], rtol=1e-5)
    assert set(tables["recipient"]["vocabulary"]) == {"all tokens of tuned"}
