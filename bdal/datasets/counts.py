"""The labels of a pool, counted: of each class, flipped on purpose, and not given at all."""

from typing import NamedTuple

import numpy as np

from bdal.datasets.arrays import Dataset
from bdal.pool import ABSTAIN

SHOWN = 12  # classes by name in a line


class LabelCounts(NamedTuple):
    """What the simulated oracle would say about a pool of N points.

    Attributes:
      class_names: C of them; numbers where the data set names none.
      per_class: C, labels of each class, the flipped ones as what they are now.
      flipped: labels that `noisy_labels` made wrong.
      abstained: points on which the oracle abstains, as `contaminated` adds them; `sum(per_class) + abstained` is N.
    """

    class_names: tuple[str, ...]
    per_class: tuple[int, ...]
    flipped: int
    abstained: int

    def __str__(self) -> str:
        """In a line a finding."""
        pairs = [f"{name}: {count}" for name, count in zip(self.class_names, self.per_class, strict=True)]
        more = f", ... ({min(self.per_class)} to {max(self.per_class)} a class)" if len(pairs) > SHOWN else ""
        lines = [f"labels of each class: {', '.join(pairs[:SHOWN])}{more}"]
        if self.flipped:
            lines.append(f"{self.flipped} of {sum(self.per_class)} labels were flipped on purpose")
        if self.abstained:
            lines.append(f"the oracle abstains on {self.abstained} of {sum(self.per_class) + self.abstained} points")
        return "\n".join(lines)


def label_counts(data: Dataset) -> LabelCounts | None:
    """How many labels of each class a pool has, how many are wrong on purpose, and how many are not given.

    None where nobody has labelled it.

    >>> from bdal.datasets import from_arrays, noisy_labels
    >>> data = from_arrays([[0.0], [1.0], [2.0], [3.0]], [0, 1, 1, 1], class_names=["cat", "dog"])
    >>> print(label_counts(data))
    labels of each class: cat: 1, dog: 3
    >>> label_counts(noisy_labels(data, rate=0.5)).flipped
    2
    """
    if data.labels is None:
        return None
    given = data.labels[data.labels != ABSTAIN]
    return LabelCounts(
        class_names=data.class_names or tuple(map(str, range(data.num_classes))),
        per_class=tuple(np.bincount(given, minlength=data.num_classes).tolist()),
        flipped=round(data.label_noise * len(given)),
        abstained=len(data.labels) - len(given),
    )
