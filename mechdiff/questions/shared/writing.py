"""Greedy answers in batches, and measures where they begin: the next token, the mass on refusals, given phrases."""

import re
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from mechdiff.common.terms import SIDES
from mechdiff.engine.decoding import Decoding, pad_left, together
from mechdiff.engine.memory import in_parts
from mechdiff.engine.rows import Rows
from mechdiff.inputs.answer_scoring import openers
from mechdiff.maths import similarity
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.behaviour_summary import AGAINST_CLEAN
from mechdiff.questions.shared.task import Steps

BATCH_SIZES = {"cpu": 64, "cuda": 256}  # answers that are written, and phrases that are scored, at a time
Batch = tuple[list[int], Decoding]  # indices of prompts, and the state after them
Answer = tuple[list[int], bool]  # its tokens, and whether it ended


def begin(loaded: LoadedPair, side: str, ids: list[list[int]], rows: Rows | None) -> Steps[list[Batch]]:
    """Let a side read prompts, in as few batches as it can. Returns the batches."""
    anatomy, batches = getattr(loaded, side), []

    def read(members: list[int]) -> Decoding:
        padded, seen = pad_left([ids[prompt] for prompt in members])
        return Decoding(anatomy, padded, of_prompts(rows, members), 0, seen)

    for members in together(anatomy, ids):
        with loaded.placement.at_work(side):
            batches += in_parts(read, members, anatomy.device)
        yield
    return batches


def write_on(loaded: LoadedPair, side: str, batches: list[Batch], n: int, count: int) -> Generator[int, None, list[Answer]]:
    """Let a side answer greedily, with at most `count` tokens, the prompts it has read: n texts per prompt.

    Yields after every token how many are written; returns each text's answer, those of one prompt next to each other. Holds the
    weights' lock for one token at a time.
    """
    ends = torch.tensor(sorted(loaded.tokenizers.ends(side)))
    answers: list[Answer] = [([], False)] * (sum(len(members) for members, _ in batches) * n)
    for members, decoding in batches:
        written, going = [[] for _ in range(len(members) * n)], torch.ones(len(members) * n, dtype=torch.bool)
        for number in range(count):
            tokens = decoding.logits.argmax(-1).cpu()
            going &= ~torch.isin(tokens, ends)
            for text in going.nonzero().flatten().tolist():
                written[text].append(int(tokens[text]))
            if not going.any() or number == count - 1:
                break
            with loaded.placement.at_work(side):
                decoding.step(tokens)
            yield number + 1
        for place, prompt in enumerate(members):
            for row in range(n):
                answers[prompt * n + row] = written[place * n + row], not bool(going[place * n + row])
    return answers


def of_prompts(rows: Rows | None, members: list[int]) -> Rows | None:
    """The same rows for some of the prompts."""
    return rows and Rows(rows.count, [replace(edit, states=edit.value[members]) for edit in rows.edits])


def compared_with_clean(logprobs: Tensor, side: str, clean: dict[str, Tensor], loaded: LoadedPair) -> dict[str, np.ndarray]:
    """Next-token distributions of a side, [k, vocabulary], compared with both clean models' on the same prompts, row by row.

    kl_from_base: KL(this || base); kl_to_base: KL(base || this), nats. Between models with different vocabularies, the likeliest
    tokens agree if their strings are the same, and there is no KL.
    """
    comparable, values = comparable_vocabularies(loaded), {}
    for other in SIDES:
        if other == side or comparable:
            agrees = logprobs.argmax(-1) == clean[other].argmax(-1)
            divergences = similarity.kl(logprobs, clean[other]), similarity.kl(clean[other], logprobs)
        else:
            words = [
                [loaded.tokenizers.label(int(t), s) for t in d.argmax(-1)] for d, s in ((logprobs, side), (clean[other], other))
            ]
            agrees = torch.tensor([mine == theirs for mine, theirs in zip(*words)])
            divergences = (torch.full((len(logprobs),), torch.nan),) * 2
        values |= {f"agrees_{other}": agrees, f"kl_from_{other}": divergences[0], f"kl_to_{other}": divergences[1]}
    return {name: values[name].float().cpu().numpy() for name in AGAINST_CLEAN}


def comparable_vocabularies(loaded: LoadedPair) -> bool:
    return loaded.tokenizers.shared and loaded.base.vocabulary == loaded.tuned.vocabulary


