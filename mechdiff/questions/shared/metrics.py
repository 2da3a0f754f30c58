"""Metrics: what is measured of a patched next-token distribution. Needs no torch until one is applied."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from mechdiff.common import content, extensions
from mechdiff.common.errors import UserError, one_of

Function = Callable[..., Any]  # (patched, clean, donor), log-probabilities [k, vocabulary] each -> [k]


@dataclass(frozen=True)
class Metric:
    """A number of every patched next-token distribution. `md.kl` is KL(patched || clean), `md.kl_to_donor` KL(donor || patched),
    in nats; others are made by `md.logit_difference`, `md.target_logprob` and `md.metric`.

    name: its column. content: a hash of what it is; storable: whether its values are stored on disk. texts: tokens that it reads;
    of_tokens: makes its function from their ids, or None for a measure that every effect has (kl, kl_to_donor).

    Example:
        >>> md.logit_difference(" yes", " no").name
        'logit_difference'
        >>> "kl_to_donor" in pair.run([md.at(1).donor()], limit=4, metrics=[md.kl, md.kl_to_donor]).table
        True
    """

    name: str
    content: str = ""
    storable: bool = True
    texts: tuple[str, ...] = ()
    of_tokens: Callable[[tuple[int, ...]], Function] | None = field(default=None, compare=False, repr=False)


kl = Metric("kl")
kl_to_donor = Metric("kl_to_donor")


def target_logprob(target: str, name: str = "target_logprob") -> Metric:
    """The log-probability of a token, in nats; its clean value is in the column `{name}_clean`.

    target: the token's text, such as " yes". name: the column.
    Raises UserError, when it is used, for a text that is not one token.

    Example:
        >>> md.target_logprob("a").texts
        ('a',)
    """
    return Metric(name, f"target_logprob {target!r}", True, (target,), lambda ids: partial(logprob_of, ids=ids))


def logit_difference(target: str, foil: str, name: str = "logit_difference") -> Metric:
    """The log-probability of one token minus that of another, in nats, which is the difference of their logits.

    target, foil: the tokens' texts. name: the column; the clean value is in `{name}_clean`.
    Raises UserError, when it is used, for a text that is not one token.

    Example:
        >>> md.logit_difference("a", "b").texts
        ('a', 'b')
    """
    return Metric(
        name, f"logit_difference {target!r} {foil!r}", True, (target, foil), lambda ids: partial(difference_of, ids=ids)
    )


def metric(function: Function, *, name: str | None = None, version: str | int | None = None, key: str | None = None) -> Metric:
    """A metric of the user's own.

    function: called with the patched, the clean and the donor's log-probabilities, [k, vocabulary] each, in nats; returns [k].
    Where two tokenizers differ, they are over the tokens that both have, renormalised. name: the column; default: the function's
    name. name, version: under which values are stored on disk, without which they are not. key: a text that stands for what
    the function reads but its source does not show, such as arrays.
    Raises UserError for a function with only one of name and version, and for one with both that reads arrays and has no key.

    Example:
        >>> def entropy(patched, clean, donor):
        ...     return -(patched.exp() * patched).sum(-1)
        >>> bool((pair.run([md.at(1).donor()], limit=4, metrics=[entropy]).table["entropy"] > 0).all())
        True
    """
    digest = content.of_function(function, name, version, key)
    label = name or getattr(function, "__name__", type(function).__name__)
    return Metric(label, digest or content.in_memory(), digest is not None, (), lambda ids: function)


def as_metric(given: Metric | Function | str) -> Metric:
    """A metric as it is, a function as one, or the metric of a name. Raises UserError for anything else."""
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return metric_named(given)
    if not callable(given):
        raise UserError(f"{given!r:.60} is no metric.\nTry:  md.kl, or a function of (patched, clean, donor)")
    return metric(given)


def metric_named(name: str) -> Metric:
    """One of METRICS, or what every effect has. An extension's values are stored under its project's version and code.

    Raises UserError for a name that does not exist, and for an extension that cannot be loaded.
    """
    if name in OWN:
        return OWN[name]
    if name not in METRICS:
        raise one_of("Metric", name, (*OWN, *METRICS[len(ADDED) :]))
    given = as_metric(extensions.load("metrics", name))
    return replace(given, name=name, content=f"{extensions.key_of('metrics', name)} {' '.join(given.texts)}", storable=True)


def entropy_of(patched: Any, clean: Any, donor: Any) -> Any:
    """The entropy of the patched distribution, in nats."""
    return -(patched.exp() * patched).sum(-1)


def agreement(patched: Any, clean: Any, donor: Any) -> Any:
    """1 where the patched model's most likely token is the donor's, 0 elsewhere."""
    return (patched.argmax(-1) == donor.argmax(-1)).float()


ADDED = {
    "entropy": Metric("entropy", "entropy", of_tokens=lambda ids: entropy_of),
    "top1_agreement": Metric("top1_agreement", "top1_agreement", of_tokens=lambda ids: agreement),
}
OWN = {"kl": kl, "kl_to_donor": kl_to_donor} | ADDED
RESERVED = ("pair", "domain", "question", "direction", "prompt", "intervention", "chosen", "vocabulary")  # other columns
RESERVED += ("layer", "stream", "map", "rank", "complement", "alpha", "heads", "blend", "control", "stack")
RESERVED += ("mean", "low", "high", "prompts", "templates", "recovery", "drop", "coverage")
RESERVED += ("kl", "kl_to_donor", "kl_donor_clean", "kl_reference")
METRICS = extensions.names("metrics", tuple(ADDED), RESERVED)  # those that a request names in addition


def logprob_of(patched: Any, clean: Any, donor: Any, ids: tuple[int, ...]) -> Any:
    return patched[:, ids[0]]


def difference_of(patched: Any, clean: Any, donor: Any, ids: tuple[int, ...]) -> Any:
    return patched[:, ids[0]] - patched[:, ids[1]]
