"""What may go wrong outside a run directory, by the numbers of `docs/faults.md`, where it spans rooms.

Axis letters: N pool points, R rows, K members, C classes, D features, Q query size.
"""

import ast
import collections
import inspect
import itertools
import json
import math
import os
import subprocess
import sys
import types
from functools import partial
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import acquisition, calibration, config, datasets, information, selection
from bdal.acquisition import ACQUISITION_FUNCTIONS
from bdal.committee import Committee, deep_ensemble, mc_dropout
from bdal.errors import CapacityError, ConfigError, LabelError, NonFiniteError, SelectorError
from bdal.experiment import progress
from bdal.experiment.run import run_experiment
from bdal.information import mutual_information
from bdal.loop import active_learning, ask
from bdal.model import from_batched, model_from_functions
from bdal.pool import LabelledSet, extend, map_pool
from bdal.posteriors import fit_deep_ensemble, fit_mc_dropout
from bdal.selection import Query, top_k
from bdal.strategy import STRATEGIES, QueryStrategy, make_strategy, query
from bdal.training import Training
from bdal.types import TrainingData
from tests.acquisition.test_battery import SCORES
from tests.compilations import count_compilations
from tests.selection import test_battery as selectors
from tests.vectors import random_probs

N, C, D, Q, CAPACITY = 60, 3, 4, 4, 16
ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, N)
POOL = (RNG.normal(size=(N, D)) + 1.5 * np.eye(C, D)[LABELS]).astype(np.float32)
KEY = jax.random.key(0)
WEIGHTS = jax.random.normal(jax.random.key(1), (5, D, C))


def apply(params, key, x):
    return x @ params, x


COMMITTEE = deep_ensemble(apply, WEIGHTS)


def fixed_fit(committee):
    """A fit that learns nothing."""
    return lambda key, data: committee


def labelled_set(indices=(3, 1, 4, 15), capacity=CAPACITY, labels=LABELS):
    return extend(LabelledSet.empty(capacity), list(indices), labels[list(indices)], num_points=N)


class Oracle:
    """Answers and writes down what it was asked."""

    def __init__(self, answer=lambda indices: LABELS[indices]):
        self.asked, self._answer = [], answer

    def __call__(self, indices):
        self.asked.append(indices.tolist())
        return self._answer(indices)


def loop(**changes):
    settings = {
        "fit": fixed_fit(COMMITTEE),
        "strategy": make_strategy("bald"),
        "inputs": jnp.asarray(POOL),
        "oracle": Oracle(),
        "labelled": labelled_set(),
        "query_size": Q,
        "rounds": 2,
        "num_classes": C,
        "chunk_size": 32,
    }
    return active_learning(KEY, **settings | changes)


# -- 13: numbers that are none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "name", "value", "where"),
    [
        ("one member", "bald", np.nan, jnp.asarray),
        ("one member", "bald", np.inf, jnp.asarray),
        ("one member", "bald", -np.inf, np.asarray),
        ("every member", "margin", np.nan, jnp.asarray),
        ("features", "k_center", np.nan, np.asarray),
        ("features", "k_center", np.inf, jnp.asarray),
        ("features", "k_center", -np.inf, jnp.asarray),
    ],
)
def test_13_a_point_that_has_no_score_is_named_before_the_oracle_is_asked(place, name, value, where):
    def broken(params, key, x):
        weights, bad = params
        wrong = jnp.where(bad & (x[0] > 2), value, 0.0)
        return (x @ weights, x + wrong) if place == "features" else (x @ weights + wrong, x)

    bad = jnp.arange(5) == 2 if place == "one member" else jnp.ones(5, bool)
    committee, oracle, labelled = deep_ensemble(broken, (WEIGHTS, bad)), Oracle(), labelled_set()
    there = [int(i) for i in np.flatnonzero(POOL[:, 0] > 2) if i not in (3, 1, 4, 15)]
    assert 1 <= len(there) <= 5
    with pytest.raises(NonFiniteError, match=rf"in {len(there)} available points \(pool indices \[{there[0]}"):
        next(
            loop(
                fit=fixed_fit(committee), strategy=make_strategy(name), inputs=where(POOL), oracle=oracle,
                labelled=labelled,
            )
        )  # fmt: skip
    assert oracle.asked == []
    assert int(labelled.count) == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_13_a_score_of_ones_own_that_is_no_number(value):
    strategy = QueryStrategy(
        lambda committee, inputs: jnp.where(inputs[:, 0] == POOL[20, 0], value, 1.0),
        lambda key, scores, *, available, labelled, query_size: top_k(
            scores, available=available, query_size=query_size
        ),
    )
    with pytest.raises(NonFiniteError, match=r"in 1 available points \(pool indices \[20\]"):
        query(KEY, strategy, COMMITTEE, jnp.asarray(POOL), query_size=2)


# -- 14: members that are no functions --------------------------------------------------------------------------------


def per_example(params, key, inputs):
    """Dropout as layers draw it: a mask a row."""
    return (inputs * jax.random.bernoulli(key, 0.5, inputs.shape)) @ params


@pytest.mark.parametrize("name", ["bald", "batchbald"])
def test_14_scores_do_not_depend_on_the_chunks(name):
    apply, params = from_batched(per_example, WEIGHTS[0])
    members = mc_dropout(apply, params, jax.random.split(KEY, 8))
    pool = jnp.asarray(POOL)
    chunks = [map_pool(Committee.log_probs, members, pool, chunk_size=size) for size in (7, 60)]
    np.testing.assert_allclose(chunks[0], chunks[1], rtol=1e-5, atol=1e-6)
    assert jnp.ptp(acquisition.bald(chunks[0])) > 0.01
    strategy = make_strategy(name, **({"num_samples": 500} if name == "batchbald" else {}))
    picks = [query(KEY, strategy, members, pool, query_size=4, chunk_size=size).indices for size in (7, 60)]
    np.testing.assert_array_equal(*picks)


