"""What two tokenizers share: the token strings that both have, and how much of a prompt they make up. Needs no torch.

If two models have the same vocabulary, their next-token distributions are compared as they are. Otherwise both are restricted to
the strings that both models have, and renormalised; the probability that this leaves out is reported next to the result.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from mechdiff.common import cache
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES, sides
from mechdiff.inputs.pair_file import Pair, file_hash
from mechdiff.inputs.prompts import Prompt, digest
from mechdiff.inputs.tokenizers import Tokenizers, load_tokenizers

MASSES = ("shared_mass_donor", "shared_mass_recipient")  # columns: the clean probability of the shared strings, by prompt
COUNTS = ("shared_strings", "of_base", "of_tuned")  # stored with every value, so that a repeat needs no tokenizer
ENOUGH = 2  # strings: over fewer, every distribution is the same


@dataclass(frozen=True)
class Vocabulary:
    """The token strings that both models have.

    base, tuned: their ids in each model, in the order of the base's ids. sizes: how many tokens each model has.
    """

    base: Int[np.ndarray, " n"]
    tuned: Int[np.ndarray, " n"]
    sizes: tuple[int, int]

    @cached_property
    def counterparts(self) -> dict[str, dict[int, int]]:
        """side -> each of its shared ids with the other model's id of the same string."""
        base, tuned = self.base.tolist(), self.tuned.tolist()
        return {"base": dict(zip(base, tuned)), "tuned": dict(zip(tuned, base))}

    def across(self, ids: Iterable[int], side: str) -> list[int]:
        """The other model's ids of a side's tokens, without those that it does not have."""
        counterparts = self.counterparts[side]
        return [counterparts[token] for token in ids if token in counterparts]

    @property
    def counts(self) -> dict[str, Float[np.ndarray, "1 1"]]:
        """COUNTS as arrays, to be stored with the values that were measured over this vocabulary."""
        return {name: np.full((1, 1), value, np.float32) for name, value in zip(COUNTS, (len(self.base), *self.sizes))}

    def __str__(self) -> str:
        return label(len(self.base))


def shared_vocabulary(tokenizers: Tokenizers, rows: tuple[int, int]) -> Vocabulary | None:
    """The tokens that two models share by their strings, special tokens too; None if both have the same vocabulary.

    rows: of each model's unembedding. Rows without a token are padding and never shared, nor is a token without a row. Raises
    UserError if there is nothing to compare.
    """
    if tokenizers.shared and rows[0] == rows[1]:
        return None
    base, tuned = (
        {string: token for string, token in getattr(tokenizers, side).get_vocab().items() if token < count}
        for side, count in zip(SIDES, rows)
    )
    both = sorted((token, tuned[string]) for string, token in base.items() if string in tuned)
    if len(both) < ENOUGH:
        raise UserError(
            f"{tokenizers.pair.name}: the two tokenizers have {len(both)} token strings in common, so no next-token "
            f"distributions can be compared.\nTry:  python -m mechdiff run drift --pair {tokenizers.pair.name}"
        )
    ids = np.array(both, np.int64)
    return Vocabulary(ids[:, 0], ids[:, 1], (len(base), len(tuned)))


def vocabulary_of(loaded: Any) -> Vocabulary | None:
    """What the models of a LoadedPair share; None if they have the same vocabulary. Cached with its tokenizers."""
    rows = loaded.base.vocabulary, loaded.tuned.vocabulary
    cached = loaded.tokenizers.vocabularies
    if rows not in cached:
        cached[rows] = shared_vocabulary(loaded.tokenizers, rows)
    return cached[rows]


def label(strings: int) -> str:
    """A cell of a table's column `vocabulary`."""
    return f"{strings} shared strings"


def without_counts(values: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str | None]:
    """The values without COUNTS, and the cell of the column `vocabulary`: None for a whole vocabulary."""
    if COUNTS[0] not in values:
        return values, None
    return {name: array for name, array in values.items() if name not in COUNTS}, label(int(np.nanmax(values[COUNTS[0]])))


