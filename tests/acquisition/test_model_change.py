"""Closed-form gradient norms against automatic differentiation, and the identities of the expected gradient length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import expected_model_change, last_layer_gradient_norms, predictive_variance
from bdal.acquisition.model_change import aleatoric_fisher_trace, epistemic_fisher_trace, last_layer_fisher_trace
from bdal.committee import deep_ensemble
from bdal.errors import NonFiniteError
from tests.vectors import random_probs

NUM_MEMBERS, NUM_CLASSES, NUM_FEATURES = 3, 5, 7


def layers(seed, scale=1.0):
    """A softmax layer for each member, the members' features of 8 points, and the log-probabilities."""
    rng = np.random.default_rng(seed)
    weights = jnp.asarray(scale * rng.normal(size=(NUM_MEMBERS, NUM_CLASSES, NUM_FEATURES)), jnp.float32)
    biases = jnp.asarray(rng.normal(size=(NUM_MEMBERS, NUM_CLASSES)), jnp.float32)
    features = jnp.asarray(rng.normal(size=(8, NUM_MEMBERS, NUM_FEATURES)), jnp.float32)
    log_probs = jax.nn.log_softmax(jnp.einsum("kcd,nkd->nkc", weights, features, precision="highest") + biases[None])
    return weights, biases, features, log_probs


def autodiff_norms(weights, biases, features):
    """Norm of the gradient of −log p(c) with respect to weight and bias, for every point, member and class."""

    def loss(layer, h, label):
        weight, bias = layer
        return -jax.nn.log_softmax(jnp.matmul(weight, h, precision="highest") + bias)[label]

    def norm(layer, h, label):
        gradients = jax.grad(loss)(layer, h, label)
        return jnp.sqrt(sum(jnp.square(leaf).sum() for leaf in gradients))

    over_classes = jax.vmap(norm, (None, None, 0))
    over_members = jax.vmap(over_classes, ((0, 0), 0, None))
    over_points = jax.vmap(over_members, (None, 0, None))
    return over_points((weights, biases), features, jnp.arange(NUM_CLASSES))


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_norms_are_those_of_automatic_differentiation(scale):
    weights, biases, features, log_probs = layers(0, scale)
    norms = last_layer_gradient_norms(log_probs, features)
    expected = jax.jit(autodiff_norms)(weights, biases, features)
    np.testing.assert_allclose(norms, expected, rtol=1e-5, atol=1e-6)  # that p − 1 is a difference in float32


@pytest.mark.parametrize("gap", [2.0, 10.0, 30.0])
def test_norms_are_accurate_for_a_label_that_is_almost_certain(gap):
    logits = np.array([gap, 0.3, -0.2, 0.0])
    probs = np.exp(logits) / np.exp(logits).sum()
    others = probs[1:]
    residuals = probs[None] - np.eye(4)
    residuals[0, 0] = -others.sum()  # 1 − p without cancellation
    log_probs = jnp.asarray(np.log(probs), jnp.float32)[None]
    norms = last_layer_gradient_norms(log_probs, jnp.zeros((1, 2)))
    np.testing.assert_allclose(norms[0], np.sqrt((residuals**2).sum(-1)), rtol=1e-5)


def test_a_certain_label_would_change_nothing():
    log_probs = jnp.log(jnp.eye(3))
    norms = last_layer_gradient_norms(log_probs, jnp.zeros((3, 2)))
    np.testing.assert_allclose(norms, np.sqrt(2) * (1 - np.eye(3)), rtol=1e-6)
    gradient = jax.jit(jax.grad(lambda l, h: last_layer_gradient_norms(l, h).sum(), argnums=(0, 1)))(
        log_probs, jnp.ones((3, 2))
    )
    assert all(jnp.isfinite(leaf).all() for leaf in gradient)


def test_squared_norms_expected_under_the_prediction_are_the_trace_of_the_fisher_information():
    _, _, features, log_probs = layers(1)
    probs = jnp.exp(log_probs)
    expected = (jnp.square(features).sum(-1) + 1) * (1 - jnp.square(probs).sum(-1))
    squares = jnp.square(last_layer_gradient_norms(log_probs, features))
    np.testing.assert_allclose(jnp.sum(probs * squares, -1), expected, rtol=1e-5)


def test_squared_norms_split_into_gini_and_committee_variance():
    _, _, _, log_probs = layers(2)
    probs = np.exp(np.asarray(log_probs, np.float64))
    no_features = jnp.zeros((8, NUM_MEMBERS, NUM_FEATURES))
    squares = jnp.square(last_layer_gradient_norms(log_probs, no_features))
    expected = (1 - np.square(probs.mean(1)).sum(-1)) + probs.var(1).sum(-1)
    np.testing.assert_allclose(expected_model_change(log_probs, squares), expected, rtol=1e-5)


