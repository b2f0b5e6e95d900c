"""`load`: a data set by its name, from an `.npz` file, or a folder of images."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from bdal.datasets.archives import read_npz
from bdal.datasets.arrays import KEYS, Dataset, from_arrays
from bdal.datasets.images import classes_of, read_folder
from bdal.datasets.medmnist import read_pneumoniamnist
from bdal.datasets.mnist import read_mnist, read_notmnist
from bdal.errors import DataNotFoundError

GARMENTS = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
BRING = (
    "other data comes as arrays, bdal.datasets.from_arrays(inputs, labels, test_inputs, test_labels), or in a file, "
    'numpy.savez("data.npz", inputs=..., labels=..., test_inputs=..., test_labels=...)'
)
NAMES = ("optdigits", "mnist", "fashion_mnist", "notmnist", "pneumoniamnist")


def load(
    name: str | Path, *, data_dir: str | Path | None = None, class_names: Sequence[str] | None = None,
    size: Sequence[int] | None = None, relabel: bool = False,
    labels: str | None = None,
) -> Dataset:  # fmt: skip
    """A data set by name, from the path of an `.npz` file, or a folder of images.

    - `optdigits` lies inside the package: 3,823 + 1,797 digits of 8 x 8, inputs [N, 8, 8, 1] in [0, 1].
    - `mnist` and `fashion_mnist`: 60,000 + 10,000 images, inputs [N, 28, 28, 1] in [0, 1], in the order of the original
      files. Their four files are looked for in `data_dir` (default: `BDAL_DATA_DIR`) and downloaded by
      tensorflow-datasets otherwise; decoded arrays are kept in `BDAL_CACHE_DIR` (default: `~/.cache/bdal`).
    - `notmnist`: 10,000 images of the letters A to J, of the same shape, no test set; mostly to contaminate another
      pool with. `pneumoniamnist`: 4,708 + 624 chest X-rays, of the same shape, two classes. Their files are looked
      for in `data_dir`, and not downloaded.
    - `.npz`: the arrays `inputs`, `labels`, `test_inputs`, `test_labels`; see `from_arrays` for what they may be. Only
      `inputs` must be there: without labels it is a pool for people to label. Perhaps also `class_names`, and `files`:
      the image file of each point, relative to the folder of the `.npz` and within it.
    - a folder: every PNG, JPEG, BMP and WebP image in it and below it, a pool without labels and without a test set;
      see `bdal.datasets.images.read_folder`. With `labels="folders"` the folders that the images lie in are their
      classes, and `train` and `test` above them the pool and the test set; see `bdal.datasets.images.classes_of`.

    Args:
      name: which one.
      data_dir: where the published files of a named data set lie.
      class_names: what the labels 0 .. C - 1 are called; says C where there are no labels.
      relabel: make classes of the labels that occur in an `.npz`, whatever numbers they are.
      labels: "folders" where the folders within a folder of images are the classes; None: they are not.
      size: (height, width) that the images of a folder are brought to.

    Raises:
      DataNotFoundError: no such file, or no original files and no way to download them (it says which go where).
      ValueError: an unknown name, a file whose SHA-256 is not the published one, a damaged or incomplete `.npz`, an
        image that cannot be read.

    >>> data = load("optdigits")
    >>> data.inputs.shape, data.test_inputs.shape, data.num_classes
    ((3823, 8, 8, 1), (1797, 8, 8, 1), 10)
    """
    folder = name not in NAMES and Path(name).is_dir()
    if size is not None and not folder:
        raise ValueError(f"size: expected it for a folder of images only, got {size!r} for {str(name)!r}")
    if relabel and not str(name).endswith(".npz"):
        raise ValueError(f"relabel: expected it for an .npz file only, got it for {str(name)!r}")
    if labels is not None and (labels != "folders" or not folder):
        raise ValueError(f"labels: expected folders, for a folder of images only, got {labels!r} for {str(name)!r}")
    if folder:
        inputs, files = read_folder(name, size)
        if labels is not None:
            return _of_classes(Path(name), inputs, files, class_names)
        return from_arrays(inputs, name=Path(name).resolve().name, class_names=class_names, files=files)
    if str(name).endswith(".npz"):
        return _own(Path(name), class_names, relabel)
    name = str(name)
    if name == "optdigits":
        with resources.as_file(resources.files("bdal.datasets") / "optdigits.npz") as path:
            return _images(read_npz(path, KEYS), name, class_names, num_classes=10, white=16)
    if name == "mnist":
        return _images(read_mnist(name, data_dir), name, class_names, num_classes=10)
    if name == "fashion_mnist":
        return _images(read_mnist(name, data_dir), name, class_names or GARMENTS)
    if name == "notmnist":
        return _images(read_notmnist(data_dir), name, class_names or tuple("ABCDEFGHIJ"))
    if name == "pneumoniamnist":
        return _images(read_pneumoniamnist(data_dir), name, class_names or ("normal", "pneumonia"))
    if Path(name).is_file():
        raise ValueError(_other_format(Path(name)))
    if "/" in name or "\\" in name:
        raise DataNotFoundError(f"{name}: no such folder of images, nor an .npz file (looked in {Path.cwd()}); {BRING}")
    near = get_close_matches(name.lower().replace("-", "_"), NAMES, n=1, cutoff=0.8)
    raise ValueError(
        f"data set: expected {', '.join(NAMES)} or the path of an .npz file or of a folder of images, got {name!r}"
        f"{f' (did you mean {near[0]!r}?)' if near else ''}; {BRING}"
    )


def _of_classes(folder: Path, inputs, files, class_names) -> Dataset:
    found = classes_of(folder, files)
    order = found.names if class_names is None else tuple(class_names)
    if strange := sorted(set(found.names) - set(order)):
        raise ValueError(f"{folder}: expected folders of the classes {', '.join(order)}, found {strange[0]}")
    labels = np.array([order.index(name) for name in found.names])[found.labels]
    test = {} if found.test is None else {"test_inputs": inputs[found.test], "test_labels": labels[found.test]}
    data = from_arrays(
        inputs[found.pool], labels[found.pool], **test, name=folder.resolve().name, class_names=order,
        files=[files[place] for place in found.pool],
    )  # fmt: skip
    return data._replace(named=False)


CONVERSIONS = {
    ".npy": 'numpy.savez("data.npz", inputs=numpy.load("{}"), labels=...)',
    ".csv": 'pandas.read_csv("{}") and numpy.savez("data.npz", inputs=frame[columns].to_numpy(), labels=frame[column])',
    ".parquet": 'pandas.read_parquet("{}") and numpy.savez("data.npz", inputs=frame[columns].to_numpy(), labels=...)',
    ".h5": 'h5py.File("{}") and numpy.savez("data.npz", inputs=file[key][:], labels=...)',
    ".mat": 'scipy.io.loadmat("{}") and numpy.savez("data.npz", inputs=file[key], labels=file[key].ravel())',
    ".pt": 'torch.load("{}") and numpy.savez("data.npz", inputs=tensor.numpy(), labels=...)',
    ".zip": "unpack it first: a folder of images is read as it is",
}
LIKE = {".tsv": ".csv", ".txt": ".csv", ".hdf5": ".h5", ".hdf": ".h5", ".pth": ".pt", ".tar": ".zip", ".gz": ".zip"}


def _other_format(path: Path) -> str:
    """How to convert a file of an unsupported format."""
    suffix = path.suffix.lower()
    way = CONVERSIONS.get(LIKE.get(suffix, suffix), 'numpy.savez("data.npz", inputs=..., labels=...)')
    return (
        f"{path}: expected an .npz file with inputs [N, ...] (and labels, test_inputs, test_labels), or a folder of "
        f"images; {suffix or 'files without suffix'} is not read; to convert it: {way.replace('{}', path.name)}"
    )


def _own(path: Path, class_names: Sequence[str] | None, relabel: bool) -> Dataset:
    if not path.is_file():
        raise DataNotFoundError(f"{path}: no such file (looked in {Path.cwd()})")
    arrays: dict[str, Any] = dict(read_npz(path, KEYS[:1], KEYS[1:], anyhow=("class_names", "files")))
    text = {key: _text(path, key, arrays.pop(key)) for key in ("class_names", "files") if key in arrays}
    files = [_beside(path, file) for file in text["files"]] if "files" in text else None
    names = class_names or text.get("class_names")
    return from_arrays(**arrays, name=path.stem, class_names=names, files=files, relabel=relabel)


def _text(path: Path, key: str, values: np.ndarray) -> list[str]:
    if values.dtype.kind != "U" or values.ndim != 1:
        raise ValueError(f"{path}: expected {key} to be a list of text, found {values.dtype} of shape {values.shape}")
    return values.tolist()


def _beside(path: Path, file: str) -> Path:
    folder = path.resolve().parent
    try:
        inside = (folder / file).resolve().is_relative_to(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: files: expected names of files, found {file!r} ({error})") from error
    if not inside:
        raise ValueError(f"{path}: files: expected files within {folder}, found {file!r}")
    if not (folder / file).is_file():
        raise DataNotFoundError(f"{path}: files: {file!r} is not in {folder}")
    return folder / file


def _images(
    arrays: dict[str, Any], name: str, class_names, *, num_classes: int | None = None, white: int = 255
) -> Dataset:
    """Grey images [N, H, W] of bytes 0 .. white as inputs [N, H, W, 1] in [0, 1]."""
    arrays = {
        key: values if "labels" in key else np.divide(values[..., None], white, dtype=np.float32)
        for key, values in arrays.items()
    }
    return from_arrays(**arrays, num_classes=num_classes, name=name, class_names=class_names)
