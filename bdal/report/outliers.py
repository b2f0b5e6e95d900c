"""Outlying seeds: runs whose curve or whose end lies far below those of the strategy's other seeds.

Where one seed of ten is such, a Student t interval of ten holds the truth three times out of four, not 95 times in 100
(docs/statistics.md). They stay in all numbers; the report and the table name them.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bdal.report.analysis import Analysis
from bdal.report.words import both, under
from bdal.statistics import far_below
from bdal.store.directory import Row

NEAR = 0.9  # of the labels of the longest run: the ends of runs that a rule stopped before are no worse, but earlier
MARK = "†"


class Outlier(NamedTuple):
    """A seed that lies far below the others."""

    posterior: str
    strategy: str
    seed: int
    what: str  # "area" or "final accuracy"
    value: float
    median: float  # of all seeds of the strategy, this one included
    seeds: int  # that were compared


def outliers(analyses: Iterable[Analysis], finals: Sequence[Row]) -> list[Outlier]:
    """The seeds that lie far below the others in the area under accuracy, or in the final accuracy.

    Of a strategy's runs, the ends of those are compared that have nine tenths of the labels of the longest.
    """
    most: dict[tuple[str, str], int] = defaultdict(int)
    for row in finals:
        most[row[:2]] = max(most[row[:2]], row.labels)
    ends: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in finals:
        if row.labels >= NEAR * most[row[:2]]:
            ends[row.posterior][row.strategy][row.seed] = row.accuracy
    found = []
    for analysis in (each for each in analyses if each.metric == "accuracy"):
        for what, values in (("area", analysis.areas), ("final accuracy", ends[analysis.posterior])):
            for strategy, seed in far_below(values):
                seeds = values[strategy]
                median = float(np.median([*seeds.values()]))
                found.append(Outlier(analysis.posterior, strategy, seed, what, seeds[seed], median, len(seeds)))
    return found


def sentences(found: Iterable[Outlier]) -> list[str]:
    """Which seeds they are, a sentence each strategy, and what that means for the intervals; nothing of none.

    >>> print(sentences([Outlier("mc_dropout", "bald", 3, "area", 0.55, 0.82, 5)])[0])
    † bald under MC dropout: seed 3 lies far below the others in area (55.0 %; median of 5 seeds 82.0 %).
    """
    said: dict[tuple[str, str], dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        numbers = f"({100 * one.value:.1f} %; median of {one.seeds} seeds {100 * one.median:.1f} %)"
        said[one[:2]][one.seed].append(f"{one.what} {numbers}")
    texts = [
        f"{MARK} {strategy}{under(posterior)}: "
        f"{both(f'seed {seed} lies far below the others in {both(of)}' for seed, of in seeds.items())}."
        for (posterior, strategy), seeds in said.items()
    ]
    meaning = (
        "Such a seed stays in all numbers. Intervals that it is in, of its strategy and of differences from it, hold "
        "the truth less often than 95 times in 100 (docs/statistics.md)."
    )
    return [*texts, meaning] if texts else []
