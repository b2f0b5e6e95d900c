"""What an installed bdal must be able to do without the checkout: load data, train and query."""

import jax
import jax.numpy as jnp

import bdal
from bdal import datasets


def apply(params, key, x):
    """One linear layer."""
    return x @ params, x


data = datasets.load("optdigits")
inputs = jnp.asarray(data.inputs).reshape(len(data.inputs), -1)
model = bdal.model_from_functions(lambda key: 0.1 * jax.random.normal(key, (inputs.shape[1], 10)), apply)
fit = bdal.fit_deep_ensemble(model, members=3, training=bdal.Training(steps=50, batch_size=32))
committee = fit(jax.random.key(0), bdal.TrainingData(inputs[:100], jnp.asarray(data.labels[:100]), 100))
strategy = bdal.make_strategy("weighted_coverage")
query = bdal.query(
    jax.random.key(1), strategy, committee, inputs[100:600], query_size=5, labelled_inputs=inputs[:100],
    labels=jnp.asarray(data.labels[:100]),
)  # fmt: skip
assert len(set(query.indices.tolist())) == 5
print("bdal", bdal.__version__, "works:", query.indices.tolist())
