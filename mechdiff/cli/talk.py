"""python -m mechdiff talk: compute in advance what a talk will show."""

from pathlib import Path

from mechdiff.common.errors import UserError, one_of

ADDRESS = "http://localhost:8501/"


def add(commands) -> None:
    talk = commands.add_parser("talk", help="talk prepare FILE: compute in advance what a talk will show")
    talk.add_argument("what", metavar="prepare", help="compute every step, and its slider's positions")
    talk.add_argument("file", nargs="?", type=Path, help="a talk as a TOML file (default: the shipped one)")
    talk.add_argument("--minutes", type=float, default=15, help="time limit for the slider positions (default: 15)")
    talk.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting.prepare import prepare
    from mechdiff.reporting.talk import READY, find, keep, read_talk

    if args.what != "prepare":
        raise one_of("Action on a talk", args.what, ["prepare"])
    if not 0 <= args.minutes < float("inf"):
        raise UserError(f"{args.minutes:g} minutes is not a valid time limit.\nTry:  --minutes 15")
    path = args.file or find(READY)
    talk = read_talk(path)
    name = keep(path) if args.file else READY
    print(f"{talk.title}: {len(talk.steps)} steps", flush=True)
    prepare(talk, args.minutes)
    print(f"Ready: python -m mechdiff app, then open {ADDRESS}?talk={name}")
