import collections

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from bdal.datasets import duplicates, from_arrays, load, repeated


def test_a_case_by_hand():
    points = np.array([[5, 5], [1, 2], [3, 4], [1, 2], [5, 5], [1, 2], [7, 8]], float)
    data = from_arrays(points, [0, 1, 2, 1, 1, 1, 0], [[3, 4], [9, 9], [3, 4], [1, 2]], [2, 0, 2, 1])
    found = duplicates(data)
    assert (found.points, found.distinct, found.repeats) == (7, 4, 3)
    assert found.groups == ((1, 3, 5), (0, 4))
    assert found.contradicting == ((0, 4),)
    assert found.in_test == (1, 2, 3, 5)
    assert str(found).splitlines() == [
        "7 points, 4 of them distinct, 3 repeat another one",
        "2 distinct points that are there more than once: 1, 3, 5; 0, 4",
        "1 distinct points whose labels differ: 0, 4",
        "4 points are in the test set too: 1, 2, 3, 5",
    ]


def test_a_pool_without_labels_or_test_set_and_bare_inputs():
    points = np.array([[1.0], [2.0], [1.0]])
    for data in (from_arrays(points), points, points.astype(np.uint8)):
        found = duplicates(data)
        assert (found.groups, found.contradicting, found.in_test) == (((0, 2),), (), ())
    with pytest.raises(ValueError, match="inputs: expected numbers"):
        duplicates(np.array(["a", "a"]))


def test_zero_is_equal_to_minus_zero_and_points_of_other_shapes_are_not_confused():
    assert duplicates(np.array([[0.0], [-0.0]])).repeats == 1
    assert duplicates(np.array([[[1.0, 2.0]], [[2.0, 1.0]]])).repeats == 0


@hypothesis.settings(max_examples=50, deadline=None, derandomize=True)
@hypothesis.given(
    hnp.arrays(np.float32, (12, 2), elements=st.integers(0, 2).map(float)),
    hnp.arrays(np.float32, (5, 2), elements=st.integers(0, 2).map(float)),
    hnp.arrays(np.int32, 12, elements=st.integers(0, 1)),
)
def test_against_comparing_every_pair(points, test_points, labels):
    found = duplicates(from_arrays(points, labels, test_points, np.zeros(5, int), num_classes=2))
    same = (points[:, None] == points[None]).all(-1)  # [N, N]
    groups = {tuple(np.flatnonzero(row).tolist()) for row in same}
    assert found.distinct == len(groups)
    assert set(found.groups) == {group for group in groups if len(group) > 1}
    assert [len(group) for group in found.groups] == sorted(map(len, found.groups), reverse=True)
    assert set(found.contradicting) == {group for group in groups if len(set(labels[list(group)])) > 1}
    assert found.in_test == tuple(np.flatnonzero((points[:, None] == test_points[None]).all(-1).any(1)))


def test_the_embedded_digits_and_copies_of_them():
    digits = load("optdigits")
    rows = collections.Counter(map(bytes, digits.inputs))
    found = duplicates(digits)
    assert found.points == 3823
    assert found.distinct == len(rows)
    copies = duplicates(repeated(digits, 3))
    assert (copies.distinct, copies.repeats) == (len(rows), 3 * 3823 - len(rows))
    assert all(len(group) % 3 == 0 for group in copies.groups)
    assert duplicates(repeated(digits, 3, noise=0.1)).repeats == 0
    lines = str(duplicates(repeated(digits, 6))).splitlines()
    assert lines[0].startswith("22938 points, ")
    assert "; 1, 3824, 7647, 11470, 15293, ... (6);" in lines[1]
    assert lines[1].endswith(f" and {len(rows) - 5} more")


@pytest.mark.data
@pytest.mark.parametrize(("name", "repeats"), [("notmnist", 196), ("pneumoniamnist", 18)])
def test_the_real_sets_repeat_as_often_as_their_page_says(name, repeats, data_dir):
    found = duplicates(load(name, data_dir=data_dir))
    assert found.repeats == repeats
    assert found.in_test == ()
