"""The runner: every (posterior, strategy, seed) of an experiment, from data to ledgers, table and figure.

What the ledger says happened, happened: a second call goes on where the ledgers end, and does not repeat a finished
(posterior, strategy, seed). Methods are paired: seed s has the same initial set, validation set and keys under all of
them.

The order of a round: fit, query, evaluate; then, each on disk before the next, "evaluated", the line of metrics,
"queried", the oracle's answers. A crash between two of them repeats the computation, to the same bits, and nothing
else: no other points are asked for, and no label is asked for twice.

Axis letters: N pool points, S seeds in one program, K members, C classes, T test points.
"""

import itertools
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bdal import config, stopping
from bdal.committee import Committee
from bdal.config.data import GIVEN, Data, facts
from bdal.config.parts import NO_PARTS, Parts
from bdal.datasets import Dataset
from bdal.errors import ConfigError
from bdal.experiment.prepare import Prepared, prepare
from bdal.experiment.programs import MOST_PREDICTED, Programs, programs_of, run_together
from bdal.experiment.progress import Progress
from bdal.experiment.start import check_start, seed_key, start_points
from bdal.experiment.warned import kept_warnings, where
from bdal.loop import query_limit, step_key
from bdal.pool import ABSTAIN, check_answers
from bdal.report import figures, tables
from bdal.selection import Query
from bdal.store import directory, parameters
from bdal.store.ledger import START, Ledger, Sets
from bdal.store.lock import lock
from bdal.strategy import QueryStrategy
from bdal.types import Oracle


class Method(NamedTuple):
    """A posterior and a strategy, ready to be run."""

    name: str  # "mc_dropout/bald"
    named: config.Named
    strategy: QueryStrategy
    programs: Programs


def run_experiment(
    experiment: config.Experiment, workdir: str | Path, *, parts: Parts = NO_PARTS,
    data: Dataset | None = None, oracle: Oracle | None = None, progress: Callable[..., Any] = Progress,
    allow_mismatch: bool = False,
) -> Path:  # fmt: skip
    """Run what is not finished, then write `table.md`, `table.csv`, `curves.png` and `curves.pdf`; gives the directory.

    Where people answer, it ends as soon as answers are wanted (`bdal.labelling`).

    Args:
      experiment: from `bdal.experiment.load_config`, or made in Python.
      workdir: the run directory; one that holds a part of this run already goes on.
      parts: models, posteriors, strategies and data sets of one's own, which the experiment names.
      data: a data set in the place of the one that the experiment names.
      oracle: `indices [Q] -> labels [Q]`, each a class or `bdal.ABSTAIN`, in the place of the labels of the data set.
      progress: a context manager as `bdal.experiment.progress.Progress`.
      allow_mismatch: go on in a directory whose config, data or environment differs, and have the report say so.

    Raises:
      ConfigError: an unknown name or option, parts that do not fit, or a directory that holds another run; before any
        training.
      DataNotFoundError: the data set's files are missing; says which, and where to put them.
      LockedError: another process works in the directory.
      LabelError: an answer that is no class. Nothing of it is written; the same query is asked for again next time.
    """
    if data is not None:
        given = replace(experiment.data, name=GIVEN, data_dir=None, options={})  # its pool, test and builders stay
        experiment = replace(experiment, data=given)
    prepared = prepare(experiment, oracle, parts=parts, data=data)
    with held(workdir) as folder:
        return advance(prepared, folder, progress, allow_mismatch=allow_mismatch)


@contextmanager
def held(workdir: str | Path) -> Iterator[Path]:
    """The run directory as an absolute path, made if it is not there, and locked."""
    workdir = Path(workdir).resolve()
    if jax.process_index():  # every host computes, the first one writes
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
        return
    directory.make(workdir)
    with kept_warnings(workdir), lock(workdir):
        yield workdir


