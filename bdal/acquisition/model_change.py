"""How much a label would move the model: expected gradient length, and its square.

The square has a closed form in the last layer, and comes apart into a part that is mostly noise in the labels (the
Gini index of the mean prediction) and one that is disagreement (the variance over the members).

Axes: K members, C classes, D features; any leading axes.
"""

import operator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import axis_order, check_finite, check_floating, check_log_probs, is_concrete
from bdal.information import log_mean_exp, relative_to_mean


def last_layer_gradient_norms(log_probs: jax.Array, features: jax.Array) -> jax.Array:
    """Norm of the last layer's gradient for each label the point could have, in closed form.

    For logits `W h + b` and the negative log-likelihood of label c, the gradient of (W, b) is `(p − e_c) ⊗ [h, 1]`,
    so `‖g_kc‖ = ‖p_k − e_c‖ · sqrt(‖h_k‖² + 1)`. Exact, bias included, and without a backward pass.

    Args:
      log_probs: `[..., K, C]`.
      features: `[..., K, D]`, the input of the last layer for each member; `[..., 1, D]` where it is the same for all.

    Returns:
      `[..., K, C]`.

    Raises:
      ValueError, NonFiniteError: shapes that do not fit, features that are not finite; and see
        `bdal.errors.check_log_probs`.

    Settles, Craven & Ray (2008), "Multiple-instance active learning", §4.2, for the softmax layer.

    >>> last_layer_gradient_norms(jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]])).round(4).tolist()
    [[1.0, 1.0]]
    """
    log_probs, features = _checked(log_probs, features)
    return _residual_norms(log_probs) * jnp.sqrt(jnp.square(features).sum(-1, keepdims=True) + 1)


def _checked(log_probs, features) -> tuple[jax.Array, jax.Array]:
    log_probs = check_log_probs(log_probs)
    features = check_floating(features, "features")
    shapes = (log_probs.shape[:-1], (*log_probs.shape[:-2], 1))
    if features.ndim != log_probs.ndim or features.shape[:-1] not in shapes:
        raise ValueError(
            f"features must have shape [..., K, D] with the leading axes of log_probs {log_probs.shape}, or "
            f"[..., 1, D], got {features.shape}{axis_order(log_probs.shape, (features.shape or (0,))[0], 'log_probs')}"
        )
    check_finite(features, "features")
    return log_probs, features


@jax.jit
def _residual_norms(log_probs: jax.Array) -> jax.Array:
    """`‖p − e_c‖` for every c, `[..., C]`, without cancellation where p is close to e_c.

    The square is `(1 − p_c)² + Σ_{j≠c} p_j²`. For the favourite class both parts are summed over the other
    classes; for the rest, taking p_c² from the whole sum removes at most half of it.
    """
    probs = jnp.exp(log_probs)
    is_top = jax.nn.one_hot(log_probs.argmax(-1), log_probs.shape[-1], dtype=bool)
    others = jnp.where(is_top, 0.0, probs)  # [..., C]
    others_squared = jnp.square(others).sum(-1, keepdims=True)
    total = others_squared + jnp.square(probs.sum(-1, keepdims=True, where=is_top))
    missing = jnp.where(is_top, others.sum(-1, keepdims=True), -jnp.expm1(log_probs))  # 1 − p_c
    squared = jnp.square(missing) + jnp.where(is_top, others_squared, total - jnp.square(probs))
    still = squared == 0  # sqrt has no finite gradient there
    return jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, squared)))


