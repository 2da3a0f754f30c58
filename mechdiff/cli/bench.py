"""python -m mechdiff bench: the row engine timed against plain hooks, in one run."""

import json
import tempfile
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DEVICES, DTYPES


def add(commands) -> None:
    bench = commands.add_parser("bench", help="time the row engine against plain hooks")
    bench.add_argument("--pair", default="demo-cognitive")
    bench.add_argument("--shape", help="a model with random weights of this shape, instead of a pair: llama-8b, tiny")
    bench.add_argument("--prompts", type=int, help="default: 8; 32 for --live")
    bench.add_argument("--tokens", type=int, default=128, help="tokens per prompt, with --shape (default: 128)")
    bench.add_argument("--device", default="auto", help=", ".join(DEVICES))
    bench.add_argument("--dtype", help=", ".join(DTYPES))
    bench.add_argument("--live", action="store_true", help="instead, time the app's calls: 20 changes of layer, heads and blend")
    bench.add_argument("--study", metavar="GRID", help="instead, time a whole sweep from an empty cache: quick or full")
    bench.add_argument("--offload", action="store_true", help="with --shape: one of the two models on the GPU at a time")
    bench.add_argument("--fit", action="store_true", help="instead, time fitting every site's maps, on random states")
    bench.add_argument(
        "--own", action="store_true", help="instead, time interventions and metrics from Python against donor's states"
    )
    bench.add_argument("--out", type=Path, help="write the figures to FILE.json")
    bench.set_defaults(act=act)


def act(args) -> None:
    if args.out and not args.out.parent.is_dir():
        raise UserError(f"There is no folder {args.out.parent} for {args.out.name}.\nTry:  mkdir -p {args.out.parent}")
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(figures(args, Path(folder)), indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def figures(args, folder: Path) -> dict[str, Any]:
    from mechdiff.study import sweep_plan
    from mechdiff.validation import bench, bench_own
    from mechdiff.validation.random_models import shaped_pair

    if args.study and args.study not in sweep_plan.GRIDS:
        raise one_of("Grid", args.study, sweep_plan.GRIDS)
    pair = args.pair
    if args.shape and (args.live or args.study):
        pair = shaped_pair(args.shape, folder, args.tokens, args.device, args.dtype, args.offload)
    if args.fit:
        return bench.measure_fit(args.pair, args.shape, args.device)
    if args.live:
        return bench.measure_live(pair, args.device, args.dtype, 32 if args.prompts is None else args.prompts)
    if args.study:
        return bench.measure_study(pair, args.device, args.dtype, args.study)
    measure = bench_own.measure_own if args.own else bench.measure
    return measure(args.pair, args.shape, 8 if args.prompts is None else args.prompts, args.tokens, args.device, args.dtype)
