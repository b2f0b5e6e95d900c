import itertools
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from bdal.statistics import (
    HIGHER,
    LOWER,
    SAME,
    TOO_FEW,
    Reached,
    area,
    benjamini_hochberg,
    bootstrap_interval,
    censored_test,
    common_range,
    compare,
    gehan_scores,
    holm,
    interquartile_mean,
    judge,
    labels_to,
    median_labels,
    paired_differences,
    pairs_needed,
    penalty_matrix,
    sd_range,
    seeds_needed,
    sign_flip,
    signed_rank,
    visible_gap,
    wilcoxon_power,
)

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text()


# -- numbers, against scipy and by hand ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 8, 21])
def test_bca_is_efrons(n):
    values = np.random.default_rng(n).gamma(2.0, size=n)
    rng = np.random.default_rng(1)
    means = np.sort(values[rng.integers(n, size=(200_000, n))].mean(1))
    left_out = np.array([np.delete(values, i).mean() for i in range(n)])
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    below = (np.mean(means < values.mean()) + np.mean(means <= values.mean())) / 2
    bias = scipy.stats.norm.ppf(below)
    z = bias + scipy.stats.norm.ppf([0.025, 0.975])
    expected = np.quantile(means, scipy.stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.08 * values.std())
    assert bootstrap_interval(values) == bootstrap_interval(values.tolist())


def test_no_bootstrap_interval_of_nothing():
    for values in ([0.5], [0.5, 0.5, 0.5]):
        assert all(math.isnan(end) for end in bootstrap_interval(values))
    assert all(math.isnan(end) for end in bootstrap_interval([0.5, 0.6], resamples=0))


