"""Parts of one's own, which a config names as it names those of bdal: models, posteriors, strategies, data sets.

A config is data: names and numbers. What the names stand for comes from Python, or from the shell by `--parts`.
"""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from bdal import contrib, datasets
from bdal.errors import ConfigError, described_type
from bdal.models import MODELS
from bdal.posteriors import POSTERIORS
from bdal.strategy import STRATEGIES

NONE: Mapping[str, Any] = MappingProxyType({})
OURS: dict[str, Mapping[str, Any]] = {
    "models": MODELS,
    "posteriors": POSTERIORS,
    "strategies": STRATEGIES | contrib.STRATEGIES,
    "datasets": NONE,  # `bdal.datasets.load` finds those by name or path
}


class Parts(NamedTuple):
    """Factories by name, in addition to those of bdal. Options are what the config gives beside the name.

    Attributes:
      models: `(shape, num_outputs, **options) -> bdal.Model`, for inputs of that shape.
      posteriors: `(model, likelihood, training, *, members, **options) -> Fit`; the fit is
        `(key, TrainingData) -> Committee`, or any object with `log_probs(inputs [B, ...]) -> [B, K, C]`. It may be
        plain Python: NumPy, scikit-learn, PyTorch.
      strategies: `(**options) -> QueryStrategy`.
      datasets: `(**options) -> bdal.datasets.Dataset`.

    >>> parts = Parts(strategies={"mine": lambda: None})
    >>> sorted(parts.table("strategies"))[:2], "mine" in parts.table("strategies")
    (['badge', 'bait'], True)
    """

    models: Mapping[str, Callable[..., Any]] = NONE
    posteriors: Mapping[str, Callable[..., Any]] = NONE
    strategies: Mapping[str, Callable[..., Any]] = NONE
    datasets: Mapping[str, Callable[..., Any]] = NONE

    def table(self, kind: str) -> dict[str, Any]:
        """What the names of a kind ("models" ...) stand for, those of bdal included."""
        return {**OURS[kind], **getattr(self, kind)}


NO_PARTS = Parts()


def check_parts(parts: Parts) -> None:
    """Raise a `ConfigError` for parts that are no factories by name, or that have the name of one of bdal's."""
    if not isinstance(parts, Parts):
        raise ConfigError(f"parts: expected bdal.experiment.Parts, got {described_type(parts)}")
    for kind, table in parts._asdict().items():
        if not isinstance(table, Mapping):
            raise ConfigError(f"parts.{kind}: expected a mapping of names to factories, got {described_type(table)}")
        for name, factory in table.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ConfigError(f"parts.{kind}: expected names of letters, digits and '_', got {name!r}")
            if name in OURS[kind] or (kind == "datasets" and name in (*datasets.NAMES, "given")):
                raise ConfigError(f"parts.{kind}: {name!r} is a name of bdal's own; choose another")
            if not callable(factory):
                raise ConfigError(f"parts.{kind}.{name}: expected a function, got {described_type(factory)}")


def load_parts(where: str | None) -> Parts:
    """The parts that `package.module:NAME` names, as `--parts` says it; the module may lie in the current folder.

    Raises `ConfigError`, one line, if there is no such module or name, or the module fails to import.

    >>> load_parts(None) == Parts()
    True
    """
    if where is None:
        return Parts()
    module, colon, name = where.partition(":")
    if not colon or not all(part.isidentifier() for part in [*module.split("."), name]):
        raise ConfigError(f"--parts: expected package.module:NAME, found {where!r}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` has it
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise ConfigError(f"--parts: {module} imports {error.name!r}, which is not installed") from error
        raise ConfigError(f"--parts: no module {error.name!r}, neither installed nor in the current folder") from error
    except Exception as error:
        raise ConfigError(f"--parts: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(found, name):
        raise ConfigError(f"--parts: {module} has no {name!r}; expected a bdal.experiment.Parts of that name")
    parts = getattr(found, name)
    check_parts(parts)
    return parts
