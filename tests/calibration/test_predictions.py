"""Predictions as other frameworks write them: each message names what they are, and what to pass."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import calibration
from bdal.calibration import accuracy, brier, ece, nll
from bdal.errors import LabelError

RANDOM = np.random.default_rng(0)
METRICS = [accuracy, brier, ece, nll]


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


LOGITS = 4 * RANDOM.normal(size=(50, 100))
PROBS = softmax(LOGITS)
LABELS = PROBS.argmax(-1)
FLAT = softmax(RANDOM.normal(size=(50, 20))).round(2)
SIGMOID = RANDOM.uniform(0.01, 0.99, size=(50, 1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("probs", "hint"),
    [
        (PROBS.round(3), r"rounded probabilities: renormalise, probs / probs\.sum"),
        (FLAT, "rounded probabilities: renormalise"),
        (SIGMOID, r"binary classifier: stack \[1 - p, p\]"),
        (100 * PROBS, "percentages: divide by 100"),
        (RANDOM.uniform(size=(50, 10)), "a sigmoid each"),
        (LOGITS, r"logits: pass jax\.nn\.softmax"),
        (np.log(PROBS), r"log-probabilities: pass jnp\.exp"),
    ],
)
def test_what_is_no_distribution_is_called_by_its_name(metric, probs, hint):
    with pytest.raises(ValueError, match=rf"if these are .*{hint}"):
        metric(probs.astype(np.float32), np.minimum(LABELS, probs.shape[-1] - 1))


def test_what_the_messages_say_is_right():
    probs = PROBS.round(3).astype(np.float32)
    renormalised = probs / probs.sum(-1, keepdims=True)
    assert abs(float(ece(renormalised, LABELS)) - float(ece(PROBS.astype(np.float32), LABELS))) < 0.01
    binary, labels = SIGMOID.astype(np.float32), (SIGMOID[:, 0] > 0.3).astype(int)
    stacked = jnp.concatenate([1 - binary, binary], -1)
    expected = -np.log(np.where(labels == 1, SIGMOID[:, 0], 1 - SIGMOID[:, 0])).mean()
    np.testing.assert_allclose(nll(stacked, labels), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("labels", "error", "hint"),
    [
        (LABELS[:, None], ValueError, r"labels must have shape \[\.\.\., N\], got \(50, 1\); pass labels\[\.\.\., 0\]"),
        (LABELS.astype(str), LabelError, r"got text; pass .*np\.unique"),
        (np.arange(50) % 100 + 51, LabelError, "of classes from 1 on pass labels - 1"),
        (LABELS.astype(np.int64) + 2**32, LabelError, "not .the first, .0., is 42949"),
        (LABELS.astype(np.uint64) - np.uint64(100), LabelError, "is 184467"),
        (np.eye(100, dtype=int)[LABELS], ValueError, r"of one-hot labels pass labels\.argmax"),
    ],
)
def test_labels_as_columns_text_from_one_on_and_one_hot(labels, error, hint):
    with pytest.raises(error, match=hint):
        accuracy(PROBS.astype(np.float32), labels)


def test_the_nll_of_log_probabilities_knows_better_where_a_probability_is_0():
    logits = np.array([[[0.0, 300.0, -5.0], [2.0, 1.0, 0.0]]], np.float32)
    labels = np.array([[0, 2]])
    log_probs = logits.astype(float) - np.log(np.exp(logits.astype(float) - 300).sum(-1, keepdims=True)) - 300
    log_probs[0, 1] = np.log(softmax(logits[0, 1].astype(float)))
    found = nll(labels=labels, log_probs=jax.nn.log_softmax(logits))
    np.testing.assert_allclose(found, [-(log_probs[0, 0, 0] + log_probs[0, 1, 2]) / 2], rtol=1e-6)
    assert np.isinf(nll(jax.nn.softmax(logits), labels)).all()
    np.testing.assert_allclose(
        jax.jit(lambda x: nll(labels=labels, log_probs=x))(jax.nn.log_softmax(logits)), found, rtol=1e-6
    )
    assert np.isinf(nll(labels=[0], log_probs=jnp.array([[-jnp.inf, 0.0]])))


def test_nll_takes_one_of_both():
    probs = PROBS.astype(np.float32)
    for arguments in ({}, {"probs": probs}, {"labels": LABELS}, {"probs": probs, "labels": LABELS, "log_probs": probs}):
        with pytest.raises(TypeError, match=r"expected nll\(probs, labels\) or nll\(labels=\.\.\., log_probs=\.\.\.\)"):
            nll(**arguments)
    with pytest.raises(ValueError, match=r"must be log-probabilities.*look like probabilities"):
        nll(labels=LABELS, log_probs=probs)
    with pytest.raises(ValueError, match="look like rounded probabilities"):
        calibration.fit_temperature(FLAT.astype(np.float32), FLAT.argmax(-1))
