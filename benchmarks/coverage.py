"""python -m benchmarks.coverage: how often 95 % intervals contain the truth, on populations made from stored effects.

A population is the effects of real templates, three prompts each, of one condition, or of two that are compared (in
coverage_populations.parquet: 25 of them, cut from the stored sweeps of both demo pairs). A sample draws templates with
replacement; each is multiplied by a log-normal factor, jointly for what is compared, shrunk so that the variance of the logarithm
is kept. So populations are continuous, and their true values are known. Deterministic: about two minutes.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import Templates, difference, wilson

POPULATIONS = Path(__file__).with_name("coverage_populations.parquet")
PROMPTS = 3  # of every template in a population
KERNEL = 0.35  # standard deviation of the factor, as a share of that between templates, in the logarithm
DESIGNS = {"20 x 3": [3] * 20, "32 x 1": [1] * 32, "50 x 3": [3] * 50, "150 x 1": [1] * 150}  # templates x prompts
BARS = {"32 x 1": 88, "150 x 1": 93}  # per cent that the lower end of every population's coverage should reach
BLOCK = 200  # samples whose intervals use the same resamples
KINDS = {
    "mean": "mean",
    "ratio": "ratio of means",
    "paired": "paired difference",
    "indep": "difference of independent means",
}


class Population:
    """Templates of one condition, or of two that are compared. effects: [templates, prompts, conditions]."""

    def __init__(self, effects: np.ndarray):
        self.effects = np.maximum(effects, 1e-12)
        level = np.log(self.effects).mean(1)
        covariance = KERNEL**2 * np.atleast_2d(np.cov(level.T))
        shrink = np.sqrt(1 + KERNEL**2)
        self.root = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(covariance))) / shrink
        self.shift = (level.mean(0) - level) * (1 - 1 / shrink)
        factor = np.exp(self.shift + np.diag(covariance) / (2 * shrink**2))
        self.truth = (self.effects * factor[:, None]).mean((0, 1))  # of each condition

    def draw(self, rng: np.random.Generator, samples: int, sizes: list[int]) -> np.ndarray:
        """[prompts, samples, conditions]; a template's prompts stand side by side. sizes: prompts of each template."""
        picked = rng.integers(0, len(self.effects), (samples, len(sizes)))
        noise = rng.standard_normal((samples, len(sizes), self.effects.shape[2])) @ self.root.T
        factor = np.exp(self.shift[picked] + noise)
        order = rng.random((samples, len(sizes), PROMPTS)).argsort(2)
        values = np.take_along_axis(self.effects[picked], order[..., None], 2) * factor[:, :, None]
        of_template = np.concatenate([np.arange(PROMPTS) < size for size in sizes])
        return values.reshape(samples, -1, values.shape[-1])[:, of_template].transpose(1, 0, 2)


def populations(table: pd.DataFrame) -> dict[str, tuple[str, list[Population]]]:
    """Name -> kind, and its populations: two of a difference of independent means."""
    by_name = {}
    for (name, kind), lines in table.groupby(["population", "kind"], sort=False, observed=True):
        sides = [
            side.sort_values(["template", "prompt"])["value"].to_numpy(float).reshape(-1, PROMPTS, 1)
            for _, side in lines.groupby("side")
        ]
        by_name[name] = kind, [Population(side) for side in (sides if kind == "indep" else [np.concatenate(sides, 2)])]
    return by_name


def truth(kind: str, members: list[Population]) -> float:
    values = np.concatenate([member.truth for member in members])
    return values[0] / values[1] if kind == "ratio" else values[0] - values[1] if len(values) > 1 else values[0]


def ends(kind: str, draws: list[np.ndarray], sizes: list[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval of every sample. draws: of each population."""
    clusters, first = np.repeat(np.arange(len(sizes)), sizes), draws[0][..., 0]
    templates = Templates(clusters, 2 * seed)
    if kind == "indep":
        other = Templates(clusters, 2 * seed + 1).average(draws[1][..., 0])
        _, low, high = difference(other, templates.average(first), paired=False)
    elif kind == "ratio":
        _, low, high = templates.ratio(first, draws[0][..., 1])
    else:
        _, low, high = templates.mean(first - draws[0][..., 1] if kind == "paired" else first)
    return low, high


def coverage(samples: int, only: str = "") -> pd.DataFrame:
    """A row per population and design: how many intervals contain the truth, lie above it, and below it, of `samples`."""
    rows = []
    for number, (name, (kind, members)) in enumerate(populations(pd.read_parquet(POPULATIONS)).items()):
        if only not in name:
            continue
        true = truth(kind, members)
        for place, (design, sizes) in enumerate(DESIGNS.items()):
            counts = np.zeros(3, int)
            for block in range(samples // BLOCK):
                rng = np.random.default_rng([7, number, place, block])
                low, high = ends(kind, [member.draw(rng, BLOCK, sizes) for member in members], sizes, block)
                counts += ((low <= true) & (true <= high)).sum(), (low > true).sum(), (high < true).sum()
            rows.append((KINDS[kind], name, design, *counts))
    return pd.DataFrame(rows, columns=["kind", "population", "design", "inside", "above", "below"])


def report(table: pd.DataFrame) -> str:
    """The coverage as a markdown table, a row per kind and design; and what falls short of BARS."""
    total = table[["inside", "above", "below"]].sum(axis=1)
    table = table.assign(
        share=100 * table["inside"] / total, least=[100 * wilson(*pair)["low"] for pair in zip(table["inside"], total)]
    )
    lines = ["| templates x prompts | interval of a | covers, mean (least) | least, lower end | too high | too low |"]
    lines += ["|---|---|---|---|---|---|"]
    for (design, kind), part in table.groupby(["design", "kind"], sort=False):
        above, below = (100 * part[side].sum() / total[part.index].sum() for side in ("above", "below"))
        shares = f"{part['share'].mean():.1f} ({part['share'].min():.1f}) % | {part['least'].min():.1f} %"
        lines.append(f"| {design} | {kind} | {shares} | {above:.1f} % | {below:.1f} % |")
    short = table[table["least"] < table["design"].map(BARS)]
    lines += [
        f"\nBelow {BARS[line.design]} %: {line.population}, {line.design}: {line.least:.1f} %" for line in short.itertuples()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--samples", type=int, default=4000, help=f"a multiple of {BLOCK} (default: 4000)")
    parser.add_argument("--only", default="", help="populations whose name contains this")
    options = parser.parse_args()
    print(report(coverage(options.samples, options.only)))


if __name__ == "__main__":
    main()
