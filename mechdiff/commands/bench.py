"""python -m mechdiff bench: ratios to plain hooks, in one run."""

import json
from pathlib import Path

from mechdiff.errors import UserError
from mechdiff.terms import DEVICES, DTYPES


def add(commands) -> None:
    bench = commands.add_parser("bench", help="the row engine against plain hooks, in one run")
    bench.add_argument("--pair", default="demo-cognitive")
    bench.add_argument("--shape", help="a model with random weights of this shape in place of a pair: llama-8b, tiny")
    bench.add_argument("--prompts", type=int, default=8)
    bench.add_argument("--tokens", type=int, default=128, help="tokens a prompt, for --shape (default: 128)")
    bench.add_argument("--device", default="auto", help=", ".join(DEVICES))
    bench.add_argument("--dtype", help=", ".join(DTYPES))
    bench.add_argument("--live", action="store_true", help="time the app's own calls instead: 20 changes of layer, heads, blend")
    bench.add_argument("--fit", action="store_true", help="time the fits of every site's maps instead, on random states")
    bench.add_argument("--out", type=Path, help="write the figures to FILE.json")
    bench.set_defaults(act=act)


def act(args) -> None:
    from mechdiff import bench

    if args.out and not args.out.parent.is_dir():
        raise UserError(f"There is no folder {args.out.parent} for {args.out.name}.\nTry:  mkdir -p {args.out.parent}")
    if args.fit:
        figures = bench.measure_fit(args.pair, args.shape, args.device)
    elif args.live:
        figures = bench.measure_live(args.pair, args.device, args.dtype)
    else:
        figures = bench.measure(args.pair, args.shape, args.prompts, args.tokens, args.device, args.dtype)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
