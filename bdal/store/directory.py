"""The run directory: what is written while an experiment runs, so that a crash at any moment leaves it readable.

    WORKDIR/config.yaml  run.json  run.lock  warnings.jsonl           what is run, on what, by whom; what it warned of
    WORKDIR/<posterior>/<strategy>/seed_<s>/ledger.jsonl              what was asked, answered and measured; no clocks
    WORKDIR/<posterior>/<strategy>/seed_<s>/metrics.jsonl             the same rounds with seconds and gains
    WORKDIR/<posterior>/<strategy>/seed_<s>/parameters/               of the last committee, if the config asks for it
    WORKDIR/query/                                                    the open query, where people answer
    WORKDIR/curves.png  curves.pdf  table.md  table.csv               made from the ledgers

A ledger's events, in their order (indices are pool indices; a label is null where the oracle abstained). The first one
says whose ledger it is as well, `"run": "...", "method": "mc_dropout/bald", "seed": 3`, as does the first line of the
metrics; `run.json` has the run's name.

    {"event": "validation", "indices": [...], "labels": [...]}
    {"event": "initial", "indices": [...], "labels": [...]}
    {"event": "evaluated", "round": r, "labels": n, "validation_labels": v, "abstained": a, "points": T, "members": K,
     "accuracy": ..., "nll": ..., "brier": ..., "ece": ...}           once a round, then, unless it was the last:
    {"event": "queried", "round": r, "indices": [...]}
    {"event": "labelled", "round": r, "indices": [...], "labels": [...]}
    {"event": "finished", "round": r, "reason": "budget" | "exhausted" | "ceiling" | "stabilised" | "no_gain"}

Where people answer, round -1 is a query for the labels to start with, and a round has as many "labelled" events as
there were parts in which it was answered, with the "source" if that was a file. They may hold several answers for a
point, and points of earlier rounds: a correction leaves both answers in the ledger.

"evaluated" is by the K members and on the T test points that `evaluation` asks for, in every round. That of the last
round also has `"final": {"members": ..., "points": ..., "accuracy": ..., "nll": ..., "brier": ..., "ece": ...}`, by all
members on all test points: the same numbers where `evaluation` leaves none out. It has `"on": "validation"` where there
is no test set, and the "predictions" on the stop set and their "agreement" with those of the round before where the
config asks for them.

Every line is sealed (`bdal.store.durable`).
"""

import errno
import hashlib
import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from bdal import config
from bdal.environment import versions
from bdal.errors import ConfigError
from bdal.store.durable import CorruptRunError, plain, read, write_atomic
from bdal.store.ledger import check_owner
from bdal.store.lines import check_lines


class Row(NamedTuple):
    """One evaluation: a model trained on `labels` labels (and stopped by `validation_labels` more).

    NaN stands for a score that is not known.

    `labels` counts what was paid for: the abstentions that are charged are in it. `members` of its committee were
    evaluated, on `points` test points; 0 where that is not known.
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
    members: int = 0
    points: int = 0


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


# -- the run ---------------------------------------------------------------------------------------------------------


def seed_folder(workdir: str | Path, comparison: config.Comparison, strategy: config.Named, seed: int) -> Path:
    """Where one (posterior, strategy, seed) keeps its ledger and metrics."""
    return Path(workdir) / comparison.method(strategy) / f"seed_{seed}"


def owner(workdir: str | Path, method: str, seed: int) -> dict[str, Any]:
    """The owner of a ledger: run (its name in `run.json`), method and seed."""
    return {"run": identity_of(workdir).get("run"), "method": method, "seed": seed}


# of a config, what says which runs there are, and not how one is done
WHICH = ("name", "seeds", "first_seed", "together", "parameters", "comparisons")

OWN = "own"  # of `loop` in `run.json`: the rounds of a loop of one's own (`bdal.store.own`), and no config
SCORES = ("nll", "brier", "ece")  # which such a loop may leave out

_OF_THE_RUN = (
    "config",
    "experiment",
    "data",
    "chunk_size",
    "facts",
    "parts",
)  # the rest of run.json is its environment
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # not the fault of the chosen directory


def make(workdir: Path) -> None:
    """Make a run directory; raises `ConfigError` if it cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not os.access(workdir, os.W_OK):
            raise PermissionError(errno.EACCES, "no permission to write", str(workdir))
    except OSError as error:
        _refuse(workdir, error)


