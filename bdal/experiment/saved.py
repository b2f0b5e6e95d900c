"""The committee that a run ended with, from the parameters that `parameters: last` keeps."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from bdal import config
from bdal.config.parts import NO_PARTS, Parts
from bdal.datasets import Dataset
from bdal.errors import ConfigError
from bdal.experiment.prepare import Prepared, prepare
from bdal.experiment.start import seed_key, start_points
from bdal.loop import training_data
from bdal.pool import LabelledSet
from bdal.store import directory, parameters
from bdal.store.durable import plain
from bdal.training import CompiledFit


def load_committee(
    workdir: str | Path, posterior: str, strategy: str, seed: int, *, parts: Parts = NO_PARTS,
    data: Dataset | None = None, data_dir: str | None = None,
) -> Any:  # fmt: skip
    """The last committee of one (posterior, strategy, seed), as it was evaluated, ready to predict.

    Args:
      workdir: a run directory whose config says `parameters: last`.
      posterior, strategy, seed: as in the directory's folders, `mc_dropout`, `power_bald-beta-4` and 3 say.
      parts: those of one's own that the run was made with.
      data: the data set, if it was given in Python.
      data_dir: where the data set's files are, or the `.npz` or folder itself, if not where it was.

    Raises:
      ConfigError: no run directory, or none of its runs; parts that differ from those that the run was made with; a
        posterior of one's own whose fit cannot be traced, so that the shape of its committee is not known.
      FileNotFoundError: the run has not finished, or keeps no parameters.
      CorruptCheckpointError: the parameters are not as they were written.
    """
    workdir = Path(workdir).resolve()
    experiment = config.moved(config.load(workdir / "config.yaml"), data_dir)
    number = next(
        (
            number
            for number, each in enumerate(experiment.comparisons)
            if each.posterior.label == posterior and strategy in [one.label for one in each.strategies]
        ),
        None,
    )
    if number is None or seed not in experiment.seed_numbers:
        raise ConfigError(f"{workdir}: expected one of its runs, found {posterior}/{strategy} with seed {seed}")
    prepared = prepare(experiment, parts=parts, data=data)
    known = directory.identity_of(workdir).get("parts", {})
    if found := directory.differing_parts(known, plain(prepared.parts)):
        raise ConfigError(f"{workdir}: was made with other parts (there != now): {'; '.join(found)}")
    folder = workdir / posterior / strategy / f"seed_{seed}" / "parameters"
    return parameters.restore(folder, _like(prepared, prepared.fits[number], seed))


def _like(prepared: Prepared, fit, seed: int):
    """The shapes of a committee of this fit."""
    if not isinstance(fit, CompiledFit):
        raise ConfigError("posterior: expected a fit of bdal, or a bdal.training.CompiledFit, to know its shapes")
    experiment, data = prepared.experiment, prepared.data
    labels = experiment.labels
    capacity = min(labels.training_labels, data.num_points)
    held_out = start_points(experiment, data, seed)["validation"]
    validation = LabelledSet(held_out, np.zeros(len(held_out), np.int32), np.int32(len(held_out)))
    shapes = training_data(LabelledSet.empty(capacity), validation, data.pool)
    return jax.eval_shape(fit.pure, seed_key(experiment, seed), shapes)
