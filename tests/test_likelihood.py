"""What outputs mean, against closed forms in float64; committees of numbers on a small regression.

Axes: N points, K members, P outputs, C classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bdal import acquisition
from bdal.acquisition import Gaussian
from bdal.committee import Committee, deep_ensemble, mc_dropout
from bdal.errors import LabelError
from bdal.likelihood import SMALLEST_VARIANCE, Likelihood, categorical, gaussian
from bdal.model import model_from_functions
from bdal.models import mlp
from bdal.posteriors import fit_deep_ensemble, fit_mc_dropout, make_posterior
from bdal.strategy import QueryStrategy, query
from bdal.strategy.scores import top
from bdal.training import Training
from bdal.types import TrainingData
from tests.compilations import count_compilations

RNG = np.random.default_rng(0)
KEY = jax.random.key(0)


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
@pytest.mark.parametrize("shape", [(), (7,), (2, 5)])
def test_categorical_is_the_softmax(shape, scale):
    logits = scale * RNG.normal(size=(*shape, 4))
    labels = RNG.integers(0, 4, shape)
    exact = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
    exact -= logits.max(-1, keepdims=True)
    outputs = jnp.asarray(logits, jnp.float32)
    np.testing.assert_allclose(categorical().predict(outputs), exact, rtol=1e-5, atol=1e-5)
    loss = categorical().loss(outputs, jnp.asarray(labels))
    assert loss.shape == shape
    expected = -np.take_along_axis(exact, labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_outputs_are_summed_in_single():
    outputs = jnp.asarray(RNG.normal(size=(50, 10)), jnp.bfloat16)
    assert categorical().predict(outputs).dtype == categorical().loss(outputs, jnp.zeros(50, int)).dtype == jnp.float32
    np.testing.assert_allclose(jnp.exp(categorical().predict(outputs)).sum(-1), 1, rtol=1e-5)
    numbers = gaussian().predict(outputs[:, :2])
    assert numbers.mean.dtype == numbers.variance.dtype == jnp.float32


def test_gradients_of_classes_are_finite_at_saturated_logits():
    outputs = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 0.0, 0.0]])
    for label in range(3):
        gradient = jax.grad(lambda o, label=label: categorical().loss(o, jnp.full(3, label)).sum())(outputs)
        assert jnp.isfinite(gradient).all()
        np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-6)  # p − e_c


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (7,), (2, 5)])
def test_gaussian_is_the_normal_density(shape):
    outputs, labels = 3 * RNG.normal(size=(*shape, 2)), RNG.normal(size=shape)
    variance = np.logaddexp(0, outputs[..., 1]) + SMALLEST_VARIANCE
    predicted = gaussian().predict(jnp.asarray(outputs, jnp.float32))
    assert isinstance(predicted, Gaussian)
    np.testing.assert_allclose(predicted.mean, outputs[..., 0], rtol=1e-6)
    np.testing.assert_allclose(predicted.variance, variance, rtol=1e-5)
    loss = gaussian().loss(jnp.asarray(outputs, jnp.float32), jnp.asarray(labels, jnp.float32))
    assert loss.shape == shape
    expected = -stats.norm.logpdf(labels, outputs[..., 0], np.sqrt(variance))
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spread", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("label", [0.0, 1e3, -1e3])
def test_gradients_of_numbers_are_finite_at_extremes(spread, label):
    outputs = jnp.array([0.5, spread])
    value, gradient = jax.value_and_grad(lambda o: gaussian().loss(o, jnp.float32(label)))(outputs)
    assert jnp.isfinite(value)
    assert jnp.isfinite(gradient).all()
    assert gaussian().predict(outputs).variance >= SMALLEST_VARIANCE


def test_a_number_needs_two_outputs():
    for num in (1, 3):
        with pytest.raises(ValueError, match=rf"expected outputs \[2\], mean and variance, .*got shape \(5, {num}\)"):
            gaussian().predict(jnp.ones((5, num)))


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_that_are_none_are_named_by_row():
    categorical().check_labels(np.array([0, 2, 1]), 3, "labels")
    gaussian().check_labels(np.array([0.5, -1e9]), 2, "labels")
    wrong = [
        (
            categorical(),
            np.array([0, 3]),
            r"^labels: expected a class in \[0, 3\), as the network has, got 3 in row 1$",
        ),
        (categorical(), np.array([-1, 0]), r"got -1 in row 0$"),
        (categorical(), np.array([0.0, 1.0]), r"^labels: expected integer classes, got float64$"),
        (gaussian(), np.array([1.0, np.nan]), r"^labels: expected finite numbers, got nan in row 1$"),
        (gaussian(), np.array([-np.inf]), r"got -inf in row 0$"),
        (
            gaussian(),
            np.array([1, 2]),
            r"^labels: expected floating-point numbers for a gaussian likelihood, got int64$",
        ),
    ]
    for likelihood, labels, message in wrong:
        with pytest.raises(LabelError, match=message):
            likelihood.check_labels(labels, 3, "labels")


def test_a_fit_looks_at_its_labels():
    model = mlp((1,), 2, hidden=(4,))
    inputs, numbers, classes = np.ones((3, 1), np.float32), np.ones(3, np.float32), np.zeros(3, np.int32)
    fit = fit_mc_dropout(model, gaussian(), Training(steps=2), members=2)
    with pytest.raises(LabelError, match=r"^labels: expected one number for each of the inputs, .*got int32"):
        fit(KEY, TrainingData(inputs, classes, 3))
    with pytest.raises(LabelError, match=r"^labels: expected finite numbers, got nan in row 1"):
        fit(KEY, TrainingData(inputs, np.array([0, np.nan, np.nan], np.float32), 2))
    with pytest.raises(LabelError, match=r"^validation labels: expected finite numbers, got inf in row 0"):
        fit(KEY, TrainingData(inputs, numbers, 3, (inputs[:1], np.array([np.inf], np.float32))))
    fit(KEY, TrainingData(inputs, np.array([0, 1, np.nan], np.float32), 2))  # a row that is not real may hold anything
    with pytest.raises(LabelError, match=r"^labels: expected one integer class for each of the inputs, .*got float32"):
        fit_mc_dropout(model, categorical(), Training(steps=2), members=2)(KEY, TrainingData(inputs, numbers, 3))


def test_likelihoods_of_a_kind_are_equal_so_that_nothing_is_traced_twice():
    for make, other in ((categorical, gaussian), (gaussian, categorical)):
        assert make() == make()
        assert hash(make()) == hash(make())
        assert make() != other()
        assert isinstance(make(), Likelihood)
        assert make().name == make.__name__
    params, inputs = RNG.normal(size=(3, 4, 2)).astype(np.float32), jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
    for _ in range(2):
        committee = deep_ensemble(lambda w, noise, x: x @ w, params, likelihood=gaussian())
        with count_compilations() as compilations:
            jax.block_until_ready(jax.jit(linear_gaussian)(params, inputs))
            committee.gaussian(inputs)
    assert len(compilations) <= 2  # another lambda, but not another likelihood


def linear(w, noise, x):
    return x @ w


def linear_gaussian(params, inputs):
    return deep_ensemble(linear, params, likelihood=gaussian()).gaussian(inputs)


# -- committees that predict numbers ----------------------------------------------------------------------------------

N = 60
X = np.linspace(-1, 1, N, dtype=np.float32)[:, None]
NOISE = 0.05 + 0.3 * (X[:, 0] > 0)  # more on the right
Y = (np.sin(3 * X[:, 0]) + NOISE * RNG.normal(size=N)).astype(np.float32)
HELD_OUT = (X[::3], (np.sin(3 * X[::3, 0]) + NOISE[::3] * RNG.normal(size=20)).astype(np.float32))
MODEL = mlp((1,), 2, hidden=(32,), dropout=0.05)
SCHEDULE = Training(steps=600, min_steps=300, batch_size=32, learning_rate=2e-2, patience=20)
DATA = TrainingData(X, Y, N, HELD_OUT)


@pytest.mark.parametrize("name", ["mc_dropout", "deep_ensemble"])
def test_a_committee_of_numbers_learns_the_mean_and_the_noise(name):
    fit = make_posterior(name, MODEL, likelihood=gaussian(), training=SCHEDULE, members=5)
    committee = fit(KEY, DATA)
    predicted = committee.gaussian(X)
    assert isinstance(committee, Committee)
    assert isinstance(predicted, Gaussian)
    assert predicted.mean.shape == predicted.variance.shape == (N, 5)
    error = np.sqrt(np.mean((predicted.mean.mean(1) - np.sin(3 * X[:, 0])) ** 2))
    assert error < 0.2
    deviation = np.sqrt(predicted.variance.mean(1))
    assert deviation[X[:, 0] > 0.2].mean() > 2 * deviation[X[:, 0] < -0.2].mean()
    assert np.isfinite(committee.info["validation_nll"]).all()
    assert np.abs(np.diff(predicted.mean, axis=1)).max() > 1e-3
    assert committee.features(X).shape == (N, 5, 32)


def test_its_members_are_its_network():
    params = jnp.asarray(RNG.normal(size=(4, 3, 2)), jnp.float32)
    inputs = jnp.asarray(RNG.normal(size=(6, 3)), jnp.float32)
    found = deep_ensemble(linear, params, likelihood=gaussian()).gaussian(inputs)
    outputs = np.einsum("nd,kdp->nkp", np.float64(inputs), np.float64(params))
    np.testing.assert_allclose(found.mean, outputs[..., 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.variance, np.logaddexp(0, outputs[..., 1]) + SMALLEST_VARIANCE, rtol=1e-4)


def test_it_has_no_log_probs_and_one_of_classes_has_no_numbers():
    inputs = jnp.ones((2, 3))
    numbers = deep_ensemble(linear, jnp.ones((4, 3, 2)), likelihood=gaussian())
    with pytest.raises(ValueError, match=r"^log_probs: expected a committee of classes, got .*; see `gaussian`"):
        numbers.log_probs(inputs)
    with pytest.raises(ValueError, match=r"^gradient_norms: expected a committee of classes, got a gaussian one"):
        numbers.gradient_norms(inputs)
    with pytest.raises(
        ValueError, match=r"^gaussian: expected a committee that predicts numbers, got .*; see `log_probs`"
    ):
        deep_ensemble(linear, jnp.ones((4, 3, 2))).gaussian(inputs)
    with pytest.raises(ValueError, match=r"expected outputs \[2\], mean and variance"):
        mc_dropout(linear, jnp.ones((3, 5)), jax.random.split(KEY, 2), likelihood=gaussian()).gaussian(inputs)


def test_training_minimises_the_mean_loss_of_numbers():
    """A constant network comes to the mean and the variance of its labels."""
    labels = np.array([1.0, 2.0, 4.0, 5.0], np.float32)
    model = model_from_functions(lambda key: jnp.zeros(2), lambda params, noise, x: params)
    training = Training(steps=1500, batch_size=64, learning_rate=1e-2)
    fit = fit_deep_ensemble(model, gaussian(), training, members=1)
    found = fit(KEY, TrainingData(np.zeros((4, 1), np.float32), labels, 4)).gaussian(np.zeros((1, 1), np.float32))
    np.testing.assert_allclose(found.mean, [[labels.mean()]], atol=0.15)
    np.testing.assert_allclose(found.variance, [[labels.var()]], rtol=0.2)


def test_a_query_by_what_it_says():
    committee = deep_ensemble(linear, jnp.asarray(RNG.normal(size=(5, 3, 2)), jnp.float32), likelihood=gaussian())
    pool = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32)
    most_doubtful = QueryStrategy(lambda committee, x: acquisition.gaussian_bald(committee.gaussian(x)), top)
    found = query(KEY, most_doubtful, committee, pool, query_size=3)
    scores = acquisition.gaussian_bald(committee.gaussian(pool))
    assert sorted(found.indices.tolist()) == sorted(np.argsort(-scores)[:3].tolist())
