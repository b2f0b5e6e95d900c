"""Checks of arrays that more than one selector takes. Axes: R rows."""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import as_array


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