@pytest.mark.parametrize("name", ["bald", "batchbald"])
def test_14_a_committee_whose_scores_would_is_refused(name):
    class PerExample:
        def log_probs(self, inputs):
            logits = jax.vmap(lambda key: per_example(WEIGHTS[0], key, inputs))(jax.random.split(KEY, 8))
            return jax.nn.log_softmax(jnp.moveaxis(logits, 0, 1))

    whole = PerExample().log_probs(jnp.asarray(POOL))
    cut = map_pool(lambda committee, x: committee.log_probs(x), PerExample(), jnp.asarray(POOL), chunk_size=7)
    assert jnp.abs(acquisition.bald(whole) - acquisition.bald(cut)).max() > 0.01  # that is the fault
    with pytest.raises(ValueError, match="expected members that are functions of one input, but member"):
        query(KEY, make_strategy(name), PerExample(), jnp.asarray(POOL), query_size=4)


# -- 15, 16: arguments of the wrong kind ------------------------------------------------------------------------------

PROBS = random_probs(0, 6, K := 4, C)  # [N, K, C]
LOG_PROBS = np.log(PROBS).astype(np.float32)
EVERY = np.ones(6, bool)
CHOICE = {"available": EVERY, "query_size": 2}
FEATURES = np.ones((6, D), np.float32)


def of_dtype(dtype):
    return deep_ensemble(lambda weights, key, x: (x @ weights).astype(dtype), WEIGHTS)


