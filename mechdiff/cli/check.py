"""python -m mechdiff check: a pair's pre-flight card, and rows against plain hooks."""

import sys

from mechdiff.common.terms import DEVICES, DTYPES

NARROW = 100  # characters a side: more would wrap


def add(commands) -> None:
    check = commands.add_parser("check", help="a pair before its first computation: what it is, what can be asked, what it costs")
    check.add_argument("--pair", required=True)
    check.add_argument("--domain", help="whose prompts; default: the pair's own")
    check.add_argument("--device", default="auto", help=", ".join(DEVICES))
    check.add_argument("--dtype", help=", ".join(DTYPES))
    check.add_argument("--no-run", action="store_true", help="load no weights: leave out the check of rows against plain hooks")
    check.set_defaults(act=act)


def act(args) -> int:
    from mechdiff.inputs.pair_file import read_pair
    from mechdiff.study import cost_estimate

    pair, asked = read_pair(args.pair), (args.domain, args.device, args.dtype)
    found = cost_estimate.preflight_card(pair, *asked)
    show(found)
    if found.faults:
        print("\n" + "\n".join(dict.fromkeys(found.faults)), file=sys.stderr)
        return 2
    if not args.no_run and found.questions["patch"] is None:
        show_parity(args)
        found = cost_estimate.preflight_card(pair, *asked)  # it was timed meanwhile
    print(f"\nA quick sweep: {time_of(found)}." if found.cells else "")
    return 0


def show(found) -> None:
    from mechdiff.study.cost_estimate import in_bytes

    print(f"{found.pair.name}, {found.dtype} on {found.device}")
    for name, sides in found.lines.items():
        base, tuned = (text[:NARROW] for text in sides)
        print(f"  {name:22} {base}" if base == tuned else f"  {name:22} {base}\n  {'':22} {tuned}  <- tuned")
    if found.memory:
        print(f"\nMemory: about {in_bytes(found.needed)} of {in_bytes(found.free)} free")
        for name, size in found.memory.items():
            print(f"  {name:34} {in_bytes(size)}")
    can = [name for name, why in found.questions.items() if why is None]
    if can:
        print(f"\nCan be asked: {', '.join(can)}")
    for why in dict.fromkeys(filter(None, found.questions.values())):
        print(f"Cannot: {', '.join(name for name, told in found.questions.items() if told == why)}. {why}")
    for note in found.notes:
        print(f"Note: {note}")


def show_parity(args) -> None:
    from mechdiff import questions
    from mechdiff.cli.base import follow

    run = questions.Run("patch", pair=args.pair, domain=args.domain, device=args.device, dtype=args.dtype)
    task = questions.task(questions.Parity(run))
    follow(task, "rows against plain hooks")
    print("\nRows against plain hooks, four cells (log-probability):")
    for _, line in task.table().iterrows():
        told = f"differ by {line['difference']:.2g} at most, limit {line['limit']:g}: it runs by {line['runs by']}"
        print(f"  {line['model']:22} {told}")


def time_of(found) -> str:
    """What a quick sweep would take, in words."""
    total, left = found.cells
    if not left:
        return f"all of its {total:,} cells are known already"
    if found.seconds is None:
        return f"{left:,} cells; how long is not known before the check has run"
    minutes = found.seconds / 60
    about = f"{minutes:.0f} min" if minutes >= 1.5 else f"{found.seconds:.0f} s"
    return f"{left:,} cells, about {about}, {found.basis}"
