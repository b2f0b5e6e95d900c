"""Answers come in: from the CSV of a query that somebody filled in, or from a Label Studio export.

An answer is a class name; "abstain" and "?" say that it cannot be told; nothing at all is no answer yet. What is
neither is refused with the file, the row and what was expected. A number is a class name or nothing: whether 1 means
the first class, whose key on the page it is, or the second, as arrays count, only its writer knows.

Formats: RFC 4180 for CSV, and for Label Studio its documentation's "Label Studio JSON format of annotated tasks" with
the exports of version 1.23.
"""

import csv
import difflib
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.errors import LabelError
from bdal.experiment.config import ABSTAINS
from bdal.pool import ABSTAIN

LARGEST = 256 * 2**20  # bytes of a file of answers
WIDE_DOLLAR = "\uff04"  # what a $ in a class name is in Label Studio's labelling interface


class Answers(NamedTuple):
    """What a file says: one entry an answer, several for a point that was answered several times, oldest first."""

    indices: np.ndarray  # [A] int64 pool indices
    labels: np.ndarray  # [A] int32 classes, ABSTAIN where it cannot be told
    source: dict[str, str]  # {"file": its name, "sha256": of its bytes}
    by: list[str | None]  # [A] the annotation that it is; None for a row that is nobody's
    made: list[float | None]  # [A] when it was made last, in seconds


def read_answers(
    path: str | Path, *, class_names: Sequence[str], names: Sequence[str] | None = None, run: str | None = None
) -> Answers:
    """The answers in a CSV file, or in a Label Studio export as CSV, JSON or JSON-MIN; the file is read once.

    In a CSV the columns `pool_index` and `label` count, in any order, with commas, semicolons or tabs between them;
    other columns, blank rows and the order of rows do not. Data frames write the class "3" as `3.0`: it is "3". Of
    rows that repeat a point's last answer one is kept; rows that differ are all kept.

    In an export, every annotation of a task is an answer, in the order in which they were made; a skipped task is an
    abstention. (JSON-MIN leaves out what was skipped.) Which answer counts is not decided here.

    What else stands beside an answer must be what was written there, or nothing: `images/12.png` belongs to point 12
    only, as does its name, and `run` to this run. So a column that was sorted alone moves no answer to another point.

    Args:
      path: the file; UTF-8, with or without byte-order mark.
      class_names: C names, all different.
      names: N names as `write_query` was given them; by default none but "pool point 12" is looked at.
      run: as `write_query` was given it; by default that of any run.

    Raises:
      LabelError: not such a file, an answer that is no class, or one beside another point's image or name or of another
        run, naming file, row or task, and what was expected.

    >>> import tempfile; folder = tempfile.TemporaryDirectory(); file = Path(folder.name) / "answers.csv"
    >>> _ = file.write_text("pool_index,label\\n12,dog\\n7,?\\n31,\\n")
    >>> answers = read_answers(file, class_names=["cat", "dog"]); folder.cleanup()
    >>> answers.indices.tolist(), answers.labels.tolist() == [1, ABSTAIN], answers.source["file"]
    ([12, 7], True, 'answers.csv')
    """
    class_names = check_class_names(class_names)
    path = Path(path)
    content = _read(path)
    text = _text(content, path.name)
    as_json = path.suffix.lower() == ".json" or text.lstrip()[:1] in ("[", "{")
    found = _from_json(text, path.name) if as_json else _from_csv(text, path.name)
    answers = [answer for answer in (_classed(item, class_names) for item in found) if answer is not None]
    for answer in answers:
        _check_point(answer, names, run)
    order = {index: place for place, index in reversed(list(enumerate(answer.index for answer in answers)))}
    answers.sort(key=lambda answer: (order[answer.index], answer.made))  # stable: rows without a time stay in order
    kept = [answer for place, answer in enumerate(answers) if not place or not _repeats(answer, answers[place - 1])]
    return Answers(
        np.array([answer.index for answer in kept], np.int64),
        np.array([answer.label for answer in kept], np.int32),
        {"file": path.name, "sha256": hashlib.sha256(content).hexdigest()},
        [answer.annotation for answer in kept],
        [answer.made[0] or None for answer in kept],
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


def title(index: int, names: Sequence[Any] | None) -> str:
    """What people read a pool point is called, in one line of text that every encoding of the files can hold."""
    text = f"pool point {index}" if names is None else str(names[index]).encode("utf-8", "backslashreplace").decode()
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in text)


def csv_answers(content: bytes, name: str) -> list[tuple[int, str]]:
    """(pool index, label as it is written) of each row of a CSV; raises `LabelError` if it is none."""
    return [(_pool_index(index, where), label) for where, index, label, _ in _csv_rows(_text(content, name), name)]


