"""What a query is as files: CSV, images, Label Studio tasks; what a filled-in file says is in test_answers."""

import base64
import csv
import hashlib
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from bdal.answers import read_answers
from bdal.labelling import questions
from bdal.labelling.questions import hotkeys, label_config, picture, write_query

NAMES = ["cat", "dog", "bird"]
NASTY = [
    "=cmd|'/c calc'!A1",
    "+1",
    "@SUM(A1)",
    'déjà "vu"',
    "a,b;c",
    "<b>&amp;",
    "$image",
    "'quoted",
    "猫",
    "NaN",
    "null",
    "-",
]
DIGITS = [str(digit) for digit in range(10)]


def pool(shape=(8, 8, 1), count=30):
    return np.random.default_rng(0).random((count, *shape)).astype(np.float32)


def asked(folder, **changes):
    arguments = {"indices": [12, 7, 29], "inputs": pool(), "class_names": NAMES, "round": 2}
    write_query(folder, **(arguments | changes))
    return folder


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_query(tmp_path):
    folder = asked(tmp_path / "query")
    assert sorted(tree(folder)) == [
        ".images.json", "images/12.png", "images/29.png", "images/7.png", "label_config.xml", "query.csv", "tasks.json",
    ]  # fmt: skip
    assert (folder / "query.csv").read_text() == (
        "pool_index,image,label\n12,images/12.png,\n7,images/7.png,\n29,images/29.png,\n"
    )
    tasks = json.loads((folder / "tasks.json").read_text())
    assert [task["data"]["pool_index"] for task in tasks] == [12, 7, 29]
    assert [task["data"]["round"] for task in tasks] == [2, 2, 2]
    prefix = "data:image/png;base64,"
    for task in tasks:
        image = (folder / "images" / f"{task['data']['pool_index']}.png").read_bytes()
        assert task["data"]["image"].startswith(prefix)
        assert base64.b64decode(task["data"]["image"].removeprefix(prefix)) == image


def test_which_run_asks_stands_with_every_point(tmp_path):
    folder = asked(tmp_path, run="run-12e45678", names=[f"{index}.png" for index in range(30)])
    assert (folder / "query.csv").read_text().splitlines()[:2] == [
        "pool_index,image,run,label,name", "12,images/12.png,run-12e45678,,12.png",
    ]  # fmt: skip
    assert [task["data"]["run"] for task in json.loads((folder / "tasks.json").read_text())] == ["run-12e45678"] * 3


def test_images_are_enlarged_by_whole_numbers_every_pixel_a_square(tmp_path):
    inputs = pool((6, 9, 3))
    folder = asked(tmp_path, inputs=inputs)
    image = np.asarray(Image.open(folder / "images/7.png"))
    assert image.shape == (27 * 6, 27 * 9, 3)  # 26 · 6 < 160 <= 27 · 6
    assert (image == np.kron(np.rint(255 * inputs[7]).astype(np.uint8), np.ones((27, 27, 1), np.uint8))).all()


def test_large_images_keep_their_size():
    content = picture(0, pool((200, 170)), side=160).content
    assert Image.open(io.BytesIO(content)).size == (170, 200)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 0.5, [0, 128]), (0.0, 1.0, [0, 255]), (0.0, 255.0, [0, 255]), (-2.0, 2.0, [0, 255]), (3.0, 3.0, [0, 0])],
)
def test_bright_stays_bright_over_the_whole_pool(low, high, expected):
    inputs = np.full((2, 4, 4), low)
    inputs[1] = high
    shown = [np.asarray(Image.open(io.BytesIO(picture(index, inputs).content)))[0, 0] for index in range(2)]
    assert shown == expected


def test_the_same_query_gives_the_same_bytes_and_writes_nothing(tmp_path, monkeypatch):
    folder = asked(tmp_path)
    before = tree(folder)
    written = []
    monkeypatch.setattr(questions, "write_atomic", lambda path, content: written.append(path.name))
    asked(folder)
    assert tree(folder) == before
    assert written == []


def test_images_of_an_earlier_query_go_and_other_files_stay(tmp_path):
    folder = asked(tmp_path)
    (folder / "images/notes.txt").write_text("mine")
    asked(folder, indices=[7, 3])
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["3.png", "7.png", "notes.txt"]
    assert (folder / "query.csv").read_text().splitlines()[1:] == ["7,images/7.png,", "3,images/3.png,"]


def test_a_query_that_cannot_be_written_leaves_the_one_before_whole(tmp_path, monkeypatch):
    folder = asked(tmp_path)
    before = tree(folder)

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(questions, "write_atomic", full)
    with pytest.raises(OSError, match="No space"):
        asked(folder, indices=[1, 2])
    assert tree(folder) == before


