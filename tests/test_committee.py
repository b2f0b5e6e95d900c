"""Committees against their members called one by one; gradients against `jax.grad`; networks of flax as functions.

Axes: K members, M masks a network, B points, C classes, D features, S seeds.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from bdal.acquisition import last_layer_gradient_norms
from bdal.committee import Committee, deep_ensemble, mc_dropout, split_weights
from bdal.model import from_batched, from_linen, from_nnx, model_from_nnx
from bdal.models import CNN, MLP
from bdal.pool import map_pool
from tests.compilations import count_compilations

K, B, C, D = 3, 5, 3, 8
KEYS = jax.random.split(jax.random.key(1), K)
INPUTS = jax.random.normal(jax.random.key(2), (B, 4))


def network(params, key, x):
    """One hidden layer with dropout: x [4] -> (logits [C], features [D])."""
    h = jax.nn.relu(x @ params["w"] + params["b"])
    if key is not None:
        h = 2.0 * jax.random.bernoulli(key, 0.5, h.shape) * h
    return h @ params["head"]["w"] + params["head"]["b"], h


def init(key):
    w, b, head, bias = jax.random.split(key, 4)
    return {
        "w": 0.5 * jax.random.normal(w, (4, D)),
        "b": 0.5 * jax.random.normal(b, (D,)),
        "head": {"w": 0.5 * jax.random.normal(head, (D, C)), "b": 0.5 * jax.random.normal(bias, (C,))},
    }


PARAMS = init(jax.random.key(0))
STACKED = jax.vmap(init)(jax.random.split(jax.random.key(3), K))


def member_of(params, k):
    return jax.tree.map(lambda leaf: leaf[k], params)


def one_by_one(members, inputs=INPUTS, apply=network):
    """Log-probabilities `[B, K, C]` and features `[B, K, D]` of `members`, a list of (params, key), with loops."""
    apply = jax.jit(apply)
    outs = [[apply(params, key, x) for params, key in members] for x in inputs]
    log_probs = jax.nn.log_softmax(jnp.array([[out[0] for out in row] for row in outs]))
    return log_probs, jnp.array([[out[1] for out in row] for row in outs])


def close(actual, expected, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def same_bits(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


COMMITTEES = {
    "mc_dropout": (mc_dropout(network, PARAMS, KEYS), [(PARAMS, key) for key in KEYS]),
    "deep_ensemble": (deep_ensemble(network, STACKED), [(member_of(STACKED, k), None) for k in range(K)]),
    "one_mask_each": (
        deep_ensemble(network, STACKED, KEYS),
        [(member_of(STACKED, k), KEYS[k]) for k in range(K)],
    ),
    "masks": (
        deep_ensemble(network, STACKED, jax.random.split(jax.random.key(4), (K, 2))),
        [
            (member_of(STACKED, k), key)
            for k, keys in enumerate(jax.random.split(jax.random.key(4), (K, 2)))
            for key in keys
        ],
    ),
}
committees = pytest.mark.parametrize(("committee", "members"), COMMITTEES.values(), ids=COMMITTEES)


# -- members ----------------------------------------------------------------------------------------------------------


@committees
def test_every_member_votes_as_it_does_alone(committee, members):
    log_probs, features = one_by_one(members)
    close(committee.log_probs(INPUTS), log_probs)
    close(committee.features(INPUTS), features)
    same_bits(committee.predict(INPUTS), (committee.log_probs(INPUTS), committee.features(INPUTS)))
    assert committee.num_members == len(members)
    assert committee.log_probs(INPUTS).dtype == jnp.float32


@committees
def test_members_differ_and_the_same_keys_give_the_same_bits(committee, members):
    log_probs = np.asarray(committee.log_probs(INPUTS))
    for k in range(len(members)):
        for other in range(k):
            assert np.abs(log_probs[:, k] - log_probs[:, other]).max() > 1e-3
    again = Committee(committee.apply, committee.shared, committee.own, committee.noise)
    same_bits(again.log_probs(INPUTS), log_probs)


def test_another_key_is_another_committee():
    other = mc_dropout(network, PARAMS, jax.random.split(jax.random.key(9), K))
    assert np.abs(other.log_probs(INPUTS) - COMMITTEES["mc_dropout"][0].log_probs(INPUTS)).max() > 1e-2


@pytest.mark.parametrize("name", ["mc_dropout", "masks"])
def test_one_mask_a_member_for_the_whole_pool(name):
    """A row's votes do not depend on its place, its neighbours or the size of its batch."""
    committee = COMMITTEES[name][0]
    log_probs = committee.log_probs(INPUTS)
    order = np.array([3, 0, 4, 1, 2])
    close(committee.log_probs(INPUTS[order]), log_probs[order])
    for chunk in (1, 2):
        parts = [committee.log_probs(INPUTS[start : start + chunk]) for start in range(0, B, chunk)]
        close(jnp.concatenate(parts), log_probs)
    repeated = committee.log_probs(jnp.tile(INPUTS[:1], (6, 1)))
    same_bits(repeated, jnp.broadcast_to(repeated[:1], repeated.shape))


