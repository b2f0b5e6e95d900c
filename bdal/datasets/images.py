"""A folder of image files as a pool without labels, and images brought to another shape.

Axis letters: N pool points, H and W pixels, C colours (1 or 3).
"""

import operator
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
OTHER_SUFFIXES = (
    ".gif",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".dcm",
    ".pgm",
    ".ppm",
)  # refused, not lost
MAX_PIXELS = 2**26  # of one image file
MAX_BYTES = 2**34  # of the whole pool


def read_folder(folder: str | Path, size: Sequence[int] | None = None) -> tuple[np.ndarray, tuple[Path, ...]]:
    """All images below a folder: `[N, H, W, C]` float32 in [0, 1] and their files, in the order of their names.

    PNG, JPEG, BMP and WebP, in the folder and in folders within it; sorted by their path below the folder, as text.
    C is 1 if all of them are grey by their format, otherwise 3. They must agree in size, or `size` (H, W) brings them
    there (bilinear; proportions are not kept). A camera's note of rotation is followed, as a browser does. Files with
    other endings and hidden ones are left alone.

    Raises:
      ValueError: no image; one that cannot be decoded, is transparent or moves; other sizes without `size`; more than
        64 million pixels in one, or more than 16 GiB in all; a link out of the folder or to a folder; an image format
        that is not read. The message names the file.
    """
    size = _size(size)
    files = _files(Path(folder))
    first = _decode(files[0], size)
    inputs = np.zeros(_room(folder, len(files), first), np.float32)
    for place, file in enumerate(files):
        image = first if place == 0 else _decode(file, size)
        if image.shape[:2] != inputs.shape[1:3]:
            raise ValueError(
                f"{file}: expected {_by(inputs.shape[1:3])} pixels as in {files[0].name}, found "
                f"{_by(image.shape[:2])}; size=(height, width) brings all images to one size"
            )
        if image.shape[2] > inputs.shape[3]:  # the first one in colour
            _room(folder, len(files), image)
            inputs = np.repeat(inputs, 3, axis=3)
        inputs[place] = image
    return inputs, files


TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")  # splits by name


class Classes(NamedTuple):
    """A folder of classes: which of its images are of the pool and of the test set, and the class of each."""

    names: tuple[str, ...]
    labels: np.ndarray  # [F] of all files
    pool: np.ndarray  # places of files
    test: np.ndarray | None


def classes_of(folder: str | Path, files: Sequence[Path]) -> Classes:
    """Classes and splits from folder names: `cat/1.jpg`, or with splits `train/cat/1.jpg` and `test/cat/9.jpg`.

    The class is the folder that an image, or the folder that it is in, lies in: the first one below the split. The
    splits are `train`, `test`, and `val` or `validation`, which is the test set where there is no `test`, and left out
    with a warning where there is one: a run buys its labels for validation from the pool.

    Raises:
      ValueError: an image that lies in no folder of a class, or beside the splits; fewer than two classes.
    """
    folder = Path(folder)
    paths = [file.relative_to(folder).parts for file in files]
    tops = {parts[0] for parts in paths if len(parts) > 1}
    kinds = {top: kind for top in tops for kind in (TRAIN, TEST, VALIDATION) if top.lower() in kind}
    splits = any(kind == TRAIN for kind in kinds.values()) and any(len(parts) > 2 for parts in paths)
    if splits and (beside := sorted(tops - kinds.keys())):
        raise ValueError(f"{folder}: expected only {', '.join(sorted(kinds))}, found {beside[0]} beside them")
    depth = 1 if splits else 0
    for file, parts in zip(files, paths, strict=True):
        if len(parts) < depth + 2:
            raise ValueError(f"{file}: expected images in a folder of their class, such as {folder.name}/cat/1.jpg")
    names = tuple(sorted({parts[depth] for parts in paths}))
    if len(names) < 2:
        raise ValueError(f"{folder}: expected folders of at least two classes, found {', '.join(names)}")
    labels = np.array([names.index(parts[depth]) for parts in paths])
    if not splits:
        return Classes(names, labels, np.arange(len(files)), None)
    kind = [kinds[parts[0]] for parts in paths]
    places = {each: np.flatnonzero([other == each for other in kind]) for each in (TRAIN, TEST, VALIDATION)}
    test = TEST if places[TEST].size else VALIDATION
    if test == TEST and places[VALIDATION].size:
        warnings.warn(
            f"{folder}: its {places[VALIDATION].size} images for validation are left out; labels for validation are "
            "bought from the pool",
            stacklevel=2,
        )
    return Classes(names, labels, places[TRAIN], places[test] if places[test].size else None)