@pytest.mark.parametrize("n", [3, 4, 5, 10, 11])
def test_interquartile_mean(n):
    values = np.random.default_rng(n).normal(size=n)
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[n // 4 : n - n // 4].mean())


def test_area_against_quadrature():
    rng = np.random.default_rng(0)
    labels = np.sort(rng.choice(np.arange(20, 200), 9, replace=False))
    curve = dict(zip(labels.tolist(), rng.random(9).tolist(), strict=True))
    low, high = int(labels[1]) + 1, int(labels[-2]) - 1
    axis = np.linspace(low, high, 200_001)
    mean = scipy.integrate.simpson(np.interp(axis, labels, list(curve.values())), x=axis) / (high - low)
    assert area(curve, low, high) == pytest.approx(mean, abs=1e-6)
    assert area(curve) == pytest.approx(area(curve, int(labels[0]), int(labels[-1])))
    assert area(curve, low, low) == pytest.approx(np.interp(low, labels, list(curve.values())))
    assert area(dict(reversed(curve.items()))) == area(curve)
    with pytest.raises(ValueError, match=rf"expected inside {labels[0]} to {labels[-1]} labels, found 1, {high}"):
        area(curve, 1, high)


def test_curves_without_labels_in_common():
    with pytest.raises(ValueError, match="one that starts at 60, one that ends at 40"):
        common_range([{20: 0.1, 40: 0.2}, {60: 0.1, 80: 0.2}])


def test_labels_to():
    curve = {20: 0.5, 40: 0.8, 60: 0.7, 80: 0.9}
    assert labels_to(curve, 0.8) == Reached(40, True)
    assert labels_to(curve, 0.91) == Reached(80, False)
    assert labels_to({20: 1.5, 40: 0.6}, 0.6, higher_is_better=False) == Reached(40, True)
    assert labels_to({20: 1.5, 40: 0.6}, 0.5, higher_is_better=False) == Reached(40, False)


def test_float32_does_not_miss_a_threshold_by_rounding():
    for right in range(1, 10_001):  # of 10,000 test points
        measured = float(np.float32(right / 10_000))
        assert labels_to({20: measured}, right / 10_000).event
        assert labels_to({20: measured}, right / 10_000, higher_is_better=False).event
    assert float(np.float32(0.9)) < 0.9
    assert not labels_to({20: float(np.float32(0.8999))}, 0.9).event
    assert not labels_to({20: float(np.float32(0.1001))}, 0.1, higher_is_better=False).event


def kaplan_meier(reached):
    """S(t) = Π over event times t_i ≤ t of (1 − events / at risk)."""
    survival = 1.0
    for time in sorted({labels for labels, event in reached if event}):
        at_risk = sum(labels >= time for labels, _ in reached)
        survival *= 1 - sum(event and labels == time for labels, event in reached) / at_risk
        if survival <= 0.5 + 1e-9:
            return time
    return None


def test_median_labels_is_kaplan_meiers():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(200):
        n = rng.integers(1, 12)
        reached = [Reached(int(20 * rng.integers(1, 8)), bool(rng.random() < 0.6)) for _ in range(n)]
        assert median_labels(reached) == kaplan_meier(reached)
        found.add(median_labels(reached))
    assert None in found
    # never reached is not the largest: two of five there leaves the median beyond
    assert median_labels([Reached(60, True)] * 2 + [Reached(200, False)] * 3) is None
    assert median_labels([Reached(60, True)] * 3 + [Reached(200, False)] * 2) == 60


# -- exact tests, against enumeration --------------------------------------------------------------------------------


def enumerated(weights) -> float:
    weights = np.abs(np.asarray(weights, float)), abs(sum(weights))
    signs = np.array(list(itertools.product([-1, 1], repeat=len(weights[0]))))
    return float(np.mean(np.abs(signs @ weights[0]) >= weights[1] - 1e-9))


def test_sign_flip_by_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(60):
        weights = rng.integers(-9, 10, rng.integers(1, 11)).tolist()
        assert sign_flip(weights) == enumerated(weights)
    assert sign_flip([]) == sign_flip([0, 0]) == sign_flip([3, -3]) == 1.0


def test_signed_rank_by_enumeration_with_ties_and_zeros():
    rng = np.random.default_rng(1)
    for _ in range(60):
        differences = rng.integers(-4, 5, rng.integers(1, 11)) / 8
        ranks = scipy.stats.rankdata(np.abs(differences)) * np.sign(differences)  # Pratt: zeros ranked, then left out
        assert signed_rank(differences) == enumerated(ranks)


@pytest.mark.parametrize("n", [3, 5, 6, 10, 20, 40])
def test_signed_rank_is_scipys_where_nothing_ties(n):
    for seed in range(20):
        differences = np.random.default_rng(seed).normal(0.4, 1, n)
        assert signed_rank(differences) == pytest.approx(scipy.stats.wilcoxon(differences, method="exact").pvalue)
        assert signed_rank(-differences) == signed_rank(differences)


def test_signed_rank_refuses_what_is_not_finite():
    with pytest.raises(ValueError, match="expected finite numbers, found nan"):
        signed_rank([0.1, math.nan])


def test_differences_by_rounding_are_ties():
    accuracy = np.array([813, 790, 902, 655, 871, 888]) / 1000
    rounded = accuracy.astype(np.float32).astype(float)
    assert (paired_differences(rounded, accuracy) == 0).all()
    assert len(set(np.abs(paired_differences(rounded + 0.01, accuracy)))) == 1
    assert (paired_differences(accuracy, rounded + 0.01) == -paired_differences(rounded + 0.01, accuracy)).all()
    # a seed that diverged does not make the others ties
    others = paired_differences([0.5, 0.6, 0.7, 0.8, 1e6], [0.4999, 0.5999, 0.6999, 0.7999, 1e6])
    assert others == pytest.approx([1e-4] * 4 + [0], abs=1e-6)
    with pytest.raises(ValueError, match=r"found shapes \(2,\) and \(3,\)"):
        paired_differences([1, 2], [1, 2, 3])


def test_gehan_scores_are_mann_whitney_without_censoring():
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 30, 14)
    ranks = scipy.stats.rankdata(labels)
    assert gehan_scores([Reached(int(n), True) for n in labels]) == [int(2 * rank - 15) for rank in ranks]


def test_gehan_scores_by_hand():
    # a ends at 50 without having come there: later than b (30), unknown against c (70); d at 50 is before a
    a, b, c, d = Reached(50, False), Reached(30, True), Reached(70, True), Reached(50, True)
    assert gehan_scores([a, b, c, d]) == [2, -3, 2, -1]


def test_censored_test_by_enumeration():
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = (
            [
                Reached(int(20 * rng.integers(1, 6)), True) if rng.random() < 0.6 else Reached(100, False)
                for _ in range(7)
            ]
            for _ in range(2)
        )
        observed = np.subtract(*np.split(np.array(gehan_scores([*a, *b])), 2)).sum()
        exchanged = []
        for swap in itertools.product([False, True], repeat=7):
            one = [y if s else x for x, y, s in zip(a, b, swap, strict=True)]
            other = [x if s else y for x, y, s in zip(a, b, swap, strict=True)]
            exchanged.append(np.subtract(*np.split(np.array(gehan_scores([*one, *other])), 2)).sum())
        sign, p = censored_test(a, b)
        assert sign == np.sign(observed)
        assert p == np.mean(np.abs(exchanged) >= abs(observed))