BAD = {  # what is called, the error, the argument that is named, what was found
    "[N, C] for [N, K, C], epig": (
        lambda: acquisition.epig(LOG_PROBS[:, 0], LOG_PROBS), ValueError, "log_probs", r"\(6, 3\)"
    ),
    "[T, C] for [T, K, C], epig": (
        lambda: acquisition.epig(LOG_PROBS, LOG_PROBS[:, 0]), ValueError, "target_log_probs", r"\(6, 3\)"
    ),
    "other members, epig": (
        lambda: acquisition.epig(LOG_PROBS, LOG_PROBS[:, :2]), ValueError, "target_log_probs", r"\(6, 2, 3\)"
    ),
    "[N, C] for [N, K, C], batchbald": (
        lambda: selection.batchbald(KEY, LOG_PROBS[:, 0], **CHOICE), ValueError, "log_probs", r"\(6, 3\)"
    ),
    "[N, C] for [N, K, C], penalty": (
        lambda: selection.mutual_information_penalty(LOG_PROBS[:, 0], reduce="max", **CHOICE), ValueError,
        "log_probs", r"\(6, 3\)",
    ),
    "one row, bald": (lambda: acquisition.bald(LOG_PROBS[0, 0]), ValueError, "log_probs", r"\(3,\)"),
    "no members, bald": (lambda: acquisition.bald(LOG_PROBS[:, :0]), ValueError, "log_probs", r"\(6, 0, 3\)"),
    "integers, bald": (lambda: acquisition.bald(np.zeros((2, 3), int)), TypeError, "log_probs", "int"),
    "uint8 log-probabilities, entropy": (
        lambda: acquisition.predictive_entropy(np.zeros((2, 3), np.uint8)), TypeError, "log_probs", "uint8"
    ),
    "uint8 logits of a network": (
        lambda: of_dtype(jnp.uint8).log_probs(jnp.asarray(POOL)), TypeError, "apply", "uint8"
    ),
    "integer logits in training": (
        lambda: fit_deep_ensemble(
            model_from_functions(lambda key: jnp.ones((D, C)), lambda params, key, x: (x @ params).astype(int)),
            members=2,
        )(KEY, TrainingData(POOL, LABELS, 4)),
        TypeError, "apply", "int",
    ),
    "logits of a batch": (
        lambda: deep_ensemble(lambda w, key, x: x[None] @ w, WEIGHTS).log_probs(jnp.asarray(POOL)), ValueError,
        "apply", r"\(1, 3\)",
    ),
    "scores of two axes, top_k": (
        lambda: top_k(np.ones((6, 2), np.float32), **CHOICE), ValueError, "scores", r"\(6, 2\)"
    ),
    "integer scores, top_k": (lambda: top_k(np.ones(6, int), **CHOICE), TypeError, "scores", "int"),
    "indices for a mask, top_k": (
        lambda: top_k(np.ones(6), available=np.arange(6), query_size=2), ValueError, "available", "int"
    ),
    "a mask of another length, k_center": (
        lambda: selection.k_center(FEATURES, available=EVERY[:5], query_size=2), ValueError, "features", r"\(6, 4\)"
    ),
    "integer features, k_center": (
        lambda: selection.k_center(FEATURES.astype(int), **CHOICE), TypeError, "features", "int"
    ),
    "a labelled mask of indices, lcmd": (
        lambda: selection.lcmd(FEATURES, labelled=np.arange(6), **CHOICE), ValueError, "labelled", "int"
    ),
    "a query size with a fraction": (
        lambda: top_k(np.ones(6), available=EVERY, query_size=2.0), TypeError, "query_size", r"2\.0"
    ),
    "float labels, accuracy": (
        lambda: calibration.accuracy(PROBS[:, 0], np.ones(6)), LabelError, "labels", "float"
    ),
    "float labels, extend": (
        lambda: extend(LabelledSet.empty(3), [1], [1.0], num_points=9), LabelError, "labels", "float64"
    ),
    "float indices, extend": (
        lambda: extend(LabelledSet.empty(3), [1.0], [1], num_points=9), ValueError, "indices", "float64"
    ),
    "a committee's probabilities, nll": (
        lambda: calibration.nll(PROBS, LABELS[:6]), ValueError, "probs", r"\(6, 4, 3\)"
    ),
    "labels of another length, brier": (
        lambda: calibration.brier(PROBS[:, 0], LABELS[:5]), ValueError, "labels", r"\(5,\)"
    ),
    "inputs of two lengths, map_pool": (
        lambda: map_pool(lambda state, x: x, None, (POOL, POOL[:3])), ValueError, "inputs", r"\(3, 4\)"
    ),
    "a mask of floats, query": (
        lambda: query(KEY, make_strategy("bald"), COMMITTEE, POOL, query_size=2, available=np.ones(N)), ValueError,
        "available", "float",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_15_arguments_of_the_wrong_kind_are_named_with_what_was_found(what):
    call, error, argument, found = BAD[what]
    with pytest.raises(error, match=found) as caught:
        call()
    assert argument in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:epig from")
@pytest.mark.parametrize(
    "call",
    [
        *ACQUISITION_FUNCTIONS.values(),
        lambda probs: acquisition.epig(probs, LOG_PROBS),
        lambda probs: acquisition.epig(LOG_PROBS, probs),
        lambda probs: selection.batchbald(KEY, probs, **CHOICE),
        lambda probs: selection.mutual_information_penalty(probs, reduce="max", **CHOICE),
        selection.joint_information,
        selection.committee_features,
    ],
)
def test_16_probabilities_are_not_taken_for_log_probabilities(call):
    with pytest.raises(ValueError, match=r"log_probs must be log-probabilities.*pass jnp\.log"):
        call(PROBS.astype(np.float32))
    off = LOG_PROBS + 2e-3 * np.eye(6)[:, :1, None].astype(np.float32)  # logsumexp of one point's rows is 2e-3
    with pytest.raises(ValueError, match="4 of 24 rows do not"):
        call(off)
    if call is not selection.joint_information:
        call(LOG_PROBS + np.float32(5e-4))


# -- 17, 18, 19: nothing, or less than is asked for -------------------------------------------------------------------

FUNCTIONS = {name: getattr(acquisition, name) for name in acquisition.__all__ if name[0].islower()}


def arguments_of_no_points(function):
    gaussian = acquisition.Gaussian(jnp.zeros((0, K)), jnp.ones((0, K)))
    known = {
        "log_probs": LOG_PROBS[:0],
        "features": jnp.zeros((0, D) if function is acquisition.contrastive else (0, K, D)),
        "gradient_norms": jnp.zeros((0, K, C)),
        "target_log_probs": LOG_PROBS,
        "labelled_log_probs": LOG_PROBS,
        "labelled_features": FEATURES,
        "gaussian": gaussian,
        "targets": acquisition.Gaussian(jnp.zeros((3, K)), jnp.ones((3, K))),
    }
    required = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    return {name: known[name] for name in required}


@pytest.mark.filterwarnings("ignore:epig from")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_17_scores_of_no_points_are_no_scores(name):
    values = FUNCTIONS[name](**arguments_of_no_points(FUNCTIONS[name]))
    assert values.shape == ((0, K, C) if name == "last_layer_gradient_norms" else (0,))


EVERY_SELECTOR = selectors.SELECTORS | selectors.OTHERS | selectors.DRAWN


@pytest.mark.parametrize("name", EVERY_SELECTOR)
def test_17_of_no_rows_none_are_picked(name):
    rows = selectors.Rows(jnp.zeros(0), jnp.zeros((0, 3)), jnp.zeros((0, 4, 3)))
    if name in ("class_balanced", "cluster_margin"):  # their other arguments are made for 24 rows
        select = {"class_balanced": selection.class_balanced, "cluster_margin": selection.cluster_margin}[name]
        first = (KEY,) if name == "cluster_margin" else ()
        more = {"candidates": 4} if name == "cluster_margin" else {"counts": jnp.zeros(3, int)}
        choose = lambda key, rows, **how: select(*first, rows.scores, jnp.zeros(0, int), **more, **how)  # noqa: E731
    else:
        choose = EVERY_SELECTOR[name]
    none = jnp.zeros(0, bool)
    chosen = choose(KEY, rows, available=none, query_size=2, pad=True)
    assert chosen.indices.tolist() == [-1, -1]
    assert chosen.gains.tolist() == [0, 0]
    assert (chosen.indices.dtype, chosen.gains.dtype) == (jnp.int32, jnp.float32)
    with pytest.raises(ValueError, match="query_size is 2, but only 0 of 0 rows are available"):
        choose(KEY, rows, available=none, query_size=2)
    with pytest.raises(ValueError, match="query_size must be at least 1, got 0"):
        choose(KEY, rows, available=none, query_size=0)


def test_17_every_selector_is_among_them():
    known = {name for name in selection.__all__ if "pad" in inspect.signature(getattr(selection, name)).parameters}
    tried = {name.partition(",")[0].replace("penalty_max", "mutual_information_penalty") for name in EVERY_SELECTOR}
    assert known - tried == {"two_stage"}  # it selects by a selector of its caller's
    greedy = selection.greedy(0.0, lambda state: jnp.zeros(0), None, available=jnp.zeros(0, bool), query_size=2)
    assert greedy.indices.tolist() == [-1, -1]


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_17_an_empty_pool_is_exhausted_from_the_start(where):
    nothing, oracle = where(POOL[:0]), Oracle()
    model = model_from_functions(lambda key: jnp.ones((D, C)), apply)
    fit = fit_deep_ensemble(model, members=2, training=Training(steps=2))
    for capacity in (0, 5):
        (only,) = loop(fit=fit, inputs=nothing, labelled=LabelledSet.empty(capacity), oracle=oracle)
        assert only.query.indices.shape == only.query.gains.shape == only.labels.shape == (0,)
    assert oracle.asked == []
    for name in ("bald", "k_center", "random"):
        chosen = ask(KEY, COMMITTEE, LabelledSet.empty(5), strategy=make_strategy(name), inputs=nothing, query_size=2)
        assert chosen.indices.shape == (0,)
        with pytest.raises(ValueError, match="query_size: expected at most the 0 available candidates, got 2"):
            query(
                KEY, make_strategy(name), COMMITTEE, nothing, query_size=2, labelled_inputs=nothing,
                labels=LABELS[:0],
            )  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "brier", "class_accuracy", "classwise_ece", "ece", "mce", "nll"])
def test_17_a_metric_of_no_points_is_refused(metric):
    with pytest.raises(ValueError, match="probs must hold at least one point"):
        getattr(calibration, metric)(np.zeros((0, C)), np.zeros(0, int))


