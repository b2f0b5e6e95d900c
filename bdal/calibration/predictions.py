"""What every calibration metric asks of its arguments."""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import LabelError, check_finite, check_floating, is_concrete, sum_tolerance


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
            is_log = (values <= 0).all()
            hint = "log-probabilities: pass jnp.exp(...)" if is_log else "logits: pass jax.nn.softmax(...)"
            raise ValueError(
                f"probs must be probabilities: not negative and a row sums to 1, but {wrong.sum()} of {wrong.size} "
                f"rows are not (the first, {list(first)}, sums to {sums[first]:.4g}); if these are {hint}"
            )
    return probs, labels


def check_labels_of(predictions, labels, name: str) -> jax.Array:
    """`labels [..., N]` as int32, checked against `predictions [..., N, C]` as `check_predictions` says."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise LabelError(f"labels must be integers [..., N], got dtype {labels.dtype}")
    shape = predictions.shape
    if len(shape) < 2 or shape[:-1] != labels.shape:
        raise ValueError(
            f"{name} must have shape [..., N, C] and labels [..., N], got {shape} and {labels.shape}; "
            "of a committee's [N, K, C] pass the members' mean"
        )
    if 0 in shape[-2:]:
        raise ValueError(f"{name} must hold at least one point and one class, [..., N, C], got {shape}")
    if is_concrete(labels):
        values = np.asarray(labels)
        wrong = (values < 0) | (values >= shape[-1])
        if wrong.any():
            first = tuple(np.argwhere(wrong)[0].tolist())
            raise LabelError(
                f"labels must be in 0..{shape[-1] - 1} for {name} of {shape[-1]} classes, but {wrong.sum()} of "
                f"{wrong.size} are not (the first, {list(first)}, is {values[first]})"
            )
    return labels.astype(jnp.int32)


@jax.jit
def is_correct(probs: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the favourite class is the label, `[..., N]` float32; NaN for NaN and for a label out of range."""
    correct = (probs.argmax(-1) == labels).astype(jnp.float32)
    in_range = (labels >= 0) & (labels < probs.shape[-1])
    return jnp.where(in_range & ~jnp.isnan(probs).any(-1), correct, jnp.nan)
