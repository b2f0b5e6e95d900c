"""Layers of one image that stay fast on a CPU inside a compiled loop, and keep their speed under `vmap`.

XLA's CPU backend runs `lax.conv` inside a loop (`scan`, `while`) on a slow path: one training step of the CNN of this
folder at batch size 64 takes 590 ms there against about 15 ms here. So the convolution is k slices along the width, k
along the height and one matrix product, which any backend does well, and the max-pool has its own backward pass.

Axis letters: H, W height and width of the input (H', W' of the output), C channels in, O channels out, k kernel size.
"""

import jax
import jax.numpy as jnp
from flax import nnx


def check_dropout(dropout: float) -> None:
    """ValueError unless it is at least 0 and below 1.

    >>> check_dropout(0.5)
    """
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected at least 0 and below 1, got {dropout}")


class Conv(nnx.Module):
    """A convolution without padding, stride 1: `[H, W, C] -> [H', W', O]`."""

    def __init__(self, channels_in: int, channels_out: int, size: int, *, rngs: nnx.Rngs):
        init = nnx.initializers.lecun_normal()
        self.kernel = nnx.Param(init(rngs.params(), (size, size, channels_in, channels_out)))
        self.bias = nnx.Param(jnp.zeros(channels_out))

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        size = kernel.shape[0]
        rows, columns = x.shape[0] - size + 1, x.shape[1] - size + 1
        wide = jnp.concatenate([x[:, j : j + columns] for j in range(size)], -1)  # [H, W', k·C]
        patches = jnp.concatenate([wide[i : i + rows] for i in range(size)], -1)  # [H', W', k·k·C]
        return patches @ kernel.reshape(-1, kernel.shape[-1]) + self.bias[...][None, None]

    def masked(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """The convolution of `x * mask`, with `mask [C]` a factor for each channel, as a sum over channels.

        `Σ_c mask_c · conv_c(x)`: where many masks meet the same `x` (the members of an MC-dropout committee, under
        `vmap` over masks) every channel's contribution is computed once, and each further mask costs one small product.
        """
        kernel = self.kernel[...]
        size, _, channels, outputs = kernel.shape
        rows, columns = x.shape[0] - size + 1, x.shape[1] - size + 1
        wide = jnp.stack([x[:, j : j + columns] for j in range(size)], -1)  # [H, W', C, k]
        patches = jnp.stack([wide[i : i + rows] for i in range(size)], -2)  # [H', W', C, k, k]
        patches = patches.reshape(rows, columns, channels, size * size)
        contributions = jnp.einsum("hwct,tco->hwco", patches, kernel.reshape(size * size, channels, outputs))
        return jnp.einsum("hwco,c->hwo", contributions, mask) + self.bias[...][None, None]


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """The maximum of every 2 × 2 block: `[H, W, C] -> [H/2, W/2, C]`. Entries that tie share the gradient."""
    x = _blocks(x)
    return jnp.maximum(jnp.maximum(x[:, 0, :, 0], x[:, 0, :, 1]), jnp.maximum(x[:, 1, :, 0], x[:, 1, :, 1]))


def _max_pool_forward(x):
    y = max_pool(x)
    return y, (x, y)


def _max_pool_backward(residuals, gradient):
    x, y = residuals
    chosen = _blocks(x) == y[:, None, :, None]
    share = gradient / chosen.sum((1, 3))
    return (jnp.where(chosen, share[:, None, :, None], 0).reshape(x.shape),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _blocks(x):
    height, width, channels = x.shape
    return x.reshape(height // 2, 2, width // 2, 2, channels)
