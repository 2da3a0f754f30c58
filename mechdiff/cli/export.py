"""python -m mechdiff export: a stored sweep's tables as CSV and its charts as pictures, by domain and question."""

from pathlib import Path

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIRECTIONS


def add(commands) -> None:
    export = commands.add_parser(
        "export", help="a stored sweep's tables as CSV and its charts as pictures, by domain and question"
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="where to: DIR/DOMAIN/rq1 to rq4")
    export.add_argument("--pair", required=True, help="a pair, or PAIR@PROTOCOL")
    export.add_argument("--domain", help="default: the pair's own")
    export.add_argument("--direction", default=DIRECTIONS[0], help=f"of the charts: {', '.join(DIRECTIONS)}")
    export.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting.sweep_files import export
    from mechdiff.study import stored_sweep

    choice = stored_sweep.parse(args.pair + (f"@{args.domain}" if args.domain else ""), args.direction)
    try:
        files = export(choice, args.folder)
    except OSError as error:
        raise UserError(f"The export cannot be written to {args.folder}: {error.strerror}.\nTry:  another folder") from None
    kinds = ", ".join(f"{sum(file.suffix == end for file in files)} {end[1:].upper()}" for end in (".csv", ".png", ".svg"))
    print(f"{kinds} files in {args.folder / choice.domain}")
