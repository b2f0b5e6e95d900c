"""How a prediction changed while the model was trained: the members of the committee are snapshots of one training.

A fit that keeps its parameters at K times during training and returns them as a committee, oldest first, is all that
these need. `bald` and its like work on such a committee too.

Axes: K snapshots in the order of training, C classes; any leading axes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.acquisition.disagreement import variation_ratio
from bdal.errors import LabelError, as_array, axis_order, check_log_probs, is_concrete


def label_dispersion(log_probs: jax.Array) -> jax.Array:
    """How often the predicted label was not the usual one, `1 − max_c #{k : argmax_c p_k = c} / K`.

    The `variation_ratio` of the snapshots. It takes at most K values: break ties at random.

    Args:
      log_probs: `[..., K, C]`, a prediction for each snapshot.

    Returns:
      `[...]`, between 0 and 1 − 1/min(K, C).

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Bengar et al. (2021), "When deep learners change their mind: learning dynamics for active learning", CAIP, §3.

    >>> float(label_dispersion(jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]]))))
    0.25
    """
    return variation_ratio(log_probs)


def forgetting_events(log_probs: jax.Array, labels: jax.Array | None = None) -> jax.Array:
    """How often a point that was predicted right was predicted wrong at the next snapshot.

    Without labels, as in a pool, how often the predicted label changed from one snapshot to the next. The first
    counts from right to wrong only, so the second is at least as large. A point that was never right was never
    forgotten: it has 0 events, where the paper puts it with the most forgotten.

    Differs from the paper: the paper counts changes from right to wrong; a pool has no labels, so any change
    counts. It studies training sets, and queries nothing.

    Args:
      log_probs: `[..., K, C]`, snapshots in the order of training.
      labels: `[...]` integers between 0 and C − 1, or None.

    Returns:
      `[...]`, float32 whole numbers between 0 and K − 1; with labels at most K / 2.

    Raises:
      LabelError: labels that are not integers, out of range, or of another shape.
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Toneva et al. (2019), "An empirical study of example forgetting during deep neural network learning", ICLR, §3.

    >>> log_probs = jnp.log(jnp.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.8, 0.2]]))
    >>> float(forgetting_events(log_probs)), float(forgetting_events(log_probs, jnp.array(0)))
    (2.0, 1.0)
    """
    log_probs = check_log_probs(log_probs)
    if labels is not None:
        labels = _check_labels(labels, log_probs.shape)
    return _forgetting_events(log_probs, labels)


def _check_labels(labels, shape: tuple[int, ...]) -> jax.Array:
    given, labels = labels, as_array(labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.shape != shape[:-2]:
        raise LabelError(
            f"labels must be integers of shape {shape[:-2]}, one for each point of log_probs {shape}, "
            f"got dtype {labels.dtype} and shape {labels.shape}"
            f"{axis_order(shape, labels.size, 'log_probs')}"
        )
    if is_concrete(labels) and labels.size:
        values = np.asarray(given)  # before the cast to 32 bits
        if values.min() < 0 or values.max() >= shape[-1]:
            raise LabelError(f"labels must be between 0 and {shape[-1] - 1}, got {values.min()} to {values.max()}")
    return labels


@jax.jit
def _forgetting_events(log_probs: jax.Array, labels: jax.Array | None) -> jax.Array:
    predicted = log_probs.argmax(-1)  # [..., K]
    if labels is None:
        events = predicted[..., 1:] != predicted[..., :-1]
    else:
        right = predicted == labels[..., None]
        events = right[..., :-1] & ~right[..., 1:]
    count = events.sum(-1, dtype=jnp.float32)
    return jnp.where(jnp.isnan(log_probs).any((-2, -1)), jnp.nan, count)  # argmax would hide it
