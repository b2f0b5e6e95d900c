"""MC dropout: one network, trained with dropout, and K masks."""

import jax

from bdal.committee import Committee, mc_dropout
from bdal.errors import check_count
from bdal.likelihood import Likelihood, categorical
from bdal.model import Model
from bdal.training import CompiledFit, Training, learn


def fit_mc_dropout(
    model: Model, likelihood: Likelihood | None = None, training: Training = Training(), *, members: int,  # noqa: B008
    validation_masks: int = 8,
) -> CompiledFit:  # fmt: skip
    """A `Fit` that trains one network with dropout and lets K fixed masks vote. Gal & Ghahramani, ICML 2016.

    Args:
      model: draws its masks from its noise, a key.
      likelihood: what its outputs mean; None: classes.
      training: the schedule.
      members: K.
      validation_masks: early stopping looks at the NLL of the prediction averaged over so many masks; 0: without noise.

    >>> import jax.numpy as jnp
    >>> from bdal import TrainingData, model_from_functions
    >>> def apply(params, key, x):
    ...     mask = 1.0 if key is None else 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
    ...     return (x * mask) @ params
    >>> model = model_from_functions(lambda key: jnp.zeros((4, 2)), apply)
    >>> fit = fit_mc_dropout(model, members=10, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), TrainingData(inputs, labels, 4)).log_probs(inputs).shape
    (4, 10, 2)
    """
    check_count(members, "members")
    meaning = likelihood or categorical()

    def fit(key, data) -> Committee:
        train_key, mask_key = jax.random.split(key)
        variables, info = learn(train_key, model, meaning, data, training, masks=validation_masks)
        info = {name: value[None] for name, value in info.items()}
        return mc_dropout(model.apply, variables, jax.random.split(mask_key, members), likelihood=meaning, info=info)

    return CompiledFit(fit, model, meaning)
