"""Greedy answers in batches, and measures where they begin: the next token, the mass on refusals, the choices."""

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
from mechdiff.inputs.answer_scoring import openers, scored
from mechdiff.inputs.prompts import Prompt
from mechdiff.maths import similarity
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.behaviour_summary import AGAINST_CLEAN
from mechdiff.questions.shared.task import Steps

BATCH_SIZES = {"cpu": 64, "cuda": 256}  # answers that are written, and choices that are scored, at a time
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


def score_choices(decoding: Decoding, tokenizer, ids: list[int], prompt: Prompt, texts: range) -> tuple[np.ndarray, np.ndarray]:
    """For some texts after one prompt: the right choice's log-probability (nats), and whether it is the likeliest, [texts].

    A choice's log-probability is the sum over its tokens. ids: the prompt's; unless it ends in white space, a space precedes a
    choice.
    """
    space = "" if tokenizer.decode(ids[-1:])[-1:].isspace() else " "
    options = [tokenizer(space + option, add_special_tokens=False).input_ids for option in scored(prompt.text, prompt.choices)]
    longest = max(map(len, options))
    padded = torch.tensor([option + [0] * (longest - len(option)) for option in options])
    counted = torch.tensor([[True] * len(option) + [False] * (longest - len(option)) for option in options])
    parts, most = [], max(1, BATCH_SIZES[decoding.anatomy.device.type] // len(options))
    for batch in torch.tensor(list(texts)).split(most):
        which, tokens = batch.repeat_interleave(len(options)), padded.repeat(len(batch), 1)
        logits = decoding.logits[which].unsqueeze(1)
        if longest > 1:
            logits = torch.cat([logits, decoding.after(which, tokens[:, :-1])], 1)
        each = logits.log_softmax(-1, dtype=torch.float32).cpu().gather(2, tokens.unsqueeze(2)).squeeze(2)
        parts.append(each.where(counted.repeat(len(batch), 1), 0.0).sum(1).unflatten(0, (len(batch), len(options))))
    scores, place = torch.cat(parts), prompt.choices.index(prompt.answer)
    return scores[:, place].numpy(), (scores.argmax(1) == place).float().numpy()
