"""The multilayer perceptron against its equation, and its dropout where the masks can be read off."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal.committee import mc_dropout
from bdal.model import from_nnx
from bdal.models import MLP


def weights_of(net):
    """(kernel, bias) of every layer in order, the head last, float64."""
    layers = [layer for layer in net.hidden.layers if isinstance(layer, nnx.Linear)] + [net.head]
    return [(np.float64(layer.kernel[...]), np.float64(layer.bias[...])) for layer in layers]


@pytest.mark.parametrize("hidden", [(), (7,), (5, 6, 4)])
@pytest.mark.parametrize("shape", [(6,), (2, 3, 1)])
def test_without_a_key_it_is_its_equation(hidden, shape):
    net = MLP(6, 3, hidden=hidden, dropout=0.5, rngs=nnx.Rngs(0))
    apply, params = from_nnx(net, batched=False)
    x = jax.random.normal(jax.random.key(0), shape)
    logits, features = apply(params, None, x)
    h = np.float64(x).reshape(-1)
    *layers, head = weights_of(net)
    assert [kernel.shape for kernel, _ in layers] == list(zip([6, *hidden], hidden, strict=False))
    for kernel, bias in layers:
        h = np.maximum(h @ kernel + bias, 0)
    np.testing.assert_allclose(features, h, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(logits, h @ head[0] + head[1], rtol=1e-5, atol=1e-6)
    assert features.shape == ((hidden or (6,))[-1],)


@pytest.mark.parametrize(("rate", "kept"), [(0.5, 0.25), (0.25, 0.5625)])
def test_every_hidden_layer_has_a_mask_of_its_own(rate, kept):
    net = MLP(2, 3, hidden=(400, 400), dropout=rate, rngs=nnx.Rngs(0))
    first, _, _, second, _, _ = net.hidden.layers
    first.kernel[...], first.bias[...] = jnp.zeros((2, 400)), jnp.ones(400)
    second.kernel[...] = jnp.eye(400)
    apply, params = from_nnx(net, batched=False)
    np.testing.assert_array_equal(apply(params, None, jnp.ones(2))[1], 1)
    features = mc_dropout(apply, params, jax.random.split(jax.random.key(0), 4)).features(jnp.ones((3, 2)))
    np.testing.assert_allclose(np.unique(features), [0, 1 / (1 - rate) ** 2], rtol=1e-6)
    np.testing.assert_allclose(np.mean(features > 0, (0, 2)), kept, atol=0.08)
    assert len(np.unique(np.asarray(features[0] > 0), axis=0)) == 4
    np.testing.assert_array_equal(features[0], features[2])


def test_no_dropout_is_no_noise():
    apply, params = from_nnx(MLP(2, 3, hidden=(4,), dropout=0.0, rngs=nnx.Rngs(0)), batched=False)
    x = jnp.array([0.3, -0.7])
    np.testing.assert_array_equal(apply(params, jax.random.key(0), x)[0], apply(params, None, x)[0])
