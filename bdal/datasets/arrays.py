"""The one shape that every data set has, the checks at its door, and the simulated oracle."""

import operator
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.errors import LabelError, NonFiniteError
from bdal.pool import is_bytes, unit

FEW_CLASSES = 1000  # that labels may make, however few they are
KEYS = ("inputs", "labels", "test_inputs", "test_labels")


class Dataset(NamedTuple):
    """A pool and a test set, on the host. Row i of `inputs` is pool index i for good.

    Attributes:
      inputs: `[N, ...]` float32; images in bytes that are a memory map stay uint8, `bdal.pool.unit` brings them to
        [0, 1].
      labels: `[N]` int32, for the simulated oracle only; `bdal.pool.ABSTAIN` where it abstains. None: nobody has
        labelled the pool, a person will.
      test_inputs: `[T, ...]`, as `inputs`; None: there is no test set.
      test_labels: `[T]` int32; None: there is no test set.
      num_classes: C; 0 where neither labels nor names of classes say it.
      name: for figures and messages.
      class_names: C names, in the order of the labels.
      files: the image file of each pool point, where there is one.
      label_noise: share of the pool's labels that were flipped on purpose.
      named: whether people may see the names of the files; not where their folders are the labels.
    """

    inputs: np.ndarray
    labels: np.ndarray | None
    test_inputs: np.ndarray | None
    test_labels: np.ndarray | None
    num_classes: int
    name: str = "arrays"
    class_names: tuple[str, ...] | None = None
    files: tuple[Path, ...] | None = None
    label_noise: float = 0.0
    named: bool = True

    @property
    def file_names(self) -> list[str] | None:
        """What a person calls each pool point: its file, below the folder that all are in, or a number if not named."""
        if not self.files:
            return None
        if not self.named:
            return [f"pool point {index}" for index in range(len(self.files))]
        top = os.path.commonpath([file.parent for file in self.files])
        return [file.relative_to(top).as_posix() for file in self.files]


