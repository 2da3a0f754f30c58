"""Choose the positions of a domain's train prompts at which maps between two models' states are fitted.

    python -m mechdiff.scripts.curate_positions cultural cognitive --count 16 --seed 0

Writes `positions.jsonl` beside the domain's `train.jsonl`, one line a prompt, all characters if it has fewer than the count:

    {"id": "...", "characters": [3, 17, 40]}

A position is a character of the prompt's own text, and stands for the token that covers it in whatever tokenizer. They are
chosen among the tokens that the demo base sees of the text: none that is special, none of the template, none of the
sequence's last four. The decision token is not among them; it is always studied besides. The same seed gives the same files.
"""

import argparse
import json
from pathlib import Path

from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import folder_of, read_rows
from mechdiff.inputs.tokenizers import Tokenizers, load_tokenizers

PAIR = "demo-cognitive"  # whose base tokenizer divides the texts; the demo pairs share it


def curate(rows: list[dict], tokenizers: Tokenizers, count: int, seed: int) -> list[dict]:
    """A line per train prompt: its id and its chosen characters."""
    return [{"id": row["id"], "characters": tokenizers.choose(row["text"], count, seed)} for row in rows]


def write(folder: Path, tokenizers: Tokenizers, count: int, seed: int) -> None:
    rows = curate(read_rows(folder / "train.jsonl"), tokenizers, count, seed)
    (folder / "positions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    print(f"{folder.name}: {sum(len(row['characters']) for row in rows)} positions in {len(rows)} prompts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("domains", nargs="+", help="domains, shipped or one's own")
    parser.add_argument("--count", type=int, default=16, help="positions a prompt, at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    tokenizers = load_tokenizers(read_pair(PAIR))
    for domain in args.domains:
        write(folder_of(domain), tokenizers, args.count, args.seed)


if __name__ == "__main__":
    main()
