"""The command line: one module per command. Each adds its flags to the parser, with the function that runs it."""

from mechdiff.cli import (
    app,
    bench,
    check,
    compare,
    curate,
    export,
    findings,
    importing,
    pairs,
    planted,
    replay,
    report,
    run,
    shots,
    study,
    sweep,
    talk,
)
from mechdiff.cli.base import Parser

# in the order of the help
MODULES = (
    pairs,
    app,
    study,
    check,
    run,
    sweep,
    compare,
    findings,
    report,
    export,
    importing,
    curate,
    replay,
    talk,
    planted,
    bench,
    shots,
)


def build_parser() -> Parser:
    parser = Parser(prog="python -m mechdiff", description="Where and how did fine-tuning change this language model?")
    commands = parser.add_subparsers(dest="command", required=True)
    for module in MODULES:
        module.add(commands)
    commands.metavar = "{" + ",".join(commands.choices) + "}"
    return parser
