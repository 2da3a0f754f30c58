"""What each page of the app asks: pure functions of its selection, and of what a stored sweep already answers.

The pages draw the answers, `talk prepare` computes them in advance, and a bundle holds them.
"""

from collections.abc import Callable
from typing import Any

import pandas as pd

from mechdiff.common.terms import DIFFERENCE, DIRECTIONS, FITTED, MAP_CONTROLS, WHITENED
from mechdiff.engine.intervention import Condition
from mechdiff.questions import EffectQuestion, Question
from mechdiff.questions.behaviour import Behaviour
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.shared.mapped import MappedQuestion
from mechdiff.questions.shared.request import FULL
from mechdiff.reporting import chart_tables
from mechdiff.reporting.selection import Selection
from mechdiff.study.artifacts import stored_lines
from mechdiff.study.sweep_plan import ANSWER, NEUTRAL

MODULES = ("attn_out", "mlp_out")
STRIDES = (8, 4, 2)  # of layers, from coarse to fine


def behaviour(selection: Selection) -> Behaviour:
    run = selection.run("behaviour", direction=DIRECTIONS[0])
    assert isinstance(run, Behaviour)
    return run


def drift(selection: Selection) -> Question:
    return selection.run("drift", streams=(selection.stream,))


def patch(selection: Selection) -> EffectQuestion:
    of_train = {"statistics": "train"} if selection.map in FITTED else {}  # such a map is never fitted on the prompts themselves
    return effects(selection, "patch", streams=(selection.stream,), map=selection.map, controls=("self",), **of_train)


def everywhere(selection: Selection) -> list[Question]:
    """Patches of all tokens' states: every eighth layer, then those between, and at last every layer and the embedding."""
    layers = [tuple(range(stride - 1, selection.spec.layers, stride)) for stride in STRIDES]
    whole: dict[str, Any] = {"replace": "all", "map": "none", "controls": (), "streams": ("resid_post",)}
    return [selection.run("patch", **whole | ({"layers": at} if at else {})) for at in (*filter(None, layers), ())]


def at_the_layer(selection: Selection) -> list[Question]:
    """The chosen layer's patch over the first tokens of the donor's answer, and the shift of neutral prompts there."""
    site: dict[str, Any] = {"layers": (selection.chosen_layer,), "controls": ("self",)}
    runs = [selection.run("patch", horizon=ANSWER, map="none", **site)]
    if selection.domain != NEUTRAL:
        runs.append(selection.run("rank", **site | {"basis": DIFFERENCE, "ranks": ("0", FULL), "train": NEUTRAL}))
    return runs


def next_tokens(selection: Selection) -> NextTokens | None:
    """The chosen prompt's next tokens with the chosen state replaced; there only for the donor's state as it is."""
    if selection.map != "none":
        return None
    run, spec = patch(selection), selection.spec
    heads = tuple(range(spec.heads)) if selection.stream == "heads" else None
    last = len(run.chosen_prompts) - 1
    condition = Condition(selection.chosen_layer, selection.stream, selection.map, heads=heads)
    return NextTokens(run, condition, min(max(selection.prompt, 0), last))


def transplants(selection: Selection) -> tuple[Question, Question]:
    """Both modules of every layer, and the chosen layer's single heads."""
    return (
        selection.run("transplant", streams=MODULES, controls=("self",)),
        selection.run("transplant", streams=("heads",), layers=(selection.chosen_layer,), controls=("self",)),
    )


def mapped(selection: Selection, question: str, **details: Any) -> MappedQuestion:
    """A question about the chosen fitted map."""
    site = {"map": selection.fit, "streams": (selection.stream,), "alpha": (selection.alpha,)}
    run = selection.run(question, **site | {"controls": ("self",)} | details)
    assert isinstance(run, MappedQuestion)
    return run


def transport(selection: Selection) -> MappedQuestion:
    return mapped(selection, "transport", layers=(selection.chosen_layer,))


def transport_curve(selection: Selection, stored: bool) -> MappedQuestion:
    """Every layer. stored: whether a sweep already gives its controls."""
    return mapped(selection, "transport", **({} if stored else {"controls": ("self", "mean")}))


def rank(selection: Selection) -> MappedQuestion:
    if selection.basis == DIFFERENCE:
        return of_difference(selection, ranks=(selection.rank,), controls=("self",))
    return mapped(selection, "rank", basis="map", layers=(selection.chosen_layer,), ranks=(selection.rank,), **cut(selection))


def of_difference(selection: Selection, **details: Any) -> MappedQuestion:
    """Cuts of the observed difference at the chosen site."""
    site = {"basis": DIFFERENCE, "streams": (selection.stream,), "layers": (selection.chosen_layer,)}
    run = selection.run("rank", **site | details)
    assert isinstance(run, MappedQuestion)
    return run


def cut(selection: Selection) -> dict[str, Any]:
    """What is cut, as a request says it: the map between whitened states, or its outputs with a complement."""
    if selection.complement == WHITENED:
        return {"cut": WHITENED}
    return {"cut": "output", "complement": (selection.complement,)}