def test_the_mask_itself_is_shared_by_all_points_and_by_no_two_members():
    def mask(params, key, x):
        return jax.random.bernoulli(key, 0.5, (32,)).astype(jnp.float32), x

    features = mc_dropout(lambda params, key, x: mask(params, key, x)[::-1], (), KEYS).features(jnp.ones((B, 2)))
    assert len(np.unique(np.asarray(features).reshape(B, -1), axis=0)) == 1
    assert len(np.unique(np.asarray(features[0]), axis=0)) == K
    assert 0.3 < features.mean() < 0.7


@committees
def test_take(committee, members):
    close(committee.take(2).log_probs(INPUTS), committee.log_probs(INPUTS)[:, :2])
    assert committee.take(2).num_members == 2
    assert committee.take(100).num_members == len(members)
    close(committee.take(1).features(INPUTS), committee.features(INPUTS)[:, :1])
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"num_members: expected at least 1, got {size}"):
            committee.take(size)


def test_a_committee_has_members():
    with pytest.raises(ValueError, match=r"one a member, got shape \(0,\)"):
        mc_dropout(network, PARAMS, KEYS[:0])
    with pytest.raises(ValueError, match=r"leading axis K on every leaf, got sizes \[0\]"):
        deep_ensemble(network, jax.tree.map(lambda leaf: leaf[:0], STACKED))
    with pytest.raises(ValueError, match=r"got shape \(3, 0\)"):
        deep_ensemble(network, STACKED, jnp.zeros((K, 0), KEYS.dtype))


# -- features and embeddings ------------------------------------------------------------------------------------------


def test_embedding_of_shared_parameters_is_the_network_without_noise():
    expected = one_by_one([(PARAMS, None)])[1][:, 0]
    close(COMMITTEES["mc_dropout"][0].embedding(INPUTS), expected)
    assert expected.shape == (B, D)


@pytest.mark.parametrize("name", ["deep_ensemble", "one_mask_each", "masks"])
def test_inner_products_of_embeddings_are_the_mean_over_members(name):
    committee, members = COMMITTEES[name]
    embedding = committee.embedding(INPUTS)
    assert embedding.shape == (B, len(members) * D)
    features = np.asarray(committee.features(INPUTS), np.float64)  # [B, K, D]
    close(embedding @ embedding.T, np.einsum("akd,bkd->ab", features, features) / len(members), 1e-5)


@pytest.mark.parametrize("method", ["features", "embedding"])
@pytest.mark.parametrize("stacked", [False, True])
def test_features_of_a_network_that_has_none(method, stacked):
    apply = lambda params, key, x: network(params, key, x)[0]  # noqa: E731
    committee = deep_ensemble(apply, STACKED) if stacked else mc_dropout(apply, PARAMS, KEYS)
    assert committee.predict(INPUTS)[1] is None
    with pytest.raises(ValueError, match=r"features: expected an apply that returns \(logits \[C\], features \[D\]\)"):
        getattr(committee, method)(INPUTS)


# -- a pytree that jit, vmap and lax.map carry ------------------------------------------------------------------------


@committees
def test_argument_and_result_of_a_compiled_function(committee, members):
    close(jax.jit(lambda committee, x: committee.log_probs(x))(committee, INPUTS), committee.log_probs(INPUTS))
    returned = jax.jit(lambda committee: committee.take(2))(committee)
    assert isinstance(returned, Committee)
    assert returned.num_members == 2
    close(returned.log_probs(INPUTS), committee.log_probs(INPUTS)[:, :2])
    assert jax.tree.structure(committee) == jax.tree.structure(jax.jit(lambda c: c)(committee))


@pytest.mark.parametrize("kind", ["mc_dropout", "deep_ensemble"])
def test_a_leading_axis_of_seeds(kind):
    def make(key):
        if kind == "mc_dropout":
            return mc_dropout(network, init(key), jax.random.split(key, K))
        return deep_ensemble(network, jax.vmap(init)(jax.random.split(key, K)))

    def score(committee):
        return (committee.log_probs if kind == "deep_ensemble" else committee.gradient_norms)(INPUTS)

    seeds = jax.random.split(jax.random.key(5), 2)
    many = jax.jit(jax.vmap(make))(seeds)  # every leaf [S, ...]
    seed_by_seed = jnp.stack([score(jax.tree.map(lambda leaf: leaf[s], many)) for s in range(2)])  # noqa: B023
    assert np.abs(seed_by_seed[0] - seed_by_seed[1]).max() > 1e-2
    np.testing.assert_allclose(jax.jit(jax.vmap(score))(many), seed_by_seed, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.lax.map(score, many), seed_by_seed, rtol=1e-4, atol=1e-6)


