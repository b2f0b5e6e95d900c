"""Deep ensembles: K networks from K initialisations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bdal.committee import Apply, Committee, deep_ensemble
from bdal.errors import check_count
from bdal.training import Training, compile_fit, steps_from_python, train


def fit_deep_ensemble(
    init: Callable[[jax.Array], Any],
    apply: Apply,
    *,
    num_members: int,
    training: Training = Training(),  # noqa: B008
    masks: int | None = None,
    one_at_a_time: bool | None = None,
) -> Callable[..., Committee]:
    """A `Fit` that trains K networks on the same labels, each from its own key and stopped on its own validation NLL.

    Lakshminarayanan et al., NeurIPS 2017 (without adversarial training; minibatches differ between members). Running
    statistics (BatchNorm) stay as `init` makes them, with a warning.

    Args:
      init: `key -> params`.
      apply: `(params, key, x) -> logits [C]` or `(logits, features)`.
      num_members: K networks.
      training: the schedule.
      masks: None: members predict without noise. M: each network votes with M dropout masks, K·M members in all
        (an ensemble of dropout networks).
      one_at_a_time: train members one after the other in one program (`lax.map`) rather than side by side (`vmap`).
        By default, on a CPU, for networks of more than 65,536 parameters: there a larger product gains nothing.

    >>> fit = fit_deep_ensemble(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params,
    ...                         num_members=5, training=Training(steps=20))
    >>> inputs, labels = jnp.eye(4), jnp.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), inputs, labels, 4, None).log_probs(inputs).shape
    (4, 5, 2)
    """

    check_count(num_members, "num_members")
    if masks is not None:
        check_count(masks, "masks")

    def fit(key, inputs, labels, count, validation) -> Committee:
        train_key, mask_key = jax.random.split(key)

        def member(key):
            return train(key, init, apply, inputs, labels, count, validation, training).params

        keys = jax.random.split(train_key, num_members)
        sequential = not prefers_vmap(init) if one_at_a_time is None else one_at_a_time
        if steps_from_python(init, apply, inputs):
            params = jax.tree.map(lambda *members: jnp.stack(members), *map(member, keys))
        else:
            params = jax.lax.map(member, keys) if sequential else jax.vmap(member)(keys)
        mask_keys = None if masks is None else jax.random.split(mask_key, (num_members, masks))
        return deep_ensemble(apply, params, mask_keys)

    return compile_fit(fit, init, apply)


def prefers_vmap(init: Callable[[jax.Array], Any]) -> bool:
    """Whether networks of this size train faster side by side than one by one on the present backend."""
    if jax.default_backend() != "cpu":
        return True
    size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))
    return size <= 2**16
