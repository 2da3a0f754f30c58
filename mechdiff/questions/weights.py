"""What fine-tuning changed in the weights themselves: a line per layer and matrix. Runs no model and reads no prompt."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import OUR_MAP
from mechdiff.questions.shared.request import Count, Question, map_field, positions_field
from mechdiff.questions.shared.task import Task

LISTED = 8  # leading singular values in a line
NUMBERS = ("norm", "relative_norm", "participation_ratio", "stable_rank", "rank_90")
COLUMNS = ["layer", "module", "outputs", "inputs", *NUMBERS, *(f"singular_{k + 1}" for k in range(LISTED))]


@dataclass(frozen=True)
class Weights(Question):
    """Tuned minus base, matrix by matrix. map, positions: of the mapped subspace that --diagnostics compares with.

    Its table has a row per layer and matrix: outputs, inputs: the matrix's shape; norm: the Frobenius norm of the difference;
    relative_norm: the same as a share of the base's; participation_ratio, stable_rank, rank_90: its effective number of
    directions; singular_1 to singular_8: its leading singular values. It runs no model and reads no prompt.
    Raises UserError for a value that is not valid; when it is answered, for two models of different shapes.
    Source: participation ratio, e.g. Gao and Ganguli 2015; large matrices by random projection, Halko, Martinsson and Tropp 2011.

    Example:
        >>> pair.weights(layers=1).table[["module", "relative_norm", "stable_rank"]].shape
        (7, 3)
        >>> md.run(md.Weights(pair=pair.spec.path, layers=(0, 1)))["layer"].unique().tolist()
        [0, 1]
    """

    question: ClassVar[str] = "weights"
    title: ClassVar[str] = "Which matrices changed?"
    averages: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = False

    map: str = map_field(OUR_MAP)
    positions: Count = positions_field()

    def task(self, store: Store) -> "WeightsTask":
        return WeightsTask(self, store)


class WeightsTask(Task):
    """Columns: outputs, inputs (the matrix's shape); norm (Frobenius) of its difference; relative_norm, its share of the base's;

    participation_ratio, stable_rank, rank_90 (nan if more directions than were computed): its effective number of directions;
    singular_1 to singular_8: its leading singular values.
    """

    def __init__(self, run: Weights, store: Store):
        self.run, self.store, self.notices = run, store, []
        self.entering("comparing weights")
        run.spec.check_same_shape()
        sources = run.spec.base.fingerprint(), run.spec.tuned.fingerprint()
        basis = {"what": "weights", "base": sources[0], "tuned": sources[1], "seed": run.seed}
        self.keys = {layer: key(layer=layer, **basis) for layer in run.chosen_layers}
        self.tables = {layer: store.table(name) for layer, name in self.keys.items()}
        self.lines: dict[int, list] = {layer: [] for layer in self.keys}  # of a layer that is not complete

    @cached_property
    def sides(self):
        """Both models' matrices, base first."""
        from mechdiff.models.weights_in_memory import weights_of

        return weights_of(self.run.spec, self.run.device, self.run.dtype)

    def modules(self, layer: int) -> list[str]:
        """The matrices that both models have at a layer."""
        base, tuned = self.sides
        return [module for module in base.modules(layer) if (layer, module) in tuned.places]

    @property
    def total(self) -> int:
        """Matrices. Files are opened only for layers that the store does not hold."""
        return sum(len(self.modules(layer) if table is None else table) for layer, table in self.tables.items())

    @property
    def done(self) -> int:
        return sum(len(self.lines[layer] if table is None else table) for layer, table in self.tables.items())

    def steps(self) -> Iterator[None]:
        """A step per matrix, since a large one takes seconds; each is stored, so that to stop loses none."""
        for layer in [layer for layer, table in self.tables.items() if table is None]:
            for module in self.modules(layer)[len(self.lines[layer]) :]:
                self.lines[layer].append(self._line(layer, module))
                yield
            complete = pd.DataFrame(self.lines[layer], columns=COLUMNS).astype({"rank_90": float})
            self.tables[layer] = complete
            self.store.put_table(self.keys[layer], complete)

    def _line(self, layer: int, module: str) -> list:
        """The change of one matrix as a line of the table, from the store if it was ever computed."""
        name = key(of=self.keys[layer], module=module)
        if (stored := self.store.text(name)) is not None:
            return json.loads(stored)
        from mechdiff.inputs.weight_changes import difference
        from mechdiff.maths.spectrum import spectrum
        from mechdiff.models.registry import resolve_device

        device = resolve_device(self.run.device)
        matrices = difference(*self.sides, (layer, module))
        assert matrices is not None, "both models have the matrix"
        change, before = matrices[0].to(device), matrices[1].to(device)
        whole = spectrum(change, self.run.seed)
        values = [*whole.singular[:LISTED].tolist(), *[0.0] * LISTED][:LISTED]
        size = whole.norm / float(before.norm())
        ranks = (whole.participation_ratio, whole.stable_rank, whole.rank_90)
        line = [layer, module, *change.shape, whole.norm, size, *ranks, *values]
        self.store.put_text(name, json.dumps(line))
        return line

    def table(self) -> pd.DataFrame:
        known = [table for table in self.tables.values() if table is not None]
        table = pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=COLUMNS)
        return pd.DataFrame({"pair": self.run.spec.name, "question": self.run.question}, index=table.index).join(table)
