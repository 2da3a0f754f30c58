"""Transport, rank, head choices and controls on a tiny random pair: equal to the formulas by plain hooks, and invariances."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import plain_hooks
from support.random_pair import TRAIN, ids

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.maths.linear_maps import FITS, output_directions, pca_spread, size_ratios
from mechdiff.models.registry import load_pair
from mechdiff.questions.diagnostics.map_quality import Diagnostics


def train_states(loaded, layer, stream="resid_post"):
    sides = []
    for side in (loaded.base, loaded.tuned):
        tokens = [loaded.tokenizers.encode(text, "base") for text in TRAIN]
        sides.append(torch.stack([plain_hooks.state(side.model, sequence, layer, stream) for sequence in tokens])[None].double())
    return map(pca_spread, sides)


def effect(loaded, run, prompt, layer, stream, change):
    """KL(patched || clean) of the tuned model by plain hooks; change(donor state, own state)."""
    tokens = ids(loaded, run, prompt)
    donor = plain_hooks.state(loaded.base.model, tokens, layer, stream)
    patched = plain_hooks.run(
        loaded.tuned.model, tokens, [(layer, stream, lambda own: change(donor.double(), own.double()).float())]
    )
    clean = plain_hooks.run(loaded.tuned.model, tokens)
    return torch.nn.functional.kl_div(clean, patched, reduction="sum", log_target=True).item()


@pytest.mark.parametrize("name", ["none", "zscore", "ridge", "procrustes", "procrustes_scaled"])
def test_transport_patches_the_mapped_state(study, name):
    run = Run("transport", map=name, layers=(1,), streams=("resid_post", "mlp_out"), alpha=("1.0", "0.5"), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    assert len(table) == 8 * 2 * 2
    for stream, lines in table.groupby("stream"):
        x, y = train_states(loaded, 1, stream)
        fitted, reference = FITS[name](x, y)[0], FITS["zscore"](x, y)[0]
        for line in lines.itertuples():
            mapped = partial(lambda scale, by, donor, own: scale * by(donor[None])[0], float(line.alpha), fitted)
            expected = effect(loaded, run, line.prompt, 1, stream, mapped)
            assert line.kl == pytest.approx(expected, abs=5e-5)
            raw = effect(loaded, run, line.prompt, 1, stream, partial(lambda by, donor, own: by(donor[None])[0], reference))
            assert line.kl_reference == pytest.approx(raw, abs=5e-5)


def test_the_zscore_map_is_its_own_reference(study):
    table = mechdiff.run(Run("transport", map="zscore", layers=(0, 2), **study))
    np.testing.assert_allclose(table["kl"], table["kl_reference"], atol=1e-6)
    assert len(table) == 16 and set(table["alpha"]) == {"auto"}


def test_rank_cuts_in_the_stated_directions(study):
    run = Run("rank", map="ridge", layers=(2,), ranks=("0", "2", "full"), alpha=("0.7",), **study)
    table, loaded = mechdiff.run(run), load_pair(study["pair"], "cpu")
    x, y = train_states(loaded, 2)
    fitted = FITS["ridge"](x, y)
    v, m = output_directions(fitted, x)[0], y.mean[0]
    assert len(table) == 8 * 3 * 2
    for line in table.itertuples():
        k = v.shape[1] if line.rank == "full" else int(line.rank)
        projector = v[:, :k] @ v[:, :k].T

        def change(donor, own, projector=projector, line=line):
            f, rest = 0.7 * fitted[0](donor[None])[0], m if line.complement == "mean" else own
            return f if line.rank == "full" else rest + (f - rest) @ projector

        assert line.kl == pytest.approx(effect(loaded, run, line.prompt, 2, "resid_post", change), abs=5e-5)


def test_rank_nought_does_nothing_or_ablates_and_full_is_transport(study):
    run = dict(map="procrustes_scaled", layers=(1, 3), **study)
    table = mechdiff.run(Run("rank", ranks=("0", "full", "31"), controls=("mean", "self"), **run))
    cell = table.set_index(["control", "rank", "complement", "layer", "prompt"])["kl"].sort_index()
    assert cell["none", "0", "own"].max() < 1e-6 and cell["self"].max() < 1e-6
    np.testing.assert_allclose(cell["none", "0", "mean"], cell["mean", "0", "mean"], atol=1e-6)
    whole = mechdiff.run(Run("transport", **run)).set_index(["layer", "prompt"])["kl"].sort_index()
    for complement in ("mean", "own"):
        np.testing.assert_allclose(cell["none", "full", complement], whole, atol=1e-6)
    assert set(table["alpha_used"].dropna().round(6)) >= set(table[table["alpha"] == "auto"]["alpha_used"].round(6))


def test_auto_alpha_is_the_median_ratio_out_of_fold_on_train(study):
    table, loaded = mechdiff.run(Run("transport", map="procrustes", layers=(1,), **study)), load_pair(study["pair"], "cpu")
    x, y = train_states(loaded, 1)
    order, ratios = torch.randperm(50, generator=torch.Generator().manual_seed(0)), []
    for fold in range(10):  # the prompts are of 50 templates
        held = order[5 * fold : 5 * fold + 5]
        rest = torch.tensor([i for i in range(50) if i not in held])
        fitted = FITS["procrustes"](pca_spread(x.states[:, rest]), pca_spread(y.states[:, rest]))
        ratios.append(size_ratios(fitted, x.states[:, held], y.states[:, held])[0])
    assert table["alpha_used"].iloc[0] == pytest.approx(torch.cat(ratios).quantile(0.5).item(), rel=1e-4)


def test_nothing_of_val_reaches_the_maps(study, tmp_path):
    """The effect on one prompt is the same whatever the other prompts are."""
    lines = Path(study["prompts"]).read_text().splitlines()
    turned = tmp_path / "turned.jsonl"
    turned.write_text("\n".join(lines[::-1]))
    forward = mechdiff.run(Run("transport", layers=(2,), **study | {"limit": None}))
    backward = mechdiff.run(Run("transport", layers=(2,), **study | {"limit": None, "prompts": str(turned)}))
    np.testing.assert_allclose(forward["kl"], backward["kl"][::-1], atol=1e-5)
    assert forward["alpha_used"].iloc[0] == backward["alpha_used"].iloc[0]


def test_controls_are_the_same_experiment_with_another_map(study):
    """Base and tuned agree up to a rotation of the residual stream, so the fitted map helps and its controls do not."""
    controls = ("self", "mean", "random", "shuffled", "other-layer")
    table = mechdiff.run(Run("transport", map="ridge", layers=(0, 1), controls=controls, **study))
    mean = table.groupby("control")["kl"].mean()
    assert set(mean.index) == {"none", *controls} and (table.groupby("control").size() == 16).all()
    assert mean["self"] < 1e-6 and table.groupby("control")["kl"].nunique().drop("self").min() == 16


def test_a_control_without_meaning_is_refused(study):
    for question, map_name, control in (
        ("patch", "none", "shuffled"),
        ("transport", "zscore", "shuffled"),
        ("heads", None, "other-layer"),
    ):
        with pytest.raises(UserError):
            Run(question, map=map_name, controls=(control,), **study)


# Heads


def coverage(table):
    means = table.groupby(["heads", "control", "chosen"])[["kl", "kl_reference"]].mean()
    return (means["kl"] / means["kl_reference"]).to_dict()


def means_on_train(study, heads, layer):
    path = study["train"]
    table = mechdiff.run(Run("heads", layers=(layer,), head_sets=heads, **study | {"prompts": path, "limit": None}))
    return table[table["chosen"] == "given"].groupby("heads", sort=False)["kl"].mean()


def test_topk_takes_the_largest_single_effects_on_train(study):
    single = means_on_train(study, "each", 1).sort_values(ascending=False).index.astype(int)
    table = mechdiff.run(Run("heads", layers=(1,), head_sets="topk", **study))
    expected = {"-".join(map(str, sorted(single[:k]))) for k in (1, 2, 3)} | {"all"}
    assert set(table["heads"]) == expected and set(table["prompt"]) == set(range(8))


def test_greedy_adds_the_best_next_head_on_train(study):
    table = mechdiff.run(Run("heads", layers=(2,), head_sets="greedy", **study))
    chosen = []
    while len(chosen) < 3:
        rest = [head for head in range(4) if head not in chosen]
        sets = [tuple(sorted((*chosen, head))) for head in rest]
        effects = means_on_train(study, ";".join(",".join(map(str, s)) for s in sets), 2)
        chosen.append(rest[int(np.argmax(effects))])
        assert "-".join(map(str, sorted(chosen))) in set(table["heads"])
    assert len(set(table["heads"])) == 4


def test_chosen_sets_carry_the_values_of_the_same_sets_given(study):
    greedy = mechdiff.run(Run("heads", layers=(2,), head_sets="greedy", **study))
    sets = ";".join(h.replace("-", ",") for h in dict.fromkeys(greedy["heads"]) if h != "all")
    given = mechdiff.run(Run("heads", layers=(2,), head_sets=sets, **study))
    merged = greedy.merge(given, on=["prompt", "heads"])
    assert len(merged) == len(greedy)
    np.testing.assert_allclose(merged["kl_x"], merged["kl_y"], atol=1e-6)
    np.testing.assert_allclose(merged["kl_reference_x"], merged["kl_reference_y"], atol=1e-6)


def test_random_sets_are_every_set_where_there_are_few(study):
    table = mechdiff.run(Run("heads", layers=(1,), head_sets="random", **study))
    sizes = table[table["control"] == "random"].groupby("heads").size()
    assert sorted(sizes.index.str.count("-") + 1) == [1] * 4 + [2] * 6 and (sizes == 8).all()
    beside = mechdiff.run(Run("heads", layers=(1,), controls=("random",), **study))
    assert set(beside["control"]) == {"none", "random"} and len(beside) == 8 * (4 + 1 + 4 + 6)


def test_head_choice_is_resumed_where_it_stopped(study):
    run = Run("heads", head_sets="greedy", **study)
    task = questions.task(run)
    for _ in task.steps():
        if task.done > task.total / 3:
            break
    again = questions.task(run)
    assert again.done > 0
    list(again.steps())
    assert again.done == again.total
    pd.testing.assert_frame_equal(again.table(), mechdiff.run(run), check_exact=True)


# Transplants


def test_transplants_take_weights_and_not_states(study):
    table = mechdiff.run(Run("transplant", streams=("attn_out", "mlp_out", "heads"), controls=("self",), **study))
    assert len(table[table["control"] == "none"]) == 8 * 4 * (2 + 4)
    assert table[table["control"] == "self"]["kl"].max() < 1e-6 < table[table["control"] == "none"]["kl"].min()
    loaded, run = load_pair(study["pair"], "cpu"), Run("transplant", **study)
    loaded.tuned.layers[2].mlp.load_state_dict(loaded.base.layers[2].mlp.state_dict())
    questions.default().clear()
    loaded.passes.clear()
    again = mechdiff.run(run).groupby(["stream", "layer"])["kl"].max()
    assert again["mlp_out", 2] < 1e-6 < again.drop(("mlp_out", 2)).min()


# Diagnostics


def test_a_model_maps_onto_itself_perfectly(study, tmp_path):
    same = tmp_path / "same.toml"
    same.write_text('domain = "none"\n[base]\nfolder = "base"\n[tuned]\nfolder = "base"\n')
    run = Run(
        "transport", map="procrustes_scaled", layers=(0, 3), streams=("resid_post", "mlp_out"), **study | {"pair": str(same)}
    )
    task = questions.task(Diagnostics(run))
    list(task.steps())
    table = task.table()
    assert table[["stream", "layer"]].to_numpy().tolist() == [[s, n] for s in ("resid_post", "mlp_out") for n in (0, 3)]
    for name in ("r2_train", "r2_val", "cka", "cosine_mean", "cosine_p10", "cosine_p90", "scale"):
        assert table[name].to_numpy() == pytest.approx(1, abs=1e-4), name
    assert table["shrinkage"].to_numpy() == pytest.approx(0, abs=1e-4) and task.done == task.total


def test_diagnostics_are_the_formulas_on_prompts_that_were_not_fitted_on(study):
    run = Run("transport", map="ridge", layers=(2,), **study)
    task = questions.task(Diagnostics(run))
    list(task.steps())
    (line,) = task.table().itertuples()
    loaded = load_pair(study["pair"], "cpu")
    x, y = train_states(loaded, 2)
    fitted = FITS["ridge"](x, y)[0]
    tokens = [ids(loaded, run, prompt) for prompt in range(8)]
    donor, own = (
        torch.stack([plain_hooks.state(s.model, t, 2, "resid_post") for t in tokens]).double()
        for s in (loaded.base, loaded.tuned)
    )
    mapped = fitted(donor)
    r2 = 1 - (own - mapped).square().sum() / (own - y.mean[0]).square().sum()
    cosine = torch.cosine_similarity(mapped, own).mean()
    assert (line.r2_val, line.cosine_mean) == (pytest.approx(r2.item(), abs=1e-3), pytest.approx(cosine.item(), abs=1e-4))
    assert line.r2_val < line.r2_train <= 1 and 0 < line.overlap_4 < 1 and 1 <= line.effective_rank <= 32


def test_more_positions_widen_the_train_set_alone(study):
    single, many = (mechdiff.run(Run("transport", map="ridge", layers=(1,), positions=k, **study)) for k in (1, 16))
    assert len(single) == len(many) == 8 and not np.allclose(single["kl"], many["kl"], rtol=1e-3)
    np.testing.assert_array_equal(single["kl_donor_clean"], many["kl_donor_clean"])
