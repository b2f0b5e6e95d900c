"""Calibration over equal-width bins of confidence: whether "90 % sure" is right nine times in ten.

The confidence is that of the top label, and in `classwise_ece` the probability of each class in its turn. Bin i of B
holds the confidences in `(i/B, (i+1)/B]`, closed on the right; 0 belongs to the first bin, 1 (and what
rounding puts above it) to the last. All of these depend on the number of bins and are biased upwards for few
points.

Axes: N points, C classes, B bins; any leading axes.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdal.calibration.predictions import check_predictions, is_correct


class Reliability(NamedTuple):
    """The points of a reliability diagram: mean `confidence`, `accuracy` and `count` of each bin, `[..., B]`.

    Bins without points have count 0, and 0 for the other two.
    """

    confidence: jax.Array
    accuracy: jax.Array
    count: jax.Array


def reliability(probs: jax.Array, labels: jax.Array, num_bins: int = 15) -> Reliability:
    """Mean confidence `max_c p_c`, accuracy and number of points in each of `num_bins` bins of equal width.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.
      num_bins: B, a Python int.

    Returns:
      `Reliability`, three arrays `[..., B]`.

    Raises:
      ValueError: fewer than one bin.
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    DeGroot & Fienberg (1983), "The comparison and evaluation of forecasters"; Niculescu-Mizil & Caruana (2005).

    >>> reliability(jnp.array([[0.3, 0.7], [0.4, 0.6]]), jnp.array([1, 0]), num_bins=2).accuracy.tolist()
    [0.0, 0.5]
    """
    return _reliability(*check_predictions(probs, labels), _check_bins(num_bins))


def _check_bins(num_bins) -> int:
    if isinstance(num_bins, bool) or not isinstance(num_bins, int | np.integer) or num_bins < 1:
        raise ValueError(f"num_bins must be a positive Python int, got {num_bins!r}")
    return int(num_bins)


def _bins(confidence, num_bins: int):
    """The bin of each confidence, 0 to B − 1."""
    edges = np.arange(num_bins + 1, dtype=np.float32) / np.float32(num_bins)  # the float nearest to each i/B
    return jnp.clip(jnp.searchsorted(jnp.asarray(edges), confidence, side="left") - 1, 0, num_bins - 1)


@partial(jax.jit, static_argnames="num_bins")
def _reliability(probs, labels, num_bins: int) -> Reliability:
    confidence = probs.max(-1)  # [..., N]
    bins = _bins(confidence, num_bins)

    def per_bin(values):  # sums, [..., B]
        return jnp.stack([jnp.sum(jnp.where(bins == i, values, 0.0), axis=-1) for i in range(num_bins)], axis=-1)

    count = per_bin(jnp.ones_like(confidence))
    present = jnp.maximum(count, 1.0)
    return Reliability(per_bin(confidence) / present, per_bin(is_correct(probs, labels)) / present, count)


def ece(probs: jax.Array, labels: jax.Array, *, num_bins: int = 15) -> jax.Array:
    """Expected calibration error of the top label, `Σ_b (n_b / N) |accuracy_b − confidence_b|`.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.
      num_bins: B, a Python int.

    Returns:
      `[...]`, between 0 and 1.

    Raises:
      ValueError: fewer than one bin.
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Naeini, Cooper & Hauskrecht (2015); Guo et al. (2017), "On calibration of modern neural networks", §2, equation
    3.

    >>> round(float(ece(jnp.array([[0.05, 0.95], [0.0, 1.0]]), jnp.array([1, 0]), num_bins=10)), 4)
    0.475
    """
    confidence, correct, count = reliability(probs, labels, num_bins)
    return jnp.sum(count * jnp.abs(correct - confidence), axis=-1) / np.shape(labels)[-1]


def mce(probs: jax.Array, labels: jax.Array, *, num_bins: int = 15) -> jax.Array:
    """Maximum calibration error of the top label, `max_b |accuracy_b − confidence_b|` over the bins with points.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.
      num_bins: B, a Python int.

    Returns:
      `[...]`, between 0 and 1.

    Raises:
      ValueError: fewer than one bin.
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Naeini, Cooper & Hauskrecht (2015), "Obtaining well calibrated probabilities using Bayesian binning", §2.

    >>> round(float(mce(jnp.array([[0.2, 0.8], [0.4, 0.6]]), jnp.array([1, 0]), num_bins=10)), 4)
    0.6
    """
    confidence, correct, _ = reliability(probs, labels, num_bins)
    return jnp.abs(correct - confidence).max(-1)  # empty bins hold 0 and 0


def classwise_ece(probs: jax.Array, labels: jax.Array, *, num_bins: int = 15) -> jax.Array:
    """Expected calibration error of every class against the rest, `(1/C) Σ_c Σ_b (n_bc / N) |frequency_bc − mean_bc|`.

    `n_bc` points have a probability of class c in bin b; `mean_bc` is the mean of these probabilities, and
    `frequency_bc` the share of these points whose label is c. A class that no label names has frequency 0, and adds
    the probability that it was given.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.
      num_bins: B, a Python int.

    Returns:
      `[...]`, between 0 and 1.

    Raises:
      ValueError: fewer than one bin.
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Kull et al. (2019), "Beyond temperature scaling", §2, equation 2; Nixon et al. (2019), "Measuring calibration in
    deep learning", there the static calibration error.

    >>> round(float(classwise_ece(jnp.array([[0.8, 0.2], [0.6, 0.4]]), jnp.array([0, 0]), num_bins=2)), 4)
    0.3
    """
    return _classwise_ece(*check_predictions(probs, labels), _check_bins(num_bins))


@partial(jax.jit, static_argnames="num_bins")
def _classwise_ece(probs, labels, num_bins: int):
    bins = _bins(probs, num_bins)  # [..., N, C]
    excess = jax.nn.one_hot(labels, probs.shape[-1], dtype=jnp.float32) - probs
    gaps = jnp.zeros_like(probs[..., 0, :])  # [..., C], Σ_b n_bc |frequency_bc − mean_bc|
    for i in range(num_bins):
        gaps += jnp.abs(jnp.sum(jnp.where(bins == i, excess, 0.0), axis=-2))
    in_range = ((labels >= 0) & (labels < probs.shape[-1])).all(-1)
    return jnp.where(in_range, gaps.mean(-1) / labels.shape[-1], jnp.nan)
