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
    """The donor's state through the uncut map, at every chosen layer, stream and scale."""

    question: ClassVar[str] = "transport"
    title: ClassVar[str] = "Is the change a linear map?"

    ranks: tuple[str, ...] = flag((FULL,), "full: transport uses the uncut map; ranks belong to the question rank")

    def check(self) -> None:
        super().check()
        if self.ranks != (FULL,):
            raise UserError(f"Transport uses the uncut map, not rank {','.join(self.ranks)}.\nTry:  run rank --ranks 1,8,full")

    def task(self, store: Store) -> MappedTask:
        return MappedTask(self, [(None, "")], store)