def rank_curve(selection: Selection, stored: bool) -> MappedQuestion:
    """Every rank at the chosen layer. stored: whether a sweep already gives its controls."""
    if selection.basis == DIFFERENCE:
        return of_difference(selection, controls=("self",) if stored else ("self", "random"))
    whole = {} if selection.complement != WHITENED else cut(selection)
    named = tuple(name for name in MAP_CONTROLS if name != "random" or not whole)
    controls = {} if stored else {"controls": ("self", "mean", *named)}
    return mapped(selection, "rank", basis="map", layers=(selection.chosen_layer,), **whole, **controls)


def heads_together(selection: Selection) -> EffectQuestion:
    """The chosen heads in one set, or all of them."""
    chosen = ",".join(map(str, selection.chosen_heads)) or "all"
    layers = (selection.chosen_layer,)
    return effects(selection, "heads", layers=layers, head_sets=chosen, blend=selection.blend, controls=("self",))


def single_heads(selection: Selection) -> EffectQuestion:
    """Every head of every layer, alone."""
    return effects(selection, "heads", head_sets="each", blend=selection.blend)


def coverage(selection: Selection) -> list[EffectQuestion]:
    """Sets of heads of every size at the chosen layer: random ones, then those chosen on the train split."""
    where = {"layers": (selection.chosen_layer,), "blend": selection.blend, "controls": ("self",)}
    return [effects(selection, "heads", head_sets=name, **where) for name in ("random", "topk", "greedy")]


def weights(selection: Selection, **details: Any) -> Question:
    return selection.run("weights", limit=None, **details)


def overlap(selection: Selection) -> Overlap:
    """The changes' output directions at the chosen layer against those of the fitted map."""
    return Overlap(weights(selection, map=selection.fit, layers=(selection.chosen_layer,)))


def question(selection: Selection, name: str, values: dict[str, Any]) -> Question:
    """A question without a page of its own. values: those of its fields that its form has."""
    return selection.run(name, **values)


def effects(selection: Selection, question: str, **details: Any) -> EffectQuestion:
    run = selection.run(question, **details)
    assert isinstance(run, EffectQuestion)
    return run


def stored_over_layers(run: Any, lines: Callable[..., pd.DataFrame] = stored_lines) -> pd.DataFrame:
    """Stored transport at the run's stream: its map at its alpha, zscore, and the controls that belong to them.

    lines: what reads the stored lines of a run.
    """
    stream, alpha = run.streams[0], run.alpha[0]
    every = lines(run, "rq2", "transport_summary", stream=stream)
    scaled = lines(run, "rq2", "alpha_summary", stream=stream, map=run.map, alpha=alpha)
    return chart_tables.of_uncut(every, scaled, run.map, alpha)


def stored_over_ranks(run: Any, lines: Callable[..., pd.DataFrame] = stored_lines) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Stored rank cuts at the run's site: its map at its alpha with the controls; and all maps, and its own at every alpha."""
    where = {"layer": run.layers[0], "stream": run.streams[0]}
    every = lines(run, "rq3", "rank_summary", **where)
    scaled = lines(run, "rq3", "alpha_summary", **where, map=run.map)
    return chart_tables.of_cut(every, scaled, run.map, run.alpha[0]), chart_tables.join(every, scaled)


def stored_difference(run: Any, lines: Callable[..., pd.DataFrame] = stored_lines) -> pd.DataFrame:
    """Stored cuts of the difference at the run's site."""
    return lines(run, "rq3", "difference_summary", layer=run.layers[0], stream=run.streams[0])


def of_patching(selection: Selection) -> list:
    tokens = next_tokens(selection)
    chosen = [patch(selection), *([] if tokens is None else [tokens])]
    return chosen + ([*transplants(selection)] if "transplants" in selection.switches else [])


def of_transport(selection: Selection) -> list:
    run = transport(selection)
    if "curve" not in selection.switches:
        return [run]
    return [run, transport_curve(selection, len(stored_over_layers(run)) > 0)]


def of_rank(selection: Selection) -> list:
    if selection.basis != DIFFERENCE and selection.fit not in FITTED:
        return []
    run = rank(selection)
    if "ranks" not in selection.switches:
        return [run]
    stored = stored_difference(run) if selection.basis == DIFFERENCE else stored_over_ranks(run)[0]
    return [run, rank_curve(selection, len(stored) > 0)]


def of_heads(selection: Selection) -> list:
    sets = coverage(selection) if "coverage" in selection.switches else []
    return [heads_together(selection), single_heads(selection), *sets]


def of_weights(selection: Selection) -> list:
    compared = "overlap" in selection.switches and selection.fit in FITTED
    return [weights(selection), *([overlap(selection)] if compared else [])]


PAGES: dict[str, Callable[[Selection], list]] = {
    "home": lambda selection: [behaviour(selection)] if "behaviour" in selection.switches else [],
    "drift": lambda selection: [drift(selection)],
    "patching": of_patching,
    "transport": of_transport,
    "rank": of_rank,
    "heads": of_heads,
    "weights": of_weights,
}


def requests(page: str, selection: Selection) -> list:
    """Everything that a page computes for a selection, in the order in which it is drawn; nothing for a page of stored sweeps."""
    return PAGES[page](selection) if page in PAGES else []
