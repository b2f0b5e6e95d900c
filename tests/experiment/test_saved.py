"""What a run kept predicts as it did when it was evaluated."""

import numpy as np
import pytest

from bdal.calibration import accuracy
from bdal.errors import ConfigError
from bdal.experiment import config, durable
from bdal.experiment.data import load
from bdal.experiment.run import run
from bdal.experiment.saved import load_committee
from tests.experiment.test_run import Watch


@pytest.mark.parametrize("posterior", ["mc_dropout", "deep_ensemble", "snapshots"])
def test_the_last_committee_comes_back(tmp_path, posterior):
    experiment = config.Experiment(
        name="kept", seeds=2, parameters="last", data=config.Data(pool=60, test=80),
        model=config.Model(hidden=(16,), dropout=0.2), training=config.Training(steps=40, min_steps=5, eval_every=10),
        labels=config.Labels(budget=30, initial=14), query=config.Query(size=10),
        comparisons=(config.Comparison(posterior, 3, (config.Strategy("random"),)),),
    )  # fmt: skip
    run(experiment, tmp_path, Watch())
    inputs, labels = load(experiment).test
    for seed in range(2):
        committee = load_committee(tmp_path, posterior, "random", seed)
        last = durable.read(tmp_path / posterior / "random" / f"seed_{seed}" / "ledger.jsonl")[-2]
        probs = np.exp(committee.log_probs(inputs)).mean(1)
        assert float(accuracy(probs, labels)) == pytest.approx(last["accuracy"])
    with pytest.raises(ConfigError, match=r"expected one of its runs, found .*/random with seed 2"):
        load_committee(tmp_path, posterior, "random", 2)
