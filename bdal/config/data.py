"""The data of an experiment: the pool without labels, the labels for a simulated oracle, and the test set.

Axis letters: N pool points, T test points.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdal import config, datasets
from bdal.config import ABSTAINS
from bdal.config.parts import NO_PARTS, Parts
from bdal.errors import ConfigError, described_type
from bdal.names import check_options

GIVEN = "given"  # the name of data that came from Python
ON_DEVICE_BYTES = 2**30  # a larger pool stays on the host and is streamed


class Data(NamedTuple):
    """What an experiment runs on."""

    pool: Any  # [N, ...], no labels in it
    pool_labels: np.ndarray | None  # [N], for the simulated oracle only; None: nobody knows them yet
    test: tuple[Any, Any] | None  # inputs [T, ...], labels [T]; None: there is no test set
    quick_test: tuple[Any, Any] | None  # those of it that every round is measured on
    class_names: tuple[str, ...]
    source: datasets.Dataset  # the pool as it was built, with its files and names
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def num_points(self) -> int:
        """N."""
        return self.pool.shape[0]


def load(experiment: config.Experiment, given: datasets.Dataset | None = None, parts: Parts = NO_PARTS) -> Data:
    """Load the data set, take the subsets and build the pool that the config asks for.

    Args:
      experiment: whose `data` says what.
      given: a data set in the place of the one that it names.
      parts: data sets of one's own, which it may name.

    Raises:
      ConfigError: parts that do not fit: a builder's option, class names, more labels than points, nothing to evaluate
        on.
      DataNotFoundError: the data set's files are missing; says which, and where to put them.
    """
    wanted = experiment.data
    data = _of_ones_own(wanted, given, parts)
    if data is None:
        data = datasets.load(
            wanted.name, data_dir=wanted.data_dir, class_names=wanted.classes, size=wanted.size, relabel=wanted.relabel,
            labels=wanted.labels,
        )  # fmt: skip
    root = jax.random.fold_in(jax.random.key(experiment.seed), 2**31 - 3)  # seeds use 0, 1, ...
    pool_key, test_key, quick_key = jax.random.split(root, 3)

    pool = _subset(pool_key, wanted.pool, len(data.inputs))
    data = data._replace(
        inputs=data.inputs[pool],
        labels=None if data.labels is None else data.labels[pool],
        files=None if data.files is None else tuple(data.files[i] for i in pool),
    )
    for place, builder in enumerate(wanted.builders):
        try:
            data = datasets.build_pool(
                data, builder.name, builder.options, seed=experiment.seed, data_dir=wanted.data_dir
            )
        except ValueError as error:
            raise ConfigError(f"data.builders.{place}: {error}") from error
    names = data.class_names or tuple(map(str, range(data.num_classes)))
    _check(experiment, data, names)

    test = quick = None
    if data.test_inputs is not None and data.test_labels is not None:
        rows = _subset(test_key, wanted.test, len(data.test_labels))
        few = rows[_subset(quick_key, experiment.evaluation.points, len(rows))]
        test, quick = (
            (jnp.asarray(data.test_inputs[part]), jnp.asarray(data.test_labels[part])) for part in (rows, few)
        )
    return Data(
        pool=jnp.asarray(data.inputs) if data.inputs.nbytes <= ON_DEVICE_BYTES else data.inputs,
        pool_labels=data.labels,
        test=test,
        quick_test=quick,
        class_names=names,
        source=data,
        fingerprint=datasets.fingerprint(data),
    )


def _of_ones_own(wanted: config.Data, given: datasets.Dataset | None, parts: Parts) -> datasets.Dataset | None:
    """The data set that is given or made by a part; None where bdal loads it."""
    if given is None and wanted.name not in parts.datasets:
        if wanted.name == GIVEN:
            raise ConfigError("data: this run was given its data set in Python; pass it as data= again")
        if wanted.options:
            raise ConfigError(f"data.options: expected none, {wanted.name} is no data set of one's own")
        return None
    if given is None:
        try:
            check_options(f"data {wanted.name}", parts.datasets[wanted.name], wanted.options)
        except ValueError as error:
            raise ConfigError(f"data.options: {error}") from error
        given = parts.datasets[wanted.name](**wanted.options)
    if not isinstance(given, datasets.Dataset):
        raise ConfigError(
            f"data: expected a bdal.datasets.Dataset, got {described_type(given)}; see bdal.datasets.from_arrays"
        )
    if wanted.classes is not None:
        given = given._replace(class_names=wanted.classes, num_classes=len(wanted.classes))
    return given


def facts(data: Data) -> dict[str, Any]:
    """What a reader of the run wants to know of its data."""
    duplicates = datasets.duplicates(data.source)
    return {
        "points": data.num_points,
        "distinct_points": duplicates.distinct,
        "test_points": 0 if data.test is None else len(data.test[1]),
        "classes": list(data.class_names),
        "shape": list(data.pool.shape[1:]),
        "label_noise": data.source.label_noise,
    }


def _subset(key, size: int | None, count: int) -> np.ndarray:
    if size is None or size >= count:
        return np.arange(count)
    return np.sort(np.asarray(jax.random.permutation(key, count)[:size]))


def _check(experiment, data, names) -> None:
    labels, where = experiment.labels, experiment.data.name
    start = labels.initial + labels.validation_labels
    if len(data.inputs) < start:
        raise ConfigError(
            f"labels: expected at most {len(data.inputs)} labels to start with, one a pool point, found {start}"
        )
    if experiment.query.size > len(data.inputs):
        raise ConfigError(
            f"query.size: expected at most {len(data.inputs)}, the points of the pool, found {experiment.query.size}"
        )
    if len(names) < 2:
        raise ConfigError(f"data.classes: expected the names of at least two classes for {where}, found {list(names)}")
    if labels.oracle == "people" and (odd := [name for name in names if name != name.strip() or name in ABSTAINS]):
        raise ConfigError(
            f"data.classes: expected names without spaces around them, and not {' or '.join(map(repr, ABSTAINS))}, "
            f"which are answers of their own, found {odd[0]!r}"
        )
    if data.test_labels is None and not labels.validation_labels:
        raise ConfigError(
            f"labels.validation: expected above 0 for {where}, which has no test set to evaluate on, found "
            f"{labels.validation}"
        )
