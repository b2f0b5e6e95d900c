"""Scaling: a map of predictions that makes them calibrated, fitted to labels that the model has not seen.

Axes: N points, C classes; any leading axes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from bdal.calibration.predictions import check_labels_of
from bdal.errors import check_log_probs

TEMPERATURES = 1e-2, 1e2  # the range of `fit_temperature`
STEPS = 40  # of bisection: the range is cut by 2⁴⁰


class Scaling(NamedTuple):
    """`log softmax(log p / T)`: call it with log-probabilities `[..., N, C]` of the fitted model.

    Attributes:
      temperature: T, `[...]`, one for each leading axis; above 1 it makes predictions less sure.
    """

    temperature: jax.Array

    def __call__(self, log_probs: jax.Array) -> jax.Array:
        """Scaled log-probabilities `[..., N, C]` from log-probabilities `[..., N, C]`, in nats."""
        return _scale(check_log_probs(log_probs), jnp.asarray(self.temperature, jnp.float32))


@jax.jit
def _scale(log_probs, temperature):
    return jax.nn.log_softmax(log_probs / temperature[..., None, None])


def fit_temperature(log_probs: jax.Array, labels: jax.Array) -> Scaling:
    """The temperature of least negative log-likelihood, `argmin_T −(1/N) Σ_n log softmax(log p_n / T)[y_n]`.

    The loss is convex in 1/T, and its slope has one zero, found by bisection between T = 0.01 and T = 100. Where it has
    none there, T is the end of the range: 0.01 where every label is the likeliest class; 100 where labels are as good
    as random, or where one had probability 0. Scaling does not change the order of the classes of a point.

    Fit it to labels that no member was trained on. A committee is scaled after averaging: pass the logarithm of the
    members' mean probability.

    Args:
      log_probs: `[..., N, C]` in nats.
      labels: `[..., N]` integers.

    Returns:
      A `Scaling`.

    Raises:
      ValueError, TypeError, NonFiniteError: shapes that do not fit, or rows that are no log-probabilities (see
        `bdal.errors.check_log_probs`). LabelError: labels that are no classes.

    Guo et al. (2017), "On calibration of modern neural networks", ICML, §4.2; on the mean of a committee: Rahaman &
    Thiery (2021), "Uncertainty quantification and deep ensembles", NeurIPS.

    >>> log_probs = jnp.log(jnp.array([[0.9, 0.1]] * 4))
    >>> scaling = fit_temperature(log_probs, jnp.array([0, 0, 0, 1]))  # 90 % sure, right three times in four
    >>> round(float(scaling.temperature), 3), round(float(jnp.exp(scaling(log_probs))[0, 0]), 3)
    (2.0, 0.75)
    """
    log_probs = check_log_probs(log_probs)
    return Scaling(_temperature(log_probs, check_labels_of(log_probs, labels, "log_probs")))


@jax.jit
def _temperature(log_probs, labels) -> jax.Array:
    own = jnp.take_along_axis(log_probs, jnp.clip(labels, 0)[..., None], axis=-1)[..., 0]  # [..., N]
    own = jnp.where((labels >= 0) & (labels < log_probs.shape[-1]), own, jnp.nan)
    finite = jnp.where(jnp.isneginf(log_probs), 0.0, log_probs)  # their weight is 0

    def slope(inverse):  # of the negative log-likelihood, by 1/T: it rises with it
        weights = jax.nn.softmax(inverse[..., None, None] * log_probs)
        return jnp.mean((weights * finite).sum(-1) - own, axis=-1)

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        rises = slope(jnp.exp(-middle)) <= 0  # the best 1/T is larger, the best T smaller
        return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

    shape = log_probs.shape[:-2]
    low, high = (jnp.full(shape, jnp.log(end), jnp.float32) for end in TEMPERATURES)
    low, high = jax.lax.fori_loop(0, STEPS, halve, (low, high))
    return jnp.where(jnp.isnan(slope(jnp.ones(shape))), jnp.nan, jnp.exp(0.5 * (low + high)))
