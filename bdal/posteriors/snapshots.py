"""Snapshots: K moments in the training of one network."""

from collections.abc import Callable
from typing import Any

import jax

from bdal.committee import Apply, Committee, deep_ensemble
from bdal.errors import check_count
from bdal.training import Training, compile_fit, train_snapshots


def fit_snapshots(
    init: Callable[[jax.Array], Any],
    apply: Apply,
    *,
    num_members: int,
    training: Training = Training(),  # noqa: B008
) -> Callable[..., Committee]:
    """A `Fit` whose members are one network at K equally spaced steps of its training, in that order.

    What `label_dispersion` and `forgetting_events` look at, and a cheap ensemble. Validation labels are not used: all
    steps are taken. Bengar et al. (2021), "When deep learners change their mind", CAIP; as an ensemble, with cycles of
    the learning rate that this one does not have, Huang et al., ICLR 2017.

    Args:
      init: `key -> params`.
      apply: `(params, key, x) -> logits [C]` or `(logits, features)`; members predict without noise.
      num_members: K, at most `training.steps`.
      training: the schedule, of which `steps`, `batch_size`, `learning_rate` and `weight_decay` count.

    >>> import jax.numpy as jnp
    >>> fit = fit_snapshots(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params,
    ...                     num_members=5, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), inputs, labels, 4, None).log_probs(inputs).shape
    (4, 5, 2)
    """
    check_count(num_members, "num_members")
    if num_members > training.steps:
        raise ValueError(f"num_members: expected 1 to {training.steps}, the steps of training, got {num_members}")

    def fit(key, inputs, labels, count, validation) -> Committee:
        del validation
        return deep_ensemble(apply, train_snapshots(key, init, apply, inputs, labels, count, training, num_members))

    return compile_fit(fit, init, apply)
