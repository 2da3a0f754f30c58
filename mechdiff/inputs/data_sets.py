"""The rows of a data set: streamed from the hub, or from a local JSONL, parquet or CSV file."""

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path

from mechdiff.common.errors import UserError
from mechdiff.inputs.curation import Record, Spec

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
HUB_TIMEOUT = 10.0  # seconds


def stream_rows(spec: Spec) -> Iterator[Record]:
    """The rows of a data set, one after the other. Raises UserError if it does not exist or cannot be read."""
    check_installed()
    import datasets
    from httpx2 import HTTPError  # the hub's client lets its errors through
    from pyarrow import ArrowException

    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield from open_rows(spec)
    except StopIteration:  # what datasets raises for a file without rows
        return
    except UnicodeDecodeError:
        raise UserError(f"{spec.source} is not UTF-8 text.") from None
    except (OSError, HTTPError) as error:
        raise UserError(unreachable(spec, error)) from None
    except (ValueError, ArrowException) as error:
        raise UserError(f"{spec.source} cannot be read: {first_line(error)}") from None


def check_installed() -> None:
    """Raises UserError without the package that reads data sets."""
    if importlib.util.find_spec("datasets") is None:
        raise UserError("Prompts are read with the package datasets, which is not installed.\nTry:  pip install datasets")


def open_rows(spec: Spec) -> Iterable[Record]:
    from datasets import load_dataset

    if spec.file:
        kind = FORMATS.get(Path(spec.file).suffix)
        if kind is None:
            raise UserError(f"{spec.file} is not in a supported format. Choose a file that ends in {', '.join(FORMATS)}.")
        return load_dataset(kind, data_files=str(spec.file), split="train", streaming=True)
    from huggingface_hub import HfApi

    assert spec.dataset, "a spec has a data set or a file"
    HfApi().dataset_info(spec.dataset, timeout=HUB_TIMEOUT)  # fails at once without a network, where load_dataset keeps retrying
    return load_dataset(spec.dataset, spec.subset, split=spec.split, streaming=True)


def unreachable(spec: Spec, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if spec.file:
        return f"The file {spec.file} does not exist or cannot be read.\nTry:  ls {Path(spec.file).parent}"
    if isinstance(error, GatedRepoError):
        return f"{spec.dataset} is gated: its owners have to grant you access.\nTry:  hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no data set {spec.dataset} that you can access.\nTry:  hf auth login, or --file FILE"
    return (
        f"{spec.dataset} cannot be fetched: the hub is not reachable ({type(error).__name__}).\n"
        "Try:  again with a network; or fetch one of its files elsewhere and pass it with --file FILE"
    )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
