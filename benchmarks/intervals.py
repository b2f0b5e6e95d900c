"""How often 95 % intervals over few paired seeds hold the truth, and how often tests of strategies that are equal fail.

Usage, from the repository's root:

    python benchmarks/intervals.py [--simulations 4000] [--resamples 1999] [--seeds 3 5 6 10 20]
    python benchmarks/intervals.py --reports 1000 [--seeds 5 6 8 10 20]
    python benchmarks/intervals.py --outliers 10000 [--seeds 4 5 6 10 20]

The first draws paired differences whose mean is 0: normal ones; skewed ones (one strategy fails on a seed now and then:
0.9 of N(0, 1) and 0.1 of N(−3, 1), centred); seeds that collapse (0.9 of N(0, 1) and 0.1 of N(−10, 1), centred); and
differences of areas under simulated learning curves of one and the same strategy (a pair shares its initial labels,
errors persist from round to round, 2,000 test points), once as they are and once where a run of the one collapses with
probability 0.1: from a round on that is drawn evenly its accuracy is 20 points lower. It prints a
Markdown table: the share of intervals that hold 0, by Student's t, BCa and percentile bootstrap, and the share of exact
signed-rank tests at 5 % that call a difference. That test asks whether differences are symmetric about 0, as they are
between runs of equals and as the skewed and the collapsing ones are not.

The second simulates whole reports: such curves of random and of others that are no better, under one or two posteriors,
and prints the share of reports that hold a verdict of a difference: among the differences from random, in the lead
(these, and the best against the second best), in the table of labels to a threshold, in that of pairs, and anywhere.

The third simulates the seeds of such reports under one posterior, and prints the share of reports and of strategies in
which one is named an outlier although all are equal, once with curves as above, once with curves that vary three times
as much about their mean; and, where a run of one strategy collapses as above, how often it is named.
"""

import argparse

import numpy as np
from scipy import stats

from bdal.report.analysis import Analysis, analyse, as_one_family
from bdal.statistics import HIGHER, LOWER, far_below, signed_rank
from bdal.store.directory import Row

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--simulations", type=int, default=4000)
parser.add_argument("--resamples", type=int, default=1999)
parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 6, 10, 20])
parser.add_argument("--reports", type=int, default=0)
parser.add_argument("--outliers", type=int, default=0)
LABELS = np.arange(20, 220, 20)


def normal(rng, shape):
    return rng.normal(size=shape)


def skewed(rng, shape):
    return rng.normal(size=shape) - 3 * (rng.random(shape) < 0.1) + 0.3


def collapsing(rng, shape):
    return rng.normal(size=shape) - 10 * (rng.random(shape) < 0.1) + 1


def curves(rng, shape, strategies=2):
    """Accuracy over ten rounds of runs of one strategy from the same initial labels, `[*shape, strategies, rounds]`."""
    luck = rng.normal(0, 0.03, (*shape, 1, 1)) * (20 / LABELS)  # of the initial labels; it fades
    state, runs = np.zeros((*shape, strategies)), []
    for place in range(len(LABELS)):
        state = 0.8 * state + rng.normal(0, 0.008, state.shape) if place else state
        runs.append(state)
    truth = 0.97 - 1.6 / LABELS**0.6 + luck + np.stack(runs, -1)
    measured = rng.binomial(2000, truth.clip(0, 1)) / 2000
    measured[..., 1:, 0] = measured[..., :1, 0]  # one model
    return measured


def collapsed(rng, shape):
    """What a run that collapses loses in each round, `[*shape, rounds]`: 20 points from a round on."""
    return 0.2 * (np.arange(len(LABELS)) >= rng.integers(len(LABELS), size=(*shape, 1)))


def mean_accuracy(measured):
    return np.trapezoid(measured, LABELS, axis=-1) / (LABELS[-1] - LABELS[0])


def areas(rng, shape):
    """Differences of mean accuracy over ten rounds, of two runs of one strategy from the same initial labels."""
    means = mean_accuracy(curves(rng, shape))
    return means[..., 0] - means[..., 1]


def areas_collapsing(rng, shape):
    """The same where the first of the two collapses with probability 0.1, less what that costs on average."""
    rounds = len(LABELS)
    cost = np.mean([mean_accuracy(0.2 * (np.arange(rounds) >= place)) for place in range(rounds)])
    lost = mean_accuracy(collapsed(rng, shape)) * (rng.random(shape) < 0.1)
    return areas(rng, shape) - lost + 0.1 * cost


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