def from_arrays(
    inputs: Any, labels: Any = None, test_inputs: Any = None, test_labels: Any = None, *,
    num_classes: int | None = None, name: str = "arrays", class_names: Sequence[str] | None = None,
    files: Sequence[str | Path] | None = None, relabel: bool = False,
) -> Dataset:  # fmt: skip
    """A `Dataset` from arrays (NumPy, JAX or lists), checked once here so that nothing after has to.

    Inputs are cast to float32 and not rescaled, except images of unsigned bytes, `[N, H, W]` or `[N, H, W, C]`: these
    are divided by 255, and a warning says so; a memory map of such stays as it is, and the networks of `bdal.models`
    divide what they are given. Without `labels` it is a pool for people to label, without the test arrays one without a
    test set. Without `num_classes` it is the number of `class_names`, or the largest label of the two sets plus one;
    where no point has one of these classes, a warning says so, as labels may count from 1. With `relabel` the classes
    are the values that occur, in order. Labels may be columns `[N, 1]`, and text: then the classes are `class_names`,
    or the texts that occur, in alphabetical order.

    Raises:
      ValueError: an array without points, without a feature axis or not of numbers; shapes or counts that differ; one
        test array without the other, or in bytes where the other is not; class names that are empty or there twice.
      NonFiniteError: NaN or infinity among the inputs (also after the cast to float32).
      LabelError: labels that are neither integers nor text, outside 0 .. num_classes - 1, or not among `class_names`;
        without `num_classes`, a label that would make more than a thousand classes, and more than there are labels.

    >>> data = from_arrays([[0.0], [1.0], [2.0]], [0, 1, 1], [[0.5]], [0])
    >>> data.inputs.shape, data.inputs.dtype.name, data.num_classes
    ((3, 1), 'float32', 2)
    >>> from_arrays([[0.0], [1.0]], class_names=["cat", "dog"]).labels is None
    True
    >>> data = from_arrays([[0.0], [1.0], [2.0]], [3, 8, 3], relabel=True)
    >>> data.labels.tolist(), data.class_names
    ([0, 1, 0], ('3', '8'))
    >>> from_arrays([[0.0], [1.0]], ["dog", "cat"]).labels.tolist()
    [1, 0]
    """
    inputs = _numbers("inputs", inputs)
    if (test_inputs is None) != (test_labels is None):
        given, lacking = ("test_labels", "test_inputs") if test_inputs is None else ("test_inputs", "test_labels")
        raise ValueError(f"{lacking}: expected it beside {given}, got none")
    if test_inputs is not None:
        test_inputs = _numbers("test_inputs", test_inputs)
        if is_bytes(inputs) != is_bytes(test_inputs):
            raise ValueError(
                f"test_inputs: expected images of dtype {inputs.dtype} as in inputs, got {test_inputs.dtype}; bytes "
                "are divided by 255, other numbers are not: bring both to one dtype"
            )
        if inputs.shape[1:] != test_inputs.shape[1:]:
            raise ValueError(
                f"test_inputs: expected points of shape {inputs.shape[1:]} as in inputs, got {test_inputs.shape[1:]}"
            )
        test_inputs = _inputs("test_inputs", test_inputs)  # [T, ...]
        test_labels = _labels("test_labels", test_labels, len(test_inputs))  # [T]
    if is_bytes(inputs):
        _warn_of_bytes(inputs)
    inputs = _inputs("inputs", inputs)  # [N, ...]
    if labels is not None:
        labels = _labels("labels", labels, len(inputs))  # [N]
    (labels, test_labels), class_names = _as_numbers(labels, test_labels, class_names, relabel)
    if num_classes is not None and not 1 <= operator.index(num_classes) < 2**31:
        raise ValueError(f"num_classes: expected a positive number below 2 ** 31, got {num_classes}")
    if class_names is not None:
        class_names = _class_names(class_names)
        if num_classes not in (None, len(class_names)):
            raise ValueError(f"class_names: expected {num_classes}, one a class, got {len(class_names)}")
        num_classes = len(class_names)
    known = {what: v for what, v in (("labels", labels), ("test_labels", test_labels)) if v is not None}
    if num_classes is None:
        num_classes = max((int(values.max()) + 1 for values in known.values()), default=0)
        count = sum(map(len, known.values()))
        if num_classes > max(FEW_CLASSES, count):
            raise LabelError(
                f"{' and '.join(known)}: expected classes 0, 1, ..., got {num_classes - 1}, which makes {num_classes} "
                f"classes of {count} labels; relabel=True (in a config data.relabel: true) makes classes of the labels "
                "that occur, num_classes says that there are so many"
            )
        if labels is not None:
            _warn_of_absent(known, num_classes)
    for what, values in known.items():
        wrong = np.flatnonzero((values < 0) | (values >= num_classes))
        if wrong.size:
            raise LabelError(
                f"{what}: expected 0 .. {num_classes - 1}, got {what}[{wrong[0]}] = {values[wrong[0]]} "
                f"({wrong.size} of {values.size} out of range)"
            )
    if files is not None:
        files = tuple(Path(file) for file in files)
        if len(files) != len(inputs):
            raise ValueError(f"files: expected {len(inputs)}, one a point, got {len(files)}")
    labels, test_labels = (None if v is None else v.astype(np.int32) for v in (labels, test_labels))
    return Dataset(inputs, labels, test_inputs, test_labels, int(num_classes), name, class_names, files)


def oracle(labels: np.ndarray | None) -> Callable[[np.ndarray], np.ndarray]:
    """The simulated oracle: pool indices `[Q]` to the labels `[Q]` that the data set already has.

    Raises:
      ValueError: there are no labels.
      IndexError: when asked for an index outside the pool, the padding -1 included.

    >>> oracle(np.array([7, 8, 9]))(np.array([2, 0]))
    array([9, 7])
    """
    if labels is None:
        raise ValueError("labels: expected those of the whole pool, got none; a pool without labels is for people")

    def ask(indices: np.ndarray) -> np.ndarray:
        indices = np.asarray(indices)
        outside = indices[(indices < 0) | (indices >= len(labels))]
        if outside.size:
            raise IndexError(f"oracle: expected pool indices 0 .. {len(labels) - 1}, got {outside[:5].tolist()}")
        return labels[indices]

    return ask


def _numbers(name: str, values: Any) -> np.ndarray:
    values = values if isinstance(values, np.memmap) else np.asarray(values)
    if values.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers, got dtype {values.dtype}")
    if values.ndim < 2 or values.size == 0:
        raise ValueError(f"{name}: expected points first, then at least one axis of features, got shape {values.shape}")
    return values


