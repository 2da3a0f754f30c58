"""RQ4, heads: which attention heads carry the change? Chosen heads at one layer, against all heads of that layer."""

from dataclasses import replace

from mechdiff.conditions import Condition
from mechdiff.experiments.effects import EffectsTask
from mechdiff.experiments.request import Run
from mechdiff.store import Store


def heads_task(run: Run, store: Store) -> EffectsTask:
    """Every chosen set at every chosen layer, the full set as their reference, and the controls asked for."""
    full, groups = tuple(range(run.spec.heads)), []
    singles = [heads for heads in run.chosen_sets if len(heads) == 1]
    others = [heads for heads in run.chosen_sets if 1 < len(heads) < len(full)]
    for layer in run.chosen_layers:

        def condition(heads, layer=layer):
            return Condition(layer, "heads", heads=heads, blend=run.blend)

        every = condition(full)
        groups.append((every,))
        groups += [(every.as_control(control),) for control in run.controls]
        if len(singles) == len(full):
            groups.append(tuple(condition(heads) for heads in singles))
        else:
            groups += [(condition(heads),) for heads in singles]
        groups += [(condition(heads),) for heads in others]
    return HeadsTask(run, groups, store)


class HeadsTask(EffectsTask):
    """Effects of head sets, with the effect of replacing all heads beside each as kl_reference."""

    def _chunk(self, block, group):
        """A single head's chunk, or its part of the chunk that holds every single head of its layer."""
        chunk = super()._chunk(block, group)
        if chunk.found is None and len(group) == 1 and len(group[0].heads) == 1:
            (head,) = group[0].heads
            every = super()._chunk(block, tuple(replace(group[0], heads=(h,)) for h in range(self.run.spec.heads)))
            chunk.found = every.found and {name: values[head : head + 1] for name, values in every.found.items()}
        return chunk

    def table(self):
        table = super().table()
        wanted = {"all"} | {"-".join(map(str, heads)) for heads in self.run.chosen_sets}
        table = table[table["heads"].isin(wanted)].reset_index(drop=True)
        reference = table[(table["heads"] == "all") & (table["control"] == "none")]
        reference = reference.set_index(["layer", "prompt"])["kl"].rename("kl_reference")
        return table.join(reference, on=["layer", "prompt"])
