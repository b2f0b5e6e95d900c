"""Prepares an experiment: loads the data and checks that its parts fit, before a directory is touched."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bdal import config, contrib
from bdal.answers import read_answers
from bdal.config.data import Data, load
from bdal.environment import check_hosts_agree
from bdal.errors import ConfigError
from bdal.experiment.programs import Network, network_of
from bdal.pool import ABSTAIN
from bdal.store.ledger import settle
from bdal.strategy import STRATEGIES, make_strategy

TABLE = STRATEGIES | contrib.STRATEGIES


class Initial(NamedTuple):
    """The labels to start with, from a file."""

    labels: dict[int, int]  # of pool indices
    source: dict[str, str]  # the file


class Prepared(NamedTuple):
    """An experiment whose parts are known to fit."""

    experiment: config.Experiment
    data: Data
    network: Network
    oracle: Callable[[np.ndarray], Any] | None  # None: people answer
    initial: Initial | None = None  # the labels to start with, where a file says them


def prepare(
    experiment: config.Experiment, oracle: Callable[[np.ndarray], Any] | None = None, data: Data | None = None
) -> Prepared:
    """Load the data, unless it is given, and check that the parts fit, before a directory is touched."""
    _check_strategies(experiment)
    data = load(experiment) if data is None else data
    initial = _initial(experiment, data)
    if initial is not None:
        experiment = replace(experiment, labels=replace(experiment.labels, initial=len(initial.labels)))
    network = network_of(experiment, data)
    check_hosts_agree(f"{config.digest(experiment)} {data.fingerprint}")

    if experiment.labels.oracle == "people":
        if oracle is not None:
            raise ConfigError("labels.oracle: expected simulated, for an oracle of one's own, found people")
        return Prepared(experiment, data, network, None, initial)
    if experiment.labels.balanced and data.pool_labels is None:
        raise ConfigError(
            f"labels.balanced: expected false for {experiment.data.name}, which has no labels, found true"
        )
    if oracle is None:
        if data.pool_labels is None:
            raise ConfigError(
                f"labels.oracle: expected people for {experiment.data.name}, which has no labels, found simulated"
            )
        oracle = data.pool_labels.__getitem__
    return Prepared(experiment, data, network, oracle, initial)


def _initial(experiment: config.Experiment, data: Data) -> Initial | None:
    """The labels in `labels.initial_file`; the last of a point's, and abstentions left out."""
    if experiment.labels.initial_file is None:
        return None
    path = experiment.labels.initial_file
    found = read_answers(path, class_names=data.class_names, names=data.source.file_names)
    given: dict[int, list[int]] = {}
    for index, label in zip(found.indices.tolist(), found.labels.tolist(), strict=True):
        given.setdefault(index, []).append(label)
    labels = {index: settle(answers, experiment.labels.contradictions) for index, answers in given.items()}
    labels = {index: label for index, label in labels.items() if label != ABSTAIN}
    if wrong := [index for index in labels if index >= data.num_points]:
        raise ConfigError(f"labels.initial_file: expected pool points in [0, {data.num_points}), found {wrong[:5]}")
    if not labels:
        raise ConfigError(f"labels.initial_file: expected labels in {path}, found none")
    room = data.num_points - len(labels)
    if room < experiment.labels.validation_labels:
        raise ConfigError(
            f"labels.initial_file: expected {experiment.labels.validation_labels} points beside its own, for "
            f"validation, found {room}"
        )
    return Initial(labels, found.source)


def _check_strategies(experiment):
    for number, comparison in enumerate(experiment.comparisons):
        for place, strategy in enumerate(comparison.strategies):
            try:
                make_strategy(strategy.name, table=TABLE, **strategy.options)
            except ValueError as error:
                raise ConfigError(f"comparisons.{number}.strategies.{place}: {error}") from error
