"""The study's files of questions 1 and 2, its mapped patches and their combined table: from contents to lines of our tables.

The formats are those of its runners (github.com/SanzharMrz/cultshift-vs-cogshift); each line notes what it lacks.
"""

import math
from pathlib import PurePosixPath

from mechdiff.study.imports.fields import Entry, Unread, as_layer, as_number, kind_of
from mechdiff.study.imports.layout import layout

Lines = dict[str, list[dict]]  # by a table's name
Rows = list[dict[str, str]]  # of a CSV file
SIDES = {"tuned<-base": "base-to-tuned", "base<-tuned": "tuned-to-base"}
COSINES = ("mean", "median", "p10", "p90")
LEAK = 0.98  # R² on val from which the runner itself warns of a leak


def entries(content: object, what: str = "an object") -> dict:
    if not isinstance(content, dict) or not content:
        raise Unread(f"holds {kind_of(content) if content else 'nothing'} where {what} is expected")
    return content


def drift(content: object, path: PurePosixPath) -> Lines:
    """{"24": 0.34}, linear CKA by layer; or {"24": {"mean": 0.34, "ci95": [0.3, 0.4]}}, the same resampled."""
    lines = []
    for key, value in entries(content, "CKA by layer").items():
        entry = Entry(value if isinstance(value, dict) else {"cka": value}, path.stem)
        entry.lacks += ["debiased CKA", "prompts"]
        entry.notes.append("stream by the runner's default")
        where = {"layer": as_layer(key), "stream": layout()["stream"]}
        ends = entry.take("ci95")
        if isinstance(ends, list) and len(ends) == 2:
            low, high = (as_number(end, "ci95") for end in ends)
            entry.notes.append("intervals from resampled prompts")
            lines.append(entry.line(**where, cka=entry.number("mean", True), low=low, high=high))
        else:
            lines.append(entry.line(**where, cka=entry.number("cka", True)))
    return {"drift": lines}


def layer_patch(content: object, path: PurePosixPath) -> Lines:
    """{"L24": {"tuned<-base": {"kl_mean": 1.4, "kl_std": 0.9}}}, alone or under "layers"; the older name is kl_nexttoken."""
    content = entries(content, "KL by layer")
    prompts = as_number(content.get("n_prompts"), "n_prompts")
    patches, refusals = [], []
    layers = content.get("layers", {key: value for key, value in content.items() if key != "n_prompts"})
    for key, sides in entries(layers, "KL by layer").items():
        for side, value in entries(sides, "both directions of a layer").items():
            if side not in SIDES:
                raise Unread(f"direction '{side}' is not known: {', '.join(SIDES)}")
            entry = Entry(value, path.stem)
            entry.lacks += [] if prompts == prompts else ["prompts"]
            entry.notes.append("over the shared vocabulary")
            where = {"direction": SIDES[side], "layer": as_layer(key), "prompts": prompts}
            mean = entry.number("kl_mean") if "kl_mean" in entry.content else entry.number("kl_nexttoken", True)
            refused, sd = entry.number("refusal_delta_pp"), entry.number("kl_std")
            patches.append(entry.line(**where, stream=layout()["stream"], map="zscore", control="none", mean=mean, sd=sd))
            if refused == refused:
                refusals.append(Entry({}, path.stem).line(**where, measure="refusal_delta_pp", mean=refused))
    return {"patch_summary": patches, "behaviour": refusals}


def behaviour(content: object, path: PurePosixPath) -> Lines:
    """Named rates and scores of both models' answers, each a number."""
    content = entries(content)
    prompts = as_number(content.get("n_prompts_freeform"), "n_prompts_freeform")
    lines = [
        Entry({}, path.stem).line(measure=name, mean=as_number(value, name), prompts=prompts) for name, value in content.items()
    ]
    return {"behaviour": lines}


def refusals(rows: Rows, path: PurePosixPath) -> Lines:
    """CSV: prompt_idx, base_refusal, tuned_refusal."""
    lines = []
    for row in rows:
        entry = Entry(row, path.stem)
        prompt = as_layer(entry.take("prompt_idx"))
        values = {side: entry.number(f"{side}_refusal", True) for side in ("base", "tuned")}
        lines.append(entry.line(prompt=prompt, **values))
    return {"refusals": lines}


