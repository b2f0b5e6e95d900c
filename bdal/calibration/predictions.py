"""What every calibration metric asks of its arguments."""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import (
    ROUNDED,
    LabelError,
    as_array,
    check_finite,
    check_floating,
    check_log_probs,
    is_concrete,
    sum_tolerance,
)


def check_predictions(probs, labels) -> tuple[jax.Array, jax.Array]:
    """`probs [..., N, C]` as float32 and `labels [..., N]` as int32, checked.

    Raises:
      TypeError: probabilities of integer dtype.
      ValueError: shapes that do not fit; no points; at eager calls also probabilities that are negative or do not
        sum to 1 within 1e-3 (for half precision within what rounding to it can do).
      NonFiniteError: at eager calls, NaN or infinite probabilities.
      LabelError: labels that are not integers; at eager calls, labels that are not in 0..C−1. Under a trace such a
        label makes the metric NaN.
    """
    dtype = getattr(probs, "dtype", jnp.float32)
    probs = check_floating(probs, "probs")
    labels = check_labels_of(probs, labels, "probs")
    num_classes = probs.shape[-1]
    if is_concrete(probs):
        check_finite(probs, "probs")
        values = np.asarray(probs)
        sums = values.sum(-1, dtype=np.float64)
        wrong = (np.abs(sums - 1) > sum_tolerance(dtype, num_classes)) | (values < 0).any(-1)
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0].tolist())
            raise ValueError(
                f"probs must be probabilities: not negative and a row sums to 1, but {wrong.sum()} of {wrong.size} "
                f"rows are not (the first, {list(first)}, sums to {sums[first]:.4g}); if these are "
                f"{_looks(values, sums)}"
            )
    return probs, labels


def _looks(values: np.ndarray, sums: np.ndarray) -> str:
    """What wrong probabilities may be, and what to pass."""
    if (values <= 0).all():
        return "log-probabilities: pass jnp.exp(...)"
    if (values < 0).any() or values.max() > 100 * (1 + 1e-3):
        return "logits: pass jax.nn.softmax(...)"
    if values.max() > 1 + 1e-3:
        percent = (np.abs(sums - 100) <= 100 * ROUNDED).all()
        return "percentages: divide by 100" if percent else "logits: pass jax.nn.softmax(...)"
    if values.shape[-1] == 1:  # values in [0, 1] are no logits
        return "of a binary classifier: stack [1 - p, p], jnp.concatenate([1 - probs, probs], -1)"
    if (np.abs(sums - 1) <= ROUNDED).all():
        return "rounded probabilities: renormalise, probs / probs.sum(-1, keepdims=True)"
    return (
        "probabilities of independent labels, a sigmoid each, there is no one class; if they are scores of one, "
        "renormalise: probs / probs.sum(-1, keepdims=True)"
    )


def check_log_predictions(log_probs, labels) -> tuple[jax.Array, jax.Array]:
    """`log_probs [..., N, C]` as float32 and `labels [..., N]` as int32, checked as `check_predictions` says."""
    labels = check_labels_of(check_floating(log_probs, "log_probs"), labels, "log_probs")
    return check_log_probs(log_probs, "log_probs"), labels


def check_labels_of(predictions, labels, name: str) -> jax.Array:
    """`labels [..., N]` as int32, checked against `predictions [..., N, C]` as `check_predictions` says."""
    known = isinstance(labels, list | tuple | str) or isinstance(getattr(labels, "dtype", None), np.dtype)
    if known and not isinstance(labels, jax.Array) and np.asarray(labels).dtype.kind in "USO":
        raise LabelError(
            "labels must be integers [..., N], got text; pass the column of each class, "
            "np.unique(labels, return_inverse=True)[1] where the columns are the classes in the order of their names"
        )
    given, labels = labels, as_array(labels, "labels")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise LabelError(f"labels must be integers [..., N], got dtype {labels.dtype}")
    shape = predictions.shape
    if len(shape) < 2 or shape[:-1] != labels.shape:
        if shape == labels.shape:
            raise ValueError(
                f"{name} must have shape [..., N, C] and labels [..., N], got {shape} and {labels.shape}; of a binary "
                f"classifier stack [1 - p, p], of one-hot labels pass labels.argmax(-1)"
            )
        if labels.shape == (*shape[:-1], 1):
            raise ValueError(f"labels must have shape [..., N], got {labels.shape}; pass labels[..., 0]")
        raise ValueError(
            f"{name} must have shape [..., N, C] and labels [..., N], got {shape} and {labels.shape}; "
            "of a committee's [N, K, C] pass the members' mean"
        )
    if 0 in shape[-2:]:
        raise ValueError(f"{name} must hold at least one point and one class, [..., N, C], got {shape}")
    if is_concrete(labels):
        values = np.asarray(given)  # before the cast to 32 bits, in which large ones become others
        wrong = (values < 0) | (values >= shape[-1])
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0].tolist())
            raise LabelError(
                f"labels must be in 0..{shape[-1] - 1} for {name} of {shape[-1]} classes, but {wrong.sum()} of "
                f"{wrong.size} are not (the first, {list(first)}, is {values[first]})"
                + ("; of classes from 1 on pass labels - 1" if values.min() >= 1 and values.max() == shape[-1] else "")
            )
    return labels.astype(jnp.int32)


@jax.jit
def is_correct(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the favourite class is the label, `[..., N]` float32; NaN for NaN and for a label out of range."""
    correct = (probs.argmax(-1) == labels).astype(jnp.float32)
    in_range = (labels >= 0) & (labels < probs.shape[-1])
    return jnp.where(in_range & ~jnp.isnan(probs).any(-1), correct, jnp.nan)
