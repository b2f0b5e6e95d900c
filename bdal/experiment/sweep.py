"""Sweeps: one config, many settings and seeds, each a run directory and a command that fills it.

    ROOT/sweep.json  base.yaml           what was asked for, and the config that every point starts from
    ROOT/commands.txt                    `bdal run ROOT/runs/<name>/config.yaml --workdir ROOT/runs/<name>`, one a line
    ROOT/runs/<name>/config.yaml         a point's own config, in its run directory
    ROOT/logs/<name>.log                 what the runs that `run_locally` starts have written

A command can be given again at any time: `bdal run` goes on where it stopped, says so where it is finished, and exits
75 where another process works. So whatever runs lines of text runs a sweep; docs/sweeps.md has SLURM and submitit.
"""

import hashlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from bdal import config
from bdal.config.parts import Parts, load_parts
from bdal.environment import expanded
from bdal.errors import ConfigError
from bdal.experiment.prepare import check_names
from bdal.store.durable import write_atomic

LOCKED, INTERRUPTED = 75, 130  # exit codes of `bdal run`
MOST = 10_000  # runs of a sweep
LONGEST = 150  # characters of a name
AGAIN = (10.0, 60.0, 300.0)  # seconds before a run that another process holds is tried again
GRACE = 30.0  # seconds that an interrupted run has before it is killed; its ledger survives either
POLL = 0.1


class Sweep(NamedTuple):
    """The runs that were asked for: `commands[i]` fills `root/runs/<names[i]>`."""

    root: Path
    commands: list[list[str]]
    names: list[str]


