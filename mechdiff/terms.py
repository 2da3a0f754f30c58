"""The words a request is made of. Needs no torch."""

QUESTIONS = ("drift", "patch", "heads")
STREAMS = ("resid_pre", "attn_out", "mlp_out", "resid_post", "heads")
DIRECTIONS = ("base-to-tuned", "tuned-to-base")
MAPS = ("none", "zscore")
CONTROLS = ("self",)
DTYPES = ("float32", "bfloat16", "float16")
DEVICES = ("auto", "cpu", "cuda")
SIDES = ("base", "tuned")


def sides(direction: str) -> tuple[str, str]:
    """Donor and recipient of a direction."""
    donor, _, recipient = direction.partition("-to-")
    return donor, recipient
