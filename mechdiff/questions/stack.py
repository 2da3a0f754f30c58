"""Several interventions in one pass, beside each of them alone."""

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.engine.intervention import Stack
from mechdiff.engine.intervention_text import label
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.request import Run


class StackTask(EffectsTask):
    """The run's stack, the controls asked for, and each intervention alone. The column `stack` says which."""

    def __init__(self, run: Run, store: Store):
        parts = run.chosen_stack
        whole = Stack(parts) if len(parts) > 1 else parts[0]
        self.kinds = {whole: "none"} | {whole.as_control(control): control for control in run.controls}
        super().__init__(run, [(stack,) for stack in (*self.kinds, *parts)], store)

    def labels(self) -> pd.DataFrame:
        whole = "; ".join(map(label, self.run.chosen_stack))
        names = [whole if c in self.kinds else label(c) for c in self.conditions]
        labels = pd.DataFrame({"stack": names, "control": [self.kinds.get(c, "none") for c in self.conditions]})
        return labels.assign(row=range(len(labels)))
