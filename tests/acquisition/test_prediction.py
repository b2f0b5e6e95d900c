"""Scores of the predictions at targets: each against its definition with re-weighted members, in float64."""

import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import bald, prediction
from bdal.acquisition.prediction import (
    core_log,
    core_mse,
    epig,
    expected_error_reduction,
    mocu,
    soft_mocu,
    weighted_mocu,
)
from bdal.errors import NonFiniteError
from tests import vectors
from tests.compilations import count_compilations
from tests.vectors import random_probs

FIXTURES = Path(__file__).parents[1] / "fixtures"
N, T, K, C = 12, 5, 7, 4
POOL, TARGETS = random_probs(0, N, K, C), random_probs(1, T, K, C)
few_members = pytest.mark.filterwarnings("ignore:epig from")

SCORES = {
    "epig": epig,
    "core_mse": core_mse,
    "expected_error_reduction": expected_error_reduction,
    "weighted_mocu": weighted_mocu,
    "soft_mocu": soft_mocu,
}
scores = pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)


def log32(probs):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probs), jnp.float32)


def gain(cost, point, target, before=None):
    """`cost(member weights)` before the label at the point `[K, C]`, less what is expected of it after."""
    members = np.full(len(point), 1 / len(point))
    before = cost(members, target) if before is None else before
    after = 0.0
    for label in range(point.shape[1]):
        probability = members @ point[:, label]
        after += probability * cost(members * point[:, label] / probability, target)
    return before - after


def error(members, target):
    return 1 - (members @ target).max()


def objective_cost(members, target):
    return members @ target.max(-1) - (members @ target).max()


COSTS = {  # (member weights [K], target [K, C]) -> what a label should lower
    "epig": lambda members, target: vectors.entropy(members @ target),
    "core_mse": lambda members, target: 1 - np.square(members @ target).sum(),
    "expected_error_reduction": error,
    "mocu": objective_cost,
    "weighted_mocu": lambda m, t: (1 - objective_cost(m, t)) * objective_cost(m, t),
    "soft_mocu": lambda members, target: -np.log(np.exp(10 * (members @ target)).sum()) / 10,
}


def definition(name, pool=POOL, targets=TARGETS, weights=None):
    table = np.array([[gain(COSTS[name], point, target) for target in targets] for point in pool])
    return np.average(table, axis=1, weights=weights)


@few_members
@pytest.mark.parametrize("name", COSTS)
@pytest.mark.parametrize("weights", [None, np.array([0.0, 3.0, 1.0, 0.5, 2.0])])
def test_against_the_definition(name, weights):
    score = getattr(prediction, name)(log32(POOL), log32(TARGETS), target_weights=weights)
    assert score.dtype == jnp.float32
    np.testing.assert_allclose(score, definition(name, weights=weights), rtol=2e-5, atol=5e-8)


@few_members
def test_epig_is_the_information_between_labels_and_the_divergence_of_the_predictions():
    information = [[vectors.pair_information(point, target) for target in TARGETS] for point in POOL]
    divergence = np.zeros((N, T))
    for i, point in enumerate(POOL):
        for t, target in enumerate(TARGETS):
            for label in range(C):
                after = (point[:, label] @ target) / point[:, label].sum()
                divergence[i, t] += point[:, label].mean() * np.sum(after * np.log(after / target.mean(0)))
    values = epig(log32(POOL), log32(TARGETS))
    np.testing.assert_allclose(values, np.mean(information, 1), rtol=1e-5)
    np.testing.assert_allclose(values, divergence.mean(1), rtol=1e-5)
    np.testing.assert_allclose(divergence, information, rtol=1e-12)
    assert core_log is epig
    assert mocu is expected_error_reduction


@few_members
def test_epig_is_symmetric_and_below_bald():
    values = jnp.stack([epig(log32(POOL), log32(target[None])) for target in POOL])  # [N, N]
    np.testing.assert_allclose(values, values.T, rtol=1e-5, atol=1e-7)
    information = bald(log32(POOL))
    assert (values <= jnp.minimum(information[:, None], information[None]) + 1e-6).all()
    assert (values.diagonal() < information).all()  # of an independent label of the same input