def _warn_of_bytes(inputs: np.ndarray) -> None:
    about = f"inputs: images of unsigned bytes, {list(inputs.shape)}, "
    if isinstance(inputs, np.memmap):
        about += "stay a memory map; networks of bdal.models divide them by 255, in one of your own bdal.pool.unit does"
    else:
        about += "are divided by 255; numbers of another dtype are left as they are"
    warnings.warn(about, stacklevel=3)


def _inputs(name: str, values: np.ndarray) -> np.ndarray:
    if is_bytes(values):
        return values if isinstance(values, np.memmap) else unit(values)
    with np.errstate(over="ignore"):  # what overflows float32 is reported just below
        values = np.ascontiguousarray(values, dtype=np.float32)
    finite = np.isfinite(values)
    if not finite.all():
        rows = np.flatnonzero(~finite.reshape(len(values), -1).all(1))
        raise NonFiniteError(
            f"{name}: expected finite float32 numbers, got NaN or infinity in {rows.size} of {len(values)} points, "
            f"the first at {rows[:5].tolist()}"
        )
    return values


def _labels(name: str, values: Any, count: int) -> np.ndarray:
    """`[N]` integers or text."""
    values = np.asarray(values)
    if values.shape == (count, 1):
        values = values[:, 0]
    if values.shape != (count,):
        hint = f"; of one-hot labels pass {name}.argmax(1)" if values.ndim == 2 and len(values) == count else ""
        raise ValueError(f"{name}: expected shape ({count},), one label a point, got {values.shape}{hint}")
    if values.dtype.kind == "S" or (values.dtype.kind == "O" and all(isinstance(value, str) for value in values)):
        values = values.astype(str)
    if values.dtype.kind not in "biuU":
        whole = values.dtype.kind == "f" and bool((values == np.round(values)).all())
        hint = f"; pass {name}.astype(int)" if whole else ""
        raise LabelError(
            f"{name}: expected integers or text, got dtype {values.dtype} ({name}[0] = {values[0]!r}){hint}"
        )
    return values.astype(np.int8) if values.dtype.kind == "b" else values


def _as_numbers(labels, test_labels, class_names, relabel: bool):
    """Both label arrays as classes from 0, and the class names."""
    known = {what: v for what, v in (("labels", labels), ("test_labels", test_labels)) if v is not None}
    text = {what: values.dtype.kind == "U" for what, values in known.items()}
    if not relabel and not any(text.values()):
        return (labels, test_labels), class_names
    if len(set(text.values())) > 1:
        raise LabelError("test_labels: expected text or numbers as in labels, got the other")
    found = np.unique(np.concatenate(list(known.values())))
    if class_names is None or not any(text.values()):
        order, names = found, tuple(map(str, found.tolist())) if class_names is None else class_names
    else:
        order = names = np.asarray(_class_names(class_names))
    places = {value: place for place, value in enumerate(order.tolist())}
    for what, values in known.items():
        if strange := [value for value in values.tolist() if value not in places]:
            raise LabelError(f"{what}: expected one of class_names, {', '.join(places)[:80]}, got {strange[0]!r}")
    numbers = [
        None if v is None else np.array([places[x] for x in v.tolist()], np.int64) for v in (labels, test_labels)
    ]
    return numbers, tuple(map(str, names))


def _warn_of_absent(known: dict[str, np.ndarray], num_classes: int) -> None:
    """Warn about classes below the largest label that no point has."""
    found = {label for values in known.values() for label in np.unique(values).tolist() if label >= 0}
    if found and (absent := num_classes - len(found)):
        first = next(label for label in range(num_classes) if label not in found)
        warnings.warn(
            f"{' and '.join(known)}: {absent} of the classes 0 .. {num_classes - 1} have no point, the first is {first}"
            "; if there are no such classes, relabel=True (in a config data.relabel: true) makes classes of the "
            f"{len(found)} labels that occur; if there are, num_classes or class_names says so",
            stacklevel=3,
        )


def _class_names(names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names: expected a list of text, got {names!r}")
    names = tuple(str(name) for name in names)
    wrong = [name for name in names if not name.isprintable() or name != name.strip() or not name]
    if wrong:
        raise ValueError(f"class_names: expected printable text without blanks around it, got {wrong[0]!r}")
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice or not names:
        raise ValueError(f"class_names: expected every name once, got {f'{twice[0]!r} twice' if twice else 'none'}")
    return names
