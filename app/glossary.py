"""What every term means, in a sentence: said here, and shown wherever the term stands."""

TERMS = {
    "pair": "A base model and a fine-tune of it.",
    "domain": "A set of curated prompts that the pair is studied on.",
    "decision token": "The prompt's last token that is not special; everything is measured there.",
    "stream": "Which part of the model's inner state, at the decision token, is compared or replaced.",
    "donor": "The model whose state is taken.",
    "recipient": "The model that runs with the donor's state in place of its own.",
    "effect": "KL(patched || clean) in nats: how far the replacement moves the recipient's next-token distribution.",
    "recovery": "1 - mean KL(donor || patched) / mean KL(donor || clean): how much of the two models' difference goes away.",
    "drop": "How much less the mapped state does than the zscore one, in per cent of that one's effect.",
    "coverage": "A set of heads' effect as a share of all the layer's heads'; it can exceed 100 %, since heads cancel.",
    "floor": "The effect of putting a model's own state back: rounding alone.",
    "interval": "95 % bootstrap interval over prompts (templates first, then their prompts), not over other fine-tunes.",
    "CKA": "Linear CKA: how alike two models place the same prompts, whatever the rotation and scale; 1 is the same geometry.",
    "debiased": "CKA without its upward bias at fewer prompts than dimensions; it may be negative.",
    "jackknife": "95 % interval, delete-d jackknife over prompt templates.",
    "zscore": "The reference map: every dimension gets the recipient's mean and scale, and no rotation.",
    "map": "What is done to the donor's state before it is put in; fitted maps are fitted on the train split.",
    "alpha": "A number that the mapped state is multiplied by.",
    "rank": "How many of the map's leading directions, those that carry most variance, are kept; full is the uncut map.",
    "complement": "What fills the dimensions that a rank cut leaves out.",
    "blend": "The donor's share in the replaced heads: 0 keeps the own output, 1 takes the donor's.",
    "heads": "The heads whose output at the decision token is replaced by the donor's.",
    "transplant": "The donor's module weights on the recipient's own input: what that one module's weights changed.",
    "stack": "Several interventions made in one pass, each acting on what those before it have made of the state.",
    "controls": "The same with something that should not work, such as a random map: what an effect has to beat.",
    "split-half overlap": "1 where maps fitted on two halves of the train split find the same leading directions.",
    "relative norm": "The Frobenius norm of a matrix's difference, as a share of the base's.",
    "participation ratio": "Over how many directions a change is spread: (sum s^2)^2 / sum s^4 of its singular values s.",
    "stable rank": "The change's squared size as a multiple of its largest direction's: 1 where one direction holds all.",
    "rank 90": "The fewest directions that hold 90 % of the change's squared size.",
    "overlap": "How far two sets of k directions span the same space: 1 for the same, k / width by chance.",
    "agreement": "The share of prompts after which both models' likeliest next tokens are the same.",
    "soft refusal": "The log-probability that the next token begins a refusal, by a list of openers in several languages.",
    "refusals": "The share of greedy answers that have a phrase of refusal, by a list of phrases in several languages.",
    "exact match": "The share of the prompts with a known answer whose greedy answer gives it: by its last number, or its box.",
    "right choice": "The share of multiple-choice prompts where the right choice is the likeliest.",
    "style": "Hedges, first person, list items, mathematics, exclamations and questions, counted per 100 tokens of all answers.",
    "stored": "Computed before, by the same code, on all prompts; the manifest says where and when.",
    "live": "Computed on this machine now, for the selection.",
    "pinned": "The view that the others are compared with.",
}


def say(*names: str) -> str:
    """The named terms with their sentences, for a help text or a caption."""
    return "  \n".join(f"**{name}**: {TERMS[name]}" for name in names)
