"""Reads answers from a filled-in query CSV, a spreadsheet, or a Label Studio export.

An answer is a class name. "abstain" and "?" mean "cannot tell"; an empty cell is no answer yet. Anything else is an
error with file, row and what was expected. A number counts only if it is a class name: 1 could mean the first class
(its key on the page) or the second (counted from 0).
"""

import difflib
import hashlib
import math
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bdal.answers import formats
from bdal.answers.formats import GROUND_TRUTH, LABEL, POINT, REJECTED, SKIPPED, Record, pool_index, short, whole
from bdal.answers.points import Points
from bdal.config import ABSTAINS
from bdal.errors import LabelError
from bdal.pool import ABSTAIN

NO_CLASS = {*POINT, *LABEL, "run", "round", "id", "annotator", "annotation_id", "lead_time"}  # fields of other meaning
WIDE_DOLLAR = "\uff04"  # what a $ in a class name is in Label Studio's labelling interface


class Answers(NamedTuple):
    """What a file says: one entry an answer, several for a point that was answered several times, oldest first."""

    indices: np.ndarray  # [A] int64 pool indices
    labels: np.ndarray  # [A] int32 classes, ABSTAIN where it cannot be told
    source: dict[str, str]  # {"file": its name, "sha256": of its bytes}
    by: list[str | None]  # [A] the annotation; None for a plain row
    made: list[float | None]  # [A] when it was made last, in seconds


def read_answers(
    path: str | Path, *, class_names: Sequence[str], names: Sequence[str] | None = None, run: str | None = None
) -> Answers:
    """The answers in a CSV file, in JSON lines, or in a Label Studio export as CSV, JSON or JSON-MIN.

    The file is read once. In a CSV the columns that say the point and its class count, in any order, with commas,
    semicolons or tabs between them; other columns, blank rows and the order of rows do not. A point is known by its
    `pool_index`, or by its `name`, `image` or `filename` (`file_name`, `file`, `path`): as much of the path of its file
    as no other point has. The class stands under `label`, `class` or `choice` (`class_name`, `category`). Capitals in
    the names of columns do not matter. Data frames write the class "3" as `3.0`: it is "3". Of rows that repeat a
    point's last answer one is kept; rows that differ are all kept.

    In an export, every annotation of a task is an answer, in the order in which they were made last; a skipped task is
    an abstention. (JSON-MIN leaves out what was skipped.) One that a review rejected is left out with a warning, and a
    ground truth stands for its task alone. `"answer": "ignore"` is an abstention, `"reject"` no answer. Which answer
    counts is not decided here.

    What else stands beside an answer must be what was written there, or nothing: `images/12.png` belongs to point 12
    only, as does its name, and `run` to this run. So a column that was sorted alone moves no answer to another point.

    Args:
      path: the file; UTF-8, with or without byte-order mark.
      class_names: C names, all different.
      names: N names as `write_query` was given them; by default none but "pool point 12" is looked at.
      run: as `write_query` was given it; by default that of any run.

    Raises:
      LabelError: not such a file, an answer that is no class, a point that is not known or not told apart by its name,
        or an answer beside another point's image or name or of another run, naming file, row or task, and what was
        expected; no answers at all, though a column holds class names.

    >>> import tempfile; folder = tempfile.TemporaryDirectory(); file = Path(folder.name) / "answers.csv"
    >>> _ = file.write_text("pool_index,label\\n12,dog\\n7,?\\n31,\\n")
    >>> answers = read_answers(file, class_names=["cat", "dog"]); folder.cleanup()
    >>> answers.indices.tolist(), answers.labels.tolist() == [1, ABSTAIN], answers.source["file"]
    ([12, 7], True, 'answers.csv')
    """
    class_names = check_class_names(class_names)
    path = Path(path)
    content = _read(path)
    file = path.name.encode("utf-8", "backslashreplace").decode()  # a name may hold any bytes, a ledger only text
    records, points, answers = formats.records(content, file), Points(names), []
    for record in records:
        label = _classed(record, class_names)
        if label is None:
            continue
        of = str(record.fields.get("run") or "").strip()
        if run is not None and of not in ("", run):
            raise LabelError(f"{record.where}: run: expected {run}, found {short(of)}: it is another run's file")
        answers.append(_Answer(points.find(record.fields, record.where), label, record))
    if rejected := sum(record.status == REJECTED for record in records):
        warnings.warn(f"{file}: {rejected} rejected answers are left out", stacklevel=2)
    if not answers:
        _refuse_silence(records, class_names, file)
    several = Counter(answer.index for answer in answers)
    for answer in answers:
        if several[answer.index] > 1 and math.isnan(answer.record.made[0]):
            raise LabelError(
                f"{answer.record.where}: expected a time such as 2026-01-05 10:00, found one that may be in either of "
                f"two months, beside another answer to pool point {answer.index}"
            )
    order = {index: place for place, index in reversed(list(enumerate(answer.index for answer in answers)))}
    answers.sort(key=lambda answer: (order[answer.index], answer.record.made))  # stable: rows without a time stay
    kept = [answer for place, answer in enumerate(answers) if not place or not _repeats(answer, answers[place - 1])]
    times = [None if answer.record.annotation == GROUND_TRUTH else answer.record.made[0] for answer in kept]
    return Answers(
        np.array([answer.index for answer in kept], np.int64),
        np.array([answer.label for answer in kept], np.int32),
        {"file": file, "sha256": hashlib.sha256(content).hexdigest()},
        [answer.record.annotation for answer in kept],
        [time if time and time == time else None for time in times],
    )


