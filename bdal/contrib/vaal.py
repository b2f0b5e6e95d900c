"""An autoencoder and a discriminator that tells what is labelled from what is not.

Axis letters: L labelled points, T unlabelled points, B points of a minibatch or a chunk, D inputs, Z latents.
"""

from functools import cache

import jax
import jax.numpy as jnp
import optax

from bdal.contrib.networks import draw_real, init_mlp, mlp, standardised
from bdal.strategy import QueryStrategy, top


@cache
def vaal(
    latents: int = 8,
    hidden: int = 128,
    steps: int = 500,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    beta: float = 1.0,
    adversary: float = 1.0,
) -> QueryStrategy:
    """The points that look least like labelled ones to an adversary in the latent space of an autoencoder.

    `prepare` trains, in turns, a β-VAE `z ~ q(z | x)` and a discriminator `D(z)`, the probability of being labelled:

    - the autoencoder on `½ ‖x − x̂‖² + β KL(q ‖ N(0, I)) − γ log D(z)`, of labelled and unlabelled points alike, so that
      it hides which is which;
    - the discriminator on `−log D(z_labelled) − log (1 − D(z_unlabelled))`.

    The score is the logit of `1 − D(E z)`. It looks at no label and at no prediction.

    Differs from the paper: fully connected networks on flat, standardised inputs, for any data; the paper's are
    convolutional.

    Args:
      latents: Z.
      hidden: width of the two hidden layers of each network.
      steps, batch_size, learning_rate: of Adam for both; a step draws as many labelled as unlabelled points.
      beta, adversary: β and γ.

    Raises:
      ValueError: no labelled points, or no targets: inputs, or a number of points of the pool, that stand for what is
        not labelled.

    Sinha, Ebrahimi & Darrell (2019), "Variational adversarial active learning", ICCV, §3.

    >>> from bdal.strategy import query
    >>> pool = jax.random.normal(jax.random.key(1), (100, 3))
    >>> query(
    ...     jax.random.key(2), vaal(steps=10), None, pool, query_size=4,
    ...     labelled_inputs=pool[:6], labels=jnp.zeros(6, int), targets=50,
    ... ).indices.shape
    (4,)
    """

    def prepare(key, committee, labelled_inputs, labels, targets):
        del committee
        if labels.shape[0] == 0:
            raise ValueError("labelled_inputs: vaal tells labelled points from others, got none")
        if targets is None:
            raise ValueError(
                "targets: vaal expects unlabelled inputs to tell labelled ones from, or how many random points of the "
                "pool stand for them, such as targets=500; got None"
            )
        return fit(key, _flat(labelled_inputs), labels >= 0, _flat(targets))

    @jax.jit
    def fit(key, labelled_inputs, real, unlabelled_inputs):
        everything = jnp.concatenate([labelled_inputs, unlabelled_inputs])
        mean, spread = standardised(everything, jnp.concatenate([real, jnp.ones(len(unlabelled_inputs), bool)]))
        width = everything.shape[1]
        encoder_key, decoder_key, critic_key, key = jax.random.split(key, 4)
        autoencoder = {
            "encoder": init_mlp(encoder_key, (width, hidden, hidden, 2 * latents)),
            "decoder": init_mlp(decoder_key, (latents, hidden, hidden, width)),
        }
        critic = init_mlp(critic_key, (latents, hidden, hidden, 1))

        def autoencoder_loss(autoencoder, critic, key, x):
            centre, log_variance = jnp.split(mlp(autoencoder["encoder"], x), 2, axis=-1)  # [2 B, Z]
            log_variance = jnp.clip(log_variance, -10.0, 10.0)
            z = centre + jnp.exp(0.5 * log_variance) * jax.random.normal(key, centre.shape)
            misfit = 0.5 * jnp.square(x - mlp(autoencoder["decoder"], z)).sum(-1)
            divergence = 0.5 * (jnp.square(centre) + jnp.exp(log_variance) - 1 - log_variance).sum(-1)
            hidden_from = jax.nn.softplus(-mlp(critic, z)[:, 0])  # −log D
            return (misfit + beta * divergence + adversary * hidden_from).mean(), z

        def critic_loss(critic, z):
            logits = mlp(critic, z)[:, 0]
            return jax.nn.softplus(-logits[:batch_size]).mean() + jax.nn.softplus(logits[batch_size:]).mean()

        optimizer = optax.adam(learning_rate)

        def step(number, state):
            (autoencoder, critic), (moments, critic_moments) = state
            labelled_key, unlabelled_key, noise_key = jax.random.split(jax.random.fold_in(key, number), 3)
            labelled_rows = draw_real(labelled_key, real, (batch_size,))
            other_rows = jax.random.randint(unlabelled_key, (batch_size,), 0, len(unlabelled_inputs), jnp.int32)
            x = jnp.concatenate([labelled_inputs[labelled_rows], unlabelled_inputs[other_rows]])  # [2 B, D]
            x = (x - mean[None, :]) / spread[None, :]
            gradient, z = jax.grad(autoencoder_loss, has_aux=True)(autoencoder, critic, noise_key, x)
            updates, moments = optimizer.update(gradient, moments, autoencoder)
            autoencoder = optax.apply_updates(autoencoder, updates)
            updates, critic_moments = optimizer.update(jax.grad(critic_loss)(critic, z), critic_moments, critic)
            return (autoencoder, optax.apply_updates(critic, updates)), (moments, critic_moments)

        init = (autoencoder, critic), (optimizer.init(autoencoder), optimizer.init(critic))
        (autoencoder, critic), _ = jax.lax.fori_loop(0, steps, step, init)
        return mean, spread, autoencoder["encoder"], critic

    def score(carry, inputs):
        mean, spread, encoder, critic = carry
        x = (_flat(inputs) - mean[None, :]) / spread[None, :]
        return -mlp(critic, mlp(encoder, x)[:, :latents])[:, 0]

    return QueryStrategy(score, top, prepare)


def _flat(inputs) -> jax.Array:
    """`[B, D]` of inputs `[B, ...]`, which may be a pytree."""
    leaves = [jnp.asarray(leaf, jnp.float32) for leaf in jax.tree.leaves(inputs)]
    return jnp.concatenate([leaf.reshape(leaf.shape[0], -1) for leaf in leaves], axis=1)
