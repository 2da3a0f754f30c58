"""python -m mechdiff findings: what a stored sweep says, in sentences; and files of findings checked against the tables."""

from pathlib import Path

from mechdiff.common.errors import UserError
from mechdiff.common.paths import SHIPPED_SWEEPS
from mechdiff.common.terms import DIRECTIONS

README = SHIPPED_SWEEPS / "README.md"


def add(commands) -> None:
    findings = commands.add_parser("findings", help="what a stored sweep says, in sentences; or check a file of findings")
    findings.add_argument("--pair", metavar="PAIR[@DOMAIN]", help="without a domain: the pair's own")
    findings.add_argument("--direction", default=",".join(DIRECTIONS), help=f"{', '.join(DIRECTIONS)} (default: both)")
    about = "a Markdown file (default: that of the shipped sweeps)"
    findings.add_argument("--check", nargs="?", const=README, type=Path, metavar="FILE", help=f"check every number of {about}")
    findings.add_argument(
        "--write", nargs="?", const=README, type=Path, metavar="FILE", help=f"write the findings of {about} anew"
    )
    findings.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting import findings_file
    from mechdiff.study import stored_sweep

    if args.write:
        findings_file.write(args.write)
        print(f"{args.write} is written.")
    elif args.check:
        print(f"{args.check}: all {findings_file.check(args.check)} numbers are what the stored sweeps say.")
    elif args.pair:
        for direction in args.direction.split(","):
            print(findings_file.text(stored_sweep.parse(args.pair, direction)))
    else:
        raise UserError("Neither a sweep nor a file is named.\nTry:  findings --pair demo-cultural  or  findings --check")
