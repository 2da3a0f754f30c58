"""Is a change that is low-rank in activations also low-rank in weights? Do both span the same directions of a layer's output?"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.extensions import key_of
from mechdiff.questions.rank import Rank
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps

SIZES = (1, 2, 4, 8, 16)
STREAM = "resid_post"
COLUMNS = ["written", "module", "k", "overlap", "chance"]


@dataclass(frozen=True)
class Overlap:
    """What to compare. run: pair, train split, direction, map, and one layer, whose mapped subspace is compared.

    It is compared with the matrices that write into the residual stream, at that layer and all before it.
    """

    run: Question

    def task(self, store: Store) -> "OverlapTask":
        return OverlapTask(self, store)


class OverlapTask(TableTask):
    """Columns: written (the matrix's layer), module, k, overlap, chance.

    overlap: of the first k output directions of the weights' change with the first k of the map's outputs on train: 1 if they
    span the same space. chance: k / width, what two random spaces have. A k above a change's own rank has no line.
    """

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: Overlap, store: Store):
        if len(request.run.chosen_layers) != 1:
            raise UserError("A mapped subspace belongs to one layer.\nTry:  --layers 26")
        run = request.run.converted(Rank, streams=(STREAM,), controls=(), back=0, horizon=1)
        run.spec.check_same_shape()
        (self.layer,) = run.chosen_layers
        super().__init__(run, store, 2 * len(run.train_prompts) + self.layer + 1, "reading the train split")

    @cached_property
    def key(self) -> str:
        parts = {
            "what": "weight overlap",
            "map": key_of("maps", self.run.map),
            "direction": self.run.direction,
            "layer": self.layer,
        }
        return key(**parts, **self.identity.train, **self.identity.pair)

    def compute(self) -> Steps[pd.DataFrame]:
        from mechdiff.questions.shared.fitted_maps import FittedMaps, Needs

        maps = FittedMaps(self.run, self.identity, self.store, (STREAM,))
        self.progress.done = 2 * len(self.run.train_prompts) - maps.waiting()
        for count in maps.steps():
            self.progress.done += count
            yield
        site = (self.run.map, "none", self.layer, STREAM)
        (fitted,) = maps.fit({site: Needs(directions=True)})
        self.entering("factorising weights")
        directions, lines = fitted[site].directions, []
        assert directions is not None, "they were requested"
        for written in range(self.layer + 1):
            for part in self._compare(directions.float(), written):
                lines += part
                yield
            self.progress.done += 1
        return pd.DataFrame(lines, columns=COLUMNS)

    def _compare(self, mapped, written: int) -> Iterator[list[tuple]]:
        """The lines of one matrix at a time. mapped: [width, directions]. written: the layer whose matrices are compared."""
        from mechdiff.inputs.weight_changes import difference
        from mechdiff.maths.linear_maps import overlap
        from mechdiff.maths.spectrum import spectrum
        from mechdiff.models.weights_in_memory import weights_of

        base, tuned = weights_of(self.run.spec, self.run.device, self.run.dtype)
        width = len(mapped)
        for module in base.writers(written):
            change, _ = difference(base, tuned, (written, module)) or (None, None)
            if change is None:
                yield []
                continue
            changed = spectrum(change.to(mapped.device), self.run.seed)
            sizes = [k for k in SIZES if k <= min(changed.rank, mapped.shape[1])]
            yield [(written, module, k, float(overlap(changed.left, mapped, k)), k / width) for k in sizes]

    def table(self) -> pd.DataFrame:
        run, overlaps = self.run, super().table()
        named = {
            "pair": run.spec.name,
            "domain": run.chosen_domain,
            "direction": run.direction,
            "map": run.map,
            "layer": self.layer,
        }
        return pd.DataFrame(named, index=overlaps.index).join(overlaps)
