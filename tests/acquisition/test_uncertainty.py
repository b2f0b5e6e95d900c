"""Scores of the mean prediction on Vector A and where their values are known."""

import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import least_confidence, margin, predictive_entropy
from tests import vectors
from tests.vectors import vector_a

LOG_PROBS = jnp.asarray(np.log(vector_a()), jnp.float32)


def test_vector_a_is_what_it_says():
    np.testing.assert_allclose(vector_a()[0, 0], vectors.A_FIRST, atol=1e-10)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (predictive_entropy, vectors.A_ENTROPY),
        (margin, -vectors.A_MARGIN),
        (least_confidence, 1 - vectors.A_MAX_PROB),
    ],
)
def test_vector_a(score, expected):
    np.testing.assert_allclose(score(LOG_PROBS), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3, 1000])
def test_at_the_uniform(num_classes):
    log_probs = jnp.full((3, num_classes), -np.log(num_classes))
    np.testing.assert_allclose(predictive_entropy(log_probs), np.log(num_classes), rtol=1e-6)
    np.testing.assert_allclose(least_confidence(log_probs), 1 - 1 / num_classes, rtol=1e-6)
    assert margin(log_probs) == 0


def test_binary_scores_order_points_alike():
    probs = np.linspace(0.001, 0.999, 50)[:, None]
    log_probs = jnp.asarray(np.log(np.stack([probs, 1 - probs], -1)), jnp.float32)  # [50, 1, 2]
    order = np.argsort(np.abs(probs[:, 0] - 0.5))[::2]  # the two sides tie
    for score in (predictive_entropy, least_confidence, margin):
        assert (np.diff(np.asarray(score(log_probs))[order]) < 0).all()


def test_least_confident_resolves_confidences_that_round_to_one():
    log_probs = jnp.array([[[-1e-9, np.log(1e-9)]], [[-1e-12, np.log(1e-12)]]], jnp.float32)
    np.testing.assert_allclose(least_confidence(log_probs), [1e-9, 1e-12], rtol=1e-5)


def test_margin_with_a_tie_and_with_one_class():
    assert margin(jnp.log(jnp.array([[0.4, 0.4, 0.2]]))) == 0
    with pytest.raises(ValueError, match=r"two classes or more, got log_probs of shape \(3, 1\)"):
        margin(jnp.zeros((3, 1)))
