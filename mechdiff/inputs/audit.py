"""Where a data set's rows went on the way to a domain: every row is counted at exactly one step."""

from collections import Counter
from dataclasses import dataclass, field

NO_TEXT, BY_FIELD, BY_TEXT = "no text", "filtered by field", "filtered by text"
BAD_LABEL, TOO_SHORT = "bad answer or choices", "too few tokens"
DUPLICATES, NEAR_DUPLICATES, NOT_NEEDED = "duplicates", "near-duplicates", "not needed"
TRAIN, VAL = "train", "val"
REASONS = {
    DUPLICATES: "the same text as another row's, apart from case, width and white space",
    NEAR_DUPLICATES: "nearly the same text as one of another template",
    NOT_NEEDED: "enough rows came before them in the order that the seed gives",
}
STEPS = (NO_TEXT, BY_FIELD, BY_TEXT, BAD_LABEL, TOO_SHORT, DUPLICATES, NEAR_DUPLICATES, NOT_NEEDED, TRAIN, VAL)


class LeftOut(Exception):
    """A row that cannot be a prompt. step: one of STEPS. reason: why, as for all such rows. example: what this one has."""

    def __init__(self, step: str, reason: str, example: str = "") -> None:
        super().__init__(f"{step}: {reason}")
        self.step, self.reason, self.example = step, reason, example


@dataclass
class Audit:
    """How many rows were read, and how many of them ended at each step, by reason. examples: of a reason, the first row's."""

    rows: int = 0
    steps: dict[str, Counter[str]] = field(default_factory=lambda: {step: Counter() for step in STEPS})
    examples: dict[str, str] = field(default_factory=dict)

    def leave_out(self, row: LeftOut) -> None:
        self.steps[row.step][row.reason] += 1
        if row.example:
            self.examples.setdefault(row.reason, row.example)

    def end(self, step: str, rows: int) -> None:
        """Count rows that ended at a step for the step's own reason."""
        self.steps[step][REASONS.get(step, "")] += rows

    @property
    def left_out(self) -> str:
        """The rows that ended before train and val, as "12 filtered by field, 3 duplicates"; empty if none did."""
        ended = {step: self.steps[step].total() for step in STEPS if step not in (TRAIN, VAL)}
        return ", ".join(f"{rows:,} {step}" for step, rows in ended.items() if rows)

    @property
    def bad_labels(self) -> list[str]:
        """A sentence for each reason why answers or choices could not be used: in how many rows, and an example."""
        examples = {reason: f", as in {example}" for reason, example in self.examples.items()}
        return [
            f"In {rows:,} {'row' if rows == 1 else 'rows'} {reason}{examples.get(reason, '')}."
            for reason, rows in self.steps[BAD_LABEL].items()
        ]

    def as_json(self) -> list[dict]:
        """The steps in order, each with its rows and reasons. The rows of all later steps add up to those of the first."""
        steps = [{"step": "rows read", "rows": self.rows}]
        for step, reasons in self.steps.items():
            named = {reason: rows for reason, rows in sorted(reasons.items()) if reason and rows}
            steps.append({"step": step, "rows": reasons.total()} | ({"reasons": named} if named else {}))
        return steps

    def as_lines(self) -> list[str]:
        """The same as a table: rows, step, and its reasons, with their rows if there are several."""
        lines = []
        for step in self.as_json():
            reasons = step.get("reasons", {})
            several = len(reasons) > 1
            why = "; ".join(f"{reason} ({rows:,})" if several else reason for reason, rows in reasons.items())
            lines.append(f"{step['rows']:>9,}  {step['step']}{f': {why}' if why else ''}")
        return lines
