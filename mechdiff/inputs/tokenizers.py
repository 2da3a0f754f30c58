"""From a prompt's text to the token ids that both models see, cut at the decision token.

A position before the decision token is a character of the prompt's own text: the token that covers it, in either tokenizer.
So two tokenizers study the same place.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.inputs.pair_file import Pair
from mechdiff.inputs.weight_files import TOKENIZER, has_tokenizer

MARK = "\ue000"  # stands for a prompt, to find where the template puts it
MOST_PARTS = 7  # tokens before the last token of a character: no character has more
NEAR_END = 4  # the last tokens of a sequence, with the decision token, are not curated positions


@dataclass
class Tokenizers:
    """A pair's two tokenizers, of transformers. vocabularies: a cache of what they share (see vocabularies.py)."""

    pair: Pair
    base: Any
    tuned: Any
    vocabularies: dict = field(default_factory=dict, repr=False)

    @cached_property
    def shared(self) -> bool:
        """Whether they have the same vocabulary: the same strings with the same ids."""
        return self.base is self.tuned or self.base.get_vocab() == self.tuned.get_vocab()

    def render(self, text: str, side: str) -> str:
        """The prompt as a model sees it: in the chat template that the pair's setting names, else in the other, else plain.

        Raises UserError if there is a system prompt and no place for one.
        """
        from jinja2 import TemplateError

        template = self.pair.chat_template
        order = {"base": ("base", "tuned"), "each": (side, *SIDES), "none": ()}.get(template, ("tuned", "base"))
        tokenizer = next((getattr(self, name) for name in order if getattr(self, name).chat_template), None)
        system = [{"role": "system", "content": self.pair.system}] if self.pair.system else []
        if tokenizer is None:
            return "\n\n".join(filter(None, (self.pair.system, text)))
        try:
            turns = [*system, {"role": "user", "content": text}]
            return tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        except TemplateError as error:
            problem = "takes no system prompt" if system else "cannot be filled"
            raise UserError(f"{self.pair.name}: the chat template {problem} ({error}).\nTry:  --chat-template none") from None

    def encode(self, text: str, side: str) -> list[int]:
        """Token ids up to and including the decision token, the last that is not special. side: base or tuned.

        Raises UserError if the prompt itself has no content token.
        """
        tokenizer = getattr(self, side)
        special = special_ids(tokenizer)
        if all(token in special for token in tokenizer(text, add_special_tokens=False).input_ids):
            raise UserError(f"The prompt {text!r} consists of special tokens only, so there is nothing to study. Add some words.")
        ids = tokenizer(self.render(text, side), add_special_tokens=False).input_ids
        if lacks_bos(tokenizer, ids):
            ids = [tokenizer.bos_token_id, *ids]
        while ids[-1] in special:
            ids = ids[:-1]
        return ids

    def spans(self, text: str, side: str) -> list[tuple[int, int]]:
        """The characters of the prompt's own text that each token of `encode` covers: (start, end), (0, 0) if none.

        Raises UserError if the tokenizer or the template does not allow this.
        """
        tokenizer, name = getattr(self, side), self.pair.name
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{name}: the {side} tokenizer is not a fast one (tokenizer.json), so positions in a text are unknown.\n"
                "Try:  --positions 1"
            )
        rendered = self.render(text, side)
        after = max(self.render(MARK, side).find(MARK), 0)  # the template's own words may contain the text too
        part = text if rendered.find(text, after) >= 0 else text.strip()
        start = rendered.find(part, after)
        if start < 0:
            raise UserError(
                f"{name}: the chat template rewrites the prompt {text!r}, so positions in it are unknown.\nTry:  --positions 1"
            )
        encoding = tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True)
        clipped = [(max(a, start), min(b, start + len(part))) for a, b in encoding.offset_mapping]
        shift = text.find(part) - start
        spans = [(a + shift, b + shift) if a < b else (0, 0) for a, b in clipped]
        return ([(0, 0)] * lacks_bos(tokenizer, encoding.input_ids) + spans)[: len(self.encode(text, side))]

    def positions(self, text: str, characters: Sequence[int], side: str) -> list[int]:
        """For each character of the text, the index into `encode(text, side)` of the token that covers it.

        Rising characters give rising indices; one token may cover several characters.
        """
        spans = self.spans(text, side)
        return [covering(spans, character) for character in characters]

    def choose(self, text: str, count: int, seed: int) -> tuple[int, ...]:
        """At most `count` positions in a text, as characters in rising order, by the base tokenizer. See `eligible`."""
        spans = self.spans(text, "base")
        tokens = eligible(self.encode(text, "base"), spans, special_ids(self.base))
        return pick([spans[i][1] - 1 for i in tokens], text, count, seed)

    def ends(self, side: str) -> set[int]:
        """The tokens that end a model's answer."""
        return special_ids(getattr(self, side))

    def token_id(self, text: str, side: str) -> int:
        """The one token that a target or foil stands for. Raises UserError if the text is not one token."""
        ids = getattr(self, side)(text, add_special_tokens=False).input_ids
        if len(ids) != 1:
            pieces = [getattr(self, side).decode([i]) for i in ids]
            raise UserError(
                f"The target or foil {text!r} is {len(ids)} tokens: {pieces}.\n"
                "Try:  a single token, such as ' yes' with its leading space"
            )
        return ids[0]

    def label(self, token: int, side: str) -> str:
        """A token in readable form: its text with visible spaces and line ends, or its raw piece if it is part of a character."""
        text = getattr(self, side).decode([token])
        if "\ufffd" in text or not text:
            return f"<{getattr(self, side).convert_ids_to_tokens(token) or token}>"  # a padding row has no piece
        return visible(text)

    def labels(self, ids: list[int], side: str) -> list[str]:
        """Tokens of one text in readable form. A character of several tokens is shown at the last, the others as raw pieces."""
        labels, parts = [], []
        for token in ids:
            parts = [*parts[-MOST_PARTS:], token]
            text = getattr(self, side).decode(parts)
            complete = "\ufffd" not in text
            labels.append(visible(text) if complete and len(parts) > 1 else self.label(token, side))
            parts = [] if complete else parts
        return labels