def check_class_names(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; a ValueError if one is empty, padded, has control characters or comes twice."""
    names = tuple(class_names)
    for name in names:
        if not isinstance(name, str) or not name.strip() or name != name.strip():
            raise ValueError(f"class_names: expected names without spaces around them, got {name!r}")
        if any(unicodedata.category(character) in ("Cc", "Cs") for character in name):
            raise ValueError(f"class_names: expected names without control characters, got {name!r}")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"class_names: expected different names, got {twice[0]!r} {names.count(twice[0])} times")
    return names


def csv_answers(content: bytes, name: str) -> list[tuple[int, str]]:
    """(pool index, label as written) of each row of a query CSV. Raises `LabelError` if it cannot be read."""
    rows = formats.csv_rows(formats.decoded(content, name), name)
    return [(pool_index(row.get("pool_index"), where), formats.label_of(row)) for where, row in rows]


class _Answer(NamedTuple):
    index: int
    label: int
    record: Record


def _repeats(answer: _Answer, before: _Answer) -> bool:
    """Whether a row repeats the one before."""
    (index, label, one), (other, was, two) = answer, before
    return (index, label, one.annotation) == (other, was, two.annotation)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise LabelError(f"{path}: expected a file of answers, found {'a folder' if path.is_dir() else 'no file'}")
        with path.open("rb") as file:
            content = file.read(formats.LARGEST + 1)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > formats.LARGEST:
        raise LabelError(f"{path}: expected at most {formats.LARGEST >> 20} MiB of answers, found more")
    return content


def _classed(record: Record, class_names: tuple[str, ...]) -> int | None:
    """The class of an answer, ABSTAIN, or None for no answer yet."""
    label = record.label
    if record.status:
        return ABSTAIN if record.status == SKIPPED else None
    if label is None or label == "":
        return None
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise LabelError(f"{record.where}: label: expected one class, found {short(label)}")
    text = str(label).strip()
    if (found := _class_of(text, class_names)) is not None:
        return found
    near = difflib.get_close_matches(text[:100], class_names, n=1)
    few = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise LabelError(
        f"{record.where}: label: expected a class name ({few}) or {ABSTAINS[0]}, found {short(label)}"
        + (f"; perhaps {near[0]}" if near else "; write its name, not its number" if whole(text) is not None else "")
    )


def _class_of(text: str, class_names: tuple[str, ...]) -> int | None:
    for name in (text, text.removeprefix("'"), text.replace(WIDE_DOLLAR, "$")):  # ' says: this is text
        if name in class_names:
            return class_names.index(name)
    if text.lower() in ABSTAINS:
        return ABSTAIN
    number = whole(text)
    return class_names.index(str(number)) if number is not None and str(number) in class_names else None


def _refuse_silence(found: list[Record], class_names: tuple[str, ...], name: str) -> None:
    """Raise `LabelError` if a file without answers has class names in an unknown column."""
    for record in found:
        for key, value in record.fields.items():
            text = str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
            if (
                text in class_names
                and key not in (*POINT, *LABEL, "run", "round", "id", "annotator")
                and not record.status
            ):
                raise LabelError(
                    f"{record.where}: expected the class under {', '.join(LABEL[:3])}, found {short(text)} under {key} "
                    "and no answer in the whole file; call that column label"
                )
    if sum(record.annotation is not None and not record.status for record in found):
        warnings.warn(f"{name}: its annotations hold no class, under {', '.join(LABEL[:3])} or elsewhere", stacklevel=3)