def advance(
    prepared: Prepared, workdir: Path, progress: Callable[..., Any] = Progress, *, allow_mismatch: bool = False
) -> Path:
    """`run_experiment`, for a directory that is held."""
    experiment, data = prepared.experiment, prepared.data
    mismatches = directory.write_run(
        workdir, experiment, data.fingerprint, facts=facts(data), parts=prepared.parts, allow_mismatch=allow_mismatch
    )
    given = [] if prepared.initial is None else list(prepared.initial.labels)
    starts = {seed: start_points(experiment, data, seed, given) for seed in experiment.seed_numbers}
    groups = []
    for comparison, fit, strategies in zip(experiment.comparisons, prepared.fits, prepared.strategies, strict=True):
        together = run_together(experiment.together, fit, data)
        programs = programs_of(experiment, comparison, fit, together, data.num_classes)
        for strategy, chosen in zip(comparison.strategies, strategies, strict=True):
            name = comparison.method(strategy)
            ledgers = [
                Ledger(
                    seed, directory.seed_folder(workdir, comparison, strategy, seed),
                    directory.owner(workdir, name, seed),
                )
                for seed in experiment.seed_numbers
            ]  # fmt: skip
            for ledger in ledgers:
                check_start(ledger, starts[ledger.seed], experiment.labels.initial_file)
            left = [ledger for ledger in ledgers if not ledger.finished]
            method = Method(name, strategy, chosen, programs)
            # Seeds of one program stay together, the finished ones too: a program for fewer may round otherwise.
            for group in [ledgers] if together and left else [[ledger] for ledger in left]:
                groups.append(partial(_run_group, prepared, method, group, starts))
    with progress(total=len(groups) * (num_queries(experiment) + 1)) as report:
        for mismatch in mismatches:
            warnings.warn(f"goes on although it differs (there != now): {mismatch}", stacklevel=2)
        if not groups:
            report.line(f"finished already: nothing is left to run in {workdir}")
        for group in groups:
            group(report)

    rows = directory.results(workdir)
    if rows:
        summary = tables.write(rows, workdir)
        figures.learning_curves(rows, workdir / "curves", on="validation" if summary.measured else "test")
    return workdir


def num_queries(experiment: config.Experiment) -> int:
    """How many queries the budget of training labels is for."""
    return -(-(experiment.labels.training_labels - experiment.labels.initial) // experiment.query.size)


# -- a group of seeds in one program, round by round ------------------------------------------------------------------


class _Round(NamedTuple):
    """Where the runner is, and how long the phases took there."""

    number: int
    name: str
    report: Any
    seconds: dict[str, float]

    @contextmanager
    def phase(self, phase: str):
        self.report.stage(f"{self.name}, round {self.number}: {phase}")
        where.set(f"{self.name}, round {self.number}")
        start = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - start, 4)


def _run_group(prepared: Prepared, method: Method, ledgers: list[Ledger], starts, report) -> None:
    """Fit, query, evaluate, label, for every seed of the group in step; until all are finished, or people are asked."""
    experiment = prepared.experiment
    where.set(f"{method.name}, start")
    for ledger in ledgers:
        if not _start(prepared, ledger, starts[ledger.seed]):
            return
    start = min(ledger.completed_rounds() for ledger in ledgers)
    report.advance(start)

    for number in itertools.count(start):
        left = [ledger for ledger in ledgers if not ledger.finished or ledger.events[-1]["round"] >= number]
        if not left:
            return
        if any(_waits(prepared, ledger, number) for ledger in left):
            return
        at = _Round(number, method.name, report, {})
        sets = [_sets_before(prepared, ledger, number) for ledger in ledgers]
        rooms = [_room(experiment, known) if ledger in left else 0 for known, ledger in zip(sets, ledgers, strict=True)]
        for room, known in {room: known for room, known in zip(rooms, sets, strict=True) if room}.items():
            if room < experiment.query.size:
                whose = "the budget" if room == _budget(experiment, known) else "the pool"
                report.line(f"{method.name}: the last query has {room} points: {whose} has no more")
        outcomes = _compute(prepared, method, ledgers, at, sets, rooms, number == start)
        for ledger, outcome in zip(ledgers, outcomes, strict=True):
            if not ledger.finished:
                _keep(prepared, ledger, outcome, at, len(ledgers))
        report.line(_line(method.name, left, ledgers, outcomes, at))
        report.advance()
        if any(_waits(prepared, ledger, number) for ledger in left):
            return


