"""A small copy of the study's artifacts folder: every known variant of a name, and every kind of file that is not read."""

import json
from pathlib import Path

HEADER = "layer,hook,alpha,KL_raw_mean,KL_mapped_mean,delta,drop_pct,file\n"


def patch(layer: int, hook: str, raw: float, mapped: float, **more) -> dict:
    means = {"KL_raw_mean": raw, "KL_mapped_mean": mapped, "reduction": raw - mapped}
    return {"layer": layer, "hook": hook, "k_positions": 1, "n": 150} | means | more


def newer(layer: int, hook: str, raw: float, mapped: float, alpha: float = 1.0, **more) -> dict:
    """As the later runner wrote it."""
    about = {"split": "val", "map_layer": layer, "solver": "procrustes_scaled", "alpha": alpha, "alpha_used": alpha}
    return patch(layer, hook, raw, mapped) | about | {"head_mask": "ALL", "map_file": "maps/x.pt"} | more


def mask(chosen: str, effect: float, full: float = 0.2, **more) -> dict:
    return patch(26, "attn_out", full, effect, split="val", alpha=1.0, head_mask=chosen, mode="raw_pre_o_proj") | more


def clt(layer: int, **more) -> dict:
    scores = {"val_r2": -0.2, "train_r2": 0.99, "r2_shuffled": -0.3, "lam": None, "cka_mapped_vs_tuned_val": 0.65}
    return {"layer": layer, "n_train": 450, "n_val": 150, "k_positions": 1} | scores | more