def test_expected_model_change_is_the_sum_over_labels():
    probs = random_probs(3, 4, 3, 5)
    norms = np.random.default_rng(3).uniform(size=(4, 3, 5))
    expected = [sum(probs[n, :, c].mean() * norms[n, :, c].mean() for c in range(5)) for n in range(4)]
    got = expected_model_change(jnp.asarray(np.log(probs), jnp.float32), jnp.asarray(norms, jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_one_member_is_the_expected_gradient_length():
    _, _, features, log_probs = layers(4)
    log_probs, features = log_probs[:, :1], features[:, :1]
    probs = np.exp(np.asarray(log_probs[:, 0], np.float64))
    lengths = np.sqrt(np.square(np.asarray(features[:, 0], np.float64)).sum(-1) + 1)
    expected = lengths * sum(probs[:, c] * np.linalg.norm(probs - np.eye(NUM_CLASSES)[c], axis=-1) for c in range(5))
    got = expected_model_change(log_probs, last_layer_gradient_norms(log_probs, features))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_leading_axes_and_other_precisions():
    _, _, features, log_probs = layers(5)
    norms = last_layer_gradient_norms(log_probs, features)
    folded = last_layer_gradient_norms(log_probs.reshape(2, 4, 3, 5), features.reshape(2, 4, 3, 7))
    np.testing.assert_allclose(folded.reshape(8, 3, 5), norms, rtol=1e-6)
    one = last_layer_gradient_norms(log_probs[0], features[0])
    np.testing.assert_allclose(one, norms[0], rtol=1e-6)
    half = last_layer_gradient_norms(log_probs, features.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, norms, rtol=0.02)
    mapped = jax.jit(jax.vmap(last_layer_gradient_norms))(log_probs, features)
    np.testing.assert_allclose(mapped, norms, rtol=1e-6)


def test_misuse_is_named():
    _, _, features, log_probs = layers(6)
    with pytest.raises(ValueError, match=r"features must have shape \[\.\.\., K, D\].*got \(8, 7\)"):
        last_layer_gradient_norms(log_probs, features[:, 0])
    with pytest.raises(ValueError, match=r"features must have shape.*got \(8, 2, 7\)"):
        last_layer_gradient_norms(log_probs, features[:, :2])
    with pytest.raises(NonFiniteError, match=r"features: 1 of 8 rows is NaN or infinite \(row 2\)"):
        last_layer_gradient_norms(log_probs, features.at[2, 1, 0].set(jnp.inf))
    norms = last_layer_gradient_norms(log_probs, features)
    with pytest.raises(ValueError, match=r"gradient_norms must have the shape of log_probs \(8, 3, 5\)"):
        expected_model_change(log_probs, norms[:, 0])
    with pytest.raises(NonFiniteError, match=r"gradient_norms: 1 of 8 rows is NaN"):
        expected_model_change(log_probs, norms.at[7].set(jnp.nan))
    with pytest.raises(ValueError, match="look like probabilities"):
        expected_model_change(jnp.exp(log_probs), norms)


def test_full_network_and_last_layer_agree_on_a_linear_model():
    weights, biases, features, _ = layers(7)
    inputs = features[:, 0]  # [8, D]

    def apply(params, key, x):
        weight, bias = params
        return jnp.matmul(weight, x, precision="highest") + bias, x

    committee = deep_ensemble(apply, (weights, biases))
    full = committee.gradient_norms(inputs)
    last = last_layer_gradient_norms(committee.log_probs(inputs), committee.features(inputs))
    np.testing.assert_allclose(last, full, rtol=1e-5)


@pytest.mark.parametrize("labels", ["committee", "member"])
@pytest.mark.parametrize("top", [None, 1, 3, 5])
def test_labels_come_from_the_committee_or_the_member_and_may_be_cut_to_the_most_probable(labels, top):
    _, _, features, log_probs = layers(8)
    norms = last_layer_gradient_norms(log_probs, features)
    probs, lengths = np.exp(np.asarray(log_probs, np.float64)), np.asarray(norms, np.float64)
    expected = np.zeros(8)
    for n in range(8):
        for k in range(NUM_MEMBERS):
            q = probs[n, k] if labels == "member" else probs[n].mean(0)
            kept = np.argsort(-q)[: top or NUM_CLASSES]
            expected[n] += q[kept] @ lengths[n, k, kept] / q[kept].sum() / NUM_MEMBERS
    got = expected_model_change(log_probs, norms, labels=labels, top=top)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_most_probable_label_alone_gives_the_length_of_its_gradient():
    _, _, features, log_probs = layers(9)
    norms = last_layer_gradient_norms(log_probs, features)
    predicted = log_probs.argmax(-1)
    own = jnp.take_along_axis(norms, predicted[..., None], axis=-1)[..., 0].mean(-1)
    np.testing.assert_allclose(expected_model_change(log_probs, norms, labels="member", top=1), own, rtol=1e-6)
    one = expected_model_change(log_probs[:, :1], norms[:, :1], labels="member")
    np.testing.assert_allclose(expected_model_change(log_probs[:, :1], norms[:, :1]), one, rtol=1e-6)  # K = 1


@pytest.mark.parametrize("labels", ["committee", "member"])
def test_the_fisher_trace_is_the_expected_squared_length(labels):
    _, _, features, log_probs = layers(10)
    squares = np.square(np.asarray(last_layer_gradient_norms(log_probs, features), np.float64))
    probs = np.exp(np.asarray(log_probs, np.float64))
    q = probs if labels == "member" else probs.mean(1, keepdims=True)
    expected = (q * squares).sum(-1).mean(-1)
    np.testing.assert_allclose(last_layer_fisher_trace(log_probs, features, labels=labels), expected, rtol=1e-5)


def test_the_fisher_trace_is_its_aleatoric_and_its_epistemic_part():
    _, _, features, log_probs = layers(11)
    total = last_layer_fisher_trace(log_probs, features)
    aleatoric, epistemic = aleatoric_fisher_trace(log_probs, features), epistemic_fisher_trace(log_probs, features)
    np.testing.assert_allclose(aleatoric + epistemic, total, rtol=1e-6)

    probs = np.exp(np.asarray(log_probs, np.float64))
    lengths = np.square(np.asarray(features, np.float64)).sum(-1) + 1  # [8, K]
    mean = probs.mean(1)
    np.testing.assert_allclose(aleatoric, lengths.mean(1) * (1 - np.square(mean).sum(-1)), rtol=1e-5)
    np.testing.assert_allclose(
        epistemic, (lengths * np.square(probs - mean[:, None]).sum(-1)).mean(1), rtol=1e-5, atol=1e-7
    )


def test_shared_features_factor_out_of_the_fisher_trace():
    _, _, features, log_probs = layers(12)
    features = jnp.repeat(features[:, :1], NUM_MEMBERS, axis=1)
    length = jnp.square(features[:, 0]).sum(-1) + 1
    epistemic = epistemic_fisher_trace(log_probs, features)
    np.testing.assert_allclose(epistemic, length * predictive_variance(log_probs), rtol=1e-5)
    mean_gini = last_layer_fisher_trace(log_probs, features, labels="member")
    np.testing.assert_allclose(aleatoric_fisher_trace(log_probs, features), mean_gini + epistemic, rtol=1e-5)


def test_members_that_agree_leave_no_epistemic_part_and_certain_ones_nothing():
    _, _, features, log_probs = layers(13)
    agree = jnp.repeat(log_probs[:, :1], 7, axis=1)
    wide = jnp.repeat(features[:, :1], 7, axis=1)
    np.testing.assert_array_equal(epistemic_fisher_trace(agree, wide), 0)
    np.testing.assert_array_equal(last_layer_fisher_trace(agree, wide), aleatoric_fisher_trace(agree, wide))
    sure = jnp.log(jnp.tile(jnp.eye(3)[:1], (4, 1)))
    assert last_layer_fisher_trace(sure, jnp.ones((4, 2))) == 0
    almost = jnp.array([[-1e-9, np.log(1e-9)]], jnp.float32)  # 1 − p rounds to 0, p to 1
    np.testing.assert_allclose(aleatoric_fisher_trace(almost, jnp.zeros((1, 2))), 2e-9, rtol=1e-5)


def test_new_parameters_and_traces():
    _, _, features, log_probs = layers(14)
    norms = last_layer_gradient_norms(log_probs, features)
    for wrong, error in ((0, ValueError), (6, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="top must be"):
            expected_model_change(log_probs, norms, top=wrong)
    with pytest.raises(ValueError, match='labels must be "committee" or "member"'):
        expected_model_change(log_probs, norms, labels="mean")
    with pytest.raises(ValueError, match='labels must be "committee" or "member"'):
        last_layer_fisher_trace(log_probs, features, labels="mean")
    for score in (last_layer_fisher_trace, aleatoric_fisher_trace, epistemic_fisher_trace):
        with pytest.raises(ValueError, match="features must have shape"):
            score(log_probs, features[:, 0])
        values = score(log_probs, features)
        np.testing.assert_allclose(jax.jit(jax.vmap(score))(log_probs, features), values, rtol=1e-5)
        gradients = jax.jit(jax.grad(lambda l, f, score=score: score(l, f).sum(), argnums=(0, 1)))(
            jnp.log(jnp.eye(3)), jnp.ones((3, 2))
        )
        assert all(jnp.isfinite(leaf).all() for leaf in gradients)
        poisoned = jax.jit(score)(log_probs.at[2, 1, 0].set(jnp.nan), features)
        np.testing.assert_array_equal(jnp.isnan(poisoned), np.arange(8) == 2)
    poisoned = expected_model_change(log_probs, norms, top=2)
    traced = jax.jit(lambda l: expected_model_change(l, norms, top=2))(log_probs.at[2, 1, 0].set(jnp.nan))
    np.testing.assert_array_equal(jnp.isnan(traced), np.arange(8) == 2)
    assert jnp.isfinite(poisoned).all()