class _Answer(NamedTuple):
    where: str  # "answers.csv: row 3"
    index: int
    label: Any  # as it was written, then the class
    made: tuple[float, int]  # when, and the annotation's number: what answers to the same point are ordered by
    annotation: str | None  # which it is, in every format of export; None for a plain row
    beside: dict[str, Any]  # what else the file says of the point
    skipped: bool = False


def _repeats(answer: _Answer, before: _Answer) -> bool:
    """The same row again, not the same answer of somebody else."""
    return (answer.index, answer.label, answer.annotation) == (before.index, before.label, before.annotation)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise LabelError(f"{path}: expected a file of answers, found {'a folder' if path.is_dir() else 'no file'}")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise LabelError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(content) > LARGEST:
        raise LabelError(f"{path}: expected at most {LARGEST >> 20} MiB of answers, found more")
    return content


def _text(content: bytes, name: str) -> str:
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise LabelError(f'{name}: expected UTF-8 text, found UTF-16; save it as "CSV UTF-8"')
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise LabelError(
            f"{name}: row {row}: expected UTF-8 text, found the byte 0x{content[error.start]:02x}; save it as "
            '"CSV UTF-8"'
        ) from error
    if "\0" in text:
        raise LabelError(
            f"{name}: row {text.count(chr(10), 0, text.index(chr(0))) + 1}: expected text, found a NUL byte"
        )
    return text


def _from_csv(text: str, name: str) -> list[_Answer]:
    return [
        _Answer(where, _pool_index(index, where), label, *_made(row, row.get("annotation_id"), where), row)
        for where, index, label, row in _csv_rows(text, name)
    ]


def _csv_rows(text: str, name: str) -> list[tuple[str, str, str, dict[str, str]]]:
    """(where, pool index, label, all columns) of each row that is not blank."""
    header = text.lstrip("\r\n").splitlines()[:1]
    wanted = {"pool_index", "label"}
    fits = [mark for mark in ",;\t" if header and wanted <= {field.strip(' "') for field in header[0].split(mark)}]
    if not fits:
        raise LabelError(
            f"{name}: row 1: expected a line of column names with pool_index and label, found {_short(header)}"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=fits[0], strict=True)
    columns, rows = [], []
    limit = csv.field_size_limit(LARGEST)  # for every reader there is: exports may hold images in their cells
    try:
        for cells in reader:
            cells, where = [cell.strip() for cell in cells], f"{name}: row {reader.line_num}"
            if not any(cells):
                continue
            if not columns:
                columns = cells
                if twice := [column for column in wanted if columns.count(column) != 1]:
                    raise LabelError(f"{where}: expected one column {twice[0]}, found {columns.count(twice[0])}")
                continue
            if any(cells[len(columns) :]):
                raise LabelError(f"{where}: expected {len(columns)} cells as in the first row, found {len(cells)}")
            row = dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))
            rows.append((where, row["pool_index"], row["label"], row))
    except csv.Error as error:
        raise LabelError(f"{name}: row {reader.line_num}: expected CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def _from_json(text: str, name: str) -> list[_Answer]:
    try:
        tasks = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{name}: expected JSON: {error}") from error
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list):
        raise LabelError(f"{name}: expected a list of tasks, found {_short(tasks)}")
    found = []
    for number, task in enumerate(tasks, start=1):
        where = f"{name}: task {number}"
        if not isinstance(task, dict):
            raise LabelError(f"{where}: expected a JSON object, found {_short(task)}")
        where += f" (id {task['id']})" if isinstance(task.get("id"), int) else ""
        found += _annotations(task, where) if "data" in task else [_minimal(task, where)]
    return found


def _annotations(task: dict[str, Any], where: str) -> list[_Answer]:
    """Of a task in the full export: an answer an annotation."""
    data, annotations = task["data"], task.get("annotations")
    if not isinstance(data, dict) or "pool_index" not in data:
        raise LabelError(f"{where}: expected a pool_index in its data, found {_short(data)}")
    if not isinstance(annotations, list):
        raise LabelError(f"{where}: expected annotations, found {_short(annotations)}; is this the file to import?")
    index, found = _pool_index(data["pool_index"], where), []
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise LabelError(f"{where}: expected an annotation, found {_short(annotation)}")
        made = _made(annotation, annotation.get("id"), where)
        skipped = bool(annotation.get("was_cancelled") or annotation.get("skipped"))
        label = "" if skipped else _choice(annotation.get("result"), where)
        found.append(_Answer(where, index, label, *made, data, skipped))
    return found


