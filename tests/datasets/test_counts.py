import numpy as np
import pytest

from bdal.datasets import build_pool, contaminated, from_arrays, label_counts, load, noisy_labels, repeated
from bdal.pool import ABSTAIN


def test_a_case_by_hand():
    data = from_arrays([[0.0], [1.0], [2.0], [3.0], [4.0]], [2, 0, 2, 2, 0], class_names=["cat", "dog", "bird"])
    found = label_counts(data)
    assert found == (("cat", "dog", "bird"), (2, 0, 3), 0, 0)
    assert str(found) == "labels of each class: cat: 2, dog: 0, bird: 3"


def test_a_pool_without_labels_has_none_to_count():
    assert label_counts(from_arrays([[0.0], [1.0]], class_names=["cat", "dog"])) is None


@pytest.mark.parametrize(
    "builders",
    [
        [("noisy_labels", {"rate": 0.1}), ("contaminated", {"source": "noise", "share": 0.2})],
        [("contaminated", {"source": "noise", "share": 0.2}), ("noisy_labels", {"rate": 0.1})],
        [("noisy_labels", {"rate": 0.1}), ("repeated", {"repeats": 3}),
         ("contaminated", {"source": "noise", "share": 0.2})],
    ],
    ids=["noise first", "noise last", "copies"],
)  # fmt: skip
def test_flipped_labels_and_abstentions_whatever_the_order(builders):
    clean = built = load("optdigits")
    for name, options in builders:
        built = build_pool(built, name, options, seed=3)
    found = label_counts(built)
    copies = int((built.labels != ABSTAIN).sum()) // len(clean.labels)
    truth = np.tile(clean.labels, copies)
    assert found.flipped == int((built.labels[: len(truth)] != truth).sum())
    assert found.abstained == int((built.labels == ABSTAIN).sum()) > 0
    assert found.per_class == tuple(int((built.labels == digit).sum()) for digit in range(10))
    assert str(found).splitlines()[1:] == [
        f"{copies * 382} of {copies * 3823} labels were flipped on purpose",
        f"the oracle abstains on {found.abstained} of {len(built.labels)} points",
    ]


def test_only_abstentions():
    data = contaminated(from_arrays(np.arange(6.0)[:, None], [0, 1, 0, 1, 1, 1]), source="noise", share=0.5)
    assert str(label_counts(data)).splitlines() == [
        "labels of each class: 0: 2, 1: 4",
        "the oracle abstains on 6 of 12 points",
    ]


def test_many_classes_are_one_short_line():
    data = from_arrays(np.arange(1275.0)[:, None], np.repeat(np.arange(50), np.arange(1, 51)))
    line = str(label_counts(data))
    assert line.startswith("labels of each class: 0: 1, 1: 2, 2: 3,")
    assert line.endswith(", 11: 12, ... (1 to 50 a class)")
    assert str(label_counts(repeated(noisy_labels(data, rate=0.0), 2))).count("\n") == 0
