"""How often 95 % intervals over few paired seeds hold the truth, and how often tests of strategies that are equal fail.

Usage, from the repository's root:

    python benchmarks/intervals.py [--simulations 4000] [--resamples 1999] [--seeds 3 5 6 10 20]

Draws paired differences whose mean is 0: normal ones; skewed ones (one strategy fails on a seed now and then: 0.9 of
N(0, 1) and 0.1 of N(−3, 1), centred); and differences of areas under simulated learning curves of one and the same
strategy (a pair shares its initial labels, errors persist from round to round, 2,000 test points). Prints a Markdown
table: the share of intervals that hold 0, by Student's t, BCa and percentile bootstrap, and the share of exact
signed-rank tests at 5 % that call a difference. That test asks whether differences are symmetric about 0, as they are
between runs of equals and as the skewed ones are not.
"""

import argparse

import numpy as np
from scipy import stats

from bdal.experiment.statistics import signed_rank

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--simulations", type=int, default=4000)
parser.add_argument("--resamples", type=int, default=1999)
parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 6, 10, 20])


def normal(rng, shape):
    return rng.normal(size=shape)


def skewed(rng, shape):
    return rng.normal(size=shape) - 3 * (rng.random(shape) < 0.1) + 0.3


def areas(rng, shape):
    """Differences of mean accuracy over ten rounds, of two runs of one strategy from the same initial labels."""
    labels = np.arange(20, 220, 20)
    luck = rng.normal(0, 0.03, (*shape, 1, 1)) * (20 / labels)  # of the initial labels; it fades
    state, runs = np.zeros((*shape, 2)), []
    for place in range(len(labels)):
        state = 0.8 * state + rng.normal(0, 0.008, state.shape) if place else state
        runs.append(state)
    truth = 0.97 - 1.6 / labels**0.6 + luck + np.stack(runs, -1)
    measured = rng.binomial(2000, truth.clip(0, 1)) / 2000
    measured[..., 1, 0] = measured[..., 0, 0]  # one model
    means = np.trapezoid(measured, labels, axis=-1) / (labels[-1] - labels[0])
    return means[..., 0] - means[..., 1]


def coverage(draws: np.ndarray, resamples: int) -> list[float]:
    """Of 0 by each interval over the last axis, and the tests that call a difference; in %."""
    pairs = draws.shape[1]
    half = stats.t.ppf(0.975, pairs - 1) * draws.std(1, ddof=1) / np.sqrt(pairs)
    held = [np.abs(draws.mean(1)) <= half]
    for method in ("BCa", "percentile"):
        rng, options = np.random.default_rng(1), {"n_resamples": resamples, "axis": -1, "batch": 100}
        found = stats.bootstrap((draws,), np.mean, method=method, rng=rng, **options).confidence_interval
        held.append((found.low <= 0) & (found.high >= 0))
    return [100 * float(np.mean(inside)) for inside in [*held, [signed_rank(line) <= 0.05 for line in draws]]]


if __name__ == "__main__":
    arguments = parser.parse_args()
    print("| differences | seeds | Student t | BCa | percentile | tests that fail |\n|---|---|---|---|---|---|")
    for name, draw in (("normal", normal), ("skewed", skewed), ("areas of learning curves", areas)):
        for pairs in arguments.seeds:
            draws = draw(np.random.default_rng(0), (arguments.simulations, pairs))
            numbers = " | ".join(f"{share:.1f}" for share in coverage(draws, arguments.resamples))
            print(f"| {name} | {pairs} | {numbers} |", flush=True)