@few_members
@pytest.mark.parametrize("committee", ["sines", "small", "digits", "pair", "wide", "saturated"])
def test_epig_agrees_with_baal(committee):
    expected = json.loads((FIXTURES / "oracles.json").read_text())["committees"][committee]["epig"]
    with np.load(FIXTURES / "oracles.npz") as stored:
        log_probs = stored[f"log_probs_{committee}"]
    values = epig(log_probs, log_probs[: expected["targets"]])
    np.testing.assert_allclose(values, expected["baal"], rtol=0, atol=1.5e-6)  # Baal computes in float32


def test_core_mse_ranks_as_the_mean_squared_distance_from_the_members():
    """The form of the authors' code: the sum over members of ‖p_k − q_y‖², which is K times ours and a constant."""
    sums = np.zeros(N)
    for i, point in enumerate(POOL):
        for target in TARGETS:
            for label in range(C):
                after = (point[:, label] @ target) / point[:, label].sum()
                sums[i] += point[:, label].mean() * np.square(target - after).sum() / T
    values = np.asarray(core_mse(log32(POOL), log32(TARGETS)), np.float64)
    np.testing.assert_allclose(sums - K * values, (sums - K * values)[0], rtol=1e-5)


def test_weighted_mocu_without_concavity_is_mocu_and_soft_mocu_lies_between_core_mse_and_mocu():
    pool, targets = log32(POOL), log32(TARGETS)
    np.testing.assert_allclose(weighted_mocu(pool, targets, concavity=0.0), mocu(pool, targets), rtol=1e-6, atol=1e-7)
    flat = soft_mocu(pool, targets, sharpness=0.02)
    np.testing.assert_allclose(flat, 0.01 / C * core_mse(pool, targets), rtol=0.02)
    sharp = soft_mocu(pool, targets, sharpness=80.0)
    np.testing.assert_allclose(sharp, mocu(pool, targets), rtol=0, atol=2 * np.log(C) / 80)
    expected = definition_soft(80.0)
    np.testing.assert_allclose(sharp, expected, rtol=2e-5, atol=1e-7)


def definition_soft(sharpness):
    COSTS["sharp"] = lambda members, target: -np.log(np.exp(sharpness * (members @ target)).sum()) / sharpness
    try:
        return definition("sharp")
    finally:
        del COSTS["sharp"]


def test_a_label_that_changes_no_decision_reduces_no_error():
    target = np.tile([[0.9, 0.1], [0.8, 0.2]], (1, 1, 1))
    point = np.array([[[0.9, 0.1], [0.2, 0.8]]])
    assert expected_error_reduction(log32(point), log32(target)).tolist() == [0.0]  # by rounding it might be below
    assert (
        abs(weighted_mocu(log32(point), log32(target))[0]) < 1e-12
    )  # members agree who wins: not knowing costs nothing
    assert soft_mocu(log32(point), log32(target))[0] > 0
    split = log32(np.array([[[0.9, 0.1], [0.4, 0.6]]]))  # one member would decide otherwise
    soft = log32(np.array([[[0.6, 0.4], [0.4, 0.6]]]))
    assert expected_error_reduction(soft, split).tolist() == [0.0]
    assert weighted_mocu(soft, split)[0] > 1e-5


def test_weighted_mocu_may_be_negative_only_for_three_classes_or_more():
    opposed = log32(np.eye(3)[None])  # L = 2/3 before; a label that excludes one member leaves 1/2
    excludes = log32((1 - np.eye(3)[None]) / 2)
    np.testing.assert_allclose(weighted_mocu(excludes, opposed), 2 / 9 - 1 / 4, rtol=1e-5)
    at_the_limit = weighted_mocu(excludes, opposed, concavity=0.75)  # C / (2 (C − 1))
    np.testing.assert_allclose(at_the_limit, 1 / 3 - 5 / 16, rtol=1e-5)


