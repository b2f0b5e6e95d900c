"""Deep ensembles: K networks from K initialisations."""

import jax
import jax.numpy as jnp

from bdal.backend import trains_side_by_side
from bdal.committee import Committee, deep_ensemble
from bdal.errors import check_count
from bdal.likelihood import Likelihood, categorical
from bdal.model import Model
from bdal.training import CompiledFit, Training, learn, leaves_loop_to_python


def fit_deep_ensemble(
    model: Model, likelihood: Likelihood | None = None, training: Training = Training(), *, members: int,  # noqa: B008
    masks: int | None = None, one_at_a_time: bool | None = None,
) -> CompiledFit:  # fmt: skip
    """A `Fit` that trains K networks on the same labels, each from its own key and stopped on its own validation NLL.

    Lakshminarayanan et al., NeurIPS 2017 (without adversarial training; minibatches differ between members).

    Args:
      model: the network.
      likelihood: what its outputs mean; None: classes.
      training: the schedule.
      members: K networks.
      masks: None: members predict without noise. M: each network votes with M dropout masks, K·M members in all
        (an ensemble of dropout networks).
      one_at_a_time: train members one after the other in one program (`lax.map`) rather than side by side (`vmap`); by
        default, on a CPU, for networks of more than 65,536 parameters.

    >>> from bdal import TrainingData, model_from_functions
    >>> model = model_from_functions(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params)
    >>> fit = fit_deep_ensemble(model, members=5, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), TrainingData(inputs, labels, 4)).log_probs(inputs).shape
    (4, 5, 2)
    """
    check_count(members, "members")
    if masks is not None:
        check_count(masks, "masks")
    meaning = likelihood or categorical()

    def fit(key, data) -> Committee:
        train_key, mask_key = jax.random.split(key)

        def member(key):
            return learn(key, model, meaning, data, training)

        keys = jax.random.split(train_key, members)
        in_turn = not trains_side_by_side(model.init) if one_at_a_time is None else one_at_a_time
        if leaves_loop_to_python(model, data.inputs):
            variables, info = jax.tree.map(lambda *members: jnp.stack(members), *map(member, keys))
        else:
            variables, info = jax.lax.map(member, keys) if in_turn else jax.vmap(member)(keys)
        mask_keys = None if masks is None else jax.random.split(mask_key, (members, masks))
        return deep_ensemble(model.apply, variables, mask_keys, likelihood=meaning, info=info)

    return CompiledFit(fit, model, meaning)
