import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from bdal.committee import deep_ensemble
from bdal.selection import batchbald
from bdal.selection.joint import joint_information
from bdal.stopping import (
    INFORMATION_GAINS,
    JOINT_GAINS,
    ROUNDING,
    agreement,
    no_expected_gain,
    reaches_ceiling,
    stabilised,
    stop_reason,
)
from bdal.strategy import STRATEGIES, make_strategy, query

# -- agreement ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_agreement_is_cohens_kappa(seed):
    rng = np.random.default_rng(seed)
    num_classes, size = int(rng.integers(1, 6)), int(rng.integers(1, 200))
    previous = rng.integers(num_classes, size=size)
    changed = rng.random(size) < rng.random()
    current = np.where(changed, rng.integers(num_classes, size=size), previous)
    found = agreement(previous, current, num_classes)
    if len({*previous.tolist(), *current.tolist()}) == 1:
        assert found is None
    else:
        assert found == pytest.approx(cohen_kappa_score(previous, current), abs=1e-12)


def test_agreement_by_hand():
    # 20 of 50 yes to both, 15 no to both, 5 and 10 the one or the other: A_o = 0.7, A_e = 0.5 · 0.6 + 0.5 · 0.4
    table = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert agreement(*zip(*table, strict=True), num_classes=2) == pytest.approx(0.4, abs=1e-15)


@pytest.mark.parametrize(
    ("previous", "current", "expected"),
    [
        ([0, 1, 2, 1], [0, 1, 2, 1], 1.0),
        ([0, 0, 0, 0], [0, 1, 0, 1], 0.0),  # one of them constant: agreement by chance
        ([0, 0], [1, 1], 0.0),  # both constant, each its own class
        ([0, 1], [1, 0], -1.0),
        ([2, 2, 2], [2, 2, 2], None),
        ([0], [0], None),
    ],
)
def test_agreement_at_the_edges(previous, current, expected):
    found = agreement(previous, current, num_classes=3)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected  # a ledger can hold it
    if expected is not None:
        assert cohen_kappa_score(previous, current) == expected


def test_agreement_takes_any_integers_and_large_sets():
    previous = jnp.zeros(70_000, jnp.uint8).at[0].set(1)  # B² is beyond 32 bits
    assert agreement(previous, np.asarray(previous, np.int16), num_classes=2) == 1.0


@pytest.mark.parametrize(
    ("previous", "current", "kind", "words"),
    [
        ([0, 1], [0, 1, 1], ValueError, "current: expected the 2 points of previous, got 3"),
        ([], [], ValueError, "previous: expected classes .* of at least one point"),
        ([[0, 1]], [[0, 1]], ValueError, r"previous: .* got shape \(1, 2\)"),
        ([0, 1], [0, 3], ValueError, "current: expected classes from 0 to 2, got 3 at place 1"),
        ([0, -1], [0, 1], ValueError, "previous: expected classes from 0 to 2, got -1 at place 1"),
        ([0, 1], [0.0, 1.0], TypeError, "current: expected classes as integers, got float64"),
    ],
)
def test_what_are_no_predictions(previous, current, kind, words):
    with pytest.raises(kind, match=f"^{words}"):
        agreement(previous, current, num_classes=3)


# -- stabilised --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kappas", "expected"),
    [
        ([], False),
        ([1.0, 1.0], False),
        ([0.99, 0.99, 0.99], True),  # equal is enough, whatever a sum of three does to it
        ([0.0, 0.99, 0.99, 0.99], True),
        ([0.99, 0.99, 0.98], False),
        ([1.0, 1.0, 0.97], True),  # the mean, not the smallest
        ([1.0, 1.0, 1.0, 0.5], False),
        ([1.0, None, 1.0], False),
        ([None, 1.0, 1.0, 1.0], True),
    ],
)
def test_stabilised(kappas, expected):
    assert stabilised(kappas) is expected


def test_stabilised_with_another_window_and_threshold():
    assert stabilised([0.4, 0.9], window=1, threshold=0.9)
    assert not stabilised([0.9, 0.4], window=1, threshold=0.9)
    assert stabilised([0.8] * 5, window=5, threshold=0.8)
    assert not stabilised([1.0, 1.0], window=3, threshold=0.5)
    assert not stabilised([1.0, None, 1.0], window=3, threshold=0.5)
    with pytest.raises(ValueError, match="window: expected at least 1, got 0"):
        stabilised([1.0], window=0)


