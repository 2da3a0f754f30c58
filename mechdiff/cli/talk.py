"""python -m mechdiff talk: compute what a talk will show, before it is given."""

import subprocess
import sys
from pathlib import Path

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import PACKAGE

SCRIPT = PACKAGE.parent / "app" / "prepare.py"
ADDRESS = "http://localhost:8501/"


def add(commands) -> None:
    talk = commands.add_parser("talk", help="talk prepare FILE: compute what a talk will show, before it is given")
    talk.add_argument("what", metavar="prepare", help="compute every step, and its slider's positions")
    talk.add_argument("file", nargs="?", type=Path, help="a talk as a TOML file (default: the one that comes with mechdiff)")
    talk.add_argument("--minutes", type=float, default=15, help="the most that slider positions may take (default: 15)")
    talk.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting.talk import READY, find, keep, read_talk

    if args.what != "prepare":
        raise one_of("What to do with a talk", args.what, ["prepare"])
    if not 0 <= args.minutes < float("inf"):
        raise UserError(f"{args.minutes:g} minutes is no time that slider positions can take.\nTry:  --minutes 15")
    if not SCRIPT.exists():
        raise UserError(f"A talk is prepared by the app, and {SCRIPT} is not there.\nTry:  pip install -e . in a checkout")
    path = args.file or find(READY)
    talk = read_talk(path)
    name = keep(path) if args.file else READY
    print(f"{talk.title}: {len(talk.steps)} steps", flush=True)
    status = subprocess.run([sys.executable, str(SCRIPT), str(path), name, str(args.minutes)]).returncode
    if status:  # it has said why
        raise SystemExit(status)
    print(f"Ready: streamlit run app/Home.py, then open {ADDRESS}?talk={name}")
