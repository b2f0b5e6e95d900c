"""Programs that cost nothing, in the place of training, for tests of what is written and when."""

import jax
import numpy as np

from bdal.experiment.programs import MOST_PREDICTED, Programs
from bdal.selection import Query


def made_up_programs(experiment, comparison, fit, together, num_classes=None) -> Programs:
    """Programs whose results depend on all that they should depend on, and on how many seeds are in one program."""

    def fit(keys, labelled, validation, pool):
        known = [(one.labels[: one.count].sum(), one.indices[: one.count].sum()) for one in labelled]
        held_out = [(one.labels * (1 + one.indices)).sum() % 89 for one in validation]
        seed = [np.asarray(jax.random.key_data(key)).sum() % 997 for key in keys]
        parts = zip(seed, held_out, known, strict=True)
        return np.array([s + v + labels + 3 * indices for s, v, (labels, indices) in parts], float)

    def evaluate(committee, inputs, labels, count):
        value = (committee % 89) / 89 + 1e-9 * len(committee) + 1e-3 * count
        return {"accuracy": value / 2, "nll": value, "brier": value, "ece": value, MOST_PREDICTED: value}

    def query(strategy, keys, committee, labelled, validation, excluded, pool):
        found = []
        for key, one, closed in zip(keys, labelled, excluded, strict=True):
            order = np.asarray(jax.random.permutation(key, len(pool)))
            free = ~closed[order] & ~np.isin(order, one.indices[: one.count])
            indices = order[free][: experiment.query.size].astype(np.int32)
            found.append(Query(indices, np.ones(len(indices), np.float32)))
        return found, [[] for _ in keys]

    def predict(committee, inputs):
        return np.outer(committee, np.arange(len(inputs))).astype(int) % 10

    members = min(experiment.evaluation.members or comparison.members, comparison.members)

    def of_seed(committee, s):
        return committee[s] if together else committee

    return Programs(fit, evaluate, lambda *_: None, predict, query, of_seed, members, comparison.members)
