"""Deep ensembles: K networks from one program, each stopped on its own validation curve.

Axes: K members, M masks a network, B points, C classes, V validation points, S seeds.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import training as training_module
from bdal.backend import trains_side_by_side
from bdal.committee import Committee
from bdal.model import model_from_functions
from bdal.posteriors import fit_deep_ensemble
from bdal.training import Training
from bdal.types import TrainingData
from tests.compilations import count_compilations

K, C = 3, 3
KEY = jax.random.key(0)
TRAINING = Training(steps=60, min_steps=10, batch_size=16, eval_every=10, patience=2, learning_rate=1e-2)


def clouds(seed, size, classes=(0, 1, 2)):
    """Three separated clouds on a circle."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, size)
    centres = 2 * np.stack([np.cos(labels * 2.1), np.sin(labels * 2.1)], 1)
    return (centres + 0.3 * rng.normal(size=(size, 2))).astype(np.float32), labels.astype(np.int32)


def init(key):
    w, head = jax.random.split(key)
    return {"w": jax.random.normal(w, (2, 16)), "b": jnp.zeros(16), "head": 0.3 * jax.random.normal(head, (16, C))}


def apply(params, key, x):
    h = jax.nn.relu(x @ params["w"] + params["b"])
    return h @ params["head"], h


def with_dropout(params, key, x):
    h = jax.nn.relu(x @ params["w"] + params["b"])
    if key is not None:
        h = 2.0 * jax.random.bernoulli(key, 0.5, h.shape) * h
    return h @ params["head"], h


MODEL = model_from_functions(init, apply)
fit = fit_deep_ensemble(MODEL, members=K, training=TRAINING)  # all tests share its programs


def close(actual, expected, tolerance):
    jax.tree.map(partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), actual, expected)


def accuracy(committee, inputs, labels):
    mean = jnp.exp(committee.log_probs(inputs)).mean(1)
    return np.mean(np.asarray(mean.argmax(-1)) == labels)


def test_ends_in_a_committee_of_k_networks_that_have_learned():
    committee = fit(KEY, TrainingData(*clouds(0, 40), 40, clouds(1, 20)))
    inputs, labels = clouds(2, 60)
    assert isinstance(committee, Committee)
    assert committee.num_members == K
    assert committee.shared is None
    assert committee.noise is None
    assert {name: value.shape for name, value in committee.info.items()} == dict.fromkeys(committee.info, (K,))
    log_probs = committee.log_probs(inputs)
    assert log_probs.shape == (60, K, C)
    assert np.abs(np.diff(log_probs, axis=1)).max((0, 2)).min() > 1e-2  # from different initialisations
    assert accuracy(committee, inputs, labels) > 0.95


def test_one_at_a_time_is_side_by_side():
    data = TrainingData(*clouds(0, 40), 30, clouds(1, 20))
    one_at_a_time = fit_deep_ensemble(MODEL, members=K, training=TRAINING, one_at_a_time=True)
    assert trains_side_by_side(MODEL.init)
    close(one_at_a_time(KEY, data).own, fit(KEY, data).own, 1e-4)


def test_an_ensemble_of_dropout_networks():
    fit_masks = fit_deep_ensemble(model_from_functions(init, with_dropout), members=2, training=TRAINING, masks=3)
    committee = fit_masks(KEY, TrainingData(*clouds(0, 40), 30))
    assert committee.num_members == 2 * 3
    assert committee.info["steps"].shape == (2 * 3,)
    head = np.asarray(committee.own.params["head"]).reshape(2, 3, 16, C)  # [K, M, ...]
    np.testing.assert_array_equal(head, np.repeat(head[:, :1], 3, axis=1))
    assert np.abs(head[0] - head[1]).max() > 1e-2
    log_probs = np.asarray(committee.log_probs(clouds(2, 60)[0]))
    assert log_probs.shape == (60, 2 * 3, C)
    for k in range(6):
        for other in range(k):
            assert np.abs(log_probs[:, k] - log_probs[:, other]).max() > 1e-3


# A member is one number t that training pushes up by RATE a step, and a start of its own. Its validation curve is read
# from the table in the validation inputs, from its start on.

RATE, STEPS, STARTS = 1e-4, 16, 5


def clock_init(key):
    return {"t": jnp.float32(0), "start": jax.random.randint(key, (), 0, STARTS)}