def test_scoring_again_compiles_nothing():
    def apply(params, key, x):
        mask = 1.0 if key is None else jax.random.bernoulli(key, 0.5, (4, 4))
        h = conv((x * mask)[None, None]).sum((0, 1, 2)) * params  # [4]
        return h[:C], h

    committee = mc_dropout(apply, 1.0, KEYS)
    images = [jax.random.normal(key, (B, 4, 4)) for key in KEYS]
    for image in images:
        with count_compilations() as compilations:
            jax.block_until_ready([committee.predict(image), committee.gradient_norms(image)])
            jax.block_until_ready([committee.features(image), committee.embedding(image)])
    assert not compilations


# -- types ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["log_probs", "features", "embedding"])
@pytest.mark.parametrize("where", [np.asarray, jnp.asarray])
def test_a_pool_is_read_in_chunks(method, where):
    committee = mc_dropout(network, PARAMS, KEYS)
    read = getattr(committee, method)
    pool = where(np.random.default_rng(0).standard_normal((50, 4), np.float32))
    chunks = [pool[0:16], pool[16:32], pool[32:48], pool[48:50]]
    for _ in range(2):
        with count_compilations() as compilations:
            found = jax.block_until_ready(read(pool, chunk_size=16))
    assert not compilations
    close(found, jnp.concatenate([jax.jit(getattr(Committee, method))(committee, chunk) for chunk in chunks]))
    same_bits(found, map_pool(getattr(Committee, method), committee, pool, chunk_size=16))
    with pytest.raises(TypeError, match="inputs: expected JAX or NumPy arrays"):
        read(pool.tolist())
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        read(pool, chunk_size=0)


def test_half_precision_logits_become_float32_log_probs():
    def apply(params, key, x):
        return tuple(part.astype(jnp.bfloat16) for part in network(params, key, x))

    log_probs = mc_dropout(apply, PARAMS, KEYS).log_probs(INPUTS)
    logits = jnp.array([[jax.jit(apply)(PARAMS, key, x)[0] for key in KEYS] for x in INPUTS])
    assert logits.dtype == jnp.bfloat16
    assert log_probs.dtype == jnp.float32
    close(jnp.exp(log_probs).sum(-1), jnp.ones((B, K)))  # bfloat16 arithmetic would miss by 1e-3
    close(log_probs, jax.nn.log_softmax(logits.astype(jnp.float32)), 0.05)  # vmap may round a half-precision sum anew


def test_saturated_logits_stay_finite():
    log_probs = mc_dropout(lambda params, key, x: jnp.array([1e4, -1e4, 0.0]), (), KEYS).log_probs(INPUTS)
    same_bits(log_probs[0, 0], jnp.array([0.0, -2e4, -1e4]))


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray])
def test_inputs_may_be_a_pytree(kind):
    def apply(params, key, x):
        return network(params, key, jnp.concatenate([x["left"], x["right"][None].astype(jnp.float32) / 2]))

    inputs = {"left": kind(INPUTS[:, :3]), "right": kind(jnp.arange(B))}
    joined = jnp.concatenate([INPUTS[:, :3], jnp.arange(B)[:, None] / 2], 1)
    committee, plain = mc_dropout(apply, PARAMS, KEYS), mc_dropout(network, PARAMS, KEYS)
    close(committee.log_probs(inputs), plain.log_probs(joined))
    close(committee.gradient_norms(inputs), plain.gradient_norms(joined), 1e-5)
    close(deep_ensemble(apply, STACKED).embedding(inputs), deep_ensemble(network, STACKED).embedding(joined))


def test_keys_of_the_old_kind():
    old = jax.random.key_data(KEYS)
    assert old.dtype == jnp.uint32
    same_bits(mc_dropout(network, PARAMS, old).log_probs(INPUTS), COMMITTEES["mc_dropout"][0].log_probs(INPUTS))
    same_bits(jax.random.key_data(mc_dropout(network, PARAMS, np.asarray(old)).noise), old)
    same_bits(deep_ensemble(network, STACKED, old).log_probs(INPUTS), COMMITTEES["one_mask_each"][0].log_probs(INPUTS))
    square = jax.random.key_data(jax.random.split(jax.random.key(4), (K, 2)))
    same_bits(deep_ensemble(network, STACKED, square).log_probs(INPUTS), COMMITTEES["masks"][0].log_probs(INPUTS))


