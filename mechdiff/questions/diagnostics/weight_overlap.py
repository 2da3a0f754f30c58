"""Is a change that is low-rank in activations low-rank in weights? How far both span the same directions of a layer's output."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run

SIZES = (1, 2, 4, 8, 16)
STREAM = "resid_post"
COLUMNS = ["written", "module", "k", "overlap", "chance"]


@dataclass(frozen=True)
class Overlap:
    """Which: run gives pair, train split, direction, map, and in its layers the one whose mapped subspace is meant.

    Compared with it are the matrices that write into the residual stream, of that layer and of all before it.
    """

    run: Run

    def __post_init__(self):
        if len(self.run.chosen_layers) != 1:
            raise UserError("The mapped subspace is that of one layer.\nTry:  --layers 26")


class OverlapTask:
    """Columns: written (the matrix's layer), module, k, overlap, chance.

    overlap: of the first k output directions of the weights' change with the first k of the map's outputs on train: 1 if they
    span the same space. chance: k / width, what two random spaces have. A k above a change's own rank has no line.
    """

    def __init__(self, request: Overlap, store: Store):
        self.run = replace(request.run, question="rank", streams=(STREAM,), controls=(), stack=None, back=0, horizon=1)
        self.store, self.stage, self.identity = store, "reading the train split", Identity(self.run)
        self.run.spec.check_same_shape()
        self.layer = self.run.chosen_layers[0]
        asked = {"what": "weight overlap", "map": self.run.map, "direction": self.run.direction, "layer": self.layer}
        self.key = key(**asked, **self.identity.train, **self.identity.pair)
        self.found = store.table(self.key)
        self.total = 0 if self.found is not None else 2 * len(self.run.train_prompts) + self.layer + 1
        self.done = 0

    @property
    def notices(self) -> list[str]:
        return self.run.notices

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        from mechdiff.questions.shared.fitted_maps import FittedMaps

        maps = FittedMaps(self.run, self.identity, self.store, (STREAM,))
        self.done = 2 * len(self.run.train_prompts) - maps.waiting()
        for count in maps.steps():
            self.done += count
            yield
        site = (self.run.map, "none", self.layer, STREAM)
        (fitted,) = maps.fit({site: (False, True)})
        self.stage, lines = "factorising weights", []
        for written in range(self.layer + 1):
            for found in self._compare(fitted[site].directions.float(), written):
                lines += found
                yield
            self.done += 1
        self.found = pd.DataFrame(lines, columns=COLUMNS)
        self.store.put_table(self.key, self.found)

    def _compare(self, mapped, written: int) -> Iterator[list[tuple]]:
        """A matrix's lines at a time. mapped: [width, directions]. written: the layer whose matrices are compared with it."""
        from mechdiff.inputs.weight_changes import Weights, difference
        from mechdiff.maths.linear_maps import overlap
        from mechdiff.maths.spectrum import spectrum

        base, tuned = (Weights(source) for source in (self.run.spec.base, self.run.spec.tuned))
        width = len(mapped)
        for module in base.writers(written):
            change, _ = difference(base, tuned, (written, module)) or (None, None)
            found = None if change is None else spectrum(change.to(mapped.device), self.run.seed)
            rank = 0 if found is None else found.rank
            sizes = [k for k in SIZES if k <= min(rank, mapped.shape[1])]
            yield [(written, module, k, float(overlap(found.left, mapped, k)), k / width) for k in sizes]

    def table(self) -> pd.DataFrame:
        found = pd.DataFrame(columns=COLUMNS) if self.found is None else self.found
        run = self.run
        named = {
            "pair": run.spec.name,
            "domain": run.chosen_domain,
            "direction": run.direction,
            "map": run.map,
            "layer": self.layer,
        }
        return pd.DataFrame(named, index=found.index).join(found)
