"""What fine-tuning changed in the weights themselves: a line per layer and matrix. Runs no model and reads no prompt."""

from collections.abc import Iterator

import pandas as pd

from mechdiff.experiments.request import Run
from mechdiff.store import Store, key

LISTED = 8  # leading singular values that a line has
NUMBERS = ("norm", "relative_norm", "participation_ratio", "stable_rank", "rank_90")
COLUMNS = ["layer", "module", "outputs", "inputs", *NUMBERS, *(f"singular_{k + 1}" for k in range(LISTED))]


class WeightsTask:
    """Columns: outputs, inputs (the matrix's shape); norm (Frobenius) of its difference; relative_norm, its share of the base's;

    participation_ratio, stable_rank, rank_90 (nan if more directions than were computed): over how many directions it is spread;
    singular_1 to singular_8: its leading singular values.
    """

    def __init__(self, run: Run, store: Store):
        self.run, self.store, self.stage, self.notices = run, store, "comparing weights", []
        run.spec.check_same_shape()
        sources = run.spec.base.fingerprint(), run.spec.tuned.fingerprint()
        basis = {"what": "weights", "base": sources[0], "tuned": sources[1], "seed": run.seed}
        self.keys = {layer: key(layer=layer, **basis) for layer in run.chosen_layers}
        self.found = {layer: store.table(name) for layer, name in self.keys.items()}
        self.total = len(self.found)

    @property
    def done(self) -> int:
        return sum(table is not None for table in self.found.values())

    def steps(self) -> Iterator[None]:
        from mechdiff.models import resolve_device
        from mechdiff.weights import Weights

        sides, device = [Weights(source) for source in (self.run.spec.base, self.run.spec.tuned)], resolve_device(self.run.device)
        for layer, table in self.found.items():
            if table is None:
                self.found[layer] = self._compare(*sides, layer, device)
                self.store.put_table(self.keys[layer], self.found[layer])
                yield

    def _compare(self, base, tuned, layer: int, device: str) -> pd.DataFrame:
        from mechdiff.weights import difference, spectrum

        lines = []
        for module in base.modules(layer):
            found = difference(base, tuned, (layer, module))
            if found is None:
                continue
            change, before = (matrix.to(device) for matrix in found)
            whole = spectrum(change, self.run.seed)
            values = [*whole.singular[:LISTED].tolist(), *[0.0] * LISTED][:LISTED]
            size = whole.norm / float(before.norm())
            ranks = (whole.participation_ratio, whole.stable_rank, whole.rank_90)
            lines.append((layer, module, *change.shape, whole.norm, size, *ranks, *values))
        return pd.DataFrame(lines, columns=COLUMNS).astype({"rank_90": float})

    def table(self) -> pd.DataFrame:
        there = [table for table in self.found.values() if table is not None]
        table = pd.concat(there, ignore_index=True) if there else pd.DataFrame(columns=COLUMNS)
        return pd.DataFrame({"pair": self.run.spec.name, "question": self.run.question}, index=table.index).join(table)