def test_parameters_may_hold_plain_numbers_and_integers():
    params = {"net": PARAMS, "scale": 0.5, "shift": 1, "table": jnp.arange(3)}

    def apply(params, key, x):
        logits, h = network(params["net"], key, x)
        return logits * params["scale"] + params["shift"] + params["table"], h

    committee = mc_dropout(apply, params, KEYS)
    expected, _ = one_by_one([(params, key) for key in KEYS], apply=apply)
    close(committee.log_probs(INPUTS), expected)
    close(committee.embedding(INPUTS), COMMITTEES["mc_dropout"][0].embedding(INPUTS))
    assert np.isfinite(committee.gradient_norms(INPUTS)).all()


@pytest.mark.parametrize("size", [0, 1])
def test_small_pools_and_small_committees(size):
    inputs = INPUTS[:size]
    for committee in (mc_dropout(network, PARAMS, KEYS[:1]), deep_ensemble(network, member_of(STACKED, slice(1)))):
        assert committee.log_probs(inputs).shape == (size, 1, C)
        assert committee.gradient_norms(inputs).shape == (size, 1, C)
        assert committee.embedding(inputs).shape == (size, D)


# -- misuse -----------------------------------------------------------------------------------------------------------


def test_misuse_of_keys():
    with pytest.raises(ValueError, match=r"keys: expected \[K\] keys, one a member, got shape \(\)"):
        mc_dropout(network, PARAMS, jax.random.key(0))
    with pytest.raises(ValueError, match=r"keys: expected \[K\] keys, one a member, got shape \(\)"):
        mc_dropout(network, PARAMS, jax.random.PRNGKey(0))
    with pytest.raises(ValueError, match=r"keys: expected \[K\] or \[K, M\] keys .* got shape \(2,\)"):
        deep_ensemble(network, STACKED, KEYS[:2])
    with pytest.raises(ValueError, match=r"keys: expected \[K\] or \[K, M\] keys .* got shape \(2, 3\)"):
        deep_ensemble(network, STACKED, jax.random.split(jax.random.key(0), (2, K)))


def test_misuse_of_parameters():
    with pytest.raises(ValueError, match=r"params: expected one leading axis K on every leaf, got sizes \[3, 4, 8\]"):
        deep_ensemble(network, PARAMS)
    with pytest.raises(ValueError, match=r"params: expected one leading axis K on every leaf, got sizes \[3, None\]"):
        deep_ensemble(network, STACKED | {"scale": 2.0})


def test_a_function_of_a_batch_is_refused():
    committee = mc_dropout(lambda params, key, x: x[None] @ params, jnp.ones((4, C)), KEYS)
    with pytest.raises(ValueError, match=r"expected logits \[C\] for one input, got shape \(1, 3\).*from_batched"):
        committee.log_probs(INPUTS)


# -- gradients --------------------------------------------------------------------------------------------------------


def norms_by_grad(members, inputs, apply=network, weights=lambda params: params):
    """‖∇ −log p(c | x)‖ for every point, member and label, one `jax.grad` each; `weights(params)` are counted."""

    def loss(params, key, x, c):
        out = apply(params, key, x)
        return -jax.nn.log_softmax(out[0] if isinstance(out, tuple) else out)[c]

    @jax.jit
    def norm(params, key, x, c):
        grads = jax.grad(loss)(params, key, x, c)
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(weights(grads))))

    return np.array([[[norm(params, key, x, c) for c in range(C)] for params, key in members] for x in inputs])


@committees
def test_gradient_norms_are_those_of_jax_grad(committee, members):
    norms = committee.gradient_norms(INPUTS)
    assert norms.shape == (B, len(members), C)
    np.testing.assert_allclose(norms, norms_by_grad(members, INPUTS), rtol=1e-5)


def test_gradient_norms_do_not_depend_on_the_batch():
    committee = COMMITTEES["mc_dropout"][0]
    norms = committee.gradient_norms(INPUTS)
    for batch_size in (1, 2, B):
        np.testing.assert_allclose(committee.gradient_norms(INPUTS, batch_size=batch_size), norms, rtol=1e-5)
    parts = jnp.concatenate([committee.gradient_norms(INPUTS[:3]), committee.gradient_norms(INPUTS[2:])[1:]])
    np.testing.assert_allclose(parts, norms, rtol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0])
