"""max-det and Frank-Wolfe against Vector B, bmdal_reg, and their definitions in float64."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.selection.determinants import frank_wolfe, max_det
from tests import vectors

pytestmark = pytest.mark.slow

FIXTURES = Path(__file__).parents[1] / "fixtures"
ORACLES = json.loads((FIXTURES / "oracles.json").read_text())["features"]
R, D, Q = 40, 5, 8
EVERY = np.ones(R, bool)


def random_case(seed, shift=0.0):
    """Features, and which rows are available and labelled: not all, and some neither."""
    rng = np.random.default_rng(seed)
    features = (rng.normal(size=(R, D)) * np.linspace(0.5, 2, D) + shift).astype(np.float32)
    labelled = np.arange(R) < (0, 3, 12)[seed % 3]
    return features, ~labelled & (rng.uniform(size=R) < 0.8), labelled


def log_det(rows, noise_sigma):
    return np.linalg.slogdet(rows @ rows.T + noise_sigma**2 * np.eye(len(rows)))[1]


def naive_max_det(features, noise_sigma, available, labelled, query_size):
    picks, gains = [], []
    chosen = np.flatnonzero(labelled).tolist()
    for _ in range(query_size):
        before = log_det(features[chosen], noise_sigma)
        volume = np.array([log_det(features[[*chosen, row]], noise_sigma) for row in range(R)])
        volume[~available | np.isin(range(R), picks)] = -np.inf
        picks.append(int(volume.argmax()))
        gains.append(np.exp(volume.max() - before))
        chosen.append(picks[-1])
    return picks, gains


@pytest.mark.parametrize("case", ["with_labelled", "pool_only"])
@pytest.mark.parametrize("name", ORACLES)
def test_max_det_agrees_with_bmdal_reg(name, case):
    with np.load(FIXTURES / "oracles.npz") as stored:
        features = stored[f"features_{name}"]
    pool, _ = ORACLES[name]["rows"]
    in_pool = np.arange(len(features)) < pool
    if case == "pool_only":
        features = np.where(in_pool[:, None], features, np.nan)  # one program for both cases
    query = max_det(
        features,
        noise_sigma=0.1,
        available=in_pool,
        labelled=~in_pool if case == "with_labelled" else ~in_pool & False,
        query_size=ORACLES[name]["query_size"],
    )
    assert query.indices.tolist() == ORACLES[name][case]["max_det"]["bmdal_reg"]["indices"]


@pytest.mark.parametrize("name", ORACLES)
def test_frank_wolfe_agrees_with_bmdal_reg(name):
    with np.load(FIXTURES / "oracles.npz") as stored:
        features = stored[f"features_{name}"]
    in_pool = np.arange(len(features)) < ORACLES[name]["rows"][0]
    query = frank_wolfe(features, available=in_pool, query_size=ORACLES[name]["query_size"])
    assert query.indices.tolist() == ORACLES[name]["pool_only"]["frank_wolfe"]["bmdal_reg"]["indices"]


def test_vector_b():
    options = {"available": ~vectors.B_LABELLED, "query_size": 5}
    known = {"noise_sigma": 0.1, "labelled": vectors.B_LABELLED}
    assert (max_det(vectors.vector_b(), **options, **known).indices - 3).tolist() == [10, 7, 9, 8, 11]
    assert (frank_wolfe(vectors.vector_b(), **options).indices - 3).tolist() == [4, 2, 8, 0, 3]


# max-det


@pytest.mark.parametrize("noise_sigma", [0.003, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(6))
def test_max_det_is_the_naive_loop(seed, noise_sigma):
    features, available, labelled = random_case(seed)
    picks, gains = naive_max_det(features.astype(float), noise_sigma, available, labelled, Q)
    query = max_det(features, noise_sigma=noise_sigma, available=available, labelled=labelled, query_size=Q)
    assert query.indices.tolist() == picks
    np.testing.assert_allclose(query.gains, gains, rtol=1e-4, atol=1e-8)  # of gains that begin at 50


def test_gains_are_the_information_of_a_gaussian_process():
    features, available, labelled = random_case(4)
    sigma = 0.5
    query = max_det(features, noise_sigma=sigma, available=available, labelled=labelled, query_size=Q)
    known, chosen = features[labelled].astype(float), features[query.indices].astype(float)
    posterior = np.linalg.inv(known.T @ known / sigma**2 + np.eye(D))  # of the weights
    information = 0.5 * np.linalg.slogdet(np.eye(Q) + chosen @ posterior @ chosen.T / sigma**2)[1]
    np.testing.assert_allclose(0.5 * jnp.log(query.gains / sigma**2).sum(), information, rtol=1e-5)
    assert (jnp.diff(query.gains) <= 1e-6).all()


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("labelled", [0, 2])
def test_where_the_rank_is_exhausted_the_rest_are_ties_of_gain_zero(labelled, scale):
    rng = np.random.default_rng(0)
    features = scale * rng.normal(size=(R, 3)) @ rng.normal(size=(3, D)) * rng.gamma(1.0, size=(R, 1))  # of rank 3
    is_labelled = np.arange(R) < labelled
    options = {"noise_sigma": 0.0, "available": ~is_labelled, "labelled": is_labelled, "query_size": Q}
    picks, gains = naive_max_det(features, 0.0, ~is_labelled, is_labelled, 3 - labelled)
    query = max_det(features, **options)
    left = np.setdiff1d(np.flatnonzero(~is_labelled), picks)
    assert query.indices.tolist() == [*picks, *left[: Q - len(picks)]]  # then the order of the rows
    np.testing.assert_allclose(query.gains[: len(picks)], gains, rtol=1e-4)
    assert (query.gains[len(picks) :] == 0).all()


def test_where_the_rank_is_exhausted_a_key_draws_the_rest():
    features = np.random.default_rng(1).normal(size=(R, 2)) @ np.eye(2, D)
    draws = [
        max_det(
            features,
            noise_sigma=0.0,
            available=EVERY,
            labelled=~EVERY,
            query_size=Q,
            key=jax.random.key(seed),
        ).indices.tolist()
        for seed in range(60)
    ]
    assert len({tuple(draw[:2]) for draw in draws}) == 1
    assert all(len(set(draw)) == Q for draw in draws)
    counts = np.bincount(np.ravel([draw[2:] for draw in draws]), minlength=R)  # 360 over 38 rows
    counts = np.delete(counts, draws[0][:2])
    assert counts.min() > 0
    assert counts.max() < 30


def test_noise_tells_repeats_apart_from_what_has_been_seen_twice():
    features = np.eye(2)[np.arange(R) % 2] * [1.0, 0.9]  # two points, each twenty times
    query = max_det(
        np.pad(features, ((0, 0), (0, D - 2))), noise_sigma=0.1, available=EVERY, labelled=~EVERY, query_size=Q
    )
    assert (query.indices % 2).tolist() == [0, 1, 0, 1, 0, 1, 0, 1]
    variance = [[s / (1 + n * s / 0.01) + 0.01 for s in (1, 0.81)] for n in range(4)]
    np.testing.assert_allclose(query.gains, np.ravel(variance), rtol=1e-4)


def test_many_labelled_rows_along_one_direction_do_not_hide_the_others():
    # 35 rows of length 1e3 in one direction; the squares of the rest are 1e-7 of theirs, which float32 rounds away
    rng = np.random.default_rng(2)
    features = rng.normal(size=(R, D)).astype(np.float32)
    labelled = np.arange(R) < 30
    features[labelled] = 1e3 * np.array([1, 2, -1, 0.5, 1.5]) / 2.915  # up to rounding of the inputs
    picks, gains = naive_max_det(features.astype(float), 1.0, ~labelled, labelled, Q)
    query = max_det(features, noise_sigma=1.0, available=~labelled, labelled=labelled, query_size=Q)
    assert query.indices.tolist() == picks
    np.testing.assert_allclose(query.gains, gains, rtol=1e-4)


def test_what_is_left_of_large_rows_keeps_its_digits():
    # Of rows of length 1e3 the second pick leaves lengths near 0.1: 1e-8 of the square, less than float32 resolves.
    rng = np.random.default_rng(3)
    features = (1e3 * np.array([1, 1, 0, 0, 0]) + 0.1 * rng.normal(size=(R, D))).astype(np.float32)
    picks, gains = naive_max_det(features.astype(float), 0.01, EVERY, ~EVERY, 5)
    query = max_det(features, noise_sigma=0.01, available=EVERY, labelled=~EVERY, query_size=Q)
    assert query.indices[:5].tolist() == picks
    np.testing.assert_allclose(query.gains[:5], gains, rtol=1e-2)


# Frank-Wolfe


@pytest.mark.parametrize("seed", range(3))
def test_frank_wolfe_is_the_naive_loop(seed):
    features, available, _ = random_case(seed, shift=0.5)
    features[5:8] = 0
    rows = features.astype(float)[available]
    norms = np.linalg.norm(rows, axis=1)
    picks, gains, reached = [], [], np.zeros(D)
    for _ in range(Q):
        score = rows @ (rows.sum(0) - reached) / np.where(norms == 0, 1, norms)
        score[picks] = -np.inf
        picks.append(int(score.argmax()))
        gains.append(score.max())
        step = norms.sum() * rows[picks[-1]] / norms[picks[-1]] - reached
        reached = reached + step * (step @ (rows.sum(0) - reached)) / (step @ step)
    query = frank_wolfe(np.where(available[:, None], features, np.nan), available=available, query_size=Q)
    assert query.indices.tolist() == np.flatnonzero(available)[picks].tolist()
    np.testing.assert_allclose(query.gains, gains, rtol=1e-3, atol=1e-4)


def test_frank_wolfe_of_rows_of_zero_and_of_one_row():
    query = frank_wolfe(np.zeros((R, D)), available=EVERY, query_size=Q)
    assert query.gains.tolist() == [0] * Q
    features = np.zeros((R, D))
    features[7] = 3.0
    query = frank_wolfe(features, available=EVERY, query_size=Q)
    assert query.indices[0] == 7
    np.testing.assert_allclose(query.gains, [3 * D**0.5, *[0] * (Q - 1)], rtol=1e-6, atol=1e-5)


def test_misuse_is_named():
    features, available, labelled = random_case(1)
    options = {"available": available, "labelled": labelled, "query_size": Q}
    with pytest.raises(ValueError, match=r"noise_sigma must be finite and not negative, got -0\.1"):
        max_det(features, noise_sigma=-0.1, **options)
    with pytest.raises(ValueError, match=r"features must have shape \[R, D\] with R = 40"):
        frank_wolfe(features[1:], available=available, query_size=Q)
