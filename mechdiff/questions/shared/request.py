"""What every question shares: pair, prompts, sites and where to compute. A question is a dataclass on top, in a file of its own.

A request's fields are the command line's flags, the app's link and the parts of the cache's keys.
"""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import isfinite
from typing import Annotated, Any, ClassVar, TypeVar

import pandas as pd
from msgspec import Meta

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError, one_of
from mechdiff.common.extensions import NAME
from mechdiff.common.terms import (
    COMPLETION,
    DEVICES,
    DIRECTIONS,
    DTYPES,
    FIXED,
    FOLDS,
    MAPS,
    OFFLOADS,
    SPLITS,
    STREAMS,
    STUDYS_MAP,
)
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import TEMPLATES, Pair, read_pair
from mechdiff.inputs.prompts import Prompt, canonical, domains, read_domain, read_prompts
from mechdiff.inputs.vocabularies import with_shared_tokens
from mechdiff.questions.shared.fields import ALL, as_tuple, checked, flag, flag_name
from mechdiff.questions.shared.task import Task

FULL = "full"
TOKEN = "token"
AUTO = "auto"
SHRINK = "0.05"
MOST = 1_000_000  # of a number that would only cost memory

QUESTIONS: dict[str, type["Question"]] = {}  # by name; each adds itself as its module is imported

Count = Annotated[int, Meta(ge=1, le=MOST)]
Index = Annotated[int, Meta(ge=0, le=MOST)]
Share = Annotated[float, Meta(ge=0, le=1)]
Kind = TypeVar("Kind", bound="Question")


