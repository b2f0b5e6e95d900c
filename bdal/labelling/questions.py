"""A query goes out: as CSV, images and Label Studio tasks, for people to answer.

    query/query.csv           pool_index,image,run,label (and name): fill in `label` and give the file to `bdal tell`
    query/tasks.json          the same points as Label Studio tasks
    query/label_config.xml    Label Studio's labelling interface for these classes
    query/images/12.png       the image of pool point 12, where points are images

Formats: RFC 4180 for CSV, and for Label Studio its documentation's "Set up local project storage" and "Labeling
configuration".
"""

import base64
import csv
import hashlib
import io
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import east_asian_width
from xml.etree import ElementTree

import numpy as np

from bdal.answers import ABSTAINS, WIDE_DOLLAR, check_class_names, csv_answers, title
from bdal.errors import LabelError
from bdal.store.durable import check_own, write_atomic

SIDE = 160  # pixels: smaller images are written enlarged, by a whole number of times
INLINE = 4 * 2**20  # bytes: images that come to no more are written into tasks.json
HOTKEYS = "1234567890abcdefgijklmnoprstuvwxyz"  # dealt in this order; h and q are for help and quit
WRITTEN = ".images.json"  # which images the query wrote, by their digests
SHOWN = {"png", "jpg", "jpeg", "gif", "webp", "bmp"}  # what every browser shows; other files become PNG
READ = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")  # and no others: Pillow would hand EPS to Ghostscript


