"""Queries as files, and answers from them. What Label Studio exports was recorded from its version 1.23.2."""

import csv
import hashlib
import io
import json
import os
import random
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest

from bdal.answers import formats, read_answers
from bdal.errors import LabelError
from bdal.labelling.questions import label_config
from bdal.pool import ABSTAIN
from bdal.store import durable
from tests.labelling.test_questions import DIGITS, NAMES, NASTY, asked, pool


def told(tmp_path, text, class_names=NAMES, name="answers.csv", **known):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_answers(path, class_names=class_names, **known)
    assert found.source == {"file": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert (found.indices.dtype, found.labels.dtype) == (np.int64, np.int32)
    return list(zip(found.indices.tolist(), found.labels.tolist(), strict=True))


def test_a_csv_of_answers(tmp_path):
    text = "pool_index,image,label\n12,images/12.png,dog\n7,images/7.png,\n29,images/29.png,abstain\n"
    assert told(tmp_path, text) == [(12, 1), (29, ABSTAIN)]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpool_index,label\n12,dog\n3,bird\n",
        "pool_index,label\r\n12,dog\r\n3,bird\r\n",
        "pool_index;label\r\n12;dog\r\n3;bird",
        "pool_index\tlabel\n12\tdog\n3\tbird\n",
        '"pool_index","label"\n"12","dog"\n"3","bird"\n',
        "label,note,pool_index\ndog,why,12\nbird,,3\n",
        "\npool_index,label,,\n12,dog,,\n,,,\n3,bird\n\n",
        "pool_index,label\n12.0,dog\n3.0,bird\n",  # a data frame with gaps
        "pool_index,label\n 12 , dog \n3.00,'bird\n",
        "pool_index,label\n12,dog\n12,dog\n3,bird\n12,'dog\n",
    ],
)
def test_what_spreadsheets_do_to_a_csv(tmp_path, text):
    assert told(tmp_path, text) == [(12, 1), (3, 2)]


def test_rows_that_differ_are_all_kept_in_order(tmp_path):
    text = "pool_index,label\n12,dog\n3,cat\n12,cat\n12,cat\n12,?\n12,dog\n"
    assert told(tmp_path, text) == [(12, 1), (12, 0), (12, ABSTAIN), (12, 1), (3, 0)]


def test_no_answers_at_all(tmp_path):
    assert told(tmp_path, "pool_index,label\n12,\n") == []
    assert told(tmp_path, "[]", name="export.json") == []


@pytest.mark.parametrize(
    ("class_names", "label", "expected"),
    [
        (DIGITS, "7", 7),
        (DIGITS, "7.0", 7),
        (["1", "2", "3"], "3", 2),  # names, not numbers
        (["1", "2", "3"], "0", None),
        (["007", "7"], "7", 1),
        (["007", "8"], "7", None),
        (["cat", "dog"], "1", None),  # the key of cat, and to who counts from 0 dog
        (["cat", "dog"], "1.0", None),
        (["0", "1", "other"], "2", None),
        (["0", "1", "other"], "1.0", 1),
        (["cat", "dog"], "-1", None),
        (["cat", "dog"], "Dog", None),
        (["cat", "dog"], "1.5", None),
        (["cat", "dog"], "1e0", None),
        (["cat", "dog"], "True", None),
        (["abstain", "b"], "abstain", 0),
        (["abstain", "b"], "?", ABSTAIN),
        (["cat", "dog"], "ABSTAIN", ABSTAIN),
        (["cat", "dog"], "N/A", None),
    ],
)
def test_which_class_a_label_is(tmp_path, class_names, label, expected):
    text = f"pool_index,label\n5,{label}\n"
    if expected is None:
        with pytest.raises(LabelError, match=r"answers\.csv: row 2: label: expected a class name"):
            told(tmp_path, text, class_names)
    else:
        assert told(tmp_path, text, class_names) == [(5, expected)]


