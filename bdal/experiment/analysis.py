"""What may be concluded from a run: the statistics of `bdal.experiment.statistics` on its evaluations.

A curve is a mapping of label counts to a metric, for one seed.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bdal.experiment.directory import Row
from bdal.experiment.statistics import (
    HIGHER,
    LOWER,
    SAME,
    TOO_FEW,
    Comparison,
    Curve,
    Interval,
    Penalties,
    Range,
    area,
    bootstrap_interval,
    censored_test,
    common_range,
    compare,
    holm,
    interquartile_mean,
    labels_to,
    median_labels,
    penalty_matrix,
    sd_range,
    seeds_needed,
    student_t,
    visible_gap,
)  # fmt: skip

HIGHER_IS_BETTER = {"accuracy": True, "nll": False, "brier": False, "ece": False}
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of accuracy, to choose from
GAPS = {"accuracy": (0.005, 0.01, 0.02, 0.05), "nll": (0.02, 0.05, 0.1, 0.2)}  # and as accuracy for the others


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
    """Everything that the seeds of one posterior say about one metric."""

    posterior: str
    metric: str
    reference: str | None
    level: float
    low: int  # labels from ...
    high: int  # ... to, that all curves have
    left_out: tuple[tuple[str, int], ...]  # (strategy, seed) that has not finished
    standings: tuple[Standing, ...]  # the best area first
    against: tuple[Comparison, ...]  # the reference; one family
    pairs: tuple[Comparison, ...]  # all of them; one family
    penalties: Penalties
    thresholds: tuple[Threshold, ...]
    needed: tuple[Needed, ...]


def analyse(
    rows: Sequence[Row],
    posterior: str,
    *,
    metric: str = "accuracy",
    reference: str = "random",
    finished: Collection[tuple[str, int]] | None = None,
    thresholds: Sequence[float] | None = None,
    gaps: Sequence[float] | None = None,
    level: float = 0.05,
    resamples: int = 9999,
) -> Analysis:
    """What the rows of a run directory say about one metric of one posterior, over paired seeds.

    What is compared is the area under the curve, over the labels that all curves have.

    Args:
      metric: "accuracy", "nll", "brier" or "ece".
      reference: each strategy is compared with it; it may be missing.
      finished: (strategy, seed) that have come to their end, by budget or by a stopping rule; the others are left out
        and named. None: all are taken as they are, so one that has just begun shortens the range for all.
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
    left_out = set()
    for row in rows:
        if row.posterior != posterior:
            continue
        if finished is not None and (row.strategy, row.seed) not in finished:
            left_out.add((row.strategy, row.seed))
        else:
            curves[row.strategy][row.seed][row.labels] = getattr(row, metric)
    if not curves:
        raise ValueError(f"rows: expected evaluations of {posterior!r} that finished, found none")

    every = [curve for seeds in curves.values() for curve in seeds.values()]
    low, high = common_range(every)
    areas = {name: {seed: area(curve, low, high) for seed, curve in seeds.items()} for name, seeds in curves.items()}
    areas = dict(
        sorted(areas.items(), key=lambda item: (np.mean(list(item[1].values())) * (-1 if higher else 1), item[0]))
    )
    curves = {name: curves[name] for name in areas}
    known = reference if reference in areas else None
    options = {"higher_is_better": higher, "level": level, "resamples": resamples}
    against = compare(areas, reference=known, **options) if known else []
    chosen = _round_thresholds(every, metric, low) if thresholds is None else thresholds
    lines = [line for threshold in chosen for line in _threshold(curves, threshold, known, higher, level)]
    gaps = GAPS.get(metric, GAPS["accuracy"]) if gaps is None else gaps
    return Analysis(
        posterior=posterior,
        metric=metric,
        reference=known,
        level=level,
        low=low,
        high=high,
        left_out=tuple(sorted(left_out)),
        standings=tuple(_standing(name, list(seeds.values()), resamples) for name, seeds in areas.items()),
        against=tuple(against),
        pairs=tuple(compare(areas, **options)),
        penalties=penalty_matrix(curves, higher_is_better=higher, level=level),
        thresholds=tuple(lines),
        needed=tuple(_needed(comparison, len(against), level, gaps) for comparison in against),
    )


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


def _threshold(
    curves: Mapping[str, Mapping[int, Curve]], threshold: float, reference: str | None, higher: bool, level: float
) -> list[Threshold]:
    """A line a strategy; the comparisons with the reference are one family."""
    reached = {
        name: {seed: labels_to(curve, threshold, higher_is_better=higher) for seed, curve in seeds.items()}
        for name, seeds in curves.items()
    }
    tests: dict[str, tuple[int, int, float]] = {}
    for name in reached:
        if (
            reference is not None
            and name != reference
            and (seeds := sorted(reached[name].keys() & reached[reference].keys()))
        ):
            pair = censored_test([reached[name][seed] for seed in seeds], [reached[reference][seed] for seed in seeds])
            tests[name] = (len(seeds), *pair)
    adjusted = dict(zip(tests, holm([p for _, _, p in tests.values()]), strict=True))
    least = dict(zip(tests, holm([2.0 ** (1 - pairs) for pairs, _, _ in tests.values()]), strict=True))

    found = []
    for name, seeds in reached.items():
        pairs, direction, p = tests.get(name, (0, 0, math.nan))
        verdict = "" if not pairs else TOO_FEW if least[name] > level else SAME
        if verdict == SAME and adjusted[name] <= level:
            verdict = HIGHER if direction > 0 else LOWER
        values = list(seeds.values())
        last = max(max(curve) for curve in curves[name].values())
        there, corrected = sum(event for _, event in values), float(adjusted.get(name, math.nan))
        line = (median_labels(values), there, len(values), last, pairs, p, corrected, verdict)
        found.append(Threshold(threshold, name, *line))
    return found


def _needed(comparison: Comparison, comparisons: int, level: float, gaps: Sequence[float]) -> Needed:
    def seeds(gap: float, sd: float) -> int | None:
        return seeds_needed(gap, sd, level=level, comparisons=comparisons)

    strategy, pairs, sd = comparison.strategy, comparison.pairs, comparison.sd
    spread = sd_range(sd, pairs)
    visible = visible_gap(pairs, sd, level=level, comparisons=comparisons)
    counts = [Seeds(gap, seeds(gap, sd), seeds(gap, spread.low), seeds(gap, spread.high)) for gap in gaps if pairs > 1]
    return Needed(strategy, pairs, sd, spread, visible, tuple(counts))
