"""python -m mechdiff planted: how often edits of known place and size are found."""

import json
from pathlib import Path

from tqdm import tqdm

from mechdiff.common.terms import DEVICES


def add(commands) -> None:
    planted = commands.add_parser(
        "planted", help="how often are edits of known place and size found, and nothing where there is no edit?"
    )
    planted.add_argument("--pairs", type=int, default=48, help="pairs to make (default: 48)")
    planted.add_argument("--prompts", type=int, default=24, help="prompts per pair, a template each (default: 24)")
    planted.add_argument("--device", default="auto", help=", ".join(DEVICES))
    planted.add_argument("--seed", type=int, default=0)
    planted.add_argument("--out", type=Path, help="write the figures to FILE.json")
    planted.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.validation import planted

    with tqdm(total=args.pairs, desc="planted pairs", disable=None) as bar:

        def progress(done: int, pairs: int) -> None:
            bar.update(done - bar.n)

        report = planted.report(args.pairs, args.prompts, args.device, args.seed, progress)
    print(planted.lines(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")