def test_17_where_all_points_are_labelled_the_loop_ends():
    oracle = Oracle()
    everything = labelled_set(range(N), capacity=N + 5)
    (only,) = loop(labelled=everything, oracle=oracle)
    assert only.query.indices.shape == (0,)
    assert oracle.asked == []


def test_18_the_last_query_shrinks_in_a_loop_and_is_refused_as_a_single_call():
    left = [int(i) for i in range(N) if i not in range(53)]  # seven
    oracle = Oracle()
    rounds = loop(labelled=labelled_set(range(53), capacity=500), query_size=50, rounds=5, oracle=oracle)
    with pytest.warns(UserWarning, match="the last query has 7 points instead of 50"):
        first = next(rounds)
    assert sorted(first.query.indices.tolist()) == left
    (end,) = list(rounds)
    assert int(end.labelled.count) == N
    available = ~np.isin(np.arange(N), range(53))
    with pytest.raises(ValueError, match="query_size: expected at most the 7 available candidates, got 50"):
        query(KEY, make_strategy("bald"), COMMITTEE, jnp.asarray(POOL), query_size=50, available=available)
    with pytest.raises(ValueError, match="query_size is 50, but only 7 of 60 rows are available"):
        top_k(np.ones(N), available=available, query_size=50)
    with pytest.raises(CapacityError, match="at most 5 labels"):
        extend(LabelledSet.empty(5), left, LABELS[left], num_points=N)


@pytest.mark.parametrize("size", [0, -3])
def test_19_a_query_of_nothing_is_refused_before_any_work(size):
    with pytest.raises(ValueError, match=f"query_size must be at least 1, got {size}"):
        next(loop(fit=None, query_size=size))  # nothing is fitted
    with pytest.raises(ValueError, match=f"query_size must be at least 1, got {size}"):
        query(KEY, make_strategy("bald"), COMMITTEE, jnp.asarray(POOL), query_size=size)
    with pytest.raises(ConfigError, match=f"query.size: expected at least 1, found {size}"):
        tiny_experiment(query=config.Query(size=size))


# -- 20: duplicates ---------------------------------------------------------------------------------------------------

TWENTY = RNG.normal(size=(20, 3)).astype(np.float32)
COPIES = jnp.asarray(np.tile(TWENTY, (10, 1)))  # row i is a copy of row i mod 20
COPIED_LOG_PROBS = jax.nn.log_softmax(jnp.einsum("nd,kdc->nkc", COPIES, jax.random.normal(KEY, (40, 3, 6))))
DIVERSE = {  # where a copy of what was chosen is worth nothing
    "k_center": lambda key, **how: selection.k_center(COPIES, key=key, **how),
    "lcmd": lambda key, **how: selection.lcmd(COPIES, key=key, **how),
    "k_means_plus_plus": lambda key, **how: selection.k_means_plus_plus(key, COPIES, **how),
    "k_means": lambda key, **how: selection.k_means(key, COPIES, **how),
    "badge": lambda key, **how: selection.badge(key, jnp.exp(COPIED_LOG_PROBS).mean(1), COPIES, **how),
    "typiclust": lambda key, **how: selection.typiclust(key, COPIES, max_clusters=20, **how),
    "max_herding": lambda key, **how: selection.max_herding(COPIES, bandwidth=0.3, key=key, **how),
    "prob_cover": lambda key, **how: selection.prob_cover(COPIES, radius=0.01, key=key, **how),
    "facility_location": lambda key, **how: selection.facility_location(
        COPIES, kernel="rbf", bandwidth=0.3, key=key, **how
    ),
}


@pytest.mark.parametrize("name", DIVERSE)
def test_20_no_copy_is_picked_while_another_point_is_left(name):
    for seed in range(2):
        chosen = DIVERSE[name](jax.random.key(seed), available=jnp.ones(200, bool), query_size=20)
        points = np.asarray(chosen.indices) % 20
        assert sorted(points.tolist()) == list(range(20))
        assert len(set(np.asarray(chosen.indices).tolist())) == 20


@pytest.mark.filterwarnings("ignore:the joint information")
@pytest.mark.parametrize(
    "select",
    [
        partial(selection.batchbald, num_samples=500),
        lambda key, log_probs, **how: selection.mutual_information_penalty(log_probs, reduce="max", key=key, **how),
    ],
    ids=["batchbald", "penalty"],
)
def test_20_of_information_there_is_more_in_other_points_than_in_copies(select):
    chosen = select(KEY, COPIED_LOG_PROBS, available=jnp.ones(200, bool), query_size=5)
    assert len(set((np.asarray(chosen.indices) % 20).tolist())) >= 3
    alone = top_k(acquisition.bald(COPIED_LOG_PROBS), available=jnp.ones(200, bool), query_size=5)
    assert len(set((np.asarray(alone.indices) % 20).tolist())) == 1  # what they are for


# -- 21: ties ---------------------------------------------------------------------------------------------------------


def test_21_ties_are_settled_by_the_lowest_index_or_by_the_key_and_nothing_else():
    scores, available = jnp.full(N, 0.7), jnp.arange(N) >= 10
    assert top_k(scores, available=available, query_size=3).indices.tolist() == [10, 11, 12]
    picks = {seed: top_k(scores, available=available, query_size=3, key=jax.random.key(seed)) for seed in range(4)}
    assert len({tuple(chosen.indices.tolist()) for chosen in picks.values()}) == 4
    order = np.random.default_rng(0).permutation(N)
    again = top_k(scores[order], available=available, query_size=3, key=jax.random.key(2))
    assert again.indices.tolist() == picks[2].indices.tolist()


def test_21_a_query_by_chance_alone_says_so():
    same = deep_ensemble(apply, jnp.broadcast_to(WEIGHTS[:1], WEIGHTS.shape))
    with pytest.warns(UserWarning, match="the score does not choose among them, and ties are random"):
        query(KEY, make_strategy("bald"), same, jnp.asarray(POOL), query_size=2)


# -- 22: selectors that pick what they may not ------------------------------------------------------------------------


