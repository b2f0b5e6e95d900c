"""How uncertain the committee's mean prediction is: scores of `p̄ = mean_k p_k` alone.

They do not tell ignorance from noise in the labels; `disagreement` does. Higher means "label me" in all of them.

Axes: K members, C classes; any leading axes.
"""

import jax
import jax.numpy as jnp

from bdal.errors import check_log_probs
from bdal.information import entropy, largest, log_mean_exp


def predictive_entropy(log_probs: jax.Array) -> jax.Array:
    """Entropy of the mean prediction, `H(p̄)`.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]` in nats, between 0 and log C.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Shannon (1948), "A mathematical theory of communication"; to query by: Settles (2009), "Active learning literature
    survey", §3.1; also known as consensus entropy.

    >>> round(float(predictive_entropy(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])))), 4)
    0.6931
    """
    log_probs = check_log_probs(log_probs)
    return entropy(log_mean_exp(log_probs, axis=-2))


def least_confidence(log_probs: jax.Array) -> jax.Array:
    """How much probability the favourite class lacks, `1 − max_c p̄_c`; the variation ratio of the mean prediction.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`, between 0 and 1 − 1/C.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Lewis & Gale (1994), "A sequential algorithm for training text classifiers", §3, for two classes; Culotta & McCallum
    (2005), "Reducing labeling effort for structured prediction tasks", for more.

    >>> round(float(least_confidence(jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]])))), 4)
    0.3
    """
    log_probs = check_log_probs(log_probs)
    log_mean = log_mean_exp(log_probs, axis=-2)  # [..., C]
    return jnp.maximum(-jnp.expm1(largest(log_mean)), 0.0)


def margin(log_probs: jax.Array) -> jax.Array:
    """How close the two favourite classes are, `−(p̄_(1) − p̄_(2))`: negated, so that higher is more uncertain.

    Args:
      log_probs: `[..., K, C]`, with two classes or more.

    Returns:
      `[...]`, between −1 and 0.

    Raises:
      ValueError: one class only.
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Scheffer, Decomain & Wrobel (2001), "Active hidden Markov models for information extraction", §4.

    >>> round(float(margin(jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]])))), 4)
    -0.3
    """
    log_probs = check_log_probs(log_probs)
    if log_probs.shape[-1] < 2:
        raise ValueError(f"margin needs two classes or more, got log_probs of shape {log_probs.shape}")
    return _minus_gap(jnp.exp(log_mean_exp(log_probs, axis=-2)))


@jax.jit
def _minus_gap(probs: jax.Array) -> jax.Array:
    """The second largest of `probs [..., C]` less the largest."""
    is_first = jax.nn.one_hot(probs.argmax(-1), probs.shape[-1], dtype=bool)
    second = largest(jnp.where(is_first, -jnp.inf, probs))
    return second - jnp.sum(probs, axis=-1, where=is_first)
