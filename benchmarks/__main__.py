"""python -m benchmarks: nnsight, TransformerLens and plain hooks next to mechdiff, in one run."""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers import PEERS
from benchmarks.timing import measure
from benchmarks.work import subject
from mechdiff.common.errors import UserError, one_of

MODULES = {"nnsight": "nnsight", "transformerlens": "transformer_lens"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--pair", default="demo-cognitive")
    parser.add_argument("--shape", help="use a model with random weights of this shape instead of a pair: llama-8b, tiny")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128, help="tokens per prompt, for --shape (default: 128)")
    parser.add_argument("--cells", type=int, default=24, help="cells per prompt that are done one by one (default: 24)")
    parser.add_argument("--batch", type=int, default=32, help="cells per batch; two batches per prompt (default: 32)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {', '.join(PEERS)}; all by default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype")
    parser.add_argument("--out", type=Path, help="write the figures to FILE.json")
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Raise UserError for what would only fail at the end."""
    if min(options.prompts, options.cells, options.batch) < 1 or options.tokens < 2:
        raise UserError(
            "--prompts, --cells and --batch must be at least 1, and --tokens at least 2.\nTry:  --prompts 4 --cells 24 --batch 32"
        )
    if options.out and not options.out.parent.is_dir():
        raise UserError(f"There is no folder {options.out.parent} for {options.out.name}.\nTry:  mkdir -p {options.out.parent}")


def chosen(names: str) -> dict:
    """The peers asked for. Raises UserError for one that is unknown, or not installed here."""
    for name in names.split(","):
        if name not in PEERS:
            raise one_of("Peer", name, PEERS)
        if name in MODULES and find_spec(MODULES[name]) is None:
            raise UserError(f"{name} is not installed here.\nTry:  pip install -r benchmarks/requirements.txt, or --peers hooks")
    return {name: PEERS[name] for name in names.split(",")}


def table(figures: dict) -> str:
    """The figures as a markdown table."""
    about = f"{figures['subject']} of {figures['tokens']:.0f} tokens, {figures['cells']} cells, {figures['dtype']}"
    versions = ", ".join(f"{name} {number}" for name, number in figures["versions"].items())
    lines = [
        f"{about}, {figures['device']}; {versions}",
        "",
        "| | seconds per prompt | clean passes | ratio | with clean passes | KL from mechdiff's | from plain hooks' |",
        "|---|---|---|---|---|---|---|",
    ]
    for line in figures["forms"]:
        numbers = [f"{line['sweep_s']:.3g}", f"{line['clean_s']:.3g}"]
        if "ratio" in line:
            numbers += [f"{line['ratio']:.0f}", f"{line['ratio_with_clean']:.0f}"]
            numbers += [f"{line['difference_from_mechdiff']:.1e}", f"{line['difference_from_hooks']:.1e}"]
        else:
            numbers += ["1", "1", "", ""]
        lines.append(f"| {line['library']}, {line['form']} | {' | '.join(numbers)} |")
    return "\n".join(lines)


def main() -> int:
    options = arguments()
    try:
        check(options)
        peers = chosen(options.peers)
        work = subject(options.pair, options.shape, options.prompts, options.tokens, options.device, options.dtype)
        figures = measure(work, peers, options.cells, options.batch)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(figures))
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
