"""python -m mechdiff curate: prompts of your own as a domain, from a data set, a file, a recipe or templates.

    python -m mechdiff curate --name mydomain --file my.parquet --text-field question
    python -m mechdiff curate --name mydomain --dataset org/name --split test --text "{question}\\n{A}\\n{B}" \\
        --template-field source --where "category=tradition*,etiquette" --train 350 --val 150
    python -m mechdiff curate --name mydomain --file my.csv --text-field question --answer-field answer --choices A,B,C,D
    python -m mechdiff curate --recipe math-500
    python -m mechdiff curate fill DOMAIN ...         # a shipped domain's templates.toml into its train and val prompts
    python -m mechdiff curate positions DOMAIN ...    # the positions of train prompts that maps can be fitted on

Writes train.jsonl, val.jsonl, positions.jsonl and about.json (how they were made) into a folder that `--domain mydomain` finds:
cache/domains in a checkout, the user's data folder where mechdiff is installed, or MECHDIFF_DATA. No val prompt shares a template
with train or nearly duplicates a prompt there. The same seed gives the same files, whatever the order of the rows.
"""

import argparse
from dataclasses import fields, replace
from pathlib import Path

from mechdiff.common.errors import UserError
from mechdiff.inputs.curation import FILTERS, Spec, flag_of

PATTERNS = "FIELD=VALUE,VALUE; * stands for anything"


def add(commands) -> None:
    curate = commands.add_parser(
        "curate",
        help="prompts of your own as a domain, from a data set, a file, a recipe or templates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    curate.set_defaults(act=act)
    curate.add_argument("--recipe", help="a ready-made domain, such as math-500 or kk-culture; other flags override its values")
    add_spec_flags(curate)
    curate.add_argument("--pair", help="whose base tokenizer counts tokens and chooses positions (default: the demo pairs')")
    curate.add_argument("--audit", action="store_true", help="print at which step each row was left out; about.json has it too")
    curate.add_argument("--out", type=Path, help="a folder, instead of the one where --domain NAME finds it")
    curate.add_argument("--force", action="store_true", help="overwrite existing files")
    add_actions(curate.add_subparsers(metavar="{fill,positions}", required=False))


def add_spec_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for each field of Spec. What is not given keeps the recipe's value."""
    parser.argument_default = argparse.SUPPRESS
    parser.add_argument("--name", help="the domain's name")
    parser.add_argument("--file", help="a JSONL, parquet or CSV file, instead of a data set on the hub")
    parser.add_argument("--dataset", help="a data set's id on the hub")
    parser.add_argument("--subset", help="one of its configurations")
    parser.add_argument("--split", help="one of its splits (default: train)")
    parser.add_argument("--text-field", help="the field that holds the prompt")
    parser.add_argument("--text", help='or several fields, as "{question}\\n{A}\\n{B}"')
    parser.add_argument("--answer-field", dest="answer", help="the field that holds the right answer")
    parser.add_argument("--choices", help="the fields that hold the possible answers, as A,B,C,D, or one that holds their list")
    parser.add_argument("--template-field", dest="template", help="prompts with the same value of it are one template")
    parser.add_argument("--topic-field", dest="topic", help="its values have the same shares in both splits")
    parser.add_argument("--keep", help="fields that stay in the rows, as level,source")
    parser.add_argument("--where", action="append", help=f"only rows that match: {PATTERNS}; repeatable")
    parser.add_argument(
        "--or-where", action="append", help=f"and rows that match this instead of --where: {PATTERNS}; repeatable"
    )
    parser.add_argument("--without", action="append", help=f"no rows that match: {PATTERNS}; repeatable")
    parser.add_argument("--min-tokens", type=int, help="only prompts of at least so many tokens (default: any)")
    parser.add_argument("--train", type=int, help="prompts to fit maps on (default: 350)")
    parser.add_argument("--val", type=int, help="prompts to evaluate on (default: 150)")
    parser.add_argument("--seed", type=int, help="which rows are chosen (default: 0)")
    parser.argument_default = None


def add_actions(actions) -> None:
    fill = actions.add_parser("fill", help="a shipped domain's templates.toml into its train and val prompts")
    fill.add_argument("domains", nargs="+", help="folders of mechdiff/data/domains")
    fill.add_argument("--seed", type=int, default=0)
    fill.set_defaults(act=act_fill)
    positions = actions.add_parser("positions", help="the positions of train prompts that maps can be fitted on")
    positions.add_argument("domains", nargs="+", help="domains, shipped or your own")
    positions.add_argument("--count", type=int, default=16, help="positions per prompt, at most")
    positions.add_argument("--seed", type=int, default=0)
    positions.set_defaults(act=act_positions)


def act(args) -> None:
    from mechdiff.inputs import domain_files

    spec = chosen_spec(args, domain_files.read_recipe(args.recipe) if args.recipe else Spec())
    pair = args.pair or domain_files.DEFAULT_PAIR
    domain_files.check(spec, args.out, args.force)
    folder = args.out or domain_files.own_folder(spec.name)
    print("\n".join(domain_files.write_domain(spec, folder, args.force, pair, args.audit)))
    print(domain_files.try_positions(folder, pair, spec.seed))
    if not args.out:
        print(f"Try:  python -m mechdiff run patch --pair {pair} --domain {spec.name} --limit 32")


def act_fill(args) -> None:
    from mechdiff.inputs import templates

    for domain in args.domains:
        print("\n".join(templates.write_prompts(domain, args.seed)))


def act_positions(args) -> None:
    from mechdiff.inputs import domain_files
    from mechdiff.inputs.pair_file import read_pair
    from mechdiff.inputs.prompts import folder_of
    from mechdiff.inputs.tokenizers import load_tokenizers

    tokenizers = load_tokenizers(read_pair(domain_files.DEFAULT_PAIR))
    for domain in args.domains:
        print(domain_files.write_positions(folder_of(domain), tokenizers, args.count, args.seed))


def chosen_spec(args, recipe: Spec) -> Spec:
    """The recipe with what the flags say."""
    given = {field.name: getattr(args, field.name) for field in fields(Spec) if hasattr(args, field.name)}
    if "text" in given:
        given["text"] = given["text"].replace("\\n", "\n")
    if getattr(args, "text_field", None):
        given["text"] = f"{{{args.text_field}}}"
    for name in {"choices", "keep"} & given.keys():
        given[name] = tuple(filter(None, given[name].split(",")))
    return replace(recipe, **given | {name: patterns(name, given[name]) for name in FILTERS if name in given})


def patterns(name: str, given: list[str]) -> dict[str, tuple[str, ...]]:
    """FIELD=VALUE,VALUE as a filter."""
    flag = flag_of(name)
    filters: dict[str, tuple[str, ...]] = {}
    for text in given:
        field, equals, values = text.partition("=")
        if not (field and equals and values):
            raise UserError(f"{flag} {text!r} cannot be read.\nTry:  {flag} category=tradition,etiquette")
        filters[field] = (*filters.get(field, ()), *filter(None, values.split(",")))
    return filters
