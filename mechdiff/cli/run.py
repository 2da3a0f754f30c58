"""python -m mechdiff run: answer one question."""

import argparse
import dataclasses
from pathlib import Path

from mechdiff.cli.base import SUFFIXES, follow, write
from mechdiff.common.errors import UserError
from mechdiff.common.terms import QUESTIONS, STREAMS, WITHOUT_MEANS
from mechdiff.engine.intervention_text import read_stack
from mechdiff.inputs.pair_file import read_pair
from mechdiff.questions.shared.request import Run

DIAGNOSTICS = """transport, rank: write to FILE.csv or FILE.parquet how well the maps fit; weights: how far the changes lie in the
subspace that is mapped at --layers (one)"""


def add(commands) -> None:
    run = commands.add_parser("run", help="answer one question")
    run.add_argument("question", metavar="QUESTION", help=", ".join(QUESTIONS))
    add_run_flags(run)
    run.add_argument("--diagnostics", help=DIAGNOSTICS)
    run.add_argument("--out", help="write the table to FILE.csv or FILE.parquet; without it a summary is printed")
    run.set_defaults(act=act)


def integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"Layers '{text}' cannot be read.\nTry:  --layers 0,4,8  or  --layers all") from None


def names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


CONVERTERS = {"ints": lambda text: None if text == "all" else integers(text), "names": names, "stack": read_stack}


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Run."""
    for spec in dataclasses.fields(Run):
        if spec.name == "question":
            continue
        convert = spec.metadata.get("convert", str)
        default = "" if spec.default in (None, ()) else f" (default: {show(spec.default)})"
        parser.add_argument(
            f"--{spec.name.replace('_', '-')}",
            dest=spec.name,
            type=CONVERTERS.get(convert, convert),
            default=argparse.SUPPRESS,
            **({"nargs": "?", "const": spec.metadata["bare"]} if "bare" in spec.metadata else {}),
            help=(spec.metadata["help"] + default).replace("%", "%%"),
        )


def show(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def act(args) -> None:
    from mechdiff import questions

    given = {spec.name: getattr(args, spec.name) for spec in dataclasses.fields(Run) if hasattr(args, spec.name)}
    if given.get("streams") == ("all",):
        given["streams"] = STREAMS
    if args.question == "behaviour" and given.get("layers", ()) is None:  # all of them; its default is none
        given["layers"] = tuple(range(read_pair(given.get("pair", Run.pair)).layers))
    for name in (args.out, args.diagnostics):
        if name and not name.endswith(SUFFIXES):
            raise UserError(f"The table cannot be written as '{name}'. Choose a name that ends in {' or '.join(SUFFIXES)}.")
    request = Run(**given)
    if args.diagnostics:
        kind = questions.Overlap if request.question == "weights" else questions.Diagnostics
        if request.question not in ("transport", "rank", "weights"):
            raise UserError(
                f"There is no fitted map in {request.question} to diagnose.\nTry:  run transport --diagnostics FILE.csv"
            )
        maps = questions.task(kind(request))
        follow(maps, "maps")
        write(maps.table(), Path(args.diagnostics))
    task = questions.task(request)
    follow(task, request.question)
    table = task.table()
    if args.out:
        write(table, Path(args.out))
        print(f"{len(table)} lines in {args.out}")
    else:
        print(summary(request, table).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def summary(request: Run, table):
    """A line per condition with the mean effect over prompts and its interval; what is no such mean, as it is."""
    from mechdiff.questions.shared.summary import summarise_table

    lines = summarise_table(table, request)
    if request.question in WITHOUT_MEANS:
        return lines
    same = [name for name in lines.columns[: list(lines).index("mean")] if name != "layer" and lines[name].nunique() <= 1]
    return lines.drop(columns=same)
