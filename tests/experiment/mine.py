"""Parts of one's own, as a user has them in a module; tests import it, and write changed copies of it elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.tree import DecisionTreeClassifier

import bdal
from bdal import datasets, training
from bdal.experiment import Parts

CENTRE = np.linspace(-0.1, 0.1, 3, dtype=np.float32).reshape(1, 1, 1, 3)  # an array that the network closes over
SLOPE = 1.5  # and a number


class Net(nnx.Module):
    def __init__(self, num_classes, width, rngs):
        self.conv = nnx.Conv(3, width, (4, 4), strides=4, rngs=rngs)
        self.head = nnx.Linear(64 * width, num_classes, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, images):  # [B, 32, 32, 3] -> logits, features
        h = nnx.relu(SLOPE * self.conv(images - CENTRE)).reshape(len(images), -1)
        h = self.dropout(h)
        return self.head(h), h


def net(shape, num_outputs, *, width=4):
    return bdal.model_from_nnx(lambda rngs: Net(num_outputs, width, rngs))


def noisy_head(model, likelihood, how, *, members, scale=0.1):
    """In JAX: each member moves the last layer by its own noise."""

    def apply(shared, own, key, x):
        logits, features = model.apply(shared, None, x)
        return logits + scale * features @ jax.random.normal(key, (len(features), len(logits))), features

    def fit(key, data):
        learned = training.learn(key, model, likelihood, data, how)
        return bdal.Committee(apply, shared=learned.variables, noise=jax.random.split(key, members), info=learned.info)

    return training.CompiledFit(fit, model, likelihood)


class Trees:
    def __init__(self, trees, num_classes):
        self.trees, self.num_classes = trees, num_classes

    def log_probs(self, inputs):
        rows = np.asarray(inputs).reshape(len(inputs), -1)
        probs = np.full((len(rows), len(self.trees), self.num_classes), 1e-2, np.float32)
        for k, tree in enumerate(self.trees):
            probs[:, k, tree.classes_] += tree.predict_proba(rows)
        return np.log(probs / probs.sum(-1, keepdims=True))


def bagging(model, likelihood, how, *, members, num_classes=4, leaf=2):
    """In scikit-learn: trees on bootstrap samples; the network is not looked at."""

    def fit(key, data):
        rng = np.random.default_rng(int(jax.random.randint(key, (), 0, 2**31 - 1)))
        count = int(data.count)
        rows, labels = np.asarray(data.inputs)[:count].reshape(count, -1), np.asarray(data.labels)[:count]
        trees = []
        for _ in range(members):
            drawn = rng.integers(0, count, count)
            tree = DecisionTreeClassifier(min_samples_leaf=leaf, random_state=int(rng.integers(2**31)))
            trees.append(tree.fit(rows[drawn], labels[drawn]))
        return Trees(trees, num_classes)

    return fit


def ratio(*, power=1.0):
    """How near the second class is to the first."""

    def score(committee, inputs):
        best = jax.lax.top_k(jnp.exp(jnp.asarray(committee.log_probs(inputs))).mean(1), 2)[0]  # [B, 2]
        return (best[:, 1] / best[:, 0]) ** power

    return bdal.QueryStrategy(score, bdal.strategy.top)


def stripes(*, points=60, labelled=True):
    """Images with a line whose place tells the class."""
    count = points + 40
    images = np.random.default_rng(0).normal(size=(count, 32, 32, 3)).astype(np.float32)
    labels = np.arange(count) % 4
    images[np.arange(count), 8 * labels] += 2.0
    pool, test = slice(points), slice(points, None)
    return datasets.from_arrays(
        images[pool], labels[pool] if labelled else None, images[test], labels[test],
        class_names=["first", "second", "third", "fourth"],
    )  # fmt: skip


PARTS = Parts(
    models={"net": net},
    posteriors={"noisy_head": noisy_head, "bagging": bagging},
    strategies={"ratio": ratio},
    datasets={"stripes": stripes},
)
