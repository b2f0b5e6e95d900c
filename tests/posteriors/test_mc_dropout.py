"""MC dropout: one trained network and K masks.

Axes: K members, B points, C classes, S seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bdal.committee import Committee
from bdal.model import from_nnx
from bdal.models import CNN, cnn, mlp
from bdal.posteriors import fit_mc_dropout
from bdal.training import Training
from bdal.types import TrainingData
from tests.compilations import count_compilations

K, C = 5, 2
KEY = jax.random.key(0)
TRAINING = Training(steps=80, min_steps=20, batch_size=16, eval_every=20, patience=2, learning_rate=1e-2)
MODEL = mlp((2,), C, hidden=(16,), dropout=0.5)

fit = fit_mc_dropout(MODEL, training=TRAINING, members=K, validation_masks=4)  # all tests share its programs


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
    committee = fit(KEY, TrainingData(*clouds(0, 40), 40, clouds(1, 20)))
    inputs, labels = clouds(2, 60)
    assert isinstance(committee, Committee)
    assert committee.num_members == K
    assert committee.own is None
    fresh = jax.eval_shape(MODEL.init, KEY)
    shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (committee.shared, fresh)]
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
    committee = fit(KEY, TrainingData(*clouds(0, 40), 40, (inputs, 1 - labels)))
    first_look = Training(steps=TRAINING.min_steps, batch_size=16, learning_rate=1e-2)
    expected = fit_mc_dropout(MODEL, training=first_look, members=K)(KEY, TrainingData(*clouds(0, 40), 40))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), committee.shared, expected.shared)
    same_bits(jax.random.key_data(committee.noise), jax.random.key_data(expected.noise))
    assert {name: value.shape for name, value in committee.info.items()} == dict.fromkeys(committee.info, (1,))
    assert committee.info["best_step"] == TRAINING.min_steps
    assert committee.info["steps"] == TRAINING.min_steps + TRAINING.patience * TRAINING.eval_every


@pytest.mark.parametrize("members", [1, K])
def test_a_class_without_labels(members):
    fit_some = fit if members == K else fit_mc_dropout(MODEL, training=TRAINING, members=1, validation_masks=4)
    committee = fit_some(KEY, TrainingData(*clouds(0, 40, num_classes=1), 40, clouds(1, 20)))
    log_probs = committee.log_probs(clouds(2, 30)[0])
    assert log_probs.shape == (30, members, C)
    assert np.isfinite(log_probs).all()
    assert nll(committee, *clouds(2, 30, num_classes=1)) < 0.5


def test_compiles_once():
    log_probs = []
    for s in range(3):
        key, data = jax.random.fold_in(KEY, s), TrainingData(*clouds(s, 40), np.int32(10 * s), clouds(s + 5, 20))
        with count_compilations() as compilations:
            committee = fit(key, data)
        assert s == 0 or not compilations
        log_probs.append(committee.log_probs(clouds(2, 60)[0]))
    assert np.abs(log_probs[1] - log_probs[2]).max() > 1e-2


def test_a_committee_of_nobody_is_refused():
    with pytest.raises(ValueError, match="members must be at least 1, got 0"):
        fit_mc_dropout(MODEL, members=0)


@pytest.mark.slow
def test_the_network_of_the_paper_trains_in_one_form_and_scores_in_another():
    """A few steps on a few images; the committee scores by `Model.apply`, to rounding the function of `Model.train`."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.int32), 2)
    images = rng.uniform(size=(6, 28, 28, 1)).astype(np.float32)
    images[np.arange(6), :, 9 * labels] += 3.0  # a bright line at the place of the class
    training = Training(steps=12, batch_size=6, learning_rate=1e-3)
    model = cnn((28, 28, 1), 3)
    fit_cnn = fit_mc_dropout(model, training=training, members=K)
    committee, fresh = (fit_cnn(KEY, TrainingData(images, labels, count)) for count in (6, 0))
    assert nll(committee, images, labels) < nll(fresh, images, labels) - 0.1
    plain, _ = from_nnx(CNN(3, rngs=nnx.Rngs(0)), batched=False)
    keys = jax.random.split(KEY, 6)
    (logits, _), state = model.train(committee.shared, KEY, images)
    expected = jax.vmap(lambda key, x: plain(committee.shared, key, x)[0])(keys, images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert state is committee.shared.state
    shared = jax.vmap(lambda key, x: model.apply(committee.shared, key, x)[0])(keys, images)
    np.testing.assert_allclose(shared, expected, rtol=1e-4, atol=1e-4)
