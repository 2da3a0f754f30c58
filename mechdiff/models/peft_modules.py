"""Models in memory with peft's modules in them: what they are below those, and where that is no longer in memory."""

from typing import Any

from torch import nn

from mechdiff.common.errors import UserError

FRESH = "md.load(base, adapted, ...), with the base loaded a second time"


def adapted(module: nn.Module) -> bool:
    """Whether it is one of peft's, around a module of the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper)


def below(module: Any) -> Any:
    """The model's own module, as it was before peft's was put around it."""
    while adapted(module):
        module = module.original_module if hasattr(module, "original_module") else module.get_base_layer()
    return module


def model_of(model: Any) -> Any:
    """The transformers model of a peft model, with the adapters in it; any other as it is."""
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


def without_adapters(tree: nn.Module) -> nn.Module:
    """A module tree with the model's own modules in place of peft's. peft's unload would keep those that it saves whole.

    Raises UserError if the adapters have changed weights of the model itself.
    """
    if any(getattr(module, "merged", False) for module in tree.modules()):
        raise merged_error()
    if any(getattr(config, "bias", "none") != "none" for config in configs(tree)):
        raise UserError(f"The adapter trains biases of its base, which is therefore not in memory.\nTry:  {FRESH}")
    model, done = model_of(tree), []
    for name, module in list(model.named_modules()):
        if adapted(module) and not name.startswith(tuple(done)):
            model.set_submodule(name, below(module))
            done.append(f"{name}.")
    return model


def with_adapters(tree: nn.Module) -> nn.Module:
    """A module tree as it is used. Raises UserError for adapters that cannot be read, or that running it would change."""
    if any(getattr(config, "is_prompt_learning", False) for config in configs(tree)):
        raise UserError(
            "The adapter adds virtual tokens and changes no weight, so there are no two models to compare.\n"
            "Try:  a LoRA, or another adapter on the model's own modules"
        )
    if any(getattr(module, "merged", False) and module.disable_adapters for module in tree.modules()):
        raise merged_error()  # peft would take it out of the weights in place
    return model_of(tree)


def configs(tree: Any) -> list[Any]:
    found = getattr(tree, "peft_config", {})
    return list(found.values()) if isinstance(found, dict) else []


def merged_error() -> UserError:
    return UserError("The adapter is merged into its base, which is therefore not in memory.\nTry:  model.unmerge_adapter()")
