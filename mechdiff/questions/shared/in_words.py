"""Counts and intervals in words. Needs no torch."""

from mechdiff.maths.intervals import APPROXIMATE, FEWEST


def counted(prompts: float, templates: float) -> str:
    """How many prompts and templates numbers are of, in words, and what a reader has to know about intervals over so few."""
    if templates < FEWEST:
        return f"{prompts:.0f} prompts (no intervals: {templates:.0f} templates, fewer than {FEWEST})"
    about = f"intervals approximate: {templates:.0f} templates" if templates < APPROXIMATE else f"{templates:.0f} templates"
    return f"{prompts:.0f} prompts ({about})"


def bracketed(low: float, high: float, form: str = ".3g", factor: float = 1.0) -> str:
    """An interval as text, after a space; empty where there is none. form: of a number; factor: of its unit."""
    return "" if low != low else f" [{factor * low:{form}}, {factor * high:{form}}]"
