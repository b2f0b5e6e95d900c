"""BAIT against its authors' rule in float64, on networks of optdigits, and the time of a query.

Usage, from the repository's root:

    python benchmarks/bait.py [--seeds 3] [--labels 20 60 120] [--hidden 128 64] [--sketch-dims 1152 288 144 72]

Trains the quickstart's network with MC dropout (K = 20) on so many labels, and selects 10 of 2,000 points: by the rule
of github.com/JordanAsh/badge (query_strategies/bait_sampling.py), written here from its formulas in NumPy; by `bait`,
with blocks of at most so many columns (below C − 1 times the features: projected); by `bait` on a random projection of
the features with as many columns; and by `bait_one_vector` at the strategy's defaults. One JSON line a network: the
trace `tr(M⁻¹ F)` after the authors' batch, and of every other batch how many of its picks are theirs, and how much
larger the trace is that it leaves, in %. Then seconds of a query of 10, the median of five: R rows of 64 features, 10
classes, 120 labelled.
"""

import argparse
import json
import os
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from bdal import datasets, models
from bdal.information import log_mean_exp
from bdal.posteriors import fit_mc_dropout
from bdal.selection import bait, bait_one_vector, gradient_features
from bdal.training import Training
from bdal.types import TrainingData

QUERY, POOL, CLASSES = 10, 2000, 10
parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--seeds", type=int, default=3)
parser.add_argument("--labels", type=int, nargs="+", default=[20, 60, 120])
parser.add_argument("--hidden", type=int, nargs="+", default=[128, 64])
parser.add_argument("--sketch-dims", type=int, nargs="+", default=[1152, 288, 144, 72])
parser.add_argument("--rows", type=int, nargs="*", default=[2000, 4000], help="of the queries that are timed")


class AuthorsRule:
    """The rule, λ = 1: blocks with the rows √p_c (e_c − p) ⊗ h, all products with a block by its two parts."""

    def __init__(self, probs, features, labelled):
        probs, self.h = probs.astype(float), features.astype(float)
        probs /= probs.sum(1, keepdims=True)
        self.shape = (CLASSES, self.h.shape[1])
        self.a = np.sqrt(probs)[:, :, None] * (np.eye(CLASSES)[None] - probs[:, None, :])
        total = labelled.sum() + QUERY
        self.scale, self.rows = (QUERY / total) ** 0.5, np.flatnonzero(~labelled)
        self.fisher = self.information(np.arange(len(probs))) / len(probs)
        self.start = np.eye(self.fisher.shape[0]) + self.information(np.flatnonzero(labelled)) / total

    def information(self, rows):
        """`Σ VᵀV`."""
        a, h = self.a[rows], self.h[rows]
        blocks = np.matmul(a.transpose(0, 2, 1), a).reshape(len(rows), -1)
        products = [(blocks[:, i, None] * h).T @ h for i in range(CLASSES**2)]
        shape = (CLASSES, CLASSES, *[self.shape[1]] * 2)
        return np.reshape(products, shape).transpose(0, 2, 1, 3).reshape([CLASSES * self.shape[1]] * 2)

    def block(self, row):
        """V, as a chosen one counts."""
        return self.scale * (self.a[row][:, :, None] * self.h[row]).reshape(CLASSES, -1)

    def between(self, rows, matrix):
        """`V matrix Vᵀ` of each row, `[R, C, C]`."""
        h, size = self.h[rows], self.shape[1]
        half = h @ matrix.reshape(*self.shape, -1).transpose(1, 0, 2).reshape(size, -1)
        inner = np.einsum("rijd,rd->rij", half.reshape(len(h), CLASSES, CLASSES, size), h)
        a = self.scale * self.a[rows]
        return a @ inner @ a.transpose(0, 2, 1)

    def falls(self, rows, inverse, sign):
        """What the trace falls by when a row is added (sign 1) or taken away (−1: below 0)."""
        inner = np.linalg.inv(sign * np.eye(CLASSES) + self.between(rows, inverse))
        return np.trace(inner @ self.between(rows, inverse @ self.fisher @ inverse), axis1=1, axis2=2)

    def updated(self, inverse, row, sign):
        """Woodbury."""
        v = inverse @ self.block(row).T
        return inverse - v @ np.linalg.inv(sign * np.eye(CLASSES) + self.block(row) @ v) @ v.T

    def select(self):
        """Forward to 2Q, backward to Q."""
        inverse, picks = np.linalg.inv(self.start), []
        for _ in range(2 * QUERY):
            falls = self.falls(self.rows, inverse, 1)
            falls[np.isin(self.rows, picks)] = -np.inf
            picks.append(int(self.rows[falls.argmax()]))
            inverse = self.updated(inverse, picks[-1], 1)
        while len(picks) > QUERY:
            gone = picks[int(np.argmin(-self.falls(picks, inverse, -1)))]
            inverse = self.updated(inverse, gone, -1)
            picks.remove(gone)
        return picks

    def trace(self, picks):
        """`tr(M⁻¹ F)`."""
        matrix = self.start + sum(self.block(row).T @ self.block(row) for row in picks)
        return float(np.trace(np.linalg.solve(matrix, self.fisher)))


