"""What a stored value depends on, apart from the request: the pair's content, the precision, the device, the kernel."""

from functools import cached_property

from mechdiff.common.terms import VOCABULARIES
from mechdiff.inputs import prompts
from mechdiff.inputs.vocabularies import one_tokenizer
from mechdiff.models import registry
from mechdiff.questions.shared.request import SHRINK, Question, folds_of, positions_of, shrink_of


class Identity:
    """The parts of a cache key that a run's pair and settings give. Needs no model, and no tokenizer."""

    def __init__(self, run: Question):
        self.run = run
        self.device = registry.resolve_device(run.device)
        self.dtype = registry.resolve_dtype(run.dtype, run.spec, self.device)

    def load(self) -> registry.LoadedPair:
        """The run's pair in memory."""
        return registry.load_pair(self.run.spec, self.device, self.dtype, self.run.offload)

    @cached_property
    def numerics(self) -> dict:
        spec = self.run.spec
        parts = {"dtype": self.dtype, "device": self.device, "kernel": spec.kernel, "template": spec.rendering}
        changed = {"quantization": spec.quantization, "device_map": spec.device_map}
        return parts | {name: value for name, value in changed.items() if value is not None}

    @cached_property
    def pair(self) -> dict:
        run, least = self.run, self.run.min_shared_ratio
        parts = {"base": run.spec.base.fingerprint(), "tuned": run.spec.tuned.fingerprint()} | self.numerics
        return parts | ({"min_shared_ratio": least} if least and not one_tokenizer(run.spec) else {})

    @cached_property
    def train(self) -> dict:
        """What fitted maps and random draws depend on, besides the pair."""
        run = self.run
        positions = positions_of(run)
        parts = {"train": prompts.digest(run.train_prompts), "positions": positions, "seed": run.seed}
        parts |= {"templates": prompts.digest_of_templates(run.train_prompts)} if folds_of(run) == "templates" else {}
        parts |= {"shrink": shrink_of(run)} if shrink_of(run) != SHRINK else {}
        return parts | ({"curated": sorted(prompts.read_positions(run.chosen_domain).items())} if positions > 1 else {})

    @cached_property
    def vocabulary(self) -> dict:
        """What divergences depend on where two tokenizers may differ: the tokens that they are computed over."""
        if one_tokenizer(self.run.spec):
            return {}
        own = getattr(self.run, "vocabulary", VOCABULARIES[0]) == "recipient"
        return {"vocabulary": "the recipient's" if own else "shared strings"}

    @cached_property
    def scale(self) -> dict:
        """What an out-of-fold scale depends on beside the train split: nothing, or the prompts that it is taken from."""
        if getattr(self.run, "alpha_rows", "train") == "train":
            return {}
        return {"alpha_rows": prompts.digest(self.run.val_prompts)}

    def states(self, side: str, block: list[prompts.Prompt], stream: str) -> dict:
        """Which states: of one side, on these prompts. The text a model sees depends on both sides' templates."""
        return {"what": "states", "side": side, "stream": stream, "texts": prompts.digest(block)} | self.pair
