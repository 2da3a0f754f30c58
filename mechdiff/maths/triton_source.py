"""The kernels themselves. Importing this module needs Triton; `triton_kernels` starts them and says what they compute."""

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]


@triton.jit
def row_attention(
    q, k, v, pk, pv, hidden, out, scaling, softcap, n, seen, shared, groups,
    q_b, q_h, q_n, k_b, k_g, k_n, v_b, v_g, v_n, pk_b, pk_g, pk_s, pv_b, pv_g, pv_s, h_b, h_s, o_b, o_n, o_h,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, STEP: tl.constexpr, CAPPED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A block of (head of the group, row) pairs of one prompt and key-value head. Its own key begins the running softmax."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    b, g = (tl.program_id(1) // groups).to(tl.int64), tl.program_id(1) % groups
    valid, head, row = place < n * shared, g * shared + place // n, (place % n).to(tl.int64)
    d = tl.arange(0, PADDED)
    inside = valid[:, None] & (d[None, :] < WIDTH)
    query = tl.load(q + b * q_b + (head * q_h + row * q_n)[:, None] + d[None, :], mask=inside, other=0.0)
    own = tl.load(k + b * k_b + g * k_g + (row * k_n)[:, None] + d[None, :], mask=inside, other=0.0)
    most = tl.sum(query.to(tl.float32) * own.to(tl.float32), 1) * scaling
    if CAPPED:
        most = softcap * (2 * tl.sigmoid(2 * most / softcap) - 1)
    total = tl.full([BLOCK], 1.0, tl.float32)
    result = tl.load(v + b * v_b + g * v_g + (row * v_n)[:, None] + d[None, :], mask=inside, other=0.0).to(tl.float32)
    for start in range(0, seen, STEP):
        s = start + tl.arange(0, STEP)
        in_prefix = (s[:, None] < seen) & (d[None, :] < WIDTH)
        keys = tl.load(pk + b * pk_b + g * pk_g + s[:, None] * pk_s + d[None, :], mask=in_prefix, other=0.0)
        scores = tl.dot(query, tl.trans(keys), input_precision=PRECISION) * scaling
        if CAPPED:
            scores = softcap * (2 * tl.sigmoid(2 * scores / softcap) - 1)
        unseen = tl.load(hidden + b * h_b + s * h_s, mask=s < seen, other=1)
        scores = tl.where((unseen != 0)[None, :], float("-inf"), scores)
        higher = tl.maximum(most, tl.max(scores, 1))
        share, faded = tl.exp(scores - higher[:, None]), tl.exp(most - higher)
        values = tl.load(pv + b * pv_b + g * pv_g + s[:, None] * pv_s + d[None, :], mask=in_prefix, other=0.0)
        result = result * faded[:, None] + tl.dot(share.to(values.dtype), values, input_precision=PRECISION)
        total = total * faded + tl.sum(share, 1)
        most = higher
    result = (result / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + b * o_b + (row * o_n + head * o_h)[:, None] + d[None, :], result, mask=inside)


@triton.jit
def divergences(
    logits, clean, donor, places, from_clean, from_donor, n, vocabulary, l_n, c_n, d_n, ROWS: tl.constexpr, TOKENS: tl.constexpr
):
    """A block of rows: first the log-normaliser of each, then both sums."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    valid = row < n
    place = tl.load(places + row, mask=valid, other=0).to(tl.int64)
    line, step = logits + row.to(tl.int64)[:, None] * l_n, tl.arange(0, TOKENS)[None, :]
    most = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(0, vocabulary, TOKENS):
        inside = valid[:, None] & (start + step < vocabulary)
        loaded = tl.load(line + start + step, mask=inside, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(most, tl.max(loaded, 1))
        base = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(most - base) + tl.sum(tl.exp(loaded - base[:, None]), 1)
        most = higher
    normaliser = (most + tl.log(total))[:, None]
    to_clean = tl.zeros([ROWS], tl.float32)
    to_donor = tl.zeros([ROWS], tl.float32)
    for start in range(0, vocabulary, TOKENS):
        inside = valid[:, None] & (start + step < vocabulary)
        own = tl.load(line + start + step, mask=inside, other=0.0).to(tl.float32) - normaliser
        of_clean = tl.load(clean + place[:, None] * c_n + start + step, mask=inside, other=0.0)
        of_donor = tl.load(donor + place[:, None] * d_n + start + step, mask=inside, other=0.0)
        to_clean += tl.sum(tl.where(inside, tl.exp(own) * (own - of_clean), 0.0), 1)
        to_donor += tl.sum(tl.where(inside, tl.exp(of_donor) * (of_donor - own), 0.0), 1)
    tl.store(from_clean + row, tl.maximum(to_clean, 0.0), mask=valid)
    tl.store(from_donor + row, tl.maximum(to_donor, 0.0), mask=valid)
