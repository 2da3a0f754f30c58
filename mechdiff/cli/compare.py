"""python -m mechdiff compare: the verdict on two stored sweeps, with intervals."""

from mechdiff.common.errors import UserError
from mechdiff.common.terms import DIRECTIONS


def add(commands) -> None:
    compare = commands.add_parser("compare", help="compare two stored sweeps: depth, rank and heads, with intervals")
    for side in ("a", "b"):
        compare.add_argument(f"--{side}", required=True, metavar="PAIR[@DOMAIN]", help="without a domain: the pair's own")
    compare.add_argument("--direction", default=DIRECTIONS[0], help=", ".join(DIRECTIONS))
    compare.add_argument(
        "--depth", type=float, help="relative depth of cuts and maps, 0 to 1 (default: the layer chosen on train)"
    )
    compare.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.study import compare_sweeps, stored_sweep

    if args.depth is not None and not 0 <= args.depth <= 1:
        raise UserError(f"Depth {args.depth:g} is not between 0 (first layer) and 1 (last layer).\nTry:  --depth 0.9")
    a, b = (stored_sweep.parse(text, args.direction) for text in (args.a, args.b))
    print(compare_sweeps.report(a, b, args.depth))
