"""Checks of arrays that more than one selector takes. Axes: R rows, K members, C classes."""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import as_array, axis_order, check_log_probs


def check_mask(mask, name: str, available) -> jax.Array:
    """A boolean mask `[R]` of the shape of `available`; None is a mask of nothing."""
    if mask is None:
        return jnp.zeros(np.shape(available), bool)
    mask = as_array(mask, name)
    if mask.shape != np.shape(available) or mask.dtype != bool:
        raise ValueError(
            f"{name} must be a boolean mask of the shape of available {np.shape(available)}, "
            f"got dtype {mask.dtype} and shape {mask.shape}"
        )
    return mask


def check_groups(groups, name: str, available) -> jax.Array:
    """Group numbers `[R]` as int32."""
    groups = as_array(groups, name)
    if not jnp.issubdtype(groups.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {groups.dtype}")
    if groups.shape != np.shape(available):
        raise ValueError(f"{name} must have the shape of available, [R] = {np.shape(available)}, got {groups.shape}")
    return groups.astype(jnp.int32)


def check_rows_of_members(log_probs, available) -> jax.Array:
    """Log-probabilities `[R, K, C]`, checked in the rows that are available; the others become uniform."""
    log_probs, available = as_array(log_probs, "log_probs"), jnp.asarray(available)
    if log_probs.ndim == 3 and log_probs.shape[0] != available.shape[0]:
        raise ValueError(
            f"log_probs must have a row for each of available {available.shape}, got {log_probs.shape}"
            f"{axis_order(log_probs.shape, available.shape[0], 'log_probs')}"
        )
    if log_probs.ndim == 3 and jnp.issubdtype(log_probs.dtype, jnp.floating):
        uniform = jnp.full((), -np.log(max(1, log_probs.shape[2])), log_probs.dtype)
        log_probs = jnp.where(available[:, None, None], log_probs, uniform)
    return check_log_probs(log_probs, rank=3)
