"""python -m mechdiff import: a CultShift-vs-CogShift artifacts folder as tables that the app shows beside ours."""

from pathlib import Path


def add(commands) -> None:
    command = commands.add_parser("import", help="a CultShift-vs-CogShift artifacts folder, as tables that the app shows")
    command.add_argument("folder", type=Path, metavar="DIR", help="the study's folder mechdiff/artifacts, or a .zip of it")
    command.add_argument("--name", default="", help="what the import is called (default: the folder's name)")
    command.add_argument("--domain", help="the domain of what lies at the top level (default: as in the study)")
    command.add_argument(
        "--out", type=Path, help="another folder of imports than cache/imports; the app shows those of the cache"
    )
    command.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.study.imports import imported_sets

    name = imported_sets.checked_name(args.name) if args.name else imported_sets.name_after(args.folder)
    found = imported_sets.import_folder(args.folder, name, args.domain, args.out)
    print(report(found))
    print(f"Kept in {(args.out or imported_sets.place()) / name}")
    if args.out is None:
        print(f"In the app: choose Imported: {name} in the sidebar.")


def report(found) -> str:
    """What was read, what was not and why, and what the tables lack."""
    lines = [f"read {len(found.read)}, skipped {len(found.skipped)}"]
    lines += [f"  {file.path}: {file.reason}" for file in found.skipped]
    lines += [
        f"{domain}: {table}, {len(rows)} line{'s' * (len(rows) != 1)}" for (domain, table), rows in sorted(found.tables.items())
    ]
    doubled = found.doubled()
    lines += [f"{doubled} conditions are claimed by more than one file: every claim is kept."] if doubled else []
    return "\n".join([*lines, f"Means only. What lines lack: {', '.join(found.lacks())}."])