def test_never_reached_is_no_number_of_labels():
    # the same p whether the budget was 100 or 1,000 labels: what was not reached has no size
    a = [Reached(n, True) for n in (40, 60, 60, 80, 40, 60)]
    assert censored_test(a, [Reached(100, False)] * 6) == censored_test(a, [Reached(1000, False)] * 6) == (-1, 0.03125)
    assert censored_test([Reached(100, False)] * 6, [Reached(100, False)] * 6) == (0, 1.0)


def test_holm_is_closed_testing_of_bonferroni():
    rng = np.random.default_rng(0)
    for m in (1, 2, 3, 5):
        p = rng.beta(0.3, 1, m)
        subsets = [s for size in range(1, m + 1) for s in itertools.combinations(range(m), size)]
        expected = [min(1, max(len(s) * min(p[list(s)]) for s in subsets if i in s)) for i in range(m)]
        assert holm(p) == pytest.approx(expected)
    assert holm([]).tolist() == []


def test_benjamini_hochberg_by_hand():
    p = [0.001, 0.008, 0.039, 0.041, 0.9]
    assert benjamini_hochberg(p) == pytest.approx([0.005, 0.02, 0.05125, 0.05125, 0.9])
    assert benjamini_hochberg([]).tolist() == []


def test_pairs_needed():
    for m in range(1, 100):
        n = pairs_needed(m)
        assert m * 2.0 ** (1 - n) <= 0.05 < m * 2.0 ** (2 - n)
        assert (
            holm([signed_rank(np.arange(1, n + 1))] * m).max() <= 0.05 < holm([signed_rank(np.arange(1, n))] * m).max()
        )
    assert pairs_needed() == 6
    for m in (1, 2, 6, 45):
        n = pairs_needed(m, correction="benjamini_hochberg")
        assert benjamini_hochberg([2.0 ** (1 - n)] * m).max() <= 0.05 < benjamini_hochberg([2.0 ** (2 - n)] * m).max()


# -- comparisons -----------------------------------------------------------------------------------------------------


def test_compare_against_scipy():
    rng = np.random.default_rng(3)
    values = {
        name: dict(enumerate(rng.normal(mean, 0.02, 12))) for name, mean in (("a", 0.9), ("b", 0.85), ("c", 0.85))
    }
    del values["b"][3]
    found = compare(values)
    assert [(c.strategy, c.reference, c.pairs) for c in found] == [("a", "b", 11), ("a", "c", 12), ("b", "c", 11)]
    for c in found:
        seeds = sorted(values[c.strategy].keys() & values[c.reference].keys())
        x, y = ([values[name][seed] for seed in seeds] for name in (c.strategy, c.reference))
        low, high = scipy.stats.ttest_rel(x, y).confidence_interval(0.95)
        assert c.difference == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-4)
        assert c.p == pytest.approx(scipy.stats.wilcoxon(x, y, method="exact").pvalue)
        assert c.sd == pytest.approx(np.std(np.subtract(x, y), ddof=1), rel=1e-4)
        assert c.better == sum(np.greater(x, y))
        assert c.needed == 7
    assert [c.adjusted for c in found] == holm([c.p for c in found]).tolist()
    assert [c.verdict for c in found] == [HIGHER, HIGHER, SAME]
    lower = compare(values, reference="a", higher_is_better=False, correction="benjamini_hochberg")
    assert [(c.strategy, c.verdict) for c in lower] == [("b", LOWER), ("c", LOWER)]
    assert [c.better for c in lower] == [
        c.better for c in found[:2]
    ]  # that a is higher and that b is lower is one thing
    assert [c.adjusted for c in lower] == benjamini_hochberg([c.p for c in lower]).tolist()


@pytest.mark.parametrize("others", [1, 2, 6, 21])
def test_no_verdict_below_the_pairs_that_it_takes(others):
    # a difference as clear as can be: the verdict comes with the first number of seeds that can carry it
    for seeds in range(1, 13):
        random = {seed: 0.5 + 0.01 * seed for seed in range(seeds)}
        values = {"random": random}
        for k in range(others):
            values[f"s{k}"] = {seed: value + 0.1 + 0.001 * seed for seed, value in random.items()}
        verdicts = {c.verdict for c in compare(values, reference="random", resamples=0)}
        assert verdicts == ({TOO_FEW} if others * 2 ** (1 - seeds) > 0.05 else {HIGHER})
    assert pairs_needed(others) <= 12


