"""Running rows under the weights' lock, and measuring each row's next-token distribution."""

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.engine.hooks import run_hooks
from mechdiff.engine.intervention import HERE, Place
from mechdiff.engine.memory import budget, sent
from mechdiff.engine.rows import Rows, run_rows
from mechdiff.engine.trace import Trace
from mechdiff.maths import similarity
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.metrics import Metric

GPU_ROWS, GPU_LOGITS = 1 << 16, 1 << 13  # more rows together do not make a GPU faster
CPU_LOGITS = 160  # rows that are unembedded together on a CPU: more cost memory traffic, fewer cost matrix speed
CPU_PIECE = 512  # rows that walk together on a CPU: under half a second for the demo pair, so that others get their turn
# rows whose whole log-probabilities are in memory at once, where a target or a metric reads them
WHOLE_ROWS = {"cuda": 256, "cpu": 8}

NO_METRICS: Mapping[str, tuple[Metric, tuple[int, ...]]] = {}

RowMeasure = Callable[[Tensor, Tensor, Tensor], None]  # is given logits, places and rows, as in `rows.run_rows`


class Applied:
    """A metric with the ids of its tokens: log-probabilities of k rows, patched, clean and the donor's -> [k]."""

    def __init__(self, metric: Metric, ids: tuple[int, ...]):
        assert metric.of_tokens is not None, "kl and kl_to_donor are measured anyway"
        self.name, self.ids, self.function = metric.name, ids, metric.of_tokens(ids)

    def __call__(self, patched: Tensor, clean: Tensor, donor: Tensor) -> Tensor:
        value = self.function(patched, clean, donor)
        if not isinstance(value, Tensor) or value.shape != patched.shape[:1]:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"The metric {self.name} returned {shape} for {len(patched)} rows. It must be a tensor [rows].")
        return value.to(patched.device, torch.float32)


