"""The network of the BatchBALD paper against the same network in XLA's own operations.

Axes: B images, K masks, D features.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bdal.backend import has_convolution
from bdal.committee import mc_dropout
from bdal.model import from_nnx
from bdal.models import CNN

NET = CNN(10, rngs=nnx.Rngs(0))
IMAGES = jax.random.uniform(jax.random.key(0), (3, 28, 28, 1))


def by_xla(params, images):
    def layer(x, p):
        x = jax.lax.conv_general_dilated(
            x, p["kernel"][...], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = x + p["bias"][...].reshape(1, 1, 1, -1)
        return jax.nn.relu(jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"))

    h = layer(layer(images, params["conv1"]), params["conv2"]).reshape(len(images), -1)
    h = jax.nn.relu(h @ params["dense"]["kernel"][...] + params["dense"]["bias"][...].reshape(1, -1))
    return h @ params["head"]["kernel"][...] + params["head"]["bias"][...].reshape(1, -1), h


def test_parameters_are_those_of_the_paper():
    _, params = from_nnx(NET)
    shapes = jax.tree.map(jnp.shape, nnx.to_pure_dict(params.params))
    assert shapes == {
        "conv1": {"kernel": (5, 5, 1, 32), "bias": (32,)},
        "conv2": {"kernel": (5, 5, 32, 64), "bias": (64,)},
        "dense": {"kernel": (1024, 128), "bias": (128,)},
        "head": {"kernel": (128, 10), "bias": (10,)},
    }
    assert not jax.tree.leaves(params.state)


def test_without_a_key_it_is_the_network_in_xla():
    apply, params = from_nnx(NET, batched=False)
    logits, features = jax.jit(jax.vmap(lambda x: apply(params, None, x)))(IMAGES)
    assert logits.shape == (3, 10)
    assert features.shape == (3, 128)
    expected_logits, expected_features = jax.jit(by_xla)(params.params, IMAGES)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(features, expected_features, rtol=1e-4, atol=1e-5)
    assert np.abs(np.diff(logits, axis=0)).max() > 1e-3


def test_shared_masks_change_nothing_but_speed():
    keys = jax.random.split(jax.random.key(1), 6)
    (plain, params), (shared, same) = (
        from_nnx(CNN(10, shared_masks=flag, rngs=nnx.Rngs(0)), batched=False) for flag in (False, True)
    )
    assert jax.tree.structure(params) == jax.tree.structure(same)
    log_probs, features = mc_dropout(plain, params, keys).predict(IMAGES)
    others, other_features = mc_dropout(shared, params, keys).predict(IMAGES)
    np.testing.assert_allclose(others, log_probs, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other_features, features, rtol=1e-5, atol=1e-5)
    assert features.shape == (3, 6, 128)
    assert np.abs(np.diff(log_probs, axis=1)).max(-1).min() > 1e-3  # the masks do something
    for apply in (plain, shared):
        assert not has_convolution(apply, params, keys[0], IMAGES[0])


def test_dropout_drops_whole_channels():
    """With convolutions that only pass channels on, position after position tells the same masks."""
    net = CNN(10, rngs=nnx.Rngs(0))
    net.dropout3.rate = 0.0
    net.conv1.kernel[...], net.conv1.bias[...] = jnp.zeros((5, 5, 1, 32)), jnp.ones(32)
    net.conv2.kernel[...] = jnp.zeros((5, 5, 32, 64)).at[2, 2].set(jnp.tile(jnp.eye(32), (1, 2)))
    first, last = jnp.zeros((4, 4, 64, 64)), jnp.zeros((4, 4, 64, 64))
    first, last = first.at[0, 0].set(jnp.eye(64)), last.at[3, 3].set(jnp.eye(64))
    net.dense.kernel[...] = jnp.concatenate([first, last], -1).reshape(1024, 128)
    apply, params = from_nnx(net, batched=False)
    features = jax.jit(jax.vmap(lambda key: apply(params, key, IMAGES[0])[1]))(jax.random.split(jax.random.key(0), 50))
    assert set(np.unique(features)) == {0.0, 4.0}  # two masks of 0 or 2
    np.testing.assert_array_equal(features[:, :64], features[:, 64:])
    np.testing.assert_allclose(np.mean(features > 0), 0.25, atol=0.02)
    alive = np.asarray(features[:, :64] > 0)
    together = alive[:, :32] & alive[:, 32:64]  # channels c and c + 32 share the first mask: ½ · ½ · ½
    np.testing.assert_allclose(together.mean(), 0.125, atol=0.02)


def test_an_image_in_bytes_is_divided_by_255():
    net = CNN(10, dropout=0.0, rngs=nnx.Rngs(0))
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1), np.uint8)
    for of_bytes, of_floats in zip(net(jnp.asarray(image)), net(jnp.asarray(image / 255, jnp.float32)), strict=True):
        np.testing.assert_allclose(of_bytes, of_floats, atol=1e-5)