def test_the_pairs_needed_are_those_of_the_correction():
    random = {seed: 0.5 + 0.01 * seed for seed in range(6)}
    values = {f"s{k}": {seed: value + 0.1 + 0.001 * seed for seed, value in random.items()} for k in range(6)}
    options = {"reference": "random", "resamples": 0}
    found = compare({**values, "random": random}, correction="benjamini_hochberg", **options)
    assert {(c.verdict, c.needed) for c in found} == {(HIGHER, 6)}
    assert {(c.verdict, c.needed) for c in compare({**values, "random": random}, **options)} == {(TOO_FEW, 8)}


def test_families_that_are_judged_together():
    rng = np.random.default_rng(0)
    options = {"reference": "random", "resamples": 0}
    families = [
        compare({name: dict(enumerate(rng.normal(mean, 1, 9))) for name, mean in (("a", 2), ("random", 0))}, **options)
        for _ in range(4)
    ]
    every = [c for family in families for c in family]
    assert [c.adjusted for c in judge(every)] == holm([c.p for c in every]).tolist()
    assert [c.needed for c in judge(every)] == [pairs_needed(4)] * 4
    assert [c.verdict for c in judge(every)] == [HIGHER if a <= 0.05 else SAME for a in holm([c.p for c in every])]
    assert [judge(family) for family in families] == families
    assert judge([]) == []


def test_bca_decides_nothing():
    values = {"random": dict(enumerate([0.80, 0.82, 0.78, 0.81, 0.79]))}
    values["margin"] = {seed: value + 0.05 + 0.001 * seed for seed, value in values["random"].items()}
    (found,) = compare(values, reference="random")
    assert found.bca.low > 0
    assert found.difference.mean - found.difference.half > 0
    assert found.verdict == TOO_FEW


def test_rank_and_mean_must_agree():
    # nine small gains and one large loss: the ranks say higher, the mean says lower
    gains = dict(enumerate([0.01 + 0.001 * seed for seed in range(11)] + [-0.5]))
    (found,) = compare({"a": gains, "b": dict.fromkeys(range(12), 0.0)}, reference="b")
    assert found.p <= 0.05
    assert found.difference.mean < 0
    assert found.verdict == SAME


def test_identical_strategies():
    values = {"a": dict.fromkeys(range(8), 0.5), "b": dict.fromkeys(range(8), 0.5)}
    (found,) = compare(values)
    assert (found.p, found.verdict, found.better, found.sd) == (1.0, SAME, 0, 0.0)


def test_compare_refuses():
    values = {"a": {0: 0.5}, "b": {0: math.inf}}
    with pytest.raises(ValueError, match=r"expected finite numbers, found inf for \('b', 0\)"):
        compare(values)
    with pytest.raises(ValueError, match="reference: expected one of a, b, found 'c'"):
        compare(values, reference="c")
    with pytest.raises(ValueError, match="correction: expected one of holm, benjamini_hochberg, found 'none'"):
        compare(values, correction="none")
    assert compare({"a": {0: 0.5}, "b": {1: 0.5}}) == []


def test_penalty_matrix_by_hand():
    # differences a − b at 10 labels: 1, 2, 3 → t = 2 / (1 / √3) = 3.46 < t(0.975, 2) = 4.30; at 20: 2, 2.5, 3 → 8.66
    # c is b but at 30 labels, where it beats both by a constant; b − c elsewhere is 0
    base = [5.0, 6.0, 7.0]
    a = {10: [1, 2, 3], 20: [2, 2.5, 3], 30: [0, 0, 0], 40: [-1, 1, 0]}
    c = {10: [0, 0, 0], 20: [0, 0, 0], 30: [1, 1, 1], 40: [0, 0, 0]}
    curves = {
        "a": {s: {n: base[s] + a[n][s] for n in a} for s in range(3)},
        "b": {s: dict.fromkeys(a, base[s]) for s in range(3)},
        "c": {s: {n: base[s] + c[n][s] for n in a} for s in range(3)},
    }
    found = penalty_matrix(curves)
    assert found.strategies == ("a", "b", "c")
    assert found.labels == 4
    assert found.matrix.tolist() == [[0, 0.25, 0.25], [0, 0, 0], [0.25, 0.25, 0]]
    assert found.beaten.tolist() == [0.125, 0.25, 0.125]
    assert penalty_matrix(curves, higher_is_better=False).matrix.tolist() == found.matrix.T.tolist()
    alone = {name: {0: seeds[0]} for name, seeds in curves.items()}
    assert np.isnan(penalty_matrix(alone).matrix[~np.eye(3, dtype=bool)]).all()


