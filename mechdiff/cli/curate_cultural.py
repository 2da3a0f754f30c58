"""Curate the study's cultural prompts: Kazakh questions on culture and society with their options, 450 train and 150 val.

    python -m mechdiff.scripts.curate_cultural

They become the domain kk-culture. Like the study, it takes the categories about traditions, customs, etiquette, family and
community, and leaves out what is about religion, here by words in Kazakh and Russian too. Other than the study, it asks the whole
multiple-choice question, and the word culture does not let agriculture in.
"""

import sys

from mechdiff.cli.curate import main
from mechdiff.inputs.curation import Spec

CATEGORIES = ("tradition", "custom", "etiquette", "ritual", "holiday", "heritage", "cultural", "family", "community", "social")
RELIGION = ("relig", "faith", "islam", "church", "mosque", "quran", "ислам", "мұсылман", "құран", "мешіт", "намаз", "пайғамбар")
RELIGION += ("аллах", "христиан", "шіркеу", "діни ", " дін", "мусульман", "коран", "мечет", "церк")


def anywhere(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"*{word}*" for word in words)


SPEC = Spec(
    name="kk-culture",
    dataset="kz-transformers/kk-socio-cultural-bench-mc",
    split="train",
    text="{question}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}",
    topic="category",
    keep=("category",),
    where={"category": (*anywhere(CATEGORIES), "culture*")},
    without={"category": anywhere(RELIGION), "question": (*anywhere(RELIGION), "дін*")},
    train=450,
    val=150,
)

if __name__ == "__main__":
    sys.exit(main(__doc__, SPEC))