def resize(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Images `[N, h, w, c]` as `[N, H, W, C]`: bilinear; grey is repeated over colours, colours become their luma.

    The luma is that of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B.

    >>> resize(np.ones((2, 28, 28, 1), np.float32), (8, 8, 3)).shape
    (2, 8, 8, 3)
    """
    height, width, colours = shape
    if images.shape[3] != colours:
        if {images.shape[3], colours} != {1, 3}:
            raise ValueError(f"images: expected 1 or 3 colours, got {images.shape[3]} for {colours}")
        luma = np.array([0.299, 0.587, 0.114], np.float32)
        images = np.repeat(images, 3, axis=3) if colours == 3 else (images @ luma)[..., None]
    if images.shape[1:3] == (height, width):
        return np.ascontiguousarray(images, np.float32)
    planes = [_resize_plane(image[..., c], (height, width)) for image in images for c in range(colours)]
    return np.moveaxis(np.stack(planes).reshape(len(images), colours, height, width), 1, 3).copy()


def _files(folder: Path) -> tuple[Path, ...]:
    """The image files below a folder; what is linked from outside is refused, whatever it is."""
    found = {}
    root = folder.resolve()
    for here, folders, names in os.walk(folder, onerror=_give_up):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (Path(here) / name).is_symlink():
                raise ValueError(f"{Path(here) / name}: expected no links to folders in a folder of images")
        for name in names:
            file = Path(here) / name
            if name.startswith(".") or file.suffix.lower() not in SUFFIXES + OTHER_SUFFIXES:
                continue
            if file.is_symlink() and not (file.is_file() and file.resolve().is_relative_to(root)):
                raise ValueError(
                    f"{file}: expected no links out of the folder of images, it points to {os.readlink(file)}"
                )
            if not file.is_file():
                raise ValueError(f"{file}: expected a file, found something else with the name of an image")
            if file.suffix.lower() in OTHER_SUFFIXES:
                raise ValueError(f"{file}: expected {', '.join(SUFFIXES)}; convert it, or take it out of the folder")
            found[file.relative_to(folder).as_posix()] = file
    if not found:
        raise ValueError(f"{folder}: expected image files ({', '.join(SUFFIXES)}), found none")
    return tuple(found[name] for name in sorted(found))


def _give_up(error: OSError) -> None:
    raise error


def _decode(file: Path, size: tuple[int, int] | None) -> np.ndarray:
    """One image `[H, W, 1 or 3]` in [0, 1]."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # refused just below
            image = Image.open(file, formats=("PNG", "JPEG", "BMP", "WEBP"))
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise _Refused(f"expected at most {MAX_PIXELS} pixels, it says {_by((image.height, image.width))}")
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format in ("PNG", "WEBP"):  # a phone's JPEG may carry a second, smaller image
                raise _Refused(f"expected a still image, found {frames} frames")
            image.load()
            return _pixels(ImageOps.exif_transpose(image), size)
    except _Refused as refused:
        raise ValueError(f"{file}: {refused}") from None
    except Exception as error:  # decoders fail in many ways on what is no image
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file}: cannot be decoded as an image ({reason})") from error


class _Refused(Exception):
    """An image that is read well enough, and not what a pool can hold."""


def _pixels(image: Any, size: tuple[int, int] | None) -> np.ndarray:
    deep = image.mode == "I" or image.mode.startswith("I;16")  # 16 bits of grey
    grey = deep or image.mode in ("1", "L", "LA", "La")
    if deep and "transparency" in image.info:
        raise _Refused("expected no transparent pixels in an image of 16 bits")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise _Refused("expected no transparent pixels; put it on a background of your choice first")
    if deep:  # to 8 bits Pillow would cut off, not scale
        planes = [np.asarray(image, np.float32) / 65535]
    else:
        values = np.asarray(image.convert("L" if grey else "RGB"), np.float32) / 255
        planes = [values] if values.ndim == 2 else [values[..., c] for c in range(3)]
    if size is not None and planes[0].shape != size:
        planes = [_resize_plane(plane, size) for plane in planes]
    return np.stack(planes, axis=-1)


def _resize_plane(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _room(folder, count: int, image: np.ndarray) -> tuple[int, ...]:
    shape = (count, *image.shape)
    if 4 * count * image.size > MAX_BYTES:
        raise ValueError(
            f"{folder}: {count} images of {_by(image.shape)} would take {4 * count * image.size / 2**30:.0f} GiB, more "
            f"than {MAX_BYTES / 2**30:g}; size=(height, width) makes them smaller"
        )
    return shape


def _size(size: Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        raise ValueError(f"size: expected (height, width), two integers, got {size!r}") from None
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"size: expected a height and width from 1 to {MAX_PIXELS} pixels in all, got {size!r}")
    return height, width


def _by(sides: Sequence[int]) -> str:
    return " x ".join(map(str, sides))
