"""The prompts of a loaded pair as token ids: kept in memory, because a chat template takes longer than many a row."""

from mechdiff.common.bounded import Bounded
from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import HERE, Place
from mechdiff.inputs.pair_file import Pair
from mechdiff.inputs.tokenizers import Tokenizers

IN_MEMORY = 64 << 20  # bytes of token ids, for each pair
TOKEN_BYTES = 40  # of one id in a list, with the list's place for it


class PromptTokens:
    """windows: the most tokens that each side's model reads; None for no limit."""

    def __init__(self, pair: Pair, tokenizers: Tokenizers, windows: dict[str, int | None]):
        self.pair, self.tokenizers, self.windows = pair, tokenizers, windows
        self._ids: Bounded[tuple[str, str], list[int]] = Bounded(IN_MEMORY, nbytes)

    def encode(self, text: str, side: str) -> list[int]:
        """A prompt's token ids, up to its decision token."""
        if (ids := self._ids.get((text, side))) is None:
            ids = self.tokenizers.encode(text, side)
            self._ids.put((text, side), ids)
        return ids

    def at(self, side: str, texts: tuple[str, ...], place: Place = HERE) -> list[list[int]]:
        """The same for several prompts. Raises UserError if one has no such place, or if two tokenizers do not share it."""
        encoded = [self.encode(text, side) for text in texts]
        if place != HERE and not self.tokenizers.shared:
            raise UserError(
                f"{self.pair.name}: the two tokenizers differ, so only the decision token is the same place in both.\n"
                "Try:  --back 0 --horizon 1"
            )
        window = self.windows[side]
        for text, ids in zip(texts, encoded):
            if window is not None and len(ids) + place.horizon - 1 > window:
                raise UserError(
                    f"The prompt {text[:40]!r}... has {len(ids)} tokens; {self.pair.name} reads at most {window}. Shorten it."
                )
            if place.back >= len(ids):
                raise UserError(
                    f"No token lies {place.back} before the decision token of {text[:40]!r}, which has {len(ids)} tokens.\n"
                    f"Try:  --back {len(ids) - 1}  at most"
                )
        return encoded


def nbytes(ids: list[int]) -> int:
    return TOKEN_BYTES * (1 + len(ids))
