"""Rounds of a loop of one's own, in a run directory: `bdal report` and the statistics read them as those of `bdal run`.

WORKDIR/run.json                                              that this is no run of a config, and its name
WORKDIR/<posterior>/<strategy>/seed_<s>/ledger.jsonl          "evaluated", "queried" and "finished"
WORKDIR/<posterior>/<strategy>/seed_<s>/metrics.jsonl         the same rounds with gains, seconds and what the fit tells
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from bdal.config.strict import show
from bdal.environment import expanded, versions
from bdal.errors import ConfigError
from bdal.store import directory, durable
from bdal.store.ledger import Ledger
from bdal.store.lock import alone

PHASES = ("fit", "query", "evaluate")  # of a round, as reports draw them
SHARE = "a share from 0 to 1"
TOP = {"accuracy": 1.0, "nll": math.inf, "brier": 2.0, "ece": 1.0}
_PART = re.compile(r"[\w+][\w .+=,()-]*(?<! )")


def write_round(
    workdir: str | Path, *, method: str, seed: int, round: int, labels: int, accuracy: float, nll: float | None = None,
    brier: float | None = None, ece: float | None = None, validation_labels: int = 0, points: int = 0, members: int = 0,
    indices: Any = None, gains: Any = None, seconds: Mapping[str, float] | None = None,
    fit: Mapping[str, Any] | None = None, about: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write one round of a loop of one's own; it is on disk when this returns.

    The first call makes the directory. A round that is there with the same numbers is not written again, whatever its
    seconds, so that a loop that was killed may run again from its start. Processes may write at the same time, each a
    (method, seed) of its own.

    Args:
      workdir: the run directory, not that of a config.
      method: "posterior/strategy", such as "ensemble/margin". Strategies are compared under each posterior.
      seed: at least 0. Methods are compared on the seeds that they share, on which they should start alike.
      round: 0, 1, ...
      labels: on which the model was trained: the x-axis of the learning curve.
      accuracy: on test points, from 0 to 1.
      nll, brier, ece: on the same points, in nats, from 0 to 2, and from 0 to 1. None is left out of reports.
      validation_labels: paid for besides `labels`.
      points, members: how many test points it was measured on, and of how many members the committee was; 0: not known.
      indices: `[Q]` the pool points that this round queried; None or empty in the last round.
      gains: `[Q]` their gains, on the strategy's own scale.
      seconds: how long phases took, any of "fit", "query" and "evaluate".
      fit: what the fit tells of itself, scalars or `[K]` by their names, such as `Committee.info`: the report shows
        `steps`, `best_step`, `validation_nll`, `diverged`, and `most_predicted`, the share of the test points that are
        predicted as the commonest class. What is not finite is written as null.
      about: `name`, of the whole experiment (by default the folder's), and `data`, on which it is. Directories of one
        name and one data are reported as one.

    Raises:
      ConfigError: a value of another type, shape or range, before anything is written; a round that is there with other
        numbers, which it names; one that is not the next; or a directory that is not of a loop of one's own.
      CorruptRunError: a file that no interrupted write can explain.

    >>> import tempfile
    >>> from bdal.store import finish, write_round
    >>> from bdal.store.directory import results
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for round, accuracy in enumerate([0.5, 0.7]):
    ...         labels = 20 + 10 * round
    ...         write_round(folder, method="forest/bald", seed=0, round=round, labels=labels, accuracy=accuracy)
    ...     finish(folder, method="forest/bald", seed=0)
    ...     [(row.labels, row.accuracy) for row in results(folder)]
    [(20, 0.5), (30, 0.7)]
    """
    number = _count("round", round)
    measured: dict[str, Any] = {
        "round": number, "labels": _count("labels", labels),
        "validation_labels": _count("validation_labels", validation_labels),
    }  # fmt: skip
    known = {"points": _count("points", points), "members": _count("members", members)}
    measured |= {name: value for name, value in known.items() if value}
    scores = {"accuracy": accuracy, "nll": nll, "brier": brier, "ece": ece}
    measured |= {
        name: _number(name, value, TOP[name])
        for name, value in scores.items()
        if value is not None or name == "accuracy"
    }
    query = _indices(indices)
    more: dict[str, Any] = {"fit": _told(fit), "gains": _gains(gains, query)}
    more = {name: value for name, value in more.items() if value}
    spent = {"seconds": _seconds(seconds)} if seconds else {}

    with _held(workdir, method, seed, about) as (ledger, begin):
        there = _before(ledger, number, measured, query, more)
        begin()
        if not there:
            ledger.record({"event": "evaluated", **measured})
        ledger.measure(measured | more | spent)
        if query and not ledger.finished:
            ledger.record({"event": "queried", "round": number, "indices": query})


