"""The command line: python -m mechdiff COMMAND."""

import os
import signal
import sys
import warnings

from mechdiff.common.errors import UserError
from mechdiff.common.extensions import ExtensionWarning


def main(argv: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            with warnings.catch_warnings(record=True) as caught:
                from mechdiff.cli import build_parser  # here, where the questions of other projects are found

            for warning in caught:
                show(warning)
            args = build_parser().parse_args(argv)
            return args.act(args) or 0
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be handled
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to fail when Python exits
        return 128 + signal.SIGPIPE
    except UserError as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What was finished is in the cache: the same command goes on from there.", file=sys.stderr)
        return 130


def show(warning: warnings.WarningMessage) -> None:
    """An extension that is left out, in a sentence; any other warning as Python shows it."""
    if issubclass(warning.category, ExtensionWarning):
        print(f"mechdiff: {warning.message}", file=sys.stderr)
    else:
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


if __name__ == "__main__":
    sys.exit(main())
