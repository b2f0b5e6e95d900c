"""What a network's outputs mean: classes, or a number with its variance.

Axis letters: P outputs, C classes.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bdal.acquisition import Gaussian
from bdal.errors import LabelError


class Likelihood(NamedTuple):
    """What outputs mean. Likelihoods of the same kind are equal, so that nothing is traced twice.

    Attributes:
      name: "categorical", "gaussian".
      loss: `(outputs [..., P], labels [...]) -> [...]`, the negative log-likelihood in nats.
      predict: `outputs [..., P] ->` log-probabilities `[..., C]`, or a `Gaussian` of `[...]`.
      check_labels: `(labels [R], number of outputs, name) -> None`, a LabelError for what is no label.
      dtype: of labels.
    """

    name: str
    loss: Callable[[jax.Array, jax.Array], jax.Array]
    predict: Callable[[jax.Array], Any]
    check_labels: Callable[[np.ndarray, int, str], None]
    dtype: Any


def categorical() -> Likelihood:
    """Logits of classes: `−log softmax(outputs)_y`, and as many classes as the network has outputs.

    >>> float(categorical().loss(jnp.zeros(4), jnp.int32(1)))  # log 4
    1.3862943649291992
    """
    return CATEGORICAL


def gaussian() -> Likelihood:
    """Two outputs, the mean and what softplus makes a variance of: `½ log 2πσ² + (y − μ)² / 2σ²`.

    Labels are as they come: bring them to a scale near 1. Nix & Weigend, 1994; as members of an ensemble,
    Lakshminarayanan et al., NeurIPS 2017, §2.2.1.

    >>> gaussian().predict(jnp.array([2.0, 0.0])).mean
    Array(2., dtype=float32)
    """
    return GAUSSIAN


SMALLEST_VARIANCE = 1e-6  # Lakshminarayanan et al., footnote 3


def _categorical_loss(outputs, labels):
    return optax.softmax_cross_entropy_with_integer_labels(outputs.astype(jnp.float32), labels)


def _log_softmax(outputs):
    return jax.nn.log_softmax(outputs.astype(jnp.float32))


def _check_classes(labels: np.ndarray, num_outputs: int, name: str) -> None:
    if not np.issubdtype(labels.dtype, np.integer):
        raise LabelError(f"{name}: expected integer classes, got {labels.dtype}")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_outputs))
    if wrong.size:
        raise LabelError(
            f"{name}: expected a class in [0, {num_outputs}), as the network has, got {labels[wrong[0]]} in row "
            f"{wrong[0]}"
        )


def _mean_and_variance(outputs) -> Gaussian:
    if outputs.shape[-1] != 2:
        raise ValueError(
            f"apply: expected outputs [2], mean and variance, for a gaussian likelihood, got shape {outputs.shape}"
        )
    outputs = outputs.astype(jnp.float32)
    return Gaussian(outputs[..., 0], jax.nn.softplus(outputs[..., 1]) + SMALLEST_VARIANCE)


def _gaussian_loss(outputs, labels):
    mean, variance = _mean_and_variance(outputs)
    return 0.5 * (jnp.log(2 * jnp.pi * variance) + jnp.square(labels - mean) / variance)


def _check_numbers(labels: np.ndarray, num_outputs: int, name: str) -> None:
    del num_outputs
    if not np.issubdtype(labels.dtype, np.floating):
        raise LabelError(f"{name}: expected floating-point numbers for a gaussian likelihood, got {labels.dtype}")
    wrong = np.flatnonzero(~np.isfinite(labels))
    if wrong.size:
        raise LabelError(f"{name}: expected finite numbers, got {labels[wrong[0]]} in row {wrong[0]}")


CATEGORICAL = Likelihood("categorical", _categorical_loss, _log_softmax, _check_classes, np.integer)
GAUSSIAN = Likelihood("gaussian", _gaussian_loss, _mean_and_variance, _check_numbers, np.floating)