def test_a_linear_model_has_only_a_last_layer(scale):
    """Also where p_c rounds to 1 and `p − e_c` would be nothing but rounding."""

    def linear(params, key, x):
        return scale * x @ params["w"] + params["b"], scale * x

    params = {
        "w": jax.random.normal(jax.random.key(1), (K, 4, C)),
        "b": jax.random.normal(jax.random.key(2), (K, C)),
    }
    committee = deep_ensemble(linear, params)
    inputs = jax.random.normal(jax.random.key(3), (20, 4))
    log_probs, features = committee.predict(inputs)
    if scale == 10.0:
        assert float(jnp.exp(log_probs).max()) == 1
    expected = last_layer_gradient_norms(log_probs, features)
    np.testing.assert_allclose(committee.gradient_norms(inputs), expected, rtol=1e-5, atol=1e-15)


class Normalised(nnx.Module):
    """A network with batch normalisation: x [B, 4] -> logits [B, C]."""

    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, C, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(jax.nn.relu(self.norm(self.dense(x)))))


def with_statistics(module):
    """`module` with running statistics that are not those of a fresh network."""
    module.norm.mean[...] = jnp.linspace(-1, 1, 6)
    module.norm.var[...] = jnp.linspace(0.5, 3, 6)
    return module


def test_running_statistics_are_not_counted():
    apply, params = from_nnx(with_statistics(Normalised(nnx.Rngs(0))))
    committee = mc_dropout(apply, params, KEYS)
    expected = norms_by_grad([(params, key) for key in KEYS], INPUTS, apply, weights=lambda grads: grads.params)
    np.testing.assert_allclose(committee.gradient_norms(INPUTS), expected, rtol=1e-5)


def test_collections_of_ones_own_are_not_counted_either():
    def apply(params, key, x):
        return network(params["params"], key, x - params["batch_stats"]["mean"])

    params = {"params": PARAMS, "batch_stats": {"mean": jnp.full(4, 0.3)}}
    members = [(params, key) for key in KEYS]
    expected = norms_by_grad(members, INPUTS, apply, weights=lambda grads: grads["params"])
    everything = norms_by_grad(members, INPUTS, apply)
    np.testing.assert_allclose(mc_dropout(apply, params, KEYS).gradient_norms(INPUTS), expected, rtol=1e-5)
    assert (everything > 1.01 * expected).any()


def test_split_weights():
    params = {"params": {"w": jnp.ones(2), "n": jnp.int32(3)}, "state": {"mean": jnp.zeros(4)}}
    weights, rebuild = split_weights(params)
    assert [leaf.shape for leaf in weights] == [(2,)]
    assert jax.tree.structure(rebuild(weights)) == jax.tree.structure(params)
    same_bits(rebuild([weights[0] + 1]), params | {"params": {"w": jnp.full(2, 2.0), "n": 3}})
    weights, rebuild = split_weights([jnp.ones(2), jnp.int32(3), jax.random.key(0), jnp.zeros(3, jnp.bfloat16)])
    assert [leaf.shape for leaf in weights] == [(2,), (3,)]
    assert rebuild(weights)[1] == 3


# -- flax nnx ---------------------------------------------------------------------------------------------------------


class Masks(nnx.Module):
    """Two dropout layers of equal width: x [..., 64] -> (first mask, second mask), times 2."""

    def __init__(self, rngs):
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.first(jnp.ones_like(x)), self.second(jnp.ones_like(x))


class OneStream(nnx.Module):
    """Two dropout layers that draw from one stream of the module."""

    def __init__(self, rngs):
        self.rngs = rngs
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x):
        return self.dropout(jnp.ones_like(x), rngs=self.rngs), self.dropout(jnp.ones_like(x), rngs=self.rngs)