@dataclass(frozen=True)
class Question:
    """What to compute. Raises UserError for a value that is not valid; layers and heads are checked against the pair when used.

    A question sets `question`, its name, and `title`, and returns a `task`. columns: what tells its table's conditions apart,
    such as layer and stream. averages: whether its summary has means over prompts. swept: the fields of what sweeps ask of it;
    None if they leave it out, or plan it themselves. reads_prompts: whether it needs prompts. same_shape: whether both models
    must have the same layers, width and heads. stream_choices: the streams that it can be asked about.

    Example:
        >>> class Letters(md.Question, listed=False):
        ...     power: int = md.flag(1, "to which power")
        >>> Letters(pair=pair.spec.path, layers="0,1").chosen_layers
        (0, 1)
    """

    question: ClassVar[str] = ""
    title: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = ()
    averages: ClassVar[bool] = False
    reads_prompts: ClassVar[bool] = True
    same_shape: ClassVar[bool] = True  # whether both models must have the same layers, width and heads
    stream_choices: ClassVar[tuple[str, ...]] = STREAMS
    swept: ClassVar[dict[str, Any] | None] = None

    pair: str = flag("demo-cognitive", "a shipped pair's name, or a pair file")
    domain: str | None = flag(None, "a domain of curated prompts; default: the pair's own")
    prompts: str | None = flag(None, "JSONL file to evaluate on, in place of the domain's val split")
    train: str | None = flag(None, "JSONL file, or a domain, to fit maps on in place of the domain's own train split")
    split: str = flag(
        "val",
        "prompts that are evaluated: the val split, or one prompt of each template of the train split",
        choices=SPLITS,
    )
    limit: Count | None = flag(None, "use the first N prompts", must="a number of prompts, at least 1", example="32")
    layers: tuple[int, ...] | None = flag(
        None,
        "layers from 0, as 0,4,8, or all (default: all)",
        must="numbers of layers, or all",
        example="0,4,8  or  --layers all",
    )
    streams: tuple[str, ...] = flag(("resid_post",), f"streams, or all: {','.join(STREAMS)}")
    direction: str = flag("base-to-tuned", "donor and recipient: whose state goes into which model", choices=DIRECTIONS)
    min_shared_ratio: Share = flag(
        0.0,
        "keep only prompts (val and train) of which either tokenizer shares at least this part of its tokens, 0 to 1",
        must="a number from 0 (every prompt) to 1 (all tokens shared)",
        example="0.9",
    )
    seed: Annotated[int, Meta(ge=0)] = flag(0, "seed of everything random", must="a whole number from 0", example="0")
    device: str = flag("auto", "where to compute", choices=DEVICES)
    offload: str = flag(
        "auto", "one model on the GPU at a time: on, off, or auto, if the two do not fit together", choices=OFFLOADS, bare="on"
    )
    dtype: str | None = flag(None, "number format; default: float32 on a CPU, bfloat16 on a GPU", choices=DTYPES)
    chat_template: str | None = flag(
        None,
        "whose chat template prompts are put into: auto (the tuned model's, for both), base (the base's, for both), each (each "
        "model's own) or none; default: the pair's own setting",
        choices=TEMPLATES,
    )
    system: str = flag("", "a system prompt that comes before every prompt")
    suffix: str = flag("", "a text that is added to the end of every prompt")
    protocol: str | None = flag(
        None,
        "whose definitions hold for all that is not given: mechdiff's own, or the original study's; default: the pair's own",
        choices=protocols.NAMES,
    )

    def __init_subclass__(cls, listed: bool = True, **kwargs):
        """listed: whether it is a question by its name, everywhere that questions are named."""
        super().__init_subclass__(**kwargs)
        name = cls.__dict__.get("question") if listed else None
        if name and not NAME.fullmatch(name):
            raise UserError(f"The name of the question '{name}' must be lower-case letters, digits and _.")
        if name and QUESTIONS.setdefault(name, cls).__qualname__ != cls.__qualname__:
            raise UserError(f"There are two questions named '{name}': {QUESTIONS[name].__module__} and {cls.__module__}.")

    def __new__(cls, *args, **values):
        refuse_foreign(cls, values)
        request = super().__new__(cls)
        object.__setattr__(request, "_given", {spec.name for spec, _ in zip(fields(cls), args)} | values.keys())
        return request

    def __post_init__(self):
        settings = self.defaults
        for spec in fields(self):
            value = getattr(self, spec.name)
            if spec.name not in self._given:
                value = settings[spec.name]
            if spec.name == "layers" and (value := as_tuple(value)) == (ALL,):
                value = self.all_layers()
            if spec.name == "streams" and (value := as_tuple(spec.default if value is None else value)) == (ALL,):
                value = self.stream_choices
            object.__setattr__(self, spec.name, checked(type(self), spec, value))
        self._check_streams()
        self.check()

    _given: ClassVar[set[str]]  # the fields that the request names itself: no protocol sets these

    @property
    def chosen_protocol(self) -> str:
        """The protocol's name: the request's, else the pair's own."""
        return self.protocol or self.own_protocol(self.pair)

    @staticmethod
    def own_protocol(pair: str) -> str:
        """A pair's own protocol; the default for a pair that cannot be read, which is an error once it is used."""
        try:
            return read_pair(pair).protocol
        except UserError:
            return protocols.DEFAULT

    def protocol_settings(self) -> dict[str, Any]:
        """What the protocol says of this question's fields."""
        name = self.chosen_protocol
        if name == protocols.DEFAULT:
            values = protocols.settings(name, self.question, self.domain or "", None)
        else:
            pair = read_pair(self.pair)
            values = protocols.settings(name, self.question, self.domain or pair.domain, pair.depth)
        own = {spec.name for spec in fields(self)}
        return {field: value for field, value in values.items() if field in own}

    @property
    def defaults(self) -> dict[str, Any]:
        """Every field's value where a request names none: the protocol's, else the question's own. Returns them by name."""
        own, name = {spec.name: spec.default for spec in fields(self)}, self.chosen_protocol
        if name != protocols.DEFAULT:
            return own | self.protocol_settings()
        of_domain = protocols.of_domain(name, self.question, self.domain or "")
        return own | {field: value for field, value in of_domain.items() if field in own}

    @property
    def protocol_label(self) -> str:
        """The protocol under which the results stand, and in which of its settings they differ from it.

        Other layers are no other definition, nor is a part of several ranks or scales.
        """
        changed = [
            name
            for name, value in self.protocol_settings().items()
            if name != protocols.LAYERS and not part_of(getattr(self, name), value)
        ]
        return ", changed: ".join(filter(None, (self.chosen_protocol, ", ".join(changed))))

    def check(self) -> None:
        """Raises UserError for values that contradict each other. A question adds its own."""

    def all_layers(self) -> tuple[int, ...] | None:
        """The field's value for every layer."""
        return None

    def _check_streams(self) -> None:
        if not self.streams:
            raise UserError(f"No stream is named.\nTry:  --streams {self.stream_choices[-1]}")
        for stream in self.streams:
            if stream not in self.stream_choices:
                raise one_of("Stream", stream, (*self.stream_choices, ALL))

    def task(self, store: Store) -> Task:
        """The request as a task, with the results that a cache already has. store: the cache.

        Raises UserError for a request that cannot be answered.
        """
        raise NotImplementedError

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table for a reader: a line per condition with its mean and interval, where lines are per prompt.

        table: the whole table of this request.
        """
        return table

    @property
    def uses_train(self) -> bool:
        """Whether its values depend on the train split: fitted maps, controls drawn from it, heads chosen on it."""
        return False

    @property
    def chooses_on_train(self) -> bool:
        """Whether conditions are chosen by running them on the train split first."""
        return False

    def key_fields(self) -> dict[str, Any]:
        """The fields that belong to a stored chunk's key, where they are not the default. Returns their values by name."""
        values = {spec.name: getattr(self, spec.name) for spec in fields(self) if spec.metadata["key"]}
        return {name: value for name, value in values.items() if value != type(self).__dataclass_fields__[name].default}

    def converted(self, kind: type[Kind], **changes) -> Kind:
        """A request of another question on the same pair, prompts and settings.

        kind: its class; the fields that both have are copied. changes: its other fields, and those that differ.
        """
        shared = {spec.name: getattr(self, spec.name) for spec in fields(kind) if hasattr(self, spec.name)}
        return kind(**shared | changes)

    @cached_property
    def spec(self) -> Pair:
        """The pair's description, with the request's chat template and system prompt."""
        pair = read_pair(self.pair)
        return replace(pair, chat_template=self.chat_template or pair.chat_template, system=self.system)

    @cached_property
    def chosen_layers(self) -> tuple[int, ...]:
        """The layers that are asked about; every layer if none is named. Raises UserError for one that the pair does not have."""
        count = self.spec.layers
        for layer in self.layers or ():
            if not 0 <= layer < count:
                raise UserError(
                    f"Layer {layer} does not exist: {self.spec.name} has {count} layers, 0 to {count - 1}.\n"
                    f"Try:  --layers 0,{count // 2},{count - 1}"
                )
        return tuple(range(count)) if self.layers is None else tuple(dict.fromkeys(self.layers))

    @cached_property
    def chosen_domain(self) -> str:
        """The domain whose prompts are used: the named one, else the pair's own."""
        return canonical(self.domain or self.spec.domain)

    @cached_property
    def val_prompts(self) -> list[Prompt]:
        """The val split, or the named file, without a limit. Raises UserError if it cannot be read."""
        prompts = read_prompts(self.prompts) if self.prompts else read_domain(self.chosen_domain, "val")
        return self._comparable(prompts, "val")

    @cached_property
    def chosen_prompts(self) -> list[Prompt]:
        """The prompts that the question is asked on. Raises UserError if they cannot be read."""
        if self.split == "val":
            return self.val_prompts[: self.limit]
        by_template = {prompt.template: prompt for prompt in reversed(self.train_prompts)}
        return [prompt for prompt in self.train_prompts if by_template[prompt.template] is prompt][: self.limit]

    @cached_property
    def train_prompts(self) -> list[Prompt]:
        """The prompts that maps are fitted on, and heads chosen on. Raises UserError if they cannot be read."""
        if self.train in domains():
            return self._comparable(read_domain(self.train, "train"), "train")
        prompts = read_prompts(self.train) if self.train else read_domain(self.chosen_domain, "train")
        return self._comparable(prompts, "train")

    @property
    def templates(self) -> list[str]:
        """The template of each prompt."""
        return [prompt.template for prompt in self.chosen_prompts]

    def _comparable(self, prompts: list[Prompt], split: str) -> list[Prompt]:
        """The prompts of a split with enough tokens that both tokenizers have; the number left out is noted."""
        if self.suffix:
            prompts = [replace(prompt, text=prompt.text + self.suffix) for prompt in prompts]
        if not self.min_shared_ratio:
            return prompts
        comparable = with_shared_tokens(self.spec, prompts, self.min_shared_ratio, split)
        self.left_out[split] = len(prompts) - len(comparable), len(prompts)
        return comparable

    @cached_property
    def left_out(self) -> dict[str, tuple[int, int]]:
        """How many prompts of each split were left out, and how many it has, by the split's name; for the splits read so far."""
        return {}

    @property
    def notices(self) -> list[str]:
        """Which prompts the shared ratio left out, in a sentence for every split that was read."""
        return [
            f"{dropped} of {count} {split} prompts left out: in one of the two tokenizations, under "
            f"{100 * self.min_shared_ratio:g} % of their tokens are in both tokenizers."
            for split, (dropped, count) in self.left_out.items()
            if dropped or "min_shared_ratio" in self._given  # a protocol's filter that leaves none out needs no word
        ]