def _refuse(workdir: Path, error: OSError) -> NoReturn:
    if error.errno in _NO_ROOM:
        raise error
    at = error.filename or workdir
    raise ConfigError(f"{workdir}: cannot be used as a run directory: {at}: {error.strerror or error}") from error


def write_run(
    workdir: str | Path, experiment: config.Experiment, fingerprint: Any, *, facts: dict[str, Any] | None = None,
    parts: dict[str, Any] | None = None, allow_mismatch: bool = False,
) -> list[str]:  # fmt: skip
    """Make the run directory with all its folders, and write `config.yaml` and `run.json` or check those in it.

    `fingerprint` says which data is used, as JSON, and `facts` more of it for readers; `parts` what those of one's own
    were. Raises `ConfigError`, before any
    training, if the directory cannot be written, or holds a run of another config, on other data or in another
    environment (backend, devices, versions), naming what differs. With `allow_mismatch` the run goes on all the same,
    and `run.json` keeps what differed for the report. Returns those differences.
    """
    workdir = Path(workdir)
    parts = plain(parts or {})
    identity = run_identity(experiment, fingerprint) | ({"facts": plain(facts)} if facts else {})
    identity |= {"parts": parts} if parts else {}
    _check_no_own(workdir)
    try:
        make(workdir)
        known = (workdir / "config.yaml").exists() or has_labels(workdir)
        found = differences(workdir, experiment, fingerprint, parts) if known else []
        if found and (not allow_mismatch or _fixed(workdir, experiment, found)):
            raise _another_run(workdir, experiment, found)
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
        path = workdir / "config.yaml"
        if not known or not path.exists() or config.load(path) != experiment:  # its data may lie elsewhere now
            write_atomic(path, config.dump(experiment))  # last: with a config, all is there
    except OSError as error:
        _refuse(workdir, error)
    return found


