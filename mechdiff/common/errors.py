"""The exception that users see: its text says what is wrong and what to type next."""

from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct. The CLI prints the text and exits with status 2; the app shows it.

    The text says what is wrong, and after `Try:` what to type instead.

    Example:
        >>> try:
        ...     pair.patch(layers=99)
        ... except md.UserError as error:
        ...     print(error)
        Layer 99 does not exist: tiny has 4 layers, 0 to 3.
        Try:  --layers 0,2,3
    """


def one_of(what: str, value: object, choices: Iterable[object]) -> UserError:
    """The error for a value that is not among its choices. what: what the value is, such as "Pair"."""
    return UserError(f"{what} '{value}' does not exist. Choose from: {', '.join(map(str, choices))}")
