"""Contrastive scores against a loop over neighbours, in float64."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition.contrastive import contrastive
from bdal.errors import NonFiniteError
from tests.compilations import count_compilations
from tests.vectors import random_probs

N, L, K, C, D = 30, 17, 5, 4, 6
PROBS, LABELLED_PROBS = random_probs(0, N, K, C), random_probs(1, L, K, C)
FEATURES = np.random.default_rng(2).normal(size=(N, D)) + 5
LABELLED_FEATURES = np.random.default_rng(3).normal(size=(L, D)) + 5


def log32(probs):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probs), jnp.float32)


def arguments():
    features = jnp.asarray(FEATURES, jnp.float32), jnp.asarray(LABELLED_FEATURES, jnp.float32)
    return log32(PROBS), features[0], log32(LABELLED_PROBS), features[1]


def definition(num_neighbours, labelled=None):
    rows = np.arange(L) if labelled is None else np.flatnonzero(labelled)
    out = np.zeros(N)
    for n in range(N):
        distances = np.linalg.norm(LABELLED_FEATURES[rows] - FEATURES[n], axis=1)
        q = PROBS[n].mean(0)
        for i in rows[np.argsort(distances)[:num_neighbours]]:
            p = LABELLED_PROBS[i].mean(0)
            out[n] += np.sum(p * np.log(p / q)) / min(num_neighbours, len(rows))
    return out


@pytest.mark.parametrize("num_neighbours", [1, 5, 17, 30])  # at most all of the 17
def test_it_is_the_mean_divergence_from_the_nearest_labelled_points(num_neighbours):
    got = contrastive(*arguments(), num_neighbours=num_neighbours)
    np.testing.assert_allclose(got, definition(num_neighbours), rtol=2e-5, atol=1e-7)


def test_the_default_is_ten_neighbours_and_the_mean_prediction_will_do():
    log_probs, features, labelled_log_probs, labelled_features = arguments()
    whole = contrastive(log_probs, features, labelled_log_probs, labelled_features)
    np.testing.assert_allclose(whole, definition(10), rtol=2e-5)
    means = contrastive(log32(PROBS.mean(1)), features, log32(LABELLED_PROBS.mean(1)), labelled_features)
    np.testing.assert_allclose(means, whole, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_rows_of_the_buffer_that_are_not_labelled_do_not_matter(count):
    log_probs, features, labelled_log_probs, labelled_features = arguments()
    labelled = np.zeros(L, bool)
    labelled[np.random.default_rng(count).permutation(L)[:count]] = True
    poisoned = jnp.where(labelled[:, None, None], labelled_log_probs, jnp.nan)
    wild = jnp.where(labelled[:, None], labelled_features, jnp.inf)
    got = contrastive(log_probs, features, poisoned, wild, num_neighbours=5, labelled=labelled)
    np.testing.assert_allclose(got, definition(5, labelled), rtol=2e-5, atol=1e-7)
    traced = jax.jit(lambda mask: contrastive(log_probs, features, poisoned, wild, num_neighbours=5, labelled=mask))
    np.testing.assert_allclose(traced(labelled), got, rtol=1e-6)


def test_the_divergence_is_from_the_labelled_point_to_the_candidate():
    features, point, neighbour = jnp.zeros((1, 1)), [[0.9, 0.1]], [[0.5, 0.5]]
    forward = 0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(0.5 / 0.1)
    np.testing.assert_allclose(contrastive(log32(point), features, log32(neighbour), features), forward, rtol=1e-5)


def test_agreement_is_exactly_zero_and_small_differences_survive():
    features = jnp.zeros((1, 1))
    p = np.array([[0.3, 0.7]])
    assert contrastive(log32(p), features, log32(p), features) == 0
    q = p + np.array([[1e-4, -1e-4]])
    expected = float(np.sum(p * np.log(p / q)))  # 2.4e-8
    np.testing.assert_allclose(contrastive(log32(q), features, log32(p), features), expected, rtol=0.02)


def test_impossible_classes_are_finite_with_finite_gradients():
    rng = np.random.default_rng(4)
    sure = np.eye(C)[rng.integers(C, size=(N, K))]
    logits = jnp.asarray(rng.choice([-1e4, 0, 1e4], (L, K, C)), jnp.float32)
    _, features, _, labelled_features = arguments()

    def total(log_probs, logits):
        values = contrastive(log_probs, features, jax.nn.log_softmax(logits), labelled_features)
        return values.sum(), values

    (_, values), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(log32(sure), logits)
    assert jnp.isfinite(values).all()
    assert (values >= 0).all()
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_blocks_shifts_and_transformations(monkeypatch):
    values = contrastive(*arguments())
    log_probs, features, labelled_log_probs, labelled_features = arguments()
    far = contrastive(log_probs, features + 1000, labelled_log_probs, labelled_features + 1000)
    np.testing.assert_allclose(far, values, rtol=1e-5)
    log_mean, labelled_log_mean = jax.nn.logsumexp(log_probs, 1), jax.nn.logsumexp(labelled_log_probs, 1)
    log_mean, labelled_log_mean = log_mean - np.log(K), labelled_log_mean - np.log(K)
    module = sys.modules[contrastive.__module__]  # the room holds the function under that name
    monkeypatch.setattr(module, "BLOCK", 7 * 40)  # seven points at a time
    anew = jax.jit(lambda *a: module._contrastive.__wrapped__(*a, 10))
    blocks = anew(log_mean, features, labelled_log_mean, labelled_features, jnp.ones(L, bool))
    np.testing.assert_allclose(blocks, values, rtol=1e-5)
    one_by_one = jax.jit(jax.vmap(lambda l, f: contrastive(l[None], f[None], *arguments()[2:])[0]))
    np.testing.assert_allclose(one_by_one(log_probs, features), values, rtol=1e-5)
    with count_compilations() as compilations:
        contrastive(*arguments(), labelled=np.arange(L) < 5)
    assert len(compilations) <= 6  # the masks; not the program
    with count_compilations() as compilations:
        contrastive(*arguments(), labelled=np.arange(L) < 7)
    assert compilations == []


def test_misuse_is_named():
    log_probs, features, labelled_log_probs, labelled_features = arguments()
    with pytest.raises(ValueError, match="num_neighbours must be at least 1, got 0"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features, num_neighbours=0)
    with pytest.raises(TypeError, match=r"num_neighbours must be a Python int, known before tracing, got 2\.0"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features, num_neighbours=2.0)
    with pytest.raises(ValueError, match="one labelled point or more"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features, labelled=np.zeros(L, bool))
    with pytest.raises(ValueError, match="labelled must be a boolean mask"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features, labelled=np.ones(L))
    with pytest.raises(ValueError, match=r"features must have shape \[N, D\] with N = 30, got \(29, 6\)"):
        contrastive(log_probs, features[1:], labelled_log_probs, labelled_features)
    with pytest.raises(ValueError, match=r"labelled_features must have shape \[L, D\] with L = 17"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features[1:])
    with pytest.raises(ValueError, match="the D = 6 columns of features, got 4 and 5"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features[:, 1:])
    with pytest.raises(ValueError, match=r"log_probs must have shape \[N, K, C\] or \[N, C\]"):
        contrastive(log_probs[0, 0], features, labelled_log_probs, labelled_features)
    with pytest.raises(NonFiniteError, match=r"labelled_features: 1 of 17 rows is NaN or infinite \(row 4\)"):
        contrastive(log_probs, features, labelled_log_probs, labelled_features.at[4, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="labelled_log_probs must be log-probabilities"):
        contrastive(log_probs, features, jnp.exp(labelled_log_probs), labelled_features)
