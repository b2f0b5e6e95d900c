"""The command line: `bdal run`, `report`, `sweep`, `ask`, `tell`, `label`, `methods`, `doctor`.

Nothing slow is imported before the arguments are read.

Exit codes: 0 done, 1 error, 2 usage or config, 75 another process works in the run directory (try later), 130
interrupted by Ctrl-C or SIGTERM (the same command goes on).
"""

import argparse
import io
import json
import os
import re
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

RUN_HELP = """\
Run the experiment of a config file and end with a table and a figure of learning curves.

Any field of the config can be set after its path, list items by their number:
  bdal run configs/quickstart.yaml --training.steps 300 --seeds 6 --comparisons.0.members 50

--data-dir DIR is short for --data.data-dir DIR, the folder that holds mnist/ and fashion_mnist/.

What is finished is not repeated: the same command goes on where an earlier one stopped. A run directory that holds
another config, data set or environment is refused, unless --allow-mismatch says to go on and to have the report say so.
"""
SWEEP_HELP = """\
Write a run directory's config for every point of a grid and every seed, and the list of commands that run them.

  bdal sweep configs/quickstart.yaml --seeds 0:10 --grid strategy=bald,margin --workers 2
  bdal sweep configs/quickstart.yaml --seeds 0:5 --grid training.steps=200,400 --grid posterior=mc_dropout

`strategy` and `posterior` choose from the config's comparisons, any other key is a field of the config. Without
--workers nothing is run: commands.txt in the root has a line a run, for a cluster's job array or `bash`. Called again
it adds what is new and repeats nothing. Fields can be set as for `bdal run`.
"""


