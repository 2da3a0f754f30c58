"""python -m mechdiff report: a stored sweep as one HTML file."""

from pathlib import Path

from mechdiff.common.terms import DIRECTIONS


def add(commands) -> None:
    report = commands.add_parser("report", help="write a stored sweep as one HTML file, to attach to a model card")
    report.add_argument("--pair", required=True)
    report.add_argument("--domain", help="default: the pair's own")
    report.add_argument("--direction", default=DIRECTIONS[0], help=", ".join(DIRECTIONS))
    report.add_argument("--out", type=Path, help="FILE.html (default: report-PAIR-DOMAIN.html)")
    report.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.reporting import html_report
    from mechdiff.study import stored_sweep

    choice = stored_sweep.parse(args.pair + (f"@{args.domain}" if args.domain else ""), args.direction)
    path = args.out or Path(html_report.file_name(choice))
    html_report.write(html_report.build(choice), path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB. It opens in any browser, offline.")
