"""A request as the command line that gives the same numbers."""

import shlex
from dataclasses import fields

from mechdiff.questions.shared.fields import flag_name
from mechdiff.questions.shared.request import Question

ALWAYS = ("pair", "domain", "limit", "stack")  # flags that a command always names, even if they have the default value


def command(request: Question) -> str:
    """Every option that is not the default, and always pair, domain and limit."""
    parts = [f"python -m mechdiff run {request.question}"]
    for spec in fields(request):
        value = getattr(request, spec.name)
        if value is None or (spec.name not in ALWAYS and value == spec.default):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"{flag_name(spec.name)} {shlex.quote(text)}")
    return " ".join(parts)
