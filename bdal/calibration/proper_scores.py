"""Proper scores of predicted probabilities, and accuracy.

Axes: N points, C classes; any leading axes.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bdal.calibration.predictions import check_log_predictions, check_predictions, is_correct


def nll(probs: jax.Array | None = None, labels: Any = None, *, log_probs: jax.Array | None = None) -> jax.Array:
    """Mean negative log-likelihood, `−(1/N) Σ_n log p_n[y_n]`.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.
      log_probs: `[..., N, C]` in the place of `probs`: a probability too small for float32 has a logarithm still.

    Returns:
      `[...]` in nats; infinite where a label had probability 0.

    Raises:
      TypeError: both `probs` and `log_probs`, or neither, or no labels.
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Good (1952), "Rational decisions".

    >>> round(float(nll(jnp.array([[0.5, 0.5], [0.25, 0.75]]), jnp.array([0, 0]))), 4)
    1.0397
    >>> logits = jnp.array([[0.0, 200.0]])  # the softmax of it is [0, 1]
    >>> float(nll(jax.nn.softmax(logits), jnp.array([0]))), float(nll(labels=[0], log_probs=jax.nn.log_softmax(logits)))
    (inf, 200.0)
    """
    if labels is None or (probs is None) == (log_probs is None):
        given = {"probs": probs, "labels": labels, "log_probs": log_probs}
        names = ", ".join(name for name, value in given.items() if value is not None)
        raise TypeError(f"expected nll(probs, labels) or nll(labels=..., log_probs=...), got {names or 'nothing'}")
    if log_probs is not None:
        return _nll_of_logs(*check_log_predictions(log_probs, labels))
    return _nll(*check_predictions(probs, labels))


@jax.jit
def _nll_of_logs(log_probs, labels):
    labels = jnp.where(labels < 0, log_probs.shape[-1], labels)  # a negative index would count from the end
    picked = jnp.take_along_axis(log_probs, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return jnp.where(jnp.isnan(log_probs).any(-1), jnp.nan, -picked).mean(-1)


@jax.jit
def _nll(probs, labels):
    labels = jnp.where(labels < 0, probs.shape[-1], labels)  # a negative index would count from the end
    picked = jnp.take_along_axis(probs, labels[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return jnp.where(jnp.isnan(probs).any(-1), jnp.nan, -jnp.log(picked)).mean(-1)


def brier(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Brier score summed over the classes, `(1/N) Σ_n Σ_c (p_nc − 1[y_n = c])²`.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.

    Returns:
      `[...]`, between 0 and 2.

    Raises:
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Brier (1950), "Verification of forecasts expressed in terms of probability".

    >>> float(brier(jnp.array([[0.5, 0.5], [0.0, 1.0]]), jnp.array([0, 0])))
    1.25
    """
    return _brier(*check_predictions(probs, labels))


@jax.jit
def _brier(probs, labels):
    in_range = (labels >= 0) & (labels < probs.shape[-1])
    squares = jnp.square(probs - jax.nn.one_hot(labels, probs.shape[-1], dtype=jnp.float32)).sum(-1)
    return jnp.where(in_range, squares, jnp.nan).mean(-1)


def accuracy(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """The share of points whose favourite class is the label, `(1/N) #{n : argmax_c p_nc = y_n}`.

    The lowest class wins a tie.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.

    Returns:
      `[...]`.

    Raises:
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    >>> float(accuracy(jnp.array([[0.4, 0.6], [0.25, 0.75]]), jnp.array([0, 1])))
    0.5
    """
    return is_correct(*check_predictions(probs, labels)).mean(-1)


def class_accuracy(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Accuracy among the points of each class, `#{n : y_n = c, argmax_c' p_nc' = c} / #{n : y_n = c}`: its recall.

    A class that no label names has no accuracy: NaN, so that nobody takes it for 0. The mean over the classes that
    are there, `jnp.nanmean(..., -1)`, is the balanced accuracy.

    Args:
      probs: `[..., N, C]`; of a committee, the members' mean.
      labels: `[..., N]` integers.

    Returns:
      `[..., C]`, between 0 and 1, and NaN for a class without a point.

    Raises:
      ValueError, TypeError, NonFiniteError, LabelError: see `bdal.calibration.predictions.check_predictions`.

    Brodersen et al. (2010), "The balanced accuracy and its posterior distribution".

    >>> class_accuracy(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]]), jnp.array([0, 1, 1])).tolist()
    [1.0, 0.5, nan]
    """
    return _class_accuracy(*check_predictions(probs, labels))


@jax.jit
def _class_accuracy(probs, labels):
    correct = is_correct(probs, labels)  # NaN for a label out of range, which then shows in every class
    of_class = jax.nn.one_hot(labels, probs.shape[-1], dtype=jnp.float32)
    accuracies = (jnp.nan_to_num(correct)[..., None] * of_class).sum(-2) / of_class.sum(-2)  # 0 / 0 is NaN
    return jnp.where(jnp.isnan(correct).any(-1)[..., None], jnp.nan, accuracies)