def write_query(
    folder: str | Path,
    *,
    indices: Any,
    inputs: Any,
    class_names: Sequence[str],
    round: int,
    files: Sequence[str | Path] | None = None,
    names: Sequence[str] | None = None,
    image_root: str | None = None,
    run: str | None = None,
) -> None:
    """The open query as files in `folder`; the same query gives the same bytes.

    Images that the previous query wrote are removed. Other files stay, or are moved aside.

    Points are images where `inputs` is `[N, H, W]` or `[N, H, W, 1 or 3]`, or where there are `files`: those are copied
    as they are. Other points have a name only. A `query.csv` with answers in it is never overwritten: it stays if it is
    this query's, and is moved to `query-<digest>.csv` if it is another's.

    Args:
      folder: made if it is not there.
      indices: `[Q]` pool indices in the order of asking.
      inputs: `[N, ...]` the whole pool.
      class_names: C names, all different.
      round: the round that asks; part of the tasks.
      files: N image files, where the pool was read from some.
      names: N names for people to read; by default those of the files.
      image_root: where Label Studio finds the images. "inline" writes them into tasks.json, anything else is put before
        their names, as "/data/local-files/?d=query/images/" is for Label Studio's local storage. By default inline if
        all come to 4 MiB or less, otherwise local storage below the folder that `folder` is in.
      run: which run asks, in a word that is no number; it comes back with the answers.

    Raises:
      ValueError: class names that are empty or the same, indices outside the pool, a file that is no image.
      OSError: an image file that cannot be read, or a folder that cannot be written.
    """
    class_names = check_class_names(class_names)
    indices = _indices(indices, len(inputs))
    folder = Path(folder)
    if names is None and files is not None:
        names = [Path(file).name for file in files]
    span = gray_span(inputs) if files is None else (0.0, 1.0)
    pictures = [picture(index, inputs, files, span=span, side=SIDE) for index in indices]
    images = {f"{i}.{p.ending}": p for i, p in zip(indices, pictures, strict=True) if p is not None}
    images_of = [f"{i}.{p.ending}" if p is not None else "" for i, p in zip(indices, pictures, strict=True)]

    if image_root is None and sum(len(image.content) for image in images.values()) <= INLINE:
        image_root = "inline"
    image_root = image_root or f"/data/local-files/?d={folder.resolve().name}/images/"
    of = {} if run is None else {"run": run}
    tasks, rows = [], []
    for index, image in zip(indices, images_of, strict=True):
        name = title(index, names)
        shown = {"image": _address(image_root, image, images[image])} if image else {}
        tasks.append({"data": {"pool_index": index, "round": round, "name": name} | shown | of})
        row = {"pool_index": index, "image": f"images/{image}" if image else ""} | of | {"label": ""}
        rows.append(row | ({"name": _no_formula(name)} if names is not None else {}))

    check_own(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    earlier, now = _written(folder), {name: _digest(image.content) for name, image in images.items()}
    _put(folder / WRITTEN, json.dumps(earlier | now, indent=1, sort_keys=True) + "\n")  # before they are there
    for name, image in images.items():
        path = folder / "images" / name
        if path.exists() and _digest(path.read_bytes()) not in (now[name], earlier.get(name)):  # somebody's own
            path.replace(path.with_stem(f"{path.stem}-{_digest(path.read_bytes())[:8]}"))
        _put(path, image.content)
    _put(folder / "label_config.xml", label_config(class_names, images=bool(images)))
    _put(folder / "tasks.json", json.dumps(tasks, indent=1) + "\n")
    _put_query(folder / "query.csv", _csv(rows), set(indices))
    for name in earlier.keys() - now.keys():
        path = folder / "images" / name
        if path.exists() and _digest(path.read_bytes()) == earlier[name]:
            path.unlink()
    _put(folder / WRITTEN, json.dumps(now, indent=1, sort_keys=True) + "\n")


def _written(folder: Path) -> dict[str, str]:
    """The images that the previous query wrote, with their digests. All others belong to the user."""
    try:
        found = dict(json.loads((folder / WRITTEN).read_text(encoding="utf-8")))
        return {name: digest for name, digest in found.items() if re.fullmatch(r"[0-9]+\.[a-z]+", name)}
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Picture(NamedTuple):
    """An image as the bytes of a file and the ending that says their format."""

    content: bytes
    ending: str


def picture(
    index: int,
    inputs: Any,
    files: Sequence[str | Path] | None = None,
    *,
    span: tuple[float, float] | None = None,
    side: int = 1,
) -> Picture | None:
    """What a person is shown of pool point `index`: its file as it is, or its array as PNG; None if it is no image.

    Arrays `[H, W]` and `[H, W, 1 or 3]` become bytes by `255 (x - low) / (high - low)` and are enlarged by a whole
    number of times, every pixel a square, to `side` pixels at least. `span` is (low, high), by default
    `gray_span(inputs)`: the same for the whole pool, so that bright stays bright.

    Raises:
      OSError: a file that cannot be read.
      ValueError: a file that has to become PNG and is no image; the message names it.

    >>> picture(0, np.zeros((1, 4, 4)), side=8).content[:4]
    b'\\x89PNG'
    >>> picture(0, np.zeros((1, 512))) is None
    True
    """
    from PIL import Image, UnidentifiedImageError

    if files is not None:
        file = Path(files[index])
        ending, content = file.suffix[1:].lower(), file.read_bytes()
        if ending in SHOWN:
            return Picture(content, ending)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content), formats=READ) as image:
                    return Picture(_png(image.convert("RGB")), "png")
        except Exception as error:  # decoders fail in many ways on what is no image
            no_image = isinstance(error, UnidentifiedImageError)
            found = "something else" if no_image else f"one that cannot be decoded ({' '.join(str(error).split())})"
            raise ValueError(f"{file}: expected an image of {', '.join(READ)}, found {found}") from error
    if not is_images(inputs):
        return None
    low, high = gray_span(inputs) if span is None else span
    pixels = np.asarray(inputs[index], dtype=np.float64)  # [H, W] or [H, W, 1 or 3]
    pixels = pixels[..., 0] if pixels.shape[2:] == (1,) else pixels
    pixels = np.rint(255 * np.clip((pixels - low) / ((high - low) or 1.0), 0, 1)).astype(np.uint8)
    times = -(-side // min(pixels.shape[:2]))
    return Picture(_png(Image.fromarray(np.repeat(np.repeat(pixels, times, axis=0), times, axis=1))), "png")


def is_images(inputs: Any) -> bool:
    """Whether a pool is images: `[N, H, W]`, or `[N, H, W, 1 or 3]`."""
    shape = np.shape(inputs)
    return len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))


