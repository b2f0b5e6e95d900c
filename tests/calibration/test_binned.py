"""Binned calibration errors on Vector A, against naive binning, and at the edges of the bins."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.calibration import classwise_ece, ece, mce, reliability
from tests import vectors
from tests.vectors import random_probs

A_PROBS = jnp.asarray(vectors.vector_a().mean(1), jnp.float32)


def naive(probs, labels, num_bins):
    """(ECE, MCE, counts), bins `(lo, hi]`."""
    probs = np.asarray(probs, np.float32)
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    errors, counts = [], []
    for i in range(num_bins):
        low, high = np.float32(i) / np.float32(num_bins), np.float32(i + 1) / np.float32(num_bins)
        inside = (confidence > low) & (confidence <= high)
        if i == num_bins - 1:
            inside |= confidence > high
        counts.append(int(inside.sum()))
        gap = abs(correct[inside].mean() - confidence[inside].astype(np.float64).mean()) if inside.any() else 0
        errors.append(gap)
    return np.dot(counts, errors) / len(labels), max(errors), counts


def naive_classwise(probs, labels, num_bins):
    """Mean over the classes of the calibration error of "is it this class", bins `(lo, hi]`, 0 in the first."""
    probs, total = np.asarray(probs, np.float32), 0.0
    for c in range(probs.shape[1]):
        for i in range(num_bins):
            low, high = np.float32(i) / np.float32(num_bins), np.float32(i + 1) / np.float32(num_bins)
            inside = [n for n, p in enumerate(probs[:, c]) if low < p <= high or (i == 0 and p == 0)]
            if inside:
                frequency = sum(labels[n] == c for n in inside) / len(inside)
                mean = sum(float(probs[n, c]) for n in inside) / len(inside)
                total += len(inside) / len(labels) * abs(frequency - mean)
    return total / probs.shape[1]


@pytest.mark.parametrize("num_bins", [5, 10, 15])
def test_vector_a(num_bins):
    np.testing.assert_allclose(ece(A_PROBS, vectors.A_LABELS, num_bins=num_bins), vectors.A_ECE[num_bins], rtol=1e-6)
    np.testing.assert_allclose(mce(A_PROBS, vectors.A_LABELS, num_bins=num_bins), vectors.A_MCE[num_bins], rtol=1e-6)


def test_lists_are_arrays():
    probs, labels = [[0.75, 0.25], [0.5, 0.5]], [0, 1]
    assert ece(probs, labels) == ece(np.array(probs), np.array(labels)) == 0.375
    assert mce(probs, labels) == 0.5


def test_the_default_is_15_bins():
    probs, labels = random_probs(0, 200, 5), np.random.default_rng(0).integers(5, size=200)
    assert ece(probs, labels) == ece(probs, labels, num_bins=15)
    assert ece(probs, labels) != ece(probs, labels, num_bins=16)
    assert reliability(probs, labels).count.shape == (15,)


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    hnp.arrays(np.int64, (30, 3), elements=st.integers(1, 40)), hnp.arrays(np.int64, 30, elements=st.integers(0, 2))
)
def test_naive_binning(weights, labels):
    probs = (weights / weights.sum(1, keepdims=True)).astype(np.float32)  # simple fractions: many lie on an edge
    expected_ece, expected_mce, counts = naive(probs, labels, 12)
    np.testing.assert_array_equal(reliability(probs, labels, 12).count, counts)
    np.testing.assert_allclose(ece(probs, labels, num_bins=12), expected_ece, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mce(probs, labels, num_bins=12), expected_mce, rtol=1e-5, atol=1e-6)
    expected = naive_classwise(probs, labels, 12)
    np.testing.assert_allclose(classwise_ece(probs, labels, num_bins=12), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_bins", [7, 10, 15, 20])
def test_bins_are_closed_on_the_right(num_bins):
    edges = np.arange(1, num_bins + 1)
    edges = edges[edges / num_bins > 0.5]  # a top confidence of two classes
    confidence = (edges / num_bins).astype(np.float32)
    probs = np.stack([confidence, 1 - confidence], 1)
    count = reliability(probs, np.zeros(len(edges), int), num_bins).count
    np.testing.assert_array_equal(np.flatnonzero(count), edges - 1)  # i/B is the last of bin i − 1


def test_a_confidence_of_one_lies_in_the_last_bin():
    probs = np.array([[0.05, 0.95], [0.0, 1.0]], np.float32)
    labels = np.array([1, 0])
    np.testing.assert_allclose(ece(probs, labels, num_bins=10), 0.475, rtol=1e-6)  # a bin of its own would give 0.525
    above = probs.copy()
    above[1, 1] = np.nextafter(np.float32(1), np.float32(2))
    np.testing.assert_allclose(ece(above, labels, num_bins=10), 0.475, rtol=1e-6)
    assert reliability(above, labels, 10).count.tolist() == [0] * 9 + [2]


def test_reliability_says_what_is_in_each_bin():
    probs = np.array([[0.55, 0.45], [0.35, 0.65], [0.9, 0.1], [0.05, 0.95]])
    result = reliability(probs, np.array([0, 0, 0, 1]), 4)
    assert result.count.tolist() == [0, 0, 2, 2]
    np.testing.assert_allclose(result.confidence, [0, 0, 0.6, 0.925], rtol=1e-6)
    np.testing.assert_allclose(result.accuracy, [0, 0, 0.5, 1], rtol=1e-6)
    np.testing.assert_allclose(ece(probs, np.array([0, 0, 0, 1]), num_bins=4), (0.1 + 0.075) / 2, rtol=1e-5)
    np.testing.assert_allclose(mce(probs, np.array([0, 0, 0, 1]), num_bins=4), 0.1, rtol=1e-5)


def test_one_bin_is_the_gap_between_confidence_and_accuracy():
    probs, labels = random_probs(1, 100, 4), np.random.default_rng(1).integers(4, size=100)
    gap = abs(probs.max(1).mean() - np.mean(probs.argmax(1) == labels))
    np.testing.assert_allclose(ece(probs, labels, num_bins=1), gap, rtol=1e-5)
    np.testing.assert_allclose(mce(probs, labels, num_bins=1), gap, rtol=1e-5)


def test_one_bin_of_each_class_is_the_gap_between_frequency_and_mean_probability():
    probs, labels = random_probs(3, 100, 4), np.random.default_rng(3).choice([0, 1, 3], size=100)  # no label 2
    gaps = np.abs(np.bincount(labels, minlength=4) / 100 - probs.mean(0))
    assert gaps[2] == probs[:, 2].mean()
    np.testing.assert_allclose(classwise_ece(probs, labels, num_bins=1), gaps.mean(), rtol=1e-5)


def test_of_two_classes_the_errors_of_both_are_the_same():
    p = np.random.default_rng(4).uniform(size=200).astype(np.float32) * 0.98 + 0.01
    labels = np.random.default_rng(5).integers(2, size=200)
    both = classwise_ece(np.stack([1 - p, p], 1), labels)
    np.testing.assert_allclose(both, naive_classwise(np.stack([1 - p, p], 1), labels, 15), rtol=1e-5)
    np.testing.assert_allclose(both, classwise_ece(np.stack([p, 1 - p], 1), 1 - labels), rtol=1e-5)


def test_labels_drawn_from_the_predictions_are_calibrated():
    rng = np.random.default_rng(2)
    probs = random_probs(2, 20_000, 3, temperature=2.0)
    labels = (probs.cumsum(1) < rng.uniform(size=(20_000, 1))).sum(1).clip(max=2)
    assert ece(probs, labels) < 0.02
    assert ece(probs, (labels + 1) % 3) > 0.2
    assert classwise_ece(probs, labels) < 0.02
    assert classwise_ece(probs, (labels + 1) % 3) > 0.2


@pytest.mark.parametrize("num_bins", [0, -1, 2.5, True])
def test_the_number_of_bins_is_checked(num_bins):
    with pytest.raises(ValueError, match="num_bins must be a positive Python int"):
        ece(A_PROBS, vectors.A_LABELS, num_bins=num_bins)
    with pytest.raises(ValueError, match="num_bins must be a positive Python int"):
        classwise_ece(A_PROBS, vectors.A_LABELS, num_bins=num_bins)
