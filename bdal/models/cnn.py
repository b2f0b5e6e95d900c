"""The convolutional network of the BatchBALD paper."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from bdal.model import Model, from_nnx, model_from_nnx, trained_by
from bdal.models.layers import Conv, check_dropout, max_pool
from bdal.pool import unit


class CNN(nnx.Module):
    """Two convolutions of 5 × 5 (32 and 64 channels), a hidden layer of 128, dropout after each; 28 × 28 images.

    conv – channel dropout – max-pool – relu, twice; dense – dropout – relu; dense. Kirsch, van Amersfoort & Gal,
    "BatchBALD", NeurIPS 2019, §4 and its published code. It takes one image: `from_nnx(net, batched=False)`.

    Args:
      num_classes: C.
      dropout: the probability of dropping a channel, or a hidden unit.
      shared_masks: compute the second convolution channel by channel before the mask: the same values (to rounding),
        about five times faster when many members look at the same image, slower in training where every image has its
        own mask.
      rngs: flax random streams.
    """

    def __init__(self, num_classes: int, *, dropout: float = 0.5, shared_masks: bool = False, rngs: nnx.Rngs):
        self.shared_masks = shared_masks
        self.conv1 = Conv(1, 32, 5, rngs=rngs)
        self.conv2 = Conv(32, 64, 5, rngs=rngs)
        self.dense = nnx.Linear(4 * 4 * 64, 128, rngs=rngs)
        self.head = nnx.Linear(128, num_classes, rngs=rngs)
        self.dropout1 = nnx.Dropout(dropout, rngs=rngs)
        self.dropout2 = nnx.Dropout(dropout, rngs=rngs)
        self.dropout3 = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One image `[28, 28, 1]` to (logits `[C]`, features `[128]`); bytes are divided by 255."""
        # A mask is a factor ≥ 0 for each channel, so it passes through max-pool and relu unchanged.
        mask1, mask2 = self.dropout1(jnp.ones(32)), self.dropout2(jnp.ones(64))
        h = jax.nn.relu(max_pool(self.conv1(unit(x[None])[0])))  # [12, 12, 32]
        h = self.conv2.masked(h, mask1) if self.shared_masks else self.conv2(h * mask1[None, None])  # [8, 8, 64]
        h = jax.nn.relu(max_pool(h)) * mask2[None, None]  # [4, 4, 64]
        h = jax.nn.relu(self.dropout3(self.dense(h.reshape(-1))))
        return self.head(h), h


def cnn(shape: tuple[int, ...], num_outputs: int, *, dropout: float = 0.5) -> Model:
    """A `Model` of `CNN`, trained with a mask for each image and scored with masks that many images share.

    Raises:
      ValueError: images of another shape than `(28, 28, 1)`, a dropout that cannot be.

    >>> model = cnn((28, 28, 1), 10)
    >>> logits, features = model.apply(model.init(jax.random.key(0)), None, jnp.ones((28, 28, 1)))
    >>> logits.shape, features.shape
    ((10,), (128,))
    """
    if tuple(shape) != (28, 28, 1):
        raise ValueError(f"name: cnn expects images of shape (28, 28, 1), found {tuple(shape)}")
    check_dropout(dropout)
    make = partial(CNN, num_outputs, dropout=dropout)
    model = model_from_nnx(lambda rngs: make(rngs=rngs), batched=False)
    scored, _ = from_nnx(make(shared_masks=True, rngs=nnx.Rngs(0)), batched=False)
    return Model(model.init, scored, trained_by(model))
