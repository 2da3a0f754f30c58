"""Maps by name: our own, and those that installed projects add."""

from collections.abc import Callable
from functools import cache, partial

import torch

from mechdiff.common import extensions
from mechdiff.common.errors import UserError
from mechdiff.common.terms import STUDYS_MAP
from mechdiff.maths.cross_validated import fit_kernel_ridge, fit_procrustes_shrunk, fit_ridge_cv
from mechdiff.maths.linear_maps import FITS, SHRINKAGE, Map, PcaSpread, fit_procrustes_scaled
from mechdiff.maths.whitened import fit_procrustes_full

Fit = Callable[[PcaSpread, PcaSpread], Map]
AUTO = "auto"
SEEDED = {"ridge_cv": fit_ridge_cv, "kernel_ridge": fit_kernel_ridge, STUDYS_MAP: fit_procrustes_full}


@cache
def fit_of(name: str, seed: int = 0, shrink: str = str(SHRINKAGE)) -> Fit:
    """The function that fits a map: donor's states and recipient's to the map. Raises UserError if it cannot be loaded.

    seed: of its folds, and of what is arbitrary in it. shrink: the weight of procrustes_scaled's shrinkage, or auto.
    """
    if name in SEEDED:
        return partial(SEEDED[name], seed=seed)
    if name == "procrustes_scaled" and shrink == AUTO:
        return partial(fit_procrustes_shrunk, seed=seed)
    if name == "procrustes_scaled":
        return partial(fit_procrustes_scaled, shrinkage=float(shrink))
    return FITS[name] if name in FITS else checked(name, extensions.load("maps", name))


def checked(name: str, fit: Fit) -> Fit:
    """An extension's fit, whose map is applied to the train states once: a wrong one ends in a sentence, not in wrong numbers."""

    def fitted(x: PcaSpread, y: PcaSpread) -> Map:
        try:
            made = fit(x, y)
            problem = problem_of(made, x, y)
        except Exception as error:  # whatever another project's code raises
            raise UserError(f"The map '{name}' cannot be fitted: {extensions.message(error)}") from error
        if problem:
            raise UserError(f"The map '{name}' {problem}")
        return made

    return fitted


def problem_of(made: Map, x: PcaSpread, y: PcaSpread) -> str | None:
    """What is wrong with a map that was fitted on x and y."""
    if not isinstance(made, Map):
        return f"is a {type(made).__name__}. It must be a mechdiff.Map."
    mapped, shape = made.apply(x.states.double()), (*x.states.shape[:2], y.states.shape[2])
    if mapped.shape != shape:
        return f"maps states to {list(mapped.shape)}. It must be [sites, rows, width] = {list(shape)}."
    return None if torch.isfinite(mapped).all() else "maps some states to numbers that are not finite."
