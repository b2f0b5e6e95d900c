"""What may be concluded from a run: the statistics of `bdal.statistics` on its evaluations.

A curve is a mapping of label counts to a metric, for one seed.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.errors import ConfigError
from bdal.statistics import (
    HIGHER,
    LOWER,
    SAME,
    TOO_FEW,
    Comparison,
    Curve,
    Interval,
    Penalties,
    Range,
    Reached,
    area,
    bootstrap_interval,
    censored_test,
    common_range,
    compare,
    holm,
    interquartile_mean,
    judge,
    labels_to,
    median_labels,
    penalty_matrix,
    sd_range,
    seeds_needed,
    student_t,
    visible_gap,
)  # fmt: skip
from bdal.store import directory
from bdal.store.directory import Row, SeedRun

HIGHER_IS_BETTER = {"accuracy": True, "nll": False, "brier": False, "ece": False}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of accuracy, to choose from
GAPS = {"accuracy": (0.005, 0.01, 0.02, 0.05), "nll": (0.02, 0.05, 0.1, 0.2)}  # and as accuracy for the others


class About(NamedTuple):
    """What is known of a run beyond its rows; by default nothing."""

    end: int | None = None  # training labels that were planned
    finished: frozenset[tuple[str, str, int]] | None = None  # posterior, strategy, seed; None: all, as far as they are
    planned: frozenset[tuple[str, str, int]] = frozenset()
    on: str = "test"  # what is measured on: the test set, or "validation" where there is none
    points: tuple[int, int] = (0, 0)  # the fewest and the most labels for validation that it is measured on
    asked: int = 0  # of so many; for the others the oracle abstained
    finals: tuple[Row, ...] = ()  # what each finished run ended with, by all members on all test points


ROWS_ONLY = About()


class Standing(NamedTuple):
    """The area under a strategy's curves over its seeds."""

    strategy: str
    seeds: int
    area: Interval
    interquartile_mean: float
    interquartile_mean_range: Range  # its 95 % percentile bootstrap interval


class Threshold(NamedTuple):
    """How many labels a strategy needed to come to a threshold, and whether the reference needed more."""

    threshold: float
    strategy: str
    median: int | None  # Kaplan–Meier; None: more than `last`
    reached: int  # seeds that came there
    ended: int  # seeds that ended before the median without having come there
    seeds: int
    last: int  # the label count that the longest of its seeds came to
    pairs: int  # with the reference; 0 for itself
    p: float
    adjusted: float
    verdict: str  # HIGHER (needs more labels than the reference), LOWER, SAME, TOO_FEW; "" for the reference itself


class Seeds(NamedTuple):
    """Paired seeds that see a gap with 80 % power, at the observed sd and the ends of its range; None: over 10,000."""

    gap: float
    expected: int | None
    low: int | None
    high: int | None


class Needed(NamedTuple):
    """How many seeds it takes to tell a strategy from the reference."""

    strategy: str
    pairs: int
    sd: float  # of the paired differences
    sd_range: Range  # its own 95 % interval
    visible: float  # the gap that these pairs see with 80 % power; infinite: none
    gaps: tuple[Seeds, ...]