def test_class_names_survive_csv_and_json(tmp_path):
    file = io.StringIO()
    csv.writer(file).writerows([("pool_index", "label"), *enumerate(NASTY)])
    expected = list(enumerate(range(len(NASTY))))
    assert told(tmp_path, file.getvalue(), NASTY) == expected
    minimal = json.dumps([{"pool_index": index, "label": name} for index, name in enumerate(NASTY)])
    assert told(tmp_path, minimal, NASTY, "export.json") == expected
    view = ElementTree.fromstring(label_config(NASTY, images=True))  # noqa: S314
    chosen = [choice.attrib["value"] for choice in view.find("Choices")][: len(NASTY)]
    full = json.dumps([task(index, annotation(name)) for index, name in enumerate(chosen)])
    assert told(tmp_path, full, NASTY, "export.json") == expected


def test_any_query_comes_back_from_any_order_of_rows(tmp_path):
    chance = random.Random(0)  # noqa: S311
    for trial in range(20):
        indices = chance.sample(range(30), 12)
        folder = asked(tmp_path / str(trial), indices=indices, class_names=NASTY, inputs=pool((16,)))
        rows = list(csv.DictReader(io.StringIO((folder / "query.csv").read_text())))
        wanted = {}
        for row in rows:
            answer = chance.choice([None, ABSTAIN, *range(len(NASTY))])
            row["label"] = "" if answer is None else "?" if answer == ABSTAIN else NASTY[answer]
            if answer is not None:
                wanted[int(row["pool_index"])] = answer
        chance.shuffle(rows)
        file = io.StringIO()
        writer = csv.DictWriter(file, chance.sample(list(rows[0]), 3), delimiter=chance.choice(",;\t"))
        writer.writeheader()
        writer.writerows(rows)
        assert dict(told(tmp_path, file.getvalue(), NASTY)) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "row 1: expected a line of column names with pool_index and label"),
        ("index,label\n1,dog\n", "row 1: expected a line of column names"),
        ("pool_index,label,label\n1,dog,cat\n", "row 1: expected one column label, found 2"),
        ("pool_index,label\n1,dog\nx,dog\n", "row 3: pool_index: expected the number of a pool point, found 'x'"),
        ("pool_index,label\n,dog\n", "row 2: pool_index: .* found ''"),
        ("pool_index,label\n-1,dog\n", "row 2: pool_index: .* found '-1'"),
        ("pool_index,label\n1.5,dog\n", "row 2: pool_index"),
        ("pool_index,label\n1e3,dog\n", "row 2: pool_index"),
        ("pool_index,label\n99999999999,dog\n", "row 2: pool_index"),
        ("pool_index,label\n١,dog\n", "row 2: pool_index"),
        (
            "pool_index,label\n1,dgo\n",
            r"row 2: label: expected a class name \(cat, dog, bird\).* found 'dgo'; perhaps dog",
        ),
        ("pool_index,name,label\n1,a,b,dog\n", "row 2: expected 3 cells as in the first row, found 4"),
        ('pool_index,label\n1,"dog\n', "expected CSV"),
        ('pool_index,label\n1,"dog"x\n', "row 2: expected CSV"),
        (
            b"pool_index,label\n1,dog\n2,caf\xe9\n",
            'row 3: expected UTF-8 text, found the byte 0xe9; save it as "CSV UTF-8"',
        ),
        ("pool_index,label\n1,dog\n".encode("utf-16"), "expected UTF-8 text, found UTF-16"),
        (b"pool_index,label\n1,d\0g\n", "row 2: expected text, found a NUL byte"),
        ("pool_index,label\n1," + "x" * 200_000 + "\n", "row 2: label: expected a class name"),
        ("pool_index,label\n1,2\n", "row 2: label: .* found '2'; write its name, not its number"),
    ],
)
def test_csv_that_is_refused(tmp_path, text, message):
    with pytest.raises(LabelError, match=rf"^answers\.csv: .*{message}") as caught:
        told(tmp_path, text)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_file_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(LabelError, match="found no file"):
        read_answers(tmp_path / "none.csv", class_names=NAMES)
    with pytest.raises(LabelError, match="found a folder"):
        read_answers(tmp_path, class_names=NAMES)
    monkeypatch.setattr(formats, "LARGEST", 20)
    assert told(tmp_path, "pool_index,label\n1,a", ["a"]) == [(1, 0)]
    with pytest.raises(LabelError, match="expected at most 0 MiB of answers"):
        told(tmp_path, "pool_index,label\n1,a\n2,a", ["a"])


