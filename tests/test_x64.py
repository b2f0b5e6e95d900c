"""With JAX_ENABLE_X64 scores and picks are what they are without."""

import json
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bdal.acquisition import ACQUISITION_FUNCTIONS
from bdal.committee import deep_ensemble
from bdal.selection import joint_information
from bdal.strategy import make_strategy, query

SOME = (
    "badge", "bait", "bait_one_vector", "batchbald", "contrastive", "epig", "frank_wolfe", "k_center", "k_means",
    "power_bald", "prob_cover", "random", "typiclust", "vote_entropy", "weighted_coverage",
)  # fmt: skip


def everything() -> dict[str, list]:
    """The picks of strategies of every kind, and numbers of what they are made of, to three digits."""
    rng = np.random.default_rng(0)
    points, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((40, 5), (6, 5, 4)))
    committee, pool, labelled = deep_ensemble(lambda w, key, x: (x @ w, x), weights), points[:35], points[35:]
    log_probs = committee.log_probs(pool)
    found = {"joint_information": joint_information(log_probs[:3]), "norms": committee.gradient_norms(pool[:4])}
    warnings.simplefilter("ignore")
    for name, function in ACQUISITION_FUNCTIONS.items():
        found[f"score {name}"] = function(log_probs)
    for name in SOME:
        found[name] = query(
            jax.random.key(0), make_strategy(name), committee, pool, query_size=4, labelled_inputs=labelled,
            labels=jnp.zeros(5, jnp.int32), targets=pool[:7], held_out=(pool[:6], jnp.arange(6) % 4), chunk_size=16,
        ).indices  # fmt: skip
    return {name: np.asarray(values, float).round(3).tolist() for name, values in found.items()}


@pytest.mark.slow
def test_with_x64_everything_is_as_without():
    program = "import json, jax; from tests import test_x64; print(json.dumps(test_x64.everything()))"
    with_x64, without = (
        subprocess.run(
            [sys.executable, "-c", program], env=os.environ | {"JAX_ENABLE_X64": value}, capture_output=True, text=True,
            timeout=600,
        )
        for value in ("1", "0")
    )  # fmt: skip
    assert without.returncode == with_x64.returncode == 0, with_x64.stderr[-2000:]
    expected, found = json.loads(without.stdout), json.loads(with_x64.stdout)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=2e-3, err_msg=name)
