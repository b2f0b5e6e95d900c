"""The committee that a run ended with, from the parameters that `parameters: last` keeps."""

from pathlib import Path

import jax

from bdal import config
from bdal.committee import Committee
from bdal.config.data import load
from bdal.errors import ConfigError
from bdal.experiment.programs import network_of
from bdal.store import parameters


def load_committee(
    workdir: str | Path, posterior: str, strategy: str, seed: int, *, data_dir: str | None = None
) -> Committee:
    """The last committee of one (posterior, strategy, seed), as it was evaluated, ready to predict.

    Args:
      workdir: a run directory whose config says `parameters: last`.
      posterior, strategy, seed: as in the directory's folders, `mc_dropout`, `power_bald-beta-4` and 3 say.
      data_dir: where the data set's files are, or the `.npz` or folder itself, if not where it was.

    Raises:
      ConfigError: no run directory, or none of its runs.
      FileNotFoundError: the run has not finished, or keeps no parameters.
      CorruptCheckpointError: the parameters are not as they were written.
    """
    workdir = Path(workdir).resolve()
    experiment = config.moved(config.load(workdir / "config.yaml"), data_dir)
    comparison = next(
        (
            each
            for each in experiment.comparisons
            if each.posterior == posterior and strategy in map(each.label, each.strategies)
        ),
        None,
    )
    if comparison is None or seed not in experiment.seed_numbers:
        raise ConfigError(f"{workdir}: expected one of its runs, found {posterior}/{strategy} with seed {seed}")
    network = network_of(experiment, load(experiment))
    key = jax.random.key(0)
    params, keys = jax.eval_shape(network.init, key), None
    if posterior == "mc_dropout":
        keys = jax.eval_shape(lambda key: jax.random.split(key, comparison.members), key)
    else:
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((comparison.members, *leaf.shape), leaf.dtype), params)
    apply = network.score_apply if posterior == "mc_dropout" else network.apply
    like = Committee(apply, params, keys, stacked=keys is None)
    return parameters.restore(workdir / posterior / strategy / f"seed_{seed}" / "parameters", like)
