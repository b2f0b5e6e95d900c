"""One number over seeds, and its interval."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray


class Interval(NamedTuple):
    """A mean over seeds and the half-width of its 95 % Student t interval (NaN for one seed)."""

    mean: float
    half: float


class Range(NamedTuple):
    """The ends of an interval; NaN where there is none."""

    low: float
    high: float


def student_t(values: Values) -> Interval:
    """Mean and half-width t(0.975, n − 1) · s / √n of a 95 % interval over n seeds.

    >>> mean, half = student_t([1.0, 2.0, 3.0])
    >>> round(mean, 3), round(half, 3)
    (2.0, 2.484)
    """
    from scipy.special import stdtrit

    n = len(values)
    half = stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return Interval(float(np.mean(values)), float(half))


def interquartile_mean(values: Values) -> float:
    """The mean without the lowest and the highest ⌊n / 4⌋ values: of four seeds up, one bad one does not decide it.

    Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice", §4.3.

    >>> interquartile_mean([0.1, 0.8, 0.9, 0.9, 1.0])
    0.8666666666666667
    """
    from scipy.stats import trim_mean

    return float(trim_mean(values, 0.25))


def bootstrap_interval(values: Values, statistic=np.mean, *, method="BCa", resamples=9999) -> Range:
    """A 95 % bootstrap interval over seeds, the same for the same values; NaN for one value, or if all are equal.

    Of few seeds it is too narrow: BCa intervals of 5 hold the truth 82 to 84 times in 100, not 95 (docs/statistics.md).
    Nothing here is decided by it. `method` is "BCa" or "percentile".

    Efron (1987), "Better bootstrap confidence intervals".

    >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    >>> round(low, 1), round(high, 1)
    (2.2, 4.8)
    """
    from scipy.stats import bootstrap

    if len(values) < 2 or np.ptp(values) == 0 or resamples == 0:
        return Range(math.nan, math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few or tied values: the ends are NaN then, which is the answer
        found = bootstrap(
            (np.asarray(values, float),), statistic, n_resamples=resamples, method=method, rng=np.random.default_rng(0)
        )
    return Range(*map(float, found.confidence_interval))


def sd_range(sd: float, pairs: int) -> Range:
    """The 95 % interval of a standard deviation that was estimated from so many normal differences.

    >>> low, high = sd_range(1.0, 5)
    >>> round(low, 2), round(high, 2)
    (0.6, 2.87)
    """
    from scipy.stats import chi2

    if pairs < 2:
        return Range(math.nan, math.nan)
    low, high = (sd * math.sqrt((pairs - 1) / quantile) for quantile in chi2.ppf([0.975, 0.025], pairs - 1))
    return Range(low, high)


def share_range(share: float, count: int) -> Range:
    """The 95 % interval of a share of so many independent points, by Wilson's score.

    Wilson (1927), "Probable inference, the law of succession, and statistical inference", JASA 22.

    >>> [round(end, 2) for end in share_range(0.7, 10)], [round(end, 2) for end in share_range(1.0, 4)]
    ([0.4, 0.89], [0.51, 1.0])
    """
    extra = 1.959964**2 / count
    middle = (share + extra / 2) / (1 + extra)
    half = math.sqrt(extra * (share * (1 - share) + extra / 4)) / (1 + extra)
    return Range(max(0.0, middle - half), min(1.0, middle + half))