def test_a_file_whose_name_is_no_utf_8(tmp_path):
    """A name may hold any bytes but / and NUL; a ledger holds text."""
    path = tmp_path / os.fsdecode(b"r\xe9ponses.csv")
    path.write_text("pool_index,label\n1,dog\n")
    found = read_answers(path, class_names=NAMES)
    assert found.source["file"] == r"r\udce9ponses.csv"
    durable.append(tmp_path / "ledger.jsonl", {"event": "labelled", "source": found.source})
    assert durable.read(tmp_path / "ledger.jsonl")[0]["source"] == found.source
    path.write_text("pool_index,label\n1,wolf\n")
    with pytest.raises(LabelError, match=r"r\\udce9ponses\.csv: row 2: label: "):
        read_answers(path, class_names=NAMES)


def test_a_file_that_is_changed_while_it_is_read_is_read_once(tmp_path, monkeypatch):
    path = tmp_path / "answers.csv"
    path.write_text("pool_index,label\n1,dog\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    decode = formats.decoded

    def swap(content, name):
        path.write_text("pool_index,label\n1,cat\n2,cat\n")
        return decode(content, name)

    monkeypatch.setattr(formats, "decoded", swap)
    found = read_answers(path, class_names=NAMES)
    assert (found.indices.tolist(), found.labels.tolist(), found.source["sha256"]) == ([1], [1], digest)


# -- what else stands beside an answer -------------------------------------------------------------------------------

PHOTOS = [f"{'-=' if index % 2 else ''}photo {index} cafe\u0301 caf\udce9\r.png" for index in range(30)]


def returned(tmp_path, fill, delimiter=",", **changes):
    """The rows of a query of photos as `fill` gives them back, as one file."""
    folder = asked(tmp_path / "query", names=PHOTOS, run="run-12e45678", **changes)
    rows = list(csv.DictReader(io.StringIO((folder / "query.csv").read_text())))
    rows = fill([row | {"label": NAMES[int(row["pool_index"]) % 3]} for row in rows])
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def with_sorted(column):
    return lambda rows: [
        row | {column: value} for row, value in zip(rows, sorted(row[column] for row in rows), strict=True)
    ]


@pytest.mark.parametrize(
    "fill",
    [
        lambda rows: rows,
        lambda rows: sorted(rows, key=lambda row: row["name"]),
        lambda rows: [row | {"name": row["name"].removeprefix("'")} for row in rows],  # which say: this is text
        lambda rows: [row | {"name": unicodedata.normalize("NFC", row["name"])} for row in rows],
        lambda rows: [row | {"name": "", "image": "", "run": ""} for row in rows],
        lambda rows: [{field: row[field] for field in ("label", "pool_index")} for row in rows],
        lambda rows: [row | {"pool_index": row["pool_index"] + ".0"} for row in rows],
    ],
)
def test_a_query_that_comes_back_as_it_was(tmp_path, fill):
    text = returned(tmp_path, fill)
    expected = {(12, 0), (7, 1), (29, 2)}
    assert set(told(tmp_path, text, names=PHOTOS, run="run-12e45678")) == expected
    assert set(told(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (with_sorted("pool_index"), r"row 3: pool_index: expected 7 beside 'images/7\.png', found 29; was a column"),
        (with_sorted("image"), r"pool_index: expected 29 beside 'images/29\.png', found 7"),
        (with_sorted("name"), r"row 2: name: expected 'photo 12 .*' beside pool_index 12, found ..-=photo 29 "),
        (lambda rows: [row | {"run": "run-00000000"} for row in rows], "run: expected run-12e45678, .*another run's"),
    ],
)
def test_a_query_that_comes_back_shifted_is_refused(tmp_path, fill, message):
    text = returned(tmp_path, fill)
    with pytest.raises(LabelError, match=rf"^answers\.csv: .*{message}"):
        told(tmp_path, text, names=PHOTOS, run="run-12e45678")


def test_the_name_alone_shows_that_a_column_was_sorted(tmp_path):
    text = returned(tmp_path, with_sorted("pool_index"), inputs=pool((16,)))  # no images
    with pytest.raises(LabelError, match="row 3: name: expected"):
        told(tmp_path, text, names=PHOTOS)


def test_rows_without_an_answer_say_nothing(tmp_path):
    text = returned(tmp_path, lambda rows: [rows[0], *({**row, "run": "x", "label": ""} for row in rows[1:])])
    assert told(tmp_path, text, run="run-12e45678") == [(12, 0)]


def exports(tmp_path, **changes):
    """(name, content) of the tasks of a query of points without names, all dogs, as Label Studio exports them."""
    folder = asked(tmp_path / "query", run="run-1", image_root="/data/local-files/?d=query/images/")
    data = [task["data"] | changes for task in json.loads((folder / "tasks.json").read_text())]
    rows = [each | {"label": "dog", "annotation_id": number} for number, each in enumerate(data)]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    full = [task(0, annotation("dog"), data=each) for each in data]
    return [("full.json", json.dumps(full)), ("min.json", json.dumps(rows)), ("export.csv", file.getvalue())]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"run": "run-2"}, "run: expected run-1, found 'run-2': it is another run's file"),
        ({"image": "/data/local-files/?d=query/images/4.png"}, "pool_index: expected 4 beside"),
        ({"name": "pool point 4"}, "name: expected 'pool point 12' beside pool_index 12"),
    ],
)
def test_exports_carry_it_along(tmp_path, changes, message):
    for name, content in exports(tmp_path):
        assert set(told(tmp_path, content, name=name, run="run-1")) == {(12, 1), (7, 1), (29, 1)}
    for name, content in exports(tmp_path, **changes):
        with pytest.raises(LabelError, match=message):
            told(tmp_path, content, name=name, run="run-1")


