"""The words a request is made of. Needs no torch."""

from mechdiff.common.extensions import names

STREAMS = ("resid_pre", "attn_out", "mlp_out", "resid_post", "heads")
MODULE_STREAMS = ("attn_out", "mlp_out", "heads")
DIRECTIONS = ("base-to-tuned", "tuned-to-base")
FIXED = ("none", "zscore", "shift")  # maps that use no pairing of the donor's states with the recipient's
STUDYS_MAP = "procrustes_full"  # with a rotation of the whole space, as the original study has it
OUR_MAP = "ridge_cv"  # what a map is if a request names none
UNSCALED = (OUR_MAP, "kernel_ridge")  # maps whose size is chosen with their strength, so that alpha auto is 1
MAPS = names("maps", (*FIXED, "ridge", *UNSCALED, "procrustes", "procrustes_scaled", STUDYS_MAP))
FITTED = MAPS[len(FIXED) :]
COMPLEMENTS = ("mean", "own")
DIFFERENCE = "difference"  # a basis of rank: directions of donor - recipient; its cuts have no complement
BASES = (DIFFERENCE, "map")
WHITENED = "whitened"  # what tables call the complement of a cut between whitened states, which is no cut of the outputs
CUTS = ("output", WHITENED)
COMPLETION = "completion"  # a map whose rotation is arbitrary beyond the train states, with another draw of that part
MAP_CONTROLS = ("random", "shuffled", "other-layer")
CONTROLS = ("self", "mean", *MAP_CONTROLS, COMPLETION)
CHOICES = ("topk", "greedy", "random")
VOCABULARIES = ("shared", "recipient")
SPLITS = ("train", "val")
FOLDS = ("templates", "prompts")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
OFFLOADS = ("auto", "on", "off")
SIDES = ("base", "tuned")
# What the app's sliders and lists offer.
COUNTS = (8, 16, 32, 64, 150)  # of prompts
ALPHAS = ("auto", "0.3", "0.5", "0.7", "0.8", "1.0", "1.2")
RANKS = (*map(str, (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)), "full")


def sides(direction: str) -> tuple[str, str]:
    """Donor and recipient of a direction: "base-to-tuned" gives base, tuned."""
    donor, _, recipient = direction.partition("-to-")
    return donor, recipient
