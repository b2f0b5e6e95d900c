"""Run directories as a report reads them: each as it was found, and those that belong together as one.

Directories belong together if they are on the same data with the same labels to pay for, as the points of a sweep are;
those of a loop of one's own, if they say the same name and data. A CSV file of curves stands for itself.
Their runs are told apart by (posterior, strategy, seed), and by the fields in which their configs differ otherwise.
"""

import json
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bdal import config
from bdal.errors import ConfigError
from bdal.report.analysis import About, about
from bdal.report.from_csv import read_curves
from bdal.report.tables import order
from bdal.report.words import both, title
from bdal.store import directory, durable
from bdal.store.directory import Row, SeedRun
from bdal.store.lines import check_lines

Key = tuple[str, str]  # posterior, strategy
OWN, FILE = directory.OWN, "file"

WHICH = (*directory.WHICH, "data", "labels")  # data and labels are the same in a group


class Source(NamedTuple):
    """One run directory as it was found."""

    name: str  # as the report calls it
    experiment: config.Experiment | None  # None: a config of another version, which this one does not read
    problem: str  # why it does not; empty otherwise
    tree: dict[str, Any]  # the config as plain data
    text: str  # config.yaml; as the run began, if it was edited since
    edited: list[str]  # the fields that were
    identity: dict[str, Any]  # run.json
    runs: list[SeedRun]
    rows: list[Row]
    warnings: list[dict[str, Any]]
    torn: list[str]  # last lines that were cut off
    kind: str = ""  # OWN, of a loop of one's own, or FILE, of curves; both have no config

    @property
    def planned(self) -> dict[Key, set[int]]:
        """The seeds of each (posterior, strategy) that the config asks for or that are there."""
        planned: dict[Key, set[int]] = defaultdict(set)
        for run in self.runs:
            planned[run.posterior, run.strategy].add(run.seed)
        for comparison in self.experiment.comparisons if self.experiment else ():
            for strategy in comparison.strategies:
                assert self.experiment
                planned[comparison.posterior.label, strategy.label].update(self.experiment.seed_numbers)
        return planned


