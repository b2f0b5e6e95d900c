"""Counts over snapshots, against loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import variation_ratio
from bdal.acquisition.dynamics import forgetting_events, label_dispersion
from bdal.errors import LabelError, NonFiniteError
from tests.vectors import random_probs

N, K, C = 40, 9, 3
PROBS = random_probs(0, N, K, C)
LOG_PROBS = jnp.asarray(np.log(PROBS), jnp.float32)
LABELS = np.random.default_rng(1).integers(C, size=N)


def dispersion(point):
    predicted = [int(row.argmax()) for row in point]
    return 1 - max(predicted.count(c) for c in range(C)) / len(point)


def events(point, label=None):
    predicted = [int(row.argmax()) for row in point]
    pairs = list(itertools.pairwise(predicted))
    if label is None:
        return sum(now != then for then, now in pairs)
    return sum(then == label != now for then, now in pairs)


def test_label_dispersion_is_the_share_of_snapshots_that_predicted_another_label():
    expected = [dispersion(point) for point in PROBS]
    assert len(set(expected)) > 3
    np.testing.assert_allclose(label_dispersion(LOG_PROBS), expected, rtol=1e-6)
    np.testing.assert_array_equal(label_dispersion(LOG_PROBS), variation_ratio(LOG_PROBS))


@pytest.mark.parametrize("labels", [None, LABELS])
def test_forgetting_events_are_counted(labels):
    expected = [events(point, None if labels is None else labels[i]) for i, point in enumerate(PROBS)]
    assert len(set(expected)) > 3
    got = forgetting_events(LOG_PROBS, labels)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, expected)
    folded = forgetting_events(LOG_PROBS.reshape(4, 10, K, C), None if labels is None else labels.reshape(4, 10))
    np.testing.assert_array_equal(folded.reshape(-1), expected)
    first = forgetting_events(LOG_PROBS[0], None if labels is None else labels[0])
    assert first == expected[0]
    mapped = jax.jit(jax.vmap(forgetting_events))(LOG_PROBS, None if labels is None else jnp.asarray(labels))
    np.testing.assert_array_equal(mapped, expected)


def test_an_event_goes_from_right_to_wrong():
    path = jnp.log(jnp.eye(3)[jnp.array([1, 0, 0, 2, 0, 1])])  # wrong, right, right, wrong, right, wrong for label 0
    assert forgetting_events(path, jnp.array(0)) == 2
    assert forgetting_events(path[::-1], jnp.array(0)) == 2
    assert forgetting_events(path[:4], jnp.array(0)) == 1
    assert forgetting_events(path[:3], jnp.array(0)) == 0  # learned, not forgotten
    assert forgetting_events(path) == 4
    assert forgetting_events(path[:1]) == 0
    assert (forgetting_events(LOG_PROBS) >= forgetting_events(LOG_PROBS, LABELS)).all()
    assert (forgetting_events(LOG_PROBS, LABELS) <= K // 2).all()


def test_the_order_of_the_snapshots_matters_to_events_only():
    order = np.random.default_rng(2).permutation(K)
    np.testing.assert_array_equal(label_dispersion(LOG_PROBS[:, order]), label_dispersion(LOG_PROBS))
    assert (forgetting_events(LOG_PROBS[:, order]) != forgetting_events(LOG_PROBS)).any()


def test_misuse_is_named_and_nan_shows_in_a_trace():
    for wrong in (LABELS.astype(float), LABELS[:-1], LABELS[:, None]):
        with pytest.raises(LabelError, match=r"labels must be integers of shape \(40,\)"):
            forgetting_events(LOG_PROBS, wrong)
    for wrong in (LABELS + 1, LABELS - 1, np.asarray(LABELS, np.int64) + 2**32):
        with pytest.raises(LabelError, match="labels must be between 0 and 2, got"):
            forgetting_events(LOG_PROBS, wrong)
    broken = LOG_PROBS.at[3, 1, 0].set(jnp.nan)
    for score in (label_dispersion, forgetting_events):
        with pytest.raises(NonFiniteError, match=r"point 3\), in member 1 of 9"):
            score(broken)
        np.testing.assert_array_equal(jnp.isnan(jax.jit(score)(broken)), np.arange(N) == 3)
