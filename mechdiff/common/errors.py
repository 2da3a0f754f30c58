"""The exception that users see: its text says what is wrong and what to type next."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct. The CLI prints the text and exits with status 2; the app shows it."""


def one_of(what: str, value: object, choices: Iterable[object]) -> UserError:
    """The error for a value that is not among its choices. what: what the value is, such as "Pair"."""
    return UserError(f"{what} '{value}' does not exist. Choose from: {', '.join(map(str, choices))}")