class Analysis(NamedTuple):
    """Everything that the seeds of one posterior say about one metric.

    `against` is what is asked of a run; `pairs` and `thresholds` are exploratory, each a family of its own.
    """

    posterior: str
    metric: str
    asked: str  # what each strategy was to be compared with
    reference: str | None  # the same; None where it has no curve
    level: float
    low: int  # labels from ...
    high: int  # ... to, that all curves have
    end: int  # the label count that was planned, or that the longest curve came to
    shortest: tuple[tuple[str, int], ...]  # (strategy, seed) whose curves end at `high`, if that is before `end`
    left_out: tuple[tuple[str, int], ...]  # (strategy, seed) that was planned or begun and has not finished
    unpaired: tuple[str, ...]  # strategies without a seed in common with the reference
    areas: Mapping[str, Mapping[int, float]]  # of each strategy and seed
    standings: tuple[Standing, ...]  # the best area first
    against: tuple[Comparison, ...]  # the reference
    family: tuple[int, int]  # comparisons among which these are corrected, and of how many posteriors they are
    pairs: tuple[Comparison, ...]  # of the others with one another
    penalties: Penalties
    thresholds: tuple[Threshold, ...]
    needed: tuple[Needed, ...]

    @property
    def best_two(self) -> Comparison | None:
        """The comparison of the largest area with the second largest; None where there is none."""
        best = {entry.strategy for entry in self.standings[:2]}
        return next(
            (found for found in [*self.against, *self.pairs] if {found.strategy, found.reference} == best), None
        )


