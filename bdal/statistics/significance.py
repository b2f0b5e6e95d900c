"""Exact tests of paired seeds, and their corrections."""

import functools
import math
from collections.abc import Sequence

import numpy as np

from bdal.statistics.curves import Reached
from bdal.statistics.estimates import Values


def paired_differences(a: Values, b: Values) -> np.ndarray:
    """`a − b`, `[n, ...]`, in whole steps of 2⁻²⁰ of the median value: what differs by float32 rounding only is tied.

    >>> abs(float(paired_differences([0.3, 0.2], [0.1 + 0.2, 0.1])[0]))
    0.0
    """
    first, second = np.asarray(a, float), np.asarray(b, float)
    if first.shape != second.shape or first.ndim == 0:
        raise ValueError(f"a, b: expected one value a seed, paired, found shapes {first.shape} and {second.shape}")
    if not len(first):
        return first - second
    usual = np.median(np.maximum(np.abs(first), np.abs(second)), axis=0)  # one seed that diverged does not set it
    step = 2.0**-20 * np.where(usual > 0, usual, 1)
    return np.rint((first - second) / step) * step


def sign_flip(weights: Sequence[int]) -> float:
    """P(|Σ ±w| ≥ |Σ w|) over all 2ⁿ choices of signs, each as likely: the exact p-value of paired integers, two-sided.

    >>> sign_flip([1, 2, 3, 4, 5, 6])
    0.03125
    """
    distribution = sums(tuple(sorted(abs(int(weight)) for weight in weights)))
    total = len(distribution) - 1
    extreme = (total + abs(int(sum(weights)))) // 2  # of the positive part: Σ ±w = 2 · it − total
    return min(1.0, float(distribution[extreme:].sum() + distribution[: total - extreme + 1].sum()))


@functools.lru_cache(maxsize=128)
def sums(weights: tuple[int, ...]) -> np.ndarray:
    """The distribution of the sum of a random half of the weights, `[Σ weights + 1]`."""
    distribution = np.ones(1)
    for weight in weights:
        longer = np.zeros(len(distribution) + weight)
        longer[: len(distribution)] += distribution / 2
        longer[weight:] += distribution / 2
        distribution = longer
    return distribution


def signed_rank(differences: Values) -> float:
    """Wilcoxon's signed-rank test, two-sided and exact at any number of pairs, with ties and zeros.

    Ties share their mean rank. Zeros are ranked and then left out (Pratt 1959): they say that the rest is large. Under
    the null hypothesis each difference is as likely with the other sign, whatever the sizes are, so the p-value is
    exact for the ranks at hand. n differences that are not zero reach 2^(1−n) at best: 0.0625 for five.

    Wilcoxon (1945); Pratt (1959), "Remarks on zeros and ties in the Wilcoxon signed rank procedures".

    >>> signed_rank([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), signed_rank([0.1, 0.2, 0.3, 0.4, 0.5])
    (0.03125, 0.0625)
    """
    return sign_flip(signed_ranks(differences))


def signed_ranks(differences: Values) -> list[int]:
    """Twice the ranks of the sizes (whole numbers, ties included), with the signs."""
    from scipy.stats import rankdata

    differences = np.asarray(differences, float)
    if not np.isfinite(differences).all():
        raise ValueError(f"differences: expected finite numbers, found {differences[~np.isfinite(differences)][0]}")
    return [int(weight) for weight in np.rint(2 * rankdata(np.abs(differences)) * np.sign(differences))]


def gehan_scores(reached: Sequence[Reached]) -> list[int]:
    """For each seed, how many others are known to have come to the threshold before it, less those known after it.

    A seed that never came is later than all that came within its labels; between two that never came nothing is known.

    Gehan (1965), "A generalized Wilcoxon test for comparing arbitrarily singly-censored samples".

    >>> gehan_scores([Reached(40, True), Reached(60, True), Reached(100, False), Reached(100, False)])
    [-3, -1, 2, 2]
    """

    def before(first: Reached, second: Reached) -> bool:
        return first.event and (first.labels < second.labels or (first.labels == second.labels and not second.event))

    return [sum(before(other, one) - before(one, other) for other in reached) for one in reached]


def censored_test(a: Sequence[Reached], b: Sequence[Reached]) -> tuple[int, float]:
    """Which of two strategies needs more labels on the same seeds (the sign: 1 is `a`), and the exact p-value.

    Gehan's scores of all 2n seeds together, subtracted pair by pair; the signs of the differences are as likely the
    other way round if strategy does not matter. Never having come there is not taken for any number of labels.

    >>> censored_test([Reached(40, True)] * 6, [Reached(100, False)] * 6)
    (-1, 0.03125)
    """
    scores = gehan_scores([*a, *b])
    differences = [one - other for one, other in zip(scores[: len(a)], scores[len(a) :], strict=True)]
    return int(np.sign(sum(differences))), sign_flip(differences)


def holm(p_values: Values) -> np.ndarray:
    """p-values `[m]` adjusted so that a false alarm among all m is as rare as the level says, whatever depends on what.

    Holm (1979), "A simple sequentially rejective multiple test procedure".

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    places = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(p_values[places] * np.arange(len(places), 0, -1))
    adjusted = np.zeros(len(places))
    adjusted[places] = np.minimum(stepped, 1)
    return adjusted


def benjamini_hochberg(p_values: Values) -> np.ndarray:
    """p-values `[m]` adjusted for the share of false ones among those that are called different.

    Benjamini and Hochberg (1995), "Controlling the false discovery rate".

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.04, 0.04]
    """
    from scipy.stats import false_discovery_control

    return np.asarray(false_discovery_control(p_values)) if len(p_values) else np.zeros(0)


CORRECTIONS = {"holm": holm, "benjamini_hochberg": benjamini_hochberg}


def pairs_needed(comparisons: int = 1, level: float = 0.05, correction: str = "holm") -> int:
    """How many pairs each of m comparisons needs for all of them to be able to say anything.

    That is the first n with m · 2^(1−n) ≤ level after Holm, and with 2^(1−n) ≤ level after Benjamini and Hochberg, who
    leave p-values that are all equal as they are.

    >>> pairs_needed(), pairs_needed(6), pairs_needed(6, correction="benjamini_hochberg")
    (6, 8, 6)
    """
    factor = comparisons if correction == "holm" else 1
    return 1 + math.ceil(math.log2(factor / level) - 1e-9)
