"""The command line: python -m mechdiff COMMAND."""

import signal
import sys

from mechdiff.cli import build_parser
from mechdiff.common.errors import UserError


def main(argv: list[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args = build_parser().parse_args(argv)
        return args.act(args) or 0
    except UserError as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What was finished is in the cache: the same command goes on from there.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