class Group(NamedTuple):
    """Run directories read as one run; where their configs differ, the posteriors' names say in what."""

    sources: list[Source]
    runs: list[SeedRun]
    rows: list[Row]
    planned: dict[Key, list[int]]  # seeds of each (posterior, strategy)
    twice: list[str]  # of runs that lie in two directories: what was done about it, a sentence each

    def runs_of(self, key: Key) -> list[SeedRun]:
        """Those of one (posterior, strategy), by seed."""
        return [run for run in self.runs if run[:2] == key]

    def section(self, name: str) -> dict[str, Any]:
        """A section of the config as plain data, with the defaults of what it leaves out."""
        defaults = {"labels": config.Labels(), "query": config.Query(), "data": config.Data()}
        return {**vars(defaults[name]), **self.sources[0].tree.get(name, {})}

    @property
    def own(self) -> str:
        """OWN or FILE where there is no config, so that nothing is known but what was measured."""
        return self.sources[0].kind

    @property
    def training_labels(self) -> int | None:
        """The labels to train on with which the budget is spent; None where that is not known."""
        if self.own:
            return None
        labels = self.section("labels")
        return labels["budget"] - round(labels["validation"] * labels["budget"])

    @property
    def about(self) -> About:
        """What is known of the runs beyond their rows."""
        planned = [(*key, seed) for key, seeds in self.planned.items() for seed in seeds]
        return about(self.runs, planned, self.training_labels, self.section("labels")["abstain_cost"])

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of the data; empty if it does not."""
        return next((source.identity["facts"] for source in self.sources if source.identity.get("facts")), {})

    @property
    def posteriors(self) -> list[str]:
        """Their names, in the order of tables and figures."""
        return list(dict.fromkeys(posterior for posterior, _ in self.planned))


def gather(paths: Sequence[Path]) -> list[Group]:
    """Read run directories, and files of curves, and put those together that belong together.

    Raises `ConfigError` for what is neither, and `CorruptRunError` for one that was damaged.
    """
    sources = [_read(path, name) for path, name in zip(paths, _names(paths), strict=True)]
    known = {_data_and_labels(source): source.identity["data"] for source in sources if "data" in source.identity}
    shared: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        key = _data_and_labels(source)  # one that has not begun has no fingerprint of its data yet
        shared[f"{key} {source.identity.get('data', known.get(key))}"].append(source)
    return [merge(group) for group in shared.values()]


def merge(sources: list[Source]) -> Group:
    """Sources as one run. A run that lies in several with the same ledger is one run."""
    names, twice = _posterior_names(sources)
    kept: dict[tuple[str, str, int], tuple[str, SeedRun]] = {}
    planned: dict[Key, set[int]] = defaultdict(set)
    copies = set()
    for source in sources:
        for run in source.runs:
            key = names[source.name, run.posterior], run.strategy, run.seed
            if key in kept and run.events and kept[key][1].events:
                copies.add(key)
            elif key not in kept or run.events:
                kept[key] = source.name, run._replace(posterior=key[0])
        for (posterior, strategy), seeds in source.planned.items():
            planned[names[source.name, posterior], strategy] |= seeds
    rows = [
        row._replace(posterior=names[source.name, row.posterior])
        for source in sources
        for row in source.rows
        if kept[names[source.name, row.posterior], row.strategy, row.seed][0] == source.name
    ]
    if copies:
        lie = "1 run lies" if len(copies) == 1 else f"{len(copies)} runs lie"
        twice.append(f"{lie} in more than one directory with the same ledger, to be counted once.")
    keys = sorted(planned, key=lambda key: (order(key[0]), key[1] == "random", key[1]))
    runs = sorted((run for _, run in kept.values()), key=lambda run: run[:3])
    return Group(sources, runs, sorted(rows), {key: sorted(planned[key]) for key in keys}, twice)


# -- one directory ---------------------------------------------------------------------------------------------------


def _read(path: Path, name: str) -> Source:
    if path.is_file():
        return _read_file(path, name)
    if path.is_dir() and directory.identity_of(path).get("loop") == OWN:
        return _read_own(path, name)
    if not (path / "config.yaml").is_file():
        found = "no config.yaml in it" if path.is_dir() else f"no such {'file' if path.suffix else 'directory'}"
        raise ConfigError(f"{path}: expected a run directory, as `bdal run` writes it, found {found}")
    experiment, problem = None, ""
    identity, text, edited = directory.identity_of(path), (path / "config.yaml").read_text(encoding="utf-8"), []
    try:
        experiment = config.load(path / "config.yaml")
        began = _began(identity, experiment)
        if edited := config.differences(began, experiment):
            experiment, text = began, config.dump(began)
        tree = config.as_dict(experiment)
    except ConfigError as error:
        tree = _plain_config(path / "config.yaml", error)
        problem = f"this version does not read its config ({str(error).removeprefix(f'{path}{os.sep}')})"
    runs, warned, torn = _runs(path)
    cost = tree.get("labels", {}).get("abstain_cost", 1)
    rows = sorted(row for run in runs for row in directory.rows_of(run, cost))
    return Source(name, experiment, problem, tree, text, edited, identity, runs, rows, warned, torn)


def _runs(path: Path) -> tuple[list[SeedRun], list[dict[str, Any]], list[str]]:
    """The runs of a directory, what they warned of, and which last lines were cut off."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        runs = directory.seed_runs(path)
        warned = durable.read(path / "warnings.jsonl")
        check_lines(path / "warnings.jsonl", warned, "warning")
    return runs, warned, sorted({str(warning.message).removeprefix(f"{path}{os.sep}") for warning in caught})


def _read_own(path: Path, name: str) -> Source:
    identity = directory.identity_of(path)
    runs, _, torn = _runs(path)
    rows = sorted(row for run in runs for row in directory.rows_of(run))
    data = identity.get("about", {}).get("data")
    tree = {"name": identity.get("run", name)} | ({"data": {"name": data}} if data else {})
    return Source(name, None, "", tree, "", [], identity, runs, rows, [], torn, OWN)


def _read_file(path: Path, name: str) -> Source:
    rows = read_curves(path)
    curves: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        scores = {score: getattr(row, score) for score in ("accuracy", *directory.SCORES)}
        known = {score: value for score, value in scores.items() if not math.isnan(value)}
        event = {"event": "evaluated", "labels": row.labels, "validation_labels": 0, **known}
        curves[row[:3]].append(event | {"round": len(curves[row[:3]])})
    runs = [
        SeedRun(
            posterior,
            strategy,
            seed,
            path,
            [*events, {"event": "finished", "round": len(events) - 1, "reason": FILE}],
            [],
        )
        for (posterior, strategy, seed), events in curves.items()
    ]
    return Source(name, None, "", {"name": path.stem}, "", [], {}, runs, rows, [], [], FILE)