COSINES = {"mean": 0.6, "median": 0.61, "p10": 0.4, "p90": 0.8}
FILES = {  # every known variant of a name: what it holds
    "rq1/rq1_cka.json": {"24": 0.34},
    "rq1/cka_boot.json": {"24": {"mean": 0.35, "ci95": [0.3, 0.4]}},
    "rq1/patch_kl.json": {
        "layers": {"L24": {"tuned<-base": {"kl_mean": 1.4, "kl_std": 0.9}, "base<-tuned": {"kl_mean": 0.6, "kl_std": 0.7}}},
        "n_prompts": 100,
    },
    "rq1/rq1_patch.json": {"L24": {"tuned<-base": {"refusal_delta_pp": 2.0, "kl_nexttoken": 1.4}}},
    "rq1/rq1_behavior.json": {"n_prompts_freeform": 40, "refusal_rate_base": 0.1},
    "rq1/rq1_refusals.csv": "prompt_idx,base_refusal,tuned_refusal\n0,0.0,1.0\n1,0,0\n",
    "rq2_clt.json": {"layer": 24, "n": 5000, "val_r2": 1.0, "lam": 0.01, "cka_mapped_vs_tuned": 1.0},
    "rq2/rq2_clt_L24.json": clt(24),
    "rq2/rq2_clt_L24_ridge.json": clt(24, solver="ridge", pca_q=0, logit_subspace="0"),
    "rq2/rq2_clt_L24_pca512_ridge.json": clt(24, solver="ridge", pca_q=512),
    "rq2/rq2_clt_L24_logit512_ridge.json": clt(24, solver="ridge", pca_q=0),
    "rq2/rq2_clt_L24_logitjoint:256_ridge_20250823_133310.json": clt(24, solver="ridge", logit_subspace="joint:256"),
    "rq2/rq2_clt_L26_procrustes_scaled_20250823_141030.json": clt(26, solver="procrustes_scaled", pca_q=0, cos_stats=COSINES),
    "rq2/rq2_clt_L26_attn_out_procrustes_scaled_20250826_122942.json": clt(
        26, solver="procrustes_scaled", pca_q=1, hook="attn_out", cos_stats=None
    ),
    "rq2/mapped_patch_L10.json": patch(10, "resid_post", 8.0, 6.0),
    "rq2/mapped_patch_L24_rawonly.json": {"KL_raw_mean": 6.5, "n": 100},
    "rq2/mapped_patch_L26_val.json": newer(26, "mlp_out", 6.5, 5.9),
    "rq2/mapped_patch_L26_attn_out_alpha0.5_20250824_101010.json": patch(26, "attn_out", 7.8, 5.2, alpha=0.5),
    "rq2/mapped_patch_L10_resid_post_val.json": newer(10, "resid_post", 7.9, 7.7, map_layer=24),
    "rq3/mapped_patch_L26_attn_out_alpha0.3.json": {
        "layer": 26,
        "hook": "attn_out",
        "alpha": 0.3,
        "KL_raw_mean": 7.8,
        "KL_mapped_mean": 5.2,
        "drop_pct": 33.3,
        "timestamp": "x",
    },
    "rq3/ranks/mapped_patch_L24_resid_post_k1_alpha1.0.json": newer(24, "resid_post", 6.4, 5.6),
    "rq3/ranks/mapped_patch_L24_resid_post_kfull_alpha1.0.json": newer(24, "resid_post", 6.4, 5.6),
    "rq3/rq3_combined.csv": HEADER + "24,resid_post,1.0,6.4,5.6,0.8,12.5,mapped_patch_L24_resid_post_k1_alpha1.0.json\n",
    "rq3/fig/rq3_alpha_sweep_summary_plotted.csv": HEADER
    + "26,attn_out,0.3,7.8,5.2,2.6,33.3,mapped_patch_L26_attn_out_alpha0.3.json\n",
    "rq4/head_mask_L26_attn_out_ALL.json": mask("ALL", 0.2),
    "rq4/head_mask_L26_attn_out_NONE.json": mask("NONE", 0.0),
    "rq4/head_mask_L26_attn_out_24.json": mask("24", 0.002),
    "rq4/head_mask_L26_attn_out_19-8-2.json": mask("19,8,2", 0.05),
    "rq4/head_mask_L26_attn_out_head3.json": mask("3", 0.01),
    "rq4/head_mask_L26_attn_out_head31_alpha0.3.json": mask("0", 0.001, 0.02, alpha=0.3),
    "rq4/head_mask_L26_attn_out_top2.json": mask("1,5", 0.09),
    "rq4/head_mask_L26_attn_out_rand2_s0.json": mask("4,8", 0.03),
    "rq4/single_head_L26_attn_out_alpha0.3.json": [
        {"head": h, "drop_pct": 98.0, "KL_raw": 0.02, "KL_mapped": 0.001} for h in (0, 1)
    ],
    "rq4/single_head_details.csv": "layer,head,delta,coverage_pct\n26,1,0.178897,100.00\n",
    "rq4/rq4_results.json": [
        newer(26, "attn_out", 0.005, 0.003, alpha=0.3, cond="full"),
        mask("0", 0.001, 0.02, cond="top2", heads=[0, 1], alpha=0.3),
    ],
    "rq4/mapped_patch_L24_attn_out_ctrl_L24_full_alpha0.3.json": newer(24, "attn_out", 0.01, 0.007, alpha=0.3),
    "cognitive/rq1/rq1_cka.json": {"L12": 0.56, "30": 0.72},
    "cognitive/rq4/fig/single_head_details.csv": "head,KL_sel,coverage_pct\n30,0.002105,34.48\n",
    "cognitive/rq3/ranks/mapped_patch_L24_resid_post_k8_alpha1.0.json": newer(24, "resid_post", 0.29, 0.7),
    "cognitive/rq3/ranks/mapped_patch_L24_resid_post_kfull_alpha1.0.json": newer(24, "resid_post", 0.29, 0.17),
}
BROKEN = {  # a file that is not read, and a word of the reason
    "rq1/rq1_cka_old.json": ('{"24": ', "not JSON"),
    "rq1/cka_boot_old.json": ("", "empty"),
    "rq1/patch_kl_side.json": ('{"layers": {"L2": {"left": {"kl_mean": 1}}}}', "direction 'left'"),
    "rq2/rq2_clt_L24_x.json": ("[1]", "a list"),
    "rq2/rq2_clt_L25.json": ('{"solver": "ridge"}', "neither R² nor CKA"),
    "rq2/mapped_patch_x.json": ('{"KL_raw_mean": 1.0}', "has no layer"),
    "rq2/mapped_patch_L3.json": ('{"KL_raw_mean": "much"}', "a text, not a number"),
    "rq2/mapped_patch_L40.json": ('{"KL_raw_mean": 1.0}', "beyond the study's 32"),
    "rq2/mapped_patch_L4.json": ('{"KL_raw_mean": NaN}', "neither KL_raw_mean"),
    "rq2/mapped_patch_L5.json": ('{"KL_raw_mean": Infinity}', "infinite"),
    "rq2/maps/rq2_clt_L24.pt": ("PK", "a fitted map"),
    "rq3/rq3_summary.txt": ("words", "a summary in words"),
    "rq3/rq3_cut.csv": (HEADER, "no line"),
    "rq3/rq3_short.csv": (HEADER + "24,resid_post\n", "number of fields"),
    "rq4/fig/coverage_by_k.png": ("x", "a figure"),
    "rq4/head_mask_L26_attn_out_some.json": ('{"KL_mapped_mean": 1.0}', "has no heads"),
    "notes.json": ("{}", "not a name that"),
}


def write(place: Path) -> Path:
    """The folder, at a place."""
    for name, content in (FILES | {name: text for name, (text, _) in BROKEN.items()}).items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    (place / "rq1" / "rq1_cka_bytes.json").write_bytes(b"\xff\xfe\x00\xff")
    return place
