"""What an experiment is, as frozen dataclasses, and the way from a YAML file to them.

A config is data, and read strictly (`bdal.config.strict`).
"""

import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from bdal import training
from bdal.config import strict
from bdal.config.strict import override, read_yaml, show
from bdal.datasets import NAMES, check_pool
from bdal.environment import expanded
from bdal.errors import ConfigError

ABSTAINS = ("abstain", "?")  # how people say that it cannot be told


@dataclass(frozen=True)
class Named:
    """A part by its name, and its options; in YAML a name, or a mapping such as `{name: mlp, hidden: [128, 64]}`."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)  # numbers, text, and lists of them

    @property
    def label(self) -> str:
        """The part in paths, figures and tables: its name, then its options.

        >>> Named("power_bald", {"beta": 4.0}).label
        'power_bald-beta-4'
        """
        return "-".join([self.name, *(f"{key}-{_path_safe(value)}" for key, value in sorted(self.options.items()))])


@dataclass(frozen=True)
class Data:
    """Which data set, how much of it, and what is done to its pool.

    `name` is a data set that bdal knows, the path of an `.npz`, or a folder of image files; `data_dir` the folder that
    holds its files (null: where BDAL_DATA_DIR points, or a download); `pool` a random subset of the training set of
    that size to query from, `test` a random subset of the test set (null: all). `builders` then change the pool, one
    after the other: copies, noise, fewer points of some classes (`bdal.datasets.pools`). `classes` names the classes,
    and `size` is the height and width to which a folder's images are brought. `relabel` makes classes of the labels
    that occur in an `.npz`, such as 1 .. 10; `labels` says that the `folders` of a folder of images are its classes.
    `options` are those of a data set of one's own (`bdal.config.Parts`).
    """

    name: str = "optdigits"
    data_dir: str | None = None
    pool: int | None = None
    test: int | None = None
    builders: tuple[Named, ...] = ()
    classes: tuple[str, ...] | None = None
    size: tuple[int, ...] | None = None
    relabel: bool = False
    labels: Literal["folders"] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How one member is fitted in each round: a fixed number of steps at most, stopped on its own validation NLL.

    `patience` counts evaluations without improvement, and there is one evaluation every `eval_every` steps.
    Weights from before `min_steps` are never the best ones.
    """

    steps: int = 600
    min_steps: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 25
    patience: int = 8

    def schedule(self) -> training.Training:
        """What the training loop takes; raises ValueError for a value out of range."""
        return training.Training(**dataclasses.asdict(self))


@dataclass(frozen=True)
class Labels:
    """The labels that are paid for: `budget` in all, of which the fraction `validation` is bought for early stopping.

    `initial` training labels are bought at the start, at random or with the classes balanced. `oracle` gives them: the
    data set (`simulated`), or `people`, by `bdal label`, or `bdal ask` and `bdal tell`. A point that the oracle will
    not label costs `abstain_cost` labels, 1 or 0. Where answers for a point contradict each other, the `last` counts,
    or the `majority` (the last of the most frequent). `initial_file` is a file of answers, as `bdal tell` takes it,
    whose labelled points are the initial set in the place of `initial` random ones. `instruction` is one line for
    people: what the task is.
    """

    budget: int = 150
    initial: int = 20
    balanced: bool = False
    validation: float = 0.2
    oracle: Literal["simulated", "people"] = "simulated"
    abstain_cost: int = 1
    contradictions: Literal["last", "majority"] = "last"
    initial_file: str | None = None
    instruction: str | None = None

    @property
    def validation_labels(self) -> int:
        """Labels bought for validation, `round(validation · budget)`."""
        return round(self.validation * self.budget)

    @property
    def training_labels(self) -> int:
        """Labels that are left for training when the budget is spent."""
        return self.budget - self.validation_labels


@dataclass(frozen=True)
class Query:
    """`size` labels a round, chosen from `candidates` random points of the pool (null: all), scored in chunks.

    Covers then cover the candidates, not the pool. Strategies that look at targets (`epig` ...) see so many random
    points of the pool, drawn anew each round, labelled ones and those for validation among them. A score that is no
    number is an error (`on_nonfinite: raise`), or its point is left out with a warning (`exclude`).
    """

    size: int = 10
    candidates: int | None = None
    targets: int = 200
    chunk_size: int = 1024
    on_nonfinite: Literal["raise", "exclude"] = "raise"


