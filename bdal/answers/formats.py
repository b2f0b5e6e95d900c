"""Files of answers as records: CSV, JSON lines, and Label Studio's exports as JSON, JSON-MIN and CSV.

A record says of one point what stands in its row or task, which label it has, and when and in which annotation that was
given. Which point it is, and what the label means, is not decided here.

Formats: RFC 4180 for CSV, for Label Studio its documentation's "Label Studio JSON format of annotated tasks" with the
exports of version 1.23, and for `"answer": "accept"` Prodigy's "Annotation interfaces".
"""

import csv
import io
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from bdal.errors import LabelError

LARGEST = 256 * 2**20  # bytes of a file of answers
POINT = ("pool_index", "name", "image", "filename", "file_name", "file", "path")  # which point it is
LABEL = (
    "label",
    "class",
    "choice",
    "class_name",
    "category",
)  # its class; the first that is filled counts
SKIPPED, REJECTED = "skipped", "rejected"
GROUND_TRUTH = "ground truth"  # an answer that takes the place of those before it
DATES = ("%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%d.%m.%Y", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d")
UNCLEAR = float("nan")  # a time that is one of two


class Record(NamedTuple):
    """A row, or an annotation of a task."""

    where: str  # "answers.csv: row 3"
    fields: dict[str, Any]  # what the file says of the point, by names in small letters
    label: Any  # as it was written; nothing if there is none
    made: tuple[float, int]  # when it was made last, and the annotation's number
    annotation: str | None  # which it is, in every format of export; None for a plain row
    status: str = ""  # SKIPPED, REJECTED, or nothing


def records(content: bytes, name: str) -> list[Record]:
    """The records in a file of answers. Raises `LabelError` with file and row if it cannot be read."""
    text = decoded(content, name)
    if name.lower().endswith((".json", ".jsonl", ".ndjson")) or text.lstrip()[:1] in ("[", "{"):
        return _from_json(text, name)
    return [_flat(fields, where) for where, fields in csv_rows(text, name)]


def decoded(content: bytes, name: str) -> str:
    """The text of a file in UTF-8, with or without byte-order mark."""
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


def csv_rows(text: str, name: str) -> list[tuple[str, dict[str, str]]]:
    """(where, all columns) of each row that is not blank."""
    header = text.lstrip("\r\n").splitlines()[:1]
    marks = [mark for mark in ",;\t" if header and _tells([_key(field) for field in header[0].split(mark)])]
    if not marks:
        raise LabelError(
            f"{name}: row 1: expected a line of column names with pool_index and label, or {', '.join(POINT[1:4])} and "
            f"{' or '.join(LABEL[1:3])} in their places, found {short(header)}"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=marks[0], strict=True)
    columns, rows = [], []
    limit = csv.field_size_limit(LARGEST)  # for every reader there is: exports may hold images in their cells
    try:
        for cells in reader:
            cells, where = [cell.strip() for cell in cells], f"{name}: row {reader.line_num}"
            if not any(cells):
                continue
            if not columns:
                columns = [_key(cell) for cell in cells]
                if twice := [column for column in POINT + LABEL if columns.count(column) > 1]:
                    raise LabelError(f"{where}: expected one column {twice[0]}, found {columns.count(twice[0])}")
                continue
            if any(cells[len(columns) :]):
                raise LabelError(f"{where}: expected {len(columns)} cells as in the first row, found {len(cells)}")
            rows.append((where, dict(zip(columns, [*cells, *[""] * len(columns)], strict=False))))
    except csv.Error as error:
        raise LabelError(f"{name}: row {reader.line_num}: expected CSV: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return rows


def pool_index(value: Any, where: str) -> int:
    """A pool index as written in a file."""
    text = str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    number = whole(text) if isinstance(text, str) else None
    if number is None or not 0 <= number < 2**31:
        raise LabelError(f"{where}: pool_index: expected the number of a pool point, found {short(value)}")
    return number


def whole(text: str) -> int | None:
    """The integer in a text (3 and 3.0 alike), or None."""
    found = re.fullmatch(r"([+-]?[0-9]{1,12})(\.0*)?", text.strip())
    return int(found[1]) if found else None


def label_of(fields: dict[str, Any]) -> Any:
    """The class in a row or task; empty if there is none."""
    return next((fields[key] for key in LABEL if not _empty(fields.get(key))), "")


def short(value: Any) -> str:
    """A value, shortened for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _key(name: str) -> str:
    return name.strip(' "\ufeff').lower().replace(" ", "_").replace("-", "_")


def _tells(columns: Sequence[str]) -> bool:
    return any(key in columns for key in POINT) and any(key in columns for key in LABEL)


def _flat(fields: dict[str, Any], where: str) -> Record:
    """A row, or a task of JSON-MIN or JSON lines, which is one annotation."""
    made = _made(fields, fields.get("annotation_id"), where)
    label, answer = label_of(fields), str(fields.get("answer") or "").strip().lower()
    if _empty(label) and isinstance(fields.get("accept"), list):  # Prodigy's choices
        label = fields["accept"][0] if len(fields["accept"]) == 1 else fields["accept"] or ""
    status = {"ignore": SKIPPED, "reject": REJECTED}.get(answer, "")
    return Record(where, fields, "" if status else label, *made, status)


def _from_json(text: str, name: str) -> list[Record]:
    found = []
    for where, task in _tasks(text, name):
        if not isinstance(task, dict):
            raise LabelError(f"{where}: expected a JSON object, found {short(task)}")
        where += f" (id {task['id']})" if isinstance(task.get("id"), int) else ""
        found += _annotations(task, where) if "data" in task else [_flat(_keys(task), where)]
    return found


def _tasks(text: str, name: str) -> list[tuple[str, Any]]:
    """(where, task) of a list of tasks, of one task, or of one in each line."""
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    try:
        tasks = _parsed(text)
    except (ValueError, RecursionError) as error:
        if len(lines) < 2 or not all(line.lstrip().startswith("{") for _, line in lines):
            raise LabelError(f"{name}: expected JSON: {error}") from error
        found = []
        for number, line in lines:
            try:
                found.append((f"{name}: line {number}", _parsed(line)))
            except (ValueError, RecursionError) as wrong:
                raise LabelError(f"{name}: line {number}: expected JSON: {wrong}") from wrong
        return found
    tasks = [tasks] if isinstance(tasks, dict) else tasks
    if not isinstance(tasks, list):
        raise LabelError(f"{name}: expected a list of tasks, found {short(tasks)}")
    return [(f"{name}: task {number}", task) for number, task in enumerate(tasks, start=1)]


def _parsed(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _keys(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields with lower-case names; of two with the same name, the first that is filled."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        if _empty(found.get(_key(name))):
            found[_key(name)] = value
    return found


def _annotations(task: dict[str, Any], where: str) -> list[Record]:
    """Of a task in the full export: a record an annotation; the ground truth alone where there is one."""
    data, annotations = task["data"], task.get("annotations", task.get("completions"))
    if not isinstance(data, dict) or not any(key in _keys(data) for key in POINT):
        raise LabelError(
            f"{where}: expected a pool_index in its data, or a {' or '.join(POINT[1:4])}, found {short(data)}"
        )
    if not isinstance(annotations, list):
        raise LabelError(f"{where}: expected annotations, found {short(annotations)}; is this the file to import?")
    data, found, truths = _keys(data), [], []
    if "pool_index" in data and not any(data.get(key) for key in POINT[3:]):
        pool_index(data["pool_index"], where)
    for annotation in annotations:
        if not isinstance(annotation, dict):
            raise LabelError(f"{where}: expected an annotation, found {short(annotation)}")
        made = _made(annotation, annotation.get("id"), where)
        status = SKIPPED if annotation.get("was_cancelled") or annotation.get("skipped") else ""
        status = REJECTED if _is_rejected(annotation) else status
        record = Record(where, data, "" if status else _choice(annotation.get("result"), where), *made, status)
        found.append(record)
        if annotation.get("ground_truth") is True and not _empty(record.label):
            truths.append(record._replace(annotation=GROUND_TRUTH))
    return [max(truths, key=lambda record: record.made)] if truths else found


def _is_rejected(annotation: dict[str, Any]) -> bool:
    """Whether the last review rejected the annotation."""
    reviews = annotation.get("reviews")
    reviews = [each for each in reviews if isinstance(each, dict)] if isinstance(reviews, list) else []
    if not reviews:
        return annotation.get("last_action") == "rejected"
    return max(reviews, key=lambda each: str(each.get("created_at") or "")).get("accepted") is False


def _choice(results: Any, where: str) -> Any:
    """The one choice among an annotation's results; "" if there is none."""
    if not isinstance(results, list) or not all(isinstance(result, dict) for result in results):
        raise LabelError(f"{where}: expected a list of results, found {short(results)}")
    controls = sorted({str(result.get("from_name")) for result in results})
    named = [each for key in LABEL for each in results if each.get("from_name") == key]
    if not named and len({str(each.get("from_name")) for each in results if _chosen(each) is not None}) == 1:
        named = [each for each in results if _chosen(each) is not None]  # under whatever name
    if results and not named:
        raise LabelError(
            f'{where}: expected an answer to "label" of label_config.xml, found {", ".join(controls)[:80]}'
        )
    named = [each for each in named if each.get("from_name") == named[0].get("from_name")]
    if any(_chosen(each) is None for each in named):
        raise LabelError(f"{where}: expected choices, found {short([each.get('value') for each in named])}")
    choices = [choice for each in named for choice in _chosen(each) or ()]
    if len(choices) > 1:
        raise LabelError(f"{where}: expected one choice, found {len(choices)}: {short(choices)}")
    return choices[0] if choices else ""


def _chosen(result: dict[str, Any]) -> list[Any] | None:
    """The choices of a result; None if it holds something else."""
    value = result.get("value")
    return value["choices"] if isinstance(value, dict) and isinstance(value.get("choices"), list) else None


def _made(fields: dict[str, Any], number: Any, where: str) -> tuple[tuple[float, int], str | None]:
    """The sort key of an answer (last change, number), and its annotation."""
    keys = ("created_at", "updated_at", "_timestamp")
    created, *updated = (_time(fields.get(key), key, where) for key in keys)
    count = int(number) if isinstance(number, int) or str(number or "").isdecimal() else 0
    which = None if number in (None, "") else f"{number}" if created is None else f"{number} of {created}"
    return (next((time for time in (*updated, created) if time is not None), 0.0), count), which


def _time(text: Any, field: str, where: str) -> float | None:
    """Seconds, in UTC where no zone is given; UNCLEAR for 05/01/2026, which is in January or in May."""
    if text in (None, ""):
        return None
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text)
    try:
        time = datetime.fromisoformat(str(text))
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError):
        pass
    months_first = {form.replace("%d.%m.%Y", "%m/%d/%Y") for form in DATES[:3]}
    days_first = {form.replace("%d.%m.%Y", "%d/%m/%Y") for form in DATES[:3]}
    times = {time for form in (*DATES, *months_first, *days_first) if (time := _parsed_time(text, form)) is not None}
    if not times:
        raise LabelError(f"{where}: expected a time in {field}, found {short(text)}; write it as 2026-01-05 10:00")
    return times.pop() if len(times) == 1 else UNCLEAR


def _parsed_time(text: Any, form: str) -> float | None:
    try:
        return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp()
    except (TypeError, ValueError):
        return None


def _refuse_constant(name: str):
    raise ValueError(f"{name} is not JSON")
