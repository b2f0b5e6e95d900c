"""The loop: the same key gives the same queries from any round on, and only labels that were paid for count."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.committee import Committee, deep_ensemble
from bdal.errors import LabelError, NonFiniteError
from bdal.loop import active_learning, ask, query_limit, step_key, tell, training_data
from bdal.model import model_from_functions
from bdal.pool import ABSTAIN, LabelledSet, extend
from bdal.posteriors import fit_deep_ensemble
from bdal.selection import Query, top_k
from bdal.strategy import QueryStrategy, make_strategy
from bdal.strategy import querying as strategy_room
from bdal.training import Training
from bdal.types import TrainingData
from tests.compilations import count_compilations

N, C, D, Q, CAPACITY = 60, 3, 4, 4, 16
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, C, N)
POOL = (RNG.normal(size=(N, D)) + 1.5 * np.eye(C, D)[LABELS]).astype(np.float32)
KEY = jax.random.key(0)


def apply(params, key, x):
    return x @ params, x


FIT = fit_deep_ensemble(
    model_from_functions(lambda key: 0.1 * jax.random.normal(key, (D, C)), apply),
    members=3,
    training=Training(steps=30, min_steps=5, batch_size=8, learning_rate=0.05, eval_every=5, patience=2),
)


def labelled_set(indices=(3, 1, 4, 15), capacity=CAPACITY, labels=LABELS):
    return extend(LabelledSet.empty(capacity), list(indices), labels[list(indices)], num_points=N)


def run(key=KEY, *, rounds=3, labels=LABELS, **changes):
    settings = {
        "fit": FIT,
        "strategy": make_strategy("bald"),
        "inputs": jnp.asarray(POOL),
        "oracle": lambda indices: labels[indices],
        "labelled": labelled_set(labels=labels),
        "query_size": Q,
        "num_classes": C,
        "chunk_size": 32,
    }
    return active_learning(key, rounds=rounds, **settings | changes)


def queries(rounds):
    return [np.asarray(r.query.indices).tolist() for r in rounds]


def flat(lists):
    return [item for items in lists for item in items]


def labelled_indices(labelled):
    return np.asarray(labelled.indices)[: int(labelled.count)].tolist()


# -- what a round is --------------------------------------------------------------------------------------------------


def test_rounds_tell_the_whole_story():
    asked = []

    def oracle(indices):
        asked.append(indices.tolist())
        return LABELS[indices]

    rounds = list(run(oracle=oracle))
    assert [r.number for r in rounds] == [0, 1, 2, 3]
    assert [int(r.labelled.count) for r in rounds] == [4, 8, 12, 16]
    assert [len(r.query.indices) for r in rounds] == [4, 4, 4, 0]
    assert asked == queries(rounds)[:-1]
    assert labelled_indices(rounds[-1].labelled) == [3, 1, 4, 15, *flat(asked)]
    for r in rounds:
        assert isinstance(r.committee, Committee)
        assert r.labels.tolist() == LABELS[r.query.indices].tolist()
        assert r.labelled.labels[: r.labelled.count].tolist() == LABELS[labelled_indices(r.labelled)].tolist()
        assert isinstance(r.query.indices, np.ndarray)
        assert len(r.query.gains) == len(r.query.indices)
    picked = [3, 1, 4, 15, *flat(queries(rounds))]
    assert len(set(picked)) == len(picked)


def test_the_same_key_gives_the_same_queries_and_another_key_others():
    first = queries(run())
    assert queries(run()) == first
    assert queries(run(jax.random.key(1))) != first


def test_a_round_depends_on_the_key_its_number_and_the_labelled_set_only():
    whole = list(run())
    for start in (1, 2, 3):
        again = list(run(labelled=whole[start].labelled, start=start))
        assert [r.number for r in again] == list(range(start, 4))
        assert queries(again) == queries(whole)[start:]
        np.testing.assert_array_equal(again[-1].committee.own.params, whole[-1].committee.own.params)
    elsewhere = list(run(labelled=whole[2].labelled, start=1, rounds=2))
    assert queries(elsewhere)[0] != queries(whole)[2]  # the number counts


def test_ask_and_tell_are_the_loop():
    strategy, labelled, found = make_strategy("bald"), labelled_set(), []
    inputs = jnp.asarray(POOL)
    for number in range(3):
        committee = FIT(step_key(KEY, number, "fit"), training_data(labelled, None, inputs))
        query = ask(
            step_key(KEY, number, "query"), committee, labelled, strategy=strategy, inputs=inputs, query_size=Q,
            chunk_size=32,
        )  # fmt: skip
        found.append(query.indices.tolist())
        labelled = tell(labelled, query, LABELS[query.indices], inputs=inputs, num_classes=C)
    assert found == queries(run())[:3]


def test_fit_and_query_keys_of_all_rounds_differ():
    keys = {
        tuple(np.asarray(jax.random.key_data(step_key(KEY, number, purpose))).tolist())
        for number in range(20)
        for purpose in ("fit", "query")
    }
    assert len(keys) == 40


@pytest.mark.parametrize("name", ["bald", "k_center"])
def test_a_pool_on_the_host_gives_the_same_queries(name):
    strategy = make_strategy(name)
    assert queries(run(inputs=POOL, strategy=strategy, rounds=2)) == queries(run(strategy=strategy, rounds=2))


def test_inputs_may_be_a_pytree_and_a_mesh_may_shard_them():
    inputs = {"left": jnp.asarray(POOL[:, :2]), "right": jnp.asarray(POOL[:, 2:])}
    model = model_from_functions(
        lambda key: 0.1 * jax.random.normal(key, (D, C)),
        lambda params, key, x: apply(params, key, jnp.concatenate([x["left"], x["right"]])),
    )
    fit = fit_deep_ensemble(
        model,
        members=3,
        training=Training(steps=30, min_steps=5, batch_size=8, learning_rate=0.05, eval_every=5, patience=2),
    )
    expected = queries(run(rounds=1))
    assert queries(run(inputs=inputs, fit=fit, rounds=1)) == expected
    assert queries(run(rounds=1, mesh=jax.make_mesh((1,), ("pool",)))) == expected


@pytest.mark.parametrize(
    ("name", "where"), [("bald", jnp.asarray), ("power_bald", np.asarray), ("k_center", np.asarray)]
)
def test_nothing_is_compiled_after_round_one(name, where):
    validation = labelled_set(range(20, 25), capacity=5)
    settings = {"inputs": where(POOL), "strategy": make_strategy(name), "validation": validation, "candidates": 30}
    rounds = run(jax.random.key(5), **settings)
    next(rounds)
    with count_compilations() as compilations:
        later = list(rounds)
    assert len(later) == 3
    assert compilations == []


# -- where it ends ----------------------------------------------------------------------------------------------------


def test_a_query_larger_than_what_is_left_is_shortened_with_a_warning():
    rounds = run(labelled=labelled_set((3, 1)), rounds=10)
    for _ in range(3):
        next(rounds)
    with pytest.warns(UserWarning, match="the last query has 2 points instead of 4"):
        last_query = next(rounds)
    assert len(last_query.query.indices) == len(last_query.query.gains) == len(last_query.labels) == 2
    (end,) = list(rounds)
    assert int(end.labelled.count) == CAPACITY
    assert end.query.indices.shape == (0,)


def test_a_short_last_query_is_refused_where_that_is_asked_for():
    rounds = run(labelled=labelled_set((3, 1)), rounds=10, strict=True)
    for _ in range(3):
        next(rounds)
    with pytest.raises(ValueError, match="query_size: expected at most the 2 points that are left, got 4"):
        next(rounds)
    with pytest.raises(ValueError, match="rounds: expected at least 0, got -1"):
        next(run(rounds=-1))


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
@pytest.mark.parametrize("name", ["bald", "k_center"])
def test_an_exhausted_pool_ends_the_loop(where, name):
    pool = where(POOL[:19])
    validation = labelled_set((0, 2, 5, 6, 7, 8, 9, 10), capacity=8)  # leaves 9 of 19 beside the two labelled
    rounds = run(
        inputs=pool, labelled=labelled_set((3, 1)), validation=validation, strategy=make_strategy(name), rounds=9
    )
    before = [next(rounds), next(rounds)]
    with pytest.warns(UserWarning, match="the last query has 1 points instead of 4"):
        before.append(next(rounds))
    after = list(rounds)
    assert queries(after) == [[]]
    bought = [3, 1, *flat(queries(before))]
    assert sorted(bought) == sorted(set(range(19)) - set(validation.indices.tolist()))  # never a validation point


def test_no_rounds_and_no_room_is_one_fit():
    (only,) = run(rounds=0)
    assert (only.number, len(only.query.indices)) == (0, 0)
    (only,) = run(labelled=labelled_set(range(CAPACITY)), rounds=5)
    assert len(only.query.indices) == 0
    assert list(run(rounds=2, start=3)) == []


# -- what it starts from ----------------------------------------------------------------------------------------------


def test_no_initial_labels():
    rounds = list(run(labelled=LabelledSet.empty(CAPACITY), rounds=2))
    assert [int(r.labelled.count) for r in rounds] == [0, 4, 8]
    assert all(np.isfinite(r.query.gains).all() for r in rounds)


def test_a_class_without_a_label():
    start = np.flatnonzero(LABELS == 0)[:4]
    rounds = list(run(labelled=labelled_set(start), rounds=2))
    assert [int(r.labelled.count) for r in rounds] == [4, 8, 12]


def test_a_validation_set_with_room_is_what_it_holds():
    full = labelled_set(range(20, 26), capacity=6)
    roomy = labelled_set(range(20, 26), capacity=20)
    one, other = list(run(validation=full, rounds=1)), list(run(validation=roomy, rounds=1))
    assert queries(one) == queries(other)
    np.testing.assert_array_equal(one[-1].committee.own.params, other[-1].committee.own.params)
    assert not np.array_equal(one[-1].committee.own.params, list(run(rounds=1))[-1].committee.own.params)


# -- candidates -------------------------------------------------------------------------------------------------------


def test_candidates_are_a_random_subset_of_what_is_available():
    labelled, excluded = labelled_set(range(10)), np.isin(np.arange(N), range(10, 20))
    committee = FIT(KEY, TrainingData(jnp.zeros((CAPACITY, D)), jnp.zeros(CAPACITY, jnp.int32), jnp.int32(0)))
    found = [
        ask(
            jax.random.key(s), committee, labelled, excluded, strategy=make_strategy("bald"),
            inputs=jnp.asarray(POOL), query_size=Q, candidates=Q, chunk_size=32,
        ).indices
        for s in range(60)
    ]  # fmt: skip
    assert all(len(set(indices.tolist())) == Q for indices in found)
    counts = np.bincount(np.concatenate(found), minlength=N)
    assert (counts[:20] == 0).all()
    assert (counts[20:] > 0).all()  # a point is left out of 60 queries of 4 in 40 with probability 0.9**60
    assert counts.max() < 20  # expected 6


def test_with_enough_candidates_it_is_the_whole_pool():
    assert queries(run(candidates=N, rounds=2)) == queries(run(candidates=10 * N, rounds=2)) == queries(run(rounds=2))


def test_targets_are_of_the_whole_pool_and_a_cover_sees_the_candidates_only():
    seen, labelled, excluded = {}, labelled_set(), np.zeros(N, bool)
    excluded[[7, 8, 9]] = True  # for validation, say

    def prepare(key, committee, labelled_inputs, labels, targets):
        seen["targets"] = np.asarray(targets)
        return committee

    def score(carry, inputs):
        return inputs

    def select(key, rows, *, available, labelled, query_size):
        return top_k(rows[:, 0], available=available, query_size=query_size, pad=True)

    def places(rows):
        return {int(np.abs(POOL - row).sum(-1).argmin()) for row in rows}

    def rows_of(strategy):
        def keep(key, rows, **how):
            jax.debug.callback(lambda rows: seen.update(rows=np.asarray(rows)), rows)
            return select(key, rows, **how)

        return strategy._replace(select=keep)

    strategy = rows_of(QueryStrategy(score, select, prepare))
    settings = {"strategy": strategy, "inputs": POOL, "query_size": Q, "chunk_size": 32}  # on the host: nothing traced
    query = ask(KEY, object(), labelled, excluded, targets=N, candidates=12, **settings)
    jax.effects_barrier()
    assert places(seen["targets"]) == set(range(N))  # labelled and excluded ones too
    candidates = places(seen["rows"])  # all that select has to cover
    assert len(candidates) == 12
    assert not candidates & {3, 1, 4, 15, 7, 8, 9}
    assert set(query.indices.tolist()) <= candidates


def test_fewer_candidates_than_are_queried_are_refused():
    with pytest.raises(ValueError, match=r"candidates: expected at least query_size \(4\), got 3"):
        next(run(candidates=3))


# -- what goes wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda indices: np.where(indices == indices[2], C, 0), rf"in \[0, {C}\), got {C} for pool point"),
        (lambda indices: LABELS[indices].astype(float), "expected integer classes"),
        (lambda indices: [None] * len(indices), "expected integer classes, got None for pool point"),
        (lambda indices: LABELS[indices][:-1], r"one for each of the 4 queried points .* got shape \(3,\)"),
    ],
)
def test_a_wrong_answer_ends_the_round_before_anything_is_recorded(answer, message):
    labelled, seen = labelled_set(), []
    with pytest.raises(LabelError, match=message) as caught:
        seen.extend(run(labelled=labelled, oracle=answer))
    assert seen == []
    asked = queries(run(rounds=1))[0]
    answered = np.asarray(answer(np.array(asked))).tolist()
    assert caught.value.__notes__ == [f"asked: {asked}; answered: {answered}"]  # what was paid for is not lost
    assert labelled_indices(labelled) == [3, 1, 4, 15]


def test_without_a_number_of_classes_it_is_the_committees():
    def wrong(indices):
        return np.where(indices == indices[2], C, 0)

    with pytest.raises(LabelError, match=rf"in \[0, {C}\), got {C} for pool point"):
        next(run(oracle=wrong, num_classes=None))


@pytest.mark.parametrize("num_classes", [None, C])
@pytest.mark.parametrize("part", ["labelled", "validation"])
def test_a_label_out_of_range_at_the_start_is_refused_before_the_oracle_is_asked(part, num_classes):
    def fit(key, data):  # looks at no label
        return deep_ensemble(apply, jax.random.normal(key, (3, D, C)))

    labels, asked = np.where(np.arange(N) == 21, C, LABELS), []
    sets = {"labelled": labelled_set((1, 3)), "validation": labelled_set((5, 8), capacity=2)}
    sets[part] = labelled_set((20, 21), labels=labels)
    with pytest.raises(LabelError, match=rf"in \[0, {C}\), got {C} for pool point 21"):
        next(run(fit=fit, oracle=asked.append, num_classes=num_classes, **sets))
    assert asked == []


def test_points_to_train_on_and_to_validate_with_differ():
    with pytest.raises(ValueError, match="not in labelled too, got 2 of them, the first pool point 3"):
        next(run(fit=None, validation=labelled_set((7, 4, 3), capacity=9)))


@pytest.mark.parametrize("size", [0, -1])
def test_a_query_of_no_points_is_refused(size):
    with pytest.raises(ValueError, match=f"query_size must be at least 1, got {size}"):
        next(run(fit=None, query_size=size))


def test_a_fit_that_diverges_is_noticed_before_the_oracle_is_asked():
    def fit(key, data):
        weights = jnp.where(data.count > 4, jnp.nan, 1.0) * jax.random.normal(key, (3, D, C))
        return deep_ensemble(apply, weights)

    asked = []
    rounds = run(fit=fit, oracle=lambda indices: asked.append(indices) or LABELS[indices])
    next(rounds)
    with (
        pytest.warns(UserWarning, match="round 1, 8 labels: training ended in NaN"),
        pytest.raises(NonFiniteError, match="in 52 available points"),
    ):
        next(rounds)
    assert len(asked) == 1


# -- of one's own -----------------------------------------------------------------------------------------------------


class Bootstrap:
    """A committee of scikit-learn models."""

    def __init__(self, models):
        self.models = models

    def log_probs(self, inputs):
        inputs = np.asarray(inputs)
        probs = np.zeros((len(inputs), len(self.models), C))
        for k, model in enumerate(self.models):
            probs[:, k, model.classes_] = model.predict_proba(inputs)
        with np.errstate(divide="ignore"):
            return np.log(probs)


def fit_bootstrap(key, data):
    from sklearn.linear_model import LogisticRegression

    inputs, labels = (np.asarray(rows)[: int(data.count)] for rows in (data.inputs, data.labels))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    models = []
    while len(models) < 4:
        rows = rng.integers(0, len(labels), len(labels))
        if len(set(labels[rows])) > 1:
            models.append(LogisticRegression().fit(inputs[rows], labels[rows]))
    return Bootstrap(models)


@pytest.mark.parametrize("where", [np.asarray, jnp.asarray], ids=["host", "device"])
def test_a_fit_of_another_library(where, monkeypatch):
    checks, check = [], strategy_room.check_committee
    monkeypatch.setattr(
        strategy_room, "check_committee", lambda *arguments: checks.append(arguments) or check(*arguments)
    )
    rounds = list(run(fit=fit_bootstrap, inputs=where(POOL), rounds=3))
    assert [int(r.labelled.count) for r in rounds] == [4, 8, 12, 16]
    assert len(checks) == 1  # not once a round
    again = list(run(fit=fit_bootstrap, inputs=where(POOL), labelled=rounds[2].labelled, start=2))
    assert queries(again) == queries(rounds)[2:]
    probs = np.exp(rounds[-1].committee.log_probs(POOL)).mean(1)
    assert (probs.argmax(-1) == LABELS).mean() > 0.6


def test_an_inconsistent_committee_is_refused_in_the_first_round():
    class PerExample(Bootstrap):
        def log_probs(self, inputs):
            return super().log_probs(np.asarray(inputs) * (np.arange(len(inputs)) % 2)[:, None])

    with pytest.raises(ValueError, match="expected members that are functions of one input"):
        next(run(fit=lambda *arguments: PerExample(fit_bootstrap(*arguments).models)))


def test_a_strategy_of_ones_own_gets_what_is_labelled_and_the_targets():
    def prepare(key, committee, labelled_inputs, labels, targets):
        return {"centre": labelled_inputs[:4].mean(0) + targets, "sum": labels.sum()}

    def score(carry, x):
        return -jnp.abs(x - carry["centre"][None, :]).sum(-1) + 0 * carry["sum"]

    def select(key, scores, *, available, labelled, query_size):
        return top_k(scores, available=available, query_size=query_size)

    targets = jnp.float32(0.5)
    first = next(run(strategy=QueryStrategy(score, select, prepare), targets=targets))
    distance = np.abs(POOL - POOL[[3, 1, 4, 15]].mean(0) - 0.5).sum(-1)
    distance[[3, 1, 4, 15]] = np.inf
    assert queries([first]) == [np.argsort(distance)[:Q].tolist()]


# -- no label that was not paid for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bald", "k_center", "expected_model_change"])
def test_labels_that_were_not_bought_change_nothing(name):
    settings = {"strategy": make_strategy(name), "rounds": 2}
    rounds = list(run(**settings))
    bought = labelled_indices(rounds[-1].labelled)
    poisoned = (LABELS + 1) % C
    poisoned[bought] = LABELS[bought]
    assert (poisoned != LABELS).sum() == N - len(bought)
    again = list(run(labels=poisoned, **settings))
    assert queries(again) == queries(rounds)
    np.testing.assert_array_equal(again[-1].committee.own.params, rounds[-1].committee.own.params)
    first = queries(rounds)[0][0]
    poisoned[first] = (LABELS[first] + 1) % C  # and one that was bought does
    changed = list(run(labels=poisoned, **settings))
    assert not np.array_equal(changed[-1].committee.own.params, rounds[-1].committee.own.params)


# -- scores that are no numbers, left out -----------------------------------------------------------------------------


def broken_apply(params, key, x):
    return jnp.where(x[0] > 1.0, jnp.nan, x @ params), x


BROKEN = POOL[:, 0] > 1.0


def broken_fit(key, data):
    return deep_ensemble(broken_apply, jax.random.normal(jax.random.fold_in(key, data.count), (3, D, C)))


@pytest.mark.parametrize("inputs", [jnp.asarray(POOL), POOL], ids=["device", "host"])
@pytest.mark.parametrize("candidates", [None, 30])
def test_points_with_scores_that_are_no_numbers_are_never_queried(inputs, candidates):
    assert 4 < BROKEN.sum() < N // 2
    clean = np.flatnonzero(~BROKEN)[:4]
    settings = {"fit": broken_fit, "labelled": labelled_set(clean), "inputs": inputs, "candidates": candidates}
    with pytest.raises(NonFiniteError, match=r"expected finite values, got NaN or infinity in \d+ available points"):
        list(run(**settings))
    with pytest.warns(UserWarning, match="excluded from this query") as caught:
        rounds = list(run(**settings, on_nonfinite="exclude"))
    chosen = flat(queries(rounds))
    assert len(chosen) == 3 * Q
    assert not BROKEN[chosen].any()
    messages = [str(w.message) for w in caught]
    assert len(messages) == 3  # one a round
    if candidates is None:
        assert (
            f"in {BROKEN.sum()} available points (pool indices {np.flatnonzero(BROKEN)[:5].tolist()} ...)"
            in (messages[0])
        )
        excluding = np.array(BROKEN)  # the same queries as without these points
        same = list(run(**settings, excluded=excluding))
        assert queries(same) == queries(rounds)


def test_the_query_is_shorter_where_few_scores_are_numbers_and_an_error_where_none_is():
    finite = np.flatnonzero(~BROKEN)
    labelled = labelled_set(finite[:-2], capacity=N)
    settings = {"fit": broken_fit, "labelled": labelled, "on_nonfinite": "exclude"}
    rounds = run(**settings)
    with pytest.warns(UserWarning, match="excluded from this query"):
        first = next(rounds)
    assert sorted(np.asarray(first.query.indices).tolist()) == finite[-2:].tolist()
    with pytest.raises(NonFiniteError, match=r"at least 1 available points with finite values, .* and 0 without"):
        next(rounds)


def test_what_to_do_with_no_numbers_is_one_of_two():
    with pytest.raises(ValueError, match="on_nonfinite: expected"):
        next(run(fit=None, on_nonfinite="mask"))
    with pytest.raises(ValueError, match="on_nonfinite: expected"):
        ask(KEY, None, labelled_set(), strategy=make_strategy("bald"), inputs=POOL, query_size=Q, on_nonfinite=None)


# -- abstentions ------------------------------------------------------------------------------------------------------


def shy(indices):
    """Abstains on three points of ten."""
    return np.where(indices * 7 % 10 < 3, ABSTAIN, LABELS[indices])


@pytest.mark.parametrize("cost", [0, 1])
@pytest.mark.parametrize("name", ["bald", "k_center"])
def test_an_oracle_may_abstain(name, cost):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the last query has")
        rounds = list(run(oracle=shy, rounds=20, abstain_cost=cost, strategy=make_strategy(name)))
    asked = flat(queries(rounds))
    assert len(set(asked)) == len(asked)  # never asked again
    abstained = [index for index in asked if shy(np.array(index)) == ABSTAIN]
    given = [index for index in asked if index not in abstained]
    assert abstained
    assert labelled_indices(rounds[-1].labelled) == [3, 1, 4, 15, *given]
    assert 4 + len(given) + cost * len(abstained) == CAPACITY  # all of the budget, and no more
    for before, after in itertools.pairwise(rounds):
        assert before.labels.tolist() == shy(before.query.indices).tolist()
        told = int((before.labels != ABSTAIN).sum())
        assert int(after.labelled.count) == int(before.labelled.count) + told


def test_a_round_in_which_nothing_was_answered_is_followed_by_another_query():
    rounds = list(run(oracle=lambda indices: np.full(len(indices), ABSTAIN), rounds=2, abstain_cost=0))
    assert [int(r.labelled.count) for r in rounds] == [4, 4, 4]
    assert not set(queries(rounds)[0]) & set(queries(rounds)[1])


def test_where_every_abstention_is_free_the_pool_is_exhausted():
    with pytest.warns(UserWarning, match="the last query has 3 points instead of 4"):
        rounds = list(run(inputs=jnp.asarray(POOL[:19]), oracle=lambda i: i * 0 + ABSTAIN, rounds=99, abstain_cost=0,
                          labelled=labelled_set((3, 1, 4, 15))))  # fmt: skip
    assert sorted(flat(queries(rounds))) == sorted(set(range(19)) - {3, 1, 4, 15})


def test_points_that_are_excluded_are_not_queried_and_to_go_on_with_them_is_to_go_on():
    closed = np.arange(N) % 2 == 0
    rounds = list(run(excluded=closed, rounds=3))
    assert all(index % 2 for index in flat(queries(rounds)))
    assert closed.sum() == N / 2  # the caller's array is as it was

    whole = list(run(oracle=shy, rounds=3, abstain_cost=0))
    excluded = np.zeros(N, bool)
    for before in whole[:2]:
        excluded[before.query.indices[before.labels == ABSTAIN]] = True
    assert excluded.any()
    again = list(run(oracle=shy, rounds=3, abstain_cost=0, start=2, labelled=whole[2].labelled, excluded=excluded))
    assert queries(again) == queries(whole)[2:]


@pytest.mark.parametrize("wrong", [np.zeros(N - 1, bool), np.zeros((N, 1), bool)])
def test_an_exclusion_of_the_wrong_shape_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"excluded: expected one boolean a pool point \[{N}\], got \({len(wrong)},"):
        next(run(fit=None, excluded=wrong))


def test_tell_leaves_abstentions_out():
    query = Query(np.array([7, 2, 9]), np.zeros(3))
    told = tell(labelled_set(), query, [1, ABSTAIN, 0], inputs=POOL, num_classes=C)
    assert labelled_indices(told) == [3, 1, 4, 15, 7, 9]
    assert told.labels[4:6].tolist() == [1, 0]
    with pytest.raises(LabelError, match="got -1 for pool point 2"):
        tell(labelled_set(), query, [1, -1, 0], inputs=POOL, num_classes=C)


@pytest.mark.parametrize(("excluded", "points"), [([], 6), ([0, 1], 6), ([0, 1, 9], 5), ([4, 5, 6, 7, 8, 9], 0)])
def test_a_point_that_is_labelled_and_excluded_too_is_taken_once(excluded, points):
    labelled = extend(LabelledSet.empty(50), np.arange(4), np.zeros(4, int), num_points=10, num_classes=2)
    assert query_limit(labelled, np.isin(np.arange(10), excluded), query_size=20) == points


def test_training_that_ends_in_nan_is_warned_of_with_its_round():
    def diverging(params, key, x):  # what a running statistic is to a network that divides by it
        return (x / jnp.sqrt(params["variance"])) @ params["weights"]

    model = model_from_functions(
        lambda key: {"weights": jax.random.normal(key, (D, C)), "variance": jnp.full(D, 1e-3)}, diverging
    )
    fit = fit_deep_ensemble(
        model,
        members=2,
        training=Training(steps=30, min_steps=5, batch_size=8, learning_rate=0.5, eval_every=5, patience=2),
    )
    with pytest.warns(UserWarning, match=r"round 0, 4 labels: training ended in NaN .* running statistics"):
        next(run(fit=fit, strategy=make_strategy("random"), validation=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(run(strategy=make_strategy("random")))
