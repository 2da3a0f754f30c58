"""python -m mechdiff replay: recompute a finding bundle, and compare every value with it."""

import tempfile
from pathlib import Path

from mechdiff.cli.base import follow
from mechdiff.common.errors import UserError
from mechdiff.common.terms import DEVICES, DTYPES


def add(commands) -> None:
    replay = commands.add_parser("replay", help="recompute a finding bundle, and compare every value")
    replay.add_argument("bundle", metavar="BUNDLE", type=Path, help="the .zip from a page's Export & share")
    replay.add_argument("--device", default="auto", choices=DEVICES, help=", ".join(DEVICES))
    replay.add_argument("--dtype", choices=DTYPES, help=", ".join(DTYPES))
    replay.add_argument("--pair", help="a pair file, for a pair that is not shipped")
    replay.add_argument("--from-cache", action="store_true", help="use this machine's cache, and compute only the rest")
    replay.set_defaults(act=act)


def act(args) -> int:
    """The exit status: 0 for the same numbers, 1 for different ones, 2 if nothing could be checked."""
    from mechdiff.common.cache import Store, default
    from mechdiff.reporting import bundle_reader
    from mechdiff.reporting.replay import ReplayTask

    try:
        content = args.bundle.read_bytes()
    except OSError as error:
        raise UserError(f"The bundle {args.bundle} cannot be read: {error.strerror}.\nTry:  ls {args.bundle.parent}") from None
    finding = bundle_reader.read(content)
    bundle_reader.keep_texts(finding)
    print(introduction(finding))
    print("Recomputing everything" + (", except what is in the cache." if args.from_cache else ", from an empty cache."))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        store = default() if args.from_cache else Store(Path(folder) / "results")
        task = ReplayTask(finding, store, args.device, args.dtype, args.pair)
        follow(task, "replay")
    print(report(task))
    return status(task)


def introduction(finding) -> str:
    headline = finding.headline
    lines = [f"Made {finding.made} with mechdiff {finding.version}; link: {finding.link}"]
    if headline is not None:
        lines.append(f"{headline.asked}, {headline.of}: {headline.value:.6g} {headline.unit}")
    return "\n".join(lines)


def report(task) -> str:
    """The verdicts, tables with other weights or prompts first."""
    from mechdiff.reporting.replay import OTHER

    lines = []
    for verdict in sorted(task.verdicts, key=lambda verdict: verdict.kind != OTHER):
        size = f"largest difference {verdict.absolute:.3g}, relative {verdict.relative:.3g}"
        numbers = f"{verdict.values} values, {size}" if verdict.values else ""
        lines += [f"{verdict.name:28} {verdict.kind:9}  {verdict.text}", *([f"{'':40} {numbers}"] if numbers else [])]
    if task.headline is not None:
        headline = task.finding.headline
        lines.append(f"Headline: {headline.value:.6g} in the bundle, {task.headline:.6g} here ({headline.asked})")
    return "\n".join(lines)


def status(task) -> int:
    from mechdiff.reporting.replay import ROUNDING
    from mechdiff.study.live_vs_stored import DIFFERS, SAME

    kinds = {verdict.kind for verdict in task.verdicts}
    return 1 if DIFFERS in kinds else 0 if kinds & {SAME, ROUNDING} else 2
