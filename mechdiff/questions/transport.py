"""Transport (RQ2): is the change a linear map between states?"""

from dataclasses import dataclass
from typing import ClassVar

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.mapped import MappedQuestion, MappedTask
from mechdiff.questions.shared.request import FULL


@dataclass(frozen=True)
class Transport(MappedQuestion):
    """The donor's state through the uncut map, at every chosen layer, stream and scale.

    Its table has a row per prompt and condition, with kl, kl_to_donor and kl_donor_clean in nats as for `patch`, and
    kl_reference: the effect of the zscore map, which only matches each dimension's mean and scale; kl_shift: that of one
    constant shift. alpha_used: the scale of the mapped state. The summary's drop is how much smaller the effect is than the
    zscore map's, in per cent; its beyond_shift is 1 - KL_map / KL_shift, what the map does beyond the shift.
    Raises UserError for a value that is not valid, and for ranks, which belong to the question `rank`.
    Source: the orthogonal Procrustes problem, Schönemann 1966, for two of the maps.

    Example:
        >>> pair.transport(layers=1, map="ridge", limit=4).summary()[["layer", "map", "drop"]].shape
        (1, 3)
        >>> md.run(md.Transport(pair=pair.spec.path, layers=(1,), alpha=("auto", "0.5"), limit=4))["alpha"].unique().tolist()
        ['auto', '0.5']
    """

    question: ClassVar[str] = "transport"
    title: ClassVar[str] = "Is the change a linear map?"

    ranks: tuple[str, ...] = flag((FULL,), "full: transport uses the uncut map; ranks belong to the question rank")

    def check(self) -> None:
        super().check()
        if self.ranks != (FULL,):
            raise UserError(f"Transport uses the uncut map, not rank {','.join(self.ranks)}.\nTry:  run rank --ranks 1,8,full")

    def task(self, store: Store) -> MappedTask:
        return MappedTask(self, [(None, "")], store, ("zscore", "shift"))