class Stacked(nnx.Module):
    """Layers that are initialised by `vmap` and run by `scan`, each with a dropout stream of its own."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return nnx.Dropout(0.5, rngs=rngs)

        self.layers = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def forward(x, layer):
            return x, layer(jnp.ones_like(x))

        _, masks = forward(x, self.layers)
        return masks[0], masks[1]


@pytest.mark.parametrize("module", [Masks, OneStream, Stacked])
@pytest.mark.parametrize("batched", [False, True])
def test_dropout_is_on_exactly_when_there_is_a_key_and_differs_between_layers(module, batched):
    apply, params = from_nnx(module(nnx.Rngs(0)), batched=batched)
    x = jnp.zeros(64)
    same_bits(apply(params, None, x), (jnp.ones(64), jnp.ones(64)))
    first, second = apply(params, jax.random.key(0), x)
    for mask in (first, second):
        assert set(np.unique(mask)) == {0.0, 2.0}
        assert 16 < (mask > 0).sum() < 48
    assert (first != second).sum() > 10
    same_bits(apply(params, jax.random.key(0), x), (first, second))
    assert (apply(params, jax.random.key(1), x)[0] != first).sum() > 10


def test_a_member_is_a_function_of_its_key_and_not_of_the_module_it_came_from():
    apply, params = from_nnx(Masks(nnx.Rngs(0)))
    other, _ = from_nnx(Masks(nnx.Rngs(1)))
    x = jnp.zeros(64)
    same_bits(apply(params, KEYS[0], x), other(params, KEYS[0], x))
    same_bits(apply(params, KEYS[0], x), apply(params, jax.random.key_data(KEYS[0]), x))


def values_of(module):
    def value(leaf):
        return np.array(jax.random.key_data(leaf) if leaf.dtype == KEYS.dtype else leaf)

    return jax.tree.map(value, nnx.state(module))


def test_the_module_itself_is_left_alone():
    module = Normalised(nnx.Rngs(0))
    module.train()
    before = values_of(module)
    apply, params = from_nnx(module)
    mc_dropout(apply, params, KEYS).log_probs(INPUTS)
    same_bits(values_of(module), before)
    assert not module.dropout.deterministic
    assert not module.norm.use_running_average


def test_training_the_module_further_changes_no_committee():
    module = Normalised(nnx.Rngs(0))
    _, params = from_nnx(module)
    before = jax.tree.map(np.array, params)
    module.head.kernel[...] = module.head.kernel[...] + 1
    module.norm.mean[...] = module.norm.mean[...] + 1
    same_bits(params, before)


@pytest.mark.parametrize("net", [MLP(4, C, dropout=0.5, rngs=nnx.Rngs(0)), CNN(C, rngs=nnx.Rngs(0))])
def test_a_network_of_one_input_taken_for_one_of_a_batch_is_told_so(net):
    apply, params = from_nnx(net)
    with pytest.raises(ValueError) as caught:
        apply(params, None, jnp.ones((28, 28, 1)) if isinstance(net, CNN) else jnp.ones(4))
    assert "batched=False" in " ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])


@pytest.mark.parametrize("key", [None, KEYS[0]], ids=["deterministic", "key"])
def test_scoring_uses_running_statistics_and_leaves_them(key):
    module = with_statistics(Normalised(nnx.Rngs(0)))
    module.dropout.rate = 0.0
    apply, params = from_nnx(module)
    h = INPUTS @ module.dense.kernel[...] + module.dense.bias[...].reshape(1, -1)
    h = (h - jnp.linspace(-1, 1, 6).reshape(1, -1)) / jnp.sqrt(jnp.linspace(0.5, 3, 6).reshape(1, -1) + 1e-5)
    expected = jax.nn.relu(h) @ module.head.kernel[...] + module.head.bias[...].reshape(1, -1)
    close(jax.vmap(lambda x: apply(params, key, x))(INPUTS), expected, 1e-5)
    before = jax.tree.map(np.array, params)
    mc_dropout(apply, params, KEYS).log_probs(INPUTS)
    same_bits(params, before)
    close(params.state["norm"]["mean"][...], jnp.linspace(-1, 1, 6))


@pytest.mark.parametrize("batched", [False, True])
def test_an_nnx_module_under_every_transformation(batched):
    apply, params = from_nnx(nnx.Sequential(nnx.Linear(4, C, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))),
                             batched=batched)  # fmt: skip
    one = jnp.stack([apply(params, KEYS[0], x) for x in INPUTS])
    close(jax.jit(jax.vmap(lambda x: apply(params, KEYS[0], x)))(INPUTS), one)
    close(jax.jit(lambda inputs: jax.lax.map(lambda x: apply(params, KEYS[0], x), inputs))(INPUTS), one)
    gradient = jax.jit(jax.grad(lambda params: apply(params, None, INPUTS[0])[0]))(params)
    kernel = gradient.params["layers"][0]["kernel"][...]
    close(kernel, jnp.stack([INPUTS[0], jnp.zeros(4), jnp.zeros(4)], 1))


def test_statistics_carry_no_gradient():
    apply, params = from_nnx(with_statistics(Normalised(nnx.Rngs(0))))
    gradient = jax.jit(jax.grad(lambda params: apply(params, None, INPUTS[0])[0]))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient.state))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradient.params))


def test_init_of_a_model_gives_the_parameters_of_the_module_and_vmaps():
    fresh = model_from_nnx(Normalised).init
    _, params = from_nnx(Normalised(nnx.Rngs(KEYS[0])))
    assert jax.tree.structure(fresh(KEYS[0])) == jax.tree.structure(params)
    same_bits(fresh(KEYS[0]), params)
    apply, _ = from_nnx(Normalised(nnx.Rngs(0)))
    ensemble = deep_ensemble(apply, jax.jit(jax.vmap(fresh))(KEYS))
    member = jax.jit(jax.vmap(lambda key, x: apply(fresh(key), None, x), in_axes=(None, 0)))
    expected = jnp.stack([member(key, INPUTS) for key in KEYS], 1)
    close(ensemble.log_probs(INPUTS), jax.nn.log_softmax(expected), 1e-5)
    assert np.abs(np.diff(expected, axis=1)).max(-1).min() > 1e-3


# -- flax linen -------------------------------------------------------------------------------------------------------


class WithDeterministic(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic):
        first = linen.Dropout(0.5)(jnp.ones_like(x), deterministic=deterministic)
        return first, linen.Dropout(0.5)(jnp.ones_like(x), deterministic=deterministic)


class WithTrain(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool = False):
        first = linen.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))
        return first, linen.Dropout(0.5, deterministic=not train)(jnp.ones_like(x))


class WithTraining(linen.Module):
    @linen.compact
    def __call__(self, x, training: bool = False):
        return WithTrain()(x, train=training)


@pytest.mark.parametrize("module", [WithDeterministic(), WithTrain(), WithTraining()])
@pytest.mark.parametrize("batched", [False, True])
def test_linen_dropout_is_on_exactly_when_there_is_a_key(module, batched):
    apply, params = from_linen(module, {"params": {}}, batched=batched)
    x = jnp.zeros(64)
    same_bits(apply(params, None, x), (jnp.ones(64), jnp.ones(64)))
    first, second = apply(params, jax.random.key(0), x)
    for mask in (first, second):
        assert set(np.unique(mask)) == {0.0, 2.0}
    assert (first != second).sum() > 10
    features = mc_dropout(apply, params, KEYS).features(jnp.zeros((B, 64)))
    assert len(np.unique(np.asarray(features).reshape(B, -1), axis=0)) == 1
    assert len(np.unique(np.asarray(features[0]), axis=0)) == K


@pytest.mark.parametrize(
    ("module", "argument"), [(WithDeterministic(), {"deterministic": True}), (WithTrain(), {"train": False})]
)
def test_linen_arguments_that_are_given_stand(module, argument):
    apply, params = from_linen(module, {"params": {}}, **argument)
    same_bits(apply(params, KEYS[0], jnp.zeros(64)), (jnp.ones(64), jnp.ones(64)))


class LinenNormalised(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.BatchNorm(use_running_average=not train)(linen.Dense(6)(x))
        return linen.Dense(C)(jax.nn.relu(x))


@pytest.mark.parametrize("key", [None, KEYS[0]], ids=["deterministic", "key"])
def test_linen_running_statistics_are_used_and_left(key):
    net = LinenNormalised()
    variables = jax.jit(lambda key: net.init(key, INPUTS, train=False))(jax.random.key(0))
    statistics = {"BatchNorm_0": {"mean": jnp.linspace(-1, 1, 6), "var": jnp.linspace(0.5, 3, 6)}}
    variables = {"params": variables["params"], "batch_stats": statistics}
    apply, params = from_linen(net, variables)
    expected = net.apply(variables, INPUTS, train=False)
    close(jax.jit(jax.vmap(lambda x: apply(params, key, x)))(INPUTS), expected, 1e-5)
    gradient = jax.jit(jax.grad(lambda params: apply(params, key, INPUTS[0])[0]))(params)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient.state["batch_stats"]))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(gradient.params))
    norms = mc_dropout(apply, params, KEYS).gradient_norms(INPUTS)
    by_grad = norms_by_grad([(params, None)], INPUTS, apply, weights=lambda grads: grads.params)
    np.testing.assert_allclose(norms, np.broadcast_to(by_grad, norms.shape), rtol=1e-5)


class OneSwitch(linen.Module):
    """Statistics and noise that `train` switches together, or the noise by an argument of its own."""

    @linen.compact
    def __call__(self, x, train: bool = False, **own):
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dropout(0.5)(x, deterministic=own.get("deterministic", not train)), x


class TwoSwitches(OneSwitch):
    @linen.compact
    def __call__(self, x, train: bool = False, deterministic: bool = True):
        return OneSwitch()(x, train, deterministic=deterministic)


def test_noise_that_a_key_cannot_switch_on_is_refused():
    one, two = OneSwitch(), TwoSwitches()
    x = jnp.ones(64)
    variables = one.init(KEYS[0], x[None])
    apply, params = from_linen(one, variables)
    np.testing.assert_array_equal(*apply(params, None, x))
    for keyed in (lambda: apply(params, KEYS[0], x), lambda: mc_dropout(apply, params, KEYS).log_probs(x[None])):
        with pytest.raises(ValueError, match=r"OneSwitch has .* both switched by `train`.* argument `deterministic`"):
            keyed()
    silent, _ = from_linen(one, variables, train=False)
    np.testing.assert_array_equal(*silent(params, KEYS[0], x))
    apply, params = from_linen(two, two.init(KEYS[0], x[None]))
    assert set(np.unique(apply(params, KEYS[0], x)[0]).round(3)) == {0.0, 2.0}


def test_a_linen_ensemble():
    net = linen.Dense(C)
    apply, _ = from_linen(net, net.init(KEYS[0], INPUTS))
    params = jax.vmap(lambda key: net.init(key, INPUTS))(KEYS)
    expected = jnp.stack([net.apply(member_of(params, k), INPUTS) for k in range(K)], 1)
    close(deep_ensemble(apply, params).log_probs(INPUTS), jax.nn.log_softmax(expected))


# -- functions of a batch ---------------------------------------------------------------------------------------------


def test_masks_that_a_batched_function_draws_for_every_row_are_shared_by_all_points():
    def fn(params, key, inputs):
        mask = jax.random.bernoulli(key, 0.5, inputs["x"].shape).astype(jnp.float32)  # a mask of its own for every row
        return (inputs["x"] * mask) @ params, mask

    apply, params = from_batched(fn, jnp.ones((64, C)))
    committee = mc_dropout(apply, params, KEYS)
    inputs = {"x": jax.random.normal(jax.random.key(0), (B, 64))}
    log_probs, masks = committee.predict(inputs)
    assert len(np.unique(np.asarray(masks).reshape(B, -1), axis=0)) == 1
    assert len(np.unique(np.asarray(masks[0]), axis=0)) == K
    close(log_probs, jax.nn.log_softmax((inputs["x"][:, None] * masks) @ params), 1e-5)
    close(committee.log_probs(jax.tree.map(lambda leaf: leaf[2:5], inputs)), log_probs[2:5], 1e-5)


# -- convolutions on a CPU --------------------------------------------------------------------------------------------


class NnxImages(nnx.Module):
    """Noise before the convolution, so that every member has one of its own."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, C, rngs=rngs)

    def __call__(self, x):
        h = jax.nn.relu(self.conv(self.dropout(x))).mean((-3, -2))
        return self.head(h), h