def part_of(value: object, whole: object) -> bool:
    """Whether a field's value is what a protocol says, or a part of the several values that it names."""
    if isinstance(value, tuple) and isinstance(whole, tuple):
        return set(value) <= set(whole)
    return value == whole or (value is None and whole == "auto")


def about(kind: type[Question]) -> str:
    """What a question does, in one line: the first paragraph of its docstring."""
    return " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())


def map_field(default: str, about: str = "what is done to the donor's state first") -> Any:
    return flag(default, about, choices=MAPS)


def alpha_rows_field() -> Any:
    return flag(
        "train",
        "the prompts whose median size ratio is alpha auto: the train split, out of fold, or, as in the original study, the val "
        "split, which the effects are then reported on",
        choices=SPLITS,
    )


def folds_field() -> Any:
    return flag(
        "templates",
        "what is left out together where alpha auto and --shrink auto are found: ten folds of templates, or, as in the original "
        "study and for domains of version 1, five of prompts",
        choices=FOLDS,
    )


def positions_field() -> Any:
    return flag(
        1,
        "positions per train prompt that maps are fitted on: 1 (the decision token) or 16",
        must="a number of positions, at least 1",
        example="1  or  --positions 16",
    )


def check_controls(question: str, controls: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    for control in controls:
        if control not in allowed:
            raise one_of(f"Control of {question}", control, allowed or ("(none)",))


def check_map_controls(name: str, controls: tuple[str, ...]) -> None:
    """Raises UserError for controls that stand in for a fit where the map is not fitted."""
    if name == "none" and (named := [control for control in controls if control in ("shuffled", "other-layer")]):
        raise UserError(f"The control {named[0]} replaces a fitted map, and the map is none.\nTry:  --map ridge")
    if COMPLETION in controls and name != STUDYS_MAP:
        raise UserError(f"The map {name} has nothing arbitrary to complete.\nTry:  --map {STUDYS_MAP}")
    if name in FIXED and "shuffled" in controls:
        raise UserError(f"The {name} map uses no pairing of rows, so shuffling them changes nothing.\nTry:  --map ridge_cv")


def refuse_foreign(kind: type[Question], names: Iterable[str]) -> None:
    """Raises UserError for a field that the question does not have, with those that it has."""
    known = [spec.name for spec in fields(kind)]
    if foreign := [name for name in names if name not in known]:
        flags = ", ".join(flag_name(name) for name in known)
        raise UserError(f"The question {kind.question} has no {flag_name(foreign[0])}.\nIts fields: {flags}")


def map_of(request: Question) -> str:
    """The request's map; none for a question without maps."""
    return getattr(request, "map", "none")


def folds_of(request: Question) -> str:
    """What the request's folds leave out together."""
    return getattr(request, "folds", FOLDS[0])


def shrink_of(request: Question) -> str:
    """The request's shrinkage of procrustes_scaled."""
    return getattr(request, "shrink", SHRINK)


def positions_of(request: Question) -> int:
    """Positions per train prompt that the request's maps are fitted on; 1 for a question without maps."""
    return getattr(request, "positions", 1)


def finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value


def prompt_at(run: Question, index: int) -> Prompt:
    """One of the run's prompts. Raises UserError for an index that does not exist."""
    count = len(run.chosen_prompts)
    if not 0 <= index < count:
        raise UserError(f"Prompt {index} does not exist: there are {count}, 0 to {count - 1}.")
    return run.chosen_prompts[index]
