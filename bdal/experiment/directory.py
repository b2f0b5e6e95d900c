"""The run directory: what is written while an experiment runs, so that a crash at any moment leaves it readable.

    WORKDIR/config.yaml  run.json  run.lock  warnings.jsonl           what is run, on what, by whom; what it warned of
    WORKDIR/<posterior>/<strategy>/seed_<s>/ledger.jsonl              what was asked, answered and measured; no clocks
    WORKDIR/<posterior>/<strategy>/seed_<s>/metrics.jsonl             the same rounds with seconds and gains
    WORKDIR/<posterior>/<strategy>/seed_<s>/parameters/               of the last committee, if the config asks for it
    WORKDIR/query/                                                    the open query, where people answer
    WORKDIR/curves.png  curves.pdf  table.md  table.csv               made from the ledgers

A ledger's events, in their order (indices are pool indices; a label is null where the oracle abstained):

    {"event": "validation", "indices": [...], "labels": [...]}
    {"event": "initial", "indices": [...], "labels": [...]}
    {"event": "evaluated", "round": r, "labels": n, "validation_labels": v, "abstained": a, "points": T, "members": K,
     "accuracy": ..., "nll": ..., "brier": ..., "ece": ...}           once a round, then, unless it was the last:
    {"event": "queried", "round": r, "indices": [...]}
    {"event": "labelled", "round": r, "indices": [...], "labels": [...]}
    {"event": "finished", "round": r, "reason": "budget" | "exhausted" | "ceiling" | "stabilised" | "no_gain"}

Where people answer, round -1 is a query for the labels to start with, and a round has as many "labelled" events as
there were parts in which it was answered, with the "source" if that was a file. They may hold several answers for a
point, and points of earlier rounds: whoever corrects an answer leaves both in the ledger. "evaluated" has
`"on": "validation"` where there is no test set, and the "predictions" on the stop set and their "agreement" with those
of the round before where the config asks for them.

Every line ends in `"crc"`, CRC-32 of the line and of the "crc" before it: a line that was changed, taken out or put in
by anything but `append` is found.
"""

import errno
import json
import math
import os
import re
import signal
import warnings
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from bdal.environment import versions
from bdal.errors import ConfigError, NonFiniteError
from bdal.experiment import config


class CorruptRunError(ValueError):
    """A file of a run directory that no interrupted write can explain: it was damaged or edited."""


class Row(NamedTuple):
    """One evaluation: a model trained on `labels` labels (and stopped by `validation_labels` more).

    `labels` counts what was paid for: the abstentions that are charged are in it.
    """

    posterior: str
    strategy: str
    seed: int
    labels: int
    validation_labels: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    abstained: int = 0


class SeedRun(NamedTuple):
    """What one (posterior, strategy, seed) has written so far, finished or not."""

    posterior: str
    strategy: str
    seed: int
    folder: Path
    events: list[dict[str, Any]]  # of the ledger
    metrics: list[dict[str, Any]]  # the last line of each round, by round

    @property
    def reason(self) -> str | None:
        """Why it stopped; None while it has not."""
        last = self.events[-1] if self.events else {}
        return last.get("reason") if last.get("event") == "finished" else None


# -- files -----------------------------------------------------------------------------------------------------------


def failpoint(name: str) -> None:
    """End the process as `kill -9` would, if BDAL_FAILPOINT is `name`, or `name:n` at the n-th time, to test crashes.

    Before, inside and after every event of a ledger there is one (`before_queried`, `torn_queried`, `after_queried`),
    likewise around lines of other files, by their file's name, and before and after a file is put in its place.
    """
    wanted = os.environ.get("BDAL_FAILPOINT")
    if not wanted:
        return
    place, _, turn = wanted.partition(":")
    if place == name:
        _passed[name] = _passed.get(name, 0) + 1
        if _passed[name] == int(turn or 1):
            os.kill(os.getpid(), signal.SIGKILL)


_passed: dict[str, int] = {}