class LinenImages(linen.Module):
    @linen.compact
    def __call__(self, x, deterministic: bool):
        h = jax.nn.relu(linen.Conv(4, (3, 3))(x)).mean((-3, -2))
        h = linen.Dropout(0.5, deterministic=deterministic)(h)
        return linen.Dense(C)(h), h


IMAGES = jax.random.normal(jax.random.key(0), (B, 6, 6, 1))


def image_network(flavour):
    """(apply, params, init)"""
    if flavour == "nnx":
        return *from_nnx(NnxImages(nnx.Rngs(0))), model_from_nnx(NnxImages).init
    net = LinenImages()
    variables = net.init(jax.random.key(0), IMAGES, deterministic=True)
    return *from_linen(net, variables), lambda key: net.init(key, IMAGES, deterministic=True)


@pytest.mark.parametrize(
    ("flavour", "kind"), [("nnx", "mc_dropout"), ("linen", "deep_ensemble"), ("linen", "one_mask_each")]
)
def test_members_one_at_a_time_are_members_side_by_side(flavour, kind, monkeypatch):
    apply, params, fresh = image_network(flavour)
    if kind == "mc_dropout":
        committee = mc_dropout(apply, params, KEYS)
    else:
        committee = deep_ensemble(apply, jax.jit(jax.vmap(fresh))(KEYS), KEYS if kind == "one_mask_each" else None)

    def everything(backend):
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        anew = replace(committee, apply=lambda *args: committee.apply(*args))  # the choice is made when the program is
        program = str(jax.make_jaxpr(anew.log_probs)(IMAGES))
        assert ("scan" in program) == (backend == "cpu")  # lax.map over members
        log_probs, features = anew.predict(IMAGES)
        return log_probs, features, anew.gradient_norms(IMAGES, batch_size=B)

    one_at_a_time, side_by_side = everything("cpu"), everything("tpu")
    for actual, expected in zip(one_at_a_time, side_by_side, strict=True):
        close(actual, expected, 1e-5)
    assert one_at_a_time[0].shape == (B, K, C)
    members = [
        (params if committee.own is None else member_of(committee.own, k), None if committee.noise is None else KEYS[k])
        for k in range(K)
    ]
    close(one_at_a_time[0], one_by_one(members, IMAGES, apply)[0], 1e-5)


def test_networks_without_convolutions_go_side_by_side(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    for committee, _ in COMMITTEES.values():
        assert "scan" not in str(jax.make_jaxpr(committee.log_probs)(INPUTS))


def conv(x):
    return jax.lax.conv(x, jnp.ones((1, 1, 2, 2)), (1, 1), "SAME")