def test_an_export_with_images_inside_its_cells(tmp_path):
    limit = csv.field_size_limit()
    folder = asked(tmp_path / "query", inputs=pool((400, 400)), image_root="inline")
    rows = [task["data"] | {"label": "dog"} for task in json.loads((folder / "tasks.json").read_text())]
    assert min(len(row["image"]) for row in rows) > limit
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    assert told(tmp_path, file.getvalue()) == [(12, 1), (7, 1), (29, 1)]
    with pytest.raises(LabelError, match="expected CSV"):
        told(tmp_path, 'pool_index,label\n1,"dog"x\n')
    assert csv.field_size_limit() == limit


# -- Label Studio ----------------------------------------------------------------------------------------------------


def annotation(choice, number=1, created="2026-11-25T21:50:04.951023Z", **changes):
    """As Label Studio 1.23.2 exports one; `choice` is None for what was skipped."""
    result = {"from_name": "label", "to_name": "item", "type": "choices", "value": {"choices": [choice]}}
    return {
        "id": number,
        "completed_by": 1,
        "result": [] if choice is None else [result],
        "was_cancelled": choice is None,
        "ground_truth": False,
        "created_at": created,
        "updated_at": created,
        "lead_time": 3.2,
    } | changes


def task(index, *annotations, **changes):
    data = {"pool_index": index, "round": 2, "name": f"pool point {index}", "image": "/data/local-files/?d=x.png"}
    return {"id": 101, "annotations": list(annotations), "predictions": [], "data": data} | changes


def test_a_full_export(tmp_path):
    tasks = [
        task(3, annotation("dog")),
        task(14, annotation(None)),  # skipped
        task(15, annotation("abstain")),
        task(9),  # not answered yet
        task(26, annotation("bird", result=[])),  # submitted without a choice
        task("5", annotation("bird"), data={"pool_index": "5"}),  # tasks that were imported from CSV
    ]
    assert told(tmp_path, json.dumps(tasks), name="export.json") == [(3, 1), (14, ABSTAIN), (15, ABSTAIN), (5, 2)]
    assert told(tmp_path, json.dumps(tasks[0]), name="export.json") == [(3, 1)]
    assert told(tmp_path, "\ufeff" + json.dumps(tasks[:1]), name="no-ending") == [(3, 1)]


