"""What every selector must do, whatever it selects by.

Axes: R rows, K members, C classes, D features, Q query size.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import selection
from bdal.errors import NonFiniteError
from bdal.selection import diverse, k_center, mutual_information_penalty, power, softmax, softrank, top_k
from bdal.testing import check_selector
from tests.vectors import random_probs

R, Q = 24, 5


class Rows(NamedTuple):
    """Everything that a selector may look at."""

    scores: jax.Array  # [R]
    features: jax.Array  # [R, D]
    log_probs: jax.Array  # [R, K, C]


def by_key(select, key, rows, **options):
    return select(key, rows.scores, **options)


SELECTORS = {  # (key, rows, *, available, query_size, pad) -> Query
    "top_k": lambda key, rows, **options: top_k(rows.scores, key=key, **options),
    "diverse": lambda key, rows, **options: diverse(rows.scores, rows.features, weight=1.0, key=key, **options),
    "penalty_max": lambda key, rows, **options: mutual_information_penalty(
        rows.log_probs, reduce="max", key=key, **options
    ),
    "penalty_sum": lambda key, rows, **options: mutual_information_penalty(
        rows.log_probs, reduce="sum", key=key, **options
    ),
    "k_center": lambda key, rows, **options: k_center(rows.features, key=key, **options),
    "power": partial(by_key, power),
    "softmax": partial(by_key, softmax),
    "softrank": partial(by_key, softrank),
}
RANDOM = ("power", "softmax", "softrank")
LOOKS_AT = {
    "diverse": ("scores", "features"),
    "penalty_max": ("log_probs",),
    "penalty_sum": ("log_probs",),
    "k_center": ("features",),
}
selectors = pytest.mark.parametrize("select", SELECTORS.values(), ids=SELECTORS)
fixed_selectors = pytest.mark.parametrize("select", [SELECTORS[name] for name in SELECTORS if name not in RANDOM])

KEY = jax.random.key(0)
EVERY = jnp.ones(R, bool)
SOME = jnp.asarray(np.arange(R) % 3 != 1)  # 16 rows


def make_rows(seed=0) -> Rows:
    rng = np.random.default_rng(seed)
    return Rows(
        jnp.asarray(rng.uniform(size=R), jnp.float32),
        jnp.asarray(rng.normal(size=(R, 3)), jnp.float32),
        jnp.asarray(np.log(random_probs(seed, R, 4, 3)), jnp.float32),
    )


def poison(rows: Rows, index, value) -> Rows:
    return Rows(*(leaf.at[jnp.asarray(index)].set(value) for leaf in rows))


@pytest.mark.parametrize("name", SELECTORS)
def test_the_shipped_checks(name):
    def select(key, *arrays, **options):
        return SELECTORS[name](key, Rows(*arrays), **options)

    check_selector(select, *make_rows(), query_size=Q, random=name in RANDOM)


def by_features(select, **options):
    return lambda key, rows, **how: select(rows.features, key=key, **options, **how)


def drawn(select, **options):
    return lambda key, rows, **how: select(key, rows.features, **options, **how)


OTHERS = {  # those that draw, or in which rows that cover only each other are ties, need not be indifferent to order
    "lcmd": by_features(selection.lcmd),
    "max_det": by_features(selection.max_det, noise_sigma=0.1),
    "bait": lambda key, rows, **how: selection.bait(rows.features, jnp.exp(rows.log_probs).mean(1), key=key, **how),
    "bait_one_vector": by_features(selection.bait_one_vector, noise_sigma=0.1),
    "bait_one_vector, forward and backward": by_features(selection.bait_one_vector, noise_sigma=0.1, oversample=2.0),
    "frank_wolfe": by_features(selection.frank_wolfe),
    "uncertainty_herding": lambda key, rows, **how: selection.uncertainty_herding(
        rows.scores, rows.features, key=key, **how
    ),
    "weighted_coverage": lambda key, rows, **how: selection.weighted_coverage(
        rows.scores, rows.features, key=key, **how
    ),
    "suggestive_annotation": lambda key, rows, **how: selection.suggestive_annotation(
        rows.scores, rows.features, candidates=8, key=key, **how
    ),
    "class_balanced": lambda key, rows, **how: selection.class_balanced(
        rows.scores, rows.log_probs.shape[1] * jnp.ones(R, int) % 3, jnp.array([1, 0, 2]), key=key, **how
    ),
}
DRAWN = {
    "max_herding": by_features(selection.max_herding, bandwidth=3.0),
    "prob_cover": by_features(selection.prob_cover, radius=1.0),
    "facility_location": by_features(selection.facility_location),
    "k_means": drawn(selection.k_means),
    "k_means_plus_plus": drawn(selection.k_means_plus_plus),
    "typiclust": drawn(selection.typiclust, max_clusters=8),
    "badge": lambda key, rows, **how: selection.badge(key, jnp.exp(rows.log_probs).mean(1), rows.features, **how),
    "batchbald": lambda key, rows, **how: selection.batchbald(key, rows.log_probs, num_samples=300, **how),
    "cluster_margin": lambda key, rows, **how: selection.cluster_margin(
        key, rows.scores, jnp.arange(R) % 4, candidates=8, **how
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS | DRAWN)
def test_the_shipped_checks_of_the_others(name):
    def select(key, *arrays, **options):
        return (OTHERS | DRAWN)[name](key, Rows(*arrays), **options)

    check_selector(select, *make_rows(), query_size=Q, random=name in DRAWN)


@selectors
def test_too_few_rows_are_refused_or_padded(select):
    three = jnp.zeros(R, bool).at[jnp.array([2, 7, 20])].set(True)
    with pytest.raises(ValueError, match="query_size is 5, but only 3 of 24 rows are available"):
        select(KEY, make_rows(), available=three, query_size=Q)
    query = select(KEY, make_rows(), available=three, query_size=Q, pad=True)
    assert sorted(query.indices[:3].tolist()) == [2, 7, 20]
    assert query.indices[3:].tolist() == [-1, -1]
    assert query.gains[3:].tolist() == [0, 0]
    query = select(KEY, make_rows(), available=jnp.zeros(R, bool), query_size=Q, pad=True)
    assert query.indices.tolist() == [-1] * Q
    assert query.gains.tolist() == [0] * Q


@selectors
def test_a_query_larger_than_the_pool_is_refused_or_padded(select):
    with pytest.raises(ValueError, match="query_size is 25, but only 16 of 24 rows are available"):
        select(KEY, make_rows(), available=SOME, query_size=R + 1)
    query = select(KEY, make_rows(), available=SOME, query_size=R + 1, pad=True)
    assert sorted(query.indices[:16].tolist()) == np.flatnonzero(SOME).tolist()  # each of them once
    assert query.indices[16:].tolist() == [-1] * 9
    assert query.gains[16:].tolist() == [0] * 9


@pytest.mark.parametrize("name", SELECTORS)
def test_an_available_row_that_is_not_finite_is_refused_by_name(name):
    select = SELECTORS[name]
    for field in LOOKS_AT.get(name, ("scores",)):
        rows = make_rows()._replace(**{field: getattr(poison(make_rows(), [4, 6], np.nan), field)})  # 4 is unavailable
        name_of = "embeddings" if select is SELECTORS["diverse"] and field == "features" else field
        with pytest.raises(NonFiniteError, match=name_of + r".*1 of (16|24) .*\((row|point) 6\)"):
            select(KEY, rows, available=SOME, query_size=Q)


@selectors
def test_the_same_key_gives_the_same_query_under_jit_and_vmap(select):
    keys, rows = jax.random.split(KEY, 3), [make_rows(seed) for seed in range(3)]
    pools = jnp.stack([EVERY, SOME, jnp.arange(R) == 3])  # a trace pads where an eager call has to be asked
    options = {"query_size": Q, "pad": True}
    eager = [select(*each, available=pool, **options) for *each, pool in zip(keys, rows, pools, strict=True)]
    assert eager[2].indices.tolist() == [3, -1, -1, -1, -1]

    def call(key, rows, available):
        return select(key, rows, available=available, query_size=Q)

    mapped = jax.jit(jax.vmap(call))(keys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows), pools)
    np.testing.assert_array_equal(mapped.indices, jnp.stack([each.indices for each in eager]))
    np.testing.assert_allclose(mapped.gains, jnp.stack([each.gains for each in eager]), rtol=1e-5, atol=1e-6)


@selectors
def test_equal_rows_are_picked_at_random_by_the_key(select):
    same = Rows(*(jnp.broadcast_to(leaf[:1], leaf.shape) for leaf in make_rows()))
    keys = jax.random.split(KEY, 600)
    picks = jax.vmap(lambda key: select(key, same, available=SOME, query_size=2).indices)(keys)
    for place in range(2):
        counts = np.bincount(picks[:, place], minlength=R)
        assert counts[~SOME].sum() == 0
        chance = 1 / 16
        spread = np.sqrt(600 * chance * (1 - chance))
        assert np.abs(counts[SOME] - 600 * chance).max() < 4.5 * spread


@fixed_selectors
def test_without_a_key_the_lowest_of_equal_rows_is_picked(select):
    same = Rows(*(jnp.broadcast_to(leaf[:1], leaf.shape) for leaf in make_rows()))
    query = select(None, same, available=SOME, query_size=Q)
    assert query.indices.tolist() == np.flatnonzero(SOME)[:Q].tolist()


@selectors
def test_half_precision_and_numpy_are_computed_in_float32(select):
    rows = Rows(*(leaf.astype(jnp.bfloat16) for leaf in make_rows()))
    held = rows._replace(scores=np.asarray(rows.scores, np.float64), features=np.asarray(rows.features, np.float32))
    query = select(KEY, rows, available=SOME, query_size=Q)
    assert query.gains.dtype == jnp.float32
    expected = select(KEY, held, available=np.asarray(SOME), query_size=np.int64(Q))
    np.testing.assert_array_equal(query.indices, expected.indices)
    np.testing.assert_allclose(query.gains, expected.gains, rtol=1e-6, atol=1e-7)


def test_old_keys_will_do():
    query = top_k(make_rows().scores, available=SOME, query_size=Q, key=jax.random.PRNGKey(0))
    expected = top_k(make_rows().scores, available=SOME, query_size=Q)
    np.testing.assert_array_equal(query.indices, expected.indices)


@selectors
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"query_size": 0}, ValueError, "query_size must be at least 1"),
        ({"query_size": 2.5}, TypeError, "query_size must be a Python int"),
        ({"available": np.arange(R)}, ValueError, "available must be a boolean mask"),
        ({"available": EVERY[:-1]}, ValueError, r"(available.*23|23.*available).*got \(24,"),
    ],
)
def test_misuse_is_named(select, options, error, message):
    with pytest.raises(error, match=message):
        select(KEY, make_rows(), **({"available": EVERY, "query_size": Q} | options))


@selectors
def test_wrong_ranks_and_integers_are_named(select):
    with pytest.raises(ValueError, match="shape"):
        select(KEY, Rows(*(leaf[:, None, None] for leaf in make_rows())), available=EVERY, query_size=Q)
    with pytest.raises(TypeError, match="floating-point"):
        select(KEY, Rows(*(leaf.astype(jnp.int32) for leaf in make_rows())), available=EVERY, query_size=Q)
