"""One request: a frozen, typed Run. Its fields are the command line's flags, the app's link and the cache's key."""

from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import (
    CHOICES,
    COMPLEMENTS,
    CONTROLS,
    DEVICES,
    DIRECTIONS,
    DTYPES,
    MAP_CONTROLS,
    MAPS,
    MODULE_STREAMS,
    OFFLOADS,
    QUESTIONS,
    STREAMS,
)
from mechdiff.engine.intervention import Condition
from mechdiff.engine.intervention_text import parse_stack
from mechdiff.inputs.pair_file import Pair, read_pair
from mechdiff.inputs.prompts import Prompt, read_domain, read_prompts
from mechdiff.inputs.vocabularies import with_shared_tokens

FULL = "full"
AUTO = "auto"
DEFAULT_MAP = dict.fromkeys(("transport", "rank", "weights"), "procrustes_scaled")
DEFAULT_STREAMS = {"transplant": ("attn_out", "mlp_out")}
NOT_FOR = {
    "drift": CONTROLS,
    "weights": CONTROLS,
    "stack": MAP_CONTROLS,
    "transplant": ("mean", *MAP_CONTROLS),
    "heads": ("shuffled", "other-layer"),
}


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
    layers: tuple[int, ...] | None = flag(
        None, "layers from 0, as 0,4,8, or all; default: all, but none for behaviour", convert="ints"
    )
    streams: tuple[str, ...] | None = flag(
        None, f"streams, or all: {','.join(STREAMS)}; default: resid_post, and attn_out,mlp_out for transplant", convert="names"
    )
    direction: str = flag("base-to-tuned", "whose state goes into whom", choices=DIRECTIONS)
    map: str | None = flag(
        None,
        f"what is done to the donor's state first: {', '.join(MAPS)}; default: none, but procrustes_scaled for transport, rank",
    )
    ranks: tuple[str, ...] = flag(
        ("0", "1", "2", "4", "8", "16", "32", "64", FULL), "ranks that a map is cut to, numbers or full", convert="names"
    )
    complement: tuple[str, ...] = flag(COMPLEMENTS, "what fills the rest of the space after a cut", convert="names")
    alpha: tuple[str, ...] = flag((AUTO,), "scales of the mapped state: auto (out of fold on train) or numbers", convert="names")
    positions: int = flag(1, "positions a train prompt that maps are fitted on: 1 (the decision token) or 16", convert=int)
    head_sets: str = flag(
        "each",
        'each, all, sets such as "0;3;0,5,7", or for every size: topk, greedy (chosen on train), random; all is the reference',
    )
    blend: float = flag(1.0, "the share of the donor in replaced heads, 0 to 1", convert=float)
    controls: tuple[str, ...] = flag((), f"controls, computed beside the rest: {','.join(CONTROLS)}", convert="names")
    target: str | None = flag(None, "a token whose log-probability is reported too, as ' yes'")
    foil: str | None = flag(None, "a token to compare the target with")
    back: int = flag(0, "tokens before the decision token at which states are replaced", convert=int)
    horizon: int = flag(1, "next tokens, of the donor's own greedy answer, that the effect is the mean over", convert=int)
    new_tokens: int = flag(32, "behaviour: tokens that a model writes after a prompt, at most", convert=int)
    stack: str | None = flag(
        None,
        "stack: a TOML file of interventions made in one pass, or text as 'layer=26 stream=mlp_out; layer=28 heads=2,5'",
        convert="stack",
    )
    min_shared_ratio: float = flag(
        0.0,
        "keep only prompts, of val and of train, of whose tokens both tokenizers have at least this share, 0 to 1",
        convert=float,
    )
    seed: int = flag(0, "seed of everything random", convert=int)
    device: str = flag("auto", "where to compute", choices=DEVICES)
    offload: str = flag(
        "auto", "one model on the GPU at a time: on, off, or auto, if the two do not fit together", choices=OFFLOADS, bare="on"
    )
    dtype: str | None = flag(None, "number format; default: float32 on a CPU, bfloat16 on a GPU", choices=DTYPES)

    def __post_init__(self):
        if self.question not in QUESTIONS:
            raise one_of("Question", self.question, QUESTIONS)
        object.__setattr__(self, "map", self.map or DEFAULT_MAP.get(self.question, "none"))
        if self.streams is None:
            object.__setattr__(self, "streams", DEFAULT_STREAMS.get(self.question, ("resid_post",)))
        for name, choices in (("direction", DIRECTIONS), ("map", MAPS), ("device", DEVICES), ("offload", OFFLOADS)):
            if getattr(self, name) not in choices:
                raise one_of(name.capitalize(), getattr(self, name), choices)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise one_of("Dtype", self.dtype, DTYPES)
        self._check_streams()
        self._check_controls()
        self._check_numbers()
        self._check_place()
        if self.foil is not None and self.target is None:
            raise UserError("A foil needs a target to be compared with.\nTry:  --target ' yes' --foil ' no'")

    def _check_streams(self):
        if not self.streams:
            raise UserError("No stream is named.\nTry:  --streams resid_post")
        allowed = MODULE_STREAMS if self.question == "transplant" else (*STREAMS, "all")
        for stream in self.streams:
            if stream not in allowed:
                raise one_of("Stream", stream, allowed)

    def _check_controls(self):
        barred = NOT_FOR.get(self.question, ())
        allowed = tuple(c for c in CONTROLS if c not in barred)
        for control in self.controls:
            if control not in allowed:
                raise one_of(f"Control of {self.question}", control, allowed or ("(none)",))
        unfitted = self.map == "none" and self.question != "heads"
        if unfitted and (named := [c for c in self.controls if c in ("shuffled", "other-layer")]):
            raise UserError(f"The control {named[0]} stands in for a fitted map, and the map is none.\nTry:  --map ridge")
        if self.question == "behaviour" and self.controls and self.layers is None:
            raise UserError("A control stands beside patches, and no layer is named.\nTry:  --layers 8,16,24 --controls self")
        if self.map == "zscore" and "shuffled" in self.controls:
            raise UserError("The zscore map uses no pairing of rows, so shuffling them changes nothing.\nTry:  --map ridge")

    def _check_place(self):
        if self.back < 0:
            raise UserError(f"Back {self.back} would lie after the decision token.\nTry:  --back 3")
        if self.horizon < 1:
            raise UserError(f"Horizon {self.horizon} leaves no token to read.\nTry:  --horizon 8")
        if self.question == "drift" and (self.back or self.horizon > 1):
            raise UserError("Drift compares states at the decision token.\nTry:  run patch --back 3")
        if self.question == "behaviour" and (self.back or self.horizon > 1 or self.target is not None):
            raise UserError(
                "Behaviour is read from the decision token on: it has no --back, --horizon or --target.\n"
                "Try:  run behaviour --new-tokens 32, or run patch --back 3"
            )
        if self.target is not None and self.horizon > 1:
            raise UserError("A target is one next token, so it goes with a horizon of 1.\nTry:  --horizon 1")
        if (self.stack is not None) != (self.question == "stack"):
            raise UserError("The question stack and the flag --stack go together.\nTry:  run stack --stack FILE.toml")

    def _check_numbers(self):
        if not 0 <= self.blend <= 1:
            raise UserError(f"Blend {self.blend:g} is not between 0 (own state) and 1 (donor's state).\nTry:  --blend 1.0")
        if not 0 <= self.min_shared_ratio <= 1:
            raise UserError(
                f"A shared ratio of {self.min_shared_ratio:g} is not between 0 (every prompt) and 1 (all tokens shared).\n"
                "Try:  --min-shared-ratio 0.9"
            )
        if self.limit is not None and self.limit < 1:
            raise UserError(f"Limit {self.limit} leaves no prompts.\nTry:  --limit 32")
        if self.new_tokens < 1:
            raise UserError(f"{self.new_tokens} new tokens leave nothing to read.\nTry:  --new-tokens 32")
        if self.positions < 1:
            raise UserError(f"Positions {self.positions} leaves nothing to fit on.\nTry:  --positions 1  or  --positions 16")
        for name in self.complement:
            if name not in COMPLEMENTS:
                raise one_of("Complement", name, COMPLEMENTS)
        if not (self.ranks and self.complement and self.alpha):
            raise UserError(
                "A rank, a complement or an alpha is missing.\nTry:  --ranks 1,8,full --complement mean,own --alpha auto"
            )
        _ = self.chosen_ranks, self.chosen_alphas

    @cached_property
    def chosen_ranks(self) -> tuple[int | None, ...]:
        """Ranks; None for the uncut map."""
        for text in self.ranks:
            if text != FULL and not text.isdigit():
                raise UserError(f"Rank '{text}' is neither a number from 0 nor full.\nTry:  --ranks 0,1,8,32,full")
        return tuple(dict.fromkeys(None if text == FULL else int(text) for text in self.ranks))

    @cached_property
    def chosen_alphas(self) -> tuple[float | None, ...]:
        """Scales of the mapped state; None for the one found out of fold."""
        try:
            return tuple(dict.fromkeys(None if text == AUTO else finite(text) for text in self.alpha))
        except ValueError:
            wrong = ",".join(self.alpha)
            raise UserError(f"Alpha '{wrong}' is neither auto nor numbers.\nTry:  --alpha auto,0.8,1.0") from None

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
        if self.head_sets in CHOICES:
            return ()
        if self.head_sets == "each":
            return tuple((head,) for head in range(count))
        if self.head_sets == "all":
            return (tuple(range(count)),)
        return tuple(dict.fromkeys(parse_heads(part, count, self.spec.name) for part in self.head_sets.split(";")))

    @cached_property
    def chosen_stack(self) -> tuple[Condition, ...]:
        """The stack's interventions, in the order a pass meets them."""
        return parse_stack(self.stack, self.spec.layers, self.spec.heads)

    @cached_property
    def chosen_domain(self) -> str:
        return self.domain or self.spec.domain

    @cached_property
    def chosen_prompts(self) -> list[Prompt]:
        found = read_prompts(self.prompts) if self.prompts else read_domain(self.chosen_domain, "val")
        return self._comparable(found, "val")[: self.limit]

    @cached_property
    def train_prompts(self) -> list[Prompt]:
        found = read_prompts(self.train) if self.train else read_domain(self.chosen_domain, "train")
        return self._comparable(found, "train")

    def _comparable(self, found: list[Prompt], split: str) -> list[Prompt]:
        """Of a split's prompts those that both tokenizers can say well enough; which were left out is noted."""
        if not self.min_shared_ratio:
            return found
        kept = with_shared_tokens(self.spec, found, self.min_shared_ratio, split)
        self.left_out[split] = len(found) - len(kept), len(found)
        return kept

    @cached_property
    def left_out(self) -> dict[str, tuple[int, int]]:
        """Split -> how many of its prompts were left out, of how many; of the splits read so far."""
        return {}

    @property
    def notices(self) -> list[str]:
        """Which prompts the shared ratio left out, in a sentence for every split that was read."""
        return [
            f"{dropped} of {count} {split} prompts left out: under {100 * self.min_shared_ratio:g} % of their tokens are in both "
            "tokenizers."
            for split, (dropped, count) in self.left_out.items()
        ]


def finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value


def parse_heads(text: str, count: int, pair: str) -> tuple[int, ...]:
    """ "0,5,7" as (0, 5, 7). Raises UserError for an empty set or a head that does not exist."""
    try:
        heads = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(
            f"Head sets '{text}' cannot be read.\nTry:  --head-sets each, all, topk, greedy, random, or \"0;3;0,5,7\""
        ) from None
    for head in heads:
        if not 0 <= head < count:
            last = count - 1
            raise UserError(f"Head {head} does not exist: {pair} has {count} heads a layer, 0 to {last}.\nTry:  --head-sets each")
    return heads
