"""A seed that collapses is found, one of equal seeds hardly ever."""

import numpy as np
import pytest

from bdal.statistics import far_below


def by_the_definition(values):
    """`value < median − max(6 · 1.4826 · max(MAD, MAD of all), 0.03)`, in NumPy and one seed after the other."""
    known = {name: list(seeds.values()) for name, seeds in values.items() if len(seeds) >= 4}
    everything = np.median([abs(x - np.median(row)) for row in known.values() for x in row])
    found = []
    for name, row in known.items():
        spread = max(np.median(np.abs(np.array(row) - np.median(row))), everything)
        limit = np.median(row) - max(6 * 1.4826 * spread, 0.03)
        found += [(name, seed) for seed, value in values[name].items() if value < limit]
    return found


def simulated(rng, strategies, seeds, sd=0.01):
    return {
        f"s{i}": dict(enumerate(0.8 + 0.02 * i + sd * rng.standard_normal(seeds + i % 2))) for i in range(strategies)
    }


@pytest.mark.parametrize("seeds", [3, 4, 5, 10, 20])
def test_the_rule_is_its_definition(seeds):
    rng, named = np.random.default_rng(seeds), 0
    for trial in range(200):
        values = simulated(rng, 1 + trial % 5, seeds, sd=rng.choice([0.0, 0.001, 0.01, 0.1]))
        if trial % 2:
            values[f"s{len(values) - 1}"][1] -= rng.uniform(0, 0.5)
        if any(len(row) >= 4 for row in values.values()):
            assert far_below(values) == by_the_definition(values)
            named += bool(far_below(values))
    assert named > (20 if seeds > 3 else 0)


def test_a_collapse_is_named_whatever_the_others_do():
    rng = np.random.default_rng(0)
    for seeds in (4, 5, 10):
        values = simulated(rng, 3, seeds)
        values["s1"][2] -= 0.3
        assert far_below(values) == [("s1", 2)]
    values["s1"][0] -= 0.3  # two of them: the median is still one of the others
    values["s2"][5] -= 0.3
    assert far_below(values) == [("s1", 0), ("s1", 2), ("s2", 5)]


def test_what_is_no_collapse():
    rng = np.random.default_rng(1)
    values = simulated(rng, 3, 6)
    values["s0"][3] += 0.3  # better than the others
    assert far_below(values) == []
    three = {"a": {0: 0.9, 1: 0.9, 2: 0.2}}
    assert far_below(three) == []
    assert far_below({}) == []
    near = {"a": {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.871}}  # nothing varies, and 3 points are the floor
    assert far_below(near) == []
    near["a"][4] = 0.869
    assert far_below(near) == [("a", 4)]
    wide = dict(enumerate(np.linspace(0.6, 0.8, 9)))  # the spread of others counts too
    narrow = {0: 0.9, 1: 0.9, 2: 0.9, 3: 0.9, 4: 0.86}
    assert far_below({"a": narrow}) == [("a", 4)]
    assert far_below({"a": narrow, "b": wide}) == []


def test_false_alarms_are_as_rare_as_the_page_says():
    rng = np.random.default_rng(2)
    for strategies, seeds, most in ((4, 5, 0.03), (4, 10, 0.005), (7, 6, 0.02)):
        reports = [
            far_below(
                {f"s{i}": dict(enumerate(row)) for i, row in enumerate(rng.normal(0.8, 0.02, (strategies, seeds)))}
            )
            for _ in range(2000)
        ]
        assert np.mean([bool(found) for found in reports]) <= most