def sweep(
    config_path: str | Path, overrides: Sequence[str] = (), *, grid: Sequence[str] = (), seeds: str | None = None,
    seeds_per_run: int = 1, root: str | Path | None = None, parts: str | None = None,
) -> Sweep:  # fmt: skip
    """Write a run directory and a command for every point of the grid and every seed; what is there already stays.

    Asked again, it writes the same bytes; asked for more, it adds lines at the end of `commands.txt`.

    Args:
      config_path: the config that all points start from.
      overrides: `--section.field value` for all points, as in `bdal run`.
      grid: `key=value,value`, values in YAML (a comma in brackets or quotes does not split), all combined with all.
        `strategy` is what every comparison then compares, alone; `posterior` keeps the comparisons with it; any
        other key is the path of a field, such as `training.steps`.
      seeds: `"0:10"`, seeds 0 to 9; None: those of the config, in one run.
      seeds_per_run: how many of them a run has.
      root: where to write; `sweeps/<name>` if None.
      parts: `package.module:NAME`, parts of one's own (`bdal.config.Parts`), for the commands.

    Raises:
      ConfigError: before anything is written; a point that is no experiment, two points that are the same, or a root
        that holds another sweep, naming the fields that differ.

    >>> import tempfile
    >>> text = "{name: small, comparisons: [{posterior: mc_dropout, members: 20, strategies: [random]}]}"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "small.yaml"
    ...     _ = path.write_text(text)
    ...     points = sweep(path, grid=["strategy=bald,margin"], seeds="0:2", root=Path(folder) / "sweep")
    >>> points.names
    ['strategy=bald,seed=0', 'strategy=margin,seed=0', 'strategy=bald,seed=1', 'strategy=margin,seed=1']
    >>> points.commands[0][:2], Path(points.commands[0][-1]).name
    (['bdal', 'run'], 'strategy=bald,seed=0')
    """
    base = config.load(config_path, overrides)
    own = load_parts(parts)
    points, settings = _points(base, config_path, overrides, _axes(grid), _seed_ranges(seeds, seeds_per_run), own)
    root = expanded(root if root is not None else Path("sweeps") / base.name).resolve()
    base = replace(base, seeds=1, first_seed=0)
    known = _known(root, base)
    asked = {
        "config": str(config_path), "overrides": list(overrides), "grid": list(grid), "seeds": seeds,
        "seeds_per_run": seeds_per_run, **({"parts": parts} if parts else {}),
    }  # fmt: skip
    requests = known["asked"] + [asked] * (asked not in known["asked"])
    settings = known["points"] | settings  # the known ones keep their places
    for name, experiment in points.items():
        _refuse_another(root, _config(root, name), experiment)
    _refuse_repeated(points | {name: config.load(_config(root, name)) for name in settings if name not in points})
    try:
        _write(root / "base.yaml", config.dump(base))
        for name, experiment in points.items():
            _write(_config(root, name), config.dump(experiment))
        content = {"asked": requests, "points": settings}
        _write(root / "sweep.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        _write(root / "commands.txt", "".join(shlex.join(_command(root, name, parts)) + "\n" for name in settings))
    except OSError as error:
        at = error.filename or root
        raise ConfigError(f"{root}: cannot be used for a sweep: {at}: {error.strerror or error}") from error
    return Sweep(root, [_command(root, name, parts) for name in points], list(points))


def _config(root: Path, name: str) -> Path:
    return root / "runs" / name / "config.yaml"


def _command(root: Path, name: str, parts: str | None) -> list[str]:
    own = ["--parts", parts] if parts else []
    return ["bdal", "run", str(_config(root, name)), "--workdir", str(root / "runs" / name), *own]


def _write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != content.encode():
        write_atomic(path, content)


# -- points of the grid ----------------------------------------------------------------------------------------------


def _axes(grid: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The keys and their values as text; strategy and posterior first, then by name: the order of a point's name."""
    axes: dict[str, list[str]] = {}
    for text in grid:
        key, equals, values = text.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key, re.ASCII):
            raise ConfigError(f"--grid: expected a field and its values, such as strategy=bald,margin, found {text!r}")
        if key in ("seeds", "first_seed"):
            raise ConfigError(f"--grid: {key}: expected the seeds as --seeds 0:10, found {text!r}")
        if key in axes:
            raise ConfigError(f"--grid: {key}: expected once, found {text!r} too")
        axes[key] = _values(key, values)
    return sorted(axes.items(), key=lambda axis: (axis[0] != "strategy", axis[0] != "posterior", axis[0]))


def _values(key: str, text: str) -> list[str]:
    """`"a,{b: 1, c: 2}"` -> `["a", "{b: 1, c: 2}"]`."""
    values, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += (char in "[{") - (char in "]}")
        if char == "," and not depth and not quote:
            values.append("")
        else:
            values[-1] += char
        if depth < 0:
            break
    values = [value.strip() for value in values]
    if depth or quote:
        raise ConfigError(f"--grid: {key}: expected brackets and quotes that close, found {text!r}")
    if not all(values):
        raise ConfigError(f"--grid: {key}: expected values with commas between them, found {text!r}")
    if len(set(values)) < len(values):
        raise ConfigError(f"--grid: {key}: expected every value once, found {text!r}")
    return values


def _seed_ranges(seeds: str | None, seeds_per_run: int) -> list[range] | None:
    """The seeds of each run; None: as the config says."""
    if seeds_per_run < 1:
        raise ConfigError(f"--seeds-per-run: expected at least 1, found {seeds_per_run}")
    if seeds is None:
        if seeds_per_run > 1:
            raise ConfigError(f"--seeds-per-run: expected --seeds, such as 0:10, with it, found {seeds_per_run} alone")
        return None
    bounds = re.fullmatch(r"(\d{1,10}):(\d{1,10})", seeds, re.ASCII)
    if not bounds or int(bounds[1]) >= int(bounds[2]):
        raise ConfigError(f"--seeds: expected FIRST:END, such as 0:10 for seeds 0 to 9, found {seeds!r}")
    first, end = int(bounds[1]), int(bounds[2])
    if (end - first) % seeds_per_run:
        raise ConfigError(f"--seeds-per-run: expected a divisor of {end - first} seeds, found {seeds_per_run}")
    if (end - first) // seeds_per_run > MOST:
        raise ConfigError(f"--seeds: expected at most {MOST} runs, found {seeds}")
    return [range(start, start + seeds_per_run) for start in range(first, end, seeds_per_run)]


def _points(
    base, path, overrides, axes, ranges, parts
) -> tuple[dict[str, config.Experiment], dict[str, dict[str, Any]]]:
    """The experiment and the settings of every point by its name; all settings of a seed before the next seed."""
    combinations = list(itertools.islice(itertools.product(*[values for _, values in axes]), MOST + 1))
    if len(combinations) * len(ranges or [0]) > MOST:
        raise ConfigError(f"--grid: expected at most {MOST} runs, found more")
    experiments = []
    for values in combinations:
        chosen = dict(zip([key for key, _ in axes], values, strict=True))
        experiments.append((chosen, _experiment(base, path, overrides, chosen, parts)))
    points: dict[str, config.Experiment] = {}
    settings: dict[str, dict[str, Any]] = {}
    folded: dict[str, str] = {}
    for seeds in ranges or [None]:
        for chosen, experiment in experiments:
            point = replace(experiment, first_seed=seeds[0], seeds=len(seeds)) if seeds else experiment
            name = _name(chosen, point, seeds)
            if name.casefold() in folded:
                raise ConfigError(
                    f"--grid: expected values that differ in letters or digits, for they name folders, found two for "
                    f"{name!r}: {settings[folded[name.casefold()]]['set']} and {chosen}"
                )
            folded[name.casefold()] = name
            points[name] = point
            settings[name] = {"set": chosen, "seeds": f"{point.first_seed}:{point.first_seed + point.seeds}"}
    return points, settings


def _experiment(base, path, overrides: Sequence[str], chosen: Mapping[str, str], parts: Parts) -> config.Experiment:
    """The experiment of one combination of values; names and options that do not exist are refused."""
    fields = [f"--{key}={value}" for key, value in chosen.items() if key not in ("strategy", "posterior")]
    if "strategy" in chosen:
        count = len(config.load(path, [*overrides, *fields]).comparisons) if fields else len(base.comparisons)
        fields += [f"--comparisons.{number}.strategies=[{chosen['strategy']}]" for number in range(count)]
    experiment = config.load(path, [*overrides, *fields])
    if "posterior" in chosen:
        known = [comparison.posterior.label for comparison in experiment.comparisons]
        kept = tuple(each for each in experiment.comparisons if each.posterior.label == chosen["posterior"])
        if not kept:
            found = f"expected one of the config's ({', '.join(known)}), found {chosen['posterior']!r}"
            raise ConfigError(f"--grid: posterior: {found}")
        experiment = replace(experiment, comparisons=kept)
    check_names(experiment, parts)
    return experiment


def _name(chosen: Mapping[str, str], experiment: config.Experiment, seeds: range | None) -> str:
    """`strategy=bald,training.steps=300,seed=3`: one folder's name, and no other's."""
    parts = []
    for key, value in chosen.items():
        if key == "strategy":
            comparison = experiment.comparisons[0]
            value = comparison.strategies[0].label
        parts.append(f"{key}={re.sub(r'[^A-Za-z0-9._+-]+', ' ', value).strip().replace(' ', '-')}")
    if seeds:
        parts.append(f"seed={seeds[0]}" if len(seeds) == 1 else f"seeds={seeds[0]}-{seeds[-1]}")
    name = ",".join(parts) or experiment.name
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


# -- what the root holds already -------------------------------------------------------------------------------------


def _known(root: Path, base: config.Experiment) -> dict[str, Any]:
    """What `sweep.json` says; refused if the root holds something else."""
    if re.search(r"[\x00-\x1f\x7f]", str(root)):
        raise ConfigError(f"--root: expected a path that fits on a line of commands.txt, found {str(root)!r}")
    if (root / "config.yaml").exists() or (root / "run.json").exists():
        raise ConfigError(f"{root}: expected a folder for a sweep, found a run directory; choose another --root")
    _refuse_another(root, root / "base.yaml", base)
    path = root / "sweep.json"
    if not path.exists():
        return {"asked": [], "points": {}}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        names_only = all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+=,~-]*", name) for name in known["points"])
        well_formed = names_only and isinstance(known["points"], dict) and isinstance(known["asked"], list)
    except (OSError, ValueError, KeyError, TypeError):
        well_formed = False
    if not well_formed:
        raise ConfigError(f"{path}: expected what `bdal sweep` wrote, found other text; choose another --root")
    return known


