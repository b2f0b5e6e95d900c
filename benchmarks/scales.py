"""The scales that covers take from the features of a network in training, on optdigits.

Usage, from the repository's root:

    python benchmarks/scales.py [--seeds 3] [--labels 20 60 120]

Trains the quickstart's network with MC dropout (K = 20) on so many labels. One JSON line a network, of the unit rows of
all 3,823 digits: the smallest gap of the labelled (`uncertainty_herding`), half the usual distance of two rows
(`max_herding`), the radius of 95 % ball purity by k-means clusters (`prob_cover`, rule "paper") and by true classes,
the rows in a ball of each radius (median, largest), and the temperature fitted to 30 held-out labels.
"""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np

from bdal import datasets, models
from bdal.calibration import fit_temperature
from bdal.information import log_mean_exp
from bdal.posteriors import fit_mc_dropout
from bdal.selection import half_spread, k_means_clusters, purity_radius, smallest_gap, unit_rows
from bdal.training import Training
from bdal.types import TrainingData

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--labels", type=int, nargs="+", default=[20, 60, 120])


def main():
    """Print one line a network."""
    args = parser.parse_args()
    data = datasets.load("optdigits")
    inputs, labels = jnp.asarray(data.inputs), np.asarray(data.labels)
    model = models.mlp(inputs.shape[1:], 10)
    training = Training(steps=400, batch_size=32, learning_rate=2e-3, eval_every=25, patience=6)
    fit = fit_mc_dropout(model, members=20, training=training)
    everything = jnp.ones(len(inputs), bool)
    for seed in range(args.seeds):
        order = np.random.default_rng(seed).permutation(len(inputs))
        for count in args.labels:
            bought, validation = order[:count], order[-30:]
            held_out = inputs[validation], jnp.asarray(labels[validation])
            known = TrainingData(inputs[bought], jnp.asarray(labels[bought]), count, held_out)
            committee = fit(jax.random.key(seed), known)
            rows = unit_rows(committee.embedding(inputs))
            squared = 2 - 2 * np.asarray(rows @ rows.T)
            clusters = k_means_clusters(jax.random.key(seed), rows, num_clusters=10, available=everything)
            radii = {
                "half spread": half_spread(rows, everything),
                "purity of clusters": purity_radius(rows, clusters, available=everything),
                "purity of classes": purity_radius(rows, labels, available=everything),
            }
            balls = {name: (squared <= float(radius) ** 2).sum(1) for name, radius in radii.items()}
            line = {
                "seed": seed, "labels": count,
                "smallest gap": smallest_gap(rows, jnp.zeros(len(rows), bool).at[bought].set(True)),
                **radii,
                "temperature": fit_temperature(log_mean_exp(committee.log_probs(held_out[0])), held_out[1]).temperature,
            }  # fmt: skip
            line = {name: round(float(value), 3) for name, value in line.items()}
            line["rows in a ball"] = {name: [int(np.median(ball)), int(ball.max())] for name, ball in balls.items()}
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
