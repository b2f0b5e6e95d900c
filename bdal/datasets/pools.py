"""Pools that make a difference between strategies visible, built from any data set.

Each builder takes a data set and gives another one; nothing is changed in place, the seed fixes all that is random, and
the test set stays as it is unless said otherwise. What they keep, they keep in the order it had.

Axis letters: N pool points, C classes, n_c pool points of class c.
"""

import inspect
import math
import typing
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.datasets import named
from bdal.datasets.arrays import Dataset
from bdal.datasets.images import resize
from bdal.pool import ABSTAIN, unit


def repeated(dataset: Dataset, repeats: int, *, noise: float = 0.0, seed: int = 0) -> Dataset:
    """Every pool point `repeats` times with Gaussian noise of its own, fixed by the seed; the test set as it is.

    Points `i, i + N, i + 2N, ...` are copies of one. With `noise` 0.1 and MNIST scaled to unit variance this is
    Repeated MNIST, on which top-k BALD queries copies: Kirsch et al. (2019), "BatchBALD", NeurIPS, §4.1.

    Raises:
      ValueError: fewer than one repeat, or negative noise.

    >>> from bdal.datasets import from_arrays
    >>> data = repeated(from_arrays([[0.0], [1.0]], [0, 1], [[0.5]], [0]), 3, noise=0.1)
    >>> data.inputs.shape, data.labels.tolist(), data.inputs[0] == data.inputs[2]
    ((6, 1), [0, 1, 0, 1, 0, 1], array([False]))
    """
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    if not 0 <= noise < float("inf"):
        raise ValueError(f"noise: expected a finite standard deviation that is not negative, got {noise}")
    built = _take(dataset, np.tile(np.arange(len(dataset.inputs)), repeats))  # [repeats · N, ...]
    if not noise:
        return built
    noisy = np.random.default_rng(seed).standard_normal(built.inputs.shape, np.float32) * np.float32(noise)
    return built._replace(inputs=unit(built.inputs) + noisy)


def imbalanced(
    dataset: Dataset, *, counts: Sequence[int] | None = None, classes: Sequence[int] | None = None,
    ratio: float | None = None, seed: int = 0,
) -> Dataset:  # fmt: skip
    """A pool in which some classes are rare: a random subset of each class, the test set as it is.

    Either `counts`, how many points of each of the C classes are kept (0: the class is not in the pool, though it still
    is one); or the minority `classes` and the `ratio` of their points that are kept, round(ratio · n_c) but at least
    one. Bickford Smith et al. (2023), "Prediction-oriented Bayesian active learning", AISTATS, has 400 points of each
    of the digits 0 to 4 and 4,000 of the others.

    Raises:
      ValueError: not one of the two ways; more points of a class than there are; no class, or a ratio outside (0, 1].

    >>> from bdal.datasets import load
    >>> np.bincount(imbalanced(load("optdigits"), classes=[0, 1], ratio=0.1).labels).tolist()
    [38, 39, 380, 389, 387, 376, 377, 387, 380, 382]
    """
    there = _class_sizes(dataset, "imbalanced")
    if (counts is None) == (classes is None) or (classes is None) != (ratio is None):
        raise ValueError("imbalanced: expected either counts, or classes and ratio")
    if counts is not None:
        if len(counts) != len(there):
            raise ValueError(f"counts: expected {len(there)}, one a class, got {len(counts)}")
        kept = np.asarray(counts)
        if kept.min() < 0 or not kept.any():
            raise ValueError(f"counts: expected numbers that are not negative, some above 0, got {list(counts)}")
        if (kept > there).any():
            label = int(np.argmax(kept > there))
            raise ValueError(f"counts: expected at most {there[label]} of class {label}, got {kept[label]}")
    else:
        assert classes is not None
        assert ratio is not None
        if not 0 < ratio <= 1:
            raise ValueError(f"ratio: expected a share above 0 and at most 1, got {ratio}")
        rare = _classes(classes, len(there))
        kept = there.copy()
        kept[rare] = np.maximum(np.rint(ratio * there[rare]).astype(int), np.minimum(there[rare], 1))
    return _subset(dataset, kept, _random("imbalanced", seed))


