"""Prepares an experiment: finds its parts, loads the data and checks that they fit, before a directory is touched."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from bdal import config, datasets
from bdal.answers import read_answers
from bdal.config.data import Data, load
from bdal.config.parts import NO_PARTS, OURS, Parts, check_parts
from bdal.environment import check_hosts_agree
from bdal.errors import ConfigError, described_type
from bdal.experiment import identity
from bdal.likelihood import categorical
from bdal.model import Model
from bdal.names import check_option, check_options, look_up, options_of
from bdal.pool import ABSTAIN
from bdal.posteriors import GIVEN
from bdal.store.ledger import settle
from bdal.strategy import QueryStrategy, make_strategy
from bdal.training import outputs_shape
from bdal.types import Fit


class Initial(NamedTuple):
    """The labels to start with, from a file."""

    labels: dict[int, int]  # of pool indices
    source: dict[str, str]  # the file


class Prepared(NamedTuple):
    """An experiment whose parts are known to fit."""

    experiment: config.Experiment
    data: Data
    model: Model | None  # None: the posteriors need none
    fits: tuple[Fit, ...]  # one a comparison
    strategies: tuple[tuple[QueryStrategy, ...], ...]  # of each comparison
    parts: dict[str, Any]  # what those of one's own were, for run.json
    oracle: Callable[[np.ndarray], Any] | None  # None: people answer
    initial: Initial | None = None  # the labels to start with, where a file says them


def prepare(
    experiment: config.Experiment, oracle: Callable[[np.ndarray], Any] | None = None, *, parts: Parts = NO_PARTS,
    data: datasets.Dataset | None = None,
) -> Prepared:  # fmt: skip
    """Find the parts, load the data unless it is given, and check that all fits, before a directory is touched."""
    strategies = check_names(experiment, parts)
    loaded = load(experiment, data, parts)
    initial = _initial(experiment, loaded)
    if initial is not None:
        experiment = replace(experiment, labels=replace(experiment.labels, initial=len(initial.labels)))
    model = _model(experiment, loaded, parts)
    fits = _fits(experiment, model, parts)
    check_hosts_agree(f"{config.digest(experiment)} {loaded.fingerprint}")
    found = _identities(experiment, loaded, parts, model)

    if experiment.labels.oracle == "people":
        if oracle is not None:
            raise ConfigError("labels.oracle: expected simulated, for an oracle of one's own, found people")
        return Prepared(experiment, loaded, model, fits, strategies, found, None, initial)
    if experiment.labels.balanced and loaded.pool_labels is None:
        raise ConfigError(
            f"labels.balanced: expected false for {experiment.data.name}, which has no labels, found true"
        )
    if oracle is None:
        if loaded.pool_labels is None:
            raise ConfigError(
                f"labels.oracle: expected people for {experiment.data.name}, which has no labels, found simulated"
            )
        oracle = loaded.pool_labels.__getitem__
    return Prepared(experiment, loaded, model, fits, strategies, found, oracle, initial)


# -- parts ------------------------------------------------------------------------------------------------------------


def _used(experiment: config.Experiment) -> dict[str, list[tuple[str, config.Named]]]:
    """Every part that a config names, with its place in the config, by kind."""
    return {
        "models": [] if experiment.model is None else [("model", experiment.model)],
        "posteriors": [
            (f"comparisons.{number}.posterior", comparison.posterior)
            for number, comparison in enumerate(experiment.comparisons)
        ],
        "strategies": [
            (f"comparisons.{number}.strategies.{place}", strategy)
            for number, comparison in enumerate(experiment.comparisons)
            for place, strategy in enumerate(comparison.strategies)
        ],
    }


def check_names(experiment: config.Experiment, parts: Parts) -> tuple[tuple[QueryStrategy, ...], ...]:
    """The strategies of each comparison; a `ConfigError` for a name that nobody knows, or an option that is wrong."""
    check_parts(parts)
    given = {"models": ("shape", "num_outputs"), "posteriors": GIVEN}
    for kind, named in _used(experiment).items():
        for place, part in named:
            if kind == "strategies":
                continue
            try:
                what = kind.removesuffix("s")
                factory = look_up(parts.table(kind), part.name, what)
                check_options(f"{what} {part.name}", factory, part.options, _first(factory, given[kind]))
                for option, value in part.options.items():
                    known = options_of(factory)
                    check_option(
                        f"{what} {part.name}", option, value, known[option].annotation if option in known else Any
                    )
            except ValueError as error:
                raise _refused(place, kind, part, parts, error) from error
    return _strategies(experiment, parts)


def _refused(place: str, kind: str, part: config.Named, parts: Parts, error: ValueError) -> ConfigError:
    """Where in the config it stands, and where a name that nobody knows could come from."""
    said = re.sub(r"^(model|posterior|strategy): ", "", str(error))
    hint = "" if part.name in parts.table(kind) else "; one of your own comes by parts (--parts)"
    return ConfigError(f"{place}: {said}{hint}")


def _first(factory, given: tuple[str, ...]) -> tuple[str, ...]:
    """The arguments that a factory is always given, by the names that it has for them."""
    positional = list(options_of(factory))[: len([name for name in given if name != "members"])]
    return (*positional, *given)


def _strategies(experiment: config.Experiment, parts: Parts) -> tuple[tuple[QueryStrategy, ...], ...]:
    table, found = parts.table("strategies"), []
    for number, comparison in enumerate(experiment.comparisons):
        found.append([])
        for place, strategy in enumerate(comparison.strategies):
            here = f"comparisons.{number}.strategies.{place}"
            try:
                made = make_strategy(strategy.name, table=table, **strategy.options)
            except ValueError as error:
                raise _refused(here, "strategies", strategy, parts, error) from error
            if not isinstance(made, QueryStrategy):
                raise ConfigError(
                    f"{here}: expected {strategy.name} to give a QueryStrategy, got {described_type(made)}"
                )
            found[-1].append(made)
    return tuple(map(tuple, found))


def _model(experiment: config.Experiment, data: Data, parts: Parts) -> Model | None:
    named = experiment.model
    if named is None:
        return None
    shape = tuple(data.pool.shape[1:])
    try:
        model = parts.table("models")[named.name](shape, data.num_classes, **named.options)
    except ValueError as error:  # ConfigError is one
        said = f"model: {named.name}: {error}" if named.name in parts.models else f"model.{error}"
        raise ConfigError(said) from error
    if not isinstance(model, Model):
        raise ConfigError(f"model: expected {named.name} to give a bdal.Model, got {described_type(model)}")
    if named.name in parts.models:
        try:
            outputs = outputs_shape(model, categorical(), data.pool)
        except Exception as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"model: {named.name} fails on one input of shape {shape}: {reason}") from error
        if outputs.shape != (data.num_classes,):
            raise ConfigError(
                f"model: expected {data.num_classes} logits of {named.name}, one a class, got shape {outputs.shape}"
            )
    return model


def _fits(experiment: config.Experiment, model: Model | None, parts: Parts) -> tuple[Fit, ...]:
    table, training, fits = parts.table("posteriors"), experiment.training.schedule(), []
    for number, comparison in enumerate(experiment.comparisons):
        posterior, here = comparison.posterior, f"comparisons.{number}.posterior"
        if posterior.name in OURS["posteriors"]:
            if model is None or experiment.model is None:
                raise ConfigError(f"model: expected a network for {posterior.name}, found null")
            ours = experiment.model.name in OURS["models"]
            if posterior.name == "mc_dropout" and ours and experiment.model.options.get("dropout") == 0:
                raise ConfigError("model.dropout: expected above 0, for mc_dropout, found 0")
        try:
            fit = table[posterior.name](model, categorical(), training, members=comparison.members, **posterior.options)
        except ValueError as error:
            raise ConfigError(f"{here}: {error}") from error
        if not callable(fit):
            raise ConfigError(f"{here}: expected {posterior.name} to give a fit, got {described_type(fit)}")
        fits.append(fit)
    return tuple(fits)


def _identities(experiment: config.Experiment, data: Data, parts: Parts, model: Model | None) -> dict[str, Any]:
    """What the parts of one's own are that an experiment uses."""
    found: dict[str, Any] = {}
    for kind, named in _used(experiment).items():
        for _, part in named:
            if part.name in getattr(parts, kind):
                what = f"{kind.removesuffix('s').replace('strategie', 'strategy')} {part.label}"
                found[what] = identity.of_factory(parts.table(kind)[part.name], part.options)
    if model is not None and experiment.model is not None and experiment.model.name in parts.models:
        network = found[f"model {experiment.model.label}"]
        del network["source"]  # its programs say more
        network |= identity.of_model(model, tuple(data.pool.shape[1:]), data.pool.dtype)
    if experiment.data.name in parts.datasets:  # its fingerprint says the rest
        factory = identity.of_factory(parts.datasets[experiment.data.name], experiment.data.options)
        found[f"data {experiment.data.name}"] = {name: factory[name] for name in ("module", "name", "options")}
    return found


# -- labels to start with ---------------------------------------------------------------------------------------------


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