def finish(workdir: str | Path, *, method: str, seed: int, reason: str = "budget") -> None:
    """Write that a (method, seed) has come to its end; called again with the same reason it does nothing.

    Args:
      workdir, method, seed: as in `write_round`.
      reason: why: "budget", "exhausted", "stabilised", "no_gain", or in words of one's own.

    Raises:
      ConfigError: no round is there, or it has finished for another reason.
    """
    if not isinstance(reason, str) or not reason.strip():
        raise ConfigError(f"reason: expected a word or more, such as budget, found {show(reason)}")
    with _held(workdir, method, seed, None, new=False) as (ledger, _):
        if ledger.finished:
            if (known := ledger.events[-1]["reason"]) != reason:
                raise ConfigError(f"{ledger.folder}: has finished already: reason: {known} != {reason}")
            return
        ledger.record({"event": "finished", "round": _last(ledger), "reason": reason})


# -- the directory ----------------------------------------------------------------------------------------------------


@contextmanager
def _held(workdir, method, seed, about, *, new: bool = True) -> Iterator[tuple[Ledger, Callable[[], None]]]:
    """The ledger of a (method, seed), of which this process alone writes, and what makes its folder and `run.json`."""
    parts = method.split("/") if isinstance(method, str) else []
    if len(parts) != 2 or not all(map(_PART.fullmatch, parts)):
        raise ConfigError(
            "method: expected posterior/strategy, two names of letters, digits and . _ + - = ( ), such as "
            f"ensemble/margin, found {show(method)}"
        )
    number, about = _count("seed", seed), _about(about)
    workdir = expanded(workdir).resolve()
    folder = workdir.joinpath(*parts, f"seed_{number}")
    if not new and not (folder / "ledger.jsonl").exists():
        raise ConfigError(f"{folder}: has no round yet; write_round writes one")
    _identity(workdir, about)  # before anybody waits for a run that is going on there
    directory.make(workdir)
    with alone(workdir):
        identity = _identity(workdir, about)

        def begin() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            if not (workdir / "run.json").exists():
                durable.write_atomic(workdir / "run.json", json.dumps(identity, indent=2) + "\n")

        yield Ledger(number, folder, {"run": identity["run"], "method": method, "seed": number}), begin


def _identity(workdir: Path, about: dict[str, str]) -> dict[str, Any]:
    """What `run.json` says, or is to say. Raises `ConfigError` for the directory of something else."""
    known = directory.identity_of(workdir)
    if known.get("loop") != directory.OWN:
        if known or (workdir / "config.yaml").exists():
            raise ConfigError(f"{workdir}: holds a run of `bdal run`; choose another directory for a loop of your own")
        if directory.has_labels(workdir):
            raise durable.CorruptRunError(f"{workdir}: has ledgers and no run.json, which says whose they are")
        name = about.get("name", workdir.name)
        return {"run": name, "loop": directory.OWN, "about": {"name": name, **about}, "versions": versions()}
    there = known.get("about", {})
    if found := [
        f"about.{name}: {there.get(name)} != {value}" for name, value in about.items() if there.get(name) != value
    ]:
        raise ConfigError(f"{workdir}: is of another loop (there != now): {'; '.join(found)}; choose another directory")
    return known


def _last(ledger: Ledger) -> int:
    return max((event["round"] for event in ledger.events if event["event"] == "evaluated"), default=-1)


def _before(ledger: Ledger, number: int, measured, query: list[int], more: dict[str, Any]) -> bool:
    """Whether a round is there with these numbers. Raises `ConfigError` for other ones, and for one out of its turn."""
    last, where = _last(ledger), f"{ledger.folder}: round {number}"
    known = ledger.find("evaluated", number)
    if known is None:
        if ledger.finished:
            raise ConfigError(f"{where}: is after the end: it has finished with round {last}")
        if number != last + 1:
            raise ConfigError(f"{where}: expected round {last + 1}, the next one; rounds are numbered 0, 1, ...")
        before = ledger.find("evaluated", last)
        if before is not None and before["labels"] > measured["labels"]:
            raise ConfigError(
                f"{where}: labels: expected at least the {before['labels']} before, found {measured['labels']}"
            )
        return False
    fields = ("labels", "validation_labels", "points", "members", *TOP)
    found = [(name, known.get(name), measured.get(name)) for name in fields]
    lines = durable.read(ledger.folder / "metrics.jsonl")
    line = next((line for line in lines if line["round"] == number), None)
    if line is not None:
        found += [(name, line.get(name), more.get(name)) for name in ("gains", "fit")]
    if number < last or ledger.finished or ledger.queried(number):
        found.append(("indices", ledger.queried(number) or None, query or None))
    if differing := [f"{name}: {show(one)} != {show(other)}" for name, one, other in found if one != other]:
        raise ConfigError(
            f"{where}: is there already with other numbers (there != now): {'; '.join(differing)}; a loop that goes on "
            "repeats its rounds exactly, another one has another directory or seed"
        )
    return True


