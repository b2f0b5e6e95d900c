"""Features for the selectors that take them: what a committee's predictions and last-layer gradients have in common.

The dot product of two rows is the kernel; `k_center`, `lcmd`, `max_det`, `bait_one_vector` and others work on it.

Axes: R rows, K members, C classes, D features, S sketch size.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import (
    check_count,
    check_finite,
    check_floating,
    check_key,
    check_log_probs,
    is_concrete,
    sum_tolerance,
)
from bdal.information import relative_to_mean

BLOCK = 2**24  # numbers held at a time beside the result


def committee_features(log_probs: jax.Array) -> jax.Array:
    """How each member departs from the mean prediction, `φ(x) = (p_k(x) − p̄(x)) / √K`, for all k and c in a row.

    The dot product of two points is the covariance of their predictions over the members, summed over the classes;
    of a point with itself, `predictive_variance`. Exactly 0 where the members agree.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[..., K·C]`.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Kirsch (2023), "Black-box batch active learning for regression", TMLR, with class probabilities in the place
    of the predicted means.

    >>> committee_features(jnp.log(jnp.array([[1.0, 0.0], [0.5, 0.5]]))).round(4).tolist()
    [0.17679999768733978, -0.17679999768733978, -0.17679999768733978, 0.17679999768733978]
    """
    return _committee_features(check_log_probs(log_probs))


@jax.jit
def _committee_features(log_probs: jax.Array) -> jax.Array:
    mean, u = relative_to_mean(log_probs)
    deviation = mean[..., None, :] * u / log_probs.shape[-2] ** 0.5  # [..., K, C]
    return deviation.reshape(*log_probs.shape[:-2], -1)


def gradient_features(probs: jax.Array, embeddings: jax.Array, *, sketch_dim: int, key: jax.Array) -> jax.Array:
    """A random projection of the last layer's gradient, `g = (p − e_ŷ) ⊗ h` with ŷ the likeliest class.

    `s_i = (a_i · (p − e_ŷ)) (b_i · h) / √S` with normal a_i, b_i: `E ⟨s, s'⟩ = ⟨g, g'⟩`, and the C·D numbers of a
    gradient are never formed. The relative error of a dot product is of order √(8/S). Use one key for all rows that
    are to be compared.

    Args:
      probs: `[R, C]`, of the network or the committee's mean.
      embeddings: `[R, D]`, the last layer's inputs. For the gradient of its bias too, append a column of ones.
      sketch_dim: S, a Python int.
      key: a PRNG key, consumed.

    Returns:
      `[R, S]`.

    Raises:
      ValueError: shapes that do not fit; rows of `probs` that are not probabilities (eager calls).
      NonFiniteError: NaN or infinities (eager calls).

    The gradient: Ash et al. (2020), "Deep batch active learning by diverse, uncertain gradient lower bounds", §3. The
    sketch of a product of kernels: Holzmüller et al. (2023), "A framework and benchmark for deep batch active
    learning for regression", JMLR 24, §4.2.

    >>> probs, embeddings = jnp.array([[0.5, 0.5], [1.0, 0.0]]), jnp.ones((2, 3))
    >>> features = gradient_features(probs, embeddings, sketch_dim=4, key=jax.random.key(0))
    >>> features.shape, bool((features[1] == 0).all())  # sure: no gradient
    ((2, 4), True)
    """
    check_key(key)
    sketch_dim = check_count(sketch_dim, "sketch_dim")
    probs = check_probs(probs)
    embeddings = check_floating(embeddings, "embeddings")
    if embeddings.ndim != 2 or embeddings.shape[0] != probs.shape[0]:
        raise ValueError(
            f"embeddings must have shape [R, D] with R = {probs.shape[0]} as in probs, got {embeddings.shape}"
        )
    check_finite(embeddings, "embeddings")
    return _gradient_features(probs, embeddings, key, sketch_dim)


@partial(jax.jit, static_argnames="sketch_dim")
def _gradient_features(probs, embeddings, key, sketch_dim: int) -> jax.Array:
    class_key, feature_key = jax.random.split(key)
    a = jax.random.normal(class_key, (sketch_dim, probs.shape[1]), jnp.float32)  # [S, C]
    b = jax.random.normal(feature_key, (sketch_dim, embeddings.shape[1]), jnp.float32)  # [S, D]

    def sketch(row):
        residual, embedding = row
        projected = jnp.matmul(a, residual, precision="highest") * jnp.matmul(b, embedding, precision="highest")
        return projected / sketch_dim**0.5

    rows = (label_residuals(probs), embeddings)
    block = max(1, BLOCK // sketch_dim)
    return jax.vmap(sketch)(rows) if probs.shape[0] <= block else jax.lax.map(sketch, rows, batch_size=block)


def label_residuals(probs: jax.Array) -> jax.Array:
    """`p − e_ŷ [R, C]` with ŷ the likeliest class (of equals the first): the loss's gradient by the logits.

    `p_ŷ − 1` is taken as minus the sum of the others, which keeps its digits where p_ŷ rounds to 1.

    >>> label_residuals(jnp.array([[0.25, 0.75]])).tolist()
    [[0.25, -0.25]]
    """
    likeliest = jax.nn.one_hot(probs.argmax(1), probs.shape[1], dtype=bool)
    others = jnp.where(likeliest, 0.0, probs)
    residuals = jnp.where(likeliest, -others.sum(1, keepdims=True), others)
    return jnp.where(jnp.isnan(probs).any(1, keepdims=True), jnp.nan, residuals)


def check_probs(probs, available=None) -> jax.Array:
    """Probabilities `[R, C]` as float32, checked (at eager calls) in the `available` rows, or in all.

    >>> check_probs(jnp.array([[0.5, 0.5], [2.0, 1.0]]))
    Traceback (most recent call last):
    ...
    ValueError: probs must be probabilities: not negative and a row sums to 1, but 1 of 2 rows are not (the first, \
row 1, sums to 3); if these are logits: pass jax.nn.softmax(...)
    """
    dtype = getattr(probs, "dtype", jnp.float32)
    probs = check_floating(probs, "probs")
    num_rows = None if available is None else np.shape(available)[0]
    if probs.ndim != 2 or probs.shape[1] == 0 or num_rows not in (None, probs.shape[0]):
        raise ValueError(
            f"probs must have shape [R, C]{'' if available is None else f' with R = {num_rows} as in available'}, "
            f"got {probs.shape}; of a committee's [R, K, C] pass the members' mean"
        )
    if is_concrete(probs, available):
        check_finite(probs, "probs", available)
        rows = np.ones(len(probs), bool) if available is None else np.asarray(available)
        values = np.asarray(probs)
        sums = values.sum(1, dtype=np.float64)
        wrong = rows & ((np.abs(sums - 1) > sum_tolerance(dtype, values.shape[1])) | (values < 0).any(1))
        if wrong.any():
            first = int(wrong.argmax())
            is_log = (values[rows] <= 0).all()
            hint = "log-probabilities: pass jnp.exp(...)" if is_log else "logits: pass jax.nn.softmax(...)"
            raise ValueError(
                f"probs must be probabilities: not negative and a row sums to 1, but {wrong.sum()} of {rows.sum()} "
                f"rows are not (the first, row {first}, sums to {sums[first]:.4g}); if these are {hint}"
            )
    return probs