def adversary(picks):
    """A strategy of one's own whose selector picks these rows whatever may be picked."""

    def select(key, scores, *, available, labelled, query_size):
        return Query(jnp.asarray(picks)[:query_size], jnp.zeros(len(picks))[:query_size])

    return QueryStrategy(lambda committee, inputs: inputs[:, 0], select)


ADVERSARIES = {
    "beyond the pool": ([5, 6, N, 7], rf"row {N}, which is no row"),
    "far beyond it": ([2**30, 6, 8, 7], rf"row {2**30}, which is no row"),
    "below zero": ([5, -2, 6, 7], "row -2, which is no row"),
    "twice": ([5, 6, 7, 6], "pool point 6, which was picked before"),
    "labelled": ([5, 6, 15, 7], "pool point 15, which is not available: it is labelled already, or was not offered"),
    "validation": ([5, 6, 7, 20], "pool point 20, which is not available"),
    "two of them": ([5, 3, 5, 7], "pool point 3, which is not available"),
    "too few": ([5, 6, 7], r"integer indices and gains of shape \(4,\), got int32 of shape \(3,\)"),
    "no integers": ([5.0, 6.0, 7.0, 8.0], r"integer indices .*, got float32 of shape \(4,\)"),
}


@pytest.mark.parametrize(("what", "where"), [("labelled", np.asarray), *((what, jnp.asarray) for what in ADVERSARIES)])
def test_22_a_selector_that_picks_what_it_may_not_is_refused_and_nothing_is_labelled(what, where):
    picks, message = ADVERSARIES[what]
    oracle, labelled = Oracle(), labelled_set()
    validation = labelled_set((20, 21), capacity=2)
    seen = []
    with pytest.raises(SelectorError, match=r"^select: expected .*" + message):
        seen.extend(
            loop(strategy=adversary(picks), inputs=where(POOL), oracle=oracle, labelled=labelled, validation=validation)
        )
    assert (seen, oracle.asked) == ([], [])
    assert labelled.indices[:5].tolist() == [3, 1, 4, 15, -1]
    taken = np.isin(np.arange(N), (3, 1, 4, 15, 20, 21))
    with pytest.raises(SelectorError, match=message):
        query(KEY, adversary(picks), COMMITTEE, where(POOL), query_size=4, available=~taken)


def test_22_an_honest_selector_passes_and_minus_one_is_no_pick():
    oracle = Oracle()
    (first, *_) = loop(strategy=adversary([5, 6, 7, -1]), oracle=oracle, rounds=1)
    assert first.query.indices.tolist() == [5, 6, 7]
    assert oracle.asked == [[5, 6, 7]]


def test_22_with_a_prefilter_and_labelled_rows_the_pool_point_is_named():
    def selector(labelled_one):
        def select(key, scores, *, available, labelled, query_size):
            return Query(jnp.array([0, 3, 3]).at[1].set(jnp.argmax(labelled) if labelled_one else 3), jnp.zeros(3))

        return select

    pool = jnp.asarray(POOL)
    for labelled_one, message in [(False, "pool point {}, which was picked before"), (True, f"row {N}, which is not")]:
        strategy = QueryStrategy(
            lambda committee, inputs: inputs[:, 0], selector(labelled_one), rows_labelled=True,
            prefilter=make_strategy("margin", prefilter=6, prefilter_by="margin").prefilter,
        )  # fmt: skip
        passed = query(
            KEY, make_strategy("margin", prefilter=6, prefilter_by="margin"), COMMITTEE, pool, query_size=6
        ).indices
        with pytest.raises(SelectorError) as caught:
            query(KEY, strategy, COMMITTEE, pool, query_size=3, labelled_inputs=pool[:2], labels=LABELS[:2])
        named = str(caught.value)
        if labelled_one:
            assert message in named
        else:
            assert any(message.format(int(point)) in named for point in passed)


def test_22_inside_a_program_its_gains_are_no_numbers():
    pool = jnp.asarray(POOL)
    wrong = jax.jit(lambda key: query(key, adversary([5, 6, 6]), COMMITTEE, pool, query_size=3))(KEY)
    assert jnp.isnan(wrong.gains).all()
    right = jax.jit(lambda key: query(key, adversary([5, 6, 7]), COMMITTEE, pool, query_size=3))(KEY)
    assert right.gains.tolist() == [0, 0, 0]


# -- 23: a class without labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["ensemble", "dropout"])
def test_23_training_and_metrics_work_without_a_class_and_name_it(fit):
    training = Training(steps=40, min_steps=1, batch_size=8, learning_rate=0.05)
    init = lambda key: 0.1 * jax.random.normal(key, (D, C))  # noqa: E731
    if fit == "ensemble":
        fitted = fit_deep_ensemble(model_from_functions(init, apply), members=3, training=training)
    else:
        masked = lambda w, key, x: (x if key is None else 2 * x * jax.random.bernoulli(key, 0.5, x.shape)) @ w  # noqa: E731
        fitted = fit_mc_dropout(model_from_functions(init, masked), members=3, training=training, validation_masks=0)
    start = np.flatnonzero(LABELS == 1)[:4]
    committee = fitted(KEY, TrainingData(POOL[start], LABELS[start], 4))
    probs = jnp.exp(committee.log_probs(jnp.asarray(POOL))).mean(1)
    assert jnp.isfinite(probs).all()
    without = LABELS != 2
    found = calibration.class_accuracy(probs[without], LABELS[without])
    assert jnp.isnan(found).tolist() == [False, False, True]  # NaN in the place of the class, and of no other
    everything = calibration.class_accuracy(probs, LABELS)
    assert everything[1] > max(everything[0], everything[2])
    for metric in (
        calibration.accuracy,
        calibration.nll,
        calibration.brier,
        calibration.ece,
        calibration.classwise_ece,
    ):
        assert jnp.isfinite(metric(probs[without], LABELS[without]))


