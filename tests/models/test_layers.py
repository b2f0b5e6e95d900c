"""The convolution and the max-pool against XLA's own, values and gradients.

Axes: H, W height and width, I channels in, O channels out.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal.backend import has_convolution
from bdal.models.layers import Conv, max_pool

SHAPES = [(6, 5, 1, 4, 3), (5, 9, 3, 2, 5), (4, 4, 2, 3, 1)]  # H, W, I, O, kernel size
shapes = pytest.mark.parametrize(("height", "width", "inputs", "outputs", "size"), SHAPES)


def make(inputs, outputs, size):
    layer = Conv(inputs, outputs, size, rngs=nnx.Rngs(0))
    layer.bias[...] = jax.random.normal(jax.random.key(1), (outputs,))
    return layer


def by_xla(x, kernel, bias):
    out = jax.lax.conv_general_dilated(
        x[None], kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest"
    )
    return out[0] + bias[None, None]


def called(layer, method="__call__"):
    """`layer` as a function of its input and its parameters."""
    graphdef, state = nnx.split(layer)

    def fn(kernel, bias, *inputs):
        layer = nnx.merge(graphdef, state, copy=True)
        layer.kernel[...], layer.bias[...] = kernel, bias
        return getattr(layer, method)(*inputs)

    return fn


def value_and_pullback(fn, cotangent):
    @jax.jit
    def both(*args):
        out, pullback = jax.vjp(fn, *args)
        return out, *pullback(cotangent)

    return both


def close(actual, expected, tolerance):
    """Up to `tolerance` of the largest entry."""
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * max(1.0, float(np.abs(expected).max())))


@shapes
def test_convolution_and_its_gradients_are_those_of_xla(height, width, inputs, outputs, size):
    layer = make(inputs, outputs, size)
    kernel, bias = layer.kernel[...], layer.bias[...]
    x = jax.random.normal(jax.random.key(2), (height, width, inputs))
    cotangent = jax.random.normal(jax.random.key(3), (height - size + 1, width - size + 1, outputs))
    ours = value_and_pullback(called(layer), cotangent)(kernel, bias, x)
    theirs = value_and_pullback(lambda kernel, bias, x: by_xla(x, kernel, bias), cotangent)(kernel, bias, x)
    for actual, expected in zip(ours, theirs, strict=True):
        close(actual, expected, 2e-6)


@shapes
def test_masked_convolution_is_the_convolution_of_the_masked(height, width, inputs, outputs, size):
    layer = make(inputs, outputs, size)
    x = jax.random.normal(jax.random.key(2), (height, width, inputs))
    masks = 2.0 * jax.random.bernoulli(jax.random.key(3), 0.5, (4, inputs)).at[0].set(False)
    masked = jax.jit(jax.vmap(lambda mask: layer.masked(x, mask)))(masks)
    close(masked, jax.jit(jax.vmap(lambda mask: layer(x * mask[None, None])))(masks), 2e-6)
    close(masked[0], jnp.broadcast_to(layer.bias[...], masked[0].shape), 0)  # nothing passes an empty mask


def test_masked_convolution_has_the_gradients_of_the_masked():
    layer = make(3, 2, 3)
    kernel, bias = layer.kernel[...], layer.bias[...]
    x, mask = jax.random.normal(jax.random.key(2), (6, 5, 3)), jnp.array([2.0, 0.0, 2.0])
    cotangent = jax.random.normal(jax.random.key(3), (4, 3, 2))

    plain = called(layer)
    ours = value_and_pullback(called(layer, "masked"), cotangent)
    theirs = value_and_pullback(lambda kernel, bias, x, mask: plain(kernel, bias, x * mask[None, None]), cotangent)
    args = kernel, bias, x, mask
    for actual, expected in zip(ours(*args), theirs(*args), strict=True):
        close(actual, expected, 2e-6)


def test_neither_uses_the_convolution_of_xla():
    layer, x = make(2, 3, 3), jnp.ones((5, 5, 2))
    assert not has_convolution(lambda x: layer(x), x)
    assert not has_convolution(lambda x: layer.masked(x, jnp.ones(2)), x)
    assert has_convolution(lambda x: by_xla(x, layer.kernel[...], layer.bias[...]), x)


# -- max-pool ---------------------------------------------------------------------------------------------------------


def pool_by_xla(x):
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (2, 2, 1), (2, 2, 1), "VALID")


@pytest.mark.parametrize("shape", [(2, 2, 1), (4, 6, 3), (24, 24, 2)])
def test_max_pool_and_its_gradient_are_those_of_xla(shape):
    x = jax.random.normal(jax.random.key(0), shape)
    cotangent = jax.random.normal(jax.random.key(1), (shape[0] // 2, shape[1] // 2, shape[2]))
    ours, theirs = value_and_pullback(max_pool, cotangent)(x), value_and_pullback(pool_by_xla, cotangent)(x)
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_array_equal(jax.jit(jax.vmap(max_pool))(x[None])[0], theirs[0])


def test_ties_share_the_gradient():
    x = jnp.array([[1.0, 1.0, 5.0, 0.0], [0.0, 1.0, 5.0, 5.0], [2.0, 2.0, 0.0, -1.0], [2.0, 2.0, -2.0, -3.0]])[
        ..., None
    ]
    _, gradient = value_and_pullback(max_pool, jnp.array([[[3.0], [6.0]], [[8.0], [7.0]]]))(x)
    expected = np.array([[1.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 2.0], [2.0, 2.0, 7.0, 0.0], [2.0, 2.0, 0.0, 0.0]])
    np.testing.assert_allclose(gradient[..., 0], expected, rtol=1e-6)


def test_the_gradient_of_every_block_is_passed_on_in_full():
    x = jax.random.randint(jax.random.key(0), (8, 6, 5), 0, 3).astype(jnp.float32)  # many ties
    cotangent = jax.random.normal(jax.random.key(1), (4, 3, 5))
    _, gradient = value_and_pullback(max_pool, cotangent)(x)
    blocks, chosen = (np.asarray(a).reshape(4, 2, 3, 2, 5) for a in (gradient, x))
    np.testing.assert_allclose(blocks.sum((1, 3)), cotangent, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(blocks[chosen < chosen.max((1, 3), keepdims=True)], 0)
