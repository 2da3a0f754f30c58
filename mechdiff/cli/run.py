"""python -m mechdiff run: answer one question."""

import argparse
import dataclasses
from pathlib import Path

from mechdiff import questions
from mechdiff.cli.base import SUFFIXES, Parser, follow, write
from mechdiff.common.errors import UserError
from mechdiff.questions import QUESTIONS, Question, kind_of
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.shared.fields import flag_name
from mechdiff.questions.shared.mapped import MappedQuestion
from mechdiff.questions.shared.request import about, refuse_foreign
from mechdiff.questions.weights import Weights

DIAGNOSTICS = """transport, rank: write to FILE.csv or FILE.parquet how well the maps fit; weights: how far the changes lie in the
subspace that is mapped at --layers (one)"""


def add(commands) -> None:
    run = commands.add_parser("run", help="answer one question", description="Answer one question.")
    run.add_argument("question", metavar="QUESTION", help=f"{', '.join(QUESTIONS)}; run QUESTION --help lists its options")
    run.add_argument("options", nargs=argparse.REMAINDER, metavar="...", help="the question's own options")
    run.set_defaults(act=act)


def options_of(kind: type[Question]) -> Parser:
    """A parser with a flag for every field of a question."""
    parser = Parser(prog=f"python -m mechdiff run {kind.question}", description=f"{kind.title} {about(kind)}")
    for spec in dataclasses.fields(kind):
        bare = spec.metadata["bare"]
        choices = f": {', '.join(spec.metadata['choices'])}" if spec.metadata["choices"] else ""
        default = "" if spec.default in (None, ()) else f" (default: {text_of(spec.default)})"
        parser.add_argument(
            flag_name(spec.name),
            dest=spec.name,
            type=spec.metadata["read"] or str,
            default=argparse.SUPPRESS,
            **({"nargs": "?", "const": bare} if bare else {}),
            help=f"{spec.metadata['help']}{choices}{default}".replace("%", "%%"),
        )
    parser.add_argument("--diagnostics", help=DIAGNOSTICS)
    parser.add_argument("--out", help="write the table to FILE.csv or FILE.parquet; without it a summary is printed")
    return parser


def text_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def act(args) -> None:
    request, files = read(args)
    if files["diagnostics"]:
        maps = diagnostics_of(request)
        follow(maps, "maps")
        write(maps.table(), Path(files["diagnostics"]))
    answer(request, files["out"])


def read(args) -> tuple[Question, dict[str, str | None]]:
    """The request of a command line, and the files that its tables go to: out, diagnostics."""
    kind = kind_of(args.question)
    options, foreign = options_of(kind).parse_known_args(args.options)
    refuse(kind, foreign)
    values = vars(options)
    files = {name: values.pop(name) for name in ("out", "diagnostics")}
    for name in filter(None, files.values()):
        if not name.endswith(SUFFIXES):
            raise UserError(f"The table cannot be written as '{name}'. Choose a name that ends in {' or '.join(SUFFIXES)}.")
    return kind(**values), files


def refuse(kind: type[Question], foreign: list[str]) -> None:
    """Raises UserError for what the question has no flag for."""
    if flags := [word for word in foreign if word.startswith("--")]:
        refuse_foreign(kind, [flags[0].removeprefix("--").partition("=")[0].replace("-", "_")])
    if foreign:
        raise UserError(f"'{foreign[0]}' belongs to no option.\nTry:  python -m mechdiff run {kind.question} --help")


def diagnostics_of(request: Question):
    """The task that says how well a request's maps fit."""
    if isinstance(request, Weights):
        return questions.task(Overlap(request))
    if isinstance(request, MappedQuestion):
        return questions.task(Diagnostics(request))
    raise UserError(f"{request.question} has no fitted map to diagnose.\nTry:  run transport --diagnostics FILE.csv")


def answer(request: Question, out: str | None) -> None:
    """Compute a request, and write its table or print its summary."""
    task = questions.task(request)
    follow(task, request.question)
    table = task.table()
    if out:
        write(table, Path(out))
        print(f"{len(table)} lines in {out}")
    else:
        print(summary(request, table).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def summary(request: Question, table):
    """A line per condition with the mean effect over prompts and its interval, without the columns that are the same for all."""
    lines = request.summary(table)
    if not request.averages:
        return lines
    same = [name for name in lines.columns[: list(lines).index("mean")] if name != "layer" and lines[name].nunique() <= 1]
    return lines.drop(columns=same)
