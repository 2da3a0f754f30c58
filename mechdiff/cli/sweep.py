"""python -m mechdiff sweep: every question for a pair on a domain."""

import sys
from dataclasses import fields
from pathlib import Path

from mechdiff.cli.base import follow
from mechdiff.common.errors import one_of
from mechdiff.common.paths import ARTIFACTS
from mechdiff.common.terms import DEVICES, DTYPES
from mechdiff.inputs import protocols
from mechdiff.questions.shared.metrics import METRICS, metric_named


def add(commands) -> None:
    sweep = commands.add_parser("sweep", help="answer every question for a pair on a domain, and store the tables")
    sweep.add_argument("--pair", required=True)
    sweep.add_argument("--domain", help="default: the pair's own")
    sweep.add_argument(
        "--grid",
        default="quick",
        help="quick (50 prompts, few ranks, single heads), full (everything) or behaviour (what both models say; default: quick)",
    )
    sweep.add_argument("--out", type=Path, help=f"a folder instead of {ARTIFACTS}".replace("%", "%%"))
    sweep.add_argument("--seed", type=int, default=0)
    sweep.add_argument("--device", default="auto", help=", ".join(DEVICES))
    sweep.add_argument("--dtype", help=", ".join(DTYPES))
    sweep.add_argument(
        "--offload", nargs="?", const="on", default="auto", help="one model on the GPU at a time: on, off, or auto"
    )
    sweep.add_argument("--protocol", help=f"whose definitions: {', '.join(protocols.NAMES)} (default: the pair's own)")
    sweep.add_argument("--min-shared-ratio", type=float, help="as for run: only prompts with shared tokens")
    sweep.add_argument("--metrics", help=f"what is measured of every effect in addition to its KL: {','.join(METRICS)}")
    sweep.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.study import sweep_process, sweeps

    if args.grid not in sweeps.GRIDS:
        raise one_of("Grid", args.grid, sweeps.GRIDS)
    flags = {spec.name: getattr(args, spec.name) for spec in fields(sweep_process.SweepRequest)}
    request = sweep_process.SweepRequest(**flags | {"out": args.out and str(args.out)})
    metrics = tuple(metric_named(name.strip()).name for name in filter(None, (args.metrics or "").split(",")))
    settings = request.settings | {"metrics": metrics}
    sweep_process.check_place(request)
    with sweep_process.Record(request) as record:
        parts = sweeps.extent(args.pair, args.domain, args.grid, **settings)
        record.begin(parts)
        for task, label in sweeps.sweep(args.pair, args.domain, args.grid, args.out, sys.argv[1:], **settings):
            record.part(label, task)
            follow(task, label, record.tell)
            record.tell(sweep_process.WRITING)