def _waits(prepared: Prepared, ledger: Ledger, number: int) -> bool:
    """Whether a query still needs answers, after those kept earlier are used."""
    if prepared.oracle is not None or not ledger.unanswered(number):
        return False
    ledger.recall(number, num_classes=prepared.data.num_classes)
    return bool(ledger.unanswered(number))


class _Outcome(NamedTuple):
    """What a round gave for one seed."""

    measured: dict[str, Any]  # labels, points, members and scores; after the last round final ones too
    look: dict[str, Any]  # at the stop set
    query: Query  # of pool indices
    quantiles: list[float]  # of the scores, where there are any
    reason: str | None  # why it was the last round
    committee: Any  # where its parameters are kept
    told: dict[str, Any]  # of the fit: steps, the validation NLL, whether it diverged; for metrics alone


def _compute(prepared, method: Method, ledgers, at: _Round, sets: list[Sets], rooms, compile_all) -> list[_Outcome]:
    """Fit, query and evaluate; nothing of it is written, and all of it comes out the same when it is done again."""
    experiment, data, programs = prepared.experiment, prepared.data, method.programs
    labelled, validation, excluded = ([getattr(known, name) for known in sets] for name in Sets._fields[:3])
    keys = {
        purpose: [step_key(seed_key(experiment, ledger.seed), at.number, purpose) for ledger in ledgers]
        for purpose in ("fit", "query")
    }
    with at.phase("fit"):
        committee = jax.block_until_ready(programs.fit(keys["fit"], labelled, validation, data.pool))
    none = np.zeros(0, np.int32)
    queries, quantiles = [Query(none, none)] * len(ledgers), [[]] * len(ledgers)
    if any(rooms):
        with at.phase("query"):
            try:
                queries, quantiles = programs.query(
                    method.strategy, keys["query"], committee, labelled, validation, excluded, data.pool
                )
            except AttributeError as error:
                if getattr(error, "obj", None) is not committee:
                    raise
                raise ConfigError(
                    f"{method.name}: expected a committee with `{error.name}`, which this strategy looks at, got "
                    f"{type(committee).__name__} without"
                ) from error
    queries = [Query(query.indices[:room], query.gains[:room]) for query, room in zip(queries, rooms, strict=True)]
    with at.phase("evaluate"):
        looks = _looks_at_stop_set(prepared, programs, committee, ledgers, at.number)
        reasons = [
            _reason(experiment, method, ledgers[s], at.number, sets[s], rooms[s], queries[s].gains, looks[s])
            for s in range(len(ledgers))
        ]
        ends = [reason is not None and not ledger.finished for reason, ledger in zip(reasons, ledgers, strict=True)]
        scores = _evaluate(data, programs, committee, sets, ends, compile_all)
        most_predicted = [each.pop(MOST_PREDICTED) for each in scores]
    return [
        _Outcome(
            {
                "round": at.number,
                "labels": int(sets[s].labelled.count),
                "validation_labels": len(validation[s].indices),
                "abstained": sets[s].abstained,
                "members": programs.members,
                **scores[s],
            },
            looks[s], queries[s], quantiles[s], reasons[s],
            programs.of_seed(committee, s) if experiment.parameters == "last" else None,
            _told(committee, programs, s) | {MOST_PREDICTED: most_predicted[s]},
        )
        for s in range(len(ledgers))
    ]  # fmt: skip