def clt(content: object, path: PurePosixPath) -> Lines:
    """One fitted map's quality."""
    entry = Entry(content, path.stem)
    where = {"layer": entry.layer(), "stream": entry.take_field("stream", "hook"), "map": entry.take_field("map", "solver")}
    rank_field = str(entry.take_field("rank", "pca_q"))
    rank = "full" if rank_field in ("0", "full") else rank_field
    subspace = str(entry.take_field("subspace", "logit_subspace"))
    entry.lacks = [name for name in entry.lacks if name != "subspace"]  # the older runner had none
    if where["map"] == "procrustes_scaled" and rank.isdigit():
        entry.notes.append("the runner's procrustes_scaled ignored this rank")
    scores = {ours: entry.number(theirs) for ours, theirs in (("r2_train", "train_r2"), ("r2_val", "val_r2"))}
    scores |= {"r2_shuffled": entry.number("r2_shuffled"), "lam": entry.number("lam")}
    keys = [key for key in ("cka_mapped_vs_tuned_val", "cka_mapped_vs_tuned") if key in entry.content]
    scores["cka"] = entry.number(keys[0]) if keys else math.nan
    if math.isnan(scores["cka"]) and math.isnan(scores["r2_val"]):
        raise Unread("holds neither R² nor CKA")
    if scores["r2_val"] > LEAK:
        entry.notes.append("R² on val is so high that the runner warns of a leak")
    cosines = stats if isinstance(stats := entry.take("cos_stats"), dict) else {}
    scores |= {f"cosine_{name}": as_number(cosines.get(name), f"cosine {name}") for name in COSINES}
    counts = {name: entry.number(name) for name in ("n_train", "n_val")} | {"positions": entry.number("k_positions")}
    return {"maps": [entry.line(**where, rank=rank, subspace="" if subspace == "0" else subspace, **scores, **counts)]}


def mapped_patch(content: object, path: PurePosixPath) -> Lines:
    entry = Entry(content, path.stem)
    line = mapped(entry, older="head_mask" not in entry.content)
    rank = "rq3" in path.parts or entry.name.rank is not None
    return {"rank_summary" if rank else "transport_summary": [line]}


def combined(rows: Rows, path: PurePosixPath) -> Lines:
    """CSV: layer, hook, alpha, KL_raw_mean, KL_mapped_mean, delta, drop_pct, file: a line for each run of a mapped patch."""
    lines = []
    for row in rows:
        file = str(row.get("file") or "")
        entry = Entry(row, PurePosixPath(file).stem)
        entry.take("file")
        entry.lacks.append("prompts")
        entry.notes.append(f"from {file}" if file else "from an unnamed run")
        lines.append(mapped(entry, older=False))
    return {"rank_summary": lines}


def mapped(entry: Entry, older: bool) -> dict:
    """A mapped patch and the z-score one. older: whether attn_out may come from the runner that replaced the residual stream."""
    raw, mean = entry.number("KL_raw_mean"), entry.number("KL_mapped_mean")
    if raw != raw and mean != mean:
        raise Unread("holds neither KL_raw_mean nor KL_mapped_mean")
    where = {"direction": layout()["direction"], "layer": entry.layer(), "stream": entry.take_field("stream", "hook")}
    drop, from_layer = entry.number("drop_pct"), entry.number("map_layer")
    prompts = math.nan if "prompts" in entry.lacks else entry.prompts()
    if mean != mean:
        what = {"map": "zscore", "rank": "full", "alpha": "", "mean": raw, "reference": raw, "drop": math.nan}
    else:
        rank = entry.take_field("rank") if entry.name.rank else "full"
        drop = 100 * (raw - mean) / raw if drop != drop and raw > 0 else drop
        what = {"map": entry.take_field("map", "solver"), "rank": rank, "alpha": entry.scale()}
        what |= {"mean": mean, "reference": raw, "drop": drop}
    if where["stream"] == "mlp_out" or (where["stream"] == "attn_out" and older):
        entry.notes.append("replaced the residual stream, not the module's output")
    mask, split = entry.take("head_mask"), entry.take("split")
    entry.notes += [f"heads {mask} only"] if mask not in (None, "ALL") else []
    entry.notes += [f"on the {split} split"] if split not in (None, "val") else []
    other = from_layer == from_layer and from_layer != where["layer"]
    entry.notes += [f"the map of layer {from_layer:.0f}"] if other else []
    for key in ("reduction", "delta"):  # the difference of the two
        entry.take(key)
    return entry.line(**where, **what, complement="mean", control="other-layer" if other else "none", prompts=prompts)