def test_every_annotator_counts_in_the_order_of_time(tmp_path):
    tasks = [
        task(
            3,
            annotation("dog", 13, "2026-11-25T21:50:05Z"),  # a whole second: without fraction
            annotation("cat", 12, "2026-11-25T21:50:05.000001Z"),
            annotation("dog", 11, "2026-11-25T21:50:04.9Z"),
            annotation("bird", 10, "2026-11-25T22:50:04.8+01:00"),
            annotation("cat", 15, "2026-11-25T21:50:09Z"),
            annotation("dog", 14, "2026-11-25T21:50:09Z"),
        ),
        task(1, annotation("dog", 2, "2020-01-01T00:00:00Z")),
    ]
    expected = [(3, 2), (3, 1), (3, 1), (3, 0), (3, 1), (3, 0), (1, 1)]  # two dogs in a row: of two annotators
    assert told(tmp_path, json.dumps(tasks), name="export.json") == expected


def test_json_min_and_csv_exports_are_newest_first(tmp_path):
    minimal = [
        {"pool_index": 3, "id": 7, "label": "cat", "annotation_id": 8, "created_at": "2026-11-25T21:50:09Z"},
        {"pool_index": 3, "id": 7, "label": "dog", "annotation_id": 7, "created_at": "2026-11-25T21:50:04.951023Z"},
        {"pool_index": 4, "id": 8, "annotation_id": None, "created_at": None},
    ]
    assert told(tmp_path, json.dumps(minimal), name="export.json") == [(3, 1), (3, 0)]
    text = (
        '"annotation_id","annotator","created_at","id","label","pool_index"\n'
        '8,"1","2026-11-25T21:50:09Z",7,"cat",3\n7,"1","2026-11-25T21:50:04.951023Z",7,"dog",3\n"","","",8,"",4\n'
    )
    assert told(tmp_path, text) == [(3, 1), (3, 0)]


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("[{", "expected JSON"),
        ("pool_index,label\n", "expected JSON"),
        ("[NaN]", "expected JSON: NaN"),
        ("[" * 100_000, "expected JSON"),
        (3, "expected a list of tasks, found 3"),
        ([3], "task 1: expected a JSON object, found 3"),
        ([task(1), {"id": 9, "label": "dog"}], r"task 2 \(id 9\): expected a pool_index"),
        ([task(1, data={"text": "x"})], r"task 1 \(id 101\): expected a pool_index in its data"),
        ([task("x")], "task 1 .*: pool_index: expected the number of a pool point, found 'x'"),
        ([task(True)], "pool_index: .* found True"),
        ([task(1.5)], "pool_index: .* found 1.5"),
        ([task(None)], "pool_index: .* found None"),
        ([task(1, annotations=None)], "expected annotations, found None; is this the file to import?"),
        ([task(1, 5)], "expected an annotation, found 5"),
        ([task(1, annotation("wolf"))], r"task 1 \(id 101\): label: expected a class name .* found 'wolf'"),
        ([task(1, annotation("dog", result="dog"))], "expected a list of results"),
        ([task(1, annotation("dog", created="yesterday"))], "expected a time in created_at, found 'yesterday'"),
        ([{"pool_index": 1, "label": ["dog"]}], "label: expected one class, found"),
        ([{"pool_index": 1, "label": {"choices": ["dog", "cat"]}}], "label: expected one class, found"),
        ([{"pool_index": 1, "label": True}], "label: expected one class, found True"),
        ([{"pool_index": 1, "label": 7}], "label: expected a class name .* found 7"),
    ],
)
def test_json_that_is_refused(tmp_path, tree, message):
    with pytest.raises(LabelError, match=rf"^export\.json: .*{message}") as caught:
        told(tmp_path, tree if isinstance(tree, str) else json.dumps(tree), name="export.json")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"from_name": "label", "value": {"choices": ["dog", "cat"]}}, "expected one choice, found 2"),
        ({"from_name": "label", "value": {"text": ["dog"]}}, "expected choices"),
        ({"from_name": "mood", "value": {"text": ["dog"]}}, 'expected an answer to "label" .*, found mood'),
    ],
)
def test_results_of_another_interface_are_refused(tmp_path, result, message):
    with pytest.raises(LabelError, match=message):
        told(tmp_path, json.dumps([task(1, annotation("dog", result=[result]))]), name="export.json")


# -- who is meant -----------------------------------------------------------------------------------------------------

FILES = ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/caf\u00e9 3.png", "7.jpg"]