def run_identity(experiment: config.Experiment, fingerprint: Any) -> dict[str, Any]:
    """What `run.json` says: the run's name, the config and its digest, data fingerprint, chunk size, and environment.

    The name is made of what the run began with: how, on what and with which labels, whichever seeds and methods; what
    it goes on with does not change it.
    """
    how = {name: value for name, value in config.as_dict(config.anywhere(experiment)).items() if name not in WHICH}
    name = hashlib.sha256(json.dumps([how, plain(fingerprint)], sort_keys=True).encode()).hexdigest()[:12]
    return {
        "run": f"run-{name}",
        "config": config.digest(experiment),
        "experiment": config.as_dict(config.anywhere(experiment)),
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
        kinds = dict.fromkeys(("experiment", "versions", "facts", "parts", "about"), dict)
        kinds |= {"run": str, "loop": str, "later": list, "mismatches": list}
        if not isinstance(identity, dict) or not all(
            isinstance(identity.get(name, kind()), kind) for name, kind in kinds.items()
        ):
            raise ValueError("no JSON object of that form")
        return identity
    except (ValueError, RecursionError) as error:
        raise CorruptRunError(f"{path}: expected what this package wrote, found other text") from error


def _check_no_own(workdir: Path) -> None:
    if identity_of(workdir).get("loop") == OWN:
        raise ConfigError(
            f"{workdir}: holds the rounds of a loop of its own, which has no config: that loop goes on there, and bdal "
            "report reads it; choose another directory"
        )


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


def experiment_of(workdir: str | Path) -> config.Experiment:
    """The run that a directory holds: as it began, whatever was done to `config.yaml` since. Raises `ConfigError`."""
    workdir = Path(workdir)
    _check_no_own(workdir)
    known = identity_of(workdir).get("experiment")
    if known is None:  # a sweep's run that has not begun
        return config.load(workdir / "config.yaml")
    return config.typed(known, str(workdir / "run.json"))


def differences(
    workdir: str | Path, experiment: config.Experiment, fingerprint: Any, parts: dict[str, Any] | None = None
) -> list[str]:
    """In what the run of a directory differs from this one: config, environment, data, parts; `there != now`."""
    workdir = Path(workdir)
    known = identity_of(workdir)
    if not known and has_labels(workdir):
        raise CorruptRunError(f"{workdir}: has ledgers and no run.json, which says what they are of; put it back")
    found = config.differences(experiment_of(workdir), experiment)
    if not known:
        return found
    try:
        last, now = known.get("later", [known])[-1], _environment()
        there, here = ({**env, **env["versions"]} for env in (last, now))
        for name in here:
            if name != "versions" and there.get(name) != here[name]:
                found.append(f"{name}: {there.get(name)} != {here[name]}")
        if known["data"] != json.loads(json.dumps(plain(fingerprint))):
            there, here = (str(each)[:12] for each in (known["data"], fingerprint))
            found.append(f"data: {there} != {here}")
        found += differing_parts(known.get("parts", {}), parts or {})
    except (LookupError, TypeError, AttributeError) as error:
        where = workdir / "run.json"
        raise CorruptRunError(f"{where}: expected what this package wrote, found other text") from error
    return found


def differing_parts(known: dict[str, Any], parts: dict[str, Any]) -> list[str]:
    """In what parts of one's own differ; one that is not used any more is no difference, as the config says it."""
    found = []
    for name, now in parts.items():
        there = known.get(name)
        if there is None:
            found.append(f"{name}: another one, or none, != a part of one's own")
            continue
        for field in sorted(now.keys() | there.keys()):
            if (one := there.get(field)) != (other := now.get(field)):
                found.append(f"{name}: {field}: {_short(one)} != {_short(other)}")
    return found


def _short(value: Any) -> str:
    """A digest by its first digits, everything else in at most 60 characters."""
    text = str(value)
    return text[:12] if re.fullmatch(r"[0-9a-f]{64}", text) else text[:60]


def check_same(
    workdir: str | Path, experiment: config.Experiment, fingerprint: Any, parts: dict[str, Any] | None = None
) -> None:
    """Raise `ConfigError` unless a directory holds this very run; writes nothing."""
    if found := differences(workdir, experiment, fingerprint, plain(parts or {})):
        raise _another_run(workdir, experiment, found)


def has_labels(workdir: str | Path) -> bool:
    """Whether labels were bought in a directory."""
    return any(Path(workdir).glob("*/*/seed_*/ledger.jsonl"))


def _another_run(workdir: str | Path, experiment: config.Experiment, found: list[str]) -> ConfigError:
    if fixed := _fixed(workdir, experiment, found):
        return ConfigError(
            f"{workdir}: has labels that were asked for, and what they were asked for cannot change (there != now): "
            f"{'; '.join(fixed)}; bring it back as it was (of data: points, files and class names), or choose another "
            "directory"
        )
    return ConfigError(
        f"{workdir}: holds another run (there != now): {'; '.join(found)}; choose another directory, or go on all the "
        "same with --allow-mismatch of bdal run, which the report will say"
    )


LABELS_STAY = ("labels.", "seed:", "data:", "data.")  # which points were bought, how many may be, what a label means
PEOPLE_STAY = (*LABELS_STAY, "first_seed:", "comparisons.")  # where what people answered lies


def _fixed(workdir: str | Path, experiment: config.Experiment, found: list[str]) -> list[str]:
    """Those of the differences under which labels that were bought would be wrong, or lost."""
    stay = PEOPLE_STAY if experiment.labels.oracle == "people" else LABELS_STAY
    fixed = [each for each in found if each.startswith(stay) and not re.match(r"data\.test:|.*\.members:", each)]
    return fixed if has_labels(workdir) else []


def _accept(workdir: Path, found: list[str], identity: dict[str, Any]) -> None:
    """Have `run.json` say that the run goes on although it differs."""
    known = identity_of(workdir) or dict(identity)
    known["later"] = [*known.get("later", []), _environment()]
    known["mismatches"] = [*known.get("mismatches", []), *found]
    known |= {name: identity[name] for name in _OF_THE_RUN if name in identity}
    write_atomic(workdir / "run.json", _json(known))


def _json(tree: Any) -> str:
    return json.dumps(tree, indent=2, allow_nan=False) + "\n"


# -- reading a run ---------------------------------------------------------------------------------------------------


def seed_runs(workdir: str | Path) -> list[SeedRun]:
    """Every ledger of a run directory with its metrics, finished or not, by posterior, strategy and seed.

    Raises `CorruptRunError` as `read` does.
    """
    runs, named = [], "run" in identity_of(workdir)
    for ledger in Path(workdir).glob("*/*/seed_*/ledger.jsonl"):
        posterior, strategy, folder = ledger.relative_to(workdir).parts[:3]
        number = folder.removeprefix("seed_")
        if not number.isdecimal():
            continue
        events, lines = read(ledger), read(ledger.with_name("metrics.jsonl"))
        if named:
            whose = owner(workdir, f"{posterior}/{strategy}", int(number))
            check_owner(ledger, events, whose)
            check_owner(ledger.with_name("metrics.jsonl"), lines, whose)
        check_lines(ledger, events)
        check_lines(ledger.with_name("metrics.jsonl"), lines, "metrics")
        metrics = {line.get("round"): line for line in lines}
        runs.append(SeedRun(posterior, strategy, int(number), ledger.parent, events, list(metrics.values())))
    _check_no_copies(runs)
    return sorted(runs, key=lambda run: run[:3])


def _check_no_copies(runs: list[SeedRun]) -> None:
    """Raise an error if two seeds of a method start with the same points, for ledgers without an owner."""
    found = {}
    for run in runs:
        start = [event.get("indices") for event in run.events if event.get("event") in ("validation", "initial")]
        if len(start) == 2 and any(start):
            other = found.setdefault(repr([run[:2], start]), run)
            if other is not run:
                raise CorruptRunError(
                    f"{run.folder / 'ledger.jsonl'}: starts with the same points as {other.folder.name} beside it: it "
                    "is a copy; put its own back, or take its folder away"
                )


def results(workdir: str | Path) -> list[Row]:
    """Every evaluation in a run directory, finished or not, by posterior, strategy, seed and labels.

    NLL, Brier score and ECE are NaN where a loop of one's own has none. Raises `ConfigError` if there is no such
    directory, and `CorruptRunError` if an "evaluated" event lacks another field.
    """
    if not Path(workdir).is_dir():
        raise ConfigError(f"{workdir}: expected a run directory, found none")
    cost = _abstain_cost(workdir)
    return sorted(row for run in seed_runs(workdir) for row in rows_of(run, cost))


def rows_of(run: SeedRun, abstain_cost: int = 1) -> list[Row]:
    """The evaluations of one (posterior, strategy, seed) along its curve."""
    return [_row(run, place, {}, abstain_cost) for place, event in enumerate(run.events) if _is_evaluation(event)]


def final_row(run: SeedRun, abstain_cost: int = 1) -> Row | None:
    """What a finished run ended with, by all members on all test points; None for one that goes on.

    Runs of earlier versions have one last evaluation, by the members of the curve on all test points: that is it, then.
    """
    last = max((place for place, event in enumerate(run.events) if _is_evaluation(event)), default=None)
    if run.reason is None or last is None:
        return None
    return _row(run, last, run.events[last].get("final", {}), abstain_cost)


def _is_evaluation(event: dict[str, Any]) -> bool:
    return event.get("event") == "evaluated"


def _row(run: SeedRun, place: int, final: dict[str, Any], abstain_cost: int) -> Row:
    event = run.events[place] | final
    try:
        measured = {
            field: event.get(field, math.nan) if field in SCORES else event[field] for field in Row._fields[3:9]
        }
    except KeyError as error:
        where = run.folder / "ledger.jsonl"
        raise CorruptRunError(f"{where}: line {place + 1}: 'evaluated' without {error}") from error
    more = {field: event.get(field, 0) for field in Row._fields[9:]}
    measured["labels"] += abstain_cost * more["abstained"]
    return Row(run.posterior, run.strategy, run.seed, **measured, **more)


def _abstain_cost(workdir: str | Path) -> int:
    """What the config charges for an abstention; 1 where it cannot be read, as by default."""
    try:
        return config.load(Path(workdir) / "config.yaml").labels.abstain_cost
    except ConfigError:
        return 1
