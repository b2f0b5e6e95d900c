"""Batches from clusters of features: the largest cluster's farthest row, k-means++ and k-means.

Axes: R rows, D features, Q query size.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_finite, check_floating, is_concrete
from bdal.selection.coverage import check_features, labelled_centres
from bdal.selection.fold import TIE_TOLERANCE, Query, greedy, no_rows_no_picks

BLOCK = 2**24  # distances held at a time where all rows are compared with all centres


@no_rows_no_picks
def lcmd(
    features: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Largest cluster, maximum distance: of the cluster with the largest `Σ_x ‖h_x − h_c‖²`, the farthest row.

    The labelled and the chosen rows are the centres, and every row belongs to the nearest (of equally near ones to
    the first). Between `k_center`, which follows outliers, and k-means++, which follows density. Without labelled
    rows the first pick is the row of largest norm.

    Differs from the paper: last-layer features of a classifier; the paper's are sketched gradients of all layers,
    for regression. That is the strategy's default; given the same features, the rows are the authors'.

    Args:
      features: `[R, D]`.
      available: `[R]` bool, the rows that may be picked, and that the sums of the clusters are taken over.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows that are centres from the start. Rows that are neither available nor labelled
        do not matter, whatever they hold.
      key: random ties, see `greedy`; clusters whose sums differ by no more than rounding are then ties too.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are distances: of each row to its nearest centre when it was picked; the norm, if there
      was none. They are not sorted.

    Raises:
      ValueError: shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Holzmüller et al. (2023), "A framework and benchmark for deep batch active learning for regression", JMLR 24,
    §5.2.8.

    >>> features = jnp.array([[9.0], [0.0], [0.5], [1.0], [1.5], [2.0], [7.0]])
    >>> labelled = jnp.arange(7) < 2  # the largest cluster is that around 0, though 7 is far from 9
    >>> lcmd(features, available=~labelled, labelled=labelled, query_size=2).indices.tolist()
    [5, 6]
    """
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    return _lcmd(features, available, labelled, key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _lcmd(features, available, labelled, key, query_size: int) -> Query:
    features, squared, nearest = labelled_centres(features, available, labelled)
    norms = jnp.sqrt(jnp.square(features).sum(1))
    num_rows = norms.shape[0]
    tolerance = 0.0 if key is None else TIE_TOLERANCE

    def gains(state):
        squared, nearest = state  # the cluster of a row is the index of its centre
        sums = jax.ops.segment_sum(jnp.where(available, squared, 0.0), nearest, num_segments=num_rows)
        largest = ~(sums[nearest] < (1 - tolerance) * sums.max())  # if all sums are 0, every row; if one is NaN too
        return jnp.where(jnp.isinf(squared), norms, jnp.where(largest, jnp.sqrt(squared), -1.0))

    def update(state, index):
        squared, nearest = state
        distance = jnp.square(features - features[index][None, :]).sum(1)
        closer = ~(distance >= squared)
        return jnp.where(closer, distance, squared), jnp.where(closer, index, nearest)

    return greedy((squared, nearest), gains, update, available=available, query_size=query_size, key=key)


@no_rows_no_picks
def k_means_plus_plus(
    key: jax.Array,
    features: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    first: Literal["uniform", "max_norm"] = "uniform",
    pad: bool = False,
) -> Query:
    """Draw rows with probability `∝ D²(x) = min_{j labelled or chosen} ‖h_x − h_j‖²`, one after the other.

    Where no row is left at a distance, all are equally likely.

    Differs from the paper: last-layer features of a classifier; Holzmüller's are sketched gradients of all layers,
    for regression. That is the strategy's default; Arthur & Vassilvitskii start k-means by it, and query nothing.

    Args:
      key: a PRNG key, consumed.
      features: `[R, D]`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows that are centres from the start. Rows that are neither available nor labelled
        do not matter, whatever they hold.
      first: the first pick where there is no labelled row: "uniform", or "max_norm" for the row of largest norm.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the D² of each row when it was picked; the squared norm, if there was no centre.

    Raises:
      ValueError: another `first`; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding", §2.2; with labelled rows as centres:
    Holzmüller et al. (2023), JMLR 24, §5.2. scikit-learn draws several candidates a step and keeps the best; this is
    the rule of the papers.

    >>> features = jnp.array([[0.0], [0.0], [3.0]])
    >>> query = k_means_plus_plus(jax.random.key(0), features, available=jnp.ones(3, bool), query_size=2)
    >>> sorted(features[query.indices, 0].tolist()), float(query.gains[1])
    ([0.0, 3.0], 9.0)
    """
    check_first(first)
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    return _k_means_plus_plus(key, features, available, labelled, first, query_size)


@partial(jax.jit, static_argnames=("first", "query_size"))
def _k_means_plus_plus(key, features, available, labelled, first: Any, query_size: int) -> Query:
    features, squared, _ = labelled_centres(features, available, labelled)

    def distances(index):
        return jnp.square(features - features[index][None, :]).sum(1)

    norms = jnp.square(features).sum(1)
    return d2_sampling(key, squared, norms, distances, first=first, available=available, query_size=query_size)


def d2_sampling(
    key: jax.Array,
    squared: jax.Array,
    squared_norms: jax.Array,
    distances: Callable[[jax.Array], jax.Array],
    *,
    first: Literal["uniform", "max_norm"],
    available: jax.Array,
    query_size: int,
    weights: jax.Array | float = 1.0,
) -> Query:
    """The fold of k-means++ for any squared distance: rows drawn `∝ weight · D²`, with D² as gains.

    Args:
      key: a PRNG key, consumed.
      squared: `[R]`, the squared distance to the nearest centre there is; infinite where there is none.
      squared_norms: `[R]`.
      distances: the index of a row -> the squared distances `[R]` to it.
      first: the pick where there is no centre: "uniform" (that is, `∝ weight`), or "max_norm".
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      weights: `[R]`, not negative.
    """
    rows = jnp.arange(squared.shape[0], dtype=jnp.int32)
    start = jnp.ones_like(squared)
    if first == "max_norm":
        largest = jnp.max(squared_norms, where=available, initial=0.0)
        start = jnp.where(squared_norms >= (1 - TIE_TOLERANCE) * largest, 1.0, 0.0)

    def gains(state):  # the drawn row's D², and less than any D² for the others: greedy takes the drawn one
        squared, left, step = state
        no_centre = jnp.isinf(squared)
        drawn = _draw(jax.random.fold_in(key, step), weights * jnp.where(no_centre, start, squared), left)
        values = jnp.where(no_centre, squared_norms, squared)
        return jnp.where((rows == drawn) | jnp.isnan(values), values, -1.0)

    def update(state, index):
        squared, left, step = state
        return jnp.minimum(squared, distances(index)), left.at[index].set(False), step + 1

    return greedy((squared, available, 0), gains, update, available=available, query_size=query_size)


def _draw(key, chances, left) -> jax.Array:
    """An index drawn `∝ chances [R]` from the rows that are `left`; uniformly, where all of these have none.

    First a block of rows and then a row in it, each by Gumbel noise: few random numbers, and no running sums, in
    which a chance of 0 could be lost or found to rounding.
    """
    num_rows = chances.shape[0]
    width = max(1, int(num_rows**0.5))
    chances = jnp.where(left, chances, 0.0)
    highest = chances.max()
    chances = jnp.where(highest > 0, chances / highest, left)
    blocks = jnp.pad(chances, (0, -num_rows % width)).reshape(-1, width)

    block_key, column_key = jax.random.split(key)
    totals = blocks.sum(1)
    block = jnp.argmax(jnp.log(totals) + jax.random.gumbel(block_key, totals.shape, jnp.float32, mode="high"))
    column = jnp.argmax(jnp.log(blocks[block]) + jax.random.gumbel(column_key, (width,), jnp.float32, mode="high"))
    return block * width + column


@no_rows_no_picks
def k_means(
    key: jax.Array,
    features: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    weights: jax.Array | None = None,
    max_steps: int = 100,
    pad: bool = False,
) -> Query:
    """Cluster the available rows into Q by (weighted) k-means, and pick the row nearest to each centre.

    Lloyd's steps on `Σ_x w_x min_c ‖h_x − μ_c‖²` from a start by k-means++ (drawn `∝ w · D²`), until no row moves.
    Then, from the heaviest cluster to the lightest, the row nearest to the centre that was not picked before.

    Differs from the paper: the papers only cluster; to label the point nearest to each centre is no one paper's
    rule. With the informativeness of the most informative rows for weights it is Zhdanov's, `diverse_mini_batch` by
    name.

    Args:
      key: a PRNG key, consumed: the start, and random ties.
      features: `[R, D]`.
      available: `[R]` bool, the rows that are clustered and may be picked; what the others hold does not matter.
        To cluster the most informative rows only, make only these available.
      query_size: Q, a Python int.
      weights: `[R]`, not negative, how much each row attracts its centre: an informativeness. None: all the same.
      max_steps: Lloyd's steps at most.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the total weights of the clusters that the rows were picked for. Where there are
      fewer than Q distinct rows, some are 0.

    Raises:
      ValueError: a negative available weight (eager calls); shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available row or weight is NaN or infinite (eager calls).

    Lloyd (1982), "Least squares quantization in PCM"; Arthur & Vassilvitskii (2007), "k-means++: the advantages of
    careful seeding"; with weights: Zhdanov (2019), "Diverse mini-batch active learning", arXiv 1901.05954.

    >>> features = jnp.array([[0.0], [1.0], [2.0], [8.0], [9.0]])
    >>> query = k_means(jax.random.key(0), features, available=jnp.ones(5, bool), query_size=2)
    >>> query.indices.tolist()[0], query.gains.tolist()
    (1, [3.0, 2.0])
    """
    features, available, _ = check_features(features, available, None, query_size, pad)
    weights = check_weights(jnp.ones(available.shape) if weights is None else weights, available)
    if not hasattr(max_steps, "__index__") or operator.index(max_steps) < 1:
        raise ValueError(f"max_steps must be a positive int, got {max_steps!r}")
    return _k_means(key, features, weights, available, operator.index(max_steps), query_size)


@partial(jax.jit, static_argnames="query_size")
def _k_means(key, features, weights, available, max_steps, query_size: int) -> Query:
    seed_key, tie_key = jax.random.split(key)
    weights = jnp.where(available, weights, 0.0)
    features = jnp.where(available[:, None], features, 0.0)  # [R, D]
    mean = features.sum(0) / jnp.maximum(available.sum(), 1)
    features = jnp.where(available[:, None], features - mean[None, :], 0.0)  # small numbers, small rounding
    norms = jnp.square(features).sum(1)

    def distances(index):
        return jnp.square(features - features[index][None, :]).sum(1)

    seeds = d2_sampling(
        seed_key,
        jnp.full_like(norms, jnp.inf),
        norms,
        distances,
        first="uniform",
        available=available,
        query_size=query_size,
        weights=weights,
    ).indices
    exists = seeds >= 0  # fewer clusters than Q, if fewer rows are available

    def assign(centres):  # the nearest centre of every row [R]
        half_squares = jnp.where(exists, 0.5 * jnp.square(centres).sum(1), jnp.inf)

        def nearest(row):  # half the squared distance, less what all centres share
            return jnp.argmin(half_squares - jnp.matmul(centres, row, precision="highest"))

        block = max(1, BLOCK // query_size)
        if features.shape[0] <= block:
            return jax.vmap(nearest)(features)
        return jax.lax.map(nearest, features, batch_size=block)

    def masses(nearest):
        return jax.ops.segment_sum(weights, nearest, num_segments=query_size)

    def move(carry):
        centres, nearest, _, step = carry
        mass = masses(nearest)[:, None]
        total = jax.ops.segment_sum(weights[:, None] * features, nearest, num_segments=query_size)  # [Q, D]
        centres = jnp.where(mass > 0, total / mass, centres)  # an empty cluster stays where it is
        moved = assign(centres)
        return centres, moved, jnp.any((moved != nearest) & (weights > 0)), step + 1

    centres = features[seeds]
    carry = (centres, assign(centres), jnp.array(True), 0)
    centres, nearest, *_ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < max_steps), move, carry)
    mass = jnp.where(exists, masses(nearest), -1.0)
    order = jnp.argsort(-mass)

    def closeness(state):  # 1 for the nearest row left; as a ratio, so that far rows do not decide what is a tie
        left, place = state
        squared = jnp.square(features - centres[order[place]][None, :]).sum(1)
        nearest = jnp.min(squared, where=left, initial=jnp.inf)
        return jnp.where(squared > 0, nearest / squared, 1.0)

    def update(state, index):
        left, place = state
        return left.at[index].set(False), place + 1

    query = greedy((available, 0), closeness, update, available=available, query_size=query_size, key=tie_key)
    return Query(query.indices, jnp.where(query.indices >= 0, mass[order], 0.0))


def check_first(first) -> None:
    """Refuse another first pick than those that there are."""
    if first not in ("uniform", "max_norm"):
        raise ValueError(f'first must be "uniform" or "max_norm", got {first!r}')


def check_weights(weights, available) -> jax.Array:
    """Weights `[R]` as float32, not negative where available."""
    weights = check_floating(weights, "weights")
    if weights.shape != np.shape(available):
        raise ValueError(f"weights must have the shape of available, [R] = {np.shape(available)}, got {weights.shape}")
    if is_concrete(weights, available):
        check_finite(weights, "weights", available)
        negative = np.asarray(available) & (np.asarray(weights) < 0)
        if negative.any():
            raise ValueError(
                f"weights must not be negative, but {negative.sum()} of {np.sum(available)} available rows are "
                f"(first: row {negative.argmax()}, {np.asarray(weights)[negative.argmax()]:.4g})"
            )
    return weights
