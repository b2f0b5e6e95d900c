"""Features whose dot products are known: against the kernels written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import predictive_variance
from bdal.errors import NonFiniteError
from bdal.selection import kernels
from bdal.selection.determinants import max_det
from bdal.selection.kernels import committee_features, gradient_features
from tests.vectors import random_probs

R, K, C, D = 12, 5, 4, 6
EVERY = np.ones(R, bool)


def test_dot_products_of_committee_features_are_covariances():
    probs = random_probs(0, R, K, C)
    features = np.asarray(committee_features(np.log(probs)), float)
    assert features.shape == (R, K * C)
    for x in range(R):
        for y in range(R):
            covariance = sum(np.cov(probs[x, :, c], probs[y, :, c], ddof=0)[0, 1] for c in range(C))
            np.testing.assert_allclose(features[x] @ features[y], covariance, rtol=0, atol=1e-6)
    np.testing.assert_allclose(np.square(features).sum(1), predictive_variance(np.log(probs)), rtol=1e-5)


def test_committee_features_of_any_leading_axes():
    log_probs = np.log(random_probs(1, R, K, C))
    expected = committee_features(log_probs)
    found = committee_features(log_probs.reshape(3, 4, K, C))
    np.testing.assert_allclose(found, expected.reshape(3, 4, -1), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(committee_features(log_probs[0]), expected[0], rtol=1e-6, atol=1e-9)


def test_members_that_agree_have_no_features():
    probs = np.repeat(random_probs(2, R, 1, C), 3, axis=1)
    assert (committee_features(np.log(probs)) == 0).all()
    assert (committee_features(np.log(probs[:, :1])) == 0).all()


def test_impossible_classes_are_finite():
    log_probs = jnp.log(jnp.eye(C)[np.random.default_rng(3).integers(C, size=(R, K))])
    features = committee_features(log_probs)
    assert jnp.isfinite(features).all()
    np.testing.assert_allclose(jnp.square(features).sum(1), predictive_variance(log_probs), rtol=1e-5, atol=1e-7)


def test_committee_features_lead_max_det_to_where_members_disagree():
    log_probs = np.log(random_probs(4, R, K, C))
    query = max_det(committee_features(log_probs), noise_sigma=0.1, available=EVERY, query_size=3)
    assert query.indices[0] == predictive_variance(log_probs).argmax()


def gradients(probs, embeddings):
    residuals = probs - np.eye(probs.shape[1])[probs.argmax(1)]
    return (residuals[:, :, None] * embeddings[:, None, :]).reshape(len(probs), -1)


def test_dot_products_of_sketches_are_those_of_gradients_on_average():
    probs, embeddings = random_probs(5, R, C), np.random.default_rng(5).normal(size=(R, D))
    points = gradients(probs, embeddings)
    exact = points @ points.T
    keys = jax.random.split(jax.random.key(0), 400)
    sketches = jax.vmap(lambda key: gradient_features(probs, embeddings, sketch_dim=64, key=key))(keys)
    products = np.einsum("krs,kqs->krq", sketches, sketches)
    error = products.std(0) / len(keys) ** 0.5
    assert (np.abs(products.mean(0) - exact) < 4.5 * error).all()
    # and the spread of a squared norm is (3 · 3 − 1) / S of its square, that of a dot product no larger
    norms = np.diag(exact)
    spread = products.std(0) / np.sqrt(norms[:, None] * norms[None, :])
    np.testing.assert_allclose(np.diag(spread), np.sqrt(8 / 64), rtol=0.35)
    assert spread.max() < 1.35 * np.sqrt(8 / 64)


def test_sketches_in_blocks_are_the_same(monkeypatch):
    probs, embeddings = random_probs(6, R, C), np.random.default_rng(6).normal(size=(R, D))
    options = {"sketch_dim": 64, "key": jax.random.key(0)}
    expected = gradient_features(probs, embeddings, **options)
    monkeypatch.setattr(kernels, "BLOCK", 5 * 64)  # 5 rows at a time, the last block shorter
    kernels._gradient_features.clear_cache()
    blocks = gradient_features(probs, embeddings, **options)
    kernels._gradient_features.clear_cache()
    np.testing.assert_allclose(blocks, expected, rtol=1e-5, atol=1e-6)


def test_a_row_has_the_same_sketch_in_any_pool():
    probs, embeddings = random_probs(7, R, C), np.random.default_rng(7).normal(size=(R, D))
    options = {"sketch_dim": 64, "key": jax.random.key(0)}
    together = gradient_features(probs, embeddings, **options)
    apart = [gradient_features(probs[i : i + 4], embeddings[i : i + 4], **options) for i in (0, 4, 8)]
    np.testing.assert_allclose(jnp.concatenate(apart), together, rtol=1e-5, atol=1e-6)


def test_misuse_is_named():
    probs, embeddings = random_probs(8, R, C), np.ones((R, D))
    key = jax.random.key(0)
    for sketch_dim in (0, 2.5, True):
        with pytest.raises((ValueError, TypeError), match="sketch_dim must be "):
            gradient_features(probs, embeddings, sketch_dim=sketch_dim, key=key)
    with pytest.raises(ValueError, match=r"embeddings must have shape \[R, D\] with R = 12"):
        gradient_features(probs, embeddings[1:], sketch_dim=4, key=key)
    with pytest.raises(NonFiniteError, match=r"embeddings: .*\(row 3\)"):
        gradient_features(probs, np.where((np.arange(R) == 3)[:, None], np.nan, embeddings), sketch_dim=4, key=key)
    with pytest.raises(ValueError, match=r"pass jnp\.exp"):
        gradient_features(np.log(probs), embeddings, sketch_dim=4, key=key)
    with pytest.raises(ValueError, match="look like probabilities"):
        committee_features(random_probs(8, R, K, C))