@dataclass(frozen=True)
class Stopping:
    """What ends a run before its budget (`bdal.stopping`); nothing by default.

    `ceiling`: the joint information of a query reaches what the committee's members can carry, log K. `stabilised`: the
    predictions of successive committees on `points` pool points agree, mean kappa of the last `window` rounds at least
    `kappa`. `no_gain`: the largest gain of a query is at most so many nats.
    """

    ceiling: bool = False
    stabilised: bool = False
    kappa: float = 0.99
    window: int = 3
    points: int = 1000
    no_gain: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """At most so many members and test points along the learning curve (null: all).

    A run ends with its final figures beside the curve, by all members on all test points.
    """

    members: int | None = None
    points: int | None = None


@dataclass(frozen=True)
class Comparison:
    """The strategies that are compared under one posterior with so many members."""

    posterior: Named
    members: int
    strategies: tuple[Named, ...]

    def __post_init__(self):
        if isinstance(self.posterior, str):
            object.__setattr__(self, "posterior", Named(self.posterior))

    def method(self, strategy: Named) -> str:
        """The name of a method in paths: the posterior's label, then the strategy's.

        >>> comparison = Comparison(Named("mc_dropout"), 20, (Named("power_bald", {"beta": 4}),))
        >>> comparison.method(comparison.strategies[0])
        'mc_dropout/power_bald-beta-4'
        """
        return f"{self.posterior.label}/{strategy.label}"


_converter = strict.strict_converter()
strict.register_named(_converter, Named, "a name, or a mapping such as {name: power_bald, beta: 8}")


@dataclass(frozen=True)
class Experiment:
    """A whole experiment: data, model, training, labels, and the comparisons, each over `seeds` paired seeds.

    `model` is the network: `mlp` (`hidden: [128, 64]`, `dropout: 0.25`), `cnn`, the network of the BatchBALD paper
    (`dropout: 0.5`), or one of one's own (`bdal.config.Parts`); null for posteriors that need none. A comparison's
    `posterior` is a name too, or a mapping of its name and its options.
    Seeds are numbered from `first_seed`. `together` runs them in one compiled program, the fits side by side (null: as
    the backend profits from it). `parameters` keeps those of the `last` committee of each run. Values out of range
    raise `ConfigError` with the field's path, however the experiment was made.
    """

    name: str
    comparisons: tuple[Comparison, ...]
    seed: int = 0
    seeds: int = 5
    first_seed: int = 0
    together: bool | None = None
    parameters: Literal["none", "last"] = "none"
    data: Data = Data()
    model: Named | None = Named("mlp")
    training: Training = Training()
    labels: Labels = Labels()
    query: Query = Query()
    evaluation: Evaluation = Evaluation()
    stopping: Stopping = Stopping()

    def __post_init__(self):
        _check(self)

    @property
    def seed_numbers(self) -> range:
        """The seeds' numbers."""
        return range(self.first_seed, self.first_seed + self.seeds)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment in a YAML file, with `--section.field value` overrides on top; list items go by their number.

    Raises `ConfigError`, one line: the file (or "command line"), the field's path, what was expected and what came.

    >>> import tempfile
    >>> text = "{name: small, comparisons: [{posterior: mc_dropout, members: 20, strategies: [random, margin]}]}"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "small.yaml"
    ...     _ = path.write_text(text)
    ...     experiment = load(path, ["--training.learning-rate", "1e-4", "--comparisons.0.members=8"])
    >>> experiment.training.learning_rate, experiment.comparisons[0].members
    (0.0001, 8)
    """
    experiment = typed(override(read_yaml(Path(path)), overrides), str(path), overrides)
    data = experiment.data  # its paths: the same from every folder
    if is_path(data.name) or (data.name not in NAMES and Path(data.name).is_dir()):
        data = dataclasses.replace(data, name=str(expanded(data.name).resolve()))
    if data.data_dir is not None:
        data = dataclasses.replace(data, data_dir=str(expanded(data.data_dir).resolve()))
    labels = experiment.labels
    if labels.initial_file is not None:
        labels = dataclasses.replace(labels, initial_file=str(expanded(labels.initial_file).resolve()))
    return dataclasses.replace(experiment, data=data, labels=labels)


def typed(tree: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment that a tree of plain dicts, lists and scalars says; `source` is named in errors."""
    if isinstance(model := tree.get("model"), dict) and "name" not in model:
        tree = tree | {"model": {"name": "mlp", **model}}
    return strict.typed(Experiment, tree, _converter, source, overrides)


