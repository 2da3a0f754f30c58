"""A domain's question templates, filled into its train and val prompts.

A shipped domain is a folder of mechdiff/data/domains with a `templates.toml`:

    [slots]                              # values that every template of the domain may use
    region = ["Kazakhstan", "Peru"]      # {region}
    trip = [{km = 120, hours = 2}]       # {trip[km]}, {trip[hours]}: values that belong together

    [[template]]
    id = "breakfast"
    topic = "food"
    text = "What do people in {region} usually eat for breakfast?"
    slots = { region = ["Japan"] }       # optional: this template's own values
    answer = "{trip[km]} / {trip[hours]}"  # optional: the right answer, as arithmetic; + - * / ** % and comb(n, k)
    states = "60"                        # optional: the same, worked out by hand; a test compares the two
    split = "val"                        # optional, but then for all: val has one prompt of each of its templates

The split is by template: a template's prompts are all in train or all in val. Where templates do not name it, every topic has the
same share of both. The same seed gives the same files.
"""

import ast
import itertools
import json
import math
import operator
import random
import string
import tomllib
from collections import defaultdict
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import SHIPPED_DOMAINS, check_not_installed

SIZES = {"train": 350, "val": 150}
MAX_COMBINATIONS = 20_000
ABOUT = (
    "form",
    "kind",
    "region",
    "partner",
)  # what else a template says of its prompts; `partner`: DOMAIN:TEMPLATE of another one
Table = dict[str, Any]  # a TOML table, or a prompt's row
OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}


def slot_names(text: str) -> list[str]:
    """The distinct slots of a template, in order of first use: "{trip[km]} in {region}" gives trip, region."""
    fields = (field for _, field, _, _ in string.Formatter().parse(text) if field)
    return list(dict.fromkeys(field.split("[")[0] for field in fields))


def fillings(template: Table, slots: Table, rng: random.Random) -> list[Table]:
    """Every combination of slot values for one template (MAX_COMBINATIONS at most), shuffled."""
    values = slots | template.get("slots", {})
    names = slot_names(template["text"])
    combinations = itertools.product(*(values[name] for name in names))
    assignments = [dict(zip(names, combination)) for combination in itertools.islice(combinations, MAX_COMBINATIONS)]
    rng.shuffle(assignments)
    return assignments


def split_templates(templates: list[Table], rng: random.Random) -> dict[str, list[Table]]:
    """The templates of each split: those that name it, or else every topic's, divided in the share of SIZES."""
    if all("split" in template for template in templates):
        return {split: [template for template in templates if template["split"] == split] for split in SIZES}
    by_topic: dict[str, list[Table]] = defaultdict(list)
    for template in templates:
        by_topic[template["topic"]].append(template)
    share = SIZES["val"] / sum(SIZES.values())
    splits: dict[str, list[Table]] = {"train": [], "val": []}
    owed = 0.0  # templates that val is still short of, as a fraction carried from topic to topic
    for topic in sorted(by_topic):
        members = by_topic[topic]
        rng.shuffle(members)
        owed += share * len(members)
        count = round(owed)
        owed -= count
        splits["val"] += members[:count]
        splits["train"] += members[count:]
    return splits


def fill(templates: list[Table], slots: Table, size: int, rng: random.Random) -> list[Table]:
    """`size` different prompts, as evenly over the templates as possible, in random order."""
    queues = [(template, iter(fillings(template, slots, rng))) for template in templates]
    rng.shuffle(queues)
    prompts: list[Table] = []
    seen: set[str] = set()
    while len(prompts) < size:
        before = len(prompts)
        for template, remaining in queues:
            values = next(remaining, None)
            text = "" if values is None else template["text"].format(**values)
            if values is not None and text and text not in seen and len(prompts) < size:
                seen.add(text)
                prompts.append(filled(template, values, text))
        if len(prompts) == before:
            raise UserError(f"The templates yield only {before} different prompts; {size} are needed.\nTry:  more slot values")
    rng.shuffle(prompts)
    return prompts


def filled(template: Table, values: Table, text: str) -> Table:
    """A prompt's row, without its id."""
    label = {"answer": answer(template["answer"].format(**values))} if "answer" in template else {}
    meta = {"topic": template["topic"]} | {name: template[name] for name in ABOUT if name in template}
    return {"text": text, "template": template["id"]} | label | {"meta": meta | {"slots": values}}


def answer(arithmetic: str) -> str:
    """The exact value of an expression: "100 * 64 / (100 - 20)" is "80". A fraction without a finite decimal form stays one."""
    value = evaluate(ast.parse(arithmetic, mode="eval").body)
    short = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return short if Fraction(short) == value else str(value)


def evaluate(node: ast.expr) -> Fraction:
    """Numbers, operators and comb only, because a template is data."""
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(str(node.value))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return Fraction(OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right)))
        case ast.Call(func=ast.Name(id="comb"), args=[n, k]):
            return Fraction(math.comb(*(int(evaluate(part)) for part in (n, k))))
    raise UserError(f"An answer is not arithmetic: {ast.unparse(node)}")


def write_prompts(domain: str, seed: int) -> list[str]:
    """Fill a shipped domain's templates into its train.jsonl and val.jsonl, in a checkout. Returns a summary, a line each."""
    folder = SHIPPED_DOMAINS / domain
    if not (folder / "templates.toml").exists():
        raise one_of(
            "Domain with templates", domain, sorted(path.parent.name for path in SHIPPED_DOMAINS.glob("*/templates.toml"))
        )
    check_not_installed(folder)
    source = tomllib.loads((folder / "templates.toml").read_text(encoding="utf-8"))
    name, summary = domain.partition("@")[0], []
    rng = random.Random(f"{seed}:{name}")
    for split, templates in split_templates(source["template"], rng).items():
        prompts = fill(templates, source.get("slots", {}), SIZES[split], rng)
        rows = [{"id": f"{name}-{split}-{i:03d}"} | prompt for i, prompt in enumerate(prompts)]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        summary.append(f"{domain} {split}: {len(rows)} prompts from {len({row['template'] for row in rows})} templates")
    return summary
