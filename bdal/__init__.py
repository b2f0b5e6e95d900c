"""Bayesian deep active learning in JAX.

Committees, acquisition functions and batch selection as pure functions of arrays, and experiments with them.
Rooms: `bdal.acquisition`, `bdal.selection`, `bdal.calibration` (mathematics of arrays), `bdal.types`, `bdal.model`,
`bdal.likelihood`, `bdal.committee`, `bdal.pool`, `bdal.training`, `bdal.posteriors` (models as functions),
`bdal.strategy`, `bdal.loop` (the loop), `bdal.models`, `bdal.datasets`, `bdal.contrib` (batteries), `bdal.config`,
`bdal.answers`, `bdal.store`, `bdal.statistics`, `bdal.report`, `bdal.experiment`, `bdal.labelling` (experiments).
"""

from bdal import acquisition, calibration, selection
from bdal.acquisition import (
    Gaussian,
    bald,
    epig,
    expected_entropy,
    expected_model_change,
    last_layer_gradient_norms,
    least_confidence,
    margin,
    mean_kl,
    mean_std,
    predictive_entropy,
    predictive_variance,
    variation_ratio,
    vote_entropy,
)
from bdal.calibration import accuracy, brier, ece, mce, nll
from bdal.committee import Committee, deep_ensemble, mc_dropout
from bdal.environment import doctor
from bdal.errors import (
    AcceleratorError,
    CapacityError,
    ConfigError,
    DataNotFoundError,
    LabelError,
    NonFiniteError,
    SelectorError,
)
from bdal.likelihood import Likelihood, categorical, gaussian
from bdal.loop import Round, active_learning, ask, tell
from bdal.model import (
    Model,
    from_batched,
    from_linen,
    from_nnx,
    model_from_equinox,
    model_from_functions,
    model_from_haiku,
    model_from_linen,
    model_from_nnx,
)
from bdal.pool import ABSTAIN, LabelledSet, extend, map_pool
from bdal.posteriors import POSTERIORS, fit_deep_ensemble, fit_mc_dropout, fit_snapshots, make_posterior
from bdal.selection import (
    Query,
    badge,
    batchbald,
    diverse,
    greedy,
    joint_information,
    k_center,
    lcmd,
    mutual_information_penalty,
    power,
    softmax,
    softrank,
    top_k,
)
from bdal.strategy import STRATEGIES, QueryStrategy, make_strategy, query
from bdal.training import CompiledFit, Training, learn
from bdal.types import TrainingData, Variables

__version__ = "0.1.0"

__all__ = [
    "ABSTAIN",
    "POSTERIORS",
    "STRATEGIES",
    "AcceleratorError",
    "CapacityError",
    "Committee",
    "CompiledFit",
    "ConfigError",
    "DataNotFoundError",
    "Gaussian",
    "LabelError",
    "LabelledSet",
    "Likelihood",
    "Model",
    "NonFiniteError",
    "Query",
    "QueryStrategy",
    "Round",
    "SelectorError",
    "Training",
    "TrainingData",
    "Variables",
    "accuracy",
    "acquisition",
    "active_learning",
    "ask",
    "badge",
    "bald",
    "batchbald",
    "brier",
    "calibration",
    "categorical",
    "deep_ensemble",
    "diverse",
    "doctor",
    "ece",
    "epig",
    "expected_entropy",
    "expected_model_change",
    "extend",
    "fit_deep_ensemble",
    "fit_mc_dropout",
    "fit_snapshots",
    "from_batched",
    "from_linen",
    "from_nnx",
    "gaussian",
    "greedy",
    "joint_information",
    "k_center",
    "last_layer_gradient_norms",
    "lcmd",
    "learn",
    "least_confidence",
    "make_posterior",
    "make_strategy",
    "map_pool",
    "margin",
    "mc_dropout",
    "mce",
    "mean_kl",
    "mean_std",
    "model_from_equinox",
    "model_from_functions",
    "model_from_haiku",
    "model_from_linen",
    "model_from_nnx",
    "mutual_information_penalty",
    "nll",
    "power",
    "predictive_entropy",
    "predictive_variance",
    "query",
    "selection",
    "softmax",
    "softrank",
    "tell",
    "top_k",
    "variation_ratio",
    "vote_entropy",
]


_BATTERIES = (
    "models", "datasets", "contrib",
    "config", "answers", "store", "statistics", "report", "experiment", "labelling",
)  # fmt: skip


def __getattr__(name):
    """The batteries, once they are asked for: importing bdal brings none of them."""
    if name in _BATTERIES:
        import importlib

        return importlib.import_module(f"bdal.{name}")
    raise AttributeError(f"module 'bdal' has no attribute {name!r}")
