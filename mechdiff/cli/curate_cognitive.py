"""Curate the study's cognitive prompts: MATH-500 from the hub, or a file of it, as 350 train and 150 val prompts.

    python -m mechdiff.scripts.curate_cognitive
    python -m mechdiff.scripts.curate_cognitive --file math500_test.jsonl

They become the domain math-500. A problem's subject is its topic, in the same share in both splits, and stays in the rows beside
its level. A template is a problem, or a group of near-duplicates: seven subjects would be too few to take intervals over.
"""

import sys

from mechdiff.cli.curate import main
from mechdiff.inputs.curation import Spec

SPEC = Spec(
    name="math-500",
    dataset="HuggingFaceH4/MATH-500",
    split="test",
    text="{problem}",
    topic="subject",
    keep=("subject", "level", "unique_id"),
    train=350,
    val=150,
)

if __name__ == "__main__":
    sys.exit(main(__doc__, SPEC))
