"""Typical rows and their clusters against the authors' code, the definitions in float64 and scikit-activeml."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.selection import k_means_clusters, typical, typiclust
from bdal.selection.covers import centred

pytestmark = pytest.mark.slow

R, Q = 150, 6  # more rows than are looked at at a time, and a last block that is not full
EVERY = np.ones(R, bool)
TYPICAL = {"query_size": 4, "num_neighbours": 3, "max_clusters": 30}


def curve():
    i = np.arange(R)
    return np.stack([np.sin(1.7 * i), np.cos(0.9 * i * i), np.sin(0.3 * i)], 1)


def blobs():
    """Five clusters of 30, 12, 46, 20 and 9 rows, far apart, and 33 rows of nothing: features and clusters."""
    clusters = np.repeat(np.arange(5), [30, 12, 46, 20, 9])
    i = np.arange(len(clusters))
    features = np.full((R, 3), np.nan)
    features[: len(i), 0] = 100.0 * clusters + np.sin(1.7 * i)
    features[: len(i), 1] = 50 * np.cos(2.0 * clusters) + np.cos(0.9 * i * i)
    features[: len(i), 2] = np.sin(0.3 * i)
    return features, np.pad(clusters, (0, R - len(i)), constant_values=-1)


def test_k_means_finds_clusters_that_are_far_apart():
    features, clusters = blobs()
    for seed in range(5):
        found = k_means_clusters(jax.random.key(seed), features, num_clusters=5, available=clusters >= 0)
        assert sorted(set(zip(clusters.tolist(), found.tolist(), strict=True))) == sorted(
            {(-1, -1), *((c, int(found[clusters == c][0])) for c in range(5))}
        )
        assert set(found[clusters >= 0].tolist()) == set(range(5))


def test_k_means_ends_where_nothing_moves():
    features = curve()
    found = np.asarray(k_means_clusters(jax.random.key(0), features, num_clusters=5, available=EVERY))
    centres = np.stack([features[found == c].mean(0) for c in range(5)])
    squared = np.square(features[:, None] - centres[None]).sum(-1)
    np.testing.assert_array_equal(found, squared.argmin(1))
    spread = np.square(features - features.mean(0)).sum()
    assert squared.min(1).sum() < 0.5 * spread


def test_k_means_of_fewer_points_than_clusters():
    features = np.repeat(curve()[:3], 50, axis=0)
    found = np.asarray(k_means_clusters(jax.random.key(0), features, num_clusters=5, available=EVERY))
    assert len(set(found.tolist())) == 3
    assert (found.reshape(3, 50) == found[::50, None]).all()


def authors(features, clusters, available, labelled, rule="code", num_neighbours=20):
    """The authors' selection of rows, given the clusters, in float64: a generator that is told what was picked.

    avihu111/TypiClust, `deep-al/pycls/al/typiclust.py`, `select_samples`: clusters of more than five rows by (labelled
    rows, −size), in turn; 1 / mean squared distance to the min(20, n // 2) nearest of the n unlabelled members not yet
    picked. Where it has no row to go on with: the next cluster, and in the end the small ones, as we say of ours.
    "paper": plain distances to the min(20, size) nearest rows of the whole cluster (equation 4, appendix F.1).

    Yields:
      the rows left of the cluster that is next, and their typicalities.
    """
    matters = available | labelled
    ids = sorted(set(clusters[matters].tolist()))
    sizes, counts = ({c: int((clusters[mask] == c).sum()) for c in ids} for mask in (matters, labelled))
    order = sorted(ids, key=lambda c: (counts[c], -sizes[c], c))
    left = available.copy()
    for small in (False, True):
        turns = [c for c in order if (sizes[c] <= 5) == small]
        while any(left[clusters == c].any() for c in turns):
            for c in turns:
                rows = np.flatnonzero(left & (clusters == c))
                if len(rows) == 0:
                    continue
                others = rows if rule == "code" else np.flatnonzero(matters & (clusters == c))
                squared = np.square(features[rows][:, None] - features[others][None]).sum(-1)
                squared[rows[:, None] == others[None]] = np.inf
                wanted = min(num_neighbours, len(rows) // 2 if rule == "code" else len(others) - 1)
                nearest = np.sort(squared if rule == "code" else np.sqrt(squared), axis=1)[:, :wanted]
                with np.errstate(divide="ignore"):
                    values = 1 / nearest.mean(1) if wanted else np.zeros(len(rows))
                left[(yield rows, values)] = False


@partial(jax.jit, static_argnames="max_clusters")
def its_clusters(key, features, matters, number, max_clusters):
    """`k_means_clusters` without a compilation for every number."""
    return typical._k_means(key, centred(features, matters), matters, number, max_clusters)[0]


def test_the_clusters_are_those_of_k_means_clusters():
    features, matters, key = density(np.random.default_rng(2), copies=0.2), np.arange(R) % 7 > 0, jax.random.key(1)
    found = k_means_clusters(key, features, num_clusters=20, available=matters)
    np.testing.assert_array_equal(found, np.where(matters, its_clusters(key, features, matters, 20, R), -1))


def assert_authors_rule(key, features, available, labelled, query_size, rule="code", max_clusters=500, **options):
    """Every pick is a best one of the cluster that is next, given the picks before it; the gains are typicalities."""
    query = typiclust(
        key, features, available=available, labelled=labelled, query_size=query_size, rule=rule,
        max_clusters=max_clusters, **options,
    )  # fmt: skip
    number = min(int(labelled.sum()) + query_size, max_clusters, len(features))
    clusters = np.asarray(its_clusters(key, features, available | labelled, number, min(max_clusters, len(features))))
    steps = authors(np.asarray(features, np.float64), clusters, available, labelled, rule, **options)
    rows, values = next(steps)
    for place, pick in enumerate(np.asarray(query.indices)):
        assert pick in rows, (place, pick, rows)
        value = values[rows == pick][0]
        assert value >= values.max() * (1 - 1e-5), (place, pick, value, values)
        np.testing.assert_allclose(query.gains[place], min(value, 1 / np.finfo(np.float32).tiny), rtol=1e-4)
        if place + 1 < query_size:
            rows, values = steps.send(pick)
    assert len(set(query.indices.tolist())) == query_size
    return query, clusters


def density(rng, copies):
    """Rows of different density, some of them copies: `[R, 3]` float32."""
    centres = rng.normal(size=(8, 3)) * 3
    features = centres[rng.integers(8, size=R)] + rng.gamma(1.0, size=(R, 1)) * rng.normal(size=(R, 3))
    features = np.where(rng.random((R, 1)) < copies, features[rng.integers(R // 3, size=R)], features)
    return features.astype(np.float32)


@pytest.mark.parametrize("rule", ["code", "paper"])
@pytest.mark.parametrize("max_clusters", [500, 3])
def test_typiclust_is_the_authors_selection(rule, max_clusters):
    rng = np.random.default_rng(0)
    for case in range(24):
        features = density(rng, copies=[0.0, 0.5][case % 2])
        labelled = np.zeros(R, bool)
        if case % 3 == 1:
            labelled = rng.random(R) < 0.2
        elif case % 3 == 2:  # in dense places
            gaps = np.sort(np.linalg.norm(features[:, None] - features[None], axis=-1), axis=1)[:, 10]
            labelled[np.argsort(gaps)[: rng.integers(1, 40)]] = True
        available = ~labelled & (rng.random(R) < rng.choice([0.3, 1.0]))
        key = jax.random.key(rng.integers(2**31))
        assert_authors_rule(key, features, available, labelled, Q, rule, max_clusters)


@pytest.mark.parametrize("rule", ["code", "paper"])
def test_typiclust_is_the_authors_selection_at_the_edges(rule):
    rng = np.random.default_rng(1)
    for _ in range(6):
        features, key = density(rng, copies=0.2), jax.random.key(rng.integers(2**31))
        last = np.isin(np.arange(R), rng.choice(R, Q, replace=False))
        assert_authors_rule(key, features, last, ~last, Q, rule, max_clusters=30)  # everything labelled but Q
        few = rng.choice(R, 24, replace=False)  # clusters of four and fewer only
        assert_authors_rule(key, features, np.isin(np.arange(R), few), ~EVERY, Q, rule)
        same = np.repeat(features[:2], R // 2, axis=0)  # empty clusters
        query, _ = assert_authors_rule(key, same, EVERY, np.arange(R) == 140, Q, rule)
        assert np.isfinite(query.gains).all()
        # R = Q: with as many clusters as rows, and with three
        available = np.ones(24, bool)
        for max_clusters in (500, 3):
            assert_authors_rule(key, features[:24], available, ~available, 24, rule, max_clusters)


@pytest.mark.parametrize("num_neighbours", [3, 20])  # 20 are more than two of the clusters have
def test_typiclust_takes_the_most_typical_row_of_each_of_the_largest_clusters(num_neighbours):
    features, clusters = blobs()
    labelled = np.arange(R) == 33  # of the cluster of 12: five clusters for one label and four picks
    options = {**TYPICAL, "available": (clusters >= 0) & ~labelled, "num_neighbours": num_neighbours}
    # scikit-activeml, whose typicality has plain distances, an epsilon of 1e-7 and is computed in float64
    picks, gains = {
        3: ([45, 19, 104, 111], [5.446273123981633, 2.1516719796195076, 1.7696220235142335, 1.6236374729514325]),
        20: ([54, 22, 105, 109], [1.1156904975510773, 0.9844688968586115, 0.7691610119321184, 0.8646762126720178]),
    }[num_neighbours]
    for seed in range(5):
        query = typiclust(jax.random.key(seed), features, labelled=labelled, rule="paper", **options)
        assert query.indices.tolist() == picks
        np.testing.assert_allclose(query.gains, gains, rtol=1e-5)
        query = typiclust(jax.random.key(seed), features, labelled=labelled, **options)
        assert clusters[np.asarray(query.indices)].tolist() == [2, 0, 3, 4]


def test_typiclust_goes_round_when_clusters_are_few():
    features, clusters = blobs()
    available = (clusters >= 0) & ~np.isin(np.arange(R), [33, 34])
    labelled = np.arange(R) == 33
    query = typiclust(
        jax.random.key(0), features, available=available, labelled=labelled, query_size=12, max_clusters=5
    )
    # the order is made once, with cluster 1, where a label is, at its end; the fifth, of nine rows, is no small one
    assert clusters[np.asarray(query.indices)].tolist() == [2, 0, 3, 4, 1, 2, 0, 3, 4, 1, 2, 0]


def test_small_clusters_come_last_but_are_not_lost():
    features, clusters = blobs()
    available = np.isin(np.arange(R), [*range(30), *range(30, 34), *range(42, 50), *range(88, 90)])  # 30, 4, 8 and 2
    for seed in range(3):
        key = jax.random.key(seed)
        query = typiclust(key, features, available=available, **TYPICAL)
        assert clusters[np.asarray(query.indices)].tolist() == [0, 2, 0, 2]
    few = np.isin(np.arange(R), [0, 1, 2, 30, 31, 42, 43, 88])  # small clusters only: the authors' code has none left
    query = typiclust(key, features, available=few, **TYPICAL)
    assert sorted(clusters[np.asarray(query.indices)].tolist()) == [0, 1, 2, 3]
    assert clusters[query.indices[0]] == 0
    assert query.indices[3] == 88
    assert query.gains[3] == 0  # a row without neighbours


def test_typiclust_of_repeated_rows_is_finite_and_pads():
    features = np.repeat(curve()[:3], 50, axis=0)
    query = typiclust(jax.random.key(0), features, available=np.arange(R) % 50 == 1, pad=True, **TYPICAL)
    assert sorted(query.indices.tolist()) == [-1, 1, 51, 101]
    query = typiclust(jax.random.key(0), features, available=EVERY, **TYPICAL)
    assert sorted((query.indices[:3] // 50).tolist()) == [0, 1, 2]
    assert len(set(query.indices.tolist())) == 4
    assert np.isfinite(query.gains).all()


def test_equally_typical_rows_are_ties():
    features = np.repeat(curve()[:3], 50, axis=0)
    picks = {
        tuple(typiclust(jax.random.key(seed), features, available=EVERY, **TYPICAL).indices[:3].tolist())
        for seed in range(8)
    }
    assert len({row % 50 for rows in picks for row in rows}) > 10


def test_a_number_that_is_none_shows_and_ends():
    features = curve().astype(np.float32)
    features[7] = np.nan
    traced = jax.jit(lambda features: typiclust(jax.random.key(0), features, available=jnp.asarray(EVERY), **TYPICAL))
    query = traced(features)
    assert len(set(query.indices.tolist())) == 4
    assert np.isnan(query.gains).all()
    with pytest.raises(ValueError, match='rule must be "code" or "paper", got \'text\''):
        typiclust(jax.random.key(0), curve(), available=EVERY, rule="text", **TYPICAL)


def test_double_precision_elsewhere_changes_nothing():
    features = curve().astype(np.float32)
    plain = [
        typiclust(jax.random.key(0), features, available=EVERY, rule=rule, **TYPICAL) for rule in ("code", "paper")
    ]
    jax.config.update("jax_enable_x64", True)
    try:
        double = [
            typiclust(jax.random.key(0), features, available=EVERY, rule=rule, **TYPICAL) for rule in ("code", "paper")
        ]
    finally:
        jax.config.update("jax_enable_x64", False)
    for one, other in zip(plain, double, strict=True):
        assert one.indices.tolist() == other.indices.tolist()
        assert (other.indices.dtype, other.gains.dtype) == (jnp.int32, jnp.float32)


def test_place_in_group():
    rng = np.random.default_rng(0)
    groups, keys = rng.integers(-2, 4, size=40), rng.integers(5, size=40)
    expected = [sum(groups[j] == groups[i] and (keys[j], j) < (keys[i], i) for j in range(40)) for i in range(40)]
    assert typical.place_in_group(jnp.asarray(groups), jnp.asarray(keys)).tolist() == expected