def write_atomic(path: str | Path, content: str | bytes) -> None:
    """Put `content` at `path` whole or not at all: a temporary file beside it, fsync, rename, fsync of the folder."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        failpoint(f"before_{path.name}")
        os.replace(temporary, path)
        failpoint(f"after_{path.name}")
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append(path: str | Path, event: dict[str, Any]) -> None:
    """One event as one JSON line at the end of the file, on disk when this returns; a torn last line is cut off first.

    NumPy and JAX numbers and arrays are written as plain ones. Raises `NonFiniteError` naming a NaN or infinite field,
    and `OSError` where it cannot be written: then what was there is there still.
    """
    path = Path(path)
    event = plain(event)
    name = event.get("event", path.stem)
    if bad := [f"{field} is {value}" for field, value in _numbers(event) if not math.isfinite(value)]:
        raise NonFiniteError(f"{path}: {name!r}: {', '.join(bad[:5])}; only finite numbers are written")
    body = json.dumps(event, allow_nan=False, ensure_ascii=False).encode()
    new = not path.exists()
    failpoint(f"before_{name}")
    with path.open("ab+", buffering=0) as file:
        end = _whole_lines(file)
        file.truncate(end)
        line = _sealed(body, _last_seal(file, end))
        try:
            if os.environ.get("BDAL_FAILPOINT"):
                file.write(line[: len(line) // 2])
                failpoint(f"torn_{name}")
                file.truncate(end)
            written = 0
            while written < len(line):
                written += file.write(line[written:])
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(end)
            error.filename = error.filename or str(path)
            raise
    if new:
        sync_folder(path.parent)
    failpoint(f"after_{name}")


def read(path: str | Path, *, unsealed: bool = False) -> list[dict[str, Any]]:
    """The events of a file, oldest first, without their checksums; none if the file is not there.

    A last line without its line end was torn by a crash: it is left out with a warning. Any other line that is not one
    JSON object, or whose checksum does not fit, raises `CorruptRunError` naming file and line. `unsealed` also takes
    the files of bdal 0.1.0, which had no checksums.
    """
    path = Path(path)
    if not path.exists():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    if _WHOLE.search(torn):  # its line end was damaged: the line was written in full, and may hold answers
        lines, torn = [*lines, torn], b""
    if torn:
        warnings.warn(f"{path}: line {len(lines) + 1} was cut off by a crash and is left out", stacklevel=2)
    unsealed = unsealed and not any(b'"crc"' in line for line in lines)
    events, seal = [], b""
    for number, line in enumerate(lines, start=1):
        where = f"{path}: line {number}"
        body, found = (line, b"") if unsealed else (line[:-_SEAL] + b"}", line[-10:-2])
        if not unsealed and _sealed(body, seal) != line + b"\n":
            raise CorruptRunError(
                f"{where}: its checksum does not fit: it was damaged, or lines were edited, taken out or put in; found "
                f"{line[:60]!r}; lines before it are as they were written"
            )
        try:
            event = json.loads(body, parse_constant=_refuse_constant)
        except ValueError as error:
            raise CorruptRunError(f"{where}: expected one JSON object, found {line[:60]!r}") from error
        if not isinstance(event, dict):
            raise CorruptRunError(f"{where}: expected one JSON object, found {line[:60]!r}")
        events.append(event)
        seal = found
    return events


_SEAL = len(b', "crc": "00000000"}')
_WHOLE = re.compile(rb', "crc": "[0-9a-f]{8}"}.+$', re.DOTALL)


def _sealed(body: bytes, before: bytes) -> bytes:
    """The line of a JSON object: its last field is CRC-32 of the object and of the checksum before it."""
    return body[:-1] + b', "crc": "%08x"}\n' % zlib.crc32(before + body)


def _last_seal(file, end: int) -> bytes:
    """The checksum of the line that ends at `end`; none at the start of a file."""
    file.seek(max(0, end - _SEAL - 1))
    found = re.fullmatch(rb', "crc": "([0-9a-f]{8})"}\n', file.read(_SEAL + 1)) if end else None
    return found[1] if found else b""


def _whole_lines(file) -> int:
    """The number of bytes up to and with the last line end."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def plain(value: Any) -> Any:
    """NumPy and JAX numbers and arrays inside `value` as plain ones."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case _ if hasattr(value, "tolist"):
            return value.tolist()
        case _:
            return value


def _numbers(value: Any, field: str = ""):
    match value:
        case float():
            yield field, value
        case dict():
            for key, item in value.items():
                yield from _numbers(item, f"{field}.{key}" if field else key)
        case list():
            for place, item in enumerate(value):
                yield from _numbers(item, f"{field}[{place}]")


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- the run ---------------------------------------------------------------------------------------------------------


def seed_folder(workdir: str | Path, comparison: config.Comparison, strategy: config.Strategy, seed: int) -> Path:
    """Where one (posterior, strategy, seed) keeps its ledger and metrics."""
    return Path(workdir) / comparison.posterior / comparison.label(strategy) / f"seed_{seed}"


def make(workdir: Path) -> None:
    """Make a run directory; raises `ConfigError` if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write", str(workdir))
    except OSError as error:
        raise _unusable(workdir, error) from error


