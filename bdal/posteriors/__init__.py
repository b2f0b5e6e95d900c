"""Ways to get a committee from labels: each makes a `Fit`, `(key, TrainingData) -> Committee`.

`POSTERIORS` has them by name, `make_posterior` makes one. A function of one's own with these arguments fits as well.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bdal.likelihood import Likelihood
from bdal.model import Model
from bdal.names import check_options, look_up
from bdal.posteriors.deep_ensemble import fit_deep_ensemble
from bdal.posteriors.mc_dropout import fit_mc_dropout
from bdal.posteriors.snapshots import fit_snapshots
from bdal.training import Training
from bdal.types import Fit

POSTERIORS: dict[str, Callable[..., Any]] = {
    "mc_dropout": fit_mc_dropout,
    "deep_ensemble": fit_deep_ensemble,
    "snapshots": fit_snapshots,
}
GIVEN = ("model", "likelihood", "training", "members")  # what is no option of a posterior


def make_posterior(
    name: str, model: Model | None, *, likelihood: Likelihood | None = None, training: Training = Training(),  # noqa: B008
    members: int, table: Mapping[str, Callable[..., Any]] = POSTERIORS, **options,
) -> Fit:  # fmt: skip
    """The fit of a posterior by its name.

    Args:
      name: of `table`.
      model: the network; None for a posterior that needs none.
      likelihood: what outputs mean; None: classes.
      training: the schedule.
      members: K.
      table: name to `(model, likelihood, training, *, members, **options) -> Fit`.
      **options: of the posterior.

    Raises:
      ValueError: no such name, or no such option.

    >>> import jax
    >>> from bdal import TrainingData, model_from_functions
    >>> model = model_from_functions(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params)
    >>> fit = make_posterior("deep_ensemble", model, members=5, training=Training(steps=20))
    >>> inputs, labels = jax.numpy.eye(4), jax.numpy.array([0, 1, 0, 1])
    >>> fit(jax.random.key(0), TrainingData(inputs, labels, 4)).num_members
    5
    """
    factory = look_up(table, name, "posterior")
    check_options(f"posterior {name}", factory, options, GIVEN)
    return factory(model, likelihood, training, members=members, **options)


__all__ = ["POSTERIORS", "fit_deep_ensemble", "fit_mc_dropout", "fit_snapshots", "make_posterior"]
