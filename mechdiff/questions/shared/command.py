"""A request as the command line that gives the same numbers."""

import shlex
from dataclasses import fields

from mechdiff.questions.shared.fields import flag_name
from mechdiff.questions.shared.request import QUESTIONS, Question

ALWAYS = ("pair", "domain", "limit", "stack")  # flags that a command always names, even if they have the default value
PYTHON_ONLY = "# There is no command line for these numbers: their interventions are written in Python, for pair.run"


def command(request: Question) -> str:
    """Every option that is neither the protocol's nor the default, and always pair, domain and limit.

    A comment for a question that only Python has.
    """
    if request.question not in QUESTIONS:
        return PYTHON_ONLY
    parts, defaults = [f"python -m mechdiff run {request.question}"], request.defaults
    for spec in fields(request):
        value = getattr(request, spec.name)
        if value is None or (spec.name not in ALWAYS and value == defaults[spec.name]):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{flag_name(spec.name)} {shlex.quote(text)}")
    return " ".join(parts)