def _choice(results: Any, where: str) -> Any:
    """The one choice among an annotation's results; "" if there is none."""
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise LabelError(f"{where}: expected a list of results, found {_short(results)}")
    named = [result for result in results if result.get("from_name") == "label"]
    if results and not named:
        names = sorted({str(result.get("from_name")) for result in results})
        raise LabelError(f'{where}: expected an answer to "label" of label_config.xml, found {", ".join(names)[:80]}')
    values = [result.get("value") for result in named]
    if any(not isinstance(value, dict) or not isinstance(value.get("choices"), list) for value in values):
        raise LabelError(f"{where}: expected choices, found {_short(values)}")
    choices = [choice for value in values for choice in value["choices"]]
    if len(choices) > 1:
        raise LabelError(f"{where}: expected one choice, found {len(choices)}: {_short(choices)}")
    return choices[0] if choices else ""


def _minimal(task: dict[str, Any], where: str) -> _Answer:
    """Of a task in the JSON-MIN export, which is one annotation."""
    if "pool_index" not in task:
        raise LabelError(f"{where}: expected a pool_index, found {_short(sorted(task))}")
    made = _made(task, task.get("annotation_id"), where)
    return _Answer(where, _pool_index(task["pool_index"], where), task.get("label"), *made, task)


def _made(annotation: dict[str, Any], number: Any, where: str) -> tuple[tuple[float, int], str | None]:
    """What orders the answers to one point, when they were made last and their number; and which annotation it is."""
    created, updated = (_time(annotation.get(field), field, where) for field in ("created_at", "updated_at"))
    count = int(number) if isinstance(number, int) or str(number or "").isdecimal() else 0
    which = None if number in (None, "") else f"{number}" if created is None else f"{number} of {created}"
    return (updated or created or 0.0, count), which


def _time(text: Any, field: str, where: str) -> float | None:
    if text in (None, ""):
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise LabelError(f"{where}: expected a time in {field}, found {_short(text)}") from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _pool_index(value: Any, where: str) -> int:
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    number = _whole(text) if isinstance(text, str) else None
    if number is None or not 0 <= number < 2**31:
        raise LabelError(f"{where}: pool_index: expected the number of a pool point, found {_short(value)}")
    return number


def _classed(answer: _Answer, class_names: tuple[str, ...]) -> _Answer | None:
    """The answer with its class; None if there is none yet."""
    label = answer.label
    if answer.skipped:
        return answer._replace(label=ABSTAIN)
    if label is None or label == "":
        return None
    if isinstance(label, bool) or not isinstance(label, str | int | float):
        raise LabelError(f"{answer.where}: label: expected one class, found {_short(label)}")
    text = str(label).strip()
    for name in (text, text.removeprefix("'"), text.replace(WIDE_DOLLAR, "$")):  # ' says: this is text
        if name in class_names:
            return answer._replace(label=class_names.index(name))
    if text.lower() in ABSTAINS:
        return answer._replace(label=ABSTAIN)
    number = _whole(text)
    if number is not None and str(number) in class_names:
        return answer._replace(label=class_names.index(str(number)))
    near = difflib.get_close_matches(text[:100], class_names, n=1)
    few = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise LabelError(
        f"{answer.where}: label: expected a class name ({few}) or {ABSTAINS[0]}, found {_short(label)}"
        + (f"; perhaps {near[0]}" if near else "; write its name, not its number" if number is not None else "")
    )


def _check_point(answer: _Answer, names: Sequence[Any] | None, run: str | None) -> None:
    """Raise `LabelError` where what stands beside an answer is another point's, or another run's."""
    image, name, of = (str(answer.beside.get(field) or "").strip() for field in ("image", "name", "run"))
    if run is not None and of not in ("", run):
        raise LabelError(f"{answer.where}: run: expected {run}, found {_short(of)}: it is another run's file")
    number = None if image.startswith("data:") else re.search(r"(?:^|/)images/(\d+)\.[a-z]+$", image)
    if number and int(number[1]) != answer.index:
        raise LabelError(
            f"{answer.where}: pool_index: expected {number[1]} beside {_short(image)}, found {answer.index}; was a "
            "column sorted without the others?"
        )
    known = re.fullmatch(r"pool point \d+", name) if names is None else name and answer.index < len(names)
    if known and _bare(name) != _bare(expected := title(answer.index, names)):
        raise LabelError(
            f"{answer.where}: name: expected {_short(expected)} beside pool_index {answer.index}, found "
            f"{_short(name)}; was a column sorted without the others?"
        )


def _bare(name: str) -> str:
    """A name without what spreadsheets and `write_query` put before it or take off."""
    return unicodedata.normalize("NFC", name).strip().lstrip("' ")


def _whole(text: str) -> int | None:
    """The whole number that a text is, 3 and 3.0 alike; None if it is none."""
    found = re.fullmatch(r"([+-]?[0-9]{1,12})(\.0*)?", text.strip())
    return int(found[1]) if found else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")