def test_images_that_it_did_not_write_stay(tmp_path):
    folder = tmp_path / "query"
    (folder / "images").mkdir(parents=True)
    for name in ("5.png", "12.png"):
        (folder / "images" / name).write_bytes(f"mine, {name}".encode())
    asked(folder)  # 12, 7, 29
    aside = f"12-{hashlib.sha256(b'mine, 12.png').hexdigest()[:8]}.png"
    assert (folder / "images" / aside).read_bytes() == b"mine, 12.png"
    (folder / "images/7.png").write_bytes(b"painted over")
    asked(folder, indices=[1])
    assert sorted(path.name for path in (folder / "images").iterdir()) == sorted(["1.png", aside, "5.png", "7.png"])
    assert (folder / "images/5.png").read_bytes() == b"mine, 5.png"
    assert (folder / "images/7.png").read_bytes() == b"painted over"
    (folder / ".images.json").write_text("[" * 9999)  # then nothing is known to be ours
    asked(folder, indices=[2])
    assert (folder / "images/1.png").exists()


def test_names_are_no_formulas_where_a_semicolon_parts_the_columns_and_come_back(tmp_path):
    names = ["cat;=1+1.png", "a; @x", "b,-2", "c;plain=1", "=1;+2", "d;;|x", "it's;'=1"]
    folder = asked(tmp_path, indices=range(7), inputs=pool((16,), 7), names=names)
    text = (folder / "query.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [
        "cat;'=1+1.png", "a;' @x", "b,'-2", "c;plain=1", "'=1;'+2", "d;;'|x", "it's;'=1",
    ]  # fmt: skip
    for cells in (csv.reader(io.StringIO(text), delimiter=mark) for mark in ",;"):
        assert not [cell for row in cells for cell in row if cell.lstrip()[:1] in tuple("=+-@|%")]
    rows = [{**row, "label": "dog"} for row in csv.DictReader(io.StringIO(text))]
    with (tmp_path / "filled.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    found = read_answers(tmp_path / "filled.csv", class_names=["cat", "dog"], names=names)
    assert found.indices.tolist() == list(range(7))


def test_answers_in_query_csv_are_never_overwritten(tmp_path):
    folder = asked(tmp_path)
    typed = "label,pool_index\r\ndog,7\r\n,12\r\n,29\r\n"  # by a spreadsheet, sorted
    (folder / "query.csv").write_text(typed, newline="")
    asked(folder)
    assert (folder / "query.csv").read_bytes() == typed.encode()
    asked(folder, indices=[1, 2])
    aside = folder / f"query-{hashlib.sha256(typed.encode()).hexdigest()[:8]}.csv"
    assert aside.read_bytes() == typed.encode()
    assert (folder / "query.csv").read_text().splitlines()[1:] == ["1,images/1.png,", "2,images/2.png,"]


def test_a_query_csv_that_cannot_be_read_is_moved_aside_too(tmp_path):
    folder = asked(tmp_path)
    (folder / "query.csv").write_bytes(b"pool_index\tlabel\n12\tcaf\xe9\n")
    asked(folder)
    assert [path.read_bytes()[-5:] for path in folder.glob("query-*.csv")] == [b"caf\xe9\n"]
    assert "12,images/12.png," in (folder / "query.csv").read_text()


def test_image_files_are_copied_as_they_are(tmp_path):
    files = []
    for index, suffix in enumerate([".png", ".JPG", ".tif"]):
        files.append(tmp_path / f"photo {index}{suffix}")
        Image.fromarray(np.full((5, 7, 3), 40 * index, np.uint8)).save(files[-1])
    folder = asked(tmp_path / "query", indices=[1, 0, 2], inputs=pool((4, 4, 3), 3), files=files)
    assert sorted(path.name for path in (folder / "images").iterdir()) == ["0.png", "1.jpg", "2.png"]
    assert (folder / "images/1.jpg").read_bytes() == files[1].read_bytes()
    assert Image.open(io.BytesIO((folder / "images/2.png").read_bytes())).size == (7, 5)
    assert "1,images/1.jpg,,photo 1.JPG\n" in (folder / "query.csv").read_text()
    assert "data:image/jpeg;base64," in (folder / "tasks.json").read_text()


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a\.txt: expected an image of PNG, .* found something else"):
        asked(tmp_path / "query", indices=[0], files=[tmp_path / "a.txt"])


def saved(file, form):
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(file, form)
    return file


def test_no_other_decoder_of_pillow_is_let_at_a_file(tmp_path, monkeypatch):
    for ending, form in (("eps", "EPS"), ("tif", "EPS"), ("ppm", "PPM"), ("tif", "PDF")):
        with pytest.raises(ValueError, match=rf"a\.{ending}: expected an image of .* found something else"):
            picture(0, None, [saved(tmp_path / f"a.{ending}", form)])
    for form in questions.READ:
        assert picture(0, None, [saved(tmp_path / "a.tif", form)]).content.startswith(b"\x89PNG")


def test_whatever_a_decoder_stumbles_over_is_one_error_that_names_the_file(tmp_path, monkeypatch):
    file = saved(tmp_path / "a.tif", "TIFF")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1000])
    with pytest.raises(ValueError, match=r"a\.tif: expected an image .*, found one that cannot be decoded \(.+\)$"):
        picture(0, None, [file])
    file.write_bytes(whole)
    for pixels in (60_000, 10_000):  # Pillow warns of more than so many, and raises an error of twice as many
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(ValueError, match=r"a\.tif: .* decompression bomb"):
            picture(0, None, [file])
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.tif"):
        picture(0, None, [file])