def opening_tokens(tokenizer) -> list[int]:
    """The first tokens of the phrases that begin refusals, with a space before them and without.

    A token counts if it is the phrase's first word, or at least two letters of it: many texts begin with a single byte.
    """
    tokens = set()
    for opener in openers():
        for text in (opener, f" {opener}"):
            token = tokenizer(text, add_special_tokens=False).input_ids[0]
            beginning, word = tokenizer.decode([token]).strip(), re.match(r"\w+", opener)
            assert word is not None, "every opener begins with a word"
            if opener.startswith(beginning) and (len(beginning) > 1 or beginning == word[0]):
                tokens.add(token)
    return sorted(tokens)


def mass(logprobs: Tensor, tokens: list[int]) -> np.ndarray:
    """The log-probability, [k], that the next token is one of these; nan if there are none."""
    if not tokens:
        return np.full(len(logprobs), np.nan, np.float32)
    return logprobs[:, tokens].logsumexp(-1).cpu().numpy()


def following(tokenizer, ids: list[int], texts: tuple[str, ...], prefix: str = "") -> list[list[int]]:
    """The tokens of texts that may follow a prompt, each after the same prefix, whose tokens come first.

    ids: the prompt's. Unless the prefix, or else the prompt, ends in white space, a space precedes a text.
    """
    before = prefix or tokenizer.decode(ids[-1:])
    space = "" if before[-1:].isspace() else " "
    first = tokenizer(prefix, add_special_tokens=False).input_ids
    return [[*first, *tokenizer(space + text, add_special_tokens=False).input_ids] for text in texts]


def score(
    loaded: LoadedPair,
    side: str,
    decoding: Decoding,
    phrases: dict[int, list[list[int]]],
    n: int,
    before: int = 0,
    shared: Tensor | None = None,
) -> Steps[dict[int, Tensor]]:
    """The log-probability (nats) of every phrase after a prompt: the sum over its tokens, without its first `before`.

    phrases: their tokens, by the prompt's place in the batch. n: texts per prompt. shared: whether both models have a token,
    [vocabulary]. Returns by place [1, n, phrases]; with shared [2, n, phrases], the second with every distribution restricted to
    the shared tokens and renormalised: nan for a phrase with another token. Holds the weights' lock for one batch at a time.
    """
    pairs = [(place * n + row, phrase) for place, own in phrases.items() for row in range(n) for phrase in own]
    order = sorted(range(len(pairs)), key=lambda pair: len(pairs[pair][1]))  # so that a batch has little padding
    parts, device = [], decoding.anatomy.device
    most = BATCH_SIZES[device.type]
    for start in range(0, len(order), most):
        batch = [pairs[pair] for pair in order[start : start + most]]
        with loaded.placement.at_work(side):
            parts += [part for _, part in in_parts(lambda some: score_batch(decoding, some, before, shared), batch, device)]
        yield
    scores = torch.cat(parts, 1)[:, torch.tensor(order).argsort()].split([n * len(own) for own in phrases.values()], 1)
    return {place: part.unflatten(1, (n, -1)) for place, part in zip(phrases, scores)}


def score_batch(decoding: Decoding, pairs: list[tuple[int, list[int]]], before: int, shared: Tensor | None) -> Tensor:
    """The log-probabilities, [1 or 2, pairs], of pairs of a text's index and a phrase. See `score`."""
    longest = max(len(phrase) for _, phrase in pairs)
    which = torch.tensor([text for text, _ in pairs])
    tokens = torch.tensor([phrase + [0] * (longest - len(phrase)) for _, phrase in pairs])
    counted = torch.tensor([[True] * len(phrase) + [False] * (longest - len(phrase)) for _, phrase in pairs])[:, before:]
    logits = decoding.logits[which].unsqueeze(1)
    if longest > 1:
        logits = torch.cat([logits, decoding.after(which, tokens[:, :-1])], 1)
    logits, tokens = logits[:, before:], tokens[:, before:, None].to(logits.device)
    vocabularies = [logits] if shared is None else [logits, logits.masked_fill(~shared, -torch.inf)]
    each = [part.log_softmax(-1, dtype=torch.float32).gather(2, tokens).squeeze(2).cpu() for part in vocabularies]
    scores = torch.stack(each).where(counted, 0.0).sum(-1)
    return scores.where(scores.isfinite(), torch.nan)
