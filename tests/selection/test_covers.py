"""Covering selectors against the definitions in float64, scikit-activeml and closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.errors import NonFiniteError
from bdal.selection import (
    ball_purity,
    covers,
    facility_location,
    half_spread,
    max_herding,
    prob_cover,
    purity_radius,
    smallest_gap,
    top_k,
    typical,
    typiclust,
    uncertainty_herding,
    unit_rows,
    weighted_coverage,
)

pytestmark = pytest.mark.slow

R, Q = 150, 6  # more rows than are looked at at a time, and a last block that is not full
EVERY = np.ones(R, bool)
TYPICAL = {"query_size": 4, "num_neighbours": 3, "max_clusters": 30}

KERNELS = {
    "rbf": lambda distance: np.exp(-(distance**2)),
    "laplace": lambda distance: np.exp(-distance),
    "student": lambda distance: 1 / (1 + distance**2),
    "top_hat": lambda distance: (distance <= 1).astype(float),
}


def curve():
    i = np.arange(R)
    return np.stack([np.sin(1.7 * i), np.cos(0.9 * i * i), np.sin(0.3 * i)], 1)


def similarities(features, kernel, bandwidth):
    features = np.asarray(features, np.float64)
    if kernel == "cosine":
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        return unit @ unit.T
    return KERNELS[kernel](np.linalg.norm(features[:, None] - features[None], axis=-1) / bandwidth)


def naive(table, weights, available, labelled, covered, query_size):
    """Greedy coverage from a table of similarities [R, R]: every candidate's whole coverage, at every pick."""

    def coverage(chosen):
        best = np.max(table[chosen], axis=0, initial=0.0)
        return np.sum(np.asarray(weights, float) * best, where=covered) / covered.sum()

    chosen, picks, gains = np.flatnonzero(labelled).tolist(), [], []
    for _ in range(query_size):
        values = np.full(len(table), -np.inf)
        for row in np.flatnonzero(available):
            if row not in picks:
                values[row] = coverage([*chosen, row])
        values -= coverage(chosen)
        picks.append(int(values.argmax()))
        gains.append(values[picks[-1]])
        chosen.append(picks[-1])
    return picks, gains


def masks(seed):
    rng = np.random.default_rng(seed)
    labelled = np.zeros(R, bool)
    labelled[rng.permutation(R)[: 7 * seed]] = True
    return ~labelled & (rng.uniform(size=R) < 0.7), labelled, rng


@pytest.mark.parametrize("kernel", [*KERNELS, "cosine"])
def test_uncertainty_herding_is_the_naive_greedy(kernel):
    for seed in range(3):
        available, labelled, rng = masks(seed)
        features, scores = rng.normal(size=(R, 3)).astype(np.float32), rng.uniform(size=R).astype(np.float32)
        query = uncertainty_herding(
            scores, features, bandwidth=0.9, kernel=kernel, available=available, labelled=labelled, query_size=Q
        )
        table = similarities(features, kernel, np.float32(0.9))
        weights = np.where(available, scores, 0)
        picks, gains = naive(table, weights, available, labelled, available | labelled, Q)
        assert query.indices.tolist() == picks
        # a distance of 0 comes out as up to 3e-4, of which exp(−d) alone sees the first power
        np.testing.assert_allclose(query.gains, gains, rtol=1e-5, atol=1e-5 if kernel == "laplace" else 1e-7)
        assert (np.diff(query.gains) <= 0).all()


@pytest.mark.parametrize("shift", [0.0, 300.0])  # far from the origin squares cancel
def test_prob_cover_is_the_naive_greedy(shift):
    for seed in range(3):
        available, labelled, rng = masks(seed)
        features = (rng.normal(size=(R, 3)) + shift).astype(np.float32)
        query = prob_cover(features, radius=0.8, available=available, labelled=labelled, query_size=Q)
        covered = available | labelled
        table = similarities(features, "top_hat", np.float32(0.8))
        picks, gains = naive(table, np.ones(R), available, labelled, covered, Q)
        assert query.indices.tolist() == picks  # whole numbers of rows: ties are exact
        np.testing.assert_allclose(query.gains, gains, rtol=1e-6)


