"""Running rows under the weights' lock, and what is read from each row's next-token distribution."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mechdiff import metrics
from mechdiff.conditions import HERE, Place
from mechdiff.hooks import run_hooks
from mechdiff.models import LoadedPair, memory_errors
from mechdiff.rows import Rows, run_rows
from mechdiff.trace import Trace

GPU_SHARE = 0.2  # of the whole memory, for the states and logits of one piece; free memory would change from run to run
SLICE = 16  # rows whose divergences are computed together on a CPU: their temporaries then stay in its caches
CPU_LOGITS = 160  # rows that are unembedded together on a CPU: more cost memory traffic, fewer cost matrix speed
CPU_PIECE = 512  # rows that walk together on a CPU: under half a second for the demo pair, so that others get their turn


class Measure:
    """Collects KL(patched || clean), KL(donor || patched) and the target's log-probability for every row and prompt.

    count: rows a prompt. tokens: the target's id, and the foil's. shared: whether donor and recipient are compared; without it
    what compares them is nan. lengths: how many of the tokens read count, a prompt, where that is more than one: each measure is
    then the mean over them. within: the donor's and the recipient's ids, [n] each, of the tokens that both have, where these are
    not all: every divergence is then between distributions over these alone, renormalised. Targets are not restricted.
    """

    def __init__(
        self, count: int, donor: Trace, recipient: Trace, tokens: tuple[int, ...], shared: bool, lengths=None, within=None
    ):
        self.clean, self.donor = recipient.logprobs, donor.logprobs.to(recipient.logprobs.device) if shared else None
        self.whole, self.ids, self.masses = self.clean, None, {}
        if within is not None:
            self._restrict(*(torch.as_tensor(ids, device=self.clean.device) for ids in within))
        self.divergences = metrics.divergences_on(self.clean.device.type)
        self.tokens, places = tokens, len(recipient.logprobs)
        self.counted = None if lengths is None else np.arange(recipient.read) < np.array(lengths)[:, None]
        names = ["kl", "kl_to_donor"] + ["target_logprob"] * (len(tokens) > 0) + ["logit_difference"] * (len(tokens) > 1)
        self.found = {name: np.full((count, places), np.nan, np.float32) for name in names}

    def _restrict(self, donor: Tensor, recipient: Tensor) -> None:
        """Keep of both clean distributions what both tokenizers have, and how much probability that was."""
        parts = {"donor": self.donor[:, donor], "recipient": self.clean[:, recipient]}
        self.masses = {f"shared_mass_{side}": part.exp().sum(-1) for side, part in parts.items()}
        self.donor, self.clean = (part.log_softmax(-1) for part in parts.values())
        self.ids = recipient

    def __call__(self, logits: Tensor, prompts: Tensor, rows: Tensor) -> None:
        most = SLICE if logits.device.type == "cpu" else len(rows)
        for prompt, count in zip(*(found.tolist() for found in torch.unique_consecutive(prompts, return_counts=True))):
            for some, which in zip(logits[:count].split(most), rows[:count].split(most)):
                self._one_prompt(some, prompt, which.numpy())
            logits, rows = logits[count:], rows[count:]

    def _one_prompt(self, logits: Tensor, prompt: int, rows: np.ndarray) -> None:
        other = self.clean if self.donor is None else self.donor
        within = logits if self.ids is None else logits[:, self.ids]
        effect, to_donor = self.divergences(within, self.clean[prompt], other[prompt])
        values = {"kl": effect} | ({} if self.donor is None else {"kl_to_donor": to_donor})
        if self.tokens:
            values |= self._about_tokens(logits.log_softmax(-1, dtype=torch.float32))
        for name, value in values.items():
            self.found[name][rows, prompt] = value.cpu().numpy()

    def _about_tokens(self, logprobs: Tensor) -> dict[str, Tensor]:
        values = {}
        if len(self.tokens) > 0:
            values["target_logprob"] = logprobs[:, self.tokens[0]]
        if len(self.tokens) > 1:
            values["logit_difference"] = logprobs[:, self.tokens[0]] - logprobs[:, self.tokens[1]]
        return values

    def arrays(self, span: slice) -> dict[str, np.ndarray]:
        """The measures of some rows, [rows, prompts], with what is the same for all of them, [1, prompts], beside them."""
        arrays = {name: self._over_tokens(values[span]) for name, values in self.found.items()}
        unknown = torch.full((len(self.clean),), torch.nan)
        same = {"kl_donor_clean": unknown if self.donor is None else metrics.kl(self.donor, self.clean)}
        same |= {f"{name}_clean": value for name, value in self._about_tokens(self.whole).items()} | self.masses
        return arrays | {name: self._over_tokens(value[None].cpu().numpy()) for name, value in same.items()}

    def _over_tokens(self, values: np.ndarray) -> np.ndarray:
        """[rows, prompts x tokens read] -> [rows, prompts]: the mean over the tokens that count."""
        if self.counted is None:
            return values
        each = values.reshape(len(values), *self.counted.shape)
        return np.where(self.counted, each, 0).sum(2) / self.counted.sum(1, dtype=np.float32)


def piece_sizes(anatomy) -> tuple[int, int]:
    """How many rows may walk together, and how many may be unembedded together, within the memory budget."""
    if anatomy.device.type == "cpu":
        return CPU_PIECE, CPU_LOGITS
    budget = int(GPU_SHARE * torch.cuda.mem_get_info(anatomy.device)[1])
    return max(16, budget // (64 * anatomy.width)), max(16, budget // (16 * anatomy.vocabulary))


def run_locked(
    loaded: LoadedPair, side: str, texts: tuple[str, ...], recipient: Trace, rows: Rows, measure: Measure, place: Place = HERE
) -> Iterator[int]:
    """Run rows in a recipient, holding the weights' lock for one piece at a time. Yields the cells done."""
    anatomy = getattr(loaded, side)
    if side in loaded.by_hooks:
        pieces = run_hooks(anatomy, loaded.ids(side, texts, place), rows, measure, 1, recipient.span, recipient.read)
    else:
        pieces = run_rows(anatomy, recipient, rows, measure, *piece_sizes(anatomy))
    while True:
        with loaded.lock, memory_errors(loaded.pair, anatomy.device.type):
            cells = next(pieces, None)
        if cells is None:
            return
        yield cells
