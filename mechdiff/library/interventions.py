"""Interventions from Python: a site, and what its state is replaced by."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechdiff.common import content
from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import COMPLEMENTS, MAPS, STREAMS
from mechdiff.engine.intervention import Condition, Given, Stack
from mechdiff.engine.intervention_text import in_order, label


@dataclass(frozen=True)
class Intervention:
    """What replaces the state at one site, or at several in the same pass. `a & b` stacks two: each acts on what the ones
    before it produced.

    parts: the interventions, in the order of a forward pass. name: what tables call it.

    Example:
        >>> (md.at(1).donor() & md.at(0, "mlp_out").donor()).name
        'layer=0 stream=mlp_out; layer=1 stream=resid_post'
    """

    parts: tuple[Condition, ...]
    name: str

    def __and__(self, other: "Intervention") -> "Intervention":
        return Intervention(parts := in_order([*self.parts, *other.parts]), "; ".join(map(described, parts)))

    def named(self, name: str) -> "Intervention":
        """The same under another name. name: what tables call it.

        Example:
            >>> md.at(1).donor().named("whole state").name
            'whole state'
        """
        return replace(self, name=name)

    def for_pair(self, layers: int, heads: int) -> Condition | Stack:
        """What the engine runs on a pair. layers, heads: how many the pair has.

        Raises UserError for a site that the pair does not have.

        Example:
            >>> md.at(1).donor().for_pair(layers=4, heads=4).stream
            'resid_post'
        """
        parts = tuple(check_site(part, layers, heads) for part in self.parts)
        return parts[0] if len(parts) == 1 else Stack(parts)


@dataclass(frozen=True)
class Site:
    """A place in the model, whose state an intervention replaces. Made by `md.at`.

    layer: from 0. stream: resid_pre, resid_post, attn_out, mlp_out or heads.

    Example:
        >>> site = md.at(1)
        >>> pair.run([site.donor(), site.mean(), site.own()], limit=4).summary().shape[0]
        3
    """

    layer: int
    stream: str

    def donor(self) -> Intervention:
        """The donor's state at the same site.

        Example:
            >>> md.at(1).donor().name
            'layer=1 stream=resid_post'
        """
        return intervention(Condition(self.layer, self.stream))

    def mapped(
        self, map: str = "procrustes_scaled", rank: int | None = None, complement: str = "mean", alpha: float | None = None
    ) -> Intervention:
        """A fitted linear map of the donor's state, fitted on the train split.

        map: its kind (zscore, ridge, procrustes, procrustes_scaled). rank: output directions that are kept; None for all.
        complement: what fills the rest, mean or own. alpha: the scale of the mapped state; None for the one found out of fold.
        Raises UserError for a map or a complement that does not exist.

        Example:
            >>> md.at(1, "mlp_out").mapped("ridge", rank=8).name
            'layer=1 stream=mlp_out map=ridge rank=8 complement=mean'
        """
        if map not in MAPS or map == "none":
            raise one_of("Map", map, [name for name in MAPS if name != "none"])
        if complement not in COMPLEMENTS:
            raise one_of("Complement", complement, COMPLEMENTS)
        return intervention(Condition(self.layer, self.stream, map, alpha, rank, "" if rank is None else complement))

    def heads(self, *heads: int, blend: float = 1.0) -> Intervention:
        """The donor's output of some attention heads of the layer.

        heads: their numbers from 0; all of them if none is named. blend: the donor's share in the result, 0 to 1.

        Example:
            >>> md.at(1).heads(0, 3).name
            'layer=1 stream=heads heads=0,3'
        """
        return intervention(Condition(self.layer, "heads", heads=tuple(sorted(set(heads))) or None, blend=blend))

    def own(self) -> Intervention:
        """The recipient's own state: the self-patch, which changes nothing beyond rounding.

        Example:
            >>> float(pair.run([md.at(1).own()], limit=4).table["kl"].max()) < 1e-6
            True
        """
        return Intervention((Condition(self.layer, self.stream, control="self"),), f"layer={self.layer} {self.stream} own")

    def mean(self) -> Intervention:
        """The recipient's mean state on the train split: mean ablation.

        Example:
            >>> md.at(1).mean().name
            'layer=1 resid_post mean'
        """
        mean = Condition(self.layer, self.stream).as_control("mean")
        return Intervention((mean,), f"layer={self.layer} {self.stream} mean")

    def set(
        self,
        state: Any,
        *,
        name: str | None = None,
        version: str | int | None = None,
        key: str | None = None,
    ) -> Intervention:
        """A state of the user's own.

        state: a tensor or array [width] in the recipient's units, or a function that is called with a `Clean`, the clean states
        of both models, and returns a tensor [prompts, width] or [width]. name: what tables call it; default: a tensor's hash, a
        function's own name. A tensor's effects are stored under its content, a function's only with name and version: the two and
        its source. version: a number or a text, to be changed with what the function does. key: a text that stands for what the
        function reads but its source does not show, such as arrays.
        Raises UserError for a function with only one of name and version, and for one that reads arrays and has no key; when it
        runs, for a state of another shape.

        Example:
            >>> import torch
            >>> bool((pair.run([md.at(1).set(torch.zeros(pair.width))], limit=4).table["kl"] > 0).all())
            True
        """
        if callable(state):
            digest = content.of_function(state, name, version, key)
            title = name or getattr(state, "__name__", type(state).__name__)
            given = Given(title, digest or content.in_memory(), digest is not None, state)
        else:
            given = tensor_given(state, name)
        heads = None if self.stream != "heads" else ()
        title = f"layer={self.layer} {self.stream} set {given.label}"
        return Intervention((Condition(self.layer, self.stream, heads=heads, given=given),), title)


def at(layer: int, stream: str = "resid_post") -> Site:
    """A site, whose state an intervention replaces.

    layer: from 0; it is checked against the pair when it is used. stream: the residual stream before or after the layer
    (resid_pre, resid_post), the output of attention or MLP (attn_out, mlp_out), or the heads' outputs (heads).
    Raises UserError for a stream that does not exist.

    Example:
        >>> md.at(1, "mlp_out")
        Site(layer=1, stream='mlp_out')
    """
    if stream not in STREAMS:
        raise one_of("Stream", stream, STREAMS)
    return Site(layer, stream)


def tensor_given(state: Any, name: str | None) -> Given:
    """A tensor or an array as a state. Raises UserError for anything else."""
    import numpy as np
    import torch

    if isinstance(state, np.ndarray):
        state = torch.from_numpy(state)
    if not isinstance(state, torch.Tensor):
        raise UserError(f"{state!r:.60} is neither a tensor nor a function.\nTry:  a tensor [width], or a function of Clean")
    state = state.detach().cpu().contiguous().clone()
    data = state.reshape(-1).view(torch.uint8).numpy().tobytes()
    digest = content.of_array(str(state.dtype), tuple(state.shape), data)
    return Given(name or f"tensor {digest[:8]}", digest, True, state)


def intervention(condition: Condition) -> Intervention:
    return Intervention((condition,), described(condition))


def described(condition: Condition) -> str:
    if condition.given is not None:
        return f"layer={condition.layer} {condition.stream} set {condition.given.label}"
    if condition.control != "none":
        return f"layer={condition.layer} {condition.stream} {'own' if condition.control == 'self' else condition.control}"
    return label(condition)


def check_site(condition: Condition, layers: int, heads: int) -> Condition:
    """The condition with its heads named, if it is of a pair's site. Raises UserError if not."""
    if not 0 <= condition.layer < layers:
        raise UserError(
            f"Layer {condition.layer} does not exist: there are {layers}, 0 to {layers - 1}.\nTry:  md.at({layers - 1})"
        )
    if condition.stream != "heads":
        return condition
    chosen = condition.heads or tuple(range(heads))
    if wrong := [head for head in chosen if not 0 <= head < heads]:
        raise UserError(f"Head {wrong[0]} does not exist: a layer has {heads}, 0 to {heads - 1}.")
    return replace(condition, heads=chosen)


def check_names(rows: Sequence[Intervention]) -> None:
    """Raises UserError for two interventions of one name, which a table could not tell apart."""
    names = [row.name for row in rows]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"Two interventions are named '{twice}'.\nTry:  .named('...') for one of them")
