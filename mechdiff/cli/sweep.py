"""python -m mechdiff sweep: every question for a pair on a domain."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from mechdiff.cli.base import follow
from mechdiff.common.errors import one_of
from mechdiff.common.paths import ARTIFACTS
from mechdiff.common.terms import DEVICES, DTYPES
from mechdiff.inputs import protocols
from mechdiff.questions.shared.metrics import METRICS, metric_named
from mechdiff.study import sweep_process
from mechdiff.study.sweep_process import SweepRequest


def add(commands) -> None:
    sweep = commands.add_parser("sweep", help="answer every question for a pair on a domain, and store the tables")
    sweep.add_argument("--pair", required=True)
    sweep.add_argument("--domain", help="default: the pair's own")
    sweep.add_argument(
        "--grid",
        default="quick",
        help="quick (50 prompts, few ranks, single heads), full (everything) or behaviour (what both models say; default: quick)",
    )
    sweep.add_argument("--limit", type=int, help="the first N prompts; default: as many as the grid has")
    add_settings(sweep)
    sweep.set_defaults(act=act)


def add_settings(sweep) -> None:
    """The flags that every command has that computes a sweep."""
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


def act(args) -> None:
    compute(*read(args))


def read(args) -> tuple[SweepRequest, dict[str, Any]]:
    """The request of a command line, and its settings as `sweeps.sweep` takes them."""
    from mechdiff.study import sweep_plan

    if args.grid not in sweep_plan.GRIDS:
        raise one_of("Grid", args.grid, sweep_plan.GRIDS)
    flags: dict[str, Any] = {spec.name: getattr(args, spec.name, spec.default) for spec in fields(SweepRequest)}
    flags["out"] = args.out and str(args.out)
    request = SweepRequest(**flags)
    metrics = tuple(metric_named(name.strip()).name for name in filter(None, (args.metrics or "").split(",")))
    return request, request.settings | {"metrics": metrics}


def compute(request: SweepRequest, settings: dict[str, Any]) -> None:
    """Compute and store a sweep, under progress bars."""
    from mechdiff.study import sweeps

    out = Path(request.out) if request.out else None
    sweep_process.check_place(request)
    with sweep_process.Record(request) as record:
        record.begin(sweeps.extent(request.pair, request.domain, request.grid, **settings))
        for task, label in sweeps.sweep(request.pair, request.domain, request.grid, out, sys.argv[1:], **settings):
            record.part(label, task)
            follow(task, label, record.tell)
            record.tell(sweep_process.WRITING)
