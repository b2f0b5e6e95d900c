"""What a run kept predicts as it did when it was evaluated."""

import numpy as np
import pytest

from bdal import config
from bdal.config.data import load
from bdal.errors import ConfigError
from bdal.experiment.run import run_experiment
from bdal.experiment.saved import load_committee
from bdal.store import durable
from tests.experiment.test_run import Watch


@pytest.mark.parametrize("posterior", ["mc_dropout", "deep_ensemble", "snapshots"])
def test_the_last_committee_comes_back(tmp_path, posterior):
    experiment = config.Experiment(
        name="kept", seeds=2, parameters="last", data=config.Data(pool=60, test=80),
        model=config.Named("mlp", {"hidden": [16], "dropout": 0.2}),
        training=config.Training(steps=40, min_steps=5, eval_every=10),
        labels=config.Labels(budget=30, initial=14), query=config.Query(size=10),
        evaluation=config.Evaluation(members=2, points=50),
        comparisons=(config.Comparison(posterior, 3, (config.Named("random"),)),),
    )  # fmt: skip
    run_experiment(experiment, tmp_path, progress=Watch())
    data = load(experiment)
    for seed in range(2):
        committee = load_committee(tmp_path, posterior, "random", seed)
        last = durable.read(tmp_path / posterior / "random" / f"seed_{seed}" / "ledger.jsonl")[-2]
        assert (len(data.quick_test[1]), len(data.test[1])) == (50, 80)
        for event, members, (inputs, labels) in ((last, 2, data.quick_test), (last["final"], 3, data.test)):
            probs = np.exp(np.asarray(committee.log_probs(inputs), float)[:, :members]).mean(1)
            right = probs[np.arange(len(labels)), labels]
            assert (
                (event["members"], event["points"]) == (members, len(labels)) == (members, 50 if members == 2 else 80)
            )
            assert np.mean(probs.argmax(-1) == labels) == pytest.approx(event["accuracy"])
            assert -np.log(right).mean() == pytest.approx(event["nll"], rel=1e-4)
            assert ((probs**2).sum(-1) - 2 * right + 1).mean() == pytest.approx(event["brier"], rel=1e-4)
    with pytest.raises(ConfigError, match=r"expected one of its runs, found .*/random with seed 2"):
        load_committee(tmp_path, posterior, "random", 2)
