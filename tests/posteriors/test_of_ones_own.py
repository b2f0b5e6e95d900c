"""Posteriors of one's own, each a few lines: heads on one shared body, and the running mean of the weights.

Axes: K members, N points, H features, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.committee import Committee, deep_ensemble, mc_dropout
from bdal.likelihood import categorical
from bdal.loop import active_learning
from bdal.model import Model, model_from_functions
from bdal.models import mlp
from bdal.pool import LabelledSet, extend
from bdal.strategy import make_strategy, query
from bdal.testing import check_committee
from bdal.training import Training, Watch, learn, train
from bdal.types import TrainingData, Variables
from tests.compilations import count_compilations

C, H, KEY = 3, 32, jax.random.key(0)
TRAINING = Training(steps=60, batch_size=16, learning_rate=1e-2)
MODEL = mlp((2,), C, hidden=(64, H), dropout=0.0)


def clouds(seed, size):
    """Three separated clouds on a circle."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, size)
    centres = 2 * np.stack([np.cos(labels * 2.1), np.sin(labels * 2.1)], 1)
    return (centres + 0.5 * rng.normal(size=(size, 2))).astype(np.float32), labels.astype(np.int32)


DATA = TrainingData(*clouds(0, 40), 40)
POOL = clouds(1, 50)[0]


def accuracy(committee):
    inputs, labels = clouds(2, 100)
    return np.mean(np.asarray(jnp.exp(committee.log_probs(inputs)).mean(1).argmax(-1)) == labels)