def test_penalty_matrix_is_of_paired_t_tests():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(mean, 1, (5, 8)) for name, mean in (("a", 2), ("b", 0.8), ("c", 0))}
    curves = {n: {s: dict(enumerate(line.tolist(), 1)) for s, line in enumerate(v)} for n, v in values.items()}
    found = penalty_matrix(curves)
    for (i, a), (j, b) in itertools.permutations(enumerate(values), 2):
        tests = [scipy.stats.ttest_rel(values[a][:, place], values[b][:, place]) for place in range(8)]
        assert found.matrix[i, j] == pytest.approx(sum(t.statistic > 2.776 for t in tests) / 8)
    assert 0 < found.matrix[0, 2] < 1


# -- how many seeds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pairs", "effect", "comparisons"),
    [(6, 1.5, 1), (7, 1.3, 1), (10, 1.0, 1), (10, 0.3, 1), (16, 0.8, 1), (40, 0.5, 1), (10, 1.5, 4), (25, 0.8, 6)],
)
def test_power_by_simulation(pairs, effect, comparisons):
    draws = np.random.default_rng(pairs).normal(effect, 1, (2000, pairs))
    ranks = scipy.stats.rankdata(np.abs(draws), axis=1) * np.sign(draws)
    seen = np.mean([sign_flip([int(rank) for rank in line]) <= 0.05 / comparisons for line in ranks])
    expected = wilcoxon_power([pairs], effect, comparisons=comparisons)[0]
    assert seen == pytest.approx(expected, abs=0.04)


def test_power_of_many_comparisons_is_too_high_by_as_much_as_the_page_says():
    draws = np.random.default_rng(0).normal(1.5, 1, (4000, 12))
    ranks = scipy.stats.rankdata(np.abs(draws), axis=1) * np.sign(draws)
    seen = np.mean([sign_flip([int(rank) for rank in line]) <= 0.05 / 45 for line in ranks])
    assert wilcoxon_power([12], 1.5, comparisons=45)[0] == pytest.approx(0.70, abs=0.01)
    assert seen == pytest.approx(0.62, abs=0.02)
    assert "12 pairs, gap / sd 1.5: 0.70, simulated 0.62" in PAGE


def test_seeds_needed_is_the_first_number_with_that_power():
    for gap, sd, comparisons in [(0.01, 0.02, 1), (0.02, 0.01, 1), (0.02, 0.02, 5), (0.003, 0.02, 1)]:
        n = seeds_needed(gap, sd, comparisons=comparisons)
        chance = wilcoxon_power(np.arange(2, n + 1), gap / sd, comparisons=comparisons)
        assert chance[-1] >= 0.8
        assert (chance[:-1] < 0.8).all() or n > 100
        assert chance[-2] < 0.8
    # a large sample: (z(0.975) + z(0.8))² (sd / gap)² π / 3
    large = (scipy.stats.norm.ppf(0.975) + scipy.stats.norm.ppf(0.8)) ** 2 * 400 * math.pi / 3
    assert seeds_needed(0.001, 0.02) == pytest.approx(large, rel=0.01)
    assert seeds_needed(0.1, 0.001) == pairs_needed() == 6
    assert seeds_needed(0.1, 0.0, comparisons=6) == pairs_needed(6) == 8
    assert seeds_needed(1e-5, 0.02) is None
    with pytest.raises(ValueError, match="expected gap > 0"):
        seeds_needed(0, 0.1)


def test_visible_gap_is_the_inverse():
    for pairs in (6, 10, 50, 1000):
        gap = visible_gap(pairs, 0.02)
        assert wilcoxon_power([pairs], gap / 0.02)[0] == pytest.approx(0.8)
    assert seeds_needed(visible_gap(12, 0.02) * 1.0001, 0.02) <= 12
    assert visible_gap(5, 0.02) == visible_gap(7, 0.02, comparisons=6) == math.inf


def test_sd_range_holds_the_sd():
    draws = np.random.default_rng(0).normal(0, 2, (4000, 5)).std(1, ddof=1)
    held = [low <= 2 <= high for low, high in (sd_range(sd, 5) for sd in draws)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)
    assert all(math.isnan(end) for end in sd_range(1.0, 1))


def test_the_page_runs_and_its_numbers_are_those_of_the_code():
    (block,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    exec(block, {})  # noqa: S102
    for name, comparisons in (("one comparison", 1), ("six comparisons", 6)):
        numbers = re.search(rf"^\| {name} \|(.*)\|$", PAGE, re.M)
        assert numbers is not None
        effects = (2, 1.5, 1, 0.75, 0.5)
        expected = [seeds_needed(effect, 1, comparisons=comparisons) for effect in effects]
        assert [int(number) for number in numbers[1].split("|")] == expected
