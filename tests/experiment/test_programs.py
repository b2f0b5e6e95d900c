"""Programs of some seeds together: nothing but the fit is done side by side, and each seed gets what it gets alone."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import config
from bdal.config.parts import Parts
from bdal.experiment.prepare import prepare
from bdal.experiment.programs import programs_of
from bdal.pool import LabelledSet
from bdal.strategy import QueryStrategy, make_strategy, top

TABLE = Parts().table("strategies")
SEEDS, POOL, LABELLED, CAPACITY = 3, 150, 20, 30
FEW_STEPS = {"loss_prediction": {"steps": 20}, "vaal": {"steps": 20}}  # of training, in which rounding grows
IN_EVERY_RUN = ("random", "margin", "batchbald", "k_center")  # the others are slow: two compilations each


@pytest.fixture(scope="module")
def round_():
    """Both kinds of programs, the pool, and the query's arguments for seeds whose labels differ in place and number."""
    experiment = config.Experiment(
        name="small",
        seeds=SEEDS,
        data=config.Data(pool=POOL, test=50),
        model=config.Named("mlp", {"hidden": [16, 8]}),
        training=config.Training(steps=60, min_steps=5, batch_size=16, learning_rate=1e-2, eval_every=20, patience=2),
        query=config.Query(size=4, targets=20, chunk_size=64),
        comparisons=(config.Comparison("mc_dropout", 6, (config.Named("random"),)),),
    )
    prepared = prepare(experiment)
    loaded, (fit,), (comparison,) = prepared.data, prepared.fits, experiment.comparisons
    together, apart = (programs_of(experiment, comparison, fit, way) for way in (True, False))
    labelled = []
    for seed in range(SEEDS):
        count = LABELLED + seed
        indices = np.append(np.random.default_rng(seed).permutation(POOL)[:count], np.full(CAPACITY - count, -1))
        labels = np.where(indices >= 0, loaded.pool_labels[indices], 0)
        labelled.append(LabelledSet(indices.astype(np.int32), labels.astype(np.int32), np.int32(count)))
    held_out = [LabelledSet(np.arange(5, dtype=np.int32), loaded.pool_labels[:5], np.int32(5))] * SEEDS
    committee = together.fit(list(jax.random.split(jax.random.key(0), SEEDS)), labelled, held_out, loaded.pool)
    keys = list(jax.random.split(jax.random.key(1), SEEDS))
    return together, apart, loaded, (keys, committee, labelled, held_out, [np.zeros(POOL, bool)] * SEEDS)


def one_by_one(together, run, arguments):
    """Of each seed, as a group of one."""
    keys, committee, *lists = arguments
    return [
        run(keys[s : s + 1], together.of_seed(committee, s), *(part[s : s + 1] for part in lists))
        for s in range(len(keys))
    ]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in IN_EVERY_RUN else pytest.mark.slow) for name in TABLE]
)
def test_a_query_of_seeds_together_is_that_of_each_seed_apart(round_, name):
    together, apart, loaded, arguments = round_
    strategy = make_strategy(name, table=TABLE, **FEW_STEPS.get(name, {}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(members|tied|same score).*")  # of few members
        queries, quantiles = together.query(strategy, *arguments, loaded.pool)
        alone = one_by_one(together, lambda *own: apart.query(strategy, *own, loaded.pool), arguments)
    picks = [query.indices.tolist() for query in queries]
    assert picks == [query.indices.tolist() for (query,), _ in alone]
    assert len({tuple(indices) for indices in picks}) == SEEDS  # each has its own
    for seed, ((query,), (own,)) in enumerate(alone):
        assert not set(picks[seed]) & set(arguments[2][seed].indices.tolist())
        np.testing.assert_allclose(queries[seed].gains, query.gains, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(quantiles[seed], own, rtol=1e-4, atol=1e-6)


def test_evaluations_and_predictions_of_seeds_together_are_those_of_each_seed_apart(round_):
    together, apart, loaded, (_, committee, *_) = round_
    scores = together.evaluate(committee, *loaded.test, together.members)
    predictions = together.predict(committee, loaded.test[0])
    for seed in range(SEEDS):
        own = together.of_seed(committee, seed)
        np.testing.assert_array_equal(predictions[seed : seed + 1], apart.predict(own, loaded.test[0]))
        for name, values in apart.evaluate(own, *loaded.test, apart.members).items():
            np.testing.assert_allclose(scores[name][seed : seed + 1], values, rtol=1e-6, err_msg=name)
    assert len({float(value) for value in scores["nll"]}) == SEEDS


def test_a_seed_takes_its_own_branch_and_its_own_number_of_steps(round_):
    """By `vmap` it would take both branches of each `cond`, and as many steps of a loop as the seed with most."""
    together, _, loaded, (keys, committee, labelled, held_out, excluded) = round_
    ran = []

    def note(what, scores):
        def on_host(scores):
            ran.append(what)
            return scores

        return jax.pure_callback(on_host, jax.ShapeDtypeStruct(scores.shape, scores.dtype), scores,
                                 vmap_method="sequential")  # fmt: skip

    def select(key, scores, *, available, labelled, query_size):
        taken = (~available).sum()
        scores = jax.lax.cond(taken == LABELLED + 1, lambda: note("branch", scores), lambda: scores)
        scores = jax.lax.fori_loop(LABELLED - 1, taken, lambda _, scores: note("step", scores), scores)
        return top(key, scores, available=available, labelled=labelled, query_size=query_size)

    strategy = QueryStrategy(lambda committee, inputs: jnp.square(inputs).sum((1, 2, 3)), select)
    together.query(strategy, keys, committee, labelled, held_out, excluded, loaded.pool)
    assert ran.count("branch") == 1  # of the seed with one label more
    assert ran.count("step") == 1 + 2 + 3


def test_a_new_group_of_as_many_seeds_compiles_nothing(round_):
    from tests.compilations import count_compilations

    together, _, loaded, (keys, committee, labelled, held_out, excluded) = round_
    strategy = make_strategy("batchbald")
    together.query(strategy, keys, committee, labelled, held_out, excluded, loaded.pool)
    with count_compilations() as compilations:
        together.query(strategy, keys[::-1], committee, labelled[::-1], held_out, excluded, loaded.pool)
    assert not compilations