def gray_span(inputs: Any) -> tuple[float, float]:
    """What is black and what is white: (0, 1) where the pool is within, otherwise its least and largest number.

    >>> gray_span(np.array([[0.0, 0.5]])), gray_span(np.array([[-1.0, 3.0]]))
    ((0.0, 1.0), (-1.0, 3.0))
    """
    low, high = float(np.min(inputs)), float(np.max(inputs))
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def hotkeys(class_names: Sequence[str]) -> list[str]:
    """A key for each class: its name, if that is one character, or the one digit in it, otherwise 1 ... 9, 0, a, b ...

    A letter stands for both cases unless the classes tell them apart. "?" stays for what cannot be told, h and q for
    help and quit unless they are classes. Where names hold digits, no digit stands for a class that is not so named:
    somebody who types 10 would answer twice. Characters of double width, which take several keys to type, are dealt a
    key. "" where keys run out.

    >>> hotkeys(["cat", "dog"]), hotkeys(["A", "b"]), hotkeys(["0", "1", "10", "other"]), hotkeys(["no 0", "no 1"])
    (['1', '2'], ['a', 'b'], ['0', '1', 'a', 'b'], ['0', '1'])
    """
    single = [name for name in class_names if len(name) == 1 and name != "?" and east_asian_width(name) not in "WF"]
    lower = [name.lower() for name in single]
    own = {
        name: key if lower.count(key) == 1 and len(key) == 1 else name for name, key in zip(single, lower, strict=True)
    }
    digits = {name: _digit(name) for name in class_names if name not in own}
    found = list(digits.values())
    own |= {name: key for name, key in digits.items() if key and found.count(key) == 1 and key not in lower}
    numbers = any(re.search("[0-9]", name) for name in class_names)
    left = iter([key for key in HOTKEYS if key not in lower and not (numbers and key.isdecimal())])
    return [own.get(name) or next(left, "") for name in class_names]


def _digit(name: str) -> str:
    """The digit in a name; "" if it has none, or further ones."""
    found = re.findall("[0-9]", name)
    return found[0] if len(found) == 1 else ""


def label_config(class_names: Sequence[str], *, images: bool) -> str:
    """Label Studio's labelling interface: the image (or name) of a task, one choice of the classes or "abstain".

    A digit of `hotkeys` is the hotkey here too; other choices get theirs from Label Studio, which shows them.
    """
    view = ElementTree.Element("View")
    if images:
        ElementTree.SubElement(view, "Image", name="item", value="$image", maxWidth="480px", smoothing="false")
    ElementTree.SubElement(view, "Text", name="name" if images else "item", value="$name")
    choices = ElementTree.SubElement(
        view, "Choices", name="label", toName="item", choice="single-radio", showInline="true", required="true"
    )
    for name, key in zip(class_names, hotkeys(class_names), strict=True):
        hotkey = {"hotkey": key} if key.isdecimal() else {}
        value = name.replace("$", WIDE_DOLLAR)  # after a $ Label Studio looks for a field of the task
        ElementTree.SubElement(choices, "Choice", {"value": value} | hotkey)
    if ABSTAINS[0] not in class_names:
        ElementTree.SubElement(choices, "Choice", value=ABSTAINS[0], hint="it cannot be told")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _indices(indices: Any, num_points: int) -> list[int]:
    values = np.asarray(indices)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise ValueError(f"indices: expected integers [Q], got {values.dtype} of shape {values.shape}")
    found = values.tolist()
    if wrong := [index for index in found if not 0 <= index < num_points]:
        raise ValueError(f"indices: expected pool indices in [0, {num_points}), got {wrong[0]}")
    if len(set(found)) < len(found):
        raise ValueError(f"indices: expected different points, got {found[:5]}")
    return found


def _png(image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _address(image_root: str, name: str, image: Picture) -> str:
    if image_root != "inline":
        return image_root + name
    kind = "jpeg" if image.ending == "jpg" else image.ending
    return f"data:image/{kind};base64,{base64.b64encode(image.content).decode()}"


def _no_formula(text: str) -> str:
    """Text that a spreadsheet shows and does not compute: after a ' where it starts like a formula (CWE-1236).

    Where a semicolon parts the columns, as in many countries, what comes after one starts a cell too.
    """
    return re.sub(r"(^|[;,])(\s*[=+\-@|%])", r"\1'\2", text)


def _csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0] if rows else ("pool_index", "image", "label"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _put(path: Path, content: str | bytes) -> None:
    content = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != content:
        write_atomic(path, content)


def _put_query(path: Path, content: str, indices: set[int]) -> None:
    """Write `query.csv`, but never over answers: those to the same points stay, those to others are moved aside."""
    if path.exists():
        there = path.read_bytes()
        try:
            found = csv_answers(there, path.name)
            answered = any(label for _, label in found)
            same = {index for index, _ in found} == indices
        except LabelError:  # somebody's work, if not a query
            answered, same = True, False
        if answered and same:
            return
        if answered:
            path.replace(path.with_name(f"query-{hashlib.sha256(there).hexdigest()[:8]}.csv"))
    _put(path, content)
