from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal import training as module
from bdal.likelihood import categorical
from bdal.model import model_from_functions
from bdal.posteriors import fit_snapshots
from bdal.training import Training, train
from bdal.types import TrainingData

SCHEDULE = Training(steps=30, batch_size=8, learning_rate=1e-2)
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(12, 3)).astype(np.float32)
LABELS = (INPUTS[:, 0] > 0).astype(np.int32)


DATA = TrainingData(INPUTS, LABELS, 12, (INPUTS, LABELS))
MODEL = model_from_functions(lambda key: 0.1 * jax.random.normal(key, (3, 2)), lambda params, key, x: x @ params)


@pytest.mark.parametrize("from_python", [False, True])
def test_members_are_moments_of_one_training(from_python, monkeypatch):
    if from_python:
        monkeypatch.setattr(module, "steps_from_python", lambda *_: True)
    committee = fit_snapshots(MODEL, members=3, training=SCHEDULE)(jax.random.key(0), DATA)
    assert committee.num_members == 3
    for member, steps in enumerate((10, 20, 30)):
        alone = train(
            jax.random.key(0), MODEL, categorical(), DATA, SCHEDULE.optimizer(), steps=steps,
            batch_size=SCHEDULE.batch_size,
        )  # fmt: skip
        np.testing.assert_allclose(committee.own.params[member], alone.variables.params, rtol=1e-5, atol=1e-6)
    log_probs = committee.log_probs(jnp.asarray(INPUTS))
    nll = -jnp.take_along_axis(log_probs, LABELS[:, None, None], axis=-1).mean((0, 2))  # [K]
    assert (jnp.diff(nll) < 0).all()


def test_steps_that_members_do_not_divide_are_left_out():
    schedule = replace(SCHEDULE, steps=31)
    fits = [fit_snapshots(MODEL, members=3, training=each) for each in (schedule, SCHEDULE)]
    np.testing.assert_array_equal(*[fit(jax.random.key(0), DATA).own.params for fit in fits])


def test_misuse_is_named():
    with pytest.raises(ValueError, match="members: expected 1 to 30, the steps of training, got 31"):
        fit_snapshots(MODEL, members=31, training=SCHEDULE)