def _unusable(workdir: Path, error: OSError) -> ConfigError:
    at = error.filename or workdir
    return ConfigError(f"{workdir}: cannot be used as a run directory: {at}: {error.strerror or error}")


def write_run(
    workdir: str | Path, experiment: config.Experiment, fingerprint: Any, *, facts: dict[str, Any] | None = None,
    allow_mismatch: bool = False,
) -> list[str]:  # fmt: skip
    """Make the run directory with all its folders, and write `config.yaml` and `run.json` or check those in it.

    `fingerprint` says which data is used, as JSON, and `facts` more of it for readers. Raises `ConfigError`, before any
    training, if the directory cannot be written, or holds a run of another config, on other data or in another
    environment (backend, devices, versions), naming what differs. With `allow_mismatch` the run goes on all the same,
    and `run.json` keeps what differed for the report. Returns those differences.
    """
    workdir = Path(workdir)
    identity = run_identity(experiment, fingerprint) | ({"facts": plain(facts)} if facts else {})
    try:
        make(workdir)
        known = (workdir / "config.yaml").exists()
        found = differences(workdir, experiment, fingerprint) if known else []
        if found and not allow_mismatch:
            raise _another_run(workdir, found)
        if found:
            _accept(workdir, found, identity)
        for comparison in experiment.comparisons:
            for strategy in comparison.strategies:
                for seed in experiment.seed_numbers:
                    folder = seed_folder(workdir, comparison, strategy, seed)
                    folder.mkdir(parents=True, exist_ok=True)
                    if not os.access(folder, os.W_OK):
                        raise PermissionError(errno.EACCES, "no permission to write", str(folder))
        if not known or not (workdir / "run.json").exists():
            write_atomic(workdir / "run.json", _json(identity))
        if not known or config.load(workdir / "config.yaml") != experiment:  # its data may lie elsewhere now
            write_atomic(workdir / "config.yaml", config.dump(experiment))  # last: with a config, all is there
    except OSError as error:
        raise _unusable(workdir, error) from error
    return found


def run_identity(experiment: config.Experiment, fingerprint: Any) -> dict[str, Any]:
    """What `run.json` says: config digest, data fingerprint, chunk size, and the environment."""
    return {
        "config": config.digest(experiment),
        "data": plain(fingerprint),
        "chunk_size": experiment.query.chunk_size,
        **_environment(),
    }


def identity_of(workdir: str | Path) -> dict[str, Any]:
    """What `run.json` holds; empty if there is none. Raises `CorruptRunError` if it is not what this package wrote."""
    path = Path(workdir) / "run.json"
    if not path.exists():
        return {}
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(identity, dict):
            raise ValueError("no JSON object")
        return identity
    except ValueError as error:
        raise CorruptRunError(f"{path}: expected what this package wrote, found other text") from error


def _environment() -> dict[str, Any]:
    """What the last digits of a result depend on."""
    import jax

    devices = jax.devices()
    environment = {
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "versions": versions(),
    }
    if environment["backend"] == "cpu":  # XLA divides a sum among its threads, and another division rounds otherwise
        environment["threads"] = _threads()
    return environment


def _threads() -> int:
    """How many threads XLA has on the CPU: NPROC, or the cores that this process may use."""
    asked = os.environ.get("NPROC", "")
    if asked.isdecimal() and int(asked):
        return int(asked)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def differences(workdir: str | Path, experiment: config.Experiment, fingerprint: Any) -> list[str]:
    """In what the run that a directory holds differs from this one: config, environment, data; `there != now`."""
    workdir = Path(workdir)
    found = config.differences(config.load(workdir / "config.yaml"), experiment)
    known = identity_of(workdir)
    if not known:
        return found
    try:
        last, now = known.get("later", [known])[-1], _environment()
        there, here = ({**env, **env["versions"]} for env in (last, now))
        for name in here:
            if name != "versions" and there.get(name) != here[name]:
                found.append(f"{name}: {there.get(name)} != {here[name]}")
        if known["data"] != json.loads(json.dumps(plain(fingerprint))):
            found.append(f"data: {known['data']} != {fingerprint}")
    except (KeyError, TypeError, AttributeError) as error:
        where = workdir / "run.json"
        raise CorruptRunError(f"{where}: expected what this package wrote, found other text") from error
    return found


