"""Run directories made up for tests of what reads them: real indices and labels of optdigits, invented measurements."""

from functools import cache
from pathlib import Path

import numpy as np

from bdal import config, datasets
from bdal.store import directory
from bdal.store.ledger import Ledger

SMALL = config.Experiment(
    name="small",
    comparisons=(
        config.Comparison("mc_dropout", 20, (config.Named("random"), config.Named("power_bald", {"beta": 4}))),
    ),
    seeds=2,
    labels=config.Labels(budget=25, initial=10, validation=0.2),
    query=config.Query(size=5),
)
CLASSES = tuple("0123456789")


@cache
def digits() -> datasets.Dataset:
    return datasets.load("optdigits")


def make_run(workdir: Path, experiment: config.Experiment = SMALL, *, noise: float = 0.0) -> Path:
    """Write the whole run directory of an experiment on optdigits, as if it had finished."""
    data = digits()
    facts = {
        "points": len(data.inputs), "distinct_points": len(data.inputs), "test_points": len(data.test_labels),
        "classes": list(CLASSES), "shape": [8, 8, 1], "label_noise": noise,
    }  # fmt: skip
    directory.write_run(workdir, experiment, datasets.fingerprint(data), facts=facts)
    for comparison in experiment.comparisons:
        for place, strategy in enumerate(comparison.strategies):
            for seed in experiment.seed_numbers:
                folder = directory.seed_folder(workdir, comparison, strategy, seed)
                method = comparison.method(strategy)
                written = Ledger(seed, folder, directory.owner(workdir, method, seed))
                for event in events(experiment, seed, place):
                    written.add(event)
                for line in metrics(experiment, seed, place):
                    written.measure(line)
    return workdir


def events(experiment: config.Experiment, seed: int, place: int = 0) -> list[dict]:
    """A finished ledger of the strategy in that place."""
    labels, size = experiment.labels, experiment.query.size
    order = np.random.default_rng(seed).permutation(len(digits().labels))
    held, start = labels.validation_labels, labels.validation_labels + labels.initial
    found = [_bought("validation", order[:held]), _bought("initial", order[held:start])]
    rest = np.random.default_rng([seed, place]).permutation(order[start:])
    for number in range(_rounds(experiment)):
        found.append({"event": "evaluated", **_measured(experiment, seed, place, number)})
        if number < _rounds(experiment) - 1:
            query = rest[number * size : (number + 1) * size]
            found.append({"event": "queried", "round": number, "indices": query.tolist()})
            found.append(_bought("labelled", query, round=number))
    return [*found, {"event": "finished", "round": _rounds(experiment) - 1, "reason": "budget"}]


def metrics(experiment: config.Experiment, seed: int, place: int = 0) -> list[dict]:
    """The lines of `metrics.jsonl` beside that ledger; the first strategy has no scores."""
    rng = np.random.default_rng([seed, place, 1])
    lines = []
    for number in range(_rounds(experiment)):
        last = number == _rounds(experiment) - 1
        gains = [] if last else np.sort(rng.uniform(0.5, 1.0, experiment.query.size))[::-1].tolist()
        seconds = {"fit": 2.0 + number, "evaluate": 0.5} | ({} if last else {"query": 1.0})
        seconds["fit"] += 20.0 * (number == 0)  # compiles
        line = {**_measured(experiment, seed, place, number), "gains": gains, "seconds": seconds}
        scores = {"score_quantiles": [0.0, 0.1, 0.3, 0.5, max(gains)]} if place and gains else {}
        lines.append({**line, **scores, "seeds": experiment.seeds})
    return lines


def _rounds(experiment: config.Experiment) -> int:
    labels = experiment.labels
    return 1 + -(-(labels.training_labels - labels.initial) // experiment.query.size)


def _bought(event: str, indices: np.ndarray, **more) -> dict:
    return {"event": event, **more, "indices": indices.tolist(), "labels": digits().labels[indices].tolist()}


def _measured(experiment: config.Experiment, seed: int, place: int, number: int) -> dict:
    rng = np.random.default_rng([seed, place, number])
    accuracy = 0.5 + 0.1 * number + 0.05 * place + 0.02 * rng.uniform()
    scores = {"accuracy": accuracy, "nll": 2 - accuracy, "brier": 1 - accuracy, "ece": 0.1 * rng.uniform()}
    measured = {
        "round": number, "labels": experiment.labels.initial + number * experiment.query.size,
        "validation_labels": experiment.labels.validation_labels, "abstained": 0, "points": 1797, "members": 20,
    }  # fmt: skip
    final = {"final": {"members": 20, "points": 1797, **scores}} if number == _rounds(experiment) - 1 else {}
    return measured | scores | final