def clock(params, key, x):
    if key is not None:  # training
        return jnp.stack([params["t"], 0.0])
    step = jnp.round(params["t"] / RATE).astype(int)
    return jnp.stack([x[params["start"] * (STEPS + 1) + step], 0.0])


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_every_member_stops_on_its_own_validation_curve(one_at_a_time):
    training = Training(steps=STEPS, min_steps=0, batch_size=2, eval_every=2, patience=2, learning_rate=RATE)
    table = np.random.default_rng(0).normal(size=STARTS * (STEPS + 1)).astype(np.float32)
    model = model_from_functions(clock_init, clock)
    fit_clocks = fit_deep_ensemble(model, members=8, training=training, one_at_a_time=one_at_a_time)
    validation = (table[None], np.zeros(1, np.int32))
    data = TrainingData(np.zeros((1, table.size), np.float32), np.zeros(1, np.int32), 1, validation)
    params = fit_clocks(KEY, data).own.params
    stops = set()
    for start, t in zip(np.asarray(params["start"]), np.asarray(params["t"]), strict=True):
        curve = table.reshape(STARTS, STEPS + 1)[start, 2::2]  # logits of the true class: the higher, the better
        best, waited = -1, 0
        for look, logit in enumerate(curve):
            better = best < 0 or logit > curve[best]
            best, waited = (look, 0) if better else (best, waited + 1)
            if waited == 2:
                break
        assert round(float(t) / RATE) == 2 * (best + 1)
        stops.add(best)
    assert len(stops) > 2


@pytest.mark.parametrize("members", [1, K])
def test_a_class_without_labels(members):
    fit_some = fit if members == K else fit_deep_ensemble(MODEL, members=1, training=TRAINING)
    committee = fit_some(KEY, TrainingData(*clouds(0, 40, classes=(0, 2)), 40, clouds(1, 20)))
    log_probs = committee.log_probs(clouds(2, 30)[0])
    assert log_probs.shape == (30, members, C)
    assert np.isfinite(log_probs).all()
    assert accuracy(committee, *clouds(2, 60, classes=(0, 2))) > 0.95


def test_no_labels_at_all():
    nothing = TrainingData(np.full((40, 2), np.nan, np.float32), np.zeros(40, np.int32), 0, clouds(1, 20))
    committee = fit(KEY, nothing)
    assert committee.num_members == K
    assert np.isfinite(committee.log_probs(clouds(2, 5)[0])).all()
    np.testing.assert_array_equal(committee.own.params["b"], 0)


def test_compiles_once():
    params = []
    for s in range(3):
        key, data = jax.random.fold_in(KEY, s), TrainingData(*clouds(s, 40), np.int32(10 * s), clouds(s + 5, 20))
        with count_compilations() as compilations:
            params.append(fit(key, data).own.params)
        assert s == 0 or not compilations
    assert np.abs(params[1]["w"] - params[2]["w"]).max() > 1e-2


def image_init(key):
    kernel, head = jax.random.split(key)
    return {"kernel": jax.random.normal(kernel, (3, 1, 2, 2)), "head": jax.random.normal(head, (3, 2))}


def image_apply(params, key, x):
    return jax.nn.relu(jax.lax.conv(x[None], params["kernel"], (1, 1), "VALID")).mean((0, 2, 3)) @ params["head"]


def test_convolutions_of_xla_are_trained_member_by_member_from_python(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(6, 1, 4, 4)).astype(np.float32), rng.integers(0, 2, 6).astype(np.int32)
    training = Training(steps=6, min_steps=0, batch_size=4, eval_every=2, patience=2, learning_rate=1e-2)
    taken = []
    real = training_module._programs
    monkeypatch.setattr(training_module, "_programs", lambda how: (taken.append(1), real(how))[1])

    def run():
        model = model_from_functions(image_init, lambda *args: image_apply(*args))  # traced anew
        fit_images = fit_deep_ensemble(model, members=2, training=training)
        return fit_images(KEY, TrainingData(images, labels, 5, (images, labels)))

    stepped = run()
    assert len(taken) == 2
    assert stepped.log_probs(images).shape == (6, 2, 2)
    monkeypatch.setattr(training_module, "steps_from_python", lambda *_: False)
    close(stepped.own, run().own, 1e-4)
    assert len(taken) == 2


@pytest.mark.parametrize("wrong", [{"members": 0}, {"members": 2, "masks": 0}])
def test_an_ensemble_of_nobody_is_refused(wrong):
    with pytest.raises(ValueError, match=f"{list(wrong)[-1]} must be at least 1, got 0"):
        fit_deep_ensemble(MODEL, **wrong)