def long_tailed(dataset: Dataset, *, factor: float, order: Sequence[int] | None = None, seed: int = 0) -> Dataset:
    """Class sizes that fall exponentially: `⌊n · factor^(−i / (C − 1))⌋` points of the i-th class, i = 0 .. C − 1.

    `factor` is that between the most frequent and the rarest class; n is the largest number for which every class has
    enough points, in a balanced pool n = N / C. `order` says which class is the i-th (0, 1, ... by default). A random
    subset of each class; the test set as it is.

    Raises:
      ValueError: a factor below 1, or so large that nothing is left of the rarest class; one class; an order that is
        none; a class without points.

    Cui et al. (2019), "Class-balanced loss based on effective number of samples", CVPR; Cao et al. (2019), "Learning
    imbalanced datasets with label-distribution-aware margin loss", NeurIPS.

    >>> from bdal.datasets import load
    >>> np.bincount(long_tailed(load("optdigits"), factor=100.0).labels).tolist()
    [376, 225, 135, 81, 48, 29, 17, 10, 6, 3]
    """
    there = _class_sizes(dataset, "long_tailed")
    if len(there) < 2:
        raise ValueError("long_tailed: expected at least two classes, got one")
    if not 1 <= factor < float("inf"):
        raise ValueError(f"factor: expected a finite number of at least 1, got {factor}")
    order = list(range(len(there))) if order is None else list(order)
    if sorted(order) != list(range(len(there))):
        raise ValueError(f"order: expected every class 0 .. {len(there) - 1} once, got {order}")
    if not there.all():
        raise ValueError(f"long_tailed: expected points of every class, got none of class {int(np.argmin(there))}")
    shares = (1 / factor) ** (np.arange(len(there)) / (len(there) - 1))  # [C], of the i-th class
    most = min(math.floor(size / share + 1e-9) for size, share in zip(there[order], shares, strict=True))
    kept = np.zeros_like(there)
    kept[order] = np.floor(most * shares + 1e-9)
    if not kept.all():
        raise ValueError(f"factor: expected at most {most}, the size of the largest class, got {factor:g}")
    return _subset(dataset, kept, _random("long_tailed", seed))


def redundant(dataset: Dataset, *, classes: Sequence[int], seed: int = 0) -> Dataset:
    """A pool most of which is beside the task: `classes` against all the rest, evaluated on `classes` alone.

    All points stay in the pool. The classes of the task become 0, 1, ... in the order given and every other one the
    last class, "rest"; of the test set only points of the task's classes are kept. BALD spends labels on telling the
    rest apart. Digits 1 and 7 against the rest in Bickford Smith et al. (2023), "Prediction-oriented Bayesian active
    learning", AISTATS, where EPIG's targets are digits 1 and 7 as well.

    Raises:
      ValueError: no class, one that is there twice or is none, all of them, or a test set without any of them.

    >>> from bdal.datasets import load
    >>> data = redundant(load("optdigits"), classes=[1, 7])
    >>> np.bincount(data.labels).tolist(), np.bincount(data.test_labels).tolist(), data.class_names
    ([389, 387, 3047], [182, 179], ('1', '7', 'rest'))
    """
    del seed  # nothing is random
    labels = _clean_labels(dataset, "redundant")
    task = _classes(classes, dataset.num_classes)
    if len(task) == dataset.num_classes:
        raise ValueError(f"classes: expected fewer than all {len(task)}, or there is no rest")
    new = np.full(dataset.num_classes, len(task), np.int32)
    new[task] = np.arange(len(task))
    old_names = dataset.class_names or tuple(map(str, range(dataset.num_classes)))
    class_names = (*(old_names[label] for label in task), "rest")
    built = dataset._replace(
        labels=np.where(labels == ABSTAIN, ABSTAIN, new[np.maximum(labels, 0)]).astype(np.int32),
        num_classes=len(task) + 1,
        class_names=class_names if len(set(class_names)) == len(class_names) else None,
    )
    if dataset.test_labels is None or dataset.test_inputs is None:
        return built
    of_task = np.isin(dataset.test_labels, task)
    if not of_task.any():
        raise ValueError(f"classes: expected some that the test set has, got {list(classes)}")
    return built._replace(test_inputs=dataset.test_inputs[of_task], test_labels=new[dataset.test_labels[of_task]])


def noisy_labels(dataset: Dataset, *, rate: float, seed: int = 0) -> Dataset:
    """Some of the pool's labels are wrong: round(rate · n) of its n labels become another class, each equally likely.

    What is flipped is fixed by the seed, so an oracle that is asked twice errs twice. The test set's labels stay right.
    Symmetric noise as in van Rooyen et al. (2015), "Learning with symmetric label noise: the importance of being
    unhinged", NeurIPS, with the number of wrong labels fixed.

    Raises:
      ValueError: a rate outside [0, 1], one class only, or labels that are noisy already.

    >>> from bdal.datasets import load
    >>> clean = load("optdigits")
    >>> int((noisy_labels(clean, rate=0.1).labels != clean.labels).sum()), round(0.1 * 3823)
    (382, 382)
    """
    labels = _clean_labels(dataset, "noisy_labels")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate: expected a share from 0 to 1, got {rate}")
    if dataset.num_classes < 2:
        raise ValueError("noisy_labels: expected at least two classes, got one")
    rng = _random("noisy_labels", seed)
    given = np.flatnonzero(labels != ABSTAIN)
    flipped = rng.permutation(given)[: round(rate * len(given))]
    labels = labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, dataset.num_classes, len(flipped))) % dataset.num_classes
    return dataset._replace(labels=labels, label_noise=len(flipped) / max(1, len(given)))


