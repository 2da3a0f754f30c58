"""Which texts are the same or nearly the same, whatever their case, character width, white space and numbers."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator

NEAR_DUPLICATE = 0.4  # Jaccard similarity of shingles at and above which two texts are near-duplicates
SHINGLE = 3  # consecutive words


def blank(value: object) -> bool:
    """Whether a field is missing, not a number, or an empty text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def normal(text: str) -> str:
    """A text without differences of case, character width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def near_duplicates(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that are nearly the same apart from their numbers, the later one first, in the later one's order."""
    texts_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for i, text in enumerate(texts):
        own = shingles(text)
        common = Counter(j for shingle in own for j in texts_with[shingle])
        for j, count in common.items():
            if count >= NEAR_DUPLICATE * (len(own) + sizes[j] - count):
                yield i, j
        sizes.append(len(own))
        for shingle in own:
            texts_with[shingle].append(i)


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of SHINGLE words, with all numbers replaced by the same one."""
    words = re.sub(r"\d+", "0", " ".join(re.findall(r"\w+", normal(text)))).split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}