def check_same(workdir: str | Path, experiment: config.Experiment, fingerprint: Any) -> None:
    """Raise `ConfigError` unless a directory holds this very run; writes nothing."""
    if found := differences(workdir, experiment, fingerprint):
        raise _another_run(workdir, found)


def _another_run(workdir: str | Path, found: list[str]) -> ConfigError:
    return ConfigError(
        f"{workdir}: holds another run (there != now): {'; '.join(found)}; choose another directory, or go on all the "
        "same with --allow-mismatch of bdal run, which the report will say"
    )


LABELS_STAY = ("labels.", "seed:", "data.pool:", "data.builders.")  # which points were bought, and how many may be


def _accept(workdir: Path, found: list[str], identity: dict[str, Any]) -> None:
    """Have `run.json` say that the run goes on although it differs; refused where bought labels would be wrong."""
    fixed = [difference for difference in found if difference.startswith(LABELS_STAY)]
    if fixed and any(workdir.glob("*/*/seed_*/ledger.jsonl")):
        raise ConfigError(
            f"{workdir}: has labels that were bought, and what they were bought for cannot change: {'; '.join(fixed)}; "
            "choose another directory"
        )
    known = identity_of(workdir) or dict(identity)
    known["later"] = [*known.get("later", []), _environment()]
    known["mismatches"] = [*known.get("mismatches", []), *found]
    known |= {name: identity[name] for name in ("config", "data", "chunk_size", "facts") if name in identity}
    write_atomic(workdir / "run.json", _json(known))


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"


# -- reading a run ---------------------------------------------------------------------------------------------------


def seed_runs(workdir: str | Path) -> list[SeedRun]:
    """Every ledger of a run directory with its metrics, finished or not, by posterior, strategy and seed.

    Raises `CorruptRunError` as `read` does.
    """
    runs = []
    for ledger in Path(workdir).glob("*/*/seed_*/ledger.jsonl"):
        posterior, strategy, folder = ledger.relative_to(workdir).parts[:3]
        number = folder.removeprefix("seed_")
        if not number.isdecimal():
            continue
        metrics = {line.get("round"): line for line in read(ledger.with_name("metrics.jsonl"), unsealed=True)}
        runs.append(
            SeedRun(
                posterior, strategy, int(number), ledger.parent, read(ledger, unsealed=True), list(metrics.values())
            )
        )
    return sorted(runs, key=lambda run: run[:3])


def results(workdir: str | Path) -> list[Row]:
    """Every evaluation in a run directory, finished or not, by posterior, strategy, seed and labels.

    Raises `CorruptRunError` if an "evaluated" event lacks a field.
    """
    cost = _abstain_cost(workdir)
    return sorted(row for run in seed_runs(workdir) for row in rows_of(run, cost))


def rows_of(run: SeedRun, abstain_cost: int = 1) -> list[Row]:
    """The evaluations of one (posterior, strategy, seed)."""
    rows = []
    for number, event in enumerate(run.events, start=1):
        if event.get("event") != "evaluated":
            continue
        try:
            measured = {field: event[field] for field in Row._fields[3:-1]}
        except KeyError as error:
            where = run.folder / "ledger.jsonl"
            raise CorruptRunError(f"{where}: line {number}: 'evaluated' without {error}") from error
        abstained = event.get("abstained", 0)
        measured["labels"] += abstain_cost * abstained
        rows.append(Row(run.posterior, run.strategy, run.seed, **measured, abstained=abstained))
    return rows


def _abstain_cost(workdir: str | Path) -> int:
    """What the config charges for an abstention; 1 where it cannot be read, as by default."""
    try:
        return config.load(Path(workdir) / "config.yaml").labels.abstain_cost
    except ConfigError:
        return 1