def contaminated(dataset: Dataset, *, source: Dataset | str, share: float, seed: int = 0) -> Dataset:
    """Points of no class, from elsewhere, so that they are `share` of the pool; the oracle abstains on them.

    They come last, pool indices N, N + 1, ..., m = round(N · share / (1 − share)) of them drawn without replacement
    from the pool of `source` and labelled `bdal.pool.ABSTAIN`. Images are brought to the shape of the pool's. With the
    source "noise" each number is uniform between the smallest and the largest of the pool. The files of the points are
    kept where both sides have them. The setting "out-of-distribution data" of Kothawade et al. (2021), "SIMILAR:
    submodular information measures based active learning in realistic scenarios", NeurIPS.

    Raises:
      ValueError: a share outside [0, 1), more points than the source has, or points of a shape that does not fit.

    >>> from bdal.datasets import load
    >>> data = contaminated(load("optdigits"), source="noise", share=0.2)
    >>> len(data.inputs) - 3823, int((data.labels == ABSTAIN).sum())
    (956, 956)
    """
    labels = _labels(dataset, "contaminated")
    if not 0 <= share < 1:
        raise ValueError(f"share: expected at least 0 and below 1, got {share}")
    count = round(len(labels) * share / (1 - share))
    rng = _random("contaminated", seed)
    inputs, foreign_files = unit(dataset.inputs), None
    if source == "noise" and not isinstance(source, Dataset):
        low, high = inputs.min(), inputs.max()
        foreign = low + (high - low) * rng.random((count, *inputs.shape[1:]), np.float32)
    else:
        source = named.load(source) if isinstance(source, str) else source
        if count > len(source.inputs):
            most = len(source.inputs) / (len(labels) + len(source.inputs))
            raise ValueError(
                f"share: expected at most {most:.3g} with the {len(source.inputs)} points of {source.name} and a pool "
                f"of {len(labels)}, got {share}"
            )
        rows = rng.permutation(len(source.inputs))[:count]
        foreign = _fit(unit(source.inputs[rows]), inputs.shape[1:], source.name)
        foreign_files = source.files and tuple(source.files[row] for row in rows)
    return dataset._replace(
        inputs=np.concatenate([inputs, foreign.astype(np.float32)]),
        labels=np.concatenate([labels, np.full(count, ABSTAIN, np.int32)]),
        files=dataset.files + foreign_files if dataset.files and foreign_files else None,
    )


class Pool(NamedTuple):
    """A row of the table of pool builders.

    Attributes:
      make: the builder; its parameters after the data set, without `seed`, are the options.
      meaning: what is difficult about such a pool.
      source: where it is from.
    """

    make: Callable[..., Dataset]
    meaning: str
    source: str

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The builder's options."""
        parameters = dict(inspect.signature(self.make).parameters)
        return {name: parameter for name, parameter in parameters.items() if name not in ("dataset", "seed")}


POOLS: dict[str, Pool] = {
    "repeated": Pool(repeated, "every point several times, with noise of its own", "Kirsch et al. 2019"),
    "imbalanced": Pool(imbalanced, "some classes are rare, the test set is not", "Bickford Smith et al. 2023"),
    "long_tailed": Pool(long_tailed, "class sizes fall exponentially", "Cui et al. 2019; Cao et al. 2019"),
    "redundant": Pool(redundant, "most of the pool is beside the task", "Bickford Smith et al. 2023"),
    "noisy_labels": Pool(noisy_labels, "a share of the oracle's labels is wrong", "van Rooyen et al. 2015"),
    "contaminated": Pool(contaminated, "some points belong to no class", "Kothawade et al. 2021"),
}


def build_pool(
    dataset: Dataset, name: str, options: dict[str, Any], *, seed: int = 0, data_dir: str | Path | None = None
) -> Dataset:
    """The data set with the pool of that name built from it.

    Args:
      dataset: what it is built from.
      name: one of `POOLS`.
      options: the parameters of its builder; numbers, text or lists of integers.
      seed: fixes all that is random; different builders do not share their random numbers.
      data_dir: where a data set named by an option lies, as for `bdal.datasets.load`.

    Raises:
      ValueError: an unknown name or option, one that is missing or has a value it cannot have.
      DataNotFoundError: the files of a data set that an option names are not there.

    >>> from bdal.datasets import load
    >>> pool = build_pool(load("optdigits"), "repeated", {"repeats": 2, "noise": 0.1})
    >>> round(build_pool(pool, "noisy_labels", {"rate": 0.25}).label_noise, 3)
    0.25
    """
    check_pool(name, options)
    options = dict(options)
    if isinstance(source := options.get("source"), str) and source != "noise":
        options["source"] = named.load(source, data_dir=data_dir)
    try:
        return POOLS[name].make(dataset, **options, seed=seed)
    except ValueError as error:
        raise ValueError(f"pool {name}: {str(error).removeprefix(f'{name}: ')}") from error


