"""The rows of highest score, and the order that ties are put in.

Axes: R rows, Q query size.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_finite, check_floating, check_query
from bdal.selection.fold import TIE_TOLERANCE, Query, no_rows_no_picks


@no_rows_no_picks
def top_k(
    scores: jax.Array, *, available: jax.Array, query_size: int, key: jax.Array | None = None, pad: bool = False
) -> Query:
    """The Q available rows of highest score.

    Args:
      scores: `[R]`.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      key: with a key, ties are put in random order, and neighbours in the sorted scores that differ by no more
        than rounding (8 float32 eps of the larger |score|) are ties. Without, the lowest index comes first.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      NonFiniteError: an available score is NaN or infinite (eager calls).
      ValueError: shapes that do not fit; fewer than Q rows available.

    >>> top_k(jnp.array([0.1, 0.9, 0.5]), available=jnp.array([True, False, True]), query_size=2).indices.tolist()
    [2, 0]
    """
    scores = check_scores(scores, available, query_size, pad)
    return _top_k(scores, jnp.asarray(available), key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _top_k(scores: jax.Array, available: jax.Array, key: jax.Array | None, query_size: int) -> Query:
    if key is None:
        order = jax.lax.top_k(sortable(scores, available), min(query_size, scores.shape[0]))[1]
    else:
        order = ranking(scores, available, key)
    return as_query(order, scores, available, query_size)


def check_scores(scores, available, query_size: int, pad: bool) -> jax.Array:
    """The checks that every selector of scores `[R]` begins with."""
    check_query(available, query_size, pad)
    scores = check_floating(scores, "scores")
    if scores.shape != np.shape(available):
        one = "; log_probs without members, [N, C], are read as one point of N members: pass log_probs[:, None] to it"
        raise ValueError(
            f"scores must have the shape of available, [R] = {np.shape(available)}, got {scores.shape}"
            f"{'' if scores.shape else one}"
        )
    check_finite(scores, "scores", available)
    return scores


def sortable(scores: jax.Array, available: jax.Array) -> jax.Array:
    """Scores ready to sort: unavailable rows at the bottom; NaN, which only a trace lets in, on top, where it shows."""
    scores = jnp.maximum(scores, jnp.finfo(scores.dtype).min)
    scores = jnp.where(scores == 0, 0.0, scores)  # −0 and 0 are one score
    return jnp.where(available, jnp.where(jnp.isnan(scores), jnp.inf, scores), -jnp.inf)


def ranking(scores: jax.Array, available: jax.Array, key: jax.Array) -> jax.Array:
    """Row indices `[R]` from the highest score to the lowest, unavailable rows last, ties in random order."""
    values = sortable(scores, available)
    rows = jnp.arange(values.shape[0], dtype=jnp.int32)
    descending, order = jax.lax.sort((-values, rows), num_keys=1, is_stable=True)

    before = jnp.concatenate([descending[:1], descending[:-1]])
    larger = jnp.maximum(jnp.abs(before), jnp.abs(descending))
    apart = jnp.where(jnp.isfinite(larger), descending - before > TIE_TOLERANCE * larger, before != descending)
    group = jnp.cumsum(apart)
    noise = jax.random.bits(key, rows.shape, jnp.uint32)
    return jax.lax.sort((group, noise[order], order), num_keys=2)[-1]  # a row keeps its noise wherever it is sorted


def as_query(order: jax.Array, scores: jax.Array, available: jax.Array, query_size: int) -> Query:
    """The first Q of `order`, with −1 once the available rows have run out, and their scores as gains."""
    order = jnp.pad(order[:query_size], (0, max(0, query_size - order.shape[0])))
    found = jnp.arange(query_size) < available.sum()
    return Query(jnp.where(found, order, -1), jnp.where(found, scores[order], 0))
