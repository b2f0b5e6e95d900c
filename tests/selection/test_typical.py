"""Typical rows and their clusters against the definitions in float64, scikit-activeml and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.selection import k_means_clusters, typical, typiclust

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


def typicality(features, clusters, num_neighbours):
    """1 / mean distance to the nearest rows of the own cluster, in float64."""
    values = np.zeros(len(features))
    for row in np.flatnonzero(clusters >= 0):
        others = (clusters == clusters[row]) & (np.arange(len(features)) != row)
        distances = np.sort(np.linalg.norm(features[others] - features[row], axis=1))
        values[row] = 1 / distances[:num_neighbours].mean()
    return values


@pytest.mark.parametrize("num_neighbours", [3, 20])  # 20 are more than two of the clusters have
def test_typiclust_takes_the_most_typical_row_of_each_of_the_largest_clusters(num_neighbours):
    features, clusters = blobs()
    labelled = np.arange(R) == 33  # of the cluster of 12: five clusters for one label and four picks
    expected = typicality(features, clusters, num_neighbours)
    picks = [int(np.where(clusters == c, expected, 0).argmax()) for c in (2, 0, 3, 4)]
    options = {**TYPICAL, "available": (clusters >= 0) & ~labelled, "num_neighbours": num_neighbours}
    for seed in range(5):
        query = typiclust(jax.random.key(seed), features, labelled=labelled, **options)
        assert query.indices.tolist() == picks
        np.testing.assert_allclose(query.gains, expected[picks], rtol=1e-5)
    # scikit-activeml, whose typicality has an epsilon of 1e-7 and is computed in float64
    oracle = {
        3: ([45, 19, 104, 111], [5.446273123981633, 2.1516719796195076, 1.7696220235142335, 1.6236374729514325]),
        20: ([54, 22, 105, 109], [1.1156904975510773, 0.9844688968586115, 0.7691610119321184, 0.8646762126720178]),
    }
    assert query.indices.tolist() == oracle[num_neighbours][0]
    np.testing.assert_allclose(query.gains, oracle[num_neighbours][1], rtol=1e-5)


def test_typiclust_goes_round_when_clusters_are_few():
    features, clusters = blobs()
    available = (clusters >= 0) & ~np.isin(np.arange(R), [33, 34])
    labelled = np.arange(R) == 33
    query = typiclust(
        jax.random.key(0), features, available=available, labelled=labelled, query_size=12, max_clusters=5
    )
    visits = clusters[np.asarray(query.indices)].tolist()
    assert visits == [2, 0, 3, 4, 2, 0, 3, 1, 4, 2, 0, 3]  # one was labelled in cluster 1; largest first in each round
    for cluster in range(5):
        assert (np.diff(query.gains[np.array(visits) == cluster]) <= 0).all()


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


def test_place_in_group():
    rng = np.random.default_rng(0)
    groups, keys = rng.integers(-2, 4, size=40), rng.integers(5, size=40)
    expected = [sum(groups[j] == groups[i] and (keys[j], j) < (keys[i], i) for j in range(40)) for i in range(40)]
    assert typical.place_in_group(jnp.asarray(groups), jnp.asarray(keys)).tolist() == expected
