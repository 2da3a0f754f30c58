"""python -m mechdiff shots: retake the documentation's pictures from the real app."""

import importlib.util
import subprocess
import sys

from mechdiff.common.errors import UserError
from mechdiff.common.paths import PACKAGE

SCRIPT = PACKAGE.parent / "docs" / "shots.py"


def add(commands) -> None:
    shots = commands.add_parser("shots", help="retake the documentation's pictures from the real app (needs chromium)")
    shots.add_argument("--only", help="one picture, such as pictures/rank.png (default: all)")
    shots.set_defaults(act=act)


def act(args) -> None:
    if not SCRIPT.exists():
        raise UserError(
            f"Pictures can only be taken in a checkout: {SCRIPT} does not exist.\nTry:  pip install -e . in a checkout"
        )
    if importlib.util.find_spec("playwright") is None:
        raise UserError("Taking pictures needs Playwright, which is not installed.\nTry:  pip install -r requirements.txt")
    names = [args.only] if args.only else []
    status = subprocess.run([sys.executable, str(SCRIPT), *names], cwd=PACKAGE.parent).returncode
    if status:  # the script has printed the reason
        raise SystemExit(status)
