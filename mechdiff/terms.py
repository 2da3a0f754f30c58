"""The words a request is made of. Needs no torch."""

QUESTIONS = ("drift", "patch", "transport", "rank", "heads", "transplant", "stack")
STREAMS = ("resid_pre", "attn_out", "mlp_out", "resid_post", "heads")
MODULE_STREAMS = ("attn_out", "mlp_out", "heads")
DIRECTIONS = ("base-to-tuned", "tuned-to-base")
MAPS = ("none", "zscore", "ridge", "procrustes", "procrustes_scaled")
FITTED = ("ridge", "procrustes", "procrustes_scaled")
COMPLEMENTS = ("mean", "own")
CONTROLS = ("self", "mean", "random", "shuffled", "other-layer")
MAP_CONTROLS = ("random", "shuffled", "other-layer")
CHOICES = ("topk", "greedy", "random")
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
SIDES = ("base", "tuned")


def sides(direction: str) -> tuple[str, str]:
    """Donor and recipient of a direction."""
    donor, _, recipient = direction.partition("-to-")
    return donor, recipient
