"""Temperature scaling against a grid in float64, closed forms, and the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp

from bdal.calibration import accuracy, fit_temperature, nll
from bdal.errors import LabelError, NonFiniteError


def predictions(seed, n=60, c=4, sharpness=3.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, c)) * sharpness
    labels = np.array([rng.choice(c, p=np.exp(row - logsumexp(row))) for row in logits / rng.uniform(0.5, 5)])
    return log_softmax(logits, -1).astype(np.float32), labels


def loss(log_probs, labels, temperature):
    scaled = log_softmax(np.asarray(log_probs, np.float64) / temperature, -1)
    return -scaled[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("seed", range(10))
def test_the_temperature_is_that_of_a_grid(seed):
    log_probs, labels = predictions(seed, c=2 + seed % 4)
    grid = np.exp(np.linspace(np.log(0.02), np.log(50), 4001))
    best = grid[np.argmin([loss(log_probs, labels, t) for t in grid])]
    found = fit_temperature(log_probs, labels)
    assert float(found.temperature) == pytest.approx(best, rel=3e-3)
    assert float(nll(jnp.exp(found(log_probs)), labels)) == pytest.approx(loss(log_probs, labels, best), abs=1e-5)


def test_half_the_confidence():
    # with two classes of odds r, T is log r / log(odds of being right)
    log_probs = np.log(np.array([[0.99, 0.01]] * 10))
    found = fit_temperature(log_probs, np.array([0] * 8 + [1] * 2))
    assert float(found.temperature) == pytest.approx(np.log(99) / np.log(4), rel=1e-4)


def test_no_order_changes():
    log_probs, labels = predictions(3)
    scaled = fit_temperature(log_probs, labels)(log_probs)
    np.testing.assert_array_equal(np.argsort(scaled, -1), np.argsort(log_probs, -1))
    assert float(accuracy(jnp.exp(scaled), labels)) == float(accuracy(jnp.exp(log_probs), labels))


def test_the_ends_of_the_range():
    log_probs = np.log(np.array([[0.7, 0.3], [0.2, 0.8]]))
    assert float(fit_temperature(log_probs, np.array([0, 1])).temperature) == pytest.approx(0.01, rel=1e-3)
    assert float(fit_temperature(log_probs, np.array([1, 0])).temperature) == pytest.approx(100, rel=1e-3)
    never = np.array([[0.0, -69.0, -np.inf], [np.log(0.5), np.log(0.5), -np.inf]])
    assert float(fit_temperature(never, np.array([2, 0])).temperature) == pytest.approx(100, rel=1e-3)
    sure = np.array([[0.0, -np.inf], *[[np.log(0.9), np.log(0.1)]] * 3])
    found = fit_temperature(sure, np.array([0, 0, 0, 1]))
    assert float(found.temperature) == pytest.approx(np.log(9) / np.log(2), rel=1e-3)
    assert np.isfinite(found(sure)).sum() == 7


def test_under_jit_and_vmap_and_half_precision():
    both = [predictions(seed) for seed in (0, 1)]
    log_probs, labels = (np.stack(parts) for parts in zip(*both, strict=True))
    apart = [float(fit_temperature(*one).temperature) for one in both]
    together = fit_temperature(log_probs, labels)
    np.testing.assert_allclose(together.temperature, apart, rtol=1e-5)
    mapped = jax.jit(jax.vmap(lambda l, y: fit_temperature(l, y).temperature))(log_probs, labels)
    np.testing.assert_allclose(mapped, apart, rtol=1e-5)
    assert together(log_probs).shape == log_probs.shape
    halves = fit_temperature(jax.nn.log_softmax(jnp.asarray(log_probs, jnp.bfloat16)), labels)
    np.testing.assert_allclose(halves.temperature, apart, rtol=0.05)


def test_misuse_is_named():
    log_probs, labels = predictions(0)
    with pytest.raises(ValueError, match="these look like probabilities"):
        fit_temperature(np.exp(log_probs), labels)
    with pytest.raises(LabelError, match=r"labels must be in 0\.\.3 for log_probs of 4 classes"):
        fit_temperature(log_probs, labels + 2)
    with pytest.raises(ValueError, match=r"log_probs must have shape \[..., N, C\]"):
        fit_temperature(log_probs[:, None], labels)
    log_probs[4, 1] = np.nan
    with pytest.raises(NonFiniteError, match="NaN"):
        fit_temperature(log_probs, labels)
    out = jax.jit(lambda y: fit_temperature(predictions(0)[0], y).temperature)(labels + 2)
    assert np.isnan(out)  # a trace cannot raise
