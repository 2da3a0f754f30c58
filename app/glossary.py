"""What every term means, in a sentence: defined here, shown wherever a term is used."""

TERMS = {
    "pair": "A base model and a fine-tune of it.",
    "domain": "A set of prompts on which the pair is studied.",
    "decision token": "The last non-special token of the prompt. States are compared and replaced there.",
    "stream": "Which part of the model's inner state, at the decision token, is compared or replaced.",
    "donor": "The model whose state is taken.",
    "recipient": "The model that runs with the donor's state in place of its own.",
    "effect": "KL(patched || clean) in nats: how far the replacement moves the recipient's next-token distribution.",
    "recovery": (
        "1 - mean KL(donor || patched) / mean KL(donor || clean): the share of the two models' difference that the patch "
        "removes. No value where that difference is rounding error."
    ),
    "recovery over 8 tokens": (
        "The same over the first 8 tokens of the donor's own answer, which is given to both models (teacher-forced)."
    ),
    "format share": (
        "The recovery by the mean difference over neutral prompts, as a share of the whole state's recovery: what the chat "
        "format and the manner of answering do on any prompt."
    ),
    "drop": (
        "The share of the z-score effect that the map removes, in per cent. No value where the z-score effect is rounding error."
    ),
    "beyond shift": (
        "1 - KL_map / KL_shift, in per cent: how much of one constant shift's effect the map removes. A shift is what a map does "
        "without looking at the state."
    ),
    "coverage": (
        "The effect of a set of heads as a share of the effect of all heads in the layer. It can exceed 100 %, because "
        "heads can work against each other."
    ),
    "floor": "The effect of putting a model's own state back, which is rounding error alone.",
    "interval": "95 % interval over prompts, with their templates as the units (bootstrap-t), not over other fine-tunes.",
    "CKA": (
        "Linear CKA: how similarly two models represent the same prompts, up to rotation and scale. 1 means the same geometry."
    ),
    "CKA over templates": (
        "CKA without the upward bias that it has with fewer prompts than dimensions, and without the agreement of near copies: "
        "prompts of one template are not compared with each other. Grey: the same with the templates of one model shuffled."
    ),
    "debiased CKA": "CKA without the upward bias that it has with fewer prompts than dimensions. It can be negative.",
    "jackknife": "95 % interval from a delete-d jackknife over prompt templates.",
    "zscore": "The reference map: each dimension gets the recipient's mean and scale, without rotation.",
    "map": "How the donor's state is transformed before it replaces the recipient's. Fitted maps are fitted on train prompts.",
    "alpha": "The number by which the mapped state is multiplied.",
    "rank": "How many leading directions are kept, of the observed difference or of a map's outputs. full: all of them.",
    "complement": "What fills the dimensions that the rank cut removes.",
    "blend": "The donor's share of the replaced heads' output: 0 keeps the recipient's own, 1 takes the donor's.",
    "heads": "The heads whose output at the decision token is replaced by the donor's.",
    "transplant": (
        "Run one module with the donor's weights on the recipient's own input: the effect of that module's weights alone."
    ),
    "stack": "Several interventions in one pass. Each acts on the state that the earlier ones leave.",
    "controls": (
        "The same measurement with something that should not work, such as a random map. An effect must beat its controls."
    ),
    "split-half overlap": "1 if maps fitted on two halves of the train prompts have the same leading directions.",
    "relative norm": "The Frobenius norm of a matrix's change, as a share of the base matrix's norm.",
    "participation ratio": (
        "The number of directions over which a change is spread: (sum s^2)^2 / sum s^4 of its singular values s."
    ),
    "stable rank": "The change's squared norm divided by that of its largest direction. 1: one direction holds all of it.",
    "rank 90": "The smallest number of directions that hold 90 % of the change's squared norm.",
    "overlap": "How much two sets of k directions span the same space: 1 if they are the same, k / width by chance.",
    "agreement": "The share of prompts on which both models have the same most likely next token.",
    "soft refusal": (
        "The log-probability (nats) that the next token begins a refusal, from a list of openers in several languages."
    ),
    "refusals against neutral phrases": (
        "The mean log-probability (nats) of phrases of refusals after the prompt, minus that of neutral ones; Kazakh, Russian "
        "and English together."
    ),
    "refusals": "The share of greedy answers that contain a refusal phrase, from a list of phrases in several languages.",
    "exact match": (
        "The share of prompts with a known answer for which the greedy answer is right (its last number, or its box)."
    ),
    "right choice": "The share of multiple-choice prompts for which the right choice is the most likely.",
    "style": (
        "Hedges, first person, list items, mathematics, exclamations, questions, politeness and formal address (Kazakh, Russian, "
        "English), per 100 tokens of all answers."
    ),
    "stored": "Precomputed by the same code on all prompts. The manifest says where and when.",
    "live": "Computed now on this machine, for the current selection.",
    "pinned": "The view with which others are compared.",
}


def say(*names: str) -> str:
    """The named terms with their sentences, for a help text or a caption."""
    return "  \n".join(f"**{name}**: {TERMS[name]}" for name in names)
