"""What the numbers of a request were computed from: enough to trust them, and to compute them again."""

from mechdiff.common.versions import versions
from mechdiff.inputs.prompts import digest
from mechdiff.questions import Question
from mechdiff.questions.shared.identity import Identity


def provenance(request: Question) -> dict:
    """Models with their fingerprints, precision and device, prompts with their hash, the seed, and the libraries' versions."""
    identity, spec = Identity(request), request.spec
    return {
        "pair": spec.name,
        "domain": request.chosen_domain,
        "base": {"source": spec.base.describe(), "fingerprint": spec.base.fingerprint()},
        "tuned": {"source": spec.tuned.describe(), "fingerprint": spec.tuned.fingerprint()},
        **identity.numerics,
        "device_name": device_name(identity.device),
        **(of_prompts(request) if request.reads_prompts else {}),
        "seed": request.seed,
        "versions": versions(),
    }


def of_prompts(request: Question) -> dict:
    about = {"prompts": len(request.chosen_prompts), "prompts_hash": digest(request.chosen_prompts)}
    return about | {"templates": [prompt.template for prompt in request.chosen_prompts]}


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