def is_path(name: str) -> bool:
    """Whether a data set's name is the path of an `.npz` or of a folder, and not one that bdal knows."""
    return name.endswith(".npz") or "/" in name


def moved(experiment: Experiment, data_dir: str | Path | None) -> Experiment:
    """The experiment with its data at `data_dir`: the folder of a named data set, or the `.npz` or folder itself."""
    if data_dir is None:
        return experiment
    field = "name" if is_path(experiment.data.name) else "data_dir"
    there = {field: str(expanded(data_dir).resolve())}
    return dataclasses.replace(experiment, data=dataclasses.replace(experiment.data, **there))


def dump(experiment: Experiment) -> str:
    """The experiment as YAML with every field written out; `load` gives the same experiment back."""
    return yaml.safe_dump(as_dict(experiment), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)


def digest(experiment: Experiment) -> str:
    """SHA-256 of what the experiment says; where its data lies and what people are told are no part of it."""
    canonical = as_dict(anywhere(experiment))
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, allow_nan=False).encode()).hexdigest()


def anywhere(experiment: Experiment) -> Experiment:
    """The experiment without where its data lies, which its fingerprint tells, and without the words for people."""
    data = dataclasses.replace(experiment.data, data_dir=None)
    if is_path(data.name):
        data = dataclasses.replace(data, name="path")
    labels = dataclasses.replace(experiment.labels, instruction=None)
    if labels.initial_file is not None:
        labels = dataclasses.replace(labels, initial_file="file")
    return dataclasses.replace(experiment, data=data, labels=labels)


