"""Every strategy against every other: differences, tests as one family, verdicts, and the penalty matrix."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from bdal.statistics.curves import Curve, common_range
from bdal.statistics.estimates import Interval, Range, bootstrap_interval, student_t
from bdal.statistics.significance import (
    CORRECTIONS,
    paired_differences,
    pairs_needed,
    signed_rank,
    signed_ranks,
)

HIGHER, LOWER = "higher", "lower"
SAME = "cannot be told apart"
TOO_FEW = "too few seeds to tell"


class Comparison(NamedTuple):
    """`strategy − reference` over the seeds that both have, and what may be said of it."""

    strategy: str
    reference: str
    pairs: int
    difference: Interval  # mean and half-width of the 95 % Student t interval
    bca: Range  # bootstrap interval: too narrow for few seeds, and decides nothing
    sd: float  # of the differences
    better: int  # pairs in which `strategy` is the better one
    direction: int  # of the ranks: 1 if `strategy` is higher, −1 if lower
    p: float  # exact two-sided signed-rank test
    adjusted: float  # for all comparisons of the family
    verdict: str  # HIGHER, LOWER, SAME or TOO_FEW
    needed: int  # pairs with which all comparisons of the family can reach the level


def compare(
    values: Mapping[str, Mapping[int, float]],
    *,
    reference: str | None = None,
    higher_is_better: bool = True,
    correction: str = "holm",
    level: float = 0.05,
    resamples: int = 9999,
) -> list[Comparison]:
    """One number a strategy and seed, compared over the seeds that two strategies share: one family of tests.

    A difference is called higher or lower only if the exact signed-rank test says so after the correction and the mean
    difference has the same sign. With fewer than 6 pairs (more for more comparisons) 5 % cannot be reached, and the
    verdict is that there are too few seeds.

    Args:
      values: strategy to seed to value, of any metric.
      reference: each other strategy is compared with this one; None compares all pairs. Two strategies without a seed
        in common are not compared.
      correction: "holm" or "benjamini_hochberg".
      resamples: of the bootstrap; 0 leaves it out.

    Raises:
      ValueError: a value that is not finite, or a reference or correction that there is not.

    >>> scores = {"random": dict(enumerate([0.80, 0.81, 0.79, 0.82, 0.80, 0.81]))}
    >>> scores["margin"] = {seed: value + 0.02 + 0.001 * seed for seed, value in scores["random"].items()}
    >>> [(result.verdict, result.p) for result in compare(scores, reference="random")]
    [('higher', 0.03125)]
    """
    if correction not in CORRECTIONS:
        raise ValueError(f"correction: expected one of {', '.join(CORRECTIONS)}, found {correction!r}")
    if reference is not None and reference not in values:
        raise ValueError(f"reference: expected one of {', '.join(values)}, found {reference!r}")
    if bad := [(name, seed) for name in values for seed, value in values[name].items() if not math.isfinite(value)]:
        raise ValueError(f"values: expected finite numbers, found {values[bad[0][0]][bad[0][1]]} for {bad[0]}")
    names = (
        combinations(values, 2) if reference is None else [(name, reference) for name in values if name != reference]
    )
    shared = [(a, b, seeds) for a, b in names if (seeds := sorted(values[a].keys() & values[b].keys()))]
    found = []
    for a, b, seeds in shared:
        difference = paired_differences([values[a][seed] for seed in seeds], [values[b][seed] for seed in seeds])
        bca = bootstrap_interval(difference, resamples=resamples)
        sd = float(difference.std(ddof=1)) if len(seeds) > 1 else math.nan
        better = int(((difference > 0) if higher_is_better else (difference < 0)).sum())
        direction, p = int(np.sign(sum(signed_ranks(difference)))), signed_rank(difference)
        found.append(
            Comparison(a, b, len(seeds), student_t(difference), bca, sd, better, direction, p, p, SAME, len(seeds))
        )
    return judge(found, correction=correction, level=level)


def judge(comparisons: Sequence[Comparison], *, correction: str = "holm", level: float = 0.05) -> list[Comparison]:
    """Comparisons, however they were made, corrected as one family, with the verdicts that follow.

    >>> def against(gain):
    ...     return compare({"a": {seed: gain * seed for seed in range(1, 7)}, "b": dict.fromkeys(range(1, 7), 0.0)})
    >>> [found.verdict for found in against(1.0)], [found.verdict for found in judge([*against(1.0), *against(2.0)])]
    (['higher'], ['too few seeds to tell', 'too few seeds to tell'])
    """
    adjusted = CORRECTIONS[correction]([found.p for found in comparisons])
    least = CORRECTIONS[correction]([2.0 ** (1 - found.pairs) for found in comparisons])
    needed = pairs_needed(max(1, len(comparisons)), level, correction)
    judged = []
    for found, corrected, attainable in zip(comparisons, adjusted, least, strict=True):
        verdict = TOO_FEW if attainable > level else SAME
        if attainable <= level and corrected <= level and found.direction == np.sign(found.difference.mean):
            verdict = HIGHER if found.direction > 0 else LOWER
        judged.append(found._replace(adjusted=float(corrected), verdict=verdict, needed=needed))
    return judged


class Penalties(NamedTuple):
    """`matrix[i, j]`: the share of label counts at which strategy i beats strategy j; NaN with fewer than two pairs."""

    strategies: tuple[str, ...]
    matrix: np.ndarray
    labels: int  # how many label counts

    @property
    def beaten(self) -> np.ndarray:
        """How often a strategy is beaten, `[A]`: the mean of its column without the diagonal. Lower is better."""
        return self.matrix.sum(0) / max(1, len(self.strategies) - 1)


def penalty_matrix(
    curves: Mapping[str, Mapping[int, Curve]], *, higher_is_better: bool = True, level: float = 0.05
) -> Penalties:
    """The pairwise penalty matrix: P_ij += 1/L at each of L label counts where i beats j, t_ij = √n μ / σ > t(n − 1).

    μ and σ are mean and standard deviation of the paired differences of n seeds; t is Student's quantile, two-sided,
    2.776 for five seeds. Label counts are those of all curves within their common range, straight lines between. It
    describes and corrects nothing: where nothing differs, an entry is at most 0.025 on average, and less of few label
    counts, as the first is one model for all.

    Ash et al. (2020), "Deep batch active learning by diverse, uncertain gradient lower bounds", §4 (they take label
    counts that double, where these are all that were measured).

    >>> high, low = {10: 0.6, 20: 0.9}, {10: 0.6, 20: 0.8}
    >>> penalty_matrix({"margin": {0: high, 1: high}, "random": {0: low, 1: low}}).matrix.tolist()
    [[0.0, 0.5], [0.0, 0.0]]
    """
    from scipy.special import stdtrit

    every = [curve for seeds in curves.values() for curve in seeds.values()]
    low, high = common_range(every)
    grid = sorted({low, high} | {labels for curve in every for labels in curve if low <= labels <= high})
    values = {
        name: {seed: np.interp(grid, sorted(curve), [curve[n] for n in sorted(curve)]) for seed, curve in seeds.items()}
        for name, seeds in curves.items()
    }
    matrix = np.zeros((len(curves), len(curves)))
    for (i, a), (j, b) in combinations(enumerate(curves), 2):
        seeds = sorted(values[a].keys() & values[b].keys())
        if len(seeds) < 2:
            matrix[i, j] = matrix[j, i] = math.nan
            continue
        gains = paired_differences(*(np.array([values[name][seed] for seed in seeds]) for name in (a, b)))
        gains = gains if higher_is_better else -gains
        edge = stdtrit(len(seeds) - 1, 1 - level / 2) * gains.std(0, ddof=1) / math.sqrt(len(seeds))
        matrix[i, j], matrix[j, i] = np.mean(gains.mean(0) > edge), np.mean(-gains.mean(0) > edge)
    return Penalties(tuple(curves), matrix, len(grid))