# -- values -----------------------------------------------------------------------------------------------------------


def _about(about: Any) -> dict[str, str]:
    if about is None:
        return {}
    if not isinstance(about, Mapping) or not all(isinstance(value, str) and value.strip() for value in about.values()):
        raise ConfigError(f"about: expected texts by their names, such as {{'name': 'mine'}}, found {show(about)}")
    if unknown := sorted(map(str, about.keys() - {"name", "data"})):
        raise ConfigError(f"about: expected name or data, found {unknown[0]}")
    return dict(about)


def _scalar(value: Any) -> Any:
    """A number of NumPy, JAX or PyTorch as a plain one; all else as it is."""
    return value.item() if hasattr(value, "item") and getattr(value, "shape", None) == () else value


def _count(name: str, value: Any) -> int:
    value = _scalar(value)
    if type(value) is not int or value < 0:
        raise ConfigError(f"{name}: expected a whole number of at least 0, found {_found(value)}")
    return value


def _number(name: str, value: Any, most: float = math.inf) -> float:
    value = _scalar(value)
    if type(value) not in (int, float):
        raise ConfigError(f"{name}: expected a number, found {_found(value)}")
    if not math.isfinite(value):
        raise ConfigError(f"{name}: expected a finite number, found {value}; leave it out where there is none")
    if most < math.inf and not 0 <= value <= most:
        percent = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 and most == 1 else ""
        raise ConfigError(f"{name}: expected {SHARE if most == 1 else f'0 to {most:g}'}, found {value:g}{percent}")
    return float(value)


def _array(name: str, values: Any, kinds: str, what: str) -> np.ndarray:
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # ragged lists; tensors on a GPU or with gradients
        raise ConfigError(f"{name}: expected {what}, found {_found(values)}: {error}") from error
    if array.ndim > 1 or array.dtype.kind not in kinds:
        raise ConfigError(f"{name}: expected {what}, found {_found(values)}")
    return array


def _vector(name: str, values: Any) -> np.ndarray:
    array = _array(name, values, "iuf", "a list of numbers")
    if not array.ndim:
        raise ConfigError(f"{name}: expected a list of numbers, found {_found(values)}")
    return array


def _indices(indices: Any) -> list[int]:
    if indices is None:
        return []
    array = _vector("indices", indices)
    if not array.size:
        return []
    if array.dtype.kind == "f" or array.min() < 0:
        raise ConfigError(f"indices: expected pool points, whole numbers of at least 0, found {_found(array.tolist())}")
    values, counts = np.unique(array, return_counts=True)
    if len(values) < len(array):
        raise ConfigError(f"indices: expected each point once, found {values[counts > 1][0]} more than once")
    return array.tolist()


def _gains(gains: Any, query: list[int]) -> list[float]:
    if gains is None:
        return []
    array = _vector("gains", gains)
    if len(array) != len(query):
        raise ConfigError(f"gains: expected {len(query)}, one for each of indices, found {len(array)}")
    if not np.isfinite(array).all():
        raise ConfigError(f"gains: expected finite numbers, found {_found(array.tolist())}")
    return array.astype(float).tolist()


def _seconds(seconds: Any) -> dict[str, float]:
    if not isinstance(seconds, Mapping) or not set(seconds) <= set(PHASES):
        raise ConfigError(f"seconds: expected any of {', '.join(PHASES)} with their seconds, found {_found(seconds)}")
    return {name: _number(f"seconds.{name}", value) for name, value in seconds.items()}


def _told(fit: Any) -> dict[str, list[Any]]:
    if fit is None:
        return {}
    if not isinstance(fit, Mapping) or not all(isinstance(name, str) for name in fit):
        raise ConfigError(f"fit: expected scalars or lists by their names, found {_found(fit)}")
    told = {}
    for name, value in fit.items():
        array = _array(f"fit.{name}", value, "biuf", "a scalar, or one for each member")
        whole = [each if type(each) is not float or math.isfinite(each) else None for each in array.ravel().tolist()]
        told[name] = whole if array.ndim else whole[0]
    return told


def _found(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return f"shape {tuple(shape)}" if shape is not None else show(value)