PARTS_HELP = "a bdal.experiment.Parts in a module: models, posteriors, strategies and data sets of your own"
TAKE_FIELDS = ("run", "sweep", "doctor")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; errors end as one line on standard error, unless `--debug`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what it cannot write, as ± in ASCII, ends no run
            stream.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser, own_flags = _parser()
    given, overrides = _take_overrides(arguments, own_flags)
    options = parser.parse_args(given)
    if overrides and options.command not in TAKE_FIELDS:
        print(f"bdal: {overrides[0].partition('=')[0]} is no option of `bdal {options.command}`", file=sys.stderr)
        return 2
    counts = Counter(word.partition("=")[0] for word in given if word.startswith("--"))
    if twice := [flag for flag, count in counts.items() if count > 1 and flag != "--grid"]:
        print(f"bdal: {twice[0]}: expected once, found it {counts[twice[0]]} times; keep one of them", file=sys.stderr)
        return 2
    options.overrides = overrides

    from bdal.errors import AcceleratorError, ConfigError  # brings jax, which the line above need not wait for
    from bdal.experiment.interrupt import interruptible
    from bdal.store.lock import LockedError

    try:
        with interruptible(), warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except KeyboardInterrupt:
        again = shlex.join(["bdal", *arguments])
        print(f"bdal: interrupted; what was complete is kept; to go on: {again}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it: no second error at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, AcceleratorError, LockedError) as error:
        if options.debug:
            raise
        print(f"bdal: {_one_line(error)}", file=sys.stderr)
        return 75 if isinstance(error, LockedError) else 2 if isinstance(error, ConfigError) else 1
    except (MemoryError, RuntimeError) as error:
        if options.debug or not _no_memory(error):
            raise
        print(f"bdal: {_short_of_memory(error)}", file=sys.stderr)
        return 1


def _no_memory(error: BaseException) -> bool:
    """Whether the host (NumPy, Python) or a device (XLA) had no memory left."""
    return isinstance(error, MemoryError) or bool(re.search(r"RESOURCE_EXHAUSTED|[Oo]ut of memory", str(error)))


def _short_of_memory(error: BaseException) -> str:
    where = "this machine" if isinstance(error, MemoryError) else "the device"
    asked = _one_line(error)
    asked = asked if len(asked) <= 200 else asked[:199] + "…"
    return (
        f"{where} has not enough memory: {asked}; make smaller, in this order: query.chunk_size, query.candidates, "
        "training.batch_size, comparisons.N.members, data.pool, or seeds in one program (--together false)"
    )


def _show_warning(message, category, *_args, **_kwargs) -> None:
    print(f"bdal: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, dict[str, bool]]]:
    """The parser, and each command's own flags with whether they take a value."""
    parser = argparse.ArgumentParser(
        prog="bdal", description="Bayesian deep active learning in JAX.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"bdal {_version()}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, help, description=None, usage=None):
        added = commands.add_parser(
            name, help=help, description=description or help[0].upper() + help[1:] + ".", usage=usage,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip
        added.set_defaults(run=run)
        added.add_argument("--debug", action="store_true", help="show where an error came from")
        return added

    run = command(
        "run", _run, "run the experiment of a config file", RUN_HELP,
        "bdal run CONFIG.yaml [--section.field value ...] [--parts MODULE:NAME] [--data-dir DIR] [--workdir DIR] "
        "[--allow-mismatch]",
    )  # fmt: skip
    run.add_argument("config", metavar="CONFIG.yaml", type=Path)
    run.add_argument("--workdir", metavar="DIR", type=Path, help="the run directory (default: runs/<name>)")
    run.add_argument(
        "--allow-mismatch", action="store_true", help="go on in a directory of another config, data or environment"
    )

    report = command("report", _report, "write a report of run directories, finished or not, as HTML and Markdown")
    report.add_argument("workdirs", metavar="DIR|FILE.csv", nargs="+", type=Path)
    report.add_argument("--out", metavar="DIR", type=Path, help="where to (default: report/ in the first directory)")
    report.add_argument("--data-dir", metavar="DIR", help="where the data set's files are, if not where they were")
    report.add_argument("--no-images", action="store_true", help="leave out the pictures of what was queried")

    sweep = command(
        "sweep", _sweep, "write the runs of a grid of configs and seeds, and perhaps run them", SWEEP_HELP,
        "bdal sweep CONFIG.yaml [--seeds A:B] [--grid key=v1,v2 ...] [--root DIR] [--workers N] [--field value ...]",
    )  # fmt: skip
    sweep.add_argument("config", metavar="CONFIG.yaml", type=Path)
    sweep.add_argument("--seeds", metavar="A:B", help="seeds A to B - 1 (default: those of the config)")
    sweep.add_argument("--seeds-per-run", metavar="N", type=int, default=1, help="seeds of one run (default: 1)")
    sweep.add_argument("--grid", metavar="KEY=V1,V2", action="append", default=[], help="values to go through")
    sweep.add_argument("--root", metavar="DIR", type=Path, help="where to (default: sweeps/<name>)")
    sweep.add_argument("--workers", metavar="N", type=int, default=0, help="run them here, so many at a time")

    ask = command("ask", _ask, "write the points that a person should label next, as CSV and for Label Studio")
    tell = command("tell", _tell, "read a person's answers, train again and choose the next points")
    label = command("label", _label, "label in the browser, on this machine only")
    for people in (ask, tell, label):
        people.add_argument("workdir", metavar="DIR", type=Path)
        people.add_argument("--data-dir", metavar="DIR", help="where the data set's files are, if not where they were")
    tell.add_argument("answers", metavar="ANSWERS.csv|EXPORT.json", type=Path)
    tell.add_argument("--only-asked", action="store_true", help="refuse answers to points that were not asked for")
    label.add_argument("--port", metavar="N", type=int, default=0, help="on 127.0.0.1 (default: a free one)")
    label.add_argument("--no-browser", action="store_true", help="print the address, open nothing")

    for own in (run, sweep, ask, tell, label):
        own.add_argument("--parts", metavar="MODULE:NAME", help=PARTS_HELP)
    command("methods", _methods, "print the table of query strategies: what each needs and costs, and whose rule it is")
    doctor = command("doctor", _doctor, "print versions and devices, find an unused accelerator; look at a pool")
    doctor.add_argument("--parts", metavar="MODULE:NAME", help=PARTS_HELP)
    doctor.add_argument("config", metavar="CONFIG.yaml", type=Path, nargs="?", help="fields can be set as for bdal run")
    flags = {
        name: {flag: action.nargs != 0 for action in each._actions for flag in action.option_strings}
        for name, each in commands.choices.items()
    }
    return parser, flags


def _take_overrides(arguments: Sequence[str], own_flags: dict[str, dict[str, bool]]) -> tuple[list[str], list[str]]:
    """Arguments without the `--field value` pairs, and those pairs: argparse would take their values for the config."""
    rest, given, overrides = list(arguments), [], []
    command = next((word for word in rest if not word.startswith("-")), "")
    own = own_flags.get(command, {}) | {"--version": False, "--help": False}
    while rest:
        word = rest.pop(0)
        flag, equals, value = word.partition("=")
        if not word.startswith("--") or flag in own:
            given.append(word)
            if own.get(flag) and not equals and rest:
                given.append(rest.pop(0))
            continue
        values = [value] if equals else [rest.pop(0)] if rest and not rest[0].startswith("--") else []
        if flag == "--data-dir" and command in TAKE_FIELDS:  # a path, whatever YAML would make of it
            flag, values = "--data.data-dir", [json.dumps(value) for value in values]
        overrides += [f"{flag}={value}" for value in values] or [flag]
    return given, overrides


def _version() -> str:
    try:
        return metadata.version("bdal")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _doctor(options: argparse.Namespace) -> int:
    from bdal.environment import doctor

    doctor()
    if options.config is not None:
        from bdal import config, datasets
        from bdal.config.parts import load_parts
        from bdal.experiment.prepare import prepare

        experiment = config.load(options.config, options.overrides)
        loaded = prepare(experiment, parts=load_parts(options.parts)).data  # refuses what `bdal run` would
        names = ", ".join(loaded.class_names[:12]) + (", ..." if loaded.num_classes > 12 else "")
        shape = "x".join(map(str, loaded.pool.shape[1:]))
        print(f"\ndata  {loaded.num_points} pool points of shape {shape}, {loaded.num_classes} classes: {names}")
        if (counts := datasets.label_counts(loaded.source)) is not None:
            print(counts)
        print(datasets.duplicates(loaded.source))
    return 0


def _methods(options: argparse.Namespace) -> int:
    del options
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bdal.contrib import STRATEGIES as LEARNED
    from bdal.strategy import STRATEGIES
    from bdal.strategy.table import AUTHORS

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("strategy\n  options", no_wrap=True)
    table.add_column("paper – whose rule it is\nlooks at · cost · pinned by", overflow="fold")
    for name, method in (STRATEGIES | LEARNED).items():
        choices = "".join(f"\n  {option}={value}" for option, value in method.options.items())
        differs = "" if method.rule == AUTHORS else "differs: "
        source = f"{method.paper} – {differs}{method.rule}" if method.paper else method.rule
        facts = Text(f"\n{method.needs} · {method.cost} · {method.pinned_by}", style="dim")
        table.add_row(name + choices, Text.assemble(source, facts))
    console = Console()
    if not console.is_terminal:
        console = Console(width=130)
    console.print(table, highlight=False)
    console.print(
        "\nR rows scored, K members, C classes, D features, T targets, L labelled points, Q query size; beyond the "
        "predictions themselves. `selection.joint` stands for tests/selection/test_joint.py.\n"
        "At its default options a method does as its authors do, up to random ties, or it is said what differs; the "
        "docstrings say more. Of a committee, a method of one network takes the mean prediction.\n"
        "In a config: `margin`, or `{name: power_bald, beta: 4}`; `prefilter: 500` with any "
        "of them scores only the 500 points of highest BALD (or of another score: `prefilter_by: margin`).",
        highlight=False, markup=False,
    )  # fmt: skip
    return 0


def _run(options: argparse.Namespace) -> int:
    from bdal import config
    from bdal.environment import expanded

    experiment = config.load(options.config, options.overrides)
    workdir = expanded(options.workdir or Path("runs") / experiment.name).resolve()
    _keep_compiled_programs()

    from bdal.experiment import load_parts, run_experiment

    run_experiment(experiment, workdir, parts=load_parts(options.parts), allow_mismatch=options.allow_mismatch)
    return _show_results(workdir)


def _show_results(workdir: Path) -> int:
    from rich.console import Console

    from bdal import labelling
    from bdal.experiment.progress import short
    from bdal.report import tables
    from bdal.report.analysis import about_directory
    from bdal.store import directory

    rows = directory.results(workdir)
    if rows:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
        console.print(tables.rich_table(tables.summarise(rows, about_directory(workdir)), console.width))
        print(f"\nfigures curves.png and curves.pdf, tables table.md and table.csv in {short(workdir)}")
    here = shlex.quote(str(short(workdir)))
    if wanted := labelling.wanted(workdir):
        print(f"{wanted}: bdal label {here}, or bdal ask {here} for files to fill in")
    elif rows:
        print(f"all of it as one page: bdal report {here}")
    return 0


def _report(options: argparse.Namespace) -> int:
    from bdal.experiment.progress import short
    from bdal.report import report

    page = report(options.workdirs, options.out, load_data=not options.no_images, data_dir=options.data_dir)
    print(f"{short(page)}, the same as report.md with its figures beside it")
    return 0


def _sweep(options: argparse.Namespace) -> int:
    from bdal.experiment.progress import short
    from bdal.experiment.sweep import run_locally, sweep

    points = sweep(
        options.config, options.overrides, grid=options.grid, seeds=options.seeds, seeds_per_run=options.seeds_per_run,
        root=options.root, parts=options.parts,
    )  # fmt: skip
    root = short(points.root)
    print(f"{len(points.commands)} runs: {root / 'commands.txt'}")
    code = run_locally(points, options.workers) if options.workers else 0
    if code == 0:
        then = "all of it as one page" if options.workers else "when they have run"
        print(f"{then}: bdal report {shlex.quote(str(root / 'runs'))}/* --out {shlex.quote(str(root / 'report'))}")
    return code


def _ask(options: argparse.Namespace) -> int:
    from bdal import labelling

    _keep_compiled_programs()
    print(labelling.ask(options.workdir, data_dir=options.data_dir, parts=_parts(options)))
    return 0


def _tell(options: argparse.Namespace) -> int:
    from bdal import labelling

    _keep_compiled_programs()
    told = labelling.tell(
        options.workdir, options.answers, data_dir=options.data_dir, parts=_parts(options),
        only_asked=options.only_asked,
    )  # fmt: skip
    print(told)
    return 0


def _label(options: argparse.Namespace) -> int:
    from bdal import labelling

    _keep_compiled_programs()
    labelling.label(
        options.workdir, data_dir=options.data_dir, parts=_parts(options), port=options.port,
        open_browser=not options.no_browser,
    )  # fmt: skip
    return 0


def _parts(options: argparse.Namespace):
    from bdal.config.parts import load_parts

    return load_parts(options.parts)


def _keep_compiled_programs() -> None:
    """Keep what XLA compiles, so that the next run need not: in BDAL_CACHE_DIR, or ~/.cache/bdal.

    A compiled program is code. The folder is ours alone (0700), and apart for each kind of processor, whose
    instructions another may not have. Without a folder that is safe to use the run compiles everything anew.
    """
    import jax

    from bdal.environment import expanded
    from bdal.errors import ConfigError

    if getattr(jax.config, "jax_compilation_cache_dir", None):  # the user's own choice
        return
    try:
        folder = expanded(os.environ.get("BDAL_CACHE_DIR") or "~/.cache/bdal").resolve() / "xla" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
        for private in (folder.parent, folder):
            if private.stat().st_uid != os.getuid():
                raise PermissionError(None, "belongs to another user", str(private))
            private.chmod(0o700)
    except (OSError, ConfigError) as error:
        print(f"bdal: compiled programs are not kept: {_one_line(error)}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _processor() -> str:
    """A short name of the processor's instruction set."""
    import hashlib
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__
