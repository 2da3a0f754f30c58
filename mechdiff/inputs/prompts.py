"""Prompts and domains: reading, checking, and cutting into blocks. Needs no torch and no tokenizer."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import CACHE, DOMAINS, SHIPPED_DOMAINS

OWN = "own:"  # prefix of the hash under which a user's own prompts are stored on this machine
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"  # names of choices
BLOCK = 16  # prompts that are computed and cached together


@dataclass(frozen=True)
class Prompt:
    """One prompt, and what is known about it.

    text: used verbatim. template: what it was filled from; prompts of one template are a cluster, and intervals respect that.
    answer: the right answer, if it is known. choices: the possible answers, if they are given. Only behaviour reads the last two.

    Example:
        >>> prompts = [md.Prompt("What is 3 + 4?", "sum", answer="7"), md.Prompt("What is 5 + 6?", "sum", answer="11")]
        >>> pair.patch(layers=1, prompts=prompts).summary()[["prompts", "templates"]].values.tolist()
        [[2, 1]]
    """

    text: str
    template: str
    answer: str = ""
    choices: tuple[str, ...] = ()


def shipped_domains() -> list[str]:
    """Domains that come with mechdiff."""
    return sorted(path.parent.name for path in SHIPPED_DOMAINS.glob("*/val.jsonl"))


def own_domains() -> list[str]:
    """Domains that were curated on this machine."""
    return sorted(path.parent.name for path in DOMAINS.glob("*/val.jsonl"))


def domains() -> list[str]:
    """Every domain, the shipped ones first."""
    return list(dict.fromkeys([*shipped_domains(), *own_domains()]))


def canonical(domain: str) -> str:
    """A domain's own name, where it is named with its version: NAME is the newest, older ones are NAME@VERSION."""
    name, _, version = domain.rpartition("@")
    if domain in domains() or name not in domains():
        return domain
    return name if version == str(newest(name)) else domain


def newest(domain: str) -> int:
    """The version of the domain that has no version in its name: one more than the older ones."""
    return 1 + sum(other.rpartition("@")[0] == domain for other in domains())


def folder_of(domain: str) -> Path:
    """The folder of a domain's files. A domain curated on this machine hides a shipped one of the same name."""
    domain = canonical(domain)
    if domain not in domains():
        raise one_of("Domain", domain or "(none)", domains())
    return (DOMAINS if domain in own_domains() else SHIPPED_DOMAINS) / domain


def read_domain(domain: str, split: str) -> list[Prompt]:
    """The curated prompts of a domain: split is train or val."""
    return read_prompts(folder_of(domain) / f"{split}.jsonl")


def read_positions(domain: str) -> dict[str, tuple[int, ...]]:
    """The curated positions of a domain's train prompts: text -> characters of it, in rising order.

    A position is the token that covers the character, in any tokenizer. Empty for a domain without such a file.
    """
    path = folder_of(domain) / "positions.jsonl" if domain in domains() else None
    if path is None or not path.exists():
        return {}
    texts = {row["id"]: row["text"] for row in read_rows(path.parent / "train.jsonl")}
    return {texts[row["id"]]: tuple(row["characters"]) for row in read_rows(path)}


def read_rows(path: Path) -> list[dict]:
    """The rows of a domain's JSON-lines file, unchecked."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def read_prompts(path: str | Path) -> list[Prompt]:
    """Prompts from a JSON-lines file: {"text": ...} on each line, with an optional "template".

    path: a file, or the name that keep_prompts returned. Raises UserError, naming the line, for a missing, empty or broken file.
    """
    if str(path).startswith(OWN):
        name = str(path).removeprefix(OWN)
        if not name.isalnum() or not own_prompts(name).exists():
            raise UserError(
                f"There are no prompts of your own named '{name}' on this machine. A link to them works only where "
                "they were typed."
            )
        path = own_prompts(name)
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would cut a text at U+2028
    except OSError as error:
        raise UserError(f"The prompts file {path} cannot be read: {error.strerror}.\nTry:  ls {path.parent}") from None
    except UnicodeDecodeError:
        raise UserError(f"The prompts file {path} is not UTF-8 text. It needs one JSON object per line: {example()}") from None
    return parse_prompts(lines, str(path))


def keep_prompts(prompts: list[Prompt]) -> str:
    """Store a user's own prompts on this machine, in the cache folder.

    prompts: at least one. Returns the name that a request's field `prompts` takes: a hash, which reveals no text.
    Raises UserError if they cannot be stored.

    Example:
        >>> mine = md.keep_prompts([md.Prompt("What is 3 + 4?", "sum"), md.Prompt("What is 5 + 6?", "sum")])
        >>> mine.startswith("own:")
        True
        >>> len(md.run(md.Patch(pair=pair.spec.path, layers=(1,), prompts=mine)))
        2
    """
    name = own_name(prompts)
    path = own_prompts(name.removeprefix(OWN))
    if path.exists():
        return name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(as_lines(prompts) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise UserError(
            f"The prompts cannot be stored in {path.parent}: {error.strerror}.\nTry:  MECHDIFF_CACHE=/some/folder"
        ) from None
    return name


def own_name(prompts: list[Prompt]) -> str:
    """The name of a user's own prompts, whether or not they are stored."""
    return OWN + hashlib.sha256(as_lines(prompts).encode()).hexdigest()[:16]


