"""python -m mechdiff import: a CultShift-vs-CogShift artifacts folder as tables that the app shows next to ours."""

from pathlib import Path


def add(commands) -> None:
    command = commands.add_parser("import", help="a CultShift-vs-CogShift artifacts folder, as tables that the app shows")
    command.add_argument("folder", type=Path, metavar="DIR", help="the study's folder mechdiff/artifacts, or a .zip of it")
    command.add_argument("--name", default="", help="the import's name (default: the folder's)")
    command.add_argument("--domain", help="the domain of files at the top level (default: the study's)")
    command.add_argument(
        "--out", type=Path, help="a folder for imports instead of cache/imports; the app only shows cache/imports"
    )
    command.add_argument(
        "--as-sweep", action="store_true", help="store the numbers as the stored sweeps of the study's own pairs, for every page"
    )
    command.set_defaults(act=act)


def act(args) -> None:
    from mechdiff.study.imports import as_sweep, imported_sets, reading

    if args.as_sweep:
        contents = reading.read_study(args.folder, str(args.folder), args.domain)
        folders = as_sweep.store(contents, args.out)
        print("\n".join([report(contents), *(f"Stored in {folder}" for folder in folders)]))
        return
    name = imported_sets.checked_name(args.name) if args.name else imported_sets.name_after(args.folder)
    imported = imported_sets.import_folder(args.folder, name, args.domain, args.out)
    print(report(imported))
    print(f"Saved in {(args.out or imported_sets.place()) / name}")
    if args.out is None:
        print(f"In the app: choose Imported: {name} in the sidebar.")


def report(imported) -> str:
    """What was read, what was skipped and why, and what the tables lack."""
    lines = [f"read {len(imported.read)}, skipped {len(imported.skipped)}"]
    lines += [f"  {file.path}: {file.reason}" for file in imported.skipped]
    lines += [
        f"{domain}: {table}, {len(rows)} row{'s' * (len(rows) != 1)}" for (domain, table), rows in sorted(imported.tables.items())
    ]
    duplicates = imported.doubled()
    lines += [f"{duplicates} conditions appear in more than one file: all values are kept."] if duplicates else []
    return "\n".join([*lines, f"Means only. What the rows lack: {', '.join(imported.lacks())}."])