def expected_model_change(
    log_probs: jax.Array,
    gradient_norms: jax.Array,
    *,
    labels: Literal["committee", "member"] = "committee",
    top: int | None = None,
) -> jax.Array:
    """Expected gradient length, `mean_k Σ_c q_kc ‖g_kc‖`, with the label drawn from q.

    `q = p̄`, what the committee expects the label to be, or `q = p_k`, what the member itself does. With `top = m`, q is
    cut down to its m most probable labels and normalised again; `top = 1` is the length of the gradient for the
    predicted label.

    Differs from the paper: the last layer's gradient, for speed; labels by the committee's mean, lengths averaged
    over its members. That is the strategy's default; the paper has one model, and the gradient of all its
    parameters: `layers: all`, and a committee of one.

    Args:
      log_probs: `[..., K, C]`.
      gradient_norms: `[..., K, C]`, the norm of member k's gradient if the label were c: of the last layer
        (`last_layer_gradient_norms`) or of the full network. With `top`, what it holds for the other labels does not
        matter, as long as it is finite.
      labels: who says what the label may be, "committee" or "member".
      top: m, a Python int between 1 and C; all labels by default.

    Returns:
      `[...]`, not below 0.

    Raises:
      ValueError, TypeError: another `labels`, `top` out of range.
      ValueError, NonFiniteError: shapes that differ, norms that are not finite; and see
        `bdal.errors.check_log_probs`.

    Settles, Craven & Ray (2008), "Multiple-instance active learning", §4.2.

    >>> log_probs, norms = jnp.log(jnp.array([[0.75, 0.25], [0.25, 0.75]])), jnp.array([[1.0, 3.0], [3.0, 1.0]])
    >>> round(float(expected_model_change(log_probs, norms)), 4)
    2.0
    >>> round(float(expected_model_change(log_probs, norms, labels="member")), 4)
    1.5
    """
    log_probs = check_log_probs(log_probs)
    gradient_norms = check_floating(gradient_norms, "gradient_norms")
    if gradient_norms.shape != log_probs.shape:
        raise ValueError(
            f"gradient_norms must have the shape of log_probs {log_probs.shape}, [..., K, C], "
            f"got {gradient_norms.shape}{axis_order(log_probs.shape, (gradient_norms.shape or (0,))[0], 'log_probs')}"
        )
    check_finite(gradient_norms, "gradient_norms")
    _check_labels(labels)
    if top is not None:
        if isinstance(top, bool | np.bool_) or not hasattr(top, "__index__") or not is_concrete(top):
            raise TypeError(f"top must be a Python int or None, got {top!r}")
        if not 1 <= operator.index(top) <= log_probs.shape[-1]:
            raise ValueError(f"top must be between 1 and the number of classes {log_probs.shape[-1]}, got {top}")
    if labels == "member":
        return jnp.sum(_label_probs(log_probs, top) * gradient_norms, axis=-1).mean(-1)
    probs = _label_probs(log_mean_exp(log_probs, axis=-2), top)  # [..., C]
    return jnp.sum(probs * gradient_norms.mean(-2), axis=-1)


def _check_labels(labels) -> None:
    if labels not in ("committee", "member"):
        raise ValueError(f'labels must be "committee" or "member", got {labels!r}')


def _label_probs(log_probs: jax.Array, top: int | None) -> jax.Array:
    """Probabilities `[..., C]`, of the m most probable labels only."""
    if top is None:
        return jnp.exp(log_probs)
    _, best = jax.lax.top_k(log_probs, top)  # of labels that tie, the lowest
    among = jax.nn.one_hot(best, log_probs.shape[-1], dtype=bool).any(-2)
    among |= jnp.isnan(log_probs)  # stays NaN: where top_k sorts it differs between versions of XLA
    return jax.nn.softmax(jnp.where(among, log_probs, -jnp.inf), axis=-1)


