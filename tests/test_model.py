"""Anyone's network as a `Model`: each learns a toy task, draws noise exactly with a key, and is traced once.

Axes: B points, D inputs, H features, C classes.
"""

from typing import NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from bdal.committee import split_weights
from bdal.likelihood import categorical
from bdal.model import (
    Model,
    model_from_equinox,
    model_from_functions,
    model_from_haiku,
    model_from_linen,
    model_from_nnx,
    trained_by,
)
from bdal.posteriors import fit_deep_ensemble, fit_mc_dropout
from bdal.training import Training, learn
from bdal.types import TrainingData, Variables
from tests.compilations import count_compilations

D, H, C = 2, 16, 3
KEY = jax.random.key(0)
ONE = jnp.ones(D)
TRAINING = Training(steps=80, batch_size=16, learning_rate=1e-2)


def clouds(seed, size):
    """Three separated clouds on a circle."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, size)
    centres = 2 * np.stack([np.cos(labels * 2.1), np.sin(labels * 2.1)], 1)
    return (centres + 0.3 * rng.normal(size=(size, D))).astype(np.float32), labels.astype(np.int32)


DATA = TrainingData(*clouds(0, 40), 40)


# -- the same network in five dialects --------------------------------------------------------------------------------


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.head = nnx.Linear(D, H, rngs=rngs), nnx.Linear(H, C, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        h = self.dropout(jax.nn.relu(self.hidden(x)))
        return self.head(h), h


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic: bool):
        h = linen.Dropout(0.5, deterministic=deterministic)(jax.nn.relu(linen.Dense(H)(x)))
        return linen.Dense(C)(h), h


class EquinoxNet(eqx.Module):
    hidden: eqx.nn.Linear
    head: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.hidden, self.head = eqx.nn.Linear(D, H, key=first), eqx.nn.Linear(H, C, key=second)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, key):
        h = self.dropout(jax.nn.relu(self.hidden(x)), key=key)
        return self.head(h), h


def haiku_net(x, is_training):
    h = jax.nn.relu(hk.Linear(H)(x))
    h = hk.dropout(hk.next_rng_key(), 0.5, h) if is_training else h
    return hk.Linear(C)(h), h


def init(key):
    first, second = jax.random.split(key)
    return {"hidden": jax.random.normal(first, (D, H)), "head": 0.3 * jax.random.normal(second, (H, C))}


def apply(params, key, x):
    h = jax.nn.relu(x @ params["hidden"])
    if key is not None:
        h = 2.0 * jax.random.bernoulli(key, 0.5, h.shape) * h
    return h @ params["head"], h


MODELS = {
    "nnx": model_from_nnx(NnxNet),
    "linen": model_from_linen(LinenNet(), ONE),
    "equinox": model_from_equinox(EquinoxNet),
    "haiku": model_from_haiku(hk.transform(haiku_net), ONE, switch="is_training"),
    "functions": model_from_functions(init, apply),
}
models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def accuracy(committee):
    inputs, labels = clouds(1, 60)
    mean = jnp.exp(committee.log_probs(inputs)).mean(1)
    return np.mean(np.asarray(mean.argmax(-1)) == labels)


@models
def test_it_learns_and_nothing_is_traced_again(model):
    """Masks vote, and so do networks; the committee of a second fit, and all it says, comes from the same programs."""
    fits = fit_mc_dropout(model, None, TRAINING, members=8), fit_deep_ensemble(model, None, TRAINING, members=2)
    pool = clouds(2, 7)[0]
    for fit, members in zip(fits, (8, 2), strict=True):
        keys = jax.random.split(KEY)
        for key in keys:
            with count_compilations() as compilations:
                committee = jax.block_until_ready(fit(key, DATA))
                jax.block_until_ready((committee.log_probs(pool), committee.features(pool), committee.embedding(pool)))
        assert compilations == []
        assert committee.features(pool).shape == (7, members, H)
        assert accuracy(committee) > 0.95
        spread = np.abs(np.diff(np.asarray(committee.log_probs(pool)), axis=1)).max((0, 2))
        assert spread.min() > 1e-3  # members differ


@models
def test_dropout_is_on_exactly_when_there_is_a_key(model):
    variables = model.init(KEY)
    assert isinstance(variables, Variables)
    apply = jax.jit(model.apply)
    logits, h = apply(variables, None, ONE)
    assert (logits.shape, h.shape) == ((C,), (H,))
    np.testing.assert_array_equal(apply(variables, None, ONE)[1], h)
    masks = set()
    for key in jax.random.split(KEY, 4):
        noisy = np.asarray(apply(variables, key, ONE)[1])
        np.testing.assert_array_equal(apply(variables, key, ONE)[1], noisy)
        alive = np.asarray(h) > 0
        np.testing.assert_allclose(noisy[noisy > 0], 2 * np.asarray(h)[noisy > 0], rtol=1e-5)
        assert 0 < (noisy[alive] > 0).mean() < 1
        masks.add(tuple(noisy > 0))
    assert len(masks) == 4


@models
def test_init_is_a_function_of_its_key(model):
    first, again, other = (jax.tree.leaves(model.init(key).params) for key in (KEY, KEY, jax.random.key(1)))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other, strict=True))
    stacked = jax.jit(jax.vmap(model.init))(jax.random.split(KEY, 3))
    assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(stacked))


@models
def test_a_minibatch_is_its_rows_with_noise_of_their_own(model):
    variables, inputs = model.init(KEY), jnp.tile(ONE, (6, 1))
    (logits, h), state = jax.jit(trained_by(model))(variables, KEY, inputs)
    assert (logits.shape, h.shape) == ((6, C), (6, H))
    assert len(np.unique(np.asarray(h), axis=0)) > 3
    assert jax.tree.structure(state) == jax.tree.structure(variables.state)


# -- what one library has and others have not -------------------------------------------------------------------------


class Normalised(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(D, rngs=rngs), nnx.Linear(D, C, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x))


class LinenNormalised(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = False):
        return linen.Dense(C)(linen.BatchNorm(use_running_average=not train)(x))


def haiku_state(x):
    calls = hk.get_state("calls", (), init=jnp.ones)
    hk.set_state("calls", calls + 1)
    return hk.Linear(C)(x) * calls


@pytest.mark.parametrize(
    "make",
    [
        lambda: model_from_nnx(Normalised),
        lambda: model_from_linen(LinenNormalised(), ONE),
        lambda: model_from_haiku(hk.transform_with_state(haiku_state), ONE),
    ],
    ids=["nnx", "linen", "haiku"],
)
def test_what_no_gradient_reaches_is_state_and_stays(make):
    model = make()
    fresh = model.init(KEY)
    assert jax.tree.leaves(fresh.state)
    weights, _ = split_weights(fresh)
    assert len(weights) == len(jax.tree.leaves(fresh.params))
    with pytest.warns(UserWarning, match="running statistics"):
        fit = fit_deep_ensemble(model, None, Training(steps=3, batch_size=4), members=1)
    trained = fit(KEY, DATA).own
    assert jax.tree.structure(trained) == jax.tree.structure(fresh)
    for after, before in zip(jax.tree.leaves(trained.state), jax.tree.leaves(fresh.state), strict=True):
        np.testing.assert_array_equal(after[0], before)


def test_linen_arguments_that_are_given_stand_in_init_too():
    class Wide(linen.Module):
        @linen.compact
        def __call__(self, x, width: int, training: bool = False):
            h = linen.Dropout(0.5, deterministic=not training)(linen.Dense(width)(x))
            return linen.Dense(C)(h), h

    model = model_from_linen(Wide(), jnp.ones(D), width=5)
    assert model.apply(model.init(KEY), None, ONE)[1].shape == (5,)
    assert (np.asarray(model.apply(model.init(KEY), KEY, jnp.ones(D))[1]) == 0).any()


def test_an_equinox_module_may_hold_functions_and_whole_numbers():
    class Net(eqx.Module):
        mlp: eqx.nn.MLP
        table: jax.Array

        def __init__(self, key):
            self.mlp = eqx.nn.MLP(D, C, 8, 1, activation=jnp.tanh, key=key)
            self.table = jnp.arange(C)

        def __call__(self, x):
            return self.mlp(x) + self.table

    model = model_from_equinox(Net)
    trained = learn(KEY, model, categorical(), DATA, Training(steps=3, batch_size=4)).variables
    fresh = model.init(KEY)
    np.testing.assert_array_equal(trained.params.table, fresh.params.table)
    moved = jax.tree.map(lambda new, old: np.abs(new - old).max() > 1e-4, trained.params.mlp, fresh.params.mlp)
    assert all(jax.tree.leaves(moved))
    assert model.apply(trained, KEY, ONE).shape == (C,)


def test_inputs_may_be_a_pytree():
    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(C)(jnp.concatenate([x["left"], x["right"]], -1))

    def joined(x):
        return hk.Linear(C)(jnp.concatenate([x["left"], x["right"]], -1))

    one = {"left": jnp.ones(1), "right": jnp.ones(1)}
    inputs = {"left": DATA.inputs[:, :1], "right": DATA.inputs[:, 1:]}
    for model in (model_from_linen(Net(), one), model_from_haiku(hk.transform(joined), one)):
        fit = fit_deep_ensemble(model, None, TRAINING, members=2)
        committee = fit(KEY, DATA._replace(inputs=inputs))
        mean = jnp.exp(committee.log_probs(inputs)).mean(1)
        assert np.mean(np.asarray(mean.argmax(-1)) == DATA.labels) > 0.95


def test_functions_that_know_variables_get_variables():
    class Norm(NamedTuple):
        scale: jax.Array

    def init(key):
        return Variables({"w": jax.random.normal(key, (D, C))}, Norm(jnp.float32(2)))

    model = model_from_functions(init, lambda variables, noise, x: x * variables.state.scale @ variables.params["w"])
    assert model.init is init
    expected = 2 * ONE @ model.init(KEY).params["w"]
    np.testing.assert_allclose(model.apply(model.init(KEY), None, ONE), expected, rtol=1e-6)


def test_a_model_is_made_of_three_functions_by_hand():
    model = Model(lambda key: Variables(init(key)), lambda variables, noise, x: apply(variables.params, noise, x))
    expected = learn(KEY, MODELS["functions"], categorical(), DATA, TRAINING)
    found = learn(KEY, model, categorical(), DATA, TRAINING)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# -- misuse -----------------------------------------------------------------------------------------------------------


def all_text(error):
    return " ".join([str(error.value), *getattr(error.value, "__notes__", ())])


def test_a_network_of_one_input_taken_for_one_of_a_batch_is_told_so():
    class Flat(nnx.Module):
        def __init__(self, rngs):
            self.dense = nnx.Linear(4, C, rngs=rngs)

        def __call__(self, x):
            return self.dense(x.reshape(-1))

    class LinenFlat(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(C)(x.reshape(-1))

    square = jnp.ones((2, 2))
    flat = hk.transform(lambda x: hk.Linear(C)(x.reshape(-1)))
    wrong = {
        "nnx": model_from_nnx(Flat),
        "linen": model_from_linen(LinenFlat(), square),
        "haiku": model_from_haiku(flat, square),
        "equinox": model_from_equinox(lambda key: eqx.nn.MLP(4, C, 8, 1, key=key), batched=True),
    }
    for name, model in wrong.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            model.apply(model.init(KEY), None, jnp.ones(4) if name == "equinox" else square)
        assert "batched=False" in all_text(caught)
    right = [
        model_from_nnx(Flat, batched=False),
        model_from_linen(LinenFlat(), square, batched=False),
        model_from_haiku(flat, square, batched=False),
    ]
    for model in right:
        assert model.apply(model.init(KEY), None, square).shape == (C,)


def test_a_network_of_a_batch_taken_for_one_of_one_input_is_told_so():
    net = model_from_nnx(lambda rngs: nnx.Linear(D, C, rngs=rngs), batched=False)
    fit = fit_deep_ensemble(Model(net.init, lambda v, noise, x: net.apply(v, noise, x[None])), members=2)
    with pytest.raises(ValueError, match=r"expected logits \[C\] for one input, got shape \(1, 3\).*from_batched"):
        fit(KEY, DATA)


def test_what_is_no_maker_of_networks_is_named():
    with pytest.raises(
        TypeError, match=r"^make: expected a function nnx\.Rngs -> module, got a module, NnxNet; .*from_nnx"
    ):
        model_from_nnx(NnxNet(nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"^make: expected a function key -> module, got a module, EquinoxNet"):
        model_from_equinox(EquinoxNet(KEY))
    with pytest.raises(
        TypeError, match=r"^make: expected a function key -> equinox module, got one that makes a tuple"
    ):
        model_from_equinox(lambda key: eqx.nn.make_with_state(eqx.nn.BatchNorm)(D, "b", mode="batch"))
    with pytest.raises(TypeError, match=r"^module: expected a flax linen\.Module, got .*NnxNet; see model_from_nnx"):
        model_from_linen(NnxNet(nnx.Rngs(0)), ONE)
    with pytest.raises(TypeError, match=r"^transformed: expected what hk\.transform returns, got a function"):
        model_from_haiku(haiku_net, ONE)


def test_statistics_of_one_input_are_refused():
    def net(x, is_training):
        return hk.Linear(C)(hk.BatchNorm(True, True, 0.9)(x, is_training))

    with pytest.raises(ValueError, match=r"expected no state beside `is_training`, got running statistics"):
        model_from_haiku(hk.transform_with_state(net), ONE, switch="is_training")
