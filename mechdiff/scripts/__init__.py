"""Former addresses of `mechdiff curate`, kept so that `python -m mechdiff.scripts.NAME` runs."""

import sys


def forward(*words: str) -> None:
    from mechdiff.__main__ import main

    raise SystemExit(main(["curate", *words, *sys.argv[1:]]))