def _keep(prepared: Prepared, ledger: Ledger, outcome: _Outcome, at: _Round, num_seeds: int) -> None:
    """Write what is not in the ledger yet, each event on disk before the next, and buy the labels."""
    number, measured = at.number, outcome.measured
    more = {"score_quantiles": outcome.quantiles} if outcome.quantiles else {}
    line = measured | {
        "fit": outcome.told,
        "gains": outcome.query.gains,
        **more,
        "seconds": at.seconds,
        "seeds": num_seeds,
    }
    ledger.record({"event": "evaluated", **measured, **outcome.look})
    ledger.measure(line)  # before people can answer: their answers are the end of this round
    if outcome.reason is not None:
        if prepared.experiment.parameters == "last":
            if parameters.can_be_saved(outcome.committee):
                parameters.save(ledger.folder / "parameters", outcome.committee)
            else:
                kind = type(outcome.committee).__name__
                warnings.warn(f"parameters: those of a {kind} are not kept: it is no tree of arrays", stacklevel=2)
        ledger.record({"event": "finished", "round": number, "reason": outcome.reason})
        return
    ledger.record({"event": "queried", "round": number, "indices": outcome.query.indices})
    missing = ledger.unanswered(number)
    if missing and prepared.oracle is not None:
        answers = prepared.oracle(np.asarray(missing, np.int32))
        ledger.tell(number, missing, answers, num_classes=prepared.data.num_classes)


def _room(experiment, known: Sets) -> int:
    charged = experiment.labels.abstain_cost * known.abstained
    return query_limit(known.labelled, known.excluded, experiment.query.size, charged)


def _budget(experiment, known: Sets) -> int:
    """How many training labels are left to be paid for."""
    labels = experiment.labels
    return labels.training_labels - int(known.labelled.count) - labels.abstain_cost * known.abstained


def _sets_before(prepared: Prepared, ledger: Ledger, number: int) -> Sets:
    labels, data = prepared.experiment.labels, prepared.data
    return ledger.sets(
        number, capacity=min(labels.training_labels, data.num_points), policy=labels.contradictions,
        num_points=data.num_points, num_classes=data.num_classes,
    )  # fmt: skip


def _reason(experiment, method: Method, ledger: Ledger, number: int, known: Sets, room: int, gains, look):
    """Why a run stops after this round; None if it does not."""
    rules, joint = experiment.stopping, method.named.name in stopping.JOINT_GAINS
    if room == 0:
        return "budget" if _budget(experiment, known) <= 0 else "exhausted"
    before = [ledger.find("evaluated", earlier) or {} for earlier in range(1, number)]
    return stopping.stop_reason(
        gains, [event["agreement"] for event in [*before, look] if "agreement" in event],
        num_members=method.programs.all_members if rules.ceiling and joint else None,
        window=rules.window, threshold=rules.kappa,
        no_gain=rules.no_gain if _gains_are_information(method.named) else None,
    )  # fmt: skip


def _gains_are_information(strategy: config.Named) -> bool:
    return strategy.name in stopping.INFORMATION_GAINS and strategy.options.get("score", "bald") in ("bald", "mean_kl")


def _looks_at_stop_set(prepared, programs, committee, ledgers, number: int) -> list[dict[str, Any]]:
    """Each seed's predictions on the stop set, and their agreement with the round before; nothing unless asked.

    The stop set is the same random points of the pool in every round.
    """
    experiment, data = prepared.experiment, prepared.data
    if not experiment.stopping.stabilised:
        return [{} for _ in ledgers]
    key = jax.random.fold_in(jax.random.key(experiment.seed), 2**31 - 2)
    rows = np.sort(np.asarray(jax.random.permutation(key, data.num_points))[: experiment.stopping.points])
    predictions = programs.predict(committee, jnp.asarray(data.pool[rows]))  # [S, B]
    looks = []
    for ledger, now in zip(ledgers, predictions, strict=True):
        before = ledger.find("evaluated", number - 1)
        look = {"predictions": now.tolist()}
        if before is not None and "predictions" in before:
            look["agreement"] = stopping.agreement(np.asarray(before["predictions"]), now, data.num_classes)
        looks.append(look)
    return looks