def as_lines(prompts: list[Prompt]) -> str:
    """Prompts as JSON lines."""
    return "\n".join(json.dumps(as_row(prompt), ensure_ascii=False) for prompt in prompts)


def as_row(prompt: Prompt) -> dict:
    optional = {"answer": prompt.answer, "choices": prompt.choices}
    return {"text": prompt.text, "template": prompt.template} | {name: value for name, value in optional.items() if value}


def public(prompts: list[Prompt]) -> bool:
    """Whether all of them come from shipped domains, so that none is a user's own."""
    files = [SHIPPED_DOMAINS / domain / f"{split}.jsonl" for domain in shipped_domains() for split in ("val", "train")]
    shipped = {prompt.text for file in files for prompt in read_prompts(file)}
    return all(prompt.text in shipped for prompt in prompts)


def own_prompts(name: str) -> Path:
    """The file of a user's own prompts."""
    return CACHE / "prompts" / f"{name}.jsonl"


def parse_prompts(lines: list[str], name: str) -> list[Prompt]:
    """Prompts from JSON lines. Raises UserError, with the name and the line, for one that is not a prompt."""
    prompts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{name}, line {number} is not JSON ({error.msg}). Each line should look like {example()}") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise UserError(f'{name}, line {number} has no "text". Each line should look like {example()}')
        if not row["text"].strip():
            raise UserError(f"{name}, line {number} has an empty text: there is no token to study. Remove the line.")
        prompts.append(Prompt(row["text"], str(row.get("template", f"line {number}")), *label_of(row, f"{name}, line {number}")))
    if not prompts:
        raise UserError(f"{name} holds no prompts. Each line should look like {example()}")
    return prompts


def label_of(row: dict, place: str) -> tuple[str, tuple[str, ...]]:
    """A row's right answer and choices, empty if it has none. An answer may name its choice by letter.

    Raises UserError, naming the place, for an answer that is neither text nor a number, and for choices without the right one.
    """
    answer, choices = row.get("answer", ""), row.get("choices", [])
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise UserError(f'{place} has an "answer" that is neither text nor a number.\nTry:  "answer": "7"')
    answer = str(answer).strip()
    if not choices:
        return answer, ()
    texts = isinstance(choices, list) and all(isinstance(choice, str) and choice.strip() for choice in choices)
    if not texts or not 2 <= len(set(choices)) == len(choices) <= len(LETTERS):
        raise UserError(f'{place} has "choices" that are not two or more different texts.\nTry:  "choices": ["six", "seven"]')
    if answer not in choices and answer in tuple(LETTERS[: len(choices)]):
        answer = choices[LETTERS.index(answer)]
    if answer not in choices:
        fix = json.dumps(choices[0], ensure_ascii=False)
        raise UserError(f'{place} has "choices", but its "answer" {answer!r:.60} is not one of them.\nTry:  "answer": {fix}')
    return answer, tuple(choices)


def example() -> str:
    return '{"text": "What is 3 + 4?"}'


def digest(prompts: list[Prompt]) -> str:
    """A hash of the texts, in order."""
    return hashlib.sha256(json.dumps([p.text for p in prompts]).encode()).hexdigest()


def digest_of_templates(prompts: list[Prompt]) -> str:
    """A hash of which prompts are of one template."""
    names = list(dict.fromkeys(prompt.template for prompt in prompts))
    return hashlib.sha256(json.dumps([names.index(prompt.template) for prompt in prompts]).encode()).hexdigest()


def blocks(prompts: list[Prompt]) -> list[list[Prompt]]:
    """The prompts in blocks of BLOCK, in order."""
    return [prompts[start : start + BLOCK] for start in range(0, len(prompts), BLOCK)]
