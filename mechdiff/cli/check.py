"""python -m mechdiff check: a pair before its first computation, and rows against plain hooks."""

import sys

from mechdiff.common.sizes import in_bytes
from mechdiff.common.terms import DEVICES, DTYPES
from mechdiff.questions.diagnostics.parity_check import Parity

MAX_WIDTH = 100  # characters per model: more would wrap


def add(commands) -> None:
    check = commands.add_parser(
        "check", help="check a pair before its first computation: what it is, what can be asked, what it costs"
    )
    check.add_argument("--pair", required=True)
    check.add_argument("--domain", help="whose prompts; default: the pair's own")
    check.add_argument("--device", default="auto", help=", ".join(DEVICES))
    check.add_argument("--dtype", help=", ".join(DTYPES))
    check.add_argument("--no-run", action="store_true", help="load no weights: skip the check of rows against plain hooks")
    check.set_defaults(act=act)


def act(args) -> int:
    from mechdiff.inputs.pair_file import read_pair
    from mechdiff.study import cost_estimate

    pair, settings = read_pair(args.pair), (args.domain, args.device, args.dtype)
    card = cost_estimate.preflight_card(pair, *settings)
    print_card(card)
    if card.faults:
        print("\n" + "\n".join(dict.fromkeys(card.faults)), file=sys.stderr)
        return 2
    if not args.no_run and card.questions["patch"] is None:
        print_parity(args.pair, args.domain, args.device, args.dtype)
        card = cost_estimate.preflight_card(pair, *settings)  # the check has measured the speed
    print(f"\nA quick sweep: {duration(card)}." if card.cells else "")
    return 0


def print_card(card) -> None:
    print(f"{card.pair.name}, {card.dtype} on {card.device}")
    for name, sides in card.lines.items():
        base, tuned = (text[:MAX_WIDTH] for text in sides)
        print(f"  {name:22} {base}" if base == tuned else f"  {name:22} {base}\n  {'':22} {tuned}  <- tuned")
    if card.memory:
        print(f"\nMemory: about {in_bytes(card.needed)} of {in_bytes(card.free)} free")
        for name, size in card.memory.items():
            print(f"  {name:34} {in_bytes(size)}")
    available = [name for name, why in card.questions.items() if why is None]
    if available:
        print(f"\nAvailable: {', '.join(available)}")
    for why in dict.fromkeys(filter(None, card.questions.values())):
        print(f"Not available: {', '.join(name for name, reason in card.questions.items() if reason == why)}. {why}")
    for note in card.notes:
        print(f"Note: {note}")


def print_parity(pair: str, domain: str | None, device: str, dtype: str | None, offload: str = "auto") -> None:
    """Compare rows with plain hooks, and say how far they differ."""
    from mechdiff import questions
    from mechdiff.cli.base import follow

    run = questions.Run("patch", pair=pair, domain=domain, device=device, dtype=dtype, offload=offload)
    task = questions.task(Parity(run))
    follow(task, "rows against plain hooks")
    print("\nRows against plain hooks, four cells (log-probability):")
    for _, line in task.table().iterrows():
        largest = f"largest difference {line['difference']:.2g}, limit {line['limit']:g}"
        print(f"  {line['model']:22} {largest}: runs by {line['runs by']}")


def duration(card) -> str:
    """What a quick sweep would take, in words."""
    total, left = card.cells
    if not left:
        return f"all {total:,} cells are in the cache"
    if card.seconds is None:
        return f"{left:,} cells, no time estimate until the check has run"
    minutes = card.seconds / 60
    about = f"{minutes:.0f} min" if minutes >= 1.5 else f"{card.seconds:.0f} s"
    return f"{left:,} cells, about {about}, {card.basis}"