@pytest.mark.parametrize(
    ("radius", "picks", "degrees"),
    [  # no ties in these
        (0.73, [54, 20, 70, 8, 2], [25, 22, 21, 16, 15]),
        (0.87, [19, 54, 65, 112, 2], [34, 31, 26, 20, 16]),
        (1.07, [11, 109, 41, 81, 24], [58, 38, 23, 14, 10]),
    ],
)
def test_prob_cover_agrees_with_scikit_activeml(radius, picks, degrees):
    query = prob_cover(curve(), radius=radius, available=EVERY, query_size=Q)
    assert query.indices[:5].tolist() == picks
    np.testing.assert_allclose(R * query.gains[:5], degrees, rtol=1e-6)


def test_the_last_rows_of_the_pool_are_covered_too():
    # The authors' graph leaves out the rows after the last full block of 500.
    features = np.arange(R, dtype=np.float32)[:, None] * np.array([10.0, 0, 0])
    features[-9:] = features[-9]  # a crowd at the end
    assert prob_cover(features, radius=1.0, available=EVERY, query_size=Q).indices[0] == R - 9


def test_a_row_at_the_radius_is_inside():
    grid = np.stack(np.meshgrid(np.arange(15), np.arange(10), 1), -1).reshape(R, 3)
    for scale in (0.1, 1.0, 3.0, 1000.0):
        gain = prob_cover(grid * np.float32(scale), radius=scale, available=EVERY, query_size=Q).gains[0]
        assert round(R * float(gain)) == 5  # itself and four neighbours


def test_prob_cover_is_max_herding_with_the_indicator():
    features = curve()
    by_ball = prob_cover(features, radius=0.8, available=EVERY, query_size=Q)
    by_kernel = max_herding(features, bandwidth=0.8, kernel="top_hat", available=EVERY, query_size=Q)
    np.testing.assert_array_equal(by_ball.indices, by_kernel.indices)


def test_uncertainty_herding_goes_from_max_herding_to_top_k():
    features, scores = curve(), np.random.default_rng(0).uniform(size=R).astype(np.float32)
    even = uncertainty_herding(np.full(R, 0.5), features, bandwidth=1.0, available=EVERY, query_size=Q)
    cover = max_herding(features, bandwidth=1.0, available=EVERY, query_size=Q)
    np.testing.assert_array_equal(even.indices, cover.indices)
    np.testing.assert_allclose(even.gains, 0.5 * cover.gains, rtol=1e-6)
    narrow = uncertainty_herding(scores, features, bandwidth=1e-3, available=EVERY, query_size=Q)
    np.testing.assert_array_equal(narrow.indices, top_k(scores, available=EVERY, query_size=Q).indices)
    np.testing.assert_allclose(R * narrow.gains, np.sort(scores)[::-1][:Q], rtol=1e-5)


def test_labelled_rows_are_chosen_from_the_start():
    features = curve()
    whole = max_herding(features, bandwidth=1.0, available=EVERY, query_size=Q)
    labelled = np.isin(np.arange(R), whole.indices[:3])
    rest = max_herding(features, bandwidth=1.0, available=~labelled, labelled=labelled, query_size=Q)
    np.testing.assert_array_equal(rest.indices[:3], whole.indices[3:])
    np.testing.assert_allclose(rest.gains[:3], whole.gains[3:], rtol=1e-5)


def test_facility_location_covers_what_it_is_told_to():
    for seed in range(3):
        available, labelled, rng = masks(seed)
        features, covered = rng.normal(size=(R, 3)).astype(np.float32), rng.uniform(size=R) < 0.3
        query = facility_location(features, available=available, labelled=labelled, covered=covered, query_size=Q)
        table = similarities(features, "cosine", 1.0)
        picks, gains = naive(table, np.ones(R), available, labelled, covered, Q)
        assert query.indices.tolist() == picks
        np.testing.assert_allclose(query.gains, gains, rtol=1e-5, atol=1e-7)


def test_greedy_coverage_is_within_the_bound_of_nemhauser():
    features, some = curve(), np.arange(R) < 12
    table = similarities(features[:12], "rbf", 0.5)
    best = max(table[list(chosen)].max(0).mean() for chosen in itertools.combinations(range(12), 3))
    gains = max_herding(features, bandwidth=0.5, available=some, query_size=Q).gains[:3]
    assert (1 - np.exp(-1)) * best <= float(gains.sum()) <= best * (1 + 1e-6)


