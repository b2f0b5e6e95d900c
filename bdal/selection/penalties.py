"""Scores less what the batch already has: a penalty for being like the rows picked before.

Axes: R rows, K members, C classes, D features, Q query size.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import (
    check_finite,
    check_floating,
    check_number,
    check_query,
    is_concrete,
)
from bdal.information import mutual_information, relative_to_mean, shared_information
from bdal.selection.checks import check_rows_of_members
from bdal.selection.fold import TIE_TOLERANCE, Query, greedy, no_rows_no_picks
from bdal.selection.ranking import check_scores

BLOCK = 2**24  # numbers held at a time where all pairs of classes are formed for every row


@no_rows_no_picks
def diverse(
    scores: jax.Array,
    embeddings: jax.Array,
    *,
    weight: float,
    available: jax.Array,
    query_size: int,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick by `z(x) − weight · max(0, max_{j chosen} cos(e_x, e_j))`, with z the standardised score.

    The scores are standardised over the available rows, so that a weight means the same for every score: 1 is one
    standard deviation. Scores that are constant up to rounding become 0, and only the similarity counts. A weight
    of 0 picks as `top_k`.

    Differs from the paper: the relevance is a standardised score, and similarities below 0 count as 0; the paper
    ranks documents. Its λ and 1 − λ are 1 and the weight here.

    Args:
      scores: `[R]`.
      embeddings: `[R, D]`; an embedding of zero is similar to nothing.
      weight: not negative.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the penalised standardised scores at the time of picking.

    Raises:
      ValueError: a negative weight; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score or embedding is NaN or infinite (eager calls).

    Maximal marginal relevance: Carbonell & Goldstein (1998), "The use of MMR, diversity-based reranking", §2.

    >>> scores, embeddings = jnp.array([3.0, 2.0, 1.0]), jnp.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> diverse(scores, embeddings, weight=3.0, available=jnp.ones(3, bool), query_size=2).indices.tolist()
    [0, 2]
    """
    scores = check_scores(scores, available, query_size, pad)
    embeddings = check_rows(embeddings, "embeddings", available)
    check_number(weight, "weight")
    if is_concrete(weight) and not 0 <= float(weight) < float("inf"):
        raise ValueError(f"weight must be finite and not negative, got {weight}")
    return _diverse(scores, embeddings, jnp.float32(weight), jnp.asarray(available), key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _diverse(scores, embeddings, weight, available, key, query_size: int) -> Query:
    # The penalty is brought to the unit of the scores, not the scores to that of the penalty: standardising
    # rounds, and could make ties of scores that differ.
    count = jnp.maximum(available.sum(), 1)
    mean = jnp.sum(scores, where=available) / count
    std = jnp.sqrt(jnp.sum(jnp.square(scores - mean), where=available) / count)
    largest = jnp.max(jnp.abs(scores), where=available, initial=0.0)
    constant = std <= TIE_TOLERANCE * largest
    unit = jnp.where(constant, _or_one(largest), std)  # of constant scores only rounding remains, and stays small
    scores = jnp.where(constant, scores - mean, scores)

    directions = jnp.where(available[:, None], embeddings, 0.0)  # [R, D]
    directions = directions / _or_one(jnp.max(jnp.abs(directions), axis=1, keepdims=True, initial=0.0))  # no overflow
    directions = directions / _or_one(jnp.sqrt(jnp.square(directions).sum(1, keepdims=True)))

    def gains(similarity):
        return scores - weight * unit * similarity

    def update(similarity, index):
        return jnp.maximum(similarity, jnp.matmul(directions, directions[index], precision="highest"))

    query = greedy(jnp.zeros_like(scores), gains, update, available=available, query_size=query_size, key=key)
    standardised = (query.gains - jnp.where(constant, 0.0, mean)) / unit
    return Query(query.indices, jnp.where(query.indices >= 0, standardised, 0.0))


def _or_one(values):
    return jnp.where(values == 0, 1.0, values)


@no_rows_no_picks
def mutual_information_penalty(
    log_probs: jax.Array,
    *,
    reduce: Literal["max", "sum"],
    available: jax.Array,
    query_size: int,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick by `BALD(x) − Σ_{j chosen} I(y_x; y_j)`, or by the same with the maximum over j in place of the sum.

    The sum is the joint information of BatchBALD up to second order (all pairs, nothing above), without its
    exponential cost.

    Differs from the paper: the maximum over the batch for the paper's sum, which counts the same information often
    when members are few. The labels of a batch cannot share more than the log K nats that K members carry, but
    their sum over pairs can. On pools of copies the sum's batches hold less information than those of "max" with 5
    and 10 members, and as much with 100 (`tests/selection/test_duplicates.py`); the run of
    `benchmarks/results/repeated_optdigits`, with K = 50, has "max" next to BatchBALD. The sum is there by `reduce:
    sum`.

    Args:
      log_probs: `[R, K, C]`.
      reduce: "max" or "sum", over the rows chosen so far.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are in nats and may be negative.

    Raises:
      ValueError: another `reduce`; not log-probabilities; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available row holds NaN or +inf (eager calls).

    Rubashevskii, Kotova & Panov (2023), "Scalable batch acquisition for deep Bayesian active learning", SDM, §3.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> softer = jnp.log(jnp.array([[0.9, 0.1], [0.9, 0.1]]))
    >>> log_probs = jnp.stack([sure, sure, softer])  # the second repeats the first
    >>> query = mutual_information_penalty(log_probs, reduce="max", available=jnp.ones(3, bool), query_size=2)
    >>> [round(gain, 3) for gain in query.gains.tolist()]
    [0.693, 0.0]
    """
    check_query(available, query_size, pad)
    if reduce not in ("max", "sum"):
        raise ValueError(f'reduce must be "max" or "sum", got {reduce!r}')
    log_probs, available = check_rows_of_members(log_probs, available), jnp.asarray(available)
    return _mutual_information_penalty(log_probs, available, key, reduce, query_size)


@partial(jax.jit, static_argnames=("reduce", "query_size"))
def _mutual_information_penalty(log_probs, available, key, reduce: str, query_size: int) -> Query:
    num_rows, _, num_classes = log_probs.shape
    information = mutual_information(log_probs)  # [R]
    mean, u = rows = relative_to_mean(log_probs)
    block = max(1, BLOCK // num_classes**2)

    def shared_with(index):  # [R]
        other = mean[index], u[index]
        if num_rows <= block:
            return shared_information(rows, other)
        return jax.lax.map(lambda row: shared_information(row, other), rows, batch_size=block)

    def gains(penalty):
        return information - penalty

    def update(penalty, index):
        return jnp.maximum(penalty, shared_with(index)) if reduce == "max" else penalty + shared_with(index)

    return greedy(jnp.zeros_like(information), gains, update, available=available, query_size=query_size, key=key)


def check_rows(features, name: str, available, also=None) -> jax.Array:
    """Features `[R, D]` as float32, finite in the rows that are available (or in `also`)."""
    features = check_floating(features, name)
    if features.ndim != 2 or features.shape[:1] != np.shape(available):
        num_rows = len(available) if np.ndim(available) else 0
        raise ValueError(f"{name} must have shape [R, D] with R = {num_rows} as in available, got {features.shape}")
    if is_concrete(features, available, also):
        check_finite(features, name, available if also is None else np.asarray(available) | np.asarray(also))
    return features