def _evaluate(data: Data, programs: Programs, committee, sets, ends, compile_all: bool) -> list[dict[str, Any]]:
    """For each seed the number of points, and accuracy, NLL, Brier score and ECE on them: one measure for all rounds.

    It is by the members and on the test points that the config asks for. Where a run ends it has beside it, as "final",
    the same by all members on all test points. Without a test set it is on the labels for validation, each point once.
    """
    on = {}
    few, every = data.quick_test, data.test
    if few is None or every is None:  # then a group is one seed
        held_out = sets[0].validation
        rows = np.unique(held_out.indices, return_index=True)[1]
        few = every = jnp.asarray(data.pool[held_out.indices[rows]]), jnp.asarray(held_out.labels[rows])
        on = {"on": "validation"}
    apart = programs.members < programs.all_members or len(few[1]) < len(every[1])
    if apart and compile_all:
        programs.compile_final(committee, *every, len(sets))
    values = final = programs.evaluate(committee, *few, programs.members)
    if apart and any(ends):
        final = programs.evaluate(committee, *every, programs.all_members)

    def of_seed(found, s: int) -> dict[str, float]:
        return {name: float(each[s]) for name, each in found.items()}

    final = {name: each for name, each in final.items() if name != MOST_PREDICTED}
    all_of_it = {"members": programs.all_members, "points": len(every[1])}
    return [
        {"points": len(few[1]), **on, **of_seed(values, s)} | ({"final": all_of_it | of_seed(final, s)} if last else {})
        for s, last in enumerate(ends)
    ]


def _told(committee, programs: Programs, s: int) -> dict[str, Any]:
    """What a committee says of the fit of a seed, as JSON; null where a number is not finite."""
    info = programs.of_seed(committee.info, s) if isinstance(committee, Committee) else {}

    def plain(value):
        return value if not isinstance(value, float) or np.isfinite(value) else None

    return {name: [plain(each) for each in np.ravel(np.asarray(value)).tolist()] for name, value in info.items()}


def _line(name, left, ledgers, outcomes, at: _Round) -> str:
    measured = [one.measured for ledger, one in zip(ledgers, outcomes, strict=True) if ledger in left]
    accuracy, labels = np.array([one["accuracy"] for one in measured]), sorted({one["labels"] for one in measured})
    who = f"{len(left)} of {len(ledgers)} seeds" if len(left) < len(ledgers) else f"{len(left)} seeds"
    who = f"seed {left[0].seed}" if len(left) == 1 else who
    count = f"{labels[0]}" if len(labels) == 1 else f"{labels[0]}-{labels[-1]}"
    spread = f" ± {accuracy.std(ddof=1):.3f}" if len(accuracy) > 1 else ""
    early = ", ".join(sorted({one.reason for one in outcomes if one.reason not in (None, "budget")}))
    return (
        f"{name:<32} {who}, round {at.number:>2}: {count:>4} labels, accuracy {accuracy.mean():.3f}{spread}, "
        f"{sum(at.seconds.values()):.1f} s{f', ended: {early}' if early else ''}"
    )


# -- labels to start with ---------------------------------------------------------------------------------------------


def _start(prepared: Prepared, ledger: Ledger, parts: dict[str, np.ndarray]) -> bool:
    """Buy the labels to start with, the same for every strategy; False while people have not answered."""
    experiment, data = prepared.experiment, prepared.data
    given = {} if prepared.initial is None else prepared.initial.labels
    every = np.concatenate(list(parts.values()))
    if prepared.oracle is None:
        ledger.record({"event": "queried", "round": START, "indices": every})
        if prepared.initial is not None and ledger.find("initial") is None:
            ledger.tell(
                START, list(given), list(given.values()), num_classes=data.num_classes, source=prepared.initial.source
            )
        if _waits(prepared, ledger, START):
            return False
    for event, indices in parts.items():
        if ledger.find(event) is None:
            if prepared.oracle is None:
                settled = ledger.settled(experiment.labels.contradictions)
                labels = [settled[index] for index in indices.tolist()]
            elif event == "initial" and given:
                labels = list(given.values())
            else:
                labels = prepared.oracle(indices) if len(indices) else []
            labels = check_answers(np.asarray(labels, int if not len(indices) else None), indices, data.num_classes)
            nulls = [None if label == ABSTAIN else label for label in labels.tolist()]
            ledger.record({"event": event, "indices": indices, "labels": nulls})
    return True