@few_members
@scores
def test_what_holds_of_all(score):
    pool, targets = log32(POOL), log32(TARGETS)
    values = score(pool, targets)
    members = np.random.default_rng(0).permutation(K)
    np.testing.assert_allclose(score(pool[:, members], targets[:, members]), values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(score(pool[::-1], targets[::-1, :, ::-1])[::-1], values, rtol=1e-5, atol=1e-7)
    assert (jnp.abs(score(pool[:, members], targets) - values) > 1e-6).any()  # members are the same in both

    agree = jnp.tile(pool[:, :1], (1, K, 1))
    np.testing.assert_array_equal(score(agree, targets), 0)
    np.testing.assert_array_equal(score(pool, agree[:T]), 0)
    np.testing.assert_array_equal(score(pool[:, :1], targets[:, :1]), 0)  # K = 1

    np.testing.assert_allclose(jax.jit(score)(pool, targets), values, rtol=1e-6, atol=1e-8)
    mapped = jax.vmap(score)(pool[None], targets[None])[0]
    np.testing.assert_allclose(mapped, values, rtol=1e-5, atol=1e-7)


def test_no_result_depends_on_the_blocks(monkeypatch):
    weights = jnp.arange(1.0, T + 1) / 15
    arguments = log32(POOL), log32(TARGETS), weights, None
    whole = prediction._expected_gain(*arguments, divergence=prediction._log_divergence)
    monkeypatch.setattr(prediction, "BLOCK", 4 * C * C)  # one point with four targets; the last block is not full
    traced_anew = jax.jit(lambda *a: prediction._expected_gain.__wrapped__(*a, prediction._log_divergence))
    np.testing.assert_allclose(traced_anew(*arguments), whole, rtol=1e-6, atol=1e-8)


@few_members
@scores
def test_saturated_and_impossible_classes_are_finite_with_finite_gradients(score):
    rng = np.random.default_rng(3)
    sure = np.eye(C)[rng.integers(C, size=(N, K))]
    logits = jnp.asarray(rng.choice([-1e4, 0, 1e4], (T, K, C)), jnp.float32)

    def total(log_probs, logits):
        values = score(log_probs, jax.nn.log_softmax(logits))
        return values.sum(), values

    (_, values), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(log32(sure), logits)
    assert jnp.isfinite(values).all()
    assert score is weighted_mocu or (values >= 0).all()
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


@few_members
def test_targets_may_have_other_classes():
    coarse = np.stack([TARGETS[..., :2].sum(-1), TARGETS[..., 2:].sum(-1)], -1)
    expected = [np.mean([vectors.pair_information(point, target) for target in coarse]) for point in POOL]
    np.testing.assert_allclose(epig(log32(POOL), log32(coarse)), expected, rtol=1e-5)


def test_a_small_committee_is_warned_of():
    with pytest.warns(UserWarning, match="epig from 99 members is biased"):
        epig(jnp.log(jnp.full((1, 99, 2), 0.5)), jnp.log(jnp.full((1, 99, 2), 0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epig(jnp.log(jnp.full((1, 100, 2), 0.5)), jnp.log(jnp.full((1, 100, 2), 0.5)))


@few_members
def test_calls_of_one_shape_compile_once():
    for score in SCORES.values():
        score(log32(POOL), log32(TARGETS))
    with count_compilations() as compilations:
        for score in SCORES.values():
            score(log32(POOL[::-1]), log32(TARGETS[::-1]))
        weighted_mocu(log32(POOL), log32(TARGETS), concavity=0.5)
        soft_mocu(log32(POOL), log32(TARGETS), sharpness=3.0)
    assert compilations == []


@few_members
@scores
def test_misuse_is_named(score):
    pool, targets = log32(POOL), log32(TARGETS)
    with pytest.raises(ValueError, match=r"target_log_probs must come from the 7 members of log_probs \(12, 7, 4\)"):
        score(pool, targets[:, :3])
    with pytest.raises(ValueError, match="one target or more"):
        score(pool, targets[:0])
    with pytest.raises(ValueError, match=r"target_log_probs must have shape \[N, K, C\]"):
        score(pool, targets[0])
    with pytest.raises(NonFiniteError, match="target_log_probs has NaN"):
        score(pool, targets.at[1, 0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"target_weights must have a number for each target, shape \(5,\)"):
        score(pool, targets, target_weights=jnp.ones(4))
    with pytest.raises(ValueError, match="target_weights must not be negative"):
        score(pool, targets, target_weights=-jnp.ones(5))
    with pytest.raises(ValueError, match="nor all zero"):
        score(pool, targets, target_weights=jnp.zeros(5))
    traced = jax.jit(score)(pool.at[2, 0, 0].set(jnp.nan), targets)
    np.testing.assert_array_equal(jnp.isnan(traced), np.arange(N) == 2)


def test_parameters_out_of_range_are_named():
    pool, targets = log32(POOL), log32(TARGETS)
    with pytest.raises(ValueError, match=r"concavity must be between 0 and 1, got 1\.5"):
        weighted_mocu(pool, targets, concavity=1.5)
    with pytest.raises(ValueError, match="sharpness must be above 0 and at most 80, got 0"):
        soft_mocu(pool, targets, sharpness=0)
