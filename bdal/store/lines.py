"""The schema of the lines in a run's files. A checksum shows that a line is unchanged, not that it is valid."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bdal.config.strict import show
from bdal.store.durable import CorruptRunError


class _Kind(NamedTuple):
    expected: str
    holds: Callable[[Any], bool]


def _list_of(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(holds, value))


def _told(value: Any) -> bool:
    """A scalar that a fit tells, or one of each member; null where it is not finite."""
    return value is None or type(value) is bool or _is_number(value)


def _natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


TEXT = _Kind("text", lambda value: isinstance(value, str))
ROUND = _Kind("a round's number", lambda value: type(value) is int and value >= -1)
COUNT = _Kind("a number of at least 0", _natural)
NUMBER = _Kind("a number", _is_number)
POINTS = _Kind("a list of pool points", _list_of(_natural))
LABELS = _Kind("a list of labels", _list_of(lambda label: label is None or _natural(label)))
NUMBERS = _Kind("a list of numbers", _list_of(_is_number))
SECONDS = _Kind("seconds", lambda value: isinstance(value, dict) and all(map(_is_number, value.values())))
FIT = _Kind(
    "scalars by their names, or lists of them",
    lambda value: isinstance(value, dict) and all(_told(each) or _list_of(_told)(each) for each in value.values()),
)
FINAL = _Kind(
    "numbers by their names",
    lambda value: isinstance(value, dict) and all(map(_is_number, value.values())),
)

ALWAYS = {
    "validation": {"indices": POINTS, "labels": LABELS},
    "initial": {"indices": POINTS, "labels": LABELS},
    "labelled": {"round": ROUND, "indices": POINTS, "labels": LABELS},
    "queried": {"round": ROUND, "indices": POINTS},
    "evaluated": {"round": ROUND},
    "finished": {"round": ROUND, "reason": TEXT},
    "metrics": {"round": ROUND},
    "warning": {"where": TEXT, "category": TEXT, "message": TEXT},
}
MEASURED = {
    **dict.fromkeys(("labels", "validation_labels", "abstained", "points", "members"), COUNT),
    **dict.fromkeys(("accuracy", "nll", "brier", "ece", "agreement"), NUMBER),
    "on": TEXT,
    "predictions": LABELS,
    "final": FINAL,
    "fit": FIT,
    "gains": NUMBERS,
    "score_quantiles": NUMBERS,
    "seconds": SECONDS,
    "seeds": COUNT,
}
SOMETIMES = {"evaluated": MEASURED, "metrics": MEASURED}


def check_lines(path: str | Path, lines: Sequence[dict[str, Any]], kind: str | None = None) -> None:
    """Raise `CorruptRunError` with file, line and field for a line that this version does not write.

    Lines are events of a ledger unless all are of one `kind`, "metrics" or "warning". Events of other
    kinds and fields of other names are not checked.
    """
    for number, line in enumerate(lines, start=1):
        name = line.get("event") if kind is None else kind
        fields = ALWAYS.get(name, {}) if isinstance(name, str) else {"event": TEXT}
        sometimes = SOMETIMES.get(name, {}) if isinstance(name, str) else {}
        fields = fields | {field: each for field, each in sometimes.items() if field in line}
        for field, (expected, holds) in fields.items():
            if not holds(line.get(field)):
                _refuse(path, number, name, field, expected, line.get(field))
        if LABELS is fields.get("labels") and len(line["labels"]) != len(line["indices"]):
            _refuse(path, number, name, "labels", f"{len(line['indices'])}, one a point", line["labels"])


def _refuse(path, number: int, name: Any, field: str, expected: str, found: Any):
    raise CorruptRunError(
        f"{path}: line {number}: {show(name)}: {field}: expected {expected}, found {show(found)}; it was not written "
        "by this version of bdal"
    )