def _began(identity: dict[str, Any], now: config.Experiment) -> config.Experiment:
    """The config that a run began with, as `run.json` keeps it: all but where its data lies."""
    if "experiment" not in identity:  # not begun
        return now
    began = config.typed(identity["experiment"], "run.json")
    data = replace(began.data, data_dir=now.data.data_dir)
    if began.data.name == "path":
        data = replace(data, name=now.data.name)
    return replace(began, data=data)


def _plain_config(path: Path, error: ConfigError) -> dict[str, Any]:
    """The config of another version as plain data; `error` is raised where it has not the shape of a config."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        labels, query = config.Labels(**tree["labels"]), config.Query(**tree["query"])
        comparisons = [(str(entry["posterior"]), int(entry["members"])) for entry in tree["comparisons"]]
        numbers = [labels.training_labels - labels.initial, 1 / query.size, len(comparisons), len(tree["data"])]
        assert all(number >= 0 for number in numbers)
    except (
        OSError,
        ArithmeticError,
        AssertionError,
        LookupError,
        TypeError,
        ValueError,
        yaml.YAMLError,
        RecursionError,
    ):
        raise error from None
    return tree


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path, as many as tell them apart."""
    for depth in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


# -- several as one --------------------------------------------------------------------------------------------------


def _data_and_labels(source: Source) -> str:
    if source.kind:  # what a file is of nobody knows
        return f"{source.kind} {source.name if source.kind == FILE else source.tree}"
    data = {key: value for key, value in source.tree.get("data", {}).items() if key != "data_dir"}
    data["name"] = Path(str(data.get("name"))).name
    return json.dumps([data, source.tree.get("labels", {})], sort_keys=True, default=str)


def _posterior_names(sources: list[Source]) -> tuple[dict[tuple[str, str], str], list[str]]:
    """What each source's posteriors are called: by the fields in which configs differ, then by the directory's name.

    Only runs of one config may be read as the seeds of one experiment, and a seed of it has one result: where two
    directories have two, they are kept apart, and the sentences say which seeds these are.
    """
    settings = {
        (source.name, posterior): _settings(source, posterior)
        for source in sources
        for posterior in sorted({posterior for posterior, _ in source.planned})
    }
    names = {}
    for (name, posterior), own in settings.items():
        others = [other for (_, same), other in settings.items() if same == posterior]
        paths = [path for path in own if any(other.get(path) != own[path] for other in others)]
        said = ", ".join(f"{path} {own[path]}" for path in paths)
        names[name, posterior] = f"{posterior} ({said})" if said else posterior
    ledgers: dict[tuple[str, str], dict[int, dict[str, list[str]]]] = defaultdict(dict)
    for source in sources:
        for run in source.runs:
            if run.events:
                seeds = ledgers[names[source.name, run.posterior], run.strategy]
                content = json.dumps(run.events)
                seeds.setdefault(run.seed, {}).setdefault(content, []).append(source.name)
    apart, said = set(), []
    for (posterior, strategy), seeds in sorted(ledgers.items()):
        if clash := {seed: found for seed, found in sorted(seeds.items()) if len(found) > 1}:
            apart.add(posterior)
            where = dict.fromkeys(name for found in clash.values() for names in found.values() for name in names)
            number = f"seed{'s' if len(clash) > 1 else ''} {both(map(str, clash))}"
            said.append(
                f"{strategy} under {title(posterior)}, {number}: {both(where)} have different ledgers, so the "
                f"directories are kept apart where they use {title(posterior)}."
            )
    return {key: f"{name} in {key[0]}" if name in apart else name for key, name in names.items()}, said


def _settings(source: Source, posterior: str) -> dict[str, Any]:
    """The fields that make a difference to a run under a posterior, by their path."""
    entries = [entry for entry in source.tree.get("comparisons", []) if entry.get("posterior") == posterior]
    settings: dict[str, Any] = {"members": "/".join(sorted({str(entry.get("members")) for entry in entries}))}
    for name, value in source.tree.items():
        if name not in WHICH:
            inner = value.items() if isinstance(value, dict) else [("", value)]
            settings |= {f"{name}.{key}".rstrip("."): each for key, each in inner}
    return settings
