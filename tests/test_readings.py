"""Each reading of a stored sweep says what was planted, and the opposite where the opposite was; every sentence is short."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.study import artifacts
from mechdiff.study.readings import by_layer, readings
from mechdiff.study.stored_sweep import StoredSweep

LAYERS, PROMPTS = 6, 120
DIRECTION = "base-to-tuned"


def lines(points, seed=0, noise=0.05, split="val", prompts=PROMPTS, **columns) -> pd.DataFrame:
    """Effects of planted recoveries. points: the values of some columns -> recovery, or -> (recovery, kl)."""
    rng, parts = np.random.default_rng(seed), []
    clean = rng.gamma(6, 0.3, prompts)
    for values, planted in points.items():
        recovery, kl = planted if isinstance(planted, tuple) else (planted, planted)
        spread = noise * rng.normal(size=(2, prompts))
        measures = {"kl": clean * np.abs(kl + spread[0]), "kl_to_donor": clean * (1 - recovery + spread[1])}
        names = {"prompt": range(prompts), "template": [f"{split}{i}" for i in range(prompts)], "kl_donor_clean": clean}
        parts.append(pd.DataFrame(names | measures | dict(values) | {"control": "none"} | columns))
    return pd.concat(parts, ignore_index=True).assign(direction=DIRECTION, split=split)


def over(name, values, **more):
    return {((name, point), *more.items()): value for point, value in values.items()}


class Planted:
    """A sweep whose tables are planted one by one."""

    def __init__(self, folder):
        self.sweep, self.tables = StoredSweep("planted", "here", DIRECTION, (folder,)), {}
        self.add("rq1", "patch", lines(over("layer", dict(enumerate(np.linspace(0, 1, LAYERS)))), stream="resid_post"))
        train = lines(over("layer", dict(enumerate(np.linspace(0, 1, LAYERS)))), seed=1, split="train", stream="resid_post")
        self.add("rq1", "patch_train", train)

    def add(self, folder, name, table):
        self.tables.setdefault(folder, {})[name] = table
        place = self.sweep.roots[0] / "here" / folder / "planted"
        artifacts.save(place, self.tables[folder], {"prompts": PROMPTS, "templates": [f"val{i}" for i in range(PROMPTS)]})

    def says(self, key) -> str:
        every = {reading.key: reading for reading in readings(self.sweep)}
        assert all(len(reading.sentence.split()) <= 25 and reading.estimand for reading in every.values())
        return every[key].sentence + " | " + every[key].control if key in every else ""


@pytest.fixture
def planted(tmp_path):
    return Planted(tmp_path)


def everywhere(curve):
    return lines(over("layer", dict(zip(range(-1, LAYERS), curve))), noise=0.01, stream="resid_post")


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ([0, 1, 1, 1, 1, 1, 1], "below layer 0 of 5"),
        ([0, 0, 0, 0, 0, 0, 1], "below layer 5 of 5"),
        ([0, 0, 1.4, 0.2, 1, 1, 1], "no centroid"),
        ([0, 0, 0, 0, 0, 0, 0.2], "No layer's states carry half"),
    ],
)
def test_where_the_change_lies(planted, curve, says):
    planted.add("rq1", "patch_all", everywhere(curve))
    assert says in planted.says("depth")


def test_early_and_late_are_thirds_of_the_depth(planted):
    for at, word in ((0, "(early;"), (3, "(middle;"), (5, "(late;")):
        planted.add("rq1", "patch_all", everywhere([0, *(float(layer >= at) for layer in range(LAYERS))]))
        assert word in planted.says("depth")


def test_the_layer_is_chosen_on_train_and_read_on_val(planted):
    assert "half from layer 3 on" in planted.says("token")
    planted.add("rq1", "patch_train", lines(over("layer", dict.fromkeys(range(LAYERS), 0.9)), split="train", stream="resid_post"))
    assert "half from layer 0 on" in planted.says("token") and "0.0" in planted.says("token")


def of_ranks(curve):
    return over("rank", dict(zip(("0", "1", "8", "full"), curve)))


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ([0.6, 0.6, 0.6, 0.6], "needs 0 directions in 100 % of resamples"),
        ([0.0, 0.1, 0.6, 0.6], "needs 8 directions in 100 % of resamples"),
    ],
)
def test_directions_of_the_difference(planted, curve, says):
    planted.add("rq3", "difference", lines(of_ranks(curve), noise=0.02, layer=3, stream="resid_post"))
    assert says in planted.says("rank") and f"one constant shift recovers {curve[0]:.2f}" in planted.says("rank")


@pytest.mark.parametrize(("share", "says"), [(0.58, "gives 0.9"), (0.0, "gives 0.0")])
def test_format_or_content(planted, share, says):
    cuts = over("rank", {"0": share, "full": 0.6})
    planted.add("rq3", "format", lines(cuts, noise=0.005, layer=3, stream="resid_post"))
    assert says in planted.says("format").replace("-0.0", "0.0")


def effects(**means):
    points = {(("map", name), ("control", "none")): (0.5, mean) for name, mean in means.items() if name != "mean"}
    return points | {(("map", "none"), ("control", "mean")): (0.5, means["mean"])}


def transported(planted, half=None, **means):
    table = lines(effects(**means), noise=0.02, layer=3, stream="resid_post")
    mean = table["map"].eq("none")
    planted.add("rq2", "transport", table.assign(control=np.where(mean, "mean", "none")))
    if half is not None:
        learning = lines({(("train_share", 0.5),): (0.5, half)}, noise=0.02, layer=3, stream="resid_post", map="ridge_cv")
        planted.add("rq2", "learning", learning)
    return planted.says("map")


COMMON = {"shift": 0.5, "mean": 0.6, "zscore": 0.7}


@pytest.mark.parametrize(
    ("means", "half", "says"),
    [
        ({"ridge_cv": 0.2, "kernel_ridge": 0.2}, 0.2, "the change is linear here"),
        ({"ridge_cv": 0.3, "kernel_ridge": 0.1}, 0.3, "the change is not linear here"),
        ({"ridge_cv": 0.3, "kernel_ridge": 0.1}, 0.45, "linear or not is undecided"),
        ({"ridge_cv": 0.5, "kernel_ridge": 0.5}, 0.5, "linear or not is undecided"),
        ({"ridge_cv": 0.3, "kernel_ridge": 0.1}, None, "linear or not is undecided"),
    ],
)
def test_the_word_linear_is_earned(planted, means, half, says):
    assert says in transported(planted, half, **COMMON, **means)


def test_what_a_map_does_beyond_a_shift_may_be_harm(planted):
    assert "removes -" in transported(planted, 0.9, **COMMON, ridge_cv=0.9, kernel_ridge=0.9)


def of_heads(effects, split="val", seed=0):
    points = {(("layer", layer), ("heads", str(head))): (0.1, effect) for (layer, head), effect in effects.items()}
    return lines(points, seed=seed, noise=0.01, split=split, stream="heads")


@pytest.mark.parametrize(
    ("val", "says"),
    [
        ({(0, 0): 0.3, (0, 1): 0.1, (1, 0): 0.1}, "none of 2 others tie"),
        ({(0, 0): 0.3, (0, 1): 0.3, (1, 0): 0.1}, "1 of 2 others tie"),
        ({(0, 0): 0.1, (0, 1): 0.3, (1, 0): 0.1}, "on val 1 are clearly larger"),
    ],
)
def test_the_best_head_is_chosen_on_train_and_its_ties_are_named(planted, val, says):
    planted.add("rq4", "heads_train", of_heads({(0, 0): 0.4, (0, 1): 0.2, (1, 0): 0.1}, "train", 1))
    planted.add("rq4", "heads", of_heads(val))
    assert "head 0 of layer 0" in planted.says("heads") and says in planted.says("heads")


def test_the_best_module(planted):
    points = {(("layer", 2), ("stream", "mlp_out")): (0.1, 0.4), (("layer", 2), ("stream", "attn_out")): (0.1, 0.1)}
    for name, split in (("transplant", "val"), ("transplant_train", "train")):
        planted.add("rq1", name, lines(points, split=split))
    assert "the MLP of layer 2" in planted.says("transplant")


def test_the_first_tokens_of_the_answer(planted):
    planted.add("rq1", "patch_answer", lines(over("layer", {3: 0.2}), noise=0.01, stream="resid_post"))
    assert "layer 3's state recovers 0.20" in planted.says(
        "answer"
    ) and "At the first token alone it recovers 0.59" in planted.says("answer")


def test_nothing_stored_is_nothing_said(tmp_path):
    empty = StoredSweep("none", "here", DIRECTION, (tmp_path,))
    assert list(readings(empty)) == [] and by_layer(empty).empty
