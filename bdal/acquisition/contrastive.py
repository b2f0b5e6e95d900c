"""Points that look like labelled ones and are predicted otherwise.

Axes: N pool points, L labelled points, K members, C classes, D features.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import as_array, axis_order, check_count, check_finite, check_floating, check_log_probs, is_concrete
from bdal.information import LOG_ZERO, log_mean_exp

BLOCK = 2**20  # numbers held at a time, of some points with all labelled ones


def contrastive(
    log_probs: jax.Array,
    features: jax.Array,
    labelled_log_probs: jax.Array,
    labelled_features: jax.Array,
    *,
    num_neighbours: int = 10,
    labelled: jax.Array | None = None,
) -> jax.Array:
    """Contrastive active learning: `mean_{i ∈ kNN(x)} KL(p̄_i ‖ p̄_x)` over the nearest labelled points.

    Neighbours by Euclidean distance of the features, the first among those that tie; all labelled points where there
    are fewer than `num_neighbours`. A class that x holds impossible and a neighbour does not makes it about 1e30 nats.

    Differs from the paper: features as they are; the authors' code scales them to length 1 before it looks for
    neighbours. Scale them yourself, and the neighbours are the same.

    Args:
      log_probs: `[N, K, C]`, of which the mean over the members counts, or that mean, `[N, C]`.
      features: `[N, D]`.
      labelled_log_probs: `[L, K, C]` or `[L, C]`, the model's predictions at the labelled points.
      labelled_features: `[L, D]`.
      num_neighbours: a Python int.
      labelled: `[L]` bool, which of the labelled rows count, for a buffer that is not full. What the others hold does
        not matter.

    Returns:
      `[N]` in nats, never below 0.

    Raises:
      ValueError, TypeError: shapes that do not fit, `num_neighbours` below 1, no labelled point.
      ValueError, NonFiniteError: features that are not finite; and see `bdal.errors.check_log_probs`.

    Margatina et al. (2021), "Active learning by acquiring contrastive examples", EMNLP, §2;
    mourga/contrastive-active-learning, `acquisition/cal.py`.

    >>> features = jnp.array([[0.0], [5.0]])
    >>> log_probs, labelled_log_probs = jnp.log(jnp.array([[[0.5, 0.5]], [[0.5, 0.5]]])), jnp.log(jnp.eye(2))[:, None]
    >>> contrastive(log_probs, features, labelled_log_probs, features, num_neighbours=1).round(4).tolist()
    [0.6930999755859375, 0.6930999755859375]
    """
    num_neighbours = check_count(num_neighbours, "num_neighbours")
    labelled_log_probs = as_array(labelled_log_probs, "labelled_log_probs")
    labelled_features = as_array(labelled_features, "labelled_features")
    num_labelled = labelled_log_probs.shape[0] if labelled_log_probs.ndim else 0
    labelled = jnp.ones(num_labelled, bool) if labelled is None else as_array(labelled, "labelled")
    if labelled.shape != (num_labelled,) or labelled.dtype != bool:
        raise ValueError(
            f"labelled must be a boolean mask with a row for each of labelled_log_probs {labelled_log_probs.shape}, "
            f"got dtype {labelled.dtype} and shape {labelled.shape}"
        )
    if num_labelled == 0 or (is_concrete(labelled) and not np.asarray(labelled).any()):
        raise ValueError("contrastive needs one labelled point or more; query the first ones by another rule")
    labelled_log_probs = _where_labelled(labelled_log_probs, labelled, -np.log(max(1, labelled_log_probs.shape[-1])))
    labelled_features = _where_labelled(labelled_features, labelled, 0.0)

    log_mean = _mean_prediction(log_probs, "log_probs", "N")
    labelled_log_mean = _mean_prediction(labelled_log_probs, "labelled_log_probs", "L")
    hint = axis_order(np.shape(log_probs), (np.shape(features) or (0,))[0], "log_probs")
    features = _check_features(features, "features", "N", log_mean.shape[0], hint)
    labelled_features = _check_features(labelled_features, "labelled_features", "L", num_labelled)
    if labelled_log_mean.shape[1] != log_mean.shape[1] or labelled_features.shape[1] != features.shape[1]:
        raise ValueError(
            f"labelled_log_probs and labelled_features must have the C = {log_mean.shape[1]} classes of log_probs and "
            f"the D = {features.shape[1]} columns of features, got {labelled_log_mean.shape[1]} and "
            f"{labelled_features.shape[1]}"
        )
    num_neighbours = min(num_neighbours, num_labelled)
    return _contrastive(log_mean, features, labelled_log_mean, labelled_features, labelled, num_neighbours)


def _where_labelled(values: jax.Array, labelled: jax.Array, otherwise: float) -> jax.Array:
    """`values [L, ...]` with the rows that nobody looks at replaced; what does not fit is left to the checks."""
    if values.ndim == 0 or values.shape[0] != labelled.shape[0] or not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    mask = labelled.reshape(-1, *[1] * (values.ndim - 1))
    return jnp.where(mask, values, jnp.asarray(otherwise, values.dtype))


def _mean_prediction(log_probs, name: str, axis: str) -> jax.Array:
    """The mean over the members, `[N, C]`."""
    if np.ndim(log_probs) not in (2, 3):
        raise ValueError(f"{name} must have shape [{axis}, K, C] or [{axis}, C], got {np.shape(log_probs)}")
    log_probs = check_log_probs(log_probs, name)
    return log_mean_exp(log_probs, axis=-2) if log_probs.ndim == 3 else jnp.maximum(log_probs, LOG_ZERO)


def _check_features(features, name: str, axis: str, num_rows: int, hint: str = "") -> jax.Array:
    features = check_floating(features, name)
    if features.ndim != 2 or features.shape[0] != num_rows:
        raise ValueError(f"{name} must have shape [{axis}, D] with {axis} = {num_rows}, got {features.shape}{hint}")
    check_finite(features, name)
    return features


@partial(jax.jit, static_argnames="num_neighbours")
def _contrastive(log_mean, features, labelled_log_mean, labelled_features, labelled, num_neighbours: int) -> jax.Array:
    # Products round, which centring keeps small; half the squared distance, less what all of a point's share.
    centre = jnp.sum(labelled_features, axis=0) / jnp.maximum(labelled.sum(), 1)
    centred = jnp.where(labelled[:, None], labelled_features - centre[None], 0.0)  # [L, D]
    half_squares = 0.5 * jnp.square(centred).sum(1)

    def of_point(point):
        log_mean, features = point  # [C], [D]
        distances = half_squares - jnp.matmul(centred, features - centre, precision="highest")  # [L]
        closeness, nearest = jax.lax.top_k(jnp.where(labelled, -distances, -jnp.inf), num_neighbours)
        counts = closeness > -jnp.inf
        divergences = _kl(labelled_log_mean[nearest], log_mean[None])
        return jnp.sum(divergences, where=counts) / counts.sum()

    numbers = max(labelled_features.shape[0], num_neighbours * log_mean.shape[1], features.shape[1])
    return jax.lax.map(of_point, (log_mean, features), batch_size=max(1, BLOCK // numbers))


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """`KL(p ‖ q) = Σ p (log p − log q) + q − p`: every term is above 0, and of second order where p and q are close."""
    p, gap = jnp.exp(log_p), log_p - log_q
    near = jnp.abs(gap) < 1
    close = jnp.where(near, gap, 0.0)
    terms = jnp.where(near, p * (close + jnp.expm1(-close)), p * gap + (jnp.exp(log_q) - p))
    return jnp.sum(jnp.maximum(terms, 0.0), axis=-1)
