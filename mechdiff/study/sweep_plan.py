"""What a sweep asks: every question of a pair on a domain, as tables of requests."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechdiff.common.terms import (
    COMPLETION,
    DIRECTIONS,
    FITTED,
    MAP_CONTROLS,
    MAPS,
    MODULE_STREAMS,
    OUR_MAP,
    STREAMS,
    STUDYS_MAP,
    UNSCALED,
)
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.vocabularies import one_tokenizer
from mechdiff.questions import QUESTIONS, EffectQuestion, Question, Run
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.shared.fields import ALL
from mechdiff.questions.shared.request import AUTO
from mechdiff.questions.transport import Transport

MAPPED_STREAMS = ("resid_post", "attn_out", "mlp_out")
OURS = tuple(name for name in MAPS if name != STUDYS_MAP)  # the study's own belongs to its protocol
SCALED = "procrustes_scaled"  # the study's map without what is arbitrary in it
CONTROLLED = (OUR_MAP, SCALED, STUDYS_MAP)  # maps that have every control
UNCUT = ("self", "mean", *MAP_CONTROLS)
NEUTRAL = "neutral"  # the domain whose mean difference is what any prompt would show
ANSWER = 8  # tokens of the donor's answer, for the estimand beside the first one
SHARES = (0.25, 0.5, 0.75)  # of the train templates, for the learning curve
READINGS = ("train", "difference", "everywhere", "answer", "learning", "format")


@dataclass(frozen=True)
class Grid:
    """How much of the study a sweep covers.

    limit: prompts, None for all. patched, transplanted, cut: streams of patches, module transplants and cuts of maps. moved:
    uncut maps; maps: those that are cut. ranks, alphas: of the cuts, in addition to full and auto. sets: how head sets are
    chosen, in addition to single heads. readings: what the pages' readings rest on, of READINGS: the same on one train prompt
    of each template, cuts of the difference, patches at every token, an answer of ANSWER tokens, the learning curve of the map,
    the shift of neutral prompts. states: whether anything but behaviour is measured; behaviour: whether both models write.
    """

    limit: int | None = None
    patched: tuple[str, ...] = STREAMS
    transplanted: tuple[str, ...] = MODULE_STREAMS
    cut: tuple[str, ...] = MAPPED_STREAMS
    moved: tuple[str, ...] = OURS
    maps: tuple[str, ...] = (OUR_MAP, SCALED)
    ranks: tuple[str, ...] = ("1", "2", "4", "8", "16", "32", "64", "128", "full")
    alphas: tuple[str, ...] = ("0.3", "0.5", "0.8", "1.0", "1.2")
    sets: tuple[str, ...] = ("topk", "greedy", "random")
    readings: tuple[str, ...] = READINGS
    states: bool = True
    behaviour: bool = True


QUICK: dict[str, Any] = {"limit": 50, "patched": MAPPED_STREAMS, "transplanted": ("attn_out", "mlp_out"), "cut": ("resid_post",)}
QUICK |= {"moved": ("zscore", "shift", OUR_MAP), "maps": (OUR_MAP,), "ranks": ("1", "8", "32", "full"), "alphas": (), "sets": ()}
QUICK |= {"readings": ("train", "difference")}  # patches at every token are slow on a CPU
QUICK |= {"behaviour": False}  # as is writing
GRIDS = {"quick": Grid(**QUICK), "auto": Grid(alphas=()), "full": Grid(), "behaviour": Grid(states=False)}
SPOKEN = "rq1-behaviour"  # a folder with its own manifest, since behaviour can be computed alone
Request = Question | Diagnostics


@dataclass
class Table:
    """One table of a folder: the requests it joins.

    measures: what is stored prompt by prompt of residual-stream states (of any stream, for patches and heads); nothing: only a
    summary. x: the conditions of one chart, along which bands hold together.
    """

    folder: str
    name: str
    runs: Sequence[Request]
    measures: tuple[str, ...] = ()
    x: str = "layer"


EFFECT = ("kl",)
RECOVERED = ("kl", "kl_to_donor", "kl_donor_clean")


def plan(
    pair: str, domain: str | None, grid: Grid, metrics: tuple[str, ...] = (), protocol: str | None = None, **settings
) -> list[Table]:
    """Every table of a sweep. metrics: what is measured of every effect in addition. protocol: default: the pair's own.

    settings: fields of every question, such as device and min_shared_ratio. On its own domain a pair's effects are stored prompt
    by prompt; elsewhere those of patches and heads, and of the rest summaries; on a domain of another version summaries alone.
    """
    protocol = protocol or Question.own_protocol(pair)
    grid = replace(grid, **protocols.grid(protocol))
    common: dict[str, Any] = {"pair": pair, "domain": domain, "limit": grid.limit, "protocol": protocol} | settings
    spoken = [Table(SPOKEN, "behaviour", [Run("behaviour", **common)])] if grid.behaviour else []
    if not grid.states:
        return spoken
    own, older = domain is None or domain == read_pair(pair).domain, "@" in (domain or "")
    both = [common | {"direction": direction, "metrics": metrics} for direction in DIRECTIONS]
    patch = [Run("patch", streams=grid.patched, controls=("self", "mean", "random"), **c) for c in both]
    transplant = [Run("transplant", streams=grid.transplanted, controls=("self",), **c) for c in both if grid.transplanted]
    moved: list[dict[str, Any]] = [{"map": m, "streams": MAPPED_STREAMS} | c for c in both for m in grid.moved]
    cuts: list[dict[str, Any]] = [
        {"map": m, "streams": grid.cut, "ranks": grid.ranks, "alpha": (AUTO,)} | c for c in both for m in grid.maps
    ]
    tables = [
        Table("rq1", "drift", [Run("drift", streams=grid.patched, **common)]),
        Table("rq1", "patch", patch, RECOVERED),
        *([Table("rq1", "transplant", transplant, RECOVERED if own else ())] if transplant else []),
        Table("rq2", "maps", [Diagnostics(Transport(**c)) for c in moved]),
        Table(
            "rq2", "transport", [Run("transport", controls=controls_of(c["map"]), **c) for c in moved], RECOVERED if own else ()
        ),
        Table("rq3", "rank", [Run("rank", controls=controls_of_cuts(c["map"]), **c) for c in cuts], x="rank"),
        Table("rq4", "heads", [Run("heads", controls=("self", "mean"), **c) for c in both], RECOVERED, "heads"),
        *readings(grid, both, own),
        *beyond(grid, both, moved, cuts),
    ]
    tables = [replace(table, measures=()) for table in tables] if older else tables
    return [*tables, *spoken, *swept(common)]


def readings(grid: Grid, both: list[dict[str, Any]], own: bool) -> Iterator[Table]:
    """The tables that the pages' readings rest on."""
    if "train" in grid.readings:
        train = [c | {"split": "train", "controls": ("self",)} for c in both]
        modules = [stream for stream in grid.transplanted if own]
        yield Table("rq1", "patch_train", [Run("patch", **c) for c in train], RECOVERED)
        yield Table("rq4", "heads_train", [Run("heads", **c) for c in train], EFFECT if own else (), "heads")
        if modules:
            yield Table("rq1", "transplant_train", [Run("transplant", streams=modules, **c) for c in train], EFFECT)
    if "difference" in grid.readings:
        runs = [Run("rank", controls=("self", "random", "shuffled"), **c) for c in both]
        yield Table("rq3", "difference", runs, RECOVERED if own else (), "rank")
    one = one_tokenizer(read_pair(both[0]["pair"]))  # otherwise only the decision token is the same place in both
    if "everywhere" in grid.readings and one:
        yield Table("rq1", "patch_all", [Run("patch", replace=ALL, **c) for c in both], RECOVERED)
    if "answer" in grid.readings and one:
        yield Table(
            "rq1", "patch_answer", [Run("patch", horizon=ANSWER, controls=("self",), **c) for c in both], RECOVERED if own else ()
        )
    if "learning" in grid.readings and own and OUR_MAP in grid.moved:
        runs = [Run("transport", map=OUR_MAP, train_share=share, controls=("self",), **c) for c in both for share in SHARES]
        yield Table("rq2", "learning", runs, RECOVERED)
    if "format" in grid.readings and both[0]["domain"] != NEUTRAL and "train" not in both[0]:
        yield Table(
            "rq3",
            "format",
            [Run("rank", ranks=("0", "full"), train=NEUTRAL, controls=("self",), **c) for c in both],
            RECOVERED,
            "layer",
        )


