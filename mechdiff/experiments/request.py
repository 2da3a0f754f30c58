"""One request: a frozen, typed Run. Its fields are the command line's flags, the app's link and the cache's key."""

from dataclasses import dataclass, field
from functools import cached_property

from mechdiff.errors import UserError, one_of
from mechdiff.pairs import Pair, read_pair
from mechdiff.prompts import Prompt, read_domain, read_prompts
from mechdiff.terms import CONTROLS, DEVICES, DIRECTIONS, DTYPES, MAPS, QUESTIONS, STREAMS


def flag(default, text: str, **details):
    return field(default=default, metadata={"help": text} | details)


@dataclass(frozen=True)
class Run:
    """What to compute. Raises UserError for a value that cannot be; the layers and heads are checked against the pair."""

    question: str
    pair: str = flag("demo-cognitive", "a shipped pair's name, or a pair file")
    domain: str | None = flag(None, "a domain of curated prompts; default: the pair's own")
    prompts: str | None = flag(None, "JSONL file to evaluate on, in place of the domain's val split")
    train: str | None = flag(None, "JSONL file to fit maps on, in place of the domain's train split")
    limit: int | None = flag(None, "use the first N prompts", convert=int)
    layers: tuple[int, ...] | None = flag(None, "layers from 0, as 0,4,8; default: all", convert="ints")
    streams: tuple[str, ...] = flag(("resid_post",), f"streams, or all: {','.join(STREAMS)}", convert="names")
    direction: str = flag("base-to-tuned", "whose state goes into whom", choices=DIRECTIONS)
    map: str = flag("none", "what is done to the donor's state first", choices=MAPS)
    head_sets: str = flag("each", 'each, all, or sets such as "0;3;0,5,7" (each is reported with all as its reference)')
    blend: float = flag(1.0, "the share of the donor in replaced heads, 0 to 1", convert=float)
    controls: tuple[str, ...] = flag((), f"controls, computed beside the rest: {','.join(CONTROLS)}", convert="names")
    target: str | None = flag(None, "a token whose log-probability is reported too, as ' yes'")
    foil: str | None = flag(None, "a token to compare the target with")
    seed: int = flag(0, "seed of everything random", convert=int)
    device: str = flag("auto", "where to compute", choices=DEVICES)
    dtype: str | None = flag(None, "number format; default: float32 on a CPU, bfloat16 on a GPU", choices=DTYPES)

    def __post_init__(self):
        for name, choices in (("question", QUESTIONS), ("direction", DIRECTIONS), ("map", MAPS), ("device", DEVICES)):
            if getattr(self, name) not in choices:
                raise one_of(name.capitalize(), getattr(self, name), choices)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise one_of("Dtype", self.dtype, DTYPES)
        if not self.streams:
            raise UserError("No stream is named.\nTry:  --streams resid_post")
        for stream in self.streams:
            if stream not in STREAMS:
                raise one_of("Stream", stream, (*STREAMS, "all"))
        for control in self.controls:
            if control not in CONTROLS:
                raise one_of("Control", control, CONTROLS)
        if not 0 <= self.blend <= 1:
            raise UserError(f"Blend {self.blend:g} is not between 0 (own state) and 1 (donor's state).\nTry:  --blend 1.0")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"Limit {self.limit} leaves no prompts.\nTry:  --limit 32")
        if self.foil is not None and self.target is None:
            raise UserError("A foil needs a target to be compared with.\nTry:  --target ' yes' --foil ' no'")

    @cached_property
    def spec(self) -> Pair:
        """The pair's description."""
        return read_pair(self.pair)

    @cached_property
    def chosen_layers(self) -> tuple[int, ...]:
        count = self.spec.layers
        for layer in self.layers or ():
            if not 0 <= layer < count:
                raise UserError(
                    f"Layer {layer} does not exist: {self.spec.name} has {count} layers, 0 to {count - 1}.\n"
                    f"Try:  --layers 0,{count // 2},{count - 1}"
                )
        return tuple(range(count)) if self.layers is None else tuple(dict.fromkeys(self.layers))

    @cached_property
    def chosen_sets(self) -> tuple[tuple[int, ...], ...]:
        """The head sets, each in rising order."""
        count = self.spec.heads
        if self.head_sets == "each":
            return tuple((head,) for head in range(count))
        if self.head_sets == "all":
            return (tuple(range(count)),)
        return tuple(dict.fromkeys(parse_heads(part, count, self.spec.name) for part in self.head_sets.split(";")))

    @cached_property
    def chosen_domain(self) -> str:
        return self.domain or self.spec.domain

    @cached_property
    def chosen_prompts(self) -> list[Prompt]:
        found = read_prompts(self.prompts) if self.prompts else read_domain(self.chosen_domain, "val")
        return found[: self.limit]

    @cached_property
    def train_prompts(self) -> list[Prompt]:
        return read_prompts(self.train) if self.train else read_domain(self.chosen_domain, "train")


def parse_heads(text: str, count: int, pair: str) -> tuple[int, ...]:
    """ "0,5,7" as (0, 5, 7). Raises UserError for an empty set or a head that does not exist."""
    try:
        heads = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(f"Head sets '{text}' cannot be read.\nTry:  --head-sets each, all, or \"0;3;0,5,7\"") from None
    for head in heads:
        if not 0 <= head < count:
            last = count - 1
            raise UserError(f"Head {head} does not exist: {pair} has {count} heads a layer, 0 to {last}.\nTry:  --head-sets each")
    return heads
