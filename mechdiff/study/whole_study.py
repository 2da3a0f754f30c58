"""A whole study of a pair, from nothing to its numbers: what it needs, and what of that is still to be done.

Its steps are those of STEPS, in this order; a step that is done is skipped: models are in the hub's cache, prompts in the
domain's folder, a sweep's cells in the cache and its tables under their manifests. So the same study, begun again after it was
stopped or killed, continues where it was.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.terms import DIRECTIONS, SIDES
from mechdiff.inputs import data_sets, domain_files, prompts
from mechdiff.inputs.curation import Spec
from mechdiff.inputs.pair_file import Pair, Source, read_pair
from mechdiff.models import downloads
from mechdiff.models.downloads import Repository
from mechdiff.models.registry import resolve_device, resolve_dtype
from mechdiff.study import already_stored, artifacts, cost_estimate, sweep_process, sweeps
from mechdiff.study.cost_estimate import BYTES, QUANTIZED, Card
from mechdiff.study.stored_sweep import StoredSweep
from mechdiff.study.sweep_process import SweepRequest

STEPS = ("check", "download", "curate", "sweep", "compare", "report")
MANY = 2e9  # parameters from which a sweep without a GPU is worth a warning


@dataclass
class Plan:
    """What a study needs, known before anything large is fetched or computed.

    request: of its sweep. recipe: what its domain is curated from; None if the domain is here. repositories, packages: models to
    be fetched from the hub, and with pip. card: the pair's, once its models are here. stored: when the sweep was stored, if it
    is. cells: of the sweep, all and those that are not in the cache; None if unknown. seconds: how long these take; None if
    unknown; basis: of the estimate. memory, free: bytes of both models' weights, and of the device. faults: what prevents the
    study. notes: what else to know.
    """

    pair: Pair
    request: SweepRequest
    settings: dict[str, Any]
    device: str
    dtype: str
    recipe: Spec | None = None
    repositories: list[Repository] = field(default_factory=list)
    packages: list[Source] = field(default_factory=list)
    card: Card | None = None
    stored: str | None = None
    cells: tuple[int, int] | None = None
    seconds: float | None = None
    basis: str = ""
    memory: int = 0
    free: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def domain(self) -> str:
        return self.request.domain or ""

    @property
    def done(self) -> bool:
        """Whether nothing is left to fetch or to compute."""
        return not (self.repositories or self.packages or self.recipe or self.faults) and self.stored is not None

    @property
    def sweep(self) -> StoredSweep:
        """The stored sweep, where the study puts it."""
        roots = (Path(self.request.out),) if self.request.out else ()
        name = artifacts.stored_name(self.pair.name, self.request.protocol or self.pair.protocol)
        return StoredSweep(name, self.domain, DIRECTIONS[0], roots)


def plan(request: SweepRequest, settings: dict[str, Any]) -> Plan:
    """What a study needs. Asks the hub about models that are not here.

    request: of its sweep; without a domain it takes the pair's. settings: of the same sweep, as
    `sweeps.sweep` takes them. Raises UserError for a request that cannot be meant; what else prevents the study is in `faults`.
    """
    pair = read_pair(request.pair)
    domain, recipe = chosen_domain(pair, request.domain)
    request = replace(request, domain=domain)
    sweep_process.check_place(request)
    device = resolve_device(request.device)
    study = Plan(pair, request, settings, device, resolve_dtype(request.dtype, pair, device), recipe)
    study.free = cost_estimate.free_bytes(device)
    if recipe:
        attempt(study, data_sets.check_installed)
    look_for_models(study)
    if not (study.repositories or study.packages or study.faults):
        look_at_models(study)
    count_cells(study)
    return study


def chosen_domain(pair: Pair, name: str | None) -> tuple[str, Spec | None]:
    """A study's domain, and the recipe that makes it if it is not on this machine."""
    name = name or pair.domain
    if name in prompts.domains():
        return name, None
    if name in domain_files.recipes():
        return name, domain_files.read_recipe(name)
    raise one_of("Domain", name or "(none)", dict.fromkeys([*prompts.domains(), *domain_files.recipes()]))


def attempt(study: Plan, read: Callable[[], Any]) -> Any:
    """The result of read(); where that raises UserError, None, and a fault."""
    try:
        return read()
    except UserError as error:
        study.faults.append(str(error))
        return None


def look_for_models(study: Plan) -> None:
    """What is to be fetched, and the memory that it needs."""
    pair = study.pair
    sources = list(dict.fromkeys(getattr(pair, side).weights for side in SIDES))
    study.packages = [source for source in sources if source.convertible]
    sizes = [attempt(study, lambda wanted=wanted: downloads.look_up(wanted)) for wanted in downloads.absent(pair)]
    study.repositories = [repository for repository in sizes if repository is not None]
    attempt(study, lambda: downloads.check_space(study.repositories))
    each = QUANTIZED[pair.quantization] if pair.quantization else BYTES[study.dtype]
    for repository in study.repositories:
        study.memory += int(repository.parameters * each) if repository.parameters else repository.size
        if study.device == "cpu" and (repository.parameters or 0) > MANY:
            study.notes.append(f"Without a GPU, a sweep of {repository.name} may take days: first try --grid quick.")
    fetched = {repository.name for repository in study.repositories}
    for source in sources:
        if source.hub not in fetched and source not in study.packages and not study.faults:
            study.memory += attempt(study, lambda source=source: cost_estimate.weight_bytes(source, pair, study.dtype)) or 0
    if study.memory > study.free:
        study.notes.append("The models may not fit: a smaller --dtype, --offload, quantization or a device_map needs less.")


def look_at_models(study: Plan) -> None:
    """The card of a pair that is here, and whether the sweep is stored."""
    if missing := study.pair.missing():
        study.faults.append(missing)
        return
    request = study.request
    if study.recipe is None:
        study.card = cost_estimate.preflight_card(study.pair, study.domain, request.device, request.dtype, timed=False)
        study.faults += study.card.faults
    attempt(study, study.pair.check_same_shape)
    if study.recipe is None and not study.faults:
        out = Path(request.out) if request.out else None
        study.stored = already_stored.stored_at(request.pair, study.domain, request.grid, out, **study.settings)


def count_cells(study: Plan) -> None:
    """The sweep's cells, as far as they are known, and their time."""
    request = study.request
    if study.recipe or study.faults or study.stored:
        return
    try:
        parts = sweeps.extent(request.pair, request.domain, request.grid, **study.settings)
    except UserError:  # it needs files that are still to be fetched
        return
    total, done = map(sum, zip(*parts.values()))
    study.cells = total, total - done
    if study.card is not None:
        estimate_time(study)


def estimate_time(study: Plan) -> None:
    """How long the sweep takes, from what was computed before."""
    if study.cells is not None:
        study.seconds, study.basis = cost_estimate.duration(study.request, study.pair, study.cells[1])


def curate(study: Plan) -> list[str]:
    """Make the domain from its recipe. Returns what to tell, a line each."""
    assert study.recipe, "there is a recipe to follow"
    folder = domain_files.own_folder(study.domain)
    lines = domain_files.write_domain(study.recipe, folder, force=True)  # what is there was interrupted: it is no domain yet
    return [*lines, domain_files.try_positions(folder, study.pair.argument, study.recipe.seed)]
