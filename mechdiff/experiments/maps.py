"""The fitted maps that conditions need: train states read, maps and their controls fitted, scales found out of fold."""

from collections import OrderedDict, defaultdict
from collections.abc import Iterator

import torch
from torch import Tensor

from mechdiff.experiments.identity import Identity
from mechdiff.experiments.request import Run
from mechdiff.experiments.states import States
from mechdiff.interventions import Site, SiteMap
from mechdiff.store import Store, key
from mechdiff.terms import FITTED, STREAMS, sides
from mechdiff.transport import FITS, Map, Spread, folds, output_directions, random_rotation, size_ratios, spread

REMEMBERED = 1 << 30  # bytes of fitted maps kept in memory for the next request

OTHER = "other-layer"
Kind = tuple[str, str]  # map, control

SPREADS = 60  # of train states kept on a GPU

_spreads: OrderedDict[str, Spread] = OrderedDict()
_remembered: OrderedDict[str, SiteMap] = OrderedDict()


class FittedMaps:
    """The maps of one run, from its train split. A site is (map, control, layer, stream)."""

    def __init__(self, run: Run, identity: Identity, store: Store, streams: tuple[str, ...]):
        self.run, self.identity = run, identity
        kept = STREAMS if run.positions == 1 else streams  # many positions fill the disk: only what is asked for
        self.states = States(identity, run.train_prompts, store, run.positions, run.seed, kept)
        self.donor, self.recipient = sides(run.direction)
        self.depth = run.spec.layers

    def waiting(self) -> int:
        """Train prompts, counted once a side, whose states are still to be computed."""
        return sum(len(block) for _, block in self.states.missing())

    def steps(self) -> Iterator[int]:
        yield from self.states.steps()

    def fit(self, sites: dict[Site, tuple[bool, bool]]) -> Iterator[dict[Site, SiteMap]]:
        """Every site's map, a stream at a time. sites: the site -> whether its alpha, and its directions, are asked for."""
        basis = self.identity.train | self.identity.pair | {"direction": self.run.direction}
        wanted = {site: key(site=site, needs=needs, **basis) for site, needs in sites.items()}
        for stream in dict.fromkeys(site[3] for site in sites):
            here = {site: name for site, name in wanted.items() if site[3] == stream}
            lacking = [site for site, name in here.items() if name not in _remembered]
            fitted = self._fit_stream(stream, {site: sites[site] for site in lacking}) if lacking else {}
            found = {site: fitted[site] if site in fitted else _remembered[name] for site, name in here.items()}
            remember({name: found[site] for site, name in here.items()})
            yield found

    def _fit_stream(self, stream: str, sites: dict[Site, tuple[bool, bool]]) -> dict[Site, SiteMap]:
        used = {layer for _, _, layer, _ in sites} | {self.other(layer) for _, control, layer, _ in sites if control == OTHER}
        used = sorted(used)
        x, y = (self._spread(side, stream, used) for side in (self.donor, self.recipient))
        kinds: dict[Kind, list[Site]] = defaultdict(list)
        for site in sites:
            kinds[site[:2]].append(site)
        place = {kind: [used.index(site[2]) for site in members] for kind, members in kinds.items()}
        source = {k: [used.index(self.other(used[i])) for i in p] if k[1] == OTHER else p for k, p in place.items()}
        fitted = {kind: self._controlled(*kind, x.at(source[kind]), y.at(source[kind])) for kind in kinds}
        scaled = {kind: fitted[kind] for kind in kinds if any(sites[site][0] for site in kinds[kind])}
        alphas = self._alphas(scaled, place, x, y, (stream, used))
        found = {}
        for kind, members in kinds.items():
            cuts = any(sites[site][1] for site in members)
            directions = output_directions(fitted[kind], x.at(source[kind])) if cuts else [None] * len(members)
            for i, site in enumerate(members):
                alpha = alphas[kind][i] if kind in alphas else None
                found[site] = SiteMap(fitted[kind][i], y.mean[place[kind][i]], alpha, directions[i])
        return found

    def _spread(self, side: str, stream: str, used: list[int], rows: Tensor | None = None, of: Spread | None = None) -> Spread:
        """One side's states at some layers, of some train rows. Remembered on a GPU: the other direction asks for them again."""
        chosen = "all" if rows is None else rows.tolist()
        name = key(side=side, stream=stream, used=used, rows=chosen, **self.identity.train, **self.identity.pair)
        if name in _spreads:
            return _spreads[name]
        if of is None:
            found = spread(self.states.read(side, stream)[used].to(self.identity.device))
        else:
            found = spread(of.states[:, rows])
        if self.identity.device != "cpu":
            _spreads[name] = found
            while len(_spreads) > SPREADS:
                _spreads.popitem(last=False)
        return found

    def other(self, layer: int) -> int:
        """The layer whose map stands in as a control: half the depth away."""
        return (layer + self.depth // 2) % self.depth

    def _controlled(self, name: str, control: str, x: Spread, y: Spread) -> Map:
        """The map of a name, or the control that takes its place."""
        if control == "random":
            return random_rotation(FITS[name](x, y), x, y, self.run.seed)
        if control == "shuffled":
            y = y.pick(shuffle(y.states.shape[-2], self.run.seed))
        return FITS[name](x, y)

    def _alphas(self, fitted: dict[Kind, Map], place: dict[Kind, list[int]], x: Spread, y: Spread, where) -> dict[Kind, list]:
        """The median of ||y|| / ||mapped|| over train rows, each mapped by a fit without it. Fixed maps keep their scale.

        A random rotation, or another layer's map, has not seen these pairs, so it needs no folds.
        """
        order = shuffle(y.states.shape[-2], self.run.seed)
        pairing = {"none": torch.arange(len(order)), "shuffled": order}
        folded = [kind for kind in fitted if kind[0] in FITTED and kind[1] in pairing]
        ratios = defaultdict(list)
        for rest, held in folds(self.states.groups, self.run.seed) if folded else ():
            part_x = self._spread(self.donor, *where, rest, x)
            for control in sorted({control for _, control in folded}):
                partner = pairing[control]
                part_y = self._spread(self.recipient, *where, partner[rest], y)
                for name, _ in (kind for kind in folded if kind[1] == control):
                    at = place[name, control]
                    part = FITS[name](part_x.at(at), part_y.at(at))
                    ratios[name, control].append(size_ratios(part, x.states[at][:, held], y.states[at][:, partner[held]]))
        for kind in fitted.keys() - ratios.keys():
            at = place[kind]
            fixed = torch.ones(len(at), 1, dtype=torch.float64)
            ratios[kind] = [fixed if kind[1] == "none" else size_ratios(fitted[kind], x.states[at], y.states[at])]
        return {kind: torch.cat(parts, -1).quantile(0.5, dim=-1).tolist() for kind, parts in ratios.items()}


def shuffle(rows: int, seed: int) -> Tensor:
    """A seeded order of rows that breaks their pairing."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed + 1))


def remember(found: dict[str, SiteMap]) -> None:
    """Keep fitted maps for the next request, the least recently used dropped."""
    for name, site_map in found.items():
        _remembered[name] = site_map
        _remembered.move_to_end(name)
    while sum(map(nbytes, _remembered.values())) > REMEMBERED and len(_remembered) > 1:
        _remembered.popitem(last=False)


def nbytes(site_map: SiteMap) -> int:
    tensors = [value for value in vars(site_map.full).values() if isinstance(value, Tensor)]
    return sum(t.nbytes for t in (*tensors, site_map.directions) if t is not None)
