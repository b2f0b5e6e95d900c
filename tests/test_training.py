"""Training against AdamW written out, and early stopping against its rule on validation curves chosen beforehand.

Axes: B rows, C classes, D inputs, V validation points.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from bdal import training as module
from bdal.errors import LabelError
from bdal.likelihood import categorical
from bdal.model import Model, model_from_functions, model_from_linen, model_from_nnx
from bdal.training import CompiledFit, Learned, Training, Watch, learn, train
from bdal.types import TrainingData, Variables
from tests.compilations import count_compilations

KEY = jax.random.key(0)


def same_bits(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def close(actual, expected, tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected)


# Two well separated clouds and a small network.


def clouds(seed, size):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, size)
    return (rng.normal(size=(size, 2)) * 0.3 + 2 * labels[:, None] - 1).astype(np.float32), labels.astype(np.int32)


def init(key):
    w, head = jax.random.split(key)
    return {"w": jax.random.normal(w, (2, 16)), "b": jnp.zeros(16), "head": 0.3 * jax.random.normal(head, (16, 2))}


def apply(params, key, x):
    h = jax.nn.relu(x @ params["w"] + params["b"])
    return h @ params["head"], h


def nll_of(params, inputs, labels):
    log_probs = jax.nn.log_softmax(jax.vmap(lambda x: apply(params, None, x)[0])(jnp.asarray(inputs)))
    return -np.take_along_axis(np.asarray(log_probs), np.asarray(labels)[:, None], 1).mean()


SCHEDULE = Training(
    steps=150, min_steps=5, batch_size=8, eval_every=5, patience=3, learning_rate=3e-3, weight_decay=1e-3
)


MODEL = model_from_functions(init, apply)


def fit_by(training, model=MODEL):
    """`learn` as a fit: `Learned` in the place of a committee."""
    return CompiledFit(lambda key, data: learn(key, model, categorical(), data, training), model, categorical())


compiled = fit_by(SCHEDULE)  # all tests share its programs


def fit(key=KEY, *, data=None, count=40, validation=None):
    inputs, labels = clouds(0, 40) if data is None else data
    return compiled(key, TrainingData(inputs, labels, count, validation))


def learned(init, apply, data, training, **options):
    """`learn` of a network as functions, from `KEY`."""
    return learn(KEY, model_from_functions(init, apply), categorical(), TrainingData(*data), training, **options)


def params_of(learned):
    return learned.variables.params


# -- what is minimised, and how ---------------------------------------------------------------------------------------


def test_separable_data_are_learned():
    trained = fit()
    inputs, labels = clouds(1, 200)
    assert nll_of(params_of(trained), inputs, labels) < 0.1 < nll_of(init(KEY), inputs, labels)
    predicted = jax.vmap(lambda x: apply(params_of(trained), None, x)[0])(inputs).argmax(-1)
    np.testing.assert_array_equal(predicted, labels)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
def test_a_single_row_is_trained_by_adamw(weight_decay):
    """With one real row every minibatch is that row, so AdamW (Loshchilov & Hutter, ICLR 2019) can be written out."""
    start, x, label, rate = np.array([[0.5, -0.2, 0.1], [0.3, 0.0, -0.4]]), np.array([1.0, 2.0]), 1, 0.05
    inputs, labels = np.full((3, 2), np.nan, np.float32), np.array([label, 7, -1])  # rows that are not real: anything
    inputs[0] = x
    training = Training(steps=6, batch_size=4, learning_rate=rate, weight_decay=weight_decay)
    trained = learned(
        lambda key: jnp.asarray(start, jnp.float32), lambda w, key, x: x @ w, (inputs, labels, 1), training
    )
    w, first, second = start.copy(), 0.0, 0.0
    for step in range(1, 7):
        probs = np.exp(x @ w) / np.exp(x @ w).sum()
        gradient = np.outer(x, probs - np.eye(3)[label])
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        w = w - rate * (direction + weight_decay * w)
    np.testing.assert_allclose(params_of(trained), w, atol=1e-5)  # 1 − 0.999 in float32
    assert trained.info["steps"] == trained.info["best_step"] == 6
    assert np.isnan(trained.info["validation_nll"])
    assert not trained.info["diverged"]


def test_all_real_rows_are_drawn_and_no_others():
    """Row i is the i-th unit vector, so only its own weights move."""
    training = Training(steps=30, batch_size=8)
    data = jnp.eye(10), jnp.zeros(10, int), 6
    trained = learned(lambda key: jnp.ones((10, 2)), lambda w, key, x: x @ w, data, training)
    moved = np.asarray(params_of(trained) != 1).any(1)
    np.testing.assert_array_equal(moved, np.arange(10) < 6)


def test_rows_beyond_count_never_matter():
    inputs, labels = clouds(0, 40)
    garbage, wrong = inputs.copy(), labels.copy()
    garbage[25:], wrong[25:] = np.nan, 10**6
    validation = clouds(2, 20)
    same_bits(fit(count=25, data=(garbage, wrong), validation=validation), fit(count=25, validation=validation))
    cut = fit(count=25, data=(inputs[:25], labels[:25]), validation=validation)
    close(fit(count=25, validation=validation), cut, 1e-6)
    assert np.abs(params_of(fit(count=26))["w"] - params_of(fit(count=25))["w"]).max() > 1e-5


@pytest.mark.parametrize("validation", [None, clouds(2, 20)], ids=["all steps", "validated"])
def test_without_labels_the_fresh_network_comes_back(validation):
    """Bit for bit, weight decay or not, and whatever stands in the rows that are not real."""
    garbage = (np.full((40, 2), np.nan, np.float32), np.full(40, -5, np.int32))
    fresh = jax.tree.map(np.asarray, params_of(fit(count=0, validation=validation)))
    same_bits(params_of(fit(count=0, validation=validation, data=garbage)), fresh)
    same_bits(fresh["b"], np.zeros(16))
    another = params_of(fit(jax.random.key(1), count=0, validation=validation))
    assert np.abs(another["w"] - fresh["w"]).max() > 0.1


def test_without_labels_no_bit_of_the_initialisation_changes():
    constant = {"w": jnp.full((2, 16), -0.1), "b": jnp.full(16, 0.3), "head": jnp.full((16, 2), 1e-8)}
    garbage = (np.full((40, 2), np.nan, np.float32), np.full(40, -5, np.int32))
    same_bits(params_of(learned(lambda key: constant, apply, (*garbage, 0, clouds(2, 20)), SCHEDULE)), constant)


@pytest.mark.parametrize("flavour", ["nnx", "linen", "own"])
def test_weight_decay_and_gradients_leave_running_statistics_alone(flavour):
    training = Training(steps=10, batch_size=4, learning_rate=0.1, weight_decay=1.0)
    inputs, labels = clouds(0, 8)
    if flavour == "nnx":

        class Net(nnx.Module):
            def __init__(self, rngs):
                self.norm, self.head = nnx.BatchNorm(2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)
                self.seen = nnx.Variable(jnp.int32(3))

            def __call__(self, x):
                return self.head(self.norm(x))

        model = model_from_nnx(Net)
    elif flavour == "linen":

        class LinenNet(linen.Module):
            @linen.compact
            def __call__(self, x, train: bool):
                return linen.Dense(2)(linen.BatchNorm(use_running_average=not train)(x))

        model = model_from_linen(LinenNet(), inputs[0])
    else:

        def make(key):
            return {"params": jax.random.normal(key, (2, 2)), "stats": {"mean": jnp.ones(2), "seen": jnp.int32(3)}}

        model = model_from_functions(make, lambda params, key, x: (x - params["stats"]["mean"]) @ params["params"])

    fresh = jax.jit(model.init)(jax.random.split(KEY, 3)[0])
    data = TrainingData(inputs, labels, 8)
    variables = jax.jit(lambda: learn(KEY, model, categorical(), data, training))().variables
    assert jax.tree.structure(variables) == jax.tree.structure(fresh)
    if flavour == "own":  # a dict of collections, as flax has them
        same_bits(variables.params["stats"], fresh.params["stats"])
        variables, fresh = ({"params": each.params["params"]} for each in (variables, fresh))
    else:
        assert jax.tree.leaves(fresh.state)
        same_bits(variables.state, fresh.state)
        variables, fresh = ({"params": each.params} for each in (variables, fresh))
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max() > 1e-4, variables, fresh)
    assert all(jax.tree.leaves(moved))


@pytest.mark.parametrize("steps", [1, 2])
def test_every_row_of_every_minibatch_has_noise_of_its_own(steps):
    """The noise picks one of 64 numbers, and only those move: 64 draws pick 64 (1 − 1/e) of them on average."""

    def noisy(t, key, x):
        return jnp.stack([t[jax.random.randint(key, (), 0, 64)], 0.0])

    training = Training(steps=steps, batch_size=64)
    data = jnp.zeros((1, 1)), jnp.zeros(1, int), 1
    moved = params_of(jax.jit(lambda: learned(lambda key: jnp.zeros(64), noisy, data, training))())
    expected = 64 * (1 - np.exp(-steps))
    assert abs(np.sum(moved != 0) - expected) < 8


def test_validation_averages_the_prediction_over_masks():
    """−log mean_m p_m = log 2 for votes that are half sure of either class; the mean of −log p_m would be 5."""

    def coin(params, key, x):
        side = 0.0 if key is None else 20.0 * jax.random.bernoulli(key) - 10.0
        return jnp.stack([side, 0.0]) + 0.0 * params

    data = jnp.zeros((1, 1)), jnp.zeros(1, int), 0, (jnp.zeros((3, 1)), jnp.zeros(3, int))
    run = partial(learned, lambda key: jnp.float32(0), coin, data, Training(steps=1))
    np.testing.assert_allclose(run(masks=512).info["validation_nll"], np.log(2), atol=0.1)
    np.testing.assert_allclose(run().info["validation_nll"], np.log(2), rtol=1e-6)  # no noise: ½


# -- early stopping ---------------------------------------------------------------------------------------------------
#
# A network of one number t, which the first class alone pushes up at AdamW's constant pace of `RATE` a step. Validation
# inputs are tables of logits by step: the validation curve can be anything.

RATE, STEPS = 1e-4, 24


def clock(t, key, x):
    if key is not None:  # training
        return jnp.stack([t, 0.0])
    return jnp.stack([x[jnp.round(t / RATE).astype(int)], 0.0])


def by_the_rule(table, training):
    """The step of the best parameters and its validation NLL."""
    best, best_nll, waited, step = 0, np.inf, 0, 0
    while step < training.steps and waited < training.patience:
        step = min(step + training.eval_every, training.steps)
        nll = np.log1p(np.exp(-table[step].astype(np.float64)))
        if step < min(training.min_steps, training.steps):
            waited = 0
        elif nll < best_nll:
            best, best_nll, waited = step, nll, 0
        else:
            waited += 1
    return (best if best_nll < np.inf else step), best_nll


CLOCK = model_from_functions(lambda key: jnp.float32(0), clock)
schedule = partial(Training, steps=STEPS, batch_size=2, learning_rate=RATE)
SCHEDULES = {
    "every step": schedule(min_steps=0, eval_every=1, patience=3),
    "at once": schedule(min_steps=0, eval_every=2, patience=1),
    "not before": schedule(min_steps=9, eval_every=2, patience=2),
    "patient": schedule(min_steps=0, eval_every=5, patience=100),
    "only at the end": schedule(min_steps=1000, eval_every=7, patience=1),
    "once": schedule(min_steps=0, eval_every=1000, patience=1),
}
TABLES = np.random.default_rng(0).normal(size=(40, STEPS + 1)).astype(np.float32)
TABLES[0], TABLES[1] = np.arange(STEPS + 1) / 4, -np.arange(STEPS + 1) / 4  # ever better, ever worse
TABLES[2, 4:] = np.nan


def run_clock(table, training):
    data = TrainingData(jnp.zeros((1, STEPS + 1)), jnp.zeros(1, int), 1, (table[None], jnp.zeros(1, int)))
    return learn(KEY, CLOCK, categorical(), data, training)


@pytest.mark.parametrize("training", SCHEDULES.values(), ids=SCHEDULES)
def test_stops_by_the_rule_and_restores_the_best(training):
    trained = jax.jit(jax.vmap(lambda table: run_clock(table, training)))(TABLES)
    expected = [by_the_rule(table, training) for table in TABLES]
    np.testing.assert_array_equal(trained.info["best_step"], [step for step, _ in expected])
    np.testing.assert_allclose(trained.info["validation_nll"], [nll for _, nll in expected], rtol=1e-4)
    np.testing.assert_allclose(params_of(trained), trained.info["best_step"] * RATE, rtol=1e-2)


@pytest.mark.parametrize("name", ["every step", "not before", "once"])
def test_stepped_from_python_the_rule_is_the_same(name, monkeypatch):
    monkeypatch.setattr(module, "steps_from_python", lambda *_: True)
    for table in TABLES[:6]:
        trained = run_clock(jnp.asarray(table), SCHEDULES[name])
        step, nll = by_the_rule(table, SCHEDULES[name])
        assert trained.info["best_step"] == step
        np.testing.assert_allclose(trained.info["validation_nll"], nll, rtol=1e-4)
        np.testing.assert_allclose(params_of(trained), step * RATE, rtol=1e-2)


def test_it_really_stops(monkeypatch):
    """Stepped from Python one can count: the curve gets ever worse, so after min_steps + patience looks it is over."""
    schedule = SCHEDULES["not before"]  # looks at 2, 4, 6, 8, 10 (the best), 12, 14
    taken = []

    def counted(name, program):
        def run(*args):
            taken.append(name)
            return program(*args)

        return run

    real = module._programs
    monkeypatch.setattr(module, "_programs", lambda how: map(counted, ("step", "look"), real(how)))
    monkeypatch.setattr(module, "steps_from_python", lambda *_: True)
    info = run_clock(jnp.asarray(TABLES[1]), schedule).info
    assert (info["steps"], info["best_step"]) == (14, 10)
    assert taken.count("step") == 14
    assert taken.count("look") == 7


def test_the_parameters_that_come_back_are_those_of_the_best_step():
    inputs, labels = clouds(2, 20)
    against = (inputs, 1 - labels)  # the better the network, the worse this
    trained = fit(validation=against)
    assert trained.info["best_step"] == SCHEDULE.min_steps == 5
    np.testing.assert_allclose(nll_of(params_of(trained), *against), trained.info["validation_nll"], rtol=1e-5)
    first_steps = fit_by(replace(SCHEDULE, steps=5))(KEY, TrainingData(*clouds(0, 40), 40))
    close(params_of(trained), params_of(first_steps), 1e-6)
    better = fit(validation=(inputs, labels))
    np.testing.assert_allclose(nll_of(params_of(better), inputs, labels), better.info["validation_nll"], rtol=1e-4)
    assert better.info["best_step"] == SCHEDULE.steps
    close(params_of(better), params_of(fit()), 1e-6)


@pytest.mark.parametrize("empty", [False, True])
def test_without_validation_points_all_steps_are_taken(empty):
    nothing = (np.zeros((0, 2), np.float32), np.zeros(0, np.int32)) if empty else None
    trained = fit(validation=nothing)
    assert isinstance(trained, Learned)
    assert trained.info["best_step"] == SCHEDULE.steps
    assert np.isnan(trained.info["validation_nll"])
    same_bits(trained.variables, fit().variables)


@pytest.mark.parametrize("on_host", [False, True])
def test_a_diverged_training_does_not_come_back_as_its_initial_parameters(on_host, monkeypatch):
    if on_host:
        monkeypatch.setattr("bdal.training.steps_from_python", lambda *_: True)
    inputs, labels = clouds(0, 40)
    data = inputs * np.nan, labels, 40, (inputs, labels)
    trained = learned(init, apply, data, replace(SCHEDULE, steps=20))
    assert trained.info["validation_nll"] == np.inf
    assert trained.info["diverged"]
    assert trained.info["steps"] == trained.info["best_step"] == SCHEDULE.patience * SCHEDULE.eval_every
    assert np.isnan(nll_of(params_of(trained), inputs, labels))


# -- penalties, and a state of one's own ------------------------------------------------------------------------------


SGD = optax.sgd(0.1)


@pytest.mark.parametrize("from_python", [False, True])
def test_a_penalty_is_shared_among_the_rows(from_python, monkeypatch):
    """Of one real row, by hand: `w ← w − η (∇ −log p + ∇ penalty / count)`, with a prior `½ λ ‖w‖²` in nats."""
    if from_python:
        monkeypatch.setattr(module, "steps_from_python", lambda *_: True)
    start, x, label, strength = np.array([[0.5, -0.2, 0.1], [0.3, 0.0, -0.4]]), np.array([1.0, 2.0]), 1, 3.0
    model = model_from_functions(lambda key: jnp.asarray(start, jnp.float32), lambda w, key, x: x @ w)
    counts = []

    def prior(params, count):
        counts.append(count)
        return strength * jnp.square(params).sum() / 2

    for count in (1, 4):  # the same row, once and four times: the penalty counts for all of them together
        data = TrainingData(np.tile(np.float32(x), (4, 1)), np.full(4, label), count)
        trained = train(KEY, model, categorical(), data, SGD, steps=5, batch_size=4, penalty=prior)
        w = start.copy()
        for _ in range(5):
            probs = np.exp(x @ w) / np.exp(x @ w).sum()
            w = w - 0.1 * (np.outer(x, probs - np.eye(3)[label]) + strength * w / count)
        np.testing.assert_allclose(trained.variables.params, w, rtol=1e-4, atol=1e-6)
        assert trained.steps == 5
    nothing = TrainingData(np.zeros((4, 2), np.float32), np.zeros(4, int), 0)
    left = train(KEY, model, categorical(), nothing, SGD, steps=5, batch_size=4, penalty=prior).variables.params
    same_bits(left, np.float32(start))
    assert counts


def running_mean(decay):
    """A linear network of what is left of an input after the running mean of all inputs, as BatchNorm has one."""

    def init(key):
        return Variables(jnp.zeros((2, 2)), {"mean": jnp.zeros(2), "batches": jnp.int32(0)})

    def apply(variables, noise, x):
        return (x - variables.state["mean"]) @ variables.params

    def train(variables, key, inputs):
        mean = inputs.mean(0)
        old = variables.state
        state = {"mean": decay * old["mean"] + (1 - decay) * mean, "batches": old["batches"] + 1}
        return (inputs - mean[None]) @ variables.params, state

    return model_from_functions(init, apply, train)


@pytest.mark.parametrize("from_python", [False, True])
def test_a_state_of_ones_own_is_updated_by_every_minibatch(from_python, monkeypatch):
    if from_python:
        monkeypatch.setattr(module, "steps_from_python", lambda *_: True)
    inputs = np.tile(np.float32([2.0, -1.0]), (6, 1))  # of equal rows every minibatch has the same mean
    data = TrainingData(inputs, np.zeros(6, int), 4)
    trained = train(KEY, running_mean(0.9), categorical(), data, SGD, steps=7, batch_size=3)
    assert trained.variables.state["batches"] == 7
    np.testing.assert_allclose(trained.variables.state["mean"], (1 - 0.9**7) * inputs[0], rtol=1e-5)
    same_bits(trained.variables.params, np.zeros((2, 2)))  # what is left of the rows is nothing


def test_a_state_is_that_of_the_best_step_and_is_scored_with():
    inputs, labels = clouds(0, 40)
    inputs += 5
    validation = clouds(1, 20)
    validation = (validation[0] + 5, validation[1])
    model = running_mean(0.5)
    schedule = replace(SCHEDULE, steps=60, learning_rate=3e-2)
    found = learn(KEY, model, categorical(), TrainingData(inputs, labels, 40, validation), schedule)
    np.testing.assert_allclose(found.variables.state["mean"], inputs.mean(0), atol=1.0)
    assert found.variables.state["batches"] == found.info["best_step"]
    logits = jax.vmap(lambda x: model.apply(found.variables, None, x))(validation[0])
    assert (np.asarray(logits.argmax(-1)) == validation[1]).mean() > 0.95


@pytest.mark.parametrize("kind", ["zeros", "garbage"])
def test_without_labels_the_state_stays_as_it_was(kind):
    inputs = np.full((4, 2), 0.0 if kind == "zeros" else np.nan, np.float32)
    model = running_mean(0.9)
    trained = train(KEY, model, categorical(), TrainingData(inputs, np.zeros(4, int), 0), SGD, steps=5, batch_size=3)
    same_bits(trained.variables, model.init(KEY))


def test_training_goes_on_from_where_it_is_started():
    data = TrainingData(*clouds(0, 40), 40)
    options = {"steps": 5, "batch_size": 8}
    start = Variables(jax.tree.map(lambda leaf: leaf + 1, init(KEY)))
    frozen = train(KEY, MODEL, categorical(), data, optax.sgd(0.0), start=start, **options)
    same_bits(frozen.variables, start)
    moved = train(KEY, MODEL, categorical(), data, SGD, start=start, **options).variables.params
    fresh = train(KEY, MODEL, categorical(), data, SGD, **options).variables.params
    assert np.abs(moved["w"] - start.params["w"]).max() < np.abs(moved["w"] - fresh["w"]).max()


def test_a_watch_may_end_the_training():
    watch = Watch(
        lambda key, variables: jnp.int32(0), lambda seen, step, variables, data: seen + 1, lambda seen: seen >= 3
    )
    data = TrainingData(*clouds(0, 40), 40)
    options = {"steps": 50, "batch_size": 8, "every": 4}
    stopped = train(KEY, MODEL, categorical(), data, SGD, watch=watch, **options)
    assert (stopped.steps, stopped.watched) == (12, 3)
    alone = train(KEY, MODEL, categorical(), data, SGD, steps=12, batch_size=8)
    close(stopped.variables, alone.variables, 1e-6)


# -- transformations, programs ----------------------------------------------------------------------------------------


def test_vmap_over_keys_and_labelled_sets_is_a_loop():
    keys = jax.random.split(jax.random.key(7), 4)
    inputs, labels = clouds(2, 20)
    labels[:5] = 1 - labels[:5]  # some are wrong: at first the network gets better, then too sure of itself
    counts = np.array([40, 30, 20, 3], np.int32)
    data = [np.stack(parts) for parts in zip(*(clouds(seed, 40) for seed in range(4)), strict=True)]
    axes = TrainingData(0, 0, 0, None, None, None)
    many = jax.jit(jax.vmap(compiled, in_axes=(0, axes)))(keys, TrainingData(*data, counts, (inputs, labels)))
    alone = [
        fit(key, data=clouds(seed, 40), count=counts[seed], validation=(inputs, labels))
        for seed, key in enumerate(keys)
    ]
    assert len({int(one.info["best_step"]) for one in alone}) > 1  # every one stops on its own
    for seed, one in enumerate(alone):
        close(jax.tree.map(lambda leaf: leaf[seed], many), one, 1e-5)  # noqa: B023


def test_compiles_once_for_all_counts_keys_and_labels():
    keys = jax.random.split(jax.random.key(3), 4)
    run = fit_by(replace(SCHEDULE, steps=12))
    calls = [(keys[i], TrainingData(*clouds(i, 40), np.int32(10 * i), clouds(9 + i, 20))) for i in range(4)]
    results = []
    for i, call in enumerate(calls):
        with count_compilations() as compilations:
            results.append(run(*call))
        assert bool(compilations) == (i == 0)
    same_bits(results[1], run(*calls[1]))
    assert np.abs(params_of(results[1])["w"] - params_of(results[2])["w"]).max() > 1e-3


def test_the_same_key_gives_the_same_bits_and_another_key_does_not():
    same_bits(fit(), fit())
    assert np.abs(params_of(fit(jax.random.key(1)))["w"] - params_of(fit())["w"]).max() > 1e-2


def test_keys_of_the_old_kind():
    same_bits(fit(jax.random.key_data(KEY)), fit())


def test_inputs_may_be_a_pytree_of_numpy():

    def of_dict(params, key, x):
        return apply(params, key, jnp.stack([x["left"], x["right"]]))

    def split(inputs):
        return {"left": inputs[:, 0], "right": inputs[:, 1]}

    (inputs, labels), (others, other_labels) = clouds(0, 40), clouds(2, 20)
    data = split(inputs), labels, 40, (split(others), other_labels)
    close(learned(init, of_dict, data, SCHEDULE), fit(validation=(others, other_labels)), 1e-5)


# -- XLA's convolutions on a CPU --------------------------------------------------------------------------------------


def image_apply(params, key, x):
    h = jax.lax.conv(x[None], params["kernel"], (1, 1), "VALID")  # [1, O, H', W']
    if key is not None:
        h = 2.0 * jax.random.bernoulli(key, 0.5, h.shape) * h
    return jax.nn.relu(h).mean((0, 2, 3)) @ params["head"]


def image_init(key):
    kernel, head = jax.random.split(key)
    return {"kernel": jax.random.normal(kernel, (3, 1, 2, 2)), "head": jax.random.normal(head, (3, 2))}


def images(seed, size):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(size, 1, 4, 4)).astype(np.float32), rng.integers(0, 2, size).astype(np.int32)


def test_convolutions_are_stepped_from_python_and_the_result_is_the_same(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    training = Training(steps=10, min_steps=0, batch_size=4, eval_every=2, patience=2, learning_rate=1e-2)

    model = model_from_functions(image_init, image_apply)
    called = []
    real = module._programs
    monkeypatch.setattr(module, "_programs", lambda how: (called.append("python"), real(how))[1])
    data = TrainingData(*images(0, 6), 5, images(1, 6))
    stepped = fit_by(training, model)(KEY, data)
    with count_compilations() as compilations:
        again = fit_by(training, model)(KEY, TrainingData(*images(0, 6), 5, images(1, 6)))
    same_bits(again, stepped)
    assert not compilations
    assert len(called) == 2
    monkeypatch.setattr(module, "steps_from_python", lambda *_: False)
    looped = fit_by(training, model)(KEY, data)
    assert len(called) == 2
    close(stepped, looped, 1e-4)
    assert 0 < stepped.info["best_step"] <= stepped.info["steps"] <= 10


def test_where_the_loop_is_left_to_python(monkeypatch):
    image_model = model_from_functions(image_init, image_apply)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert module.leaves_loop_to_python(image_model, images(0, 6)[0])
    assert not module.leaves_loop_to_python(MODEL, clouds(0, 6)[0])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not module.leaves_loop_to_python(image_model, images(0, 6)[0])


# -- misuse -----------------------------------------------------------------------------------------------------------


def test_labels_that_are_no_class_of_the_network_are_refused():
    inputs, labels = clouds(0, 40)
    for label in (2, -1):
        wrong = np.where(np.arange(40) == 7, label, labels)
        data = TrainingData(inputs, wrong, 8)
        steps = {"steps": 1, "batch_size": 1}
        for run in (
            lambda: compiled(KEY, data),  # noqa: B023
            lambda: learn(KEY, MODEL, categorical(), data, SCHEDULE),  # noqa: B023
            lambda: train(KEY, MODEL, categorical(), data, SCHEDULE.optimizer(), **steps),  # noqa: B023
        ):
            with pytest.raises(LabelError, match=rf"^labels: expected a class in \[0, 2\).*got {label} in row 7$"):
                run()
        with pytest.raises(LabelError, match=rf"^validation labels: .*got {label} in row 7$"):
            fit(validation=(inputs, wrong))
    fit(data=(inputs, wrong), count=7)


def test_statistics_that_stay_as_they_are_made_are_warned_of():
    def with_statistics(key):
        return {"params": init(key), "batch_stats": jnp.zeros(2)}

    flax = model_from_nnx(lambda rngs: nnx.BatchNorm(2, rngs=rngs))
    for model in (flax, model_from_functions(with_statistics, apply)):
        with pytest.warns(UserWarning, match=r"running statistics \(BatchNorm\), which training does not update"):
            fit_by(SCHEDULE, model)
    fit_by(SCHEDULE, Model(flax.init, flax.apply, lambda variables, key, inputs: (inputs, variables.state)))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("steps", 0, "steps: expected at least 1, got 0"),
        ("batch_size", 0, "batch_size: expected at least 1, got 0"),
        ("eval_every", -1, "eval_every: expected at least 1, got -1"),
        ("patience", 0, "patience: expected at least 1, got 0"),
        ("min_steps", -1, "min_steps: expected at least 0, got -1"),
        ("weight_decay", -0.1, "weight_decay: expected at least 0, got -0.1"),
        ("weight_decay", float("nan"), "weight_decay: expected at least 0, got nan"),
        ("steps", 2.5, "steps: expected a whole number, got 2.5"),
        ("patience", 8.0, "patience: expected a whole number, got 8.0"),
        ("learning_rate", 0.0, "learning_rate: expected a number above 0, got 0.0"),
        ("learning_rate", float("nan"), "learning_rate: expected a number above 0, got nan"),
    ],
)
def test_schedules_that_cannot_be(field, value, expected):
    with pytest.raises(ValueError, match=f"^{expected}$"):
        Training(**{field: value})
