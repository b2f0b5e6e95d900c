"""Proper scores on Vector A, against loops, and at the edges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.calibration import accuracy, brier, class_accuracy, classwise_ece, ece, mce, nll, reliability
from bdal.errors import LabelError, NonFiniteError
from tests import vectors
from tests.vectors import random_probs

METRICS = {
    "nll": nll,
    "brier": brier,
    "accuracy": accuracy,
    "class_accuracy": class_accuracy,
    "ece": ece,
    "classwise_ece": classwise_ece,
    "mce": mce,
    "reliability": lambda probs, labels: jnp.stack(reliability(probs, labels), axis=-1),
}
metrics = pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)

A_PROBS = jnp.asarray(vectors.vector_a().mean(1), jnp.float32)


def test_vector_a():
    np.testing.assert_allclose(nll(A_PROBS, vectors.A_LABELS), vectors.A_NLL, rtol=1e-6)
    np.testing.assert_allclose(brier(A_PROBS, vectors.A_LABELS), vectors.A_BRIER, rtol=1e-6)


def test_against_loops():
    probs, labels = random_probs(0, 50, 4), np.random.default_rng(0).integers(4, size=50)
    points = list(zip(probs, labels, strict=True))
    expected = {
        nll: -math.fsum(math.log(p[y]) for p, y in points) / 50,
        brier: math.fsum((p[c] - (c == y)) ** 2 for p, y in points for c in range(4)) / 50,
        accuracy: sum(int(np.argmax(p)) == y for p, y in points) / 50,
    }
    for metric, value in expected.items():
        np.testing.assert_allclose(metric(probs, labels), value, rtol=1e-6)


@metrics
def test_leading_axes_jit_and_vmap(metric):
    probs = jnp.asarray(random_probs(1, 2, 3, 20, 4), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(4, size=(2, 3, 20)))
    values = metric(probs, labels)
    assert values.shape[:2] == (2, 3)
    looped = [[metric(probs[i, j], labels[i, j]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(values, looped, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(metric)))(probs, labels), values, rtol=1e-6, atol=1e-7)


@metrics
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float64])
def test_other_precisions_and_integers(metric, dtype):
    probs, labels = random_probs(2, 20, 4), np.random.default_rng(2).integers(4, size=20)
    rounded = jnp.asarray(probs, dtype) if dtype is jnp.bfloat16 else probs
    expected = metric(jnp.asarray(probs, jnp.float32), labels)
    for kind in (np.int64, np.uint8):
        values = metric(rounded, labels.astype(kind))
        assert values.dtype == jnp.float32
        if dtype is np.float64:
            np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_a_label_of_probability_zero_costs_infinitely_much():
    probs = jnp.array([[0.0, 1.0], [0.5, 0.5]])
    assert nll(probs, jnp.array([0, 0])) == jnp.inf
    assert nll(probs, jnp.array([1, 0])) < jnp.inf
    assert brier(probs, jnp.array([0, 0])) == 1.25


def test_perfect_and_worst_predictions():
    labels = np.array([0, 2, 1])
    right, wrong = np.eye(3)[labels], np.eye(3)[(labels + 1) % 3]
    assert (nll(right, labels), brier(right, labels), accuracy(right, labels)) == (0, 0, 1)
    assert (brier(wrong, labels), accuracy(wrong, labels)) == (2, 0)


@metrics
@pytest.mark.parametrize(
    ("probs", "labels", "error", "message"),
    [
        (
            np.full((3, 2), 0.5),
            [0, 2, 1],
            LabelError,
            r"labels must be in 0\.\.1.*1 of 3 are not \(the first, \[1\], is 2\)",
        ),
        (np.full((3, 2), 0.5), [0, -1, 1], LabelError, r"1 of 3 are not \(the first, \[1\], is -1\)"),
        (np.full((3, 2), 0.5), [0.0, 1.0, 1.0], LabelError, "labels must be integers"),
        (np.full((3, 2), 0.6), [0, 1, 1], ValueError, r"a row sums to 1, but 3 of 3 rows are not.*sums to 1\.2"),
        (np.log(np.full((3, 2), 0.5)), [0, 1, 1], ValueError, r"log-probabilities: pass jnp\.exp"),
        (np.array([[3.0, -2.0]]), [0], ValueError, r"logits: pass jax\.nn\.softmax"),
        (np.full((3, 2), np.nan), [0, 1, 1], NonFiniteError, "probs: 3 of 3 rows are NaN"),
        (np.full((3, 4, 2), 0.5), [0, 1, 1], ValueError, "of a committee's .* pass the members' mean"),
        (np.full((3, 2), 0.5), [0, 1], ValueError, r"got \(3, 2\) and \(2,\)"),
        (np.zeros((0, 2)), np.zeros(0, int), ValueError, "at least one point"),
        (np.array([[1, 0]]), [0], TypeError, "probs must be a floating-point array"),
    ],
)
def test_misuse_is_named(metric, probs, labels, error, message):
    with pytest.raises(error, match=message):
        metric(probs, np.asarray(labels))


@metrics
def test_nan_and_labels_out_of_range_are_not_hidden_in_a_trace(metric):
    metric = jax.jit(metric)
    probs, labels = jnp.asarray(random_probs(3, 10, 3), jnp.float32), jnp.arange(10) % 3
    assert jnp.isfinite(metric(probs, labels)).all()
    assert jnp.isnan(metric(probs.at[4, 1].set(jnp.nan), labels)).any()
    for label in (-1, 3):
        assert jnp.isnan(metric(probs, labels.at[4].set(label))).any()


def test_the_accuracy_of_each_class_is_that_of_its_points():
    probs, labels = random_probs(4, 60, 5), np.random.default_rng(4).integers(5, size=60)
    expected = [accuracy(probs[labels == c], labels[labels == c]) for c in range(5)]
    np.testing.assert_allclose(class_accuracy(probs, labels), expected, rtol=1e-6)
    assert 0 < np.min(expected) < np.max(expected) < 1
    weights = np.bincount(labels) / 60
    np.testing.assert_allclose(weights @ class_accuracy(probs, labels), accuracy(probs, labels), rtol=1e-6)


def test_the_mean_accuracy_of_the_classes_is_scikit_learns_balanced_accuracy():
    from sklearn.metrics import balanced_accuracy_score

    probs, labels = random_probs(5, 80, 4), np.random.default_rng(5).choice([0, 1, 3], size=80)
    found = jnp.nanmean(class_accuracy(probs, labels))
    absent = probs[:, 2].copy()
    probs[:, 2], probs[:, 3] = 0, probs[:, 3] + absent  # scikit-learn would warn of a class that is only predicted
    np.testing.assert_allclose(
        jnp.nanmean(class_accuracy(probs, labels)), balanced_accuracy_score(labels, probs.argmax(1)), rtol=1e-6
    )
    assert found < 1


def test_a_class_without_a_point_has_no_accuracy():
    probs = random_probs(6, 30, 4)
    labels = np.where(np.arange(30) % 2, 1, 3)
    for values in (class_accuracy(probs, labels), jax.jit(class_accuracy)(jnp.asarray(probs, jnp.float32), labels)):
        assert jnp.isnan(values).tolist() == [True, False, True, False]
    for metric in (nll, brier, accuracy, ece, mce, classwise_ece):
        assert jnp.isfinite(metric(probs, labels))


def test_sums_within_the_tolerance_are_accepted():
    nll(jnp.array([[0.5004, 0.5004]]), jnp.array([0]))
    with pytest.raises(ValueError, match="sums to 1"):
        nll(jnp.array([[0.501, 0.501]]), jnp.array([0]))