def beyond(grid: Grid, both: list[dict], moved: list[dict], cuts: list[dict]) -> Iterator[Table]:
    """Scales and head sets, of which summaries are stored."""
    if grid.alphas:
        runs = [Run("transport", alpha=grid.alphas, controls=("self",), **c) for c in moved if c["map"] not in UNSCALED]
        yield Table("rq2", "alpha", runs)
        of_cuts = [c | {"alpha": grid.alphas} for c in cuts if c["map"] not in UNSCALED]
        if of_cuts:
            yield Table("rq3", "alpha", [Run("rank", controls=("self",), **c) for c in of_cuts], x="rank")
    if grid.sets:
        runs = [Run("heads", head_sets=s, controls=("self",), **c) for c in both for s in grid.sets]
        yield Table("rq4", "coverage", runs, x="heads")


def swept(common: dict[str, Any]) -> list[Table]:
    """A table for each question that says what sweeps ask of it; in both directions, if its answer is effects."""
    tables = []
    for name, kind in QUESTIONS.items():
        if kind.swept is not None:
            directions = DIRECTIONS if issubclass(kind, EffectQuestion) else DIRECTIONS[:1]
            fields: list[dict[str, Any]] = [common | kind.swept | {"direction": direction} for direction in directions]
            tables.append(Table(f"rq-{name}", name, [kind(**values) for values in fields], RECOVERED))
    return tables


def controls_of(name: str) -> tuple[str, ...]:
    """Controls of an uncut map. The fixed maps use no pairing of rows."""
    if name == STUDYS_MAP:
        return (*UNCUT, COMPLETION)
    return UNCUT if name in FITTED and name in CONTROLLED else ("self", "mean")


def controls_of_cuts(name: str) -> tuple[str, ...]:
    """Controls of a cut map. A rotation has no whitened cut."""
    if name == STUDYS_MAP:
        return tuple(control for control in UNCUT if control != "random")
    return UNCUT if name in CONTROLLED else ("mean",)
