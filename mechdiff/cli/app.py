"""python -m mechdiff app: open the app, from any folder."""

import importlib.util
import runpy
import sys

from mechdiff.common.errors import UserError
from mechdiff.common.paths import APP


def add(commands) -> None:
    app = commands.add_parser(
        "app",
        help="open the app in a browser; its options are those of `streamlit run`, such as --server.port 8502",
        prefix_chars="+",  # no option is ours, so that whatever starts with a hyphen is passed on
        add_help=False,
    )
    app.add_argument("options", nargs="*")
    app.set_defaults(act=act)


def act(args) -> None:
    if importlib.util.find_spec("streamlit") is None:
        raise UserError("The app needs Streamlit, which is not installed.\nTry:  pip install streamlit")
    sys.argv = ["streamlit", "run", str(APP), *args.options]
    runpy.run_module("streamlit", run_name="__main__", alter_sys=True)  # in this process: a signal to it reaches the server