class Measure:
    """Collects KL(patched || clean), KL(donor || patched) and the target's log-probability for every row and prompt.

    count: rows per prompt. tokens: the target's id, and the foil's. shared: whether donor and recipient are compared; if not,
    measures that compare them are nan. lengths: how many of the tokens read count, per prompt, if more than one is read: each
    measure is then the mean over them. within: the donor's and the recipient's ids, [n] each, of the tokens that both have, if
    these are not all: every divergence is then between distributions over these alone, renormalised. Targets are not restricted.
    metrics: the user's own, by name, with the ids of the tokens that each reads.
    own: whether the effect alone is over the recipient's whole vocabulary all the same.
    Everything stays on the device until all rows are measured: `leave` begins to copy it.
    """

    def __init__(
        self,
        count: int,
        donor: Trace,
        recipient: Trace,
        tokens: tuple[int, ...],
        shared: bool,
        lengths=None,
        within=None,
        metrics: Mapping[str, tuple[Metric, tuple[int, ...]]] = NO_METRICS,
        own: bool = False,
    ):
        self.clean, self.donor = recipient.logprobs, donor.logprobs.to(recipient.logprobs.device) if shared else None
        self.tokens, self.device = tokens, self.clean.device
        self.whole, self.ids, self.masses, self.own = self.clean, None, {}, own and within is not None
        if within is not None:
            self._restrict(*(torch.as_tensor(ids, device=self.device) for ids in within))
        self.counted = None if lengths is None else np.arange(recipient.read) < np.array(lengths)[:, None]
        self.metrics = {name: Applied(metric, ids) for name, (metric, ids) in metrics.items()}
        names = ["kl", "kl_to_donor", *metrics, *("target_logprob", "logit_difference")[: len(tokens)]]
        self.values = {name: torch.full((count, len(self.clean)), torch.nan, device=self.device) for name in names}
        self.copied: torch.cuda.Event | None = None  # when the values are in main memory

    def _restrict(self, donor: Tensor, recipient: Tensor) -> None:
        """Restrict both clean distributions to the tokens that both tokenizers have, and note their probability."""
        assert self.donor is not None, "two vocabularies are compared only where donor and recipient are"
        parts = {"donor": self.donor[:, donor], "recipient": self.clean[:, recipient]}
        self.masses = {f"shared_mass_{side}": part.exp().sum(-1) for side, part in parts.items()}
        self.donor, self.clean = (part.log_softmax(-1) for part in parts.values())
        self.ids = recipient

    def __call__(self, logits: Tensor, places: Tensor, rows: Tensor) -> None:
        other = self.clean if self.donor is None else self.donor
        within = logits if self.ids is None else logits[:, self.ids]
        at = tuple(sent(index, self.device) for index in (rows, places))
        effect, to_donor = similarity.divergences_at(within, self.clean, other, at[1])
        if self.own:
            effect, _ = similarity.divergences_at(logits, self.whole, self.whole, at[1])
        values = {"kl": effect} | ({} if self.donor is None else {"kl_to_donor": to_donor})
        at_once = WHOLE_ROWS[logits.device.type]
        if self.tokens:
            parts = [self._about_tokens(part.log_softmax(-1, dtype=torch.float32)) for part in logits.split(at_once)]
            values |= {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        if self.metrics:
            parts = [self._own(*part) for part in zip(logits.split(at_once), places.split(at_once))]
            values |= {name: torch.cat([part[name] for part in parts]) for name in self.metrics}
        for name, value in values.items():
            self.values[name][at] = value

    def _own(self, logits: Tensor, places: Tensor) -> dict[str, Tensor]:
        """The user's metrics of some rows. One that names tokens reads whole distributions."""
        whole = logits.log_softmax(-1, dtype=torch.float32)
        within = whole if self.ids is None else whole[:, self.ids].log_softmax(-1)
        clean, donor = (at_places(side, places) for side in (self.clean, self.clean if self.donor is None else self.donor))
        return {name: metric(whole if metric.ids else within, clean, donor) for name, metric in self.metrics.items()}

    def _about_tokens(self, logprobs: Tensor) -> dict[str, Tensor]:
        values = {}
        if len(self.tokens) > 0:
            values["target_logprob"] = logprobs[:, self.tokens[0]]
        if len(self.tokens) > 1:
            values["logit_difference"] = logprobs[:, self.tokens[0]] - logprobs[:, self.tokens[1]]
        return values

    def leave(self) -> None:
        """Every row is measured: begin to copy the values to main memory, behind the work that a GPU still has to do."""
        unknown = torch.full((len(self.clean),), torch.nan)
        same = {"kl_donor_clean": unknown if self.donor is None else similarity.kl(self.donor, self.clean)}
        same |= {f"{name}_clean": value for name, value in self._about_tokens(self.whole).items()} | self.masses
        same |= {f"{name}_clean": metric(*self._clean_of(metric)) for name, metric in self.metrics.items()}
        both = self.values, {name: value[None] for name, value in same.items()}
        self.values, self.same_values = ({name: to_host(value) for name, value in values.items()} for values in both)
        if self.device.type == "cuda":
            self.copied = torch.cuda.Event()
            self.copied.record()

    def _clean_of(self, metric: "Applied") -> tuple[Tensor, Tensor, Tensor]:
        """What a metric of the clean pass itself reads."""
        clean = self.whole if metric.ids else self.clean
        return clean, clean, self.clean if self.donor is None else self.donor

    @cached_property
    def measured(self) -> dict[str, np.ndarray]:
        """The measures, [rows, prompts]."""
        return self._read(self.values)

    @cached_property
    def same(self) -> dict[str, np.ndarray]:
        """What is the same for all rows, [1, prompts]."""
        return self._read(self.same_values)

    def _read(self, values: dict[str, Tensor]) -> dict[str, np.ndarray]:
        if self.copied is not None:
            self.copied.synchronize()
        return {name: self._over_tokens(value.numpy()) for name, value in values.items()}

    def arrays(self, rows: slice, prompts: slice = slice(None)) -> dict[str, np.ndarray]:
        """The measures of some rows on some prompts, [rows, prompts], and those that are the same for all rows."""
        return {name: values[rows, prompts] for name, values in self.measured.items()} | {
            name: values[:, prompts] for name, values in self.same.items()
        }

    def _over_tokens(self, values: np.ndarray) -> np.ndarray:
        """[rows, prompts x tokens read] -> [rows, prompts]: the mean over the tokens that count."""
        if self.counted is None:
            return values
        each = values.reshape(len(values), *self.counted.shape)
        return np.where(self.counted, each, 0).sum(2) / self.counted.sum(1, dtype=np.float32)


def at_places(logprobs: Float[Tensor, "lines v"], places: Int[Tensor, " k"]) -> Float[Tensor, "k v"]:
    """The line of each row: a view where it is the same for all, since a copy costs as much as a metric does.

    A view of several rows cannot be written to, so a user's function cannot change the line itself.
    """
    if len(places) > 1 and bool((places == places[0]).all()):
        return logprobs[int(places[0])].expand(len(places), -1)
    return logprobs[places.to(logprobs.device)]


def to_host(value: Tensor) -> Tensor:
    """A copy in main memory; if the value is on a GPU, the copy has only begun."""
    if not value.is_cuda:
        return value
    return torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)


def piece_sizes(anatomy) -> tuple[int, int]:
    """How many rows may run together, and how many may be unembedded together, within the memory budget."""
    room = budget(anatomy.device)
    if anatomy.device.type == "cpu":
        return CPU_PIECE >> room.shrunk or 1, CPU_LOGITS >> room.shrunk or 1
    return room.rows(anatomy.row_bytes, GPU_ROWS), room.rows(4 * anatomy.dtype.itemsize * anatomy.vocabulary, GPU_LOGITS)


def run_locked(
    loaded: LoadedPair, side: str, texts: tuple[str, ...], recipient: Trace, rows: Rows, measure: RowMeasure, place: Place = HERE
) -> Iterator[int]:
    """Run rows in a recipient, holding the weights' lock for one piece at a time. Yields the cells done."""
    anatomy = getattr(loaded, side)
    if side in loaded.preflight.by_hooks:
        pieces = run_hooks(anatomy, loaded.passes.ids(side, texts, place), rows, measure, 1, recipient.span, recipient.read)
    else:
        pieces = run_rows(anatomy, recipient, rows, measure, *piece_sizes(anatomy))
    while True:
        with loaded.placement.at_work(side):
            cells = next(pieces, None)
        if cells is None:
            return
        yield cells
