"""A multilayer perceptron with dropout."""

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from bdal.model import Model, model_from_nnx
from bdal.models.layers import check_dropout
from bdal.pool import unit


class MLP(nnx.Module):
    """Hidden layers of `relu(dropout(W h + b))` and a linear head; the input is flattened.

    Gal & Ghahramani, ICML 2016, put dropout before every weight layer; here it follows every hidden layer, so that the
    first layer is computed once for all members. It takes one input: `from_nnx(net, batched=False)`.

    Args:
      num_features: the size of one flattened input.
      num_classes: C.
      hidden: widths of the hidden layers; the last is the number of features D.
      dropout: the probability of dropping a unit.
      rngs: flax random streams.
    """

    def __init__(
        self, num_features: int, num_classes: int, *, hidden: Sequence[int] = (128, 64), dropout: float, rngs: nnx.Rngs
    ):
        sizes = [num_features, *hidden]
        layers = [
            nnx.Linear(i, o, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
            for i, o in zip(sizes, hidden, strict=False)
        ]
        dropouts = [nnx.Dropout(dropout, rngs=rngs) for _ in hidden]
        self.hidden = nnx.Sequential(*(f for pair in zip(layers, dropouts, strict=True) for f in (*pair, jax.nn.relu)))
        self.head = nnx.Linear(sizes[-1], num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """One input `[...]` to (logits `[C]`, features `[D]`); an image in bytes is divided by 255."""
        h = self.hidden(jnp.ravel(unit(x[None])))
        return self.head(h), h


def mlp(shape: tuple[int, ...], num_outputs: int, *, hidden: Sequence[int] = (128, 64), dropout: float = 0.25) -> Model:
    """A `Model` of `MLP` for inputs of a shape. ValueError for widths or a dropout that cannot be.

    >>> model = mlp((28, 28), 10, hidden=(16,))
    >>> logits, features = model.apply(model.init(jax.random.key(0)), None, jnp.ones((28, 28)))
    >>> logits.shape, features.shape
    ((10,), (16,))
    """
    widths = list(hidden) if isinstance(hidden, list | tuple) else []
    if not widths or not all(isinstance(width, int) and width >= 1 and width is not True for width in widths):
        raise ValueError(f"hidden: expected a list of widths, one a layer, each at least 1, got {hidden!r}")
    check_dropout(dropout)
    make = partial(MLP, math.prod(shape), num_outputs, hidden=tuple(hidden), dropout=dropout)
    return model_from_nnx(lambda rngs: make(rngs=rngs), batched=False)
