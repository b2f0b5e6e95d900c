"""Which seeds lie far below a strategy's other seeds."""

from collections.abc import Mapping

import numpy as np

MULTIPLE = 6.0  # robust standard deviations
FLOOR = 0.03  # of accuracy: what is nearer to the median spoils no interval
FEWEST = 4  # seeds; of fewer none is known to be the odd one
NORMAL = 1.4826  # median absolute deviations to a standard deviation, of a normal distribution


def far_below(values: Mapping[str, Mapping[int, float]]) -> list[tuple[str, int]]:
    """The (strategy, seed) with `value < median − max(6 · 1.4826 · MAD, 0.03)`, the median of the strategy's seeds.

    MAD is the median absolute deviation of the strategy's seeds from their median, or that of all strategies' seeds
    from theirs, if it is larger: of five seeds alone it is often small by chance. What lies above the others is not
    looked for, and a strategy of fewer than four seeds is left out.

    Args:
      values: strategy to seed to accuracy, or the area under it, from 0 to 1.

    Leys et al. (2013), "Detecting outliers: do not use standard deviation around the mean, use absolute deviation
    around the median", J. Exp. Soc. Psychol. 49. The multiple, the floor and the second MAD are this package's;
    docs/statistics.md says how often they call a seed of equal ones.

    >>> seeds = {"bald": {0: 0.81, 1: 0.83, 2: 0.82, 3: 0.55, 4: 0.84}, "random": dict.fromkeys(range(5), 0.8)}
    >>> far_below(seeds)
    [('bald', 3)]
    """
    enough = {name: seeds for name, seeds in values.items() if len(seeds) >= FEWEST}
    medians = {name: float(np.median([*seeds.values()])) for name, seeds in enough.items()}
    apart = {name: [abs(value - medians[name]) for value in seeds.values()] for name, seeds in enough.items()}
    of_all = np.median(np.concatenate([*apart.values()])) if apart else 0.0
    return [
        (name, seed)
        for name, seeds in enough.items()
        for seed, value in seeds.items()
        if medians[name] - value > max(MULTIPLE * NORMAL * max(np.median(apart[name]), of_all), FLOOR)
    ]
