"""MC dropout: one network, trained with dropout, and K masks."""

from collections.abc import Callable
from typing import Any

import jax

from bdal.committee import Apply, Committee, mc_dropout
from bdal.errors import check_count
from bdal.training import Training, compile_fit, train


def fit_mc_dropout(
    init: Callable[[jax.Array], Any],
    apply: Apply,
    *,
    num_members: int,
    training: Training = Training(validation_samples=8),  # noqa: B008
    score_apply: Apply | None = None,
) -> Callable[..., Committee]:
    """A `Fit` that trains one network with dropout and lets K fixed masks vote. Gal & Ghahramani, ICML 2016.

    Early stopping looks at the NLL of the prediction averaged over `training.validation_samples` masks. Running
    statistics (BatchNorm) stay as `init` makes them, with a warning.

    Args:
      init: `key -> params`.
      apply: `(params, key, x) -> logits [C]` or `(logits, features)`; draws its masks from `key`.
      num_members: K.
      training: the schedule.
      score_apply: the same function in a form that is faster when many masks meet one input; by default `apply`.

    >>> import jax.numpy as jnp
    >>> def apply(params, key, x):
    ...     mask = 1.0 if key is None else 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
    ...     return (x * mask) @ params
    >>> fit = fit_mc_dropout(lambda key: jnp.zeros((4, 2)), apply, num_members=10, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), inputs, labels, 4, None).log_probs(inputs).shape
    (4, 10, 2)
    """

    check_count(num_members, "num_members")

    def fit(key, inputs, labels, count, validation) -> Committee:
        train_key, mask_key = jax.random.split(key)
        trained = train(train_key, init, apply, inputs, labels, count, validation, training)
        return mc_dropout(score_apply or apply, trained.params, jax.random.split(mask_key, num_members))

    return compile_fit(fit, init, apply)
