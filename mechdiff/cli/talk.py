"""python -m mechdiff talk: compute in advance what a talk will show."""

import subprocess
import sys
from pathlib import Path

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import PACKAGE

SCRIPT = PACKAGE.parent / "app" / "prepare.py"
ADDRESS = "http://localhost:8501/"


def add(commands) -> None:
    talk = commands.add_parser("talk", help="talk prepare FILE: compute in advance what a talk will show")
    talk.add_argument("what", metavar="prepare", help="compute every step, and its slider's positions")
    talk.add_argument("file", nargs="?", type=Path, help="a talk as a TOML file (default: the shipped one)")
    talk.add_argument("--minutes", type=float, default=15, help="time limit for the slider positions (default: 15)")
    talk.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting.talk import READY, find, keep, read_talk

    if args.what != "prepare":
        raise one_of("Action on a talk", args.what, ["prepare"])
    if not 0 <= args.minutes < float("inf"):
        raise UserError(f"{args.minutes:g} minutes is not a valid time limit.\nTry:  --minutes 15")
    if not SCRIPT.exists():
        raise UserError(f"Preparing a talk needs the app: {SCRIPT} does not exist.\nTry:  pip install -e . in a checkout")
    path = args.file or find(READY)
    talk = read_talk(path)
    name = keep(path) if args.file else READY
    print(f"{talk.title}: {len(talk.steps)} steps", flush=True)
    status = subprocess.run([sys.executable, str(SCRIPT), str(path), name, str(args.minutes)]).returncode
    if status:  # the script has printed the reason
        raise SystemExit(status)
    print(f"Ready: streamlit run app/Home.py, then open {ADDRESS}?talk={name}")
