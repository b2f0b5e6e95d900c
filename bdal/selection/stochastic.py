"""Random batches that favour high scores: Gumbel noise, then the top Q.

The Q largest of `logit + Gumbel noise` are Q draws without replacement from softmax(logit) (Vieira 2014; Kool, van
Hoof & Welling 2019). Kirsch et al. (2023), "Stochastic batch acquisition: a simple baseline for deep active
learning", TMLR, §3, choose the logits. The gains of these queries are the scores as they came, without the noise.

Axes: R rows, Q query size.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_number, is_concrete
from bdal.selection.fold import Query, no_rows_no_picks
from bdal.selection.ranking import as_query, check_scores, ranking, sortable

TINY = float(jnp.finfo(jnp.float32).tiny)


@no_rows_no_picks
def power(
    key: jax.Array, scores: jax.Array, *, beta: float = 8.0, available: jax.Array, query_size: int, pad: bool = False
) -> Query:
    """Draw Q rows with probability `∝ score^β`, without replacement.

    Rows of score 0 come after those of positive score (their logit is β log of the smallest float).

    Differs from the paper: β is 8, to stay near the highest scores; the paper's is 1.

    Args:
      key: a PRNG key, consumed.
      scores: `[R]`, not negative.
      beta: 0 is uniform, infinity would be `top_k`.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      ValueError: a negative available score (eager calls; under a trace it becomes NaN, which ranks first and
        is its gain); a negative beta; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score is NaN or infinite (eager calls).

    Kirsch et al. (2023), §3, "power acquisition" (PowerBALD when the score is BALD).

    >>> scores, everything = jnp.array([0.0, 1.0, 0.0]), jnp.ones(3, bool)
    >>> power(jax.random.key(0), scores, available=everything, query_size=1).indices.tolist()
    [1]
    """
    scores = check_scores(scores, available, query_size, pad)
    _check_beta(beta)
    if is_concrete(scores, available):
        negative = np.asarray(available) & (np.asarray(scores) < 0)
        if negative.any():
            raise ValueError(
                f"scores must not be negative for power, but {negative.sum()} of {np.sum(available)} available rows "
                f"are (first: row {negative.argmax()}, {np.asarray(scores)[negative.argmax()]:.4g}); "
                "softmax and softrank take any score"
            )
    return _power(key, scores, jnp.float32(beta), jnp.asarray(available), query_size)


@partial(jax.jit, static_argnames="query_size")
def _power(key, scores, beta, available, query_size: int) -> Query:
    scores = jnp.where(scores < 0, jnp.nan, scores)  # refused already, where there was a value to look at
    logits = beta * jnp.log(jnp.maximum(scores, TINY))
    return _draw(key, logits, scores, available, query_size)


@no_rows_no_picks
def softmax(
    key: jax.Array, scores: jax.Array, *, beta: float = 8.0, available: jax.Array, query_size: int, pad: bool = False
) -> Query:
    """Draw Q rows with probability `∝ exp(β score)`, without replacement. Scores may have any sign.

    Differs from the paper: β is 8, to stay near the highest scores; the paper's is 1.

    Args:
      key: a PRNG key, consumed.
      scores: `[R]`.
      beta: 0 is uniform, infinity would be `top_k`. Its meaning depends on the scale of the scores.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      ValueError: a negative beta; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score is NaN or infinite (eager calls).

    Kirsch et al. (2023), §3, "softmax acquisition".

    >>> scores, everything = jnp.array([-9.0, 9.0, -9.0]), jnp.ones(3, bool)
    >>> softmax(jax.random.key(0), scores, available=everything, query_size=1).indices.tolist()
    [1]
    """
    scores = check_scores(scores, available, query_size, pad)
    _check_beta(beta)
    return _softmax(key, scores, jnp.float32(beta), jnp.asarray(available), query_size)


@partial(jax.jit, static_argnames="query_size")
def _softmax(key, scores, beta, available, query_size: int) -> Query:
    return _draw(key, beta * scores, scores, available, query_size)


@no_rows_no_picks
def softrank(
    key: jax.Array, scores: jax.Array, *, beta: float = 1.0, available: jax.Array, query_size: int, pad: bool = False
) -> Query:
    """Draw Q rows with probability `∝ rank^−β`, without replacement. The highest available score has rank 1.

    Only the order of the scores matters. Ties are ranked in random order.

    Args:
      key: a PRNG key, consumed.
      scores: `[R]`.
      beta: 0 is uniform, infinity would be `top_k`.
      available: `[R]` bool, the rows that may be picked and are ranked; what the others hold does not matter.
      query_size: Q, a Python int.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      ValueError: a negative beta; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score is NaN or infinite (eager calls).

    Kirsch et al. (2023), §3, "soft-rank acquisition".

    >>> scores, everything = jnp.array([0.3, 0.1, 0.2]), jnp.ones(3, bool)
    >>> softrank(jax.random.key(0), scores, beta=100.0, available=everything, query_size=3).indices.tolist()
    [0, 2, 1]
    """
    scores = check_scores(scores, available, query_size, pad)
    _check_beta(beta)
    return _softrank(key, scores, jnp.float32(beta), jnp.asarray(available), query_size)


@partial(jax.jit, static_argnames="query_size")
def _softrank(key, scores, beta, available, query_size: int) -> Query:
    tie_key, noise_key = jax.random.split(key)
    # The argsort of an argsort; the argsort alone is not the rank.
    ranks = 1 + jnp.argsort(ranking(scores, available, tie_key))
    logits = jnp.where(jnp.isnan(scores), jnp.nan, -beta * jnp.log(ranks.astype(jnp.float32)))
    return _draw(noise_key, logits, scores, available, query_size)


def _draw(key, logits, scores, available, query_size: int) -> Query:
    """The Q available rows of largest `logits + Gumbel noise`.

    Where the sum has no room left for the noise (logits of 1e8 that are equal), the noise alone decides.
    """
    noise = jax.random.gumbel(key, logits.shape, jnp.float32, mode="high")  # reaches into the tails of a large pool
    perturbed = sortable(logits + noise, available)
    rows = jnp.arange(logits.shape[0], dtype=jnp.int32)
    order = jax.lax.sort((-perturbed, -noise, rows), num_keys=2)[-1]
    return as_query(order, scores, available, query_size)


def _check_beta(beta) -> None:
    check_number(beta, "beta")
    if is_concrete(beta) and not 0 <= float(beta) < float("inf"):
        raise ValueError(f"beta must be finite and not negative, got {beta}")