def last_layer_fisher_trace(
    log_probs: jax.Array, features: jax.Array, *, labels: Literal["committee", "member"] = "committee"
) -> jax.Array:
    """Expected squared gradient length of the last layer, `mean_k (‖h_k‖² + 1) Σ_c q_kc ‖p_k − e_c‖²`.

    With the member's own labels, `q = p_k`, it is the mean trace of the members' Fisher information,
    `mean_k (‖h_k‖² + 1) (1 − ‖p_k‖²)`. With the committee's, `q = p̄`, a label may surprise the member, and
    `Σ_c p̄_c ‖p_k − e_c‖² = (1 − ‖p̄‖²) + ‖p_k − p̄‖²`: the sum of `aleatoric_fisher_trace` and
    `epistemic_fisher_trace`. Where members share their features, `(‖h‖² + 1) (1 − ‖p̄‖² + Σ_c Var_k p_kc)`.

    Differs from the paper: the square of the paper's gradient length, in the last layer, where it has a closed
    form. We know of no paper that queries by it. BAIT (Ash et al. 2021) weighs Fisher matrices against each other,
    and does not rank points by a trace.

    Args:
      log_probs: `[..., K, C]`.
      features: `[..., K, D]` or `[..., 1, D]`, the input of the last layer for each member; its bias is the + 1.
      labels: who says what the label may be, "committee" or "member".

    Returns:
      `[...]`, not below 0.

    Raises:
      ValueError: another `labels`.
      ValueError, NonFiniteError: as `last_layer_gradient_norms`.

    The square of Settles, Craven & Ray (2008), "Multiple-instance active learning", §4.2.

    >>> log_probs, features = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])), jnp.zeros((2, 3))
    >>> float(last_layer_fisher_trace(log_probs, features))
    1.0
    >>> float(last_layer_fisher_trace(log_probs, features, labels="member"))
    0.0
    """
    _check_labels(labels)
    log_probs, features = _checked(log_probs, features)
    if labels == "member":
        return jnp.mean(_squared_lengths(features) * _gini(log_probs), axis=-1)
    return _aleatoric(log_probs, features) + _epistemic(log_probs, features)


def aleatoric_fisher_trace(log_probs: jax.Array, features: jax.Array) -> jax.Array:
    """The part of `last_layer_fisher_trace` that is spread in the mean prediction, `mean_k (‖h_k‖² + 1) · (1 − ‖p̄‖²)`.

    The Gini index `1 − ‖p̄‖²` is mostly noise in the labels, but not only: of members that disagree it is
    `mean_k (1 − ‖p_k‖²) + Σ_c Var_k p_kc`.

    Args:
      log_probs: `[..., K, C]`.
      features: `[..., K, D]`, see `last_layer_fisher_trace`.

    Returns:
      `[...]`, not below 0.

    Raises:
      ValueError, NonFiniteError: as `last_layer_gradient_norms`.

    The law of total variance for the label as a one-hot vector; Gini (1912) for the index.

    >>> float(aleatoric_fisher_trace(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])), jnp.zeros((2, 3))))
    0.5
    """
    return _aleatoric(*_checked(log_probs, features))


def epistemic_fisher_trace(log_probs: jax.Array, features: jax.Array) -> jax.Array:
    """The part of `last_layer_fisher_trace` that is disagreement, `mean_k (‖h_k‖² + 1) ‖p_k − p̄‖²`.

    Where members share their features it is `(‖h‖² + 1)` times `predictive_variance`. Exactly 0 where members agree:
    expected model change without the part that more labels cannot remove.

    Args:
      log_probs: `[..., K, C]`.
      features: `[..., K, D]`, see `last_layer_fisher_trace`.

    Returns:
      `[...]`, not below 0.

    Raises:
      ValueError, NonFiniteError: as `last_layer_gradient_norms`.

    The law of total variance, as for `aleatoric_fisher_trace`.

    >>> float(epistemic_fisher_trace(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])), jnp.zeros((2, 3))))
    0.5
    """
    return _epistemic(*_checked(log_probs, features))


def _squared_lengths(features: jax.Array) -> jax.Array:
    return jnp.square(features).sum(-1) + 1  # [..., K]


def _gini(log_probs: jax.Array) -> jax.Array:
    """`1 − ‖p‖²`, without cancellation where one class is almost certain."""
    return jnp.sum(jnp.exp(log_probs) * -jnp.expm1(log_probs), axis=-1)


@jax.jit
def _aleatoric(log_probs: jax.Array, features: jax.Array) -> jax.Array:
    return _squared_lengths(features).mean(-1) * jnp.maximum(_gini(log_mean_exp(log_probs, axis=-2)), 0.0)


@jax.jit
def _epistemic(log_probs: jax.Array, features: jax.Array) -> jax.Array:
    mean, u = relative_to_mean(log_probs)
    squared_distances = jnp.square(mean[..., None, :] * u).sum(-1)  # [..., K]
    return jnp.mean(_squared_lengths(features) * squared_distances, axis=-1)