def size(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


# -- K heads on one body ----------------------------------------------------------------------------------------------

HEAD = Model(
    lambda key: Variables(0.3 * jax.random.normal(key, (H, C))), lambda variables, noise, h: h @ variables.params
)


def with_head(body, head, noise, x):
    features = MODEL.apply(body, noise, x)[1]
    return HEAD.apply(head, None, features), features


@jax.jit
def features_of(body, inputs):
    return jax.vmap(lambda x: MODEL.apply(body, None, x)[1])(inputs)


def fit_heads(members):
    """The body of a trained network, and K heads from K starts on its features."""

    @jax.jit
    def fit(key, data):
        body_key, *head_keys = jax.random.split(key, members + 1)
        body = learn(body_key, MODEL, categorical(), data, TRAINING).variables
        on_features = data._replace(inputs=features_of(body, data.inputs), validation=None)
        heads = jax.vmap(lambda key: learn(key, HEAD, categorical(), on_features, TRAINING))(jnp.stack(head_keys))
        return Committee(with_head, shared=body, own=heads.variables, info=heads.info)

    return fit


HEADS = fit_heads(100)(KEY, DATA)
COPIES = deep_ensemble(
    lambda both, noise, x: with_head(*both, noise, x),
    (jax.tree.map(lambda leaf: jnp.repeat(leaf[None], 100, 0), HEADS.shared), HEADS.own),
)


def test_a_hundred_heads_hold_one_body():
    body, head = size(MODEL.init(KEY)), size(HEAD.init(KEY))
    assert size((HEADS.shared, HEADS.own)) == body + 100 * head
    assert size(COPIES) == 100 * (body + head)
    assert size(HEADS.take(10)) < size(HEADS)
    assert HEADS.num_members == 100
    assert HEADS.info["steps"].shape == (100,)


def test_they_say_what_a_hundred_copies_say():
    np.testing.assert_allclose(HEADS.log_probs(POOL), COPIES.log_probs(POOL), rtol=1e-5, atol=1e-5)
    every = jnp.broadcast_to(HEADS.features(POOL), (50, 100, H))
    np.testing.assert_allclose(every, COPIES.features(POOL), rtol=1e-5, atol=1e-5)
    norms = HEADS.gradient_norms(POOL[:2])
    np.testing.assert_allclose(norms, COPIES.gradient_norms(POOL[:2]), rtol=1e-4, atol=1e-6)
    assert accuracy(HEADS) > 0.95
    assert np.abs(np.diff(HEADS.log_probs(POOL), axis=1)).max((0, 2)).min() > 1e-4
    check_committee(HEADS, POOL[:8])


def test_their_embedding_has_the_width_of_the_body():
    assert HEADS.features(POOL).shape == (50, 1, H)
    np.testing.assert_allclose(
        HEADS.embedding(POOL), features_of(HEADS.shared, jnp.asarray(POOL)), rtol=1e-5, atol=1e-6
    )
    copies = COPIES.embedding(POOL)
    assert copies.shape == (50, 100 * H)
    np.testing.assert_allclose(copies @ copies.T, HEADS.embedding(POOL) @ HEADS.embedding(POOL).T, rtol=1e-3, atol=1e-3)


def test_strategies_take_them_for_any_committee():
    for name in ("bald", "expected_model_change", "k_center", "badge", "mutual_information_penalty"):
        options = {"query_size": 3, "labelled_inputs": POOL[:4], "labels": np.zeros(4, np.int32)}
        found = query(KEY, make_strategy(name), HEADS, POOL, **options)
        assert len(set(found.indices.tolist())) == 3


def test_a_loop_runs_on_them_and_compiles_nothing_after_round_one():
    labels = clouds(1, 50)[1]
    labelled = extend(LabelledSet.empty(16), np.arange(4), labels[:4], num_points=50)
    rounds = active_learning(
        KEY, fit=fit_heads(5), strategy=make_strategy("bald"), inputs=jnp.asarray(POOL), oracle=lambda i: labels[i],
        labelled=labelled, query_size=3, rounds=3,
    )  # fmt: skip
    next(rounds), next(rounds)
    with count_compilations() as compilations:
        assert len(list(rounds)) == 2
    assert compilations == []


def test_noise_that_only_a_head_draws_leaves_the_body_as_one():
    def noisy(body, head, key, x):
        logits, features = with_head(body, head, None, x)
        return logits + jax.random.normal(key, logits.shape), features

    keys = jax.random.split(KEY, 100)
    committee = Committee(noisy, HEADS.shared, HEADS.own, keys)
    assert committee.features(POOL).shape == (50, 1, H)
    noise = jax.vmap(lambda key: jax.random.normal(key, (C,)))(keys)
    logits = jnp.einsum("nh,khc->nkc", features_of(HEADS.shared, jnp.asarray(POOL)), HEADS.own.params)
    expected = jax.nn.log_softmax(logits + noise[None])
    np.testing.assert_allclose(committee.log_probs(POOL), expected, rtol=1e-4, atol=1e-4)


def test_a_committee_of_one_owns_nothing():
    one = Committee(lambda shared, own, noise, x: MODEL.apply(shared, noise, x), HEADS.shared)
    assert one.num_members == 1
    assert one.log_probs(POOL).shape == (50, 1, C)
    expected = mc_dropout(MODEL.apply, HEADS.shared, jax.random.split(KEY, 1)).log_probs(POOL)
    np.testing.assert_allclose(one.log_probs(POOL), expected, rtol=1e-5, atol=1e-6)


# -- SWAG: moments of the training ------------------------------------------------------------------------------------


def moments(key, variables):
    del key
    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    return jnp.float32(0), zeros, zeros


def add(carry, step, variables, data):
    del step, data
    n, mean, square = carry
    mean = jax.tree.map(lambda m, w: m + (w - m) / (n + 1), mean, variables.params)
    square = jax.tree.map(lambda s, w: s + (w**2 - s) / (n + 1), square, variables.params)
    return n + 1, mean, square


MOMENTS = Watch(moments, add)


def fit_swag(model, members):
    """SWAG with a diagonal covariance: Maddox et al., NeurIPS 2019, §3.2."""

    def member(shared, own, noise, x):
        mean, square = shared
        leaves, structure = jax.tree.flatten(mean)
        keys = jax.tree.unflatten(structure, list(jax.random.split(noise, len(leaves))))
        drawn = jax.tree.map(
            lambda m, s, key: m + jnp.sqrt(jnp.maximum(s - m**2, 0)) * jax.random.normal(key, m.shape),
            mean,
            square,
            keys,
        )
        return model.apply(Variables(drawn), None, x)

    @jax.jit
    def fit(key, data):
        train_key, draw_key = jax.random.split(key)
        found = train(
            train_key,
            model,
            categorical(),
            data,
            TRAINING.optimizer(),
            steps=200,
            batch_size=16,
            every=10,
            watch=MOMENTS,
        )
        return Committee(member, shared=found.watched[1:], noise=jax.random.split(draw_key, members))

    return fit


def apply(params, key, x):
    h = jnp.tanh(x @ params["w"])
    return h @ params["head"], h


def init(key):
    first, second = jax.random.split(key)
    return {"w": jax.random.normal(first, (2, 8)), "head": 0.3 * jax.random.normal(second, (8, C))}


SMALL = model_from_functions(init, apply)


def test_members_are_drawn_around_the_mean_of_the_weights():
    committee = fit_swag(SMALL, members=20)(KEY, DATA)
    assert committee.num_members == 20
    assert accuracy(committee) > 0.95
    assert np.abs(np.diff(committee.log_probs(POOL), axis=1)).max((0, 2)).min() > 1e-3
    check_committee(committee, POOL[:8])


def test_a_watch_sees_the_weights_of_the_steps_that_it_asks_for():
    """The mean over steps 4, 8 and 10, of which the last is seen though 4 does not divide it."""
    options = {"batch_size": 8}
    run = train(KEY, SMALL, categorical(), DATA, TRAINING.optimizer(), steps=10, every=4, watch=MOMENTS, **options)
    seen = [
        train(KEY, SMALL, categorical(), DATA, TRAINING.optimizer(), steps=steps, **options).variables.params
        for steps in (4, 8, 10)
    ]
    count, mean, square = run.watched
    assert (count, run.steps) == (3, 10)
    jax.tree.map(lambda m, *w: np.testing.assert_allclose(m, np.mean(w, 0), rtol=1e-5, atol=1e-6), mean, *seen)
    jax.tree.map(
        lambda s, *w: np.testing.assert_allclose(s, np.mean(np.square(w), 0), rtol=1e-4, atol=1e-6), square, *seen
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), run.variables.params, seen[-1])