def summary(values: dict[str, Float[np.ndarray, "conditions prompts"]], direction: str) -> dict | None:
    """The vocabulary that effects were measured over, for manifests; None for a whole one.

    values: by measure. Returns COUNTS and, by side, the clean probability of the shared strings: mean and lowest over prompts.
    """
    if COUNTS[0] not in values:
        return None
    mass = {}
    for side, name in zip(sides(direction), MASSES):
        measured = values[name][:, ~np.isnan(values[name]).all(0)]
        by_prompt = np.nanmax(measured, 0).astype(float)
        mass[side] = {"mean": by_prompt.mean().item(), "lowest": by_prompt.min().item()}
    return {name: int(np.nanmax(values[name])) for name in COUNTS} | {"mass": {side: mass[side] for side in SIDES}}


def message(about: dict) -> str:
    """A `summary` as a sentence."""
    shares = ", ".join(f"{percent(about['shared_strings'] / about[f'of_{side}'])} of {side}" for side in SIDES)
    clean = ", ".join(f"{side} {percent(mass['mean'])} [{percent(mass['lowest'])}]" for side, mass in about["mass"].items())
    return (
        f"Effects over the {about['shared_strings']} token strings that both vocabularies share ({shares}), renormalised; "
        f"clean probability mass on them, mean over prompts [lowest]: {clean}."
    )


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def one_tokenizer(pair: Pair) -> bool:
    """Whether both models certainly use the same tokenizer, judged by their files alone."""
    if pair.base.content:  # models in memory have been given one tokenizer
        return True
    base, adapter = pair.base.local(), pair.tuned.adapter_folder()
    tuned = adapter if adapter is not None and (adapter / "tokenizer_config.json").exists() else pair.tuned.local()
    if base == tuned:
        return True
    files = [folder / "tokenizer.json" for folder in (base, tuned)]
    if not all(file.exists() for file in files):
        return False
    hashes = {file_hash(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files}
    return len(hashes) == 1


# How much of a prompt both tokenizers have


def shared_strings(tokenizers: Tokenizers) -> set[str]:
    """The token strings that both tokenizers have."""
    return tokenizers.base.get_vocab().keys() & tokenizers.tuned.get_vocab().keys()


def shared_ratio(tokenizers: Tokenizers, text: str, strings: set[str]) -> float:
    """The share of a prompt's own tokens, without a template, that are among the strings: that of the tokenizer with fewer.

    Source: the fairness filter of the study CultShift vs CogShift, which asks a least share of either tokenizer.
    """
    shares = []
    for side in SIDES:
        tokens = getattr(tokenizers, side).tokenize(text)
        shares.append(sum(token in strings for token in tokens) / max(1, len(tokens)))
    return min(shares)


def shared_ratios(pair: Pair, prompts: list[Prompt]) -> Float[np.ndarray, " prompts"]:
    """The shared ratio of every prompt. Cached on disk, so that a repeat needs no tokenizer."""
    identity = {"base": pair.base.fingerprint(), "tuned": pair.tuned.fingerprint()}
    name = cache.key(what="least shared ratios", texts=digest(prompts), **identity)
    if (cached := cache.default().arrays(name)) is not None:
        return cached["ratios"]
    tokenizers = load_tokenizers(pair)
    strings = shared_strings(tokenizers)
    ratios = np.array([shared_ratio(tokenizers, prompt.text, strings) for prompt in prompts])
    cache.default().put_arrays(name, {"ratios": ratios})
    return ratios


def with_shared_tokens(pair: Pair, prompts: list[Prompt], least: float, split: str) -> list[Prompt]:
    """The prompts whose shared ratio is at least `least`. Raises UserError, with the best ratio, if there are none."""
    ratios = shared_ratios(pair, prompts)
    sufficient = [prompt for prompt, ratio in zip(prompts, ratios) if ratio >= least]
    if not sufficient:
        best = int(100 * ratios.max()) / 100
        raise UserError(
            f"No {split} prompt has a shared ratio of {least:g}: the best of {len(prompts)} prompts has {ratios.max():.3f} of "
            f"its tokens, in either tokenization, in both tokenizers of {pair.name}.\nTry:  --min-shared-ratio {best:g}"
        )
    return sufficient