# -- 24: labels that are none -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [C, -1, 1.5, np.nan, None, "cat", True, 2**40])
def test_24_a_label_that_is_no_class_is_named_and_nothing_is_recorded(bad):
    def answer(indices):
        labels = LABELS[indices].tolist()
        return [*labels[:2], bad, *labels[3:]]

    oracle, labelled, seen = Oracle(answer), labelled_set(), []
    with pytest.raises(LabelError) as caught:
        seen.extend(loop(oracle=oracle, labelled=labelled))
    assert seen == []
    assert len(oracle.asked) == 1
    assert labelled.indices[:5].tolist() == [3, 1, 4, 15, -1]
    assert f"for pool point {oracle.asked[0][2]}" in str(caught.value)
    assert f"asked: {oracle.asked[0]}" in caught.value.__notes__[0]  # the other labels of the round are paid for


@pytest.mark.parametrize("answer", [None, [], [0, 1], {"labels": [0]}, [[0], [1], [2], [0]], [0, [1, 2], 0, 1]])
def test_24_an_answer_that_is_no_list_of_labels_is_refused(answer):
    labelled, seen = labelled_set(), []
    with pytest.raises(LabelError, match=r"one for each of the 4 queried points|got \[1, 2\] for pool point"):
        seen.extend(loop(oracle=Oracle(lambda indices: answer), labelled=labelled))
    assert seen == []
    assert int(labelled.count) == 4


# -- 30, 31, 32: the ends of the range --------------------------------------------------------------------------------


def log32(probs):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(probs), jnp.float32)


EDGES = [(1, 1, 1), (1, 1, 2), (1, 1, 1000), (1, 20, 1), (1, 2, 2), (7, 20, 1000)]  # N, K, C


@pytest.mark.parametrize("name", SCORES)
def test_30_one_point_one_member_one_class_and_a_thousand(name):
    for (n, k, c), temperature in itertools.product(EDGES, (0.5, 30.0)):
        log_probs = log32(random_probs(n + k + c, n, k, c, temperature=temperature))
        if name == "margin" and c == 1:
            with pytest.raises(ValueError, match="margin needs two classes or more"):
                SCORES[name](log_probs)
            continue
        values = SCORES[name](log_probs)
        assert values.shape == (n,)
        assert jnp.isfinite(values).all(), (n, k, c)
        if name in ("bald", "mean_kl", "vote_entropy", "variation_ratio", "mean_std", "predictive_variance"):
            assert (values >= 0).all()
            if k == 1 or c == 1:
                assert values.tolist() == [0.0] * n, (n, k, c)  # exactly


@hypothesis.settings(max_examples=80, deadline=None, derandomize=True)
@hypothesis.given(
    hnp.arrays(np.float32, (4, 1, 5), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from([1, 3, 41])
)
def test_30_members_that_agree_have_no_mutual_information_at_all(logits, num_members):
    log_probs = jnp.tile(jax.nn.log_softmax(logits), (1, num_members, 1))
    assert mutual_information(log_probs).tolist() == [0.0] * 4


@hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
@hypothesis.given(
    hnp.arrays(np.float32, (6, 3, 4), elements=st.sampled_from([-1e4, -30.0, -1.0, 0.0, 1.0, 30.0, 1e4])),
)
def test_31_extreme_logits_and_one_hot_probabilities_have_finite_scores(logits):
    log_probs = jax.nn.log_softmax(logits)
    sure = jnp.where(jax.nn.one_hot(logits.argmax(-1), 4, dtype=bool), 0.0, -jnp.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        assert np.isnan(np.exp(np.asarray(sure)) * np.asarray(sure)).any()  # what is not done
    for predictions in (log_probs, sure):
        entropy = ACQUISITION_FUNCTIONS["predictive_entropy"](predictions)
        for name, function in ACQUISITION_FUNCTIONS.items():
            values = function(predictions)
            assert jnp.isfinite(values).all(), name
            if name not in ("margin", "balanced_entropy"):
                assert (values >= 0).all(), name
        information = ACQUISITION_FUNCTIONS["bald"](predictions)
        assert (information <= entropy + 1e-5).all()
        assert (entropy <= math.log(4) + 1e-6).all()


def clips_of(module, function, *arguments, monkeypatch):
    """How far below its bound a value was that `jnp.maximum(value, 0.0)` raised to 0 in this module, at most."""
    sizes = []

    def maximum(value, bound):
        if isinstance(bound, float) and bound == 0.0:
            sizes.append(float(jnp.maximum(0.0, -jnp.min(value))))
        return jnp.maximum(value, bound)

    monkeypatch.setattr(module, "jnp", types.SimpleNamespace(**vars(jnp) | {"maximum": maximum}))
    with jax.disable_jit():
        function(*arguments)
    return sizes


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize(("num_members", "num_classes"), [(2, 2), (20, 10), (7, 1000)])
def test_31_what_is_clipped_at_zero_is_rounding(temperature, num_members, num_classes, monkeypatch):
    logits = temperature * np.random.default_rng(7).normal(size=(40, num_members, num_classes))
    log_probs = jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))
    for function in (information.entropy, information.mutual_information):
        sizes = clips_of(information, function, log_probs, monkeypatch=monkeypatch)
        assert sizes, function  # the clip was looked at
        assert max(sizes) <= 1e-5


@pytest.fixture(scope="module")
def digits_committee():
    """Ten small networks on a hundred digits, and the whole pool."""
    digits = datasets.load("optdigits")
    inputs = jnp.asarray(digits.inputs.reshape(len(digits.inputs), -1))

    def init(key):
        first, second = jax.random.split(key)
        return 0.15 * jax.random.normal(first, (64, 32)), 0.2 * jax.random.normal(second, (32, 10))

    def network(params, key, x):
        return jax.nn.relu(x @ params[0]) @ params[1]

    model = model_from_functions(init, network)
    fit = fit_deep_ensemble(model, members=10, training=Training(steps=100, batch_size=32))
    return network, fit(KEY, TrainingData(inputs[:100], digits.labels[:100], 100)).own.params, inputs


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_32_half_precision_logits_pick_the_same_points(dtype, digits_committee):
    network, params, inputs = digits_committee
    full = deep_ensemble(network, params).log_probs(inputs)
    logits = jax.vmap(lambda params: jax.vmap(lambda x: network(params, None, x))(inputs))(params)  # [K, N, C]
    rounded = logits.astype(dtype)  # an array: inside a program XLA may leave the rounding out
    half = deep_ensemble(lambda table, key, row: table[row], rounded).log_probs(jnp.arange(len(inputs)))
    assert half.dtype == jnp.float32
    assert not np.array_equal(half, full)
    for name in ("bald", "predictive_entropy", "margin", "mean_std"):
        tops = [set(np.argsort(-np.asarray(ACQUISITION_FUNCTIONS[name](each)))[:100].tolist()) for each in (full, half)]
        assert len(tops[0] & tops[1]) >= 95, name


