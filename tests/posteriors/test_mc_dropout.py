"""MC dropout: one trained network and K masks.

Axes: K members, B points, C classes, S seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal.adapters import from_nnx, nnx_init
from bdal.committee import Committee
from bdal.models import CNN, MLP
from bdal.posteriors import fit_mc_dropout
from bdal.training import Training
from tests.compilations import count_compilations

K, C = 5, 2
KEY = jax.random.key(0)
TRAINING = Training(
    steps=80, min_steps=20, batch_size=16, eval_every=20, patience=2, learning_rate=1e-2, validation_samples=4
)


def make(rngs):
    return MLP(2, C, hidden=(16,), dropout=0.5, rngs=rngs)


init = nnx_init(make)
apply, _ = from_nnx(make(nnx.Rngs(0)), batched=False)
fit = fit_mc_dropout(init, apply, num_members=K, training=TRAINING)  # all tests share its programs


def clouds(seed, size, num_classes=C):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size)
    return (rng.normal(size=(size, 2)) * 0.3 + 2 * labels[:, None] - 1).astype(np.float32), labels.astype(np.int32)


def same_bits(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def nll(committee, inputs, labels):
    """Of the committee's mean."""
    mean = np.asarray(jnp.exp(committee.log_probs(inputs)).mean(1))
    return -np.log(np.take_along_axis(mean, labels[:, None], 1)).mean()


def test_ends_in_a_committee_of_k_masks_that_has_learned():
    committee = fit(KEY, *clouds(0, 40), 40, clouds(1, 20))
    inputs, labels = clouds(2, 60)
    assert isinstance(committee, Committee)
    assert committee.num_members == K
    assert not committee.stacked
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (committee.params, jax.eval_shape(init, KEY))]
    assert shapes[0] == shapes[1]
    log_probs = np.asarray(committee.log_probs(inputs))
    assert log_probs.shape == (60, K, C)
    for k in range(K):
        for other in range(k):
            assert np.abs(log_probs[:, k] - log_probs[:, other]).max() > 1e-3
    assert nll(committee, inputs, labels) < 0.2


def test_training_stops_early_where_validation_says_so():
    """Against the wrong labels the first look is the best: the parameters are those of that many steps."""
    inputs, labels = clouds(1, 20)
    committee = fit(KEY, *clouds(0, 40), 40, (inputs, 1 - labels))
    first_look = Training(steps=TRAINING.min_steps, batch_size=16, learning_rate=1e-2)
    expected = fit_mc_dropout(init, apply, num_members=K, training=first_look)(KEY, *clouds(0, 40), 40, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), committee.params, expected.params)
    same_bits(jax.random.key_data(committee.keys), jax.random.key_data(expected.keys))


@pytest.mark.parametrize("num_members", [1, K])
def test_a_class_without_labels(num_members):
    fit_some = fit if num_members == K else fit_mc_dropout(init, apply, num_members=1, training=TRAINING)
    committee = fit_some(KEY, *clouds(0, 40, num_classes=1), 40, clouds(1, 20))
    log_probs = committee.log_probs(clouds(2, 30)[0])
    assert log_probs.shape == (30, num_members, C)
    assert np.isfinite(log_probs).all()
    assert nll(committee, *clouds(2, 30, num_classes=1)) < 0.5


def test_compiles_once():
    log_probs = []
    for s in range(3):
        key, data = jax.random.fold_in(KEY, s), (*clouds(s, 40), np.int32(10 * s), clouds(s + 5, 20))
        with count_compilations() as compilations:
            committee = fit(key, *data)
        assert s == 0 or not compilations
        log_probs.append(committee.log_probs(clouds(2, 60)[0]))
    assert np.abs(log_probs[1] - log_probs[2]).max() > 1e-2


def test_a_committee_of_nobody_is_refused():
    with pytest.raises(ValueError, match="num_members must be at least 1, got 0"):
        fit_mc_dropout(init, apply, num_members=0)


@pytest.mark.slow
def test_the_network_of_the_paper_trains_in_one_form_and_scores_in_another():
    """A few steps on a few images; the committee scores with `score_apply`, to rounding the same function."""
    plain, _ = from_nnx(CNN(3, rngs=nnx.Rngs(0)), batched=False)
    shared, _ = from_nnx(CNN(3, shared_masks=True, rngs=nnx.Rngs(0)), batched=False)
    cnn_init = nnx_init(lambda rngs: CNN(3, rngs=rngs))
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.int32), 2)
    images = rng.uniform(size=(6, 28, 28, 1)).astype(np.float32)
    images[np.arange(6), :, 9 * labels] += 3.0  # a bright line at the place of the class
    training = Training(steps=12, batch_size=6, learning_rate=1e-3)
    fit_cnn = fit_mc_dropout(cnn_init, plain, num_members=K, training=training, score_apply=shared)
    committee, fresh = (fit_cnn(KEY, images, labels, count, None) for count in (6, 0))
    assert committee.apply is shared
    assert nll(committee, images, labels) < nll(fresh, images, labels) - 0.1
