"""Fill a domain's question templates into its train and val prompts.

    python -m mechdiff.scripts.fill_prompts cultural cognitive

A domain is a folder under mechdiff/data with a `templates.toml`:

    [slots]                              # values that every template of the domain may use
    region = ["Kazakhstan", "Peru"]      # {region}
    trip = [{km = 120, hours = 2}]       # {trip[km]}, {trip[hours]}: values that belong together

    [[template]]
    id = "breakfast"
    topic = "food"
    text = "What do people in {region} usually eat for breakfast?"
    slots = { region = ["Japan"] }       # optional: this template's own values
    answer = "{trip[km]} / {trip[hours]}"  # optional: what is right, as arithmetic; + - * / ** % and comb(n, k)

The split is by template: a template's prompts are all in train or all in val, in the same share for every topic.
The same seed gives the same files.
"""

import argparse
import ast
import itertools
import json
import math
import operator
import random
import string
import tomllib
from collections import defaultdict
from fractions import Fraction

from mechdiff.common.paths import SHIPPED_DOMAINS

SIZES = {"train": 350, "val": 150}
MAX_COMBINATIONS = 20_000
OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
OPERATORS |= {ast.Pow: operator.pow, ast.Mod: operator.mod}


def slot_names(text: str) -> list[str]:
    """The distinct slots of a template, in order of first use: "{trip[km]} in {region}" gives trip, region."""
    fields = (field for _, field, _, _ in string.Formatter().parse(text) if field)
    return list(dict.fromkeys(field.split("[")[0] for field in fields))


def fillings(template: dict, slots: dict, rng: random.Random) -> list[dict]:
    """Every way to fill one template, shuffled."""
    values = slots | template.get("slots", {})
    names = slot_names(template["text"])
    combinations = itertools.product(*(values[name] for name in names))
    ways = [dict(zip(names, way)) for way in itertools.islice(combinations, MAX_COMBINATIONS)]
    rng.shuffle(ways)
    return ways


def split_templates(templates: list[dict], rng: random.Random) -> dict[str, list[dict]]:
    """Every topic's templates, divided between val and train as the sizes ask."""
    by_topic = defaultdict(list)
    for template in templates:
        by_topic[template["topic"]].append(template)
    share = SIZES["val"] / sum(SIZES.values())
    split, owed = {"train": [], "val": []}, 0.0
    for topic in sorted(by_topic):
        members = by_topic[topic]
        rng.shuffle(members)
        owed += share * len(members)
        taken = round(owed)
        owed -= taken
        split["val"] += members[:taken]
        split["train"] += members[taken:]
    return split


def fill(templates: list[dict], slots: dict, size: int, rng: random.Random) -> list[dict]:
    """`size` different prompts, as evenly over the templates as possible, in random order."""
    queues = [(template, iter(fillings(template, slots, rng))) for template in templates]
    rng.shuffle(queues)
    prompts, seen = [], set()
    while len(prompts) < size:
        before = len(prompts)
        for template, ways in queues:
            way = next(ways, None)
            text = way is not None and template["text"].format(**way)
            if text and text not in seen and len(prompts) < size:
                seen.add(text)
                meta = {"topic": template["topic"], "slots": way}
                known = {"answer": answer(template["answer"].format(**way))} if "answer" in template else {}
                prompts.append({"text": text, "template": template["id"]} | known | {"meta": meta})
        if len(prompts) == before:
            raise SystemExit(f"The templates yield only {before} different prompts; {size} are needed. Add slot values.")
    rng.shuffle(prompts)
    return prompts


def answer(arithmetic: str) -> str:
    """What an expression comes to, exactly: "100 * 64 / (100 - 20)" is "80". A decimal fraction without an end stays one."""
    value = evaluate(ast.parse(arithmetic, mode="eval").body)
    short = f"{float(value):.6f}".rstrip("0").rstrip(".")
    return short if Fraction(short) == value else str(value)


def evaluate(node: ast.expr) -> Fraction:
    """Numbers, operators and comb alone: a template is data."""
    match node:
        case ast.Constant(value=int() | float()):
            return Fraction(str(node.value))
        case ast.BinOp() if type(node.op) in OPERATORS:
            return Fraction(OPERATORS[type(node.op)](evaluate(node.left), evaluate(node.right)))
        case ast.Call(func=ast.Name(id="comb"), args=[n, k]):
            return Fraction(math.comb(*(int(evaluate(part)) for part in (n, k))))
    raise SystemExit(f"An answer is not arithmetic: {ast.unparse(node)}")


def write(domain: str, seed: int) -> None:
    folder = SHIPPED_DOMAINS / domain
    source = tomllib.loads((folder / "templates.toml").read_text(encoding="utf-8"))
    rng = random.Random(f"{seed}:{domain}")
    for split, templates in split_templates(source["template"], rng).items():
        prompts = fill(templates, source.get("slots", {}), SIZES[split], rng)
        rows = [{"id": f"{domain}-{split}-{i:03d}"} | prompt for i, prompt in enumerate(prompts)]
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{domain} {split}: {len(rows)} prompts from {len({r['template'] for r in rows})} templates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", help="folders under mechdiff/data")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for domain in args.domains:
        write(domain, args.seed)


if __name__ == "__main__":
    main()
