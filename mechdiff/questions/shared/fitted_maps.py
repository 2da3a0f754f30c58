"""The fitted maps that conditions need: train states read, maps and their controls fitted, scales found out of fold."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property, lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from mechdiff.common.bounded import Bounded
from mechdiff.common.cache import Store, key
from mechdiff.common.terms import COMPLETION, FITTED, STREAMS, UNSCALED, sides
from mechdiff.engine.build_rows import FROM, Site, SiteMap
from mechdiff.inputs.prompts import Prompt
from mechdiff.maths.linalg import in_parallel
from mechdiff.maths.linear_maps import (
    PROMPT_FOLDS,
    TEMPLATE_FOLDS,
    Map,
    PcaSpread,
    folds,
    output_directions,
    pca_spread,
    random_orthogonal,
    random_rotation,
    size_ratios,
)
from mechdiff.maths.named_maps import fit_of
from mechdiff.maths.whitened import WhitenedMap, fit_whitened
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Question, folds_of, positions_of, shrink_of
from mechdiff.questions.shared.states import States

IN_MEMORY = 1 << 30  # bytes of fitted maps that stay in memory for the next request

OTHER = "other-layer"
Kind = tuple[str, str]  # map, control


class Needs(NamedTuple):
    """What is needed of a site's map: its alpha, its output directions, its whitened form, and the alphas of cuts of that.

    difference: the mean and the directions of donor - recipient.
    """

    alpha: bool = False
    directions: bool = False
    whitened: bool = False
    ranks: tuple[int, ...] = ()
    difference: bool = False


def nbytes(site_map: SiteMap) -> int:
    maps = [site_map.full, *([site_map.whitened] if site_map.whitened else [])]
    tensors = [value for made in maps for value in vars(made).values() if isinstance(value, Tensor)]
    return sum(t.nbytes for t in (*tensors, site_map.directions, *(site_map.difference or ())) if t is not None)


_maps: Bounded[str, SiteMap] = Bounded(IN_MEMORY, nbytes)


class FittedMaps:
    """The maps of one run, from its train split. A site is (map, control, layer, stream)."""

    def __init__(self, run: Question, identity: Identity, store: Store, streams: tuple[str, ...]):
        self.run, self.identity = run, identity
        positions = positions_of(run)
        stored = STREAMS if positions == 1 else streams  # many positions fill the disk: only what is needed
        self.states = States(identity, run.train_prompts, store, positions, run.seed, stored)
        self.val = States(identity, run.val_prompts, store) if identity.scale else None  # for scales that are taken from val
        self.fit_of = partial(fit_of, shrink=shrink_of(run))
        self.donor, self.recipient = sides(run.direction)
        self.depth = run.spec.layers

    @cached_property
    def templates(self) -> Tensor:
        """The template of each train row, from zero, [rows]."""
        return template_index(self.run.train_prompts)[self.states.groups]

    def waiting(self) -> int:
        """Train prompts, counted once per side, whose states are still to be computed."""
        return sum(len(block) for states in (self.states, self.val) if states for _, block in states.missing())

    def steps(self) -> Iterator[int]:
        yield from self.states.steps()
        if self.val is not None:
            yield from self.val.steps()

    def _names(self, sites: dict[Site, Needs]) -> dict[Site, str]:
        basis = self.identity.train | self.identity.pair | {"direction": self.run.direction}
        scale = self.identity.scale
        return {site: key(site=site, needs=needs, **basis, **(scale if needs[0] else {})) for site, needs in sites.items()}

    def in_memory(self, sites: dict[Site, Needs]) -> dict[Site, SiteMap]:
        """Those of the sites' maps that are in memory, and so need no train states."""
        cached = {site: _maps.get(name) for site, name in self._names(sites).items()}
        return {site: site_map for site, site_map in cached.items() if site_map is not None}

    def fit(self, sites: dict[Site, Needs]) -> Iterator[dict[Site, SiteMap]]:
        """Every site's map, a stream at a time: fitted, where it is not in memory."""
        names = self._names(sites)
        for stream in dict.fromkeys(site[3] for site in sites):
            here = {site: needs for site, needs in sites.items() if site[3] == stream}
            cached = self.in_memory(here)
            lacking = {site: needs for site, needs in here.items() if site not in cached}
            fitted = self._fit_stream(stream, lacking) if lacking else {}
            for site, site_map in fitted.items():
                _maps.put(names[site], site_map)
            yield cached | fitted

    def _fit_stream(self, stream: str, sites: dict[Site, Needs]) -> dict[Site, SiteMap]:
        """Every layer by itself, over the cores: what one layer needs stays in a core's cache."""
        x, y = (self.states.read(side, stream) for side in (self.donor, self.recipient))
        val = self.val and (self.val.read(self.donor, stream), self.val.read(self.recipient, stream))
        layers: dict[int, list[Site]] = defaultdict(list)
        for site in sites:
            layers[site[2]].append(site)
        parts = in_parallel(lambda here: self._fit_layer(x, y, val, {site: sites[site] for site in here}), layers.values())
        return {site: site_map for part in parts for site, site_map in part.items()}

    def _fit_layer(
        self, x: Tensor, y: Tensor, val: tuple[Tensor, Tensor] | None, sites: dict[Site, Needs]
    ) -> dict[Site, SiteMap]:
        """The maps of one layer's sites. x, y: both sides' states, [layers, n, d]. val: the same of the rows that scales are
        taken from, where these are not the train rows.
        """

        @lru_cache
        def at(layer: int) -> tuple[PcaSpread, PcaSpread]:
            left, right = (states[layer : layer + 1].to(self.identity.device) for states in (x, y))
            return pca_spread(left, self.templates), pca_spread(right)

        maps, layer = {}, next(iter(sites))[2]
        mean = at(layer)[1].mean[0]
        rows = val and [states[layer].to(self.identity.device) for states in val]
        scaled_kinds = [] if rows else [site[:2] for site, (scaled, *_) in sites.items() if scaled]
        ratios = self._ratios(scaled_kinds, *at(layer))
        for site, (scaled, cuts, whitened, ranks, differences) in sites.items():
            name, control = site[:2]
            source, partner = at(self.source(layer, control))
            fitted = self._controlled(name, control, source, partner)
            between = fit_whitened(source, self._partner(control, partner))[0] if whitened else None
            alpha, by_rank = None, {}
            if scaled and rows and name in FITTED and name not in UNSCALED:
                alpha = size_ratios(fitted, rows[0][None], rows[1][None]).quantile(0.5).item()
                by_rank = {rank: cut_scale(between, rank, rows[0], rows[1]) for rank in ranks if between}
            elif scaled:
                unseen = ratios.get((name, control))
                alpha = self._scale(name, control, fitted, *at(layer)) if unseen is None else unseen.quantile(0.5).item()
            directions = output_directions(fitted, source)[0] if cuts else None
            change = self._difference(control, source.states[0], partner.states[0]) if differences else None
            maps[site] = SiteMap(fitted[0], mean, alpha, directions, between, by_rank, change)
        return maps

    def _difference(self, control: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of donor - recipient over train rows, [d], and the directions of what is left of it, [d, r], largest first.

        As controls: random directions, and those of differences between rows that do not belong together.
        """
        if control == "random":
            mean, directions = (x - y).double().mean(0), random_orthogonal(x.shape[-1], self.run.seed, x.device)
            return mean, directions
        order = shuffle(len(y), self.run.seed) if control == "shuffled" else torch.arange(len(y))
        spread = pca_spread((x - y[order])[None])
        return (x - y).double().mean(0), spread.directions[0]

    def source(self, layer: int, control: str) -> int:
        """The layer whose states a site's map is fitted on."""
        if control.startswith(FROM):
            return int(control.removeprefix(FROM))
        return self.other(layer) if control == OTHER else layer

    def other(self, layer: int) -> int:
        """The layer whose map stands in as a control: half the depth away."""
        return (layer + self.depth // 2) % self.depth

    def _controlled(self, name: str, control: str, x: PcaSpread, y: PcaSpread) -> Map:
        """The map of a name, or the control that takes its place."""
        fit = self.fit_of(name, self.run.seed + (control == COMPLETION))
        if control == "random":
            return random_rotation(fit(x, y), x, y, self.run.seed)
        return fit(x, self._partner(control, y))

    def _partner(self, control: str, y: PcaSpread) -> PcaSpread:
        """The recipient's states that a map is fitted to."""
        return y.pick(shuffle(y.states.shape[-2], self.run.seed)) if control == "shuffled" else y

    def _ratios(self, kinds: list[Kind], x: PcaSpread, y: PcaSpread) -> dict[Kind, Tensor]:
        """||y|| / ||mapped|| of every train row, mapped by a fit without it: kind -> [rows]. For maps fitted on these pairs."""
        order = shuffle(y.states.shape[-2], self.run.seed)
        pairing = {"none": torch.arange(len(order)), "shuffled": order}
        kinds = [kind for kind in kinds if kind[0] in FITTED and kind[0] not in UNSCALED and kind[1] in pairing]
        ratios, by_template = defaultdict(list), folds_of(self.run) == "templates"
        groups, most = (self.templates, TEMPLATE_FOLDS) if by_template else (self.states.groups, PROMPT_FOLDS)
        for rest, held in folds(groups, self.run.seed, most) if kinds else ():
            part_x = pca_spread(x.states[:, rest], self.templates[rest])
            for control in sorted({control for _, control in kinds}):
                partner = pairing[control]
                part_y = pca_spread(y.states[:, partner[rest]])
                for kind in (kind for kind in kinds if kind[1] == control):
                    part = self.fit_of(kind[0], self.run.seed)(part_x, part_y)
                    ratios[kind].append(size_ratios(part, x.states[:, held], y.states[:, partner[held]])[0])
        return {kind: torch.cat(parts) for kind, parts in ratios.items()}

    def _scale(self, name: str, control: str, fitted: Map, x: PcaSpread, y: PcaSpread) -> float:
        """Alpha of a map that has not seen these pairs: it needs no folds. Fixed and unscaled maps keep their scale."""
        return 1.0 if control == "none" or name in UNSCALED else size_ratios(fitted, x.states, y.states).quantile(0.5).item()


def cut_scale(between: WhitenedMap, rank: int, x: Tensor, y: Tensor) -> float:
    """The median of ||y|| / ||mapped|| over rows, mapped by a cut between whitened states. x, y: [n, d]."""
    mapped = between.cut(x.double(), [(1.0, rank)])[:, 0]
    return (y.double().norm(dim=-1) / mapped.norm(dim=-1).clamp(min=1e-300)).quantile(0.5).item()


def template_index(prompts: list[Prompt]) -> Tensor:
    """The template of each prompt, from zero, [prompts]."""
    names = {name: number for number, name in enumerate(dict.fromkeys(prompt.template for prompt in prompts))}
    return torch.tensor([names[prompt.template] for prompt in prompts])


def shuffle(rows: int, seed: int) -> Tensor:
    """A seeded order of rows that breaks their pairing."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + 1))