# -- 33: tracing every round ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bald", "power_bald", "k_center"])
def test_33_after_the_first_round_a_query_compiles_nothing_and_traces_nothing(name):
    rounds = loop(strategy=make_strategy(name), rounds=3)
    next(rounds)
    next(rounds)  # the second labelled set is one of host arrays with a new count
    with jax.no_tracing(True), count_compilations() as compilations:
        later = list(rounds)
    assert len(later) == 2
    assert compilations == []


# -- 38, 46: without a network, and without a terminal ----------------------------------------------------------------

CONFIG = """\
name: tiny
seeds: 2
data: {name: optdigits, pool: 150, test: 60}
model: {name: mlp, hidden: [8], dropout: 0.25}
training: {steps: 6, min_steps: 2, batch_size: 8, eval_every: 3}
labels: {budget: 20, initial: 8}
query: {size: 4}
comparisons:
- {posterior: mc_dropout, members: 3, strategies: [random, bald]}
"""

WITHOUT_A_NETWORK = """
import sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        raise RuntimeError(f"the network was used: {event} {arguments!r}")

sys.addaudithook(refuse)
from bdal.cli import main

sys.exit(main(sys.argv[1:]))
"""


def without_interfaces():
    """The command that runs another in a network namespace of its own, where that is allowed; else none."""
    command = ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, timeout=20, check=False).returncode == 0
    except (OSError, subprocess.SubprocessError):
        allowed = False
    return command if allowed else []


def bdal_run(folder, *arguments, **environment):
    (folder / "tiny.yaml").write_text(CONFIG)
    here = os.environ | {"BDAL_CACHE_DIR": str(folder / "cache"), "PYTHONWARNINGS": "ignore"} | environment
    command = [*without_interfaces(), sys.executable, "-c", WITHOUT_A_NETWORK, "run", "tiny.yaml", *arguments]
    return subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, timeout=400, check=False)


def test_38_and_46_an_experiment_runs_without_a_network_and_prints_plain_lines_into_a_pipe(tmp_path):
    done = bdal_run(tmp_path, TERM="xterm-256color")  # a terminal's name, but no terminal
    assert done.returncode == 0, done.stderr[-3000:]
    assert not {"\x1b", "\r", "\x08"} & set(done.stdout + done.stderr)
    lines = done.stdout.splitlines()
    rounds = [line for line in lines if "round " in line]
    assert len(rounds) == 2 * 3
    assert all("labels, accuracy 0." in line for line in rounds)
    ledgers = sorted((tmp_path / "runs" / "tiny").glob("*/*/seed_*/ledger.jsonl"))
    assert len(ledgers) == 4
    assert all(json.loads(path.read_text().splitlines()[-1])["event"] == "finished" for path in ledgers)


def test_38_the_guard_sees_a_connection(tmp_path):
    code = WITHOUT_A_NETWORK.partition("from bdal")[0] + "import urllib.request; urllib.request.urlopen('http://a.b')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "RuntimeError: the network was used: urllib.Request" in done.stderr


@pytest.mark.parametrize("widgets", [False, True])
def test_46_a_notebook_has_a_bar_where_it_can_draw_one(monkeypatch, widgets):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object() if widgets else None)
    console = types.SimpleNamespace(is_jupyter=True, is_terminal=False, is_dumb_terminal=False, no_color=False)
    assert progress._can_draw(console) == widgets


@pytest.mark.parametrize(
    ("terminal", "dumb", "no_color", "drawn"),
    [(True, False, False, True), (False, False, False, False), (True, True, False, False), (True, False, True, False)],
)
def test_46_a_terminal_has_a_bar_unless_it_asks_for_none(terminal, dumb, no_color, drawn):
    console = types.SimpleNamespace(is_jupyter=False, is_terminal=terminal, is_dumb_terminal=dumb, no_color=no_color)
    assert progress._can_draw(console) == drawn


# -- 43: keys that are used twice -------------------------------------------------------------------------------------

SAMPLERS = ("bernoulli", "bits", "categorical", "choice", "gumbel", "normal", "permutation", "randint", "uniform")


class Keys:
    """Every key that is consumed by a draw and every key that others are derived from, compiled programs included."""

    def __init__(self):
        self.consumed, self.parents, self.by = collections.Counter(), set(), collections.defaultdict(set)

    def watch(self, monkeypatch):
        for name in (*SAMPLERS, "fold_in", "split"):
            monkeypatch.setattr(jax.random, name, self._watched(name, getattr(jax.random, name)))
        return self

    def _watched(self, name, function):
        def see(data):
            for key in np.asarray(data).reshape(-1, np.shape(data)[-1]):
                key = tuple(key.tolist())
                self.by[key].add(name)
                if name in SAMPLERS:
                    self.consumed[key] += 1
                else:
                    self.parents.add(key)

        def call(key, *args, **kwargs):
            jax.debug.callback(see, jax.random.key_data(key))
            return function(key, *args, **kwargs)

        return call

    def used_twice(self):
        """Keys of two draws, or of a draw and of other keys: `split(key)[i]` and `fold_in(key, i)` are one key."""
        jax.effects_barrier()
        twice = {key for key, count in self.consumed.items() if count > 1} | (set(self.consumed) & self.parents)
        return {key: sorted(self.by[key]) for key in twice}


@pytest.fixture
def keys(monkeypatch):
    jax.clear_caches()  # what was compiled before has no watch in it
    yield Keys().watch(monkeypatch)
    jax.clear_caches()