def test_a_pool_that_is_covered_has_no_gains_left():
    features = np.repeat(curve()[:5], 30, axis=0)  # five points, thirty times each
    query = prob_cover(features, radius=0.01, available=EVERY, query_size=Q)
    assert sorted((query.indices[:5] // 30).tolist()) == list(range(5))
    np.testing.assert_allclose(query.gains, [0.2] * 5 + [0.0], rtol=1e-6)
    assert len(set(query.indices.tolist())) == Q
    few = np.arange(R) % 50 == 7
    query = prob_cover(features, radius=0.01, available=few, query_size=Q, pad=True)
    assert sorted(query.indices.tolist()) == [-1, -1, -1, 7, 57, 107]


def test_two_rows_that_cover_only_each_other_are_a_tie():
    i = np.arange(R)
    features = np.stack([8.0 * (i % 75), np.sin(i), np.cos(i * i)], 1)  # 75 pairs
    some = (i % 75) < 10
    closest = np.argsort(np.linalg.norm(features[:10] - features[75:85], axis=1))[:Q]
    query = max_herding(features, bandwidth=1.0, available=some, query_size=Q)
    assert query.indices.tolist() == closest.tolist()  # of the closest pair the first row, and so on


def test_ties_are_broken_by_the_key():
    features = np.repeat(curve()[:5], 30, axis=0)
    first = {
        int(prob_cover(features, radius=0.01, available=EVERY, query_size=Q, key=jax.random.key(s)).indices[0])
        for s in range(20)
    }
    assert len(first) > 10
    assert {row // 30 for row in first} == set(range(5))


def test_under_jit_and_vmap():
    features, scores = curve(), jnp.asarray(np.random.default_rng(1).uniform(size=(3, R)), jnp.float32)
    labelled = np.arange(R)[None, :] < np.array([0, 5, 130])[:, None]

    def call(scores, labelled):
        return uncertainty_herding(
            scores, features, bandwidth=1.0, available=~labelled, labelled=labelled, query_size=Q
        )

    mapped = jax.jit(jax.vmap(call))(scores, labelled)
    for s in range(3):
        query = call(scores[s], labelled[s])
        np.testing.assert_array_equal(mapped.indices[s], query.indices)
        np.testing.assert_allclose(mapped.gains[s], query.gains, rtol=1e-5)


def test_rows_in_no_mask_may_hold_anything():
    available, labelled, rng = masks(2)
    features, scores = rng.normal(size=(R, 3)).astype(np.float32), rng.uniform(size=R).astype(np.float32)
    out = ~available & ~labelled

    def queries(features, scores):
        options = {"available": available, "labelled": labelled, "query_size": Q}
        yield prob_cover(features, radius=0.8, **options)
        yield uncertainty_herding(scores, features, bandwidth=0.9, **options)
        yield typiclust(jax.random.key(0), features, **{**options, **TYPICAL})

    clean = list(queries(features, scores))
    features[out], scores[~available] = np.nan, np.nan
    for one, other in zip(clean, queries(features, scores), strict=True):
        np.testing.assert_array_equal(one.indices, other.indices)
        np.testing.assert_array_equal(one.gains, other.gains)


def test_how_many_rows_are_labelled_compiles_nothing_new():
    features = curve()

    def call(count):
        labelled = np.arange(R) < count
        options = {"available": ~labelled, "labelled": labelled, "query_size": Q}
        max_herding(features, bandwidth=1.0, **options)
        typiclust(jax.random.key(0), features, **{**options, **TYPICAL})

    call(0)
    before = covers._cover._cache_size(), typical._typiclust._cache_size()
    for count in (1, 60, 100):
        call(count)
    assert (covers._cover._cache_size(), typical._typiclust._cache_size()) == before


def test_nan_under_a_trace_shows():
    features = jnp.asarray(curve(), jnp.float32).at[3].set(jnp.nan)
    query = jax.jit(lambda features: max_herding(features, bandwidth=1.0, available=EVERY, query_size=Q))(features)
    assert np.isnan(query.gains).any()


def test_smallest_gap():
    features = np.array([[0.0, 0], [3, 4], [3, 4], [3, 6], [np.nan, 0]])
    gap = [smallest_gap(features, np.arange(5) < count).item() for count in (0, 1, 2, 3, 4)]
    assert gap == [np.inf, np.inf, 5, 5, 2]  # the same point twice is no gap


def test_ball_purity_is_the_definition():
    features, rng = curve(), np.random.default_rng(3)
    clusters, available = rng.integers(3, size=R), rng.uniform(size=R) < 0.8
    radii = np.array([[0.01, 0.1, 0.2], [0.3, 0.5, 2.0]])
    features[~available] = np.nan
    distance = np.linalg.norm(features[available][:, None] - features[available][None], axis=-1)
    strange = clusters[available][:, None] != clusters[available][None]
    expected = [[1 - ((distance <= r) & strange).any(1).mean() for r in row] for row in radii]
    purity = ball_purity(features, clusters, radius=radii, available=available)
    np.testing.assert_allclose(purity, expected, rtol=1e-6)
    assert 0 < purity[0, 1] < 1


def test_misuse_is_named():
    features, scores = curve(), np.linspace(-1, 1, R)
    options = {"available": EVERY, "query_size": Q}
    with pytest.raises(ValueError, match="radius must be positive and finite, got 0"):
        prob_cover(features, radius=0, **options)
    with pytest.raises(ValueError, match="bandwidth must be positive and finite, got nan"):
        max_herding(features, bandwidth=float("nan"), **options)
    with pytest.raises(ValueError, match=r"kernel must be one of rbf, .*got 'gauss'"):
        max_herding(features, kernel="gauss", **options)
    with pytest.raises(ValueError, match=r"scores must not be negative.*but 75 of 150.*row 0, -1\)"):
        uncertainty_herding(scores, features, bandwidth=1.0, **options)
    with pytest.raises(ValueError, match=r"labelled must be a boolean mask of the shape of available \(150,\)"):
        max_herding(features, bandwidth=1.0, labelled=np.arange(3), **options)
    with pytest.raises(ValueError, match=r"covered must be a boolean mask.*got dtype int"):
        facility_location(features, covered=np.arange(R), **options)
    with pytest.raises(ValueError, match="query_size is 6, but only 2"):
        typiclust(jax.random.key(0), features, available=np.arange(R) < 2, query_size=Q)
    with pytest.raises(ValueError, match="max_clusters must be at least 1"):
        typiclust(jax.random.key(0), features, max_clusters=0, **options)
    with pytest.raises(TypeError, match="clusters must be integers"):
        ball_purity(features, scores, radius=1.0, available=EVERY)
    features[3] = np.nan
    with pytest.raises(NonFiniteError, match=r"row 3"):
        facility_location(features, available=np.arange(R) > 5, covered=np.arange(R) == 3, query_size=Q)


# -- the authors' rules, at the default: own code in float64 ----------------------------------------------------------


def unit64(features):
    features = np.asarray(features, np.float64)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norms == 0, 1, norms)


def herding(rows, weights, bandwidth, available, labelled, query_size):
    """Bae, Sutherland & Oliveira (2025), algorithm 1, and their code `uherding.py`: picks and gains."""
    kernel = np.exp(-np.square(np.linalg.norm(rows[:, None] - rows[None], axis=-1) / bandwidth))
    return naive(kernel, weights, available, labelled, available | labelled, query_size)


def smallest_gap64(rows, labelled):
    """The smallest positive distance among the labelled; their code has 1 before there is any."""
    distances = np.linalg.norm(rows[labelled][:, None] - rows[labelled][None], axis=-1)
    return distances[distances > 1e-6].min() if (distances > 1e-6).any() else 1.0


def spread64(rows):
    """Half the root mean square of all distances, from the definition."""
    squared = np.square(rows[:, None] - rows[None]).sum(-1)
    return 0.5 * np.sqrt(squared.mean())


def as_good(query, expected, value):
    """The same picks; where rounding decides between two, sets that are worth the same."""
    indices, gains = expected
    found = np.asarray(query.indices)
    if found.tolist() != list(indices):
        assert value(found) == pytest.approx(value(np.asarray(indices)), rel=2e-3)
    np.testing.assert_allclose(query.gains, gains, rtol=5e-3, atol=2e-5)


CASES = ["random", "nothing labelled", "one labelled", "all labelled but Q", "duplicates", "R = Q", "zeros", "far"]


def a_case(kind, seed):
    """Features like those of a network with rectified units, scores, and the two masks."""
    rng = np.random.default_rng(seed)
    rows, width = (Q if kind == "R = Q" else 70), 3 + 5 * (seed % 2)
    centres = rng.normal(size=(4, width))
    features = np.maximum(3 * centres[rng.integers(4, size=rows)] + rng.normal(size=(rows, width)), 0)
    features *= rng.uniform(0.1, 20)
    labelled = rng.uniform(size=rows) < 0.2
    if kind in ("nothing labelled", "R = Q"):
        labelled[:] = False
    if kind == "one labelled":
        labelled = np.arange(rows) == 3
    if kind == "all labelled but Q":
        labelled = np.arange(rows) >= Q
    labelled[:Q] = False
    if kind == "duplicates":
        features[rows // 2 :] = features[: rows - rows // 2]
    if kind == "zeros":
        features[::5] = 0
    if kind == "far":
        features += 1e3
    return features.astype(np.float32), rng.uniform(size=rows).astype(np.float32), ~labelled, labelled


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", CASES)
def test_herding_at_the_default_is_its_rule(kind, seed):
    features, scores, available, labelled = a_case(kind, 100 * CASES.index(kind) + seed)
    rows, how = unit64(features), {"available": available, "labelled": labelled, "query_size": Q}
    scores[labelled] = 0
    for function, weights, bandwidth in (
        (max_herding, np.ones(len(rows)), spread64(rows)),
        (weighted_coverage, scores, spread64(rows)),
        (uncertainty_herding, scores, max(smallest_gap64(rows, labelled), 3e-3)),
    ):
        arrays = (features,) if function is max_herding else (scores, features)
        query = function(*arrays, **how)
        kernel = np.exp(-np.square(np.linalg.norm(rows[:, None] - rows[None], axis=-1) / bandwidth))

        def value(chosen, kernel=kernel, weights=weights):
            covered = kernel[np.r_[np.flatnonzero(labelled), chosen]].max(0)
            return (weights * covered).mean()

        as_good(query, herding(rows, weights, bandwidth, available, labelled, Q), value)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", CASES)
def test_the_radius_of_the_paper(kind, seed):
    features, _, available, labelled = a_case(kind, 7 + 100 * CASES.index(kind) + seed)
    rows, rng = unit64(features), np.random.default_rng(seed)
    clusters = rng.integers(3, size=len(rows))
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    strange = np.where(clusters[:, None] != clusters[None], distances, np.inf).min(1)

    def purity(radius):  # π(δ) of Yehuda et al. (2022)
        return (strange > radius).mean()

    grid = np.unique(strange[np.isfinite(strange)])
    pure = [radius * (1 - 1e-3) for radius in grid if purity(radius * (1 - 1e-3)) >= 0.95 and radius > 0]
    found = float(purity_radius(unit_rows(jnp.asarray(features)), clusters, available=available | labelled))
    if np.isinf(strange).all():
        assert found >= distances.max()
    elif pure and max(pure) > 1e-2:
        assert found == pytest.approx(max(pure), rel=3e-3)
        assert purity(found * 0.997) >= 0.95 > purity(found * 1.01)  # distances are products in float32
    else:
        assert found < 2e-2  # five in a hundred rows have a twin in another cluster


def test_the_radius_of_one_cluster_covers_everything():
    features = curve()
    radius = purity_radius(features, np.zeros(R, int), available=EVERY)
    query = prob_cover(features, radius=radius, available=EVERY, query_size=2)
    np.testing.assert_allclose(query.gains, [1, 0])
    assert float(half_spread(np.ones((4, 2)), np.ones(4, bool))) == 1


def test_scales_need_no_unit_of_length():
    features = curve()
    for factor in (1e-12, 1e12):
        assert float(half_spread(features * factor, EVERY)) == pytest.approx(factor * spread64(features), rel=1e-5)
        np.testing.assert_allclose(unit_rows(jnp.asarray(features * factor, jnp.float32)), unit64(features), atol=1e-6)