def analyse(
    rows: Sequence[Row],
    posterior: str,
    *,
    metric: str = "accuracy",
    reference: str = "random",
    finished: Collection[tuple[str, int]] | None = None,
    planned: Collection[tuple[str, int]] = (),
    end: int | None = None,
    thresholds: Sequence[float] | None = None,
    gaps: Sequence[float] | None = None,
    level: float = 0.05,
    resamples: int = 9999,
) -> Analysis:
    """What the rows of a run directory say about one metric of one posterior, over paired seeds.

    What is compared is the area under the curve, over the labels that all curves have; where they have one label count
    in common only, nothing is compared. Several posteriors are several chances of a false alarm: `as_one_family`.

    Args:
      metric: "accuracy", "nll", "brier" or "ece".
      reference: each strategy is compared with it; it may be missing.
      finished: (strategy, seed) that have come to their end, by budget or by a stopping rule; the others are left out
        and named, as are those without the metric. None: all are taken as they are, so one that has just begun shortens
        the range for all.
      planned: (strategy, seed) that there are to be; those without a curve are named too.
      end: the label count that was planned; who ends before it and so shortens the range for all is named. None: the
        last of the longest curve.
      thresholds: of the metric; by default two round ones of accuracy, chosen without a look at who reached them.
      gaps: differences to count the seeds for.
      resamples: of each bootstrap; 0 leaves the bootstrap intervals out.

    Raises:
      ValueError: no such metric or no rows, or curves without labels in common.
    """
    if metric not in HIGHER_IS_BETTER:
        raise ValueError(f"metric: expected one of {', '.join(HIGHER_IS_BETTER)}, found {metric!r}")
    higher = HIGHER_IS_BETTER[metric]
    curves: dict[str, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    left_out = set(planned)
    for row in rows:
        if row.posterior != posterior:
            continue
        value = getattr(row, metric)
        if (finished is not None and (row.strategy, row.seed) not in finished) or math.isnan(value):
            left_out.add((row.strategy, row.seed))
        else:
            curves[row.strategy][row.seed][row.labels] = value
    if not curves:
        raise ValueError(f"rows: expected evaluations of {posterior!r} that finished, found none with {metric}")

    left_out -= {(name, seed) for name, seeds in curves.items() for seed in seeds}
    every = [curve for seeds in curves.values() for curve in seeds.values()]
    low, high = common_range(every)
    areas = {name: {seed: area(curve, low, high) for seed, curve in seeds.items()} for name, seeds in curves.items()}
    areas = dict(
        sorted(areas.items(), key=lambda item: (np.mean(list(item[1].values())) * (-1 if higher else 1), item[0]))
    )
    curves = {name: curves[name] for name in areas}
    end = max(map(max, every)) if end is None else end
    shortest = [(name, seed) for name, seeds in curves.items() for seed, curve in seeds.items() if max(curve) == high]
    known = reference if reference in areas else None
    others = {name: seeds for name, seeds in areas.items() if name != known}
    options: Any = {"higher_is_better": higher, "level": level, "resamples": resamples}
    against = compare(areas, reference=known, **options) if known and low < high else []
    chosen = _round_thresholds(every, metric, low) if thresholds is None else thresholds
    gaps = GAPS.get(metric, GAPS["accuracy"]) if gaps is None else gaps
    return Analysis(
        posterior=posterior,
        metric=metric,
        asked=reference,
        reference=known,
        level=level,
        low=low,
        high=high,
        end=end,
        shortest=tuple(sorted(shortest)) if high < end else (),
        left_out=tuple(sorted(left_out)),
        unpaired=tuple(name for name in others if known and not others[name].keys() & areas[known].keys()),
        areas=areas,
        standings=tuple(_standing(name, list(seeds.values()), resamples) for name, seeds in areas.items()),
        against=tuple(against),
        family=(len(against), 1),
        pairs=tuple(compare(others, **options)) if low < high else (),
        penalties=penalty_matrix(curves, higher_is_better=higher, level=level),
        thresholds=tuple(_thresholds(curves, chosen, known, higher, level)),
        needed=tuple(_needed(comparison, len(against), level, gaps) for comparison in against),
    )


def about(
    runs: Iterable[SeedRun], planned: Iterable[tuple[str, str, int]], end: int | None, abstain_cost: int = 1
) -> About:
    """What ledgers and a plan say beyond the rows."""
    runs = list(runs)
    events = [event for run in runs for event in run.events if event.get("event") == "evaluated"]
    held_out = [event for event in events if event.get("on") == "validation"]
    points = [event.get("points", 0) for event in held_out]
    return About(
        end,
        frozenset(run[:3] for run in runs if run.reason),
        frozenset(planned),
        "validation" if held_out else "test",
        (min(points, default=0), max(points, default=0)),
        max((event.get("validation_labels", 0) for event in held_out), default=0),
        tuple(sorted(row for run in runs if (row := directory.final_row(run, abstain_cost)))),
    )


def about_directory(workdir: str | Path) -> About:
    """What a run directory says beyond its rows; of a config that cannot be read, nothing is planned."""
    runs = directory.seed_runs(workdir)
    try:
        experiment = directory.experiment_of(workdir)
    except ConfigError:
        return about(runs, (), None)
    planned = [
        (comparison.posterior.label, strategy.label, seed)
        for comparison in experiment.comparisons
        for strategy in comparison.strategies
        for seed in experiment.seed_numbers
    ]
    return about(runs, planned, experiment.labels.training_labels, experiment.labels.abstain_cost)


def analyse_all(rows: Sequence[Row], known: About = ROWS_ONLY, *, resamples: int = 9999) -> dict[str, Analysis]:
    """`analyse` for each posterior, as one family; those whose runs have no labels in common are left out.

    Only finished runs are compared, but of a posterior of which none has finished, all as far as they are.
    """
    found = {}
    for posterior in dict.fromkeys(row.posterior for row in rows):
        finished = {run[1:] for run in known.finished or () if run[0] == posterior}
        planned = [run[1:] for run in known.planned if run[0] == posterior]
        with suppress(ValueError):
            found[posterior] = analyse(
                rows, posterior, finished=finished or None, planned=planned, end=known.end, resamples=resamples
            )
    return dict(zip(found, as_one_family(list(found.values())), strict=True))


def as_one_family(analyses: Sequence[Analysis]) -> list[Analysis]:
    """Analyses of several posteriors with their comparisons with the reference judged as one family of tests.

    Whether one is different is what a reader looks for in all of them at once, so the correction is for all of them.
    """
    every = [found for analysis in analyses for found in analysis.against]
    posteriors = sum(bool(analysis.against) for analysis in analyses)
    level = min((analysis.level for analysis in analyses), default=0.05)
    judged = iter(judge(every, level=level))
    together = []
    for analysis in analyses:
        against = tuple(next(judged) for _ in analysis.against)
        needed = tuple(
            _needed(found, len(every), level, [seeds.gap for seeds in known.gaps])
            for found, known in zip(against, analysis.needed, strict=True)
        )
        together.append(analysis._replace(against=against, family=(len(every), posteriors), needed=needed))
    return together


def _standing(strategy: str, areas: Sequence[float], resamples: int) -> Standing:
    spread = bootstrap_interval(areas, _interquartile_means, method="percentile", resamples=resamples)
    return Standing(strategy, len(areas), student_t(areas), interquartile_mean(areas), spread)


def _interquartile_means(values: np.ndarray, axis: int) -> np.ndarray:
    from scipy.stats import trim_mean

    return trim_mean(values, 0.25, axis=axis)


def _round_thresholds(curves: Sequence[Curve], metric: str, low: int) -> tuple[float, ...]:
    """The two highest round accuracies that a quarter of all runs reached and half of them did not start with."""
    if metric != "accuracy":
        return ()
    fit = []
    for threshold in THRESHOLDS:
        reached = [labels_to(curve, threshold) for curve in curves]
        there = sum(event for _, event in reached)
        at_start = sum(event and labels <= low for labels, event in reached)
        if 4 * there >= len(curves) and 2 * at_start < len(curves):
            fit.append(threshold)
    return tuple(fit[-2:])


def _thresholds(
    curves: Mapping[str, Mapping[int, Curve]],
    thresholds: Sequence[float],
    reference: str | None,
    higher: bool,
    level: float,
) -> list[Threshold]:
    """A line a threshold and strategy; the comparisons with the reference, at all thresholds, are one family."""
    reached = {
        (threshold, name): {seed: labels_to(curve, threshold, higher_is_better=higher) for seed, curve in seeds.items()}
        for threshold in thresholds
        for name, seeds in curves.items()
    }
    tests: dict[tuple[float, str], tuple[int, int, float]] = {}
    for (threshold, name), own in reached.items():
        if reference is None or name == reference:
            continue
        other = reached[threshold, reference]
        if seeds := sorted(own.keys() & other.keys()):
            pair = censored_test([own[seed] for seed in seeds], [other[seed] for seed in seeds])
            tests[threshold, name] = (len(seeds), *pair)
    adjusted = dict(zip(tests, holm([p for _, _, p in tests.values()]), strict=True))
    least = dict(zip(tests, holm([2.0 ** (1 - pairs) for pairs, _, _ in tests.values()]), strict=True))

    found = []
    for key, own in reached.items():
        pairs, direction, p = tests.get(key, (0, 0, math.nan))
        verdict = "" if not pairs else TOO_FEW if least[key] > level else SAME
        if verdict == SAME and adjusted[key] <= level:
            verdict = HIGHER if direction > 0 else LOWER
        counts = _counts(list(own.values()))
        last = max(max(curve) for curve in curves[key[1]].values())
        found.append(Threshold(*key, *counts, last, pairs, p, float(adjusted.get(key, math.nan)), verdict))
    return found


def _counts(reached: Sequence[Reached]) -> tuple[int | None, int, int, int]:
    """The median, how many seeds came there, how many ended before it without, and how many there are."""
    median = median_labels(reached)
    ended = sum(not event and median is not None and labels < median for labels, event in reached)
    return median, sum(event for _, event in reached), ended, len(reached)


def _needed(comparison: Comparison, comparisons: int, level: float, gaps: Sequence[float]) -> Needed:
    def seeds(gap: float, sd: float) -> int | None:
        return seeds_needed(gap, sd, level=level, comparisons=comparisons)

    strategy, pairs, sd = comparison.strategy, comparison.pairs, comparison.sd
    spread = sd_range(sd, pairs)
    visible = visible_gap(pairs, sd, level=level, comparisons=comparisons)
    counts = [Seeds(gap, seeds(gap, sd), seeds(gap, spread.low), seeds(gap, spread.high)) for gap in gaps if pairs > 1]
    return Needed(strategy, pairs, sd, spread, visible, tuple(counts))
