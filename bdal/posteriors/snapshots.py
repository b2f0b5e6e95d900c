"""Snapshots: K moments in the training of one network."""

import jax
import jax.numpy as jnp

from bdal.committee import Committee, deep_ensemble
from bdal.errors import check_count
from bdal.likelihood import Likelihood, categorical
from bdal.model import Model
from bdal.training import CompiledFit, Training, Watch, train


def fit_snapshots(
    model: Model, likelihood: Likelihood | None = None, training: Training = Training(), *, members: int,  # noqa: B008
) -> CompiledFit:  # fmt: skip
    """A `Fit` whose members are one network at K equally spaced steps of its training, in that order.

    What `label_dispersion` and `forgetting_events` look at, and a cheap ensemble. Validation labels are not used: all
    steps are taken, less what K does not divide. Bengar et al. (2021), "When deep learners change their mind", CAIP; as
    an ensemble, with cycles of the learning rate that this one does not have, Huang et al., ICLR 2017.

    Args:
      model: the network; members predict without noise.
      likelihood: what its outputs mean; None: classes.
      training: the schedule, of which `steps`, `batch_size`, `learning_rate` and `weight_decay` count.
      members: K, at most `training.steps`.

    >>> from bdal import TrainingData, model_from_functions
    >>> model = model_from_functions(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params)
    >>> fit = fit_snapshots(model, members=5, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), TrainingData(inputs, labels, 4)).log_probs(inputs).shape
    (4, 5, 2)
    """
    check_count(members, "members")
    if members > training.steps:
        raise ValueError(f"members: expected 1 to {training.steps}, the steps of training, got {members}")
    meaning, every = likelihood or categorical(), training.steps // members

    def start(key, variables):
        del key
        return jax.tree.map(lambda leaf: jnp.zeros((members, *leaf.shape), leaf.dtype), variables)

    def see(taken, step, variables, data):
        del data
        return jax.tree.map(lambda all_of_it, now: all_of_it.at[step // every - 1].set(now), taken, variables)

    watch = Watch(start, see)

    def fit(key, data) -> Committee:
        trained = train(
            key, model, meaning, data, training.optimizer(), steps=members * every, batch_size=training.batch_size,
            every=every, watch=watch,
        )  # fmt: skip
        return deep_ensemble(model.apply, trained.watched, likelihood=meaning)

    return CompiledFit(fit, model, meaning)
