"""Learning curves from a CSV file, as rows of a run."""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import NoReturn

from bdal.environment import expanded
from bdal.errors import ConfigError
from bdal.store.directory import Row

SCORES = {"accuracy": 1.0, "nll": math.inf, "brier": 2.0, "ece": 1.0}  # and the most that each can be
VALUE = "value"  # another name of accuracy
COLUMNS = "method (or posterior and strategy), seed, labels, and accuracy (or value)"


def read_curves(path: str | Path) -> list[Row]:
    """The rows of a CSV file of learning curves, by posterior, strategy, seed and labels.

    A line is one evaluation. Its columns are `method`, "posterior/strategy" or a name alone, or `posterior` and
    `strategy`; `seed`; `labels`; and `value` or `accuracy`, from 0 to 1, with `nll`, `brier` and `ece` where they are
    known. Their heads may be in any case and order; other columns are not read. Commas, semicolons or tabs part them.

    Raises:
      ConfigError: with the number of the line: a column that is missing, a value that is no number or not from 0 to 1,
        two values of one curve at one label count, or a curve of one label count.

    >>> import tempfile
    >>> from bdal.report import read_curves
    >>> text = "Method,Seed,Labels,Value\\nbald,0,20,0.5\\nbald,0,30,0.7\\nrandom,0,20,0.5\\nrandom,0,30,0.6\\n"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "curves.csv"
    ...     _ = path.write_text(text)
    ...     rows = read_curves(path)
    >>> [(row.strategy, row.labels, row.accuracy) for row in rows]
    [('bald', 20, 0.5), ('bald', 30, 0.7), ('random', 20, 0.5), ('random', 30, 0.6)]
    """
    path = expanded(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as CSV: {getattr(error, 'strerror', None) or error}") from error
    first = next((line for line in lines if line.strip()), "")
    reader = csv.reader(lines, delimiter=max(",;\t", key=first.count))
    heads: dict[str, int] = {}
    width = 0
    rows: dict[tuple[str, str, int, int], tuple[int, Row]] = {}
    for cells in reader:
        at = _At(path, reader.line_num)
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if not heads:
            heads, width = _heads(at, cells), len(cells)
            continue
        if len(cells) != width:
            at.refuse(f"expected {width} columns, found {len(cells)}")
        row = _row(at, {name: cells[place] for name, place in heads.items()})
        number, known = rows.setdefault(row[:4], (at.number, row))
        if repr(known) != repr(row):
            at.refuse(f"{_curve(row)}: {row.labels} labels: has other values than in line {number}")
    if not rows:
        _At(path, reader.line_num or 1).refuse(f"expected the columns {COLUMNS}, and lines below them, found none")
    _check(path, list(rows.values()))
    return sorted((row for _, row in rows.values()), key=lambda row: row[:4])


class _At:
    """A line of a file."""

    def __init__(self, path: Path, number: int):
        self.path = path
        self.number = number

    def refuse(self, text: str) -> NoReturn:
        raise ConfigError(f"{self.path}: line {self.number}: {text}")


def _heads(at: _At, cells: list[str]) -> dict[str, int]:
    """The columns that are read, and their places."""
    known = {"method", "posterior", "strategy", "seed", "labels", VALUE, *SCORES}
    found: dict[str, int] = {}
    for place, cell in enumerate(cells):
        name = cell.lower()
        if name in found:
            at.refuse(f"expected each column once, found {cell} twice")
        if name in known:
            found[name] = place
    named = "method" in found or {"posterior", "strategy"} <= found.keys()
    there = {"method": named, **{name: name in found for name in ("seed", "labels")}}
    there["accuracy"] = "accuracy" in found or VALUE in found
    if missing := [name for name, is_there in there.items() if not is_there]:
        at.refuse(f"expected the columns {COLUMNS}, found no {missing[0]} in {', '.join(cells)[:80]}")
    for one, others in (("method", ("posterior", "strategy")), (VALUE, ("accuracy",))):
        if one in found and any(other in found for other in others):
            at.refuse(f"expected {one}, or {' and '.join(others)}, found both")
    return found


def _row(at: _At, cells: dict[str, str]) -> Row:
    if "method" in cells:
        posterior, _, strategy = cells["method"].rpartition("/")
    else:
        posterior, strategy = cells["posterior"], cells["strategy"]
    if not strategy:
        at.refuse(f"{'method' if 'method' in cells else 'strategy'}: expected a name, found nothing")
    cells = cells | {"accuracy": cells.get("accuracy", cells.get(VALUE, ""))}
    seed, labels = (_count(at, name, cells[name]) for name in ("seed", "labels"))
    accuracy, nll, brier, ece = (_score(at, name, cells.get(name, ""), VALUE in cells) for name in SCORES)
    return Row(posterior, strategy, seed, labels, 0, accuracy, nll, brier, ece)


def _count(at: _At, name: str, text: str) -> int:
    value = _number(at, name, text)
    if value < 0 or value != int(value):
        at.refuse(f"{name}: expected a whole number of at least 0, found {text}")
    return int(value)


def _score(at: _At, name: str, text: str, called_value: bool) -> float:
    head = VALUE if name == "accuracy" and called_value else name
    if not text and name != "accuracy":
        return math.nan  # NaN is for what is not known
    value, most = _number(at, head, text), SCORES[name]
    if most < math.inf and not 0 <= value <= most:
        percent = "; divide percent by 100" if 1 < value <= 100 and most == 1 else ""
        other = ", and name a column of losses nll" if percent and head == VALUE else ""
        at.refuse(f"{head}: expected a share from 0 to {most:g}, found {text}{percent}{other}")
    return value


def _number(at: _At, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        at.refuse(f"{name}: expected a number, found {text[:40] or 'nothing'}")
    if not math.isfinite(value):
        at.refuse(f"{name}: expected a finite number, found {text}")
    return value


def _curve(row: Row) -> str:
    return f"{'/'.join(filter(None, row[:2]))}, seed {row.seed}"


def _check(path: Path, rows: list[tuple[int, Row]]) -> None:
    """Raise `ConfigError` for a curve of one label count, and for methods of which some have a posterior."""
    curves: dict[tuple[str, str, int], list[tuple[int, Row]]] = defaultdict(list)
    for number, row in rows:
        curves[row[:3]].append((number, row))
    for found in curves.values():
        if len(found) == 1:
            ((number, row),) = found
            _At(path, number).refuse(
                f"{_curve(row)}: expected a curve of two label counts or more, found {row.labels} alone"
            )
    named = {bool(row.posterior) for _, row in rows}
    if len(named) > 1:
        number, row = next((number, row) for number, row in rows if not row.posterior)
        _At(path, number).refuse(
            f"method: expected posterior/strategy, as in other lines, found {row.strategy}: methods are compared under "
            "each posterior"
        )
