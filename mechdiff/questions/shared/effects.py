"""What patching, transport, rank, heads and transplants have in common: effects of conditions on prompts, as a task."""

from collections.abc import Iterator
from functools import cached_property

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.terms import DIFFERENCE, WHITENED, sides
from mechdiff.engine.intervention import Condition
from mechdiff.inputs import vocabularies
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.effect_plan import Arrays, EffectPlan, Group
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.lines import MEASURES, SITE, Wide, leading_columns, site_labels
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.task import Progress, Steps, Task


class EffectsTask(Task):
    """Effects of groups of conditions on prompts.

    groups: conditions that are stored together; each group has one layer and stream. texts: the prompts, by default the run's.
    """

    plan_type = EffectPlan

    def __init__(self, run: EffectQuestion, groups: list[Group], store: Store, texts: list[Prompt] | None = None):
        self.run, self.model_notices = run, []
        self.plan = self.plan_type(run, groups, store, run.chosen_prompts if texts is None else texts)
        if run.spec.tuned.weights != run.spec.base.weights:
            run.spec.check_same_shape()

    @cached_property
    def progress(self) -> Progress:
        """What is done, of how much, and what is being done."""
        return Progress(self.plan.cells(self.plan.chunks), self.plan.cells(self.plan.known))

    @property
    def conditions(self) -> list:
        """The interventions, each once."""
        return self.plan.conditions

    @property
    def notices(self) -> list[str]:
        """How the models run, which prompts were left out, and which vocabulary effects are over, where that is not all of it."""
        about = vocabularies.summary(self.values(), self.run.direction)
        return [*self.model_notices, *self.run.notices, *([self._vocabulary_notice(about)] if about else [])]

    def _vocabulary_notice(self, about: dict) -> str:
        message, recipient = vocabularies.message(about), sides(self.run.direction)[1]
        if self.run.vocabulary == "recipient":
            return f"Effects over all tokens of {recipient}. What compares the two models: {message[0].lower()}{message[1:]}"
        return message

    def steps(self) -> Iterator[None]:
        """Compute what is missing. Returns an iterator; progress may have moved after each of its steps."""
        if not self.plan.missing_blocks:
            return
        from mechdiff.questions.shared.effect_passes import Passes

        self.entering("loading the models")
        yield
        loaded = self.plan.identity.load()
        self.entering("checking against plain hooks")
        yield
        loaded.preflight.check(sides(self.run.direction)[1], self.plan.prompts_of([0]))
        self.model_notices = loaded.notices
        yield
        maps = yield from fit_maps(self.run, self.plan.identity, self.plan.store, self.conditions, self.progress)
        yield from Passes(self.plan, loaded, maps, self.progress).steps()

    def values(self) -> Arrays:
        """The measures of every condition on every prompt, [conditions, prompts]; nan where they are not known yet."""
        return self.plan.values()

    def labels(self) -> pd.DataFrame:
        """A row per line's condition, in the columns of SITE. row: its index among the conditions. kl_reference and the like: the
        index of a condition it is compared with, whose effect is a column of that name.
        """
        labels = pd.DataFrame([site_labels(condition, self.run) for condition in self.conditions], columns=list(SITE))
        return labels.assign(row=range(len(labels)))

    def wide(self) -> Wide:
        """The effects that are known, with their references."""
        labels, (values, vocabulary) = self.labels(), vocabularies.without_counts(self.values())
        names = (*MEASURES, *sorted(values.keys() - {*MEASURES}))
        effects = {name: values[name][labels["row"]] for name in names if name in values}
        references = [name for name in map(str, labels) if name.startswith("kl_")]
        effects |= {name: values["kl"][labels[name]] for name in references}
        hidden = ["row", *references, *(name for name in SITE if name not in (*self.run.columns, "control"))]
        labels = labels.drop(columns=hidden, errors="ignore").reset_index(drop=True)
        if vocabulary and self.run.vocabulary == "recipient":
            vocabulary = f"all tokens of {sides(self.run.direction)[1]}"
        labels = labels.assign(vocabulary=vocabulary) if vocabulary else labels
        conditions = pd.DataFrame(leading_columns(self.run) | {"split": self.run.split}, index=labels.index).join(labels)
        templates = tuple(prompt.template for prompt in self.plan.texts)
        return Wide(conditions, effects, self.run.ratio, tuple(self.run.own_metrics), templates)

    def table(self) -> pd.DataFrame:
        """A line per prompt and condition, for the effects that are known."""
        return self.wide().long()


def fit_maps(run: Question, identity: Identity, store: Store, conditions: list, progress: Progress) -> Steps[dict]:
    """Fit the maps that conditions need, on the train split. Returns them by site."""
    sites = {}
    for condition in (part for stack in conditions for part in stack.parts):
        if not condition.plain:
            add_need(sites, condition)
    if not sites:
        return {}
    from mechdiff.questions.shared.fitted_maps import FittedMaps

    progress.stage = "reading the train split"
    fitted = FittedMaps(run, identity, store, tuple(sorted({site[3] for site in sites})))
    maps = fitted.in_memory(sites)
    lacking = {site: needs for site, needs in sites.items() if site not in maps}
    if lacking:
        progress.total += fitted.waiting()
        for count in fitted.steps():
            progress.done += count
            yield
    progress.stage = "fitting maps on the train split"
    yield
    for site_maps in fitted.fit(lacking):
        maps |= site_maps
        yield
    return maps


def add_need(sites: dict, condition: Condition) -> None:
    """Note which fitted map a condition needs, and what of it."""
    from mechdiff.engine.build_rows import site_of
    from mechdiff.questions.shared.fitted_maps import Needs

    needs, scaled = sites.get(site_of(condition), Needs()), condition.alpha is None
    if condition.complement == WHITENED:
        ranks = {*needs.ranks, *([condition.rank] if scaled else [])}
        needs = needs._replace(whitened=True, ranks=tuple(sorted(ranks)))
    elif condition.complement == DIFFERENCE:
        needs = needs._replace(difference=True)
    elif condition.rank:
        needs = needs._replace(directions=True)
    sites[site_of(condition)] = needs._replace(alpha=needs.alpha or scaled)
