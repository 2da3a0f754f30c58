"""The one exception a user sees: its text says what is wrong and what to type next."""


class UserError(Exception):
    """A mistake the user can mend. The CLI prints the text and exits with status 2; the app shows it."""


def one_of(what: str, given: object, choices) -> UserError:
    """The error for a name that is not among its choices."""
    return UserError(f"{what} '{given}' does not exist. Choose from: {', '.join(map(str, choices))}")
