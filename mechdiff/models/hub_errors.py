"""What can go wrong with the hub, each in a sentence with what to type next."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from httpx2 import TransportError
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mechdiff.common.errors import UserError

AGAIN = "Try:  the same command again: what is downloaded stays"
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def hub_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn what the hub's client raises about a repository into a UserError. name: org/model."""
    try:
        yield
    except HFValidationError:
        raise UserError(f"{name} is not a hub id.\nTry:  an id such as org/model") from None
    except GatedRepoError:
        raise UserError(gated(name)) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"The hub has no model {name}, or it is private and you are not logged in as someone who may read it.\n"
            f"Try:  look at {page(name)} for its exact name, or  hf auth login"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f'{name} has no revision {revision or "main"} on the hub.\nTry:  revision = "main"') from None
    except RemoteEntryNotFoundError:
        raise UserError(f"{name} was changed on the hub: one of its files is gone.\n{AGAIN}") from None
    except HfHubHTTPError as error:
        raise UserError(refused(name, error.response.status_code)) from None
    except (TransportError, LocalEntryNotFoundError) as error:
        reason = type(error.__cause__ or error).__name__
        raise UserError(f"The hub at {constants.ENDPOINT} cannot be reached ({reason}).\n{AGAIN}") from None
    except OSError as error:
        raise UserError(of_disk(name, error)) from None


def page(name: str) -> str:
    """A repository's page, where access is asked for."""
    return f"{constants.ENDPOINT}/{name}"


def gated(name: str) -> str:
    if get_token() is None:
        return (
            f"{name} is gated: ask its owners for access at {page(name)}, and log in to the hub, which keeps your token.\n"
            "Try:  hf auth login"
        )
    return f"{name} is gated, and your account on the hub has no access: ask for it at {page(name)}\n{AGAIN}"


def refused(name: str, status: int) -> str:
    if status == 401:
        return f"The hub refuses the login that is stored here, which may have expired.\nTry:  hf auth login  (for {name})"
    return f"The hub cannot serve {name} now (status {status}).\nTry:  the same command in a few minutes"


def of_disk(name: str, error: OSError) -> str:
    """An error without a number is the hub's client's own: a file that ended early."""
    if error.errno is None:
        return f"A file of {name} did not arrive as the hub describes it.\n{AGAIN}"
    if error.errno in FULL:
        place = constants.HF_HUB_CACHE
        return f"The disk is full; what is downloaded of {name} stays.\nTry:  free some space in {place}, then the same command"
    remedy = "HF_HUB_CACHE=/some/folder  for this and all later commands"
    return f"Cannot write to {constants.HF_HUB_CACHE}: {error.strerror}.\nTry:  {remedy}"