def _refuse_another(root: Path, path: Path, experiment: config.Experiment) -> None:
    """Refuse if the file at `path` holds another experiment; where data lies does not count."""
    if path.exists() and (fields := config.differences(config.load(path), experiment)):
        where = path.relative_to(root)
        raise ConfigError(
            f"{root}: holds another sweep (there != now, in {where}): {'; '.join(fields)}; choose another --root"
        )


def _refuse_repeated(points: Mapping[str, config.Experiment]) -> None:
    """Refuse two points that would run the same strategy on the same seed under the same settings."""
    runs: dict[str, list[tuple[int, int, str]]] = {}
    for name, point in points.items():
        data = replace(point.data, data_dir=None)
        for comparison in point.comparisons:
            for strategy in comparison.strategies:
                alone = (replace(comparison, strategies=(strategy,)),)
                same = repr(replace(point, seeds=1, first_seed=0, data=data, comparisons=alone))
                seeds = point.seed_numbers
                runs.setdefault(same, []).append((seeds.start, seeds.stop, name))
    for users in runs.values():
        for (_, end, one), (start, _, other) in itertools.pairwise(sorted(users)):
            if start < end:
                raise ConfigError(
                    f"sweep: expected every run once, found the same one, of seed {start}, in {one!r} and {other!r}; "
                    "leave one out, or choose another --root"
                )