def test_43_the_watch_sees_a_key_that_is_used_twice(keys):
    @jax.jit
    def program(key):
        rows = jax.lax.map(lambda i: jax.random.uniform(jax.random.fold_in(key, i)), jnp.arange(3))
        return rows, jax.random.bits(jax.random.fold_in(key, other))

    for other, expected in [(7, []), (1, [["bits", "uniform"]])]:
        jax.clear_caches()
        jax.block_until_ready(program(jax.random.key(other)))
        assert list(keys.used_twice().values()) == expected


ONE_PROJECTION = {"bait_one_vector", "frank_wolfe"}  # its random matrix is drawn again for each chunk, and the same
FEW = ("softrank_bald", "badge", "typiclust")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in STRATEGIES]
)
def test_43_no_strategy_uses_a_key_twice(name, keys):
    labelled = jnp.asarray(POOL[:6])
    chosen = query(
        jax.random.key(1), make_strategy(name), COMMITTEE, jnp.asarray(POOL), query_size=4, targets=7, chunk_size=32,
        labelled_inputs=labelled, labels=jnp.asarray(LABELS[:6]), available=jnp.arange(N) >= 6,
    )  # fmt: skip
    jax.block_until_ready(chosen)
    twice = keys.used_twice()
    if name in ONE_PROJECTION:
        assert set(map(tuple, twice.values())) == {("normal",)}
    else:
        assert twice == {}
    assert keys.consumed


@pytest.mark.filterwarnings("ignore:every available point")
@pytest.mark.filterwarnings("ignore:the members have keys of their own")
def test_43_no_key_is_used_twice_over_a_run(keys):
    noise = []

    def note(data):
        noise.extend(map(tuple, np.asarray(data).reshape(-1, 2).tolist()))

    def noisy(params, key, x):
        if key is not None:
            jax.debug.callback(note, jax.random.key_data(key))
            x = x + 0.0 * jax.random.key_data(key).sum()  # what depends on no key is computed once for all members
        return x @ params, x

    rounds, steps, rows, members, looks = 3, 4, 5, 6, 7
    training = Training(steps=steps, min_steps=0, batch_size=rows, eval_every=2, patience=9)
    model = model_from_functions(lambda key: 0.1 * jax.random.normal(key, (D, C)), noisy)
    list(
        loop(
            fit=fit_mc_dropout(model, None, training, members=members, validation_masks=looks), rounds=rounds - 1,
            strategy=make_strategy("power_bald"), validation=labelled_set((20, 21), capacity=2), candidates=30,
        )
    )  # fmt: skip
    assert keys.used_twice() == {}
    # A mask of its own for every row of every minibatch, every sample of a look and every member that is asked.
    assert len(set(noise)) == rounds * (steps * rows + looks) + (rounds - 1) * members


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_43_no_key_is_used_twice_over_an_experiment(keys, tmp_path):
    experiment = tiny_experiment(seeds=3, evaluation=config.Evaluation(points=20))
    run_experiment(experiment, tmp_path, progress=Silent)
    assert keys.used_twice() == {}
    assert sum("permutation" in names for names in keys.by.values()) >= 3  # the initial set of each seed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_43_jax_finds_no_key_that_is_used_twice():
    training = Training(steps=3, min_steps=0, batch_size=4, eval_every=2)
    masked = lambda w, key, x: (  # noqa: E731
        (x if key is None else 2 * x * jax.random.bernoulli(key, 0.5, x.shape)) @ w,
        x,
    )
    model = model_from_functions(lambda key: 0.1 * jax.random.normal(key, (D, C)), masked)
    jax.clear_caches()
    with jax.debug_key_reuse(True):
        for name in ("softrank_bald", "bait_one_vector"):
            fit = fit_mc_dropout(model, None, training, members=3, validation_masks=2)
            validation = labelled_set((20, 21), capacity=2)
            list(loop(fit=fit, strategy=make_strategy(name), rounds=1, validation=validation, candidates=30))
        key = jax.random.key(0)
        jax.random.uniform(key)
        with pytest.raises(jax.errors.KeyReuseError):
            jax.random.uniform(key)


# -- 44: clocks that jump ---------------------------------------------------------------------------------------------


def tiny_experiment(**changes):
    fields = {
        "name": "tiny",
        "seeds": 1,
        "together": False,
        "data": config.Data(name="optdigits", pool=150, test=60),
        "model": config.Named("mlp", {"hidden": [8], "dropout": 0.25}),
        "training": config.Training(steps=6, min_steps=2, batch_size=8, eval_every=3),
        "labels": config.Labels(budget=20, initial=8),
        "query": config.Query(size=4),
        "comparisons": (config.Comparison("deep_ensemble", 2, (config.Named("bald"),)),),
    }
    return config.Experiment(**fields | changes)


class Silent:
    """A progress display that shows nothing."""

    def __init__(self, total):
        del total

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def line(self, text=""):
        pass

    stage = advance = line


def clocks(paths):
    """What reads the wall clock, or could do so under another name: file and code."""
    wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now", "time.localtime"}
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            renamed = isinstance(node, ast.Import) and any(
                a.asname and a.name in ("time", "datetime") for a in node.names
            )
            taken = isinstance(node, ast.ImportFrom) and node.module == "time"
            if renamed or taken or (isinstance(node, ast.Call) and ast.unparse(node.func) in wall):
                yield path.name, ast.unparse(node)


def test_44_only_the_lock_reads_the_wall_clock(tmp_path):
    found = set(clocks((ROOT / "bdal").rglob("*.py")))
    assert {name for name, _ in found} <= {"lock.py"}
    assert {call for _, call in found if "now" in call} <= {"datetime.now(UTC)"}
    (tmp_path / "bad.py").write_text("import time; start = time.time()")
    assert list(clocks([tmp_path / "bad.py"])) == [("bad.py", "time.time()")]
    for hidden in (
        "from time import time",
        "from time import time_ns as ns",
        "import time as t",
        "import datetime as d",
    ):
        (tmp_path / "bad.py").write_text(hidden)
        assert list(clocks([tmp_path / "bad.py"])) == [("bad.py", hidden)]