@pytest.mark.parametrize("column", ["Name", "IMAGE", "filename", "File Name", "file", "Path"])
@pytest.mark.parametrize("classes", ["label", "Class", "CHOICE", "class-name"])
def test_a_spreadsheet_of_file_names_and_classes(tmp_path, column, classes):
    text = f"{classes};{column}\ndog;cat/2.jpg\nbird;7.jpg\n"
    assert told(tmp_path, text, names=FILES) == [(1, 1), (4, 2)]


@pytest.mark.parametrize(
    ("written", "index"),
    [
        ("2.jpg", 1),
        ("2", 1),
        ("cat/1", 0),
        ("/home/me/photos/dog/1.jpg", 2),
        ("photos\\dog\\1.jpg", 2),
        ("./dog/1.jpg", 2),
        ("/data/local-files/?d=photos/dog/1.jpg", 2),
        ("https://there/photos/dog/caf%C3%A9%203.png?x=1#a", 3),
        ("cafe\u0301 3.png", 3),
        ("/data/upload/1/0a1b2c3d-7.jpg", 4),
        ("s3://bucket/cat/2.jpg", 1),
    ],
)
def test_a_point_by_as_much_of_its_path_as_tells_it_apart(tmp_path, written, index):
    assert told(tmp_path, f"filename,label\n{written},dog\n", names=FILES) == [(index, 1)]
    export = [{"image": written, "choice": "dog", "id": 1, "annotation_id": 3}]
    assert told(tmp_path, json.dumps(export), name="export.json", names=FILES) == [(index, 1)]
    full = [task(0, annotation("dog"), data={"image": written})]
    assert told(tmp_path, json.dumps(full), name="export.json", names=FILES) == [(index, 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1.jpg", r"filename: expected a name that one pool point has, found '1\.jpg' of 2 \(0: cat/1\.jpg, 2: dog/1"),
        ("bird/1.jpg", "filename: expected the name of a pool point, found 'bird/1.jpg'"),
        ("caat/2.jpg", r"filename: .*, found 'caat/2\.jpg'; perhaps cat/2\.jpg"),
        ("", "expected a pool_index, or the name, image, filename of a point"),
    ],
)
def test_a_name_that_is_nobodys_or_of_several(tmp_path, row, message):
    with pytest.raises(LabelError, match=rf"^answers\.csv: row 2: {message}"):
        told(tmp_path, f"filename,label\n{row},dog\n", names=FILES)
    with pytest.raises(LabelError, match="row 2: "):
        told(tmp_path, f"filename,label\n{row},dog\n")


def test_names_and_numbers_must_agree(tmp_path):
    assert told(tmp_path, "Pool_Index,image,Label\n2,dog/1.jpg,cat\n", names=FILES) == [(2, 0)]
    assert told(tmp_path, "name,label\npool point 7,cat\n") == [(7, 0)]
    assert told(tmp_path, "image,label\nimages/3.jpg,cat\n") == [(3, 0)]
    with pytest.raises(LabelError, match=r"image: expected 'cat/2\.jpg' beside pool_index 1, found 'dog/1.jpg'"):
        told(tmp_path, "pool_index,image,label\n1,dog/1.jpg,cat\n", names=FILES)
    with pytest.raises(LabelError, match=r"image: expected a name that one pool point has, found 'images/1.jpg' of 2"):
        told(tmp_path, "image,label\nimages/1.jpg,cat\n", names=["images/1.jpg", "images/2.jpg"])


# -- other exports ----------------------------------------------------------------------------------------------------


def test_an_interface_of_ones_own(tmp_path):
    minimal = [
        {"pool_index": 3, "choice": "dog", "label": "", "annotation_id": 8, "created_at": "2026-11-25T21:50:09Z"},
        {"pool_index": 4, "id": 8, "annotation_id": 9},
    ]
    assert told(tmp_path, json.dumps(minimal), name="export.json") == [(3, 1)]
    for control in ("choice", "animal"):
        result = {"from_name": control, "type": "choices", "value": {"choices": ["dog"]}}
        text = {"from_name": "note", "type": "textarea", "value": {"text": ["why"]}}
        full = [task(1, annotation("dog", result=[text, result]))]
        assert told(tmp_path, json.dumps(full), name="export.json") == [(1, 1)]
    assert told(tmp_path, "pool_index,label,choice\n3,,dog\n") == [(3, 1)]


@pytest.mark.parametrize("text", ['[{"pool_index": 1, "animal": "dog"}]', "pool_index,label,animal\n1,,dog\n"])
def test_answers_under_another_name_are_not_read_as_none(tmp_path, text):
    with pytest.raises(LabelError, match="expected the class under label, class, choice, found 'dog' under animal"):
        told(tmp_path, text)


def test_annotations_without_a_class_are_said(tmp_path):
    with pytest.warns(UserWarning, match=r"export\.json: its annotations hold no class"):
        assert told(tmp_path, json.dumps([{"pool_index": 1, "annotation_id": 3}]), name="export.json") == []


def test_what_was_rejected_is_no_answer_and_what_was_ignored_an_abstention(tmp_path):
    lines = [
        {"name": "7.jpg", "label": "dog", "answer": "accept", "_timestamp": 1600000000},
        {"name": "cat/1.jpg", "label": "dog", "answer": "reject"},
        {"name": "cat/2.jpg", "label": "dog", "answer": "ignore"},
        {"name": "dog/1.jpg", "accept": ["bird"], "answer": "accept"},
    ]
    for name in ("prodigy.jsonl", "answers"):
        with pytest.warns(UserWarning, match=f"{name}: 1 rejected answers are left out"):
            found = told(tmp_path, "\n".join(map(json.dumps, lines)) + "\n", name=name, names=FILES)
        assert found == [(4, 1), (1, ABSTAIN), (2, 2)]
    with pytest.raises(LabelError, match=r"^a\.jsonl: line 3: expected JSON"):
        told(tmp_path, '{"pool_index": 1, "label": "dog"}\n\n{"pool_index": 2,\n', name="a.jsonl")


def test_reviews_and_a_ground_truth(tmp_path):
    reviews = [{"accepted": True, "created_at": "2026-01-01"}, {"accepted": False, "created_at": "2026-01-02"}]
    tasks = [
        task(1, annotation("dog", reviews=reviews), annotation("cat", 2, reviews=reviews[:1])),
        task(2, annotation("dog", 3, "2026-01-01T10:00:00Z", ground_truth=True), annotation("cat", 4)),
        task(3, annotation("dog", 5, last_action="rejected")),
    ]
    with pytest.warns(UserWarning, match="2 rejected answers"):
        assert told(tmp_path, json.dumps(tasks), name="export.json") == [(1, 0), (2, 1)]


def test_an_answer_is_as_late_as_its_last_change(tmp_path):
    tasks = [
        task(
            3,
            annotation("dog", 1, "2026-01-01T10:00:00Z", updated_at="2026-01-05T10:00:00Z"),
            annotation("cat", 2, "2026-01-02T10:00:00Z"),
        )
    ]
    assert told(tmp_path, json.dumps(tasks), name="export.json") == [(3, 0), (3, 1)]


@pytest.mark.parametrize(
    "times",
    [
        ("05.01.2026 10:00", "01.02.2026 09:00:30"),
        ("2026/01/05 10:00", "2026/02/01"),
        ("13/01/2026 10:00", "28/01/2026 10:00"),
        ("01/13/2026 10:00", "01/28/2026 10:00"),
        ("2026-01-05 10:00", "2026-01-05T10:00:01Z"),
    ],
)
def test_times_as_spreadsheets_write_them(tmp_path, times):
    text = f"pool_index,label,created_at\n3,dog,{times[1]}\n3,cat,{times[0]}\n"
    assert told(tmp_path, text) == [(3, 0), (3, 1)]


def test_a_time_of_two_meanings_orders_nothing(tmp_path):
    assert told(tmp_path, "pool_index,label,created_at\n3,dog,05/01/2026 10:00\n4,cat,06/01/2026 10:00\n") == [
        (3, 1),
        (4, 0),
    ]
    with pytest.raises(LabelError, match=r"row 2: expected a time such as 2026-01-05 10:00, .*either of two months"):
        told(tmp_path, "pool_index,label,created_at\n3,dog,05/01/2026 10:00\n3,cat,06/01/2026 10:00\n")