def visible(text: str) -> str:
    """A text with visible spaces and line ends."""
    return repr(text)[1:-1].replace(" ", "␣")


def special_ids(tokenizer: Any) -> set[int]:
    """All special tokens, including those that only the added-token table marks (a GGUF tokenizer's list can omit some)."""
    marked = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def adds_bos(tokenizer: Any) -> bool:
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]


def lacks_bos(tokenizer: Any, ids: list[int]) -> bool:
    """Whether the tokenizer begins every sequence with a token that is not in ids."""
    return adds_bos(tokenizer) and ids[0] != tokenizer.bos_token_id


def covering(spans: list[tuple[int, int]], character: int) -> int:
    """The last token that covers a character; the token before it if none does, as when a tokenizer drops white space."""
    tokens = [i for i, (start, end) in enumerate(spans) if start < end]
    return max((i for i in tokens if spans[i][0] <= character), default=tokens[0])


def eligible(ids: list[int], spans: list[tuple[int, int]], special: set[int]) -> list[int]:
    """Indices of the tokens that may be studied: in the prompt's text, not special, not among the sequence's last four.

    ids: a whole sequence, up to its decision token. spans: the characters each token covers, (0, 0) for the template's.
    """
    early = range(len(ids) - NEAR_END)
    return [i for i in early if spans[i][0] < spans[i][1] and ids[i] not in special]


def pick(characters: Iterable[int], text: str, count: int, seed: int) -> tuple[int, ...]:
    """At most `count` random characters, by seed and text, in rising order. A larger count includes those of a smaller."""
    order = sorted(set(characters))
    random.Random(f"{seed}:{text}").shuffle(order)
    return tuple(sorted(order[:count]))


def load_tokenizers(pair: Pair) -> Tokenizers:
    """The two sides' tokenizers, one object if both come from the same folder. Raises UserError if a side has none."""
    from transformers import AutoTokenizer

    def load(folder: Path) -> Any:
        if has_tokenizer(folder):
            try:
                return AutoTokenizer.from_pretrained(folder, trust_remote_code=pair.trust_remote_code)
            except (ValueError, OSError, KeyError) as error:
                why = f" that can be read ({str(error).strip().splitlines()[0]})"
        else:
            why = f": it contains none of {', '.join(TOKENIZER[:3])}"
        raise UserError(f"{folder} has no tokenizer{why}.\nTry:  copy the tokenizer's files from the model it was tuned from")

    base, tuned = (source.tokenizer_folder() for source in (pair.base, pair.tuned))
    first = load(base)
    return Tokenizers(pair, first, first if tuned == base else load(tuned))
