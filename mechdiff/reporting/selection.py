"""What a view of the app is of: the link's values, each as the pages use it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mechdiff.common.terms import COMPLEMENTS, DIFFERENCE, DIRECTIONS, OUR_MAP, STREAMS, WHITENED
from mechdiff.inputs import prompts, protocols
from mechdiff.inputs.pair_file import Pair, read_pair, shipped_pairs
from mechdiff.inputs.vocabularies import one_tokenizer
from mechdiff.questions import Question, Run

OWN = "own"  # the domain's value in the link that stands for the pair's own
STREAM_ORDER = ("resid_post", *(stream for stream in STREAMS if stream != "resid_post"))
DEFAULTS: dict[str, Any] = {  # every linked widget's key, and its value where nothing is chosen (the layer's: the pair's)
    "pair": shipped_pairs()[0],
    "domain": OWN,
    "protocol": OWN,
    "direction": DIRECTIONS[0],
    "prompts": 32,
    "shared": 0.0,
    "layer": None,
    "stream": STREAM_ORDER[0],
    "map": "none",
    "fit": OUR_MAP,
    "basis": DIFFERENCE,
    "alpha": "auto",
    "rank": "8",
    "complement": COMPLEMENTS[0],
    "heads": [0],
    "blend": 1.0,
    "prompt": 0,
    "own": "",
    "own_prompt": 0,
    "back": 0,
    "stack": "",
    "horizon": 1,
    "measure": "effect",
    "target": "",
    "foil": "",
    "imported": "none",
}


def defaults(protocol: str) -> dict[str, Any]:
    """DEFAULTS under a protocol, which has its own maps, cut and fairness filter."""
    own = {question: protocols.settings(protocol, question, "", None) for question in ("patch", "transport", "rank")}
    values = {"map": own["patch"].get("map"), "fit": own["transport"].get("map")}
    values |= {"basis": own["rank"].get("basis")}
    values |= {"complement": WHITENED if own["rank"].get("cut") == WHITENED else None}
    values |= {"shared": own["patch"].get("min_shared_ratio"), "alpha": next(iter(own["transport"].get("alpha", ())), None)}
    return DEFAULTS | {key: value for key, value in values.items() if value is not None}


VERSION, FORMAT = "v", "2"  # of links and talks: without it, what they leave out had the defaults of an earlier day
FORMER = {"fit": "procrustes_scaled", "basis": "map"}


def of_its_day(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a link or a talk's step without a format number, with what they left out as it was then.

    Then the domains were their first versions, maps the study's, and a rank that of a map. Raises UserError for an unknown pair.
    """
    pair = read_pair(str(values.get("pair", DEFAULTS["pair"])))
    named = values.get("domain", OWN)
    older = f"{pair.domain if named == OWN else named}@1"
    own = protocol_of(pair, str(values.get("protocol", OWN))) == protocols.DEFAULT
    return (FORMER if own else {}) | values | ({"domain": older} if older in prompts.domains() else {})


def protocol_of(pair: Pair, chosen: str) -> str:
    """The protocol's name. chosen: what the widget says; OWN is the pair's own."""
    return pair.protocol if chosen == OWN else chosen


ON_REQUEST = ("curve", "ranks", "transplants", "coverage", "behaviour", "overlap")  # what pages compute only when it is asked for


@dataclass(frozen=True)
class Selection:
    """One selection of the app's widgets.

    pair to device: what all requests of a view share, named as a question names it; min_shared_ratio None is the protocol's.
    layer: None is the pair's default. fit: the map of the pages about maps; map: that of the others. basis: whose directions
    the Rank page cuts. switches: the parts that are to be computed on request.
    """

    pair: str
    domain: str
    protocol: str = protocols.DEFAULT
    direction: str = DEFAULTS["direction"]
    limit: int | None = DEFAULTS["prompts"]
    min_shared_ratio: float | None = 0.0
    prompts: str | None = None
    train: str | None = None
    device: str = "auto"
    layer: int | None = None
    stream: str = DEFAULTS["stream"]
    map: str = DEFAULTS["map"]
    fit: str = DEFAULTS["fit"]
    alpha: str = DEFAULTS["alpha"]
    rank: str = DEFAULTS["rank"]
    basis: str = DEFAULTS["basis"]
    complement: str = DEFAULTS["complement"]
    heads: tuple[int, ...] = tuple(DEFAULTS["heads"])
    blend: float = DEFAULTS["blend"]
    prompt: int = DEFAULTS["prompt"]
    switches: frozenset[str] = frozenset()

    @classmethod
    def from_link(cls, values: dict[str, Any]) -> "Selection":
        """The selection of a link's values, or of a talk's step. What they do not name has its default."""
        pair = read_pair(values.get("pair", DEFAULTS["pair"]))
        protocol = protocol_of(pair, values.get("protocol", OWN))
        chosen = defaults(protocol) | values
        names = ("direction", "layer", "stream", "map", "fit", "alpha", "rank", "basis", "complement", "blend", "prompt")
        return cls(
            pair.name,
            pair.domain if chosen["domain"] == OWN else chosen["domain"],
            protocol,
            limit=chosen["prompts"],
            min_shared_ratio=chosen["shared"] if tokenizers_differ(pair) else None,
            heads=tuple(chosen["heads"]),
            switches=frozenset(name for name in ON_REQUEST if chosen.get(name)),
            **{name: chosen[name] for name in names},
        )

    def run(self, question: str, **details: Any) -> Question:
        """A question on the selection's pair and prompts."""
        names = ("pair", "domain", "direction", "limit", "prompts", "train", "device")
        own = {
            "min_shared_ratio": self.min_shared_ratio,
            "protocol": self.protocol if self.protocol != self.spec.protocol else None,
        }
        own = {name: value for name, value in own.items() if value is not None}
        return Run(question, **{name: getattr(self, name) for name in names} | own | details)

    @cached_property
    def spec(self) -> Pair:
        """The pair's description."""
        return read_pair(self.pair)

    @property
    def chosen_layer(self) -> int:
        """A layer that the pair has."""
        last = self.spec.layers - 1
        if self.layer is None:
            return default_layer(self.spec.layers, self.protocol, self.domain)
        return min(max(self.layer, 0), last)

    @property
    def chosen_heads(self) -> list[int]:
        """The chosen heads, as far as the pair has them."""
        return sorted(head for head in self.heads if 0 <= head < self.spec.heads)


def default_layer(count: int, protocol: str = protocols.DEFAULT, domain: str = "") -> int:
    """The layer that is chosen at first, of so many: the last that the protocol asks about heads, where it asks about few."""
    layers = protocols.settings(protocol, "heads", domain, count).get(protocols.LAYERS)
    return layers[-1] if layers else 2 * (count - 1) // 3


def tokenizers_differ(pair: Pair) -> bool:
    """Whether a pair's prompts can be filtered by their shared tokens: its weights are here, and have two tokenizers."""
    return pair.missing() is None and not one_tokenizer(pair)