def check_pool(name: str, options: dict[str, Any]) -> None:
    """Refuse, before any data is read, a pool or an option that there is not, or a value of the wrong type.

    >>> check_pool("repeated", {"repeat": 4})
    Traceback (most recent call last):
    ...
    ValueError: pool repeated: expected options repeats, noise, got 'repeat'
    """
    if name not in POOLS:
        raise ValueError(f"pool: expected one of {', '.join(POOLS)}, got {name!r}")
    parameters = POOLS[name].options
    for option, value in options.items():
        if option not in parameters:
            raise ValueError(f"pool {name}: expected options {', '.join(parameters)}, got {option!r}")
        _check_option(name, option, value, parameters[option].annotation)
    for option, parameter in parameters.items():
        if parameter.default is parameter.empty and option not in options:
            raise ValueError(f"pool {name}: expected the option {option}, got {', '.join(options) or 'no options'}")


def _check_option(name: str, option: str, value: Any, kind: Any) -> None:
    integer = isinstance(value, int) and not isinstance(value, bool)
    kinds = typing.get_args(kind) or (kind,)  # of `int | None`, the parts
    if option in ("counts", "classes", "order"):
        values = value if isinstance(value, list | tuple) else ()
        expected = "a list of integers"
        holds = len(values) > 0 and all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    elif str in kinds:
        expected, holds = "the name of a data set or noise", isinstance(value, str)
    elif float in kinds:
        expected, holds = "a finite number", integer or (isinstance(value, float) and math.isfinite(value))
    else:
        expected, holds = "an integer", integer
    if not holds:
        raise ValueError(f"pool {name}: {option}: expected {expected}, got {value!r}")


# -- parts -----------------------------------------------------------------------------------------------------------


def _take(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """The data set with these rows of the pool."""
    return dataset._replace(
        inputs=dataset.inputs[rows],
        labels=None if dataset.labels is None else dataset.labels[rows],
        files=dataset.files and tuple(dataset.files[row] for row in rows),
    )


def _subset(dataset: Dataset, kept: np.ndarray, rng: np.random.Generator) -> Dataset:
    """A random subset with `kept [C]` points of each class, in the order they had; points of no class stay."""
    assert dataset.labels is not None
    order = rng.permutation(len(dataset.labels))
    chosen = [np.flatnonzero(dataset.labels == ABSTAIN)]
    chosen += [order[dataset.labels[order] == label][:size] for label, size in enumerate(kept)]
    return _take(dataset, np.sort(np.concatenate(chosen)))


def _labels(dataset: Dataset, name: str) -> np.ndarray:
    if dataset.labels is None:
        raise ValueError(f"{name}: expected a pool with labels, got one without")
    return dataset.labels


def _clean_labels(dataset: Dataset, name: str) -> np.ndarray:
    if dataset.label_noise:
        raise ValueError(
            f"{name}: expected labels without noise, got a pool with {dataset.label_noise:.3g} of them flipped; "
            f"noisy_labels goes after the builders that look at labels"
        )
    return _labels(dataset, name)


def _class_sizes(dataset: Dataset, name: str) -> np.ndarray:
    labels = _clean_labels(dataset, name)
    return np.bincount(labels[labels != ABSTAIN], minlength=dataset.num_classes)


def _classes(classes: Sequence[int], num_classes: int) -> list[int]:
    chosen = [int(label) for label in classes]
    if not chosen or sorted(set(chosen)) != sorted(chosen) or not all(0 <= label < num_classes for label in chosen):
        raise ValueError(f"classes: expected some of 0 .. {num_classes - 1}, each once, got {list(classes)}")
    return chosen


def _random(name: str, seed: int) -> np.random.Generator:
    """Random numbers of one builder's own."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def _fit(points: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    if points.shape[1:] == shape:
        return points
    if points.ndim != 4 or len(shape) != 3 or points.shape[3] not in (1, 3) or shape[2] not in (1, 3):
        raise ValueError(
            f"source: expected points of shape {shape}, or images where these are images, got {points.shape[1:]} from "
            f"{name}"
        )
    return resize(points, shape)
