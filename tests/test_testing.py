"""The shipped checks let pass what is right, and name what is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import acquisition, selection
from bdal.testing import check_acquisition, check_selector, count_compilations

CALLS = []


def clipped(log_probs):
    return jnp.maximum(log_probs, -30.0)


def probs_first(log_probs):
    """Entropy of the mean, by way of p log p."""
    probs = jnp.exp(log_probs).mean(-2)
    return -(probs * jnp.log(probs)).sum(-1)


def retraced(log_probs):
    return jax.jit(lambda x: x.mean((-2, -1)))(clipped(log_probs))


def by_value(log_probs):
    return clipped(log_probs)[..., 0].mean(-1) + (0.0 if isinstance(log_probs, jax.core.Tracer) else 1.0)


def hides_nan(log_probs):
    return jnp.nan_to_num(clipped(log_probs).mean((-2, -1)))


def spreads_nan(log_probs):
    entropies = acquisition.predictive_entropy(log_probs)
    return entropies + 0 * entropies.sum()


def rough_gradient(log_probs):
    return jnp.sqrt(jnp.exp(log_probs).mean(-2).var(-1) * 0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda log_probs: clipped(log_probs).sum(), "one number a point: expected floats of shape"),
        (lambda log_probs: clipped(log_probs).mean((-2, -1)).astype(int), "one number a point: expected floats"),
        (probs_first, "finite at (saturated logits|probabilities of 0): expected finite values, got .*nan"),
        (lambda log_probs: clipped(log_probs)[..., 0, :].mean(-1), "the order of the members"),
        (lambda log_probs: clipped(log_probs).mean((-2, -1)) * jnp.arange(len(log_probs)), "the order of the points"),
        (lambda log_probs: clipped(log_probs).mean((-2, -1)) - clipped(log_probs).mean(), "a few points at a time"),
        (by_value, "jit at random predictions"),
        (rough_gradient, "gradients at saturated logits: expected finite values, got .*nan"),
        (hides_nan, "a NaN inside a trace: expected NaN for point 1 alone, got NaN for points \\[\\]"),
        (spreads_nan, "a NaN inside a trace: expected NaN for point 1 alone, got NaN for points \\[0, 1, 2"),
        (retraced, "called again: expected no compilation, got 1"),
    ],
)
def test_a_broken_acquisition_function_is_named(function, message):
    with pytest.raises(ValueError, match=message):
        check_acquisition(function)


def test_bounds_are_held():
    check_acquisition(acquisition.predictive_entropy, bounds=(0, np.log(4)))
    with pytest.raises(ValueError, match=r"bounds at .*: expected values in \[0, 1\], got .* to 1\.3"):
        check_acquisition(acquisition.predictive_entropy, bounds=(0, 1))


def top(key, scores, *, available, query_size):
    return selection.top_k(scores, available=available, query_size=query_size, key=key)


def unmasked(key, scores, *, available, query_size):
    return top(key, scores, available=jnp.ones_like(available), query_size=query_size)


def repeats(key, scores, *, available, query_size):
    query = top(key, scores, available=available, query_size=query_size)
    return query._replace(indices=query.indices.at[1].set(query.indices[0]))


def looks_aside(key, scores, *, available, query_size):
    """The mean of all rows decides which end of the available ones is taken."""
    sign = jnp.where(jnp.nan_to_num(scores, nan=100.0).mean() > 10, -1.0, 1.0)
    return top(key, sign * jnp.where(available, scores, 0.0), available=available, query_size=query_size)


def by_place(key, scores, *, available, query_size):
    return top(key, scores + jnp.arange(len(scores)), available=available, query_size=query_size)


def forgets(key, scores, *, available, query_size):
    CALLS.append(None)
    return top(key, scores if len(CALLS) % 2 else -scores, available=available, query_size=query_size)


def infinite(key, scores, *, available, query_size):
    query = top(key, scores, available=available, query_size=query_size)
    return query._replace(gains=jnp.full(query_size, jnp.inf))


def overruns(key, scores, *, available, query_size):
    query = top(key, scores, available=available, query_size=query_size)
    return query._replace(indices=jnp.maximum(query.indices, 0))


def anew(key, scores, *, available, query_size):
    return jax.jit(lambda: top(key, scores, available=available, query_size=query_size))()


@pytest.mark.parametrize(
    ("select", "message"),
    [
        (unmasked, "available rows: expected even rows"),
        (repeats, "no repeats: expected 4 different rows"),
        (looks_aside, "rows that are not available, set to"),
        (by_place, "the order of the rows"),
        (forgets, "the same key"),
        (infinite, "gains: expected finite values, got .*inf"),
        (overruns, "one available row, in a trace: expected row 5, then -1"),
        (anew, "called again: expected no compilation, got 1"),
    ],
)
def test_a_broken_selector_is_named(select, message):
    scores = jnp.asarray(np.random.default_rng(0).uniform(size=20), jnp.float32)
    with pytest.raises(ValueError, match=message):
        check_selector(select, scores)
    check_selector(top, scores)


def test_compilations_are_counted_in_the_block_only():
    triple, one, two = jax.jit(lambda x: 3 * x), jnp.float32(1), jnp.float32(2)  # which may compile something
    with count_compilations() as inside:
        triple(one)
        triple(two)
    triple(jnp.ones(7))
    assert len(inside) == 1
    assert inside[0] > 0