def networks(args):
    """`(seed, number of labels, probs, features)` of the pool and, after it, the labelled points."""
    data = datasets.load("optdigits")
    model = models.mlp(data.inputs.shape[1:], CLASSES, hidden=tuple(args.hidden))
    training = Training(steps=400, batch_size=32, learning_rate=2e-3, eval_every=25, patience=6)
    fit = fit_mc_dropout(model, members=20, training=training)
    size = max(args.labels)
    for seed in range(args.seeds):
        labelled, validation, pool = np.split(
            np.random.default_rng(seed).permutation(len(data.inputs))[: size + 30 + POOL], [size, size + 30]
        )
        held_out = (jnp.asarray(data.inputs[validation]), jnp.asarray(data.labels[validation]))
        buffer = (jnp.asarray(data.inputs[labelled]), jnp.asarray(data.labels[labelled]))
        for count in args.labels:
            committee = fit(jax.random.key(seed), TrainingData(*buffer, count, held_out))
            inputs = jnp.asarray(data.inputs[np.r_[pool, labelled[:count]]])
            probs = jnp.exp(log_mean_exp(committee.log_probs(inputs)))
            yield seed, count, np.asarray(probs), np.asarray(committee.embedding(inputs))


def main():
    """Compare, then time."""
    args = parser.parse_args()
    for seed, count, probs, features in networks(args):
        labelled = np.arange(len(probs)) >= POOL
        rule = AuthorsRule(probs, features, labelled)
        theirs = rule.select()
        trace = rule.trace(theirs)
        known = {"available": ~labelled, "labelled": labelled, "query_size": QUERY}
        batches = {f"bait {size}": bait(features, probs, sketch_dim=size, **known) for size in args.sketch_dims}
        rng = np.random.default_rng(seed)
        for size in args.sketch_dims:
            if (width := size // (CLASSES - 1)) < features.shape[1]:
                projection = rng.normal(size=(features.shape[1], width)).astype(np.float32) / width**0.5
                batches[f"random {size}"] = bait(features @ projection, probs, **known)
        vectors = gradient_features(probs, features, sketch_dim=512, key=jax.random.key(seed))
        batches["one vector"] = bait_one_vector(vectors, noise_sigma=0.1, oversample=2.0, **known)
        found = {name: np.asarray(batch.indices).tolist() for name, batch in batches.items()}
        found["random rows"] = rng.permutation(POOL)[:QUERY].tolist()
        line = {
            "features": features.shape[1], "seed": seed, "labels": count,
            "before": round(rule.trace([]), 3), "authors": round(trace, 3),
            "picks": {name: len(set(picks) & set(theirs)) for name, picks in found.items()},
            "trace +%": {name: round(100 * (rule.trace(picks) / trace - 1), 2) for name, picks in found.items()},
        }  # fmt: skip
        print(json.dumps(line), flush=True)

    rng = np.random.default_rng(0)
    for num_rows in args.rows:
        features = jnp.asarray(2 * np.maximum(rng.normal(size=(num_rows, 64)), 0), jnp.float32)
        probs = jnp.asarray(rng.dirichlet(np.full(CLASSES, 0.2), num_rows), jnp.float32)
        labelled = jnp.arange(num_rows) >= num_rows - 120
        seconds = []
        for _ in range(6):
            start = time.perf_counter()
            jax.block_until_ready(bait(features, probs, available=~labelled, labelled=labelled, query_size=QUERY))
            seconds.append(time.perf_counter() - start)
        first, *seconds = seconds
        line = {"rows": num_rows, "seconds": round(statistics.median(seconds), 2), "first": round(first, 2)}
        print(json.dumps(line | {"load": round(os.getloadavg()[0], 1), "jax": jax.__version__}), flush=True)


if __name__ == "__main__":
    main()