def as_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain dicts, lists and scalars, in the form of a config file."""
    tree = _converter.unstructure(experiment)
    tree["comparisons"] = tree.pop("comparisons")  # last, as in a file
    if not tree["data"]["options"]:
        del tree["data"]["options"]  # they are of data sets of one's own alone
    return tree


def differences(one: Experiment, other: Experiment) -> list[str]:
    """The fields in which two experiments differ, as `path: value in one != value in the other`."""
    ones, others = (dict(_leaves(as_dict(anywhere(each)))) for each in (one, other))
    for mine, theirs in ((ones, others), (others, ones)):
        for path in [path for path in mine if f"{path}.name" in theirs]:
            mine[f"{path}.name"] = mine.pop(path)  # a part without options is its name alone
    paths = [path for path in {**ones, **others} if ones.get(path) != others.get(path)]
    return [f"{path}: {ones.get(path, 'absent')} != {others.get(path, 'absent')}" for path in paths]


def _leaves(tree: Any, path: str = ""):
    match tree:
        case dict():
            items = tree.items()
        case list() | tuple():
            items = enumerate(tree)
        case _:
            yield path, tree
            return
    for key, value in items:
        yield from _leaves(value, f"{path}.{key}" if path else str(key))


def _path_safe(value: float | int | str) -> str:
    text = repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9._+-]", "_", text)


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

# -- ranges ----------------------------------------------------------------------------------------------------------


def _check(experiment: Experiment) -> None:
    def require(holds: bool, path: str, expected: str, found: Any) -> None:
        if not holds:
            raise ConfigError(f"{path}: expected {expected}, found {show(found)}")

    def positive(path: str, value: int | None) -> None:
        require(value is None or value >= 1, path, "at least 1", value)

    for path, value in _leaves(as_dict(experiment)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if whole and not path.endswith(("seed", "first_seed")):  # they have a range of their own
            require(abs(value) < 2**31, path, "a number of at most 2147483647, as arrays count", value)
    data = experiment.data
    labels, query, evaluation = experiment.labels, experiment.query, experiment.evaluation
    a_name = "a name of letters, digits, '.', '_' and '-'"
    require(bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", experiment.name)), "name", a_name, experiment.name)
    require(0 <= experiment.seed < 2**31, "seed", "a number from 0 to 2147483647", experiment.seed)
    in_range = 0 <= experiment.first_seed < 2**31 - 1 - max(experiment.seeds, 0)
    require(in_range, "first_seed", "a number from 0 to 2147483647", experiment.first_seed)
    positive("seeds", experiment.seeds)

    require(bool(data.name), "data.name", "the name of a data set", data.name)
    positive("data.pool", data.pool)
    positive("data.test", data.test)
    for place, builder in enumerate(data.builders):
        here = f"data.builders.{place}"
        try:
            check_pool(builder.name, builder.options)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{here}: {error}") from error
    if data.classes is not None:
        distinct = len(set(data.classes)) == len(data.classes) >= 2 and all(name.strip() for name in data.classes)
        require(distinct, "data.classes", "at least two names, each once", list(data.classes))
    if data.size is not None:
        pair = len(data.size) == 2 and all(side >= 1 for side in data.size)
        require(pair, "data.size", "a height and a width, such as [28, 28]", list(data.size))

    try:
        experiment.training.schedule()
    except ValueError as error:
        raise ConfigError(f"training.{error}") from error

    positive("labels.budget", labels.budget)
    require(labels.initial >= 0, "labels.initial", "at least 0", labels.initial)
    require(0 <= labels.validation < 1, "labels.validation", "at least 0 and below 1", labels.validation)
    start = labels.initial + labels.validation_labels
    needs = f"{start} (labels.initial {labels.initial} + {labels.validation_labels} for validation)"
    require(labels.budget >= start, "labels.budget", f"at least {needs}", labels.budget)
    require(data.pool is None or data.pool >= start, "data.pool", f"at least {needs}", data.pool)

    both = labels.balanced and labels.initial_file is not None
    require(
        not both, "labels.balanced", "false beside labels.initial_file, which says the initial set", labels.balanced
    )
    require(labels.abstain_cost in (0, 1), "labels.abstain_cost", "0 or 1", labels.abstain_cost)
    if labels.instruction is not None:
        line = 1 <= len(labels.instruction.strip()) <= 200 and len(labels.instruction.splitlines()) == 1
        require(line, "labels.instruction", "one line of 1 to 200 characters", labels.instruction)
    if labels.oracle == "people":
        strategies = sum(len(each.strategies) for each in experiment.comparisons)
        one = experiment.seeds == strategies == 1
        found = f"{experiment.seeds} seeds and {strategies} strategies"
        require(one, "labels.oracle", "seeds: 1 and one strategy where people answer", found)
        require(not labels.balanced, "labels.balanced", "false where people answer: classes are not known", True)

    for name in ("size", "candidates", "targets", "chunk_size"):
        positive(f"query.{name}", getattr(query, name))
    enough = query.candidates is None or query.candidates >= query.size
    require(enough, "query.candidates", f"at least query.size ({query.size})", query.candidates)
    positive("evaluation.members", evaluation.members)
    positive("evaluation.points", evaluation.points)

    stopping = experiment.stopping
    positive("stopping.window", stopping.window)
    positive("stopping.points", stopping.points)
    require(0 < stopping.kappa <= 1, "stopping.kappa", "above 0 and at most 1", stopping.kappa)
    require(stopping.no_gain is None or stopping.no_gain >= 0, "stopping.no_gain", "at least 0", stopping.no_gain)

    require(bool(experiment.comparisons), "comparisons", "at least one comparison", [])
    seen = Counter()
    for number, comparison in enumerate(experiment.comparisons):
        path = f"comparisons.{number}"
        positive(f"{path}.members", comparison.members)
        require(bool(comparison.strategies), f"{path}.strategies", "at least one strategy", [])
        name = comparison.posterior.name
        require(bool(_NAME.fullmatch(name)), f"{path}.posterior", "a posterior's name", name)
        for option in comparison.posterior.options:
            require(option.isidentifier(), f"{path}.posterior", "options that are names", option)
        for place, strategy in enumerate(comparison.strategies):
            here = f"{path}.strategies.{place}"
            require(bool(_NAME.fullmatch(strategy.name)), here, "a strategy's name", strategy.name)
            for option in strategy.options:
                require(option.isidentifier(), here, "options that are names", option)
            run = comparison.method(strategy)
            require(run not in seen, here, "every strategy once under a posterior", f"{run} twice")
            seen[run] += 1
