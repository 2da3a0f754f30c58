"""The study's files of question 4: head masks, from contents to lines of our tables.

In its runners KL_raw_mean is the effect of all heads and KL_mapped_mean that of the masked ones: our coverage is the second over
the first. What the study reports for its first pair is one minus that.
"""

import math
from pathlib import PurePosixPath

from mechdiff.study.imports.fields import Entry, Unread, as_layer, kind_of
from mechdiff.study.imports.layers_and_maps import Lines, Rows, mapped
from mechdiff.study.imports.layout import layout

SAME = "every entry of the file holds the same number"


def listed(content: object, what: str) -> list:
    if not isinstance(content, list) or not content:
        raise Unread(f"holds {kind_of(content) if content else 'nothing'} where a list of {what} is expected")
    return content


def heads_text(value: object) -> str:
    """A set of heads as our tables write it: `0-5-7`, `all` or `none`."""
    parts = value if isinstance(value, list) else str(value).replace("-", ",").split(",")
    texts = [str(part).strip() for part in parts]
    if len(texts) == 1 and texts[0].upper() in ("ALL", "NONE"):
        return texts[0].lower()
    if not all(text.isdecimal() for text in texts):
        raise Unread(f"heads '{value}' are neither numbers nor ALL nor NONE")
    return "-".join(map(str, sorted(set(map(int, texts)))))


def head_mask(content: object, path: PurePosixPath) -> Lines:
    """A mask's run: layer, head_mask, alpha, KL_raw_mean, KL_mapped_mean, n."""
    return {"heads_summary": [masked(Entry(content, path.stem))]}


def masked(entry: Entry) -> dict:
    mask, wanted = entry.take("head_mask"), entry.take("heads")
    heads = heads_text(mask) if mask not in (None, "") else ""
    by_name = heads_text(entry.name.heads) if entry.name.heads else ""
    if heads and by_name and heads != by_name:
        entry.notes.append(f"the name says heads {by_name}")
    if heads and wanted and heads_text(wanted) != heads:
        entry.notes.append(f"requested heads {heads_text(wanted)}, but holds the run of {heads}")
    if not heads and by_name:
        entry.notes.append("heads only in the name")
    heads = heads or by_name
    if not heads:
        raise Unread("has no heads, neither inside nor in its name")
    entry.take("hook")  # the runner's name for the site: the input of the output projection
    entry.take("reduction")
    if (split := entry.take("split")) not in (None, "val"):
        entry.notes.append(f"on the {split} split")
    chosen = str(entry.take("cond") or entry.name.chosen or "")
    raw, mean = entry.number("KL_raw_mean"), entry.number("KL_mapped_mean", needed=True)
    return scored(entry, entry.layer(), heads, mean, raw, chosen, entry.prompts())


def scored(entry: Entry, layer: int | None, heads: str, mean: float, raw: float, chosen: str, prompts: float) -> dict:
    blend = entry.scale()
    entry.lacks = ["blend" if name == "alpha" else name for name in entry.lacks]
    choices = {"top": "topk", "ran": "random"}
    return entry.line(
        direction=layout()["direction"],
        layer=layer,
        stream="heads",
        heads=heads,
        blend=float(blend) if blend else math.nan,
        control="none",
        chosen=choices.get(chosen[:3], chosen),
        mean=mean,
        reference=raw,
        coverage=mean / raw if raw > 0 else math.nan,
        prompts=prompts,
    )


def singles(content: object, path: PurePosixPath) -> Lines:
    """A list of head, KL_raw, KL_mapped, drop_pct; layer and alpha stand in the name."""
    lines = []
    for item in listed(content, "heads"):
        entry = Entry(item, path.stem)
        head = heads_text(entry.take("head"))
        entry.take("drop_pct")
        entry.lacks.append("prompts")
        raw, mean = entry.number("KL_raw"), entry.number("KL_mapped", needed=True)
        lines.append(scored(entry, entry.layer(), head, mean, raw, "", math.nan))
    return {"heads_summary": same(lines)}


def results(content: object, path: PurePosixPath) -> Lines:
    """A list of runs: of the whole map (full, ctrl_full), and of head masks (top4, rand4_s0)."""
    masks, maps = [], []
    for item in listed(content, "runs"):
        entry = Entry(item, path.stem)
        if "solver" in entry.content or "map_file" in entry.content:
            entry.notes.append(f"the study's {entry.take('cond')}")
            maps.append(mapped(entry, older=False))
        else:
            masks.append(masked(entry))
    return {"heads_summary": same(masks), "transport_summary": maps}


def details(rows: Rows, path: PurePosixPath) -> Lines:
    """CSV: head, with KL_sel and coverage_pct; or with layer and delta, which is not an effect: our columns then stay empty."""
    lines = []
    for row in rows:
        entry = Entry(row, path.stem)
        head, layer = heads_text(entry.take("head")), entry.take("layer")
        mean = entry.number("KL_sel")
        entry.lacks += ["prompts", *(["layer"] if layer in (None, "") else []), *(["effect"] if mean != mean else [])]
        share = entry.number("coverage_pct") / 100 if mean == mean else math.nan
        line = scored(entry, None if layer in (None, "") else as_layer(layer), head, mean, math.nan, "", math.nan)
        lines.append(line | {"coverage": share})
    return {"heads_summary": lines}


def same(lines: list[dict]) -> list[dict]:
    """The lines, with a note where all of them hold one and the same number."""
    if len(lines) < 2 or len({line["mean"] for line in lines}) > 1:
        return lines
    return [line | {"note": "; ".join(filter(None, [line["note"], SAME]))} for line in lines]
