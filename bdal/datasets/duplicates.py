"""Exact duplicates of a pool: how many, which, across to the test set, and with labels that contradict each other.

Axis letters: N pool points, T test points.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from bdal.datasets.arrays import Dataset


class Duplicates(NamedTuple):
    """Which pool points are equal in every number. Groups are pool indices in order, the largest group first.

    Attributes:
      points: N.
      distinct: different points among them; `points - distinct` are repeats of another one.
      groups: the points that are there more than once, a tuple of pool indices each.
      contradicting: those groups whose labels differ.
      in_test: pool points that are in the test set as well.
    """

    points: int
    distinct: int
    groups: tuple[tuple[int, ...], ...]
    contradicting: tuple[tuple[int, ...], ...]
    in_test: tuple[int, ...]

    @property
    def repeats(self) -> int:
        """Points that repeat another one."""
        return self.points - self.distinct

    def __str__(self) -> str:
        """In a line a finding, with the first of the largest groups."""
        lines = [f"{self.points} points, {self.distinct} of them distinct, {self.repeats} repeat another one"]
        for groups, what in (
            (self.groups, "that are there more than once"),
            (self.contradicting, "whose labels differ"),
        ):
            if groups:
                lines.append(f"{len(groups)} distinct points {what}: {'; '.join(map(_first, groups[:5]))}")
                lines[-1] += f" and {len(groups) - 5} more" * (len(groups) > 5)
        if self.in_test:
            lines.append(f"{len(self.in_test)} points are in the test set too: {_first(self.in_test)}")
        return "\n".join(lines)


def duplicates(data: Dataset | Any) -> Duplicates:
    """The exact duplicates of a data set's pool, or of bare `inputs [N, ...]`, by a SHA-256 of each point's bytes.

    >>> found = duplicates(np.array([[0.0], [1.0], [0.0], [2.0]]))
    >>> found.points, found.distinct, found.repeats, found.groups
    (4, 3, 1, ((0, 2),))
    """
    inputs = data.inputs if isinstance(data, Dataset) else np.asarray(data)
    labels = data.labels if isinstance(data, Dataset) else None
    test_inputs = data.test_inputs if isinstance(data, Dataset) else None
    if inputs.ndim < 1 or inputs.dtype.kind not in "biuf":
        raise ValueError(f"inputs: expected numbers, points first, got {inputs.dtype} of shape {inputs.shape}")

    digests = list(_digests(inputs))
    count = Counter(digests)
    members: dict[bytes, list[int]] = {}
    for index, digest in enumerate(digests):
        if count[digest] > 1:
            members.setdefault(digest, []).append(index)
    groups = sorted((tuple(group) for group in members.values()), key=lambda group: (-len(group), group))
    contradicting = () if labels is None else tuple(g for g in groups if len(np.unique(labels[list(g)])) > 1)
    in_test = set() if test_inputs is None else set(_digests(test_inputs))
    shared = tuple(index for index, digest in enumerate(digests) if digest in in_test)
    return Duplicates(len(digests), len(count), tuple(groups), contradicting, shared)


def _first(indices: tuple[int, ...]) -> str:
    return ", ".join(map(str, indices[:5])) + f", ... ({len(indices)})" * (len(indices) > 5)


def _digests(inputs: np.ndarray) -> Iterable[bytes]:
    for point in inputs:
        yield hashlib.sha256((point + np.zeros((), inputs.dtype)).tobytes()).digest()  # -0.0 + 0.0 is 0.0