def test_embeddings_have_names_and_no_images(tmp_path):
    names = [f"text {index}" for index in range(30)]
    folder = asked(tmp_path, inputs=pool((16,)), names=names)
    assert (folder / "query.csv").read_text().splitlines()[:2] == ["pool_index,image,label,name", "12,,,text 12"]
    assert json.loads((folder / "tasks.json").read_text())[1] == {
        "data": {"pool_index": 7, "round": 2, "name": "text 7"}
    }
    assert list((folder / "images").iterdir()) == []
    assert "<Image" not in (folder / "label_config.xml").read_text()


@pytest.mark.parametrize(
    ("image_root", "expected"),
    [
        (None, "/data/local-files/?d=query/images/12.png"),
        ("https://example.org/x/", "https://example.org/x/12.png"),
        ("inline", "data:image/png;base64,"),
    ],
)
def test_where_label_studio_finds_images(tmp_path, monkeypatch, image_root, expected):
    monkeypatch.setattr(questions, "INLINE", 100)
    folder = asked(tmp_path / "query", image_root=image_root)
    image = json.loads((folder / "tasks.json").read_text())[0]["data"]["image"]
    assert image.startswith(expected)
    assert image_root == "inline" or image == expected


def test_names_are_no_formulas_and_files_are_one_line_a_point(tmp_path):
    names = ["=1+1", " @x", "-2", "+3", "two\r\nlines\t", 'a,"b"', "caf\udce9", "plain"]
    folder = asked(tmp_path, indices=range(8), inputs=pool((16,), 8), names=names)
    rows = list(csv.DictReader(io.StringIO((folder / "query.csv").read_text())))
    assert [row["name"] for row in rows] == [
        "'=1+1", "' @x", "'-2", "'+3", "two  lines ", 'a,"b"', r"caf\udce9", "plain",
    ]  # fmt: skip
    assert len((folder / "query.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ["a", "a"]}, "expected different names, got 'a' 2 times"),
        ({"class_names": ["a", " b"]}, "without spaces around them, got ' b'"),
        ({"class_names": ["a", ""]}, "without spaces around them, got ''"),
        ({"class_names": ["a\0"]}, "without control characters"),
        ({"indices": [30]}, r"indices: expected pool indices in \[0, 30\), got 30"),
        ({"indices": [-1]}, "got -1"),
        ({"indices": [1, 1]}, "expected different points"),
        ({"indices": [1.5]}, "expected integers"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        asked(tmp_path / "query", **changes)
    assert not (tmp_path / "query").exists()


def test_the_labelling_interface():
    view = ElementTree.fromstring(label_config(NASTY, images=True))  # noqa: S314
    assert view.find("Image").attrib["value"] == "$image"
    choices = view.find("Choices")
    assert (choices.attrib["name"], choices.attrib["toName"], choices.attrib["choice"]) == (
        "label",
        "item",
        "single-radio",
    )
    assert view.find("Image").attrib["name"] == "item"
    values = [choice.attrib["value"] for choice in choices]
    assert values == [*NASTY[:6], "＄image", *NASTY[7:], "abstain"]  # Label Studio would look $image up in the task
    choices = ElementTree.fromstring(label_config(["cat", "dog", "a"], images=True)).find("Choices")  # noqa: S314
    assert [choice.attrib.get("hotkey") for choice in choices] == ["1", "2", None, None]
    assert "abstain" not in [choice.attrib.get("hint") for choice in choices]
    assert label_config(["abstain", "b"], images=False).count('"abstain"') == 1


def test_every_class_has_its_own_key():
    assert hotkeys(DIGITS) == DIGITS
    assert hotkeys("ABCDEFGHIJ") == list("abcdefghij")
    assert hotkeys(["a", "A", "B"]) == ["a", "A", "b"]
    assert hotkeys(["?", "b"]) == ["1", "b"]
    assert hotkeys([*DIGITS, "other"]) == [*DIGITS, "a"]
    assert hotkeys(["none", *DIGITS, "10"]) == ["a", *DIGITS, "b"]
    assert hotkeys(["10", "20"]) == ["a", "b"]  # no digit but in the name of its class
    assert hotkeys(["grade 0", "grade 1", "none"]) == ["0", "1", "a"]
    assert hotkeys(["1", "type 1", "type 2", "a 3", "b 3"]) == ["1", "a", "2", "b", "c"]
    assert hotkeys(["A", "cat", "b", "2"]) == ["a", "c", "b", "2"]
    assert hotkeys(["cat", "a", "H"]) == ["1", "a", "h"]
    assert hotkeys(["猫", "é", "İ"]) == ["1", "é", "İ"]
    many = hotkeys([f"class {index}" for index in range(50)])
    assert many[:12] == [*DIGITS, "a", "b"]
    assert hotkeys(["x" * index for index in range(2, 20)])[:12] == [*"1234567890", "a", "b"]
    taken = [key for key in many if key]
    assert len(set(taken)) == len(taken) == 34
    assert not {"h", "q", "?", " "} & set(taken)