# -- gains -------------------------------------------------------------------------------------------------------------


def log_probs(rows, members, classes=4, scale=3.0, seed=0):
    return jax.nn.log_softmax(scale * jax.random.normal(jax.random.key(seed), (rows, members, classes)))


@pytest.mark.parametrize(("query_size", "scale", "expected"), [(1, 3.0, False), (5, 3.0, True), (5, 0.3, False)])
@pytest.mark.filterwarnings("ignore:batchbald")
def test_the_ceiling_is_that_of_the_joint_information(query_size, scale, expected):
    pool, members = log_probs(50, 4, scale=scale), 4
    chosen = batchbald(jax.random.key(1), pool, available=jnp.ones(50, bool), query_size=query_size)
    assert (float(joint_information(pool[chosen.indices])) > math.log(members) - 0.05) is expected
    assert reaches_ceiling(chosen.gains, members) is expected


def test_one_member_has_nothing_to_say():
    assert reaches_ceiling([0.0, 0.0], 1)
    assert not reaches_ceiling([], 1)
    with pytest.raises(ValueError, match="num_members: expected at least 1, got 0"):
        reaches_ceiling([0.1], 0)


def test_no_expected_gain():
    assert no_expected_gain([0.0, -0.3])
    assert no_expected_gain(np.float32([ROUNDING]))
    assert not no_expected_gain([0.0, 1e-5])
    assert no_expected_gain([0.1, 0.05], threshold=0.1)
    assert not no_expected_gain([0.1, 0.2], threshold=0.1)
    assert not no_expected_gain([])
    with pytest.raises(ValueError, match="threshold: expected nats, at least 0, got -1"):
        no_expected_gain([0.1], threshold=-1)


@pytest.mark.parametrize("gains", [[0.1, float("nan")], [float("inf")], [[0.1]]])
def test_gains_that_are_none(gains):
    for rule in (lambda: no_expected_gain(gains), lambda: reaches_ceiling(gains, 5)):
        with pytest.raises(ValueError, match="gains: expected finite numbers"):
            rule()


def apply(params, key, x):
    return x @ params


@pytest.mark.parametrize("name", sorted(INFORMATION_GAINS))
@pytest.mark.filterwarnings("ignore:batchbald", "ignore:epig from 6 members", "ignore:every available point")
def test_gains_in_nats_are_none_where_members_agree_and_some_where_they_do_not(name):
    assert name in STRATEGIES
    strategy, pool = make_strategy(name), jax.random.normal(jax.random.key(3), (30, 5))
    params = jax.random.normal(jax.random.key(4), (6, 5, 3))
    same = jnp.broadcast_to(params[:1], params.shape)
    for weights, nothing in ((same, True), (params, False)):
        committee = deep_ensemble(apply, weights)
        chosen = query(jax.random.key(5), strategy, committee, pool, query_size=4, targets=pool[:8])
        assert no_expected_gain(chosen.gains) is nothing


def test_gains_of_batchbald_are_joint_and_those_of_bald_are_not():
    assert {"batchbald"} == JOINT_GAINS
    pool = jnp.repeat(log_probs(5, 8), 2, axis=0)  # every row twice: the second tells less than the first
    chosen = batchbald(jax.random.key(0), pool, available=jnp.arange(10) < 2, query_size=2)
    assert float(chosen.gains.sum()) == pytest.approx(float(joint_information(pool[:2])), rel=1e-4)
    assert chosen.gains[1] < 0.9 * chosen.gains[0]


# -- all of them -------------------------------------------------------------------------------------------------------


def test_reasons_have_an_order_and_nothing_is_asked_unasked():
    full, none, rest = [math.log(5)], [0.0], [1.0, 1.0, 1.0]
    assert stop_reason() is None
    assert stop_reason(full) is None
    assert stop_reason(none) is None
    assert stop_reason(full, rest, num_members=5, no_gain=2.0) == "ceiling"
    assert stop_reason(none, rest, num_members=5, no_gain=0.0) == "stabilised"
    assert stop_reason(none, [0.9] * 3, num_members=5, no_gain=0.0) == "no_gain"
    assert stop_reason(none, [0.9] * 3, threshold=0.9) == "stabilised"
    assert stop_reason(none, [1.0], window=1) == "stabilised"
    assert stop_reason([0.1], [1.0, 1.0, 0.5], num_members=5, no_gain=0.01) is None
    assert stop_reason([], rest, num_members=5, no_gain=0.0) == "stabilised"
