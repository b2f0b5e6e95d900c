"""A network that predicts the loss of a point from its features.

Axis letters: L labelled points, B points of a chunk, P pairs of a minibatch, D features.
"""

from functools import cache

import jax
import jax.numpy as jnp

from bdal.contrib.networks import draw_real, init_mlp, minimise, mlp, standardised
from bdal.information import log_mean_exp
from bdal.strategy import QueryStrategy, top


@cache
def loss_prediction(
    hidden: int = 64, steps: int = 500, pairs: int = 64, learning_rate: float = 1e-3, margin: float = 1.0
) -> QueryStrategy:
    """The points whose predicted loss is largest.

    `prepare` trains `l̂ = MLP(h)` on the labelled points by pairs, `max(0, ξ − sign(l_i − l_j)(l̂_i − l̂_j))`, with `l`
    the negative log-probability of the label under the committee's mean, in nats: only the order of the losses counts.
    The features `h` are the committee's embedding.

    Differs from the paper: the features stay as they are; in the paper the module trains with the network, at
    several depths.

    Args:
      hidden: width of the module's two hidden layers.
      steps, pairs, learning_rate: of Adam, with P pairs a step.
      margin: ξ.

    Raises:
      ValueError: no labelled points were given.

    Yoo & Kweon (2019), "Learning loss for active learning", CVPR, §3.2.

    >>> from bdal.committee import deep_ensemble
    >>> from bdal.strategy import query
    >>> committee = deep_ensemble(lambda w, key, x: (x @ w, x), jax.random.normal(jax.random.key(0), (5, 3, 2)))
    >>> pool = jax.random.normal(jax.random.key(1), (100, 3))
    >>> query(
    ...     jax.random.key(2), loss_prediction(steps=10), committee, pool, query_size=4,
    ...     labelled_inputs=pool[:6], labels=jnp.array([0, 1, 0, 1, 0, 1]),
    ... ).indices.shape
    (4,)
    """

    def prepare(key, committee, labelled_inputs, labels, targets):
        del targets
        if labels.shape[0] == 0:
            raise ValueError("labelled_inputs: loss_prediction learns from labelled points, got none")
        features, log_probs = committee.embedding(labelled_inputs), committee.log_probs(labelled_inputs)
        return committee, fit(key, features, log_probs, labels)

    @jax.jit
    def fit(key, features, log_probs, labels):
        init_key, key = jax.random.split(key)
        real = labels >= 0
        mean, spread = standardised(features, real)
        features = jnp.where(real[:, None], (features - mean[None, :]) / spread[None, :], 0.0)
        losses = -jnp.take_along_axis(log_mean_exp(log_probs), jnp.maximum(labels, 0)[:, None], axis=-1)[:, 0]  # [L]

        def loss(params, key):
            i, j = draw_real(key, real, (2, pairs))  # [P] each
            predicted = mlp(params, features)[:, 0]
            return jax.nn.relu(margin - jnp.sign(losses[i] - losses[j]) * (predicted[i] - predicted[j])).mean()

        params = init_mlp(init_key, (features.shape[1], hidden, hidden, 1))
        return mean, spread, minimise(key, params, loss, steps=steps, learning_rate=learning_rate)

    def score(carry, inputs):
        committee, (mean, spread, params) = carry
        return mlp(params, (committee.embedding(inputs) - mean[None, :]) / spread[None, :])[:, 0]

    return QueryStrategy(score, top, prepare)