def analyses(rng, seeds: int, strategies: int, posteriors: int) -> list[Analysis]:
    """What a report says of random and so many others, all of them equal, under so many posteriors."""
    found = []
    for _ in range(posteriors):
        accuracy = curves(rng, (seeds,), 1 + strategies)
        rows = [
            Row("mlp", f"s{i}" if i else "random", seed, int(n), 0, float(accuracy[seed, i, place]), 1.0, 0.5, 0.1)
            for seed in range(seeds)
            for i in range(1 + strategies)
            for place, n in enumerate(LABELS)
        ]
        found.append(analyse(rows, "mlp", resamples=0, gaps=()))
    return as_one_family(found)


def named(accuracy) -> set[tuple[str, int]]:
    """The (strategy, seed) of curves `[seeds, strategies, rounds]` that are named by their areas or by their ends."""

    def far(values):
        return far_below({str(i): dict(enumerate(column)) for i, column in enumerate(values.T.tolist())})

    return {*far(mean_accuracy(accuracy)), *far(accuracy[..., -1])}


def alarms(report: list[Analysis]) -> list[bool]:
    """Whether a difference is called among those from random, in the lead, at a threshold, in a pair, and anywhere."""

    def different(found) -> bool:
        return any(one is not None and one.verdict in (HIGHER, LOWER) for one in found)

    primary = different(one for analysis in report for one in analysis.against)
    lead = primary or different(analysis.best_two for analysis in report)
    thresholds = different(one for analysis in report for one in analysis.thresholds)
    pairs = different(one for analysis in report for one in analysis.pairs)
    return [primary, lead, thresholds, pairs, lead or thresholds or pairs]


def print_reports(count: int, seeds: list[int]) -> None:
    print("| posteriors | strategies | seeds | against random | lead | thresholds | pairs | anywhere |")
    print("|---|---|---|---|---|---|---|---|")
    for posteriors, strategies in ((1, 3), (2, 1), (2, 3), (2, 6)):
        for number in seeds:
            rng = np.random.default_rng([posteriors, strategies, number])
            found = [alarms(analyses(rng, number, strategies, posteriors)) for _ in range(count)]
            shares = " | ".join(f"{share:.1f}" for share in 100 * np.mean(found, axis=0))
            print(f"| {posteriors} | random and {strategies} | {number} | {shares} |", flush=True)


def print_outliers(count: int, seeds: list[int]) -> None:
    print("| strategies | seeds | reports | their strategies | reports, wide | their strategies | collapsed, named |")
    print("|---|---|---|---|---|---|---|")
    for strategies in (1, 2, 4, 7):
        for number in seeds:
            rng = np.random.default_rng([strategies, number])
            drawn = curves(rng, (count, number), strategies)
            mean = drawn.mean((0, 1, 2))
            shares = []
            for width in (1, 3):
                found = [{name for name, _ in named(mean + width * (one - mean))} for one in drawn]
                shares += [
                    100 * np.mean([bool(each) for each in found]),
                    100 * np.mean([*map(len, found)]) / strategies,
                ]
            drawn[:, 0, -1] -= collapsed(rng, (count,))
            shares.append(100 * np.mean([(str(strategies - 1), 0) in named(one) for one in drawn]))
            print(f"| {strategies} | {number} | {' | '.join(f'{share:.1f}' for share in shares)} |", flush=True)


def print_coverage(simulations: int, resamples: int, seeds: list[int]) -> None:
    print("| differences | seeds | Student t | BCa | percentile | tests that fail |\n|---|---|---|---|---|---|")
    kinds = (
        ("normal", normal), ("skewed", skewed), ("one of ten collapses", collapsing),
        ("areas of learning curves", areas), ("areas, one of ten collapses", areas_collapsing),
    )  # fmt: skip
    for name, draw in kinds:
        for pairs in seeds:
            draws = draw(np.random.default_rng(0), (simulations, pairs))
            numbers = " | ".join(f"{share:.1f}" for share in coverage(draws, resamples))
            print(f"| {name} | {pairs} | {numbers} |", flush=True)


if __name__ == "__main__":
    arguments = parser.parse_args()
    if arguments.outliers:
        print_outliers(arguments.outliers, [number for number in arguments.seeds if number > 3])
    elif arguments.reports:
        print_reports(arguments.reports, arguments.seeds)
    else:
        print_coverage(arguments.simulations, arguments.resamples, arguments.seeds)