# -- on this machine -------------------------------------------------------------------------------------------------


def run_locally(sweep: Sweep, workers: int, *, line: Callable[[str], Any] = print) -> int:
    """Run the commands, `workers` at a time, with a line for each that ends; returns an exit code.

    A run that another process holds (exit 75) is tried again after the others, three times. A run that fails does not
    stop the others. An interrupt (SIGINT, SIGTERM, SIGHUP) ends the runs that were started, and the same call goes on.
    A first word `bdal` is this interpreter's own, whatever the path holds.

    Returns:
      0: all runs are finished. 1: some failed, and their commands are printed. 75: some are still held by other
      processes. 130: interrupted.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run_locally(Sweep(Path(folder), [[sys.executable, "-c", "pass"]], ["seed=0"]), workers=1)
    1/1 seed=0: finished
    0
    """
    if workers < 1:
        raise ConfigError(f"--workers: expected at least 1, found {workers}")
    left, done, failed = list(range(len(sweep.names))), 0, []
    with _signals() as came:
        for pause in (0.0, *AGAIN):
            if pause:
                line(f"{len(left)} of {len(sweep.names)} runs are in use by other processes: again in {pause:.0f} s")
            _sleep(pause, came)
            held = []
            with closing(_finished(sweep, left, workers, came)) as finished:
                for number, code in finished:
                    done += code == 0
                    (held if code == LOCKED else failed).extend([number] * (code != 0))
                    line(f"{done}/{len(sweep.names)} {sweep.names[number]}: {_outcome(sweep, number, code)}")
            left = held
            if came or not left:
                break
    if came:
        line(f"interrupted: {done} of {len(sweep.names)} runs are finished; the same command goes on")
        return INTERRUPTED
    for what, numbers in (("failed", failed), ("are in use by other processes still", left)):
        if numbers:
            line(f"{len(numbers)} of {len(sweep.names)} runs {what}; to repeat them:")
        for number in numbers:
            line(f"  {shlex.join(sweep.commands[number])}")
    return 1 if failed else LOCKED if left else 0


def _finished(sweep: Sweep, numbers: Iterable[int], workers: int, came: list[int]) -> Generator[tuple[int, int]]:
    """Each run's number and exit code as it ends; those still running are ended when this is closed."""
    waiting, running = deque(numbers), {}
    try:
        while (waiting or running) and not came:
            while waiting and len(running) < workers:
                number = waiting.popleft()
                running[number] = _start(sweep, number)
            time.sleep(POLL)
            for number in [number for number, process in running.items() if process.poll() is not None]:
                yield number, running.pop(number).returncode
    finally:
        _end(running.values(), came)


def _start(sweep: Sweep, number: int) -> subprocess.Popen:
    """A process in a group of its own: a Ctrl-C is for us, who then end it."""
    command = sweep.commands[number]
    log = _log(sweep, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"$ {shlex.join(command)}\n".encode())
        output.flush()
        return subprocess.Popen(
            _own_bdal() + command[1:] if command[0] == "bdal" else command,
            env=os.environ | {"PYTHONUNBUFFERED": "1"}, process_group=0,
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _own_bdal() -> list[str]:
    beside = Path(sys.executable).with_name("bdal")
    return [str(beside)] if beside.is_file() else [sys.executable, "-m", "bdal"]


def _end(processes: Iterable[subprocess.Popen], came: list[int]) -> None:
    """Ask them to end, and kill those that have not after a while, or at a second interrupt."""
    processes, deadline, before = list(processes), time.monotonic() + GRACE, len(came)
    for process in processes:
        process.terminate()
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline or len(came) > max(before, 1):
            for process in processes:
                process.kill()
        time.sleep(POLL / 10)


def _outcome(sweep: Sweep, number: int, code: int) -> str:
    if code == 0:
        return "finished"
    if code == LOCKED:
        return "in use by another process"
    how = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    log = _log(sweep, number)
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        said = [text for text in file.read().decode(errors="replace").splitlines() if text.strip()]
    return f"failed, {how}: {said[-1].strip() if said else ''} ({log})"


def _log(sweep: Sweep, number: int) -> Path:
    return sweep.root / "logs" / f"{sweep.names[number]}.log"


def _sleep(seconds: float, came: list[int]) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not came:
        time.sleep(POLL)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The interrupts that have come, instead of exceptions at any place.

    One that is ignored (`nohup`) stays so, and outside of the main thread none come.
    """
    came: list[int] = []
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in caught}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    before = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
