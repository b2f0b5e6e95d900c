"""Entropies and mutual information of categorical predictions, in log space and in nats.

Everything is float32, and finite with finite gradients at saturated logits and at probabilities of exactly zero;
NaN propagates. Nothing is checked here: `bdal.acquisition` holds the same quantities behind the checks.

Axes: K members, C classes; any leading axes.
"""

from functools import partial

import jax
import jax.numpy as jnp

LOG_ZERO = -1e30  # stands for −inf: exp of it is 0, and 0 · LOG_ZERO is 0 where 0 · −inf is NaN


def _clip(log_probs) -> jax.Array:
    """float32, −inf replaced by a finite number. The gradient there is 0, and NaN stays."""
    return jnp.maximum(jnp.asarray(log_probs, dtype=jnp.float32), LOG_ZERO)


@partial(jax.jit, static_argnames="axis")
def log_mean_exp(log_probs: jax.Array, axis: int = -2) -> jax.Array:
    """log of the mean of exp over an axis: `log p̄ = log (1/K) Σ_k exp l_k`. Exact where members agree.

    Args:
      log_probs: any shape; −inf is read as −1e30.
      axis: the axis to average over; the members' by default.

    >>> log_mean_exp(jnp.log(jnp.array([[0.2, 0.8], [0.6, 0.4]]))).round(4).tolist()  # log 0.4, log 0.6
    [-0.9162999987602234, -0.5108000040054321]
    """
    log_probs = _clip(log_probs)
    count = log_probs.shape[axis]
    top = jax.lax.stop_gradient(log_probs.max(axis, keepdims=True))
    total = jnp.exp(log_probs - top).sum(axis)  # between 1 and K, and K where members agree
    # Not log(total / K) alone: a compiler may multiply by 1/K instead, and K · (1/K) is not 1 for K = 41.
    log_mean = jnp.where(2 * total > count, jnp.log1p((total - count) / count), jnp.log(total / count))
    return jnp.squeeze(top, axis) + log_mean


def relative_to_mean(log_probs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean prediction `p̄ [..., C]` and the members relative to it, `p_k / p̄ − 1 [..., K, C]`.

    The second is between −1 and K − 1, exactly 0 where members agree, and 0 for a class that no member deems possible.
    """
    log_mean = log_mean_exp(log_probs, axis=-2)
    return jnp.exp(log_mean), jnp.expm1(_clip(log_probs) - log_mean[..., None, :])


@jax.jit
def entropy(log_probs: jax.Array) -> jax.Array:
    """Entropy over the last axis, `H = −Σ_c p_c log p_c`, in nats; never below 0.

    Args:
      log_probs: `[..., C]`.

    Returns:
      `[...]`, between 0 and log C.

    >>> round(float(entropy(jnp.log(jnp.full(4, 0.25)))), 4)  # log 4
    1.3863
    """
    log_probs = _clip(log_probs)
    return jnp.maximum(-jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1), 0.0)


def largest(values: jax.Array) -> jax.Array:
    """`max_c v_c`, `[..., C] -> [...]`, and its gradient goes to the first of the largest.

    The gradient of `jnp.max` divides by how many values equal the largest. Where a compiler computes them anew and
    rounds otherwise, none does, and it is 0 / 0.

    >>> jax.grad(largest)(jnp.array([1.0, 3.0, 3.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    return at_largest(values, values)


def at_largest(by: jax.Array, values: jax.Array) -> jax.Array:
    """The entry of `values [..., C]` where `by` is largest, the first of these, `[...]`; the two broadcast."""
    return jnp.sum(values, axis=-1, where=jax.nn.one_hot(by.argmax(-1), by.shape[-1], dtype=bool))


def kl_term(u: jax.Array) -> jax.Array:
    """`φ(u) = (1 + u) log(1 + u) − u`, of which `KL(p ‖ q) = Σ q φ(p/q − 1)`; rounding below 0 is clipped."""
    u = jnp.maximum(u, -1 + 2.0**-24)  # φ(−1) = 1, by way of 0 · log 0
    return jnp.maximum((1 + u) * jnp.log1p(u) - u, 0.0)


@jax.jit
def mutual_information(log_probs: jax.Array) -> jax.Array:
    """Information between label and member, `I(y; k) = mean_k KL(p_k ‖ p̄)`, in nats; never below 0.

    With `u_k = p_k / p̄ − 1`, each KL is summed as `Σ_c p̄ ((1 + u) log(1 + u) − u)`. The added `−p̄ u` cancels over the
    members, and every term is now of second order in u: nothing is lost to cancellation where members nearly agree,
    and where they agree (K = 1 among them) the result is exactly 0.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`, between 0 and min(log K, log C).

    >>> round(float(mutual_information(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])))), 4)  # log 2: sure, and opposed
    0.6931
    """
    mean, u = relative_to_mean(log_probs)
    return jnp.sum(mean * kl_term(u).mean(-2), axis=-1)


@jax.jit
def pairwise_mutual_information(log_probs: jax.Array, other: jax.Array) -> jax.Array:
    """Information between the labels of two points, `I(y; y') = KL(J ‖ p̄ ⊗ p̄')` with `J = (1/K) Σ_k p_k ⊗ p'_k`.

    The labels of two points depend on each other only through the member, so this is what labelling the one tells
    about the other. With u as in `mutual_information`, `J / (p̄ ⊗ p̄') − 1 = (1/K) Σ_k u_k ⊗ u'_k`.

    Args:
      log_probs: `[..., K, C]`.
      other: `[K, C]`, one point, of the same members.

    Returns:
      `[...]` in nats, never below 0, and up to rounding at most the `mutual_information` of either point.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> round(float(pairwise_mutual_information(sure, sure)), 4)  # log 2: the one label determines the other
    0.6931
    """
    return shared_information(relative_to_mean(log_probs), relative_to_mean(other))


def shared_information(point: tuple[jax.Array, jax.Array], other: tuple[jax.Array, jax.Array]) -> jax.Array:
    """`pairwise_mutual_information` of what `relative_to_mean` gave, for many points against the same other."""
    (mean, u), (other_mean, other_u) = point, other  # [..., C], [..., K, C]; [C], [K, C]
    joint_u = jnp.einsum("...kc,kd->...cd", u, other_u, precision="highest") / u.shape[-2]
    given = jnp.matmul(kl_term(joint_u), other_mean, precision="highest")  # [..., C]
    return jnp.sum(mean * given, axis=-1)
