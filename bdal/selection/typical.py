"""Typical rows: k-means clusters of the pool, and the row of each that has the nearest neighbours.

Axes: R rows, D features, Q query size, M clusters, B rows of a block.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdal.errors import check_query
from bdal.selection.checks import check_mask
from bdal.selection.covers import centred
from bdal.selection.fold import Query, no_rows_no_picks
from bdal.selection.penalties import check_rows
from bdal.selection.ranking import as_query

BLOCK = 2**22  # products held at a time, B · M
ROWS = 128  # rows whose neighbours are looked for at a time, at most
STEPS = 100  # of Lloyd's algorithm, at most
SMALL = 5  # clusters of no more rows than this come last


@no_rows_no_picks
def typiclust(
    key: jax.Array,
    features: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    num_neighbours: int = 20,
    max_clusters: int = 500,
    pad: bool = False,
) -> Query:
    """Pick the most typical row of each of the largest clusters that hold no labelled row.

    k-means parts the available and labelled rows into `L + Q` clusters, L the number of labelled rows. The typicality
    of a row is `1 / mean distance to its nearest neighbours in its cluster`. A pick is from the largest of the
    clusters with the fewest rows labelled or picked; clusters of five rows or fewer come last, as in the authors'
    code.

    Args:
      key: a PRNG key, consumed; k-means starts at random.
      features: `[R, D]`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before. Rows that are neither available nor labelled do not matter,
        whatever they hold.
      num_neighbours: how many, or the whole cluster where it is smaller.
      max_clusters: of k-means, however many rows are labelled. Time grows with it even where fewer are needed,
        because shapes are fixed.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the typicalities.

    Raises:
      ValueError: no neighbours or no clusters; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Hacohen, Dekel & Weinshall (2022), "Active learning on a budget: opposite strategies suit high and low budgets",
    ICML.

    >>> features = jnp.concatenate([jnp.linspace(0, 1, 9), jnp.linspace(50, 51, 7)])[:, None]
    >>> query = typiclust(jax.random.key(0), features, available=jnp.ones(16, bool), query_size=2)
    >>> query.indices.tolist()  # the middle of the larger, the middle of the smaller
    [4, 12]
    """
    check_query(available, query_size, pad)
    for name, number in (("num_neighbours", num_neighbours), ("max_clusters", max_clusters)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    available = jnp.asarray(available)
    labelled = check_mask(labelled, "labelled", available)
    features = check_rows(features, "features", available, also=labelled)
    max_clusters = min(max_clusters, features.shape[0])
    return _typiclust(key, features, available, labelled, num_neighbours, max_clusters, query_size)


@partial(jax.jit, static_argnames=("num_neighbours", "max_clusters", "query_size"))
def _typiclust(key, features, available, labelled, num_neighbours: int, max_clusters: int, query_size: int) -> Query:
    matters = available | labelled
    features = centred(features, matters)
    num_clusters = jnp.minimum(labelled.sum() + query_size, max_clusters)
    clusters, centres = _k_means(key, features, matters, num_clusters, max_clusters)  # [R], M for rows that are out
    gaps = _neighbour_distance(features, clusters, centres, num_neighbours)  # [R]

    def count(mask):  # of each row's cluster
        return jax.ops.segment_sum(mask.astype(jnp.int32), clusters, max_clusters + 1)[clusters]

    size = count(matters)
    out = ~available
    ties = jax.random.bits(jax.random.fold_in(key, max_clusters), size.shape)  # the centres used those before
    turn = count(labelled) + place_in_group(clusters, out, gaps, ties)  # it is picked once so many of its cluster are
    rows = jnp.arange(features.shape[0], dtype=jnp.int32)
    order = jax.lax.sort((out, size <= SMALL, turn, -size, clusters, rows), num_keys=6)[-1]
    return as_query(order, 1 / jnp.maximum(gaps, jnp.finfo(jnp.float32).tiny), available, query_size)


def place_in_group(groups: jax.Array, *keys: jax.Array) -> jax.Array:
    """How many rows of its own group come before each row, `[R]`, in the order of the keys `[R]`, then of the rows.

    Rows sorted by this number first take turns among the groups, which is a round robin.
    """
    rows = jnp.arange(groups.shape[0], dtype=jnp.int32)
    groups, *_, rows = jax.lax.sort((groups, *keys, rows), num_keys=len(keys) + 2)
    position = jnp.arange(rows.shape[0], dtype=jnp.int32)
    first = jnp.searchsorted(groups, groups, side="left").astype(jnp.int32)
    return jnp.zeros_like(position).at[rows].set(position - first)


def k_means_clusters(key: jax.Array, features: jax.Array, *, num_clusters: int, available: jax.Array) -> jax.Array:
    """The clusters `[R]` of k-means over the available rows: D² seeding, then Lloyd's algorithm until nothing moves.

    At most 100 steps of Lloyd's, from one start.

    Args:
      key: a PRNG key, consumed.
      features: `[R, D]`.
      num_clusters: a Python int. Where there are fewer distinct rows, clusters remain empty.
      available: `[R]` bool, the rows that are clustered; what the others hold does not matter.

    Returns:
      `[R]` int32, from 0 to `num_clusters − 1`; −1 for rows that are not available.

    Raises:
      ValueError: no clusters; shapes that do not fit. NonFiniteError: an available row is NaN or infinite (eager
      calls).

    Lloyd (1982); Arthur & Vassilvitskii (2007), "k-means++: the advantages of careful seeding".

    >>> features = jnp.array([[0.0], [9.0], [0.1], [9.1]])
    >>> a, b, c, d = k_means_clusters(jax.random.key(0), features, num_clusters=2, available=jnp.ones(4, bool)).tolist()
    >>> a == c != b == d
    True
    """
    check_query(available, num_clusters, pad=True)
    available = jnp.asarray(available)
    features = check_rows(features, "features", available)
    return _k_means_clusters(key, features, available, num_clusters)


@partial(jax.jit, static_argnames="num_clusters")
def _k_means_clusters(key, features, available, num_clusters: int) -> jax.Array:
    clusters, _ = _k_means(key, centred(features, available), available, num_clusters, num_clusters)
    return jnp.where(available, clusters, -1)


def _k_means(key, features, matters, num_clusters, max_clusters: int) -> tuple[jax.Array, jax.Array]:
    """Clusters `[R]`, `max_clusters` for rows that do not matter, and centres `[M, D]`, the first `num_clusters` used.

    How many clusters there are may be known at run time only.
    """
    num_rows = features.shape[0]

    def seed(m, carry):  # the mth centre, drawn by the squared distance to the nearest one before
        squared, seeds = carry
        mass = jnp.where((m == 0) | (squared.max() == 0), 1.0, squared)
        row = jax.random.categorical(jax.random.fold_in(key, m), jnp.where(matters, jnp.log(mass), -jnp.inf))
        squared = jnp.minimum(squared, jnp.square(features - features[row][None, :]).sum(1))
        return jnp.where(matters, squared, 0.0), seeds.at[m].set(row)

    init = jnp.full(num_rows, jnp.finfo(jnp.float32).max), jnp.zeros(max_clusters, jnp.int32)
    centres = features[jax.lax.fori_loop(0, num_clusters, seed, init)[1]]  # [M, D]

    def assign(centres):
        unused = jnp.where(jnp.arange(max_clusters) < num_clusters, 0.0, jnp.inf)
        half_squares = 0.5 * jnp.square(centres).sum(1) + unused

        def nearest(row):
            products = jnp.matmul(centres, features[row], precision="highest")  # [M]
            return jnp.argmin(half_squares - products).astype(jnp.int32)

        size = max(1, min(num_rows, BLOCK // max_clusters))
        return jnp.where(matters, jax.lax.map(nearest, jnp.arange(num_rows), batch_size=size), max_clusters)

    def step(carry):
        steps, _, clusters, centres = carry
        sums = jax.ops.segment_sum(features, clusters, max_clusters)
        counts = jax.ops.segment_sum(matters.astype(jnp.float32), clusters, max_clusters)[:, None]
        centres = jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centres)
        moved = assign(centres)
        return steps + 1, jnp.any(moved != clusters), moved, centres

    init = 0, jnp.bool_(True), assign(centres), centres
    _, _, clusters, centres = jax.lax.while_loop(lambda carry: carry[1] & (carry[0] < STEPS), step, init)
    return clusters, centres


def _neighbour_distance(features, clusters, centres, num_neighbours: int) -> jax.Array:
    """Mean distance `[R]` to the nearest neighbours in the own cluster; infinite where there is none.

    Rows are sorted by cluster, so that a block of rows is compared with the rows of its own clusters only, a block at
    a time: the work is the sum of the squares of the cluster sizes. Matrix products find the neighbours, and round;
    the distances are then taken from the differences.
    """
    num_rows, max_clusters = features.shape[0], centres.shape[0]
    size = min(num_rows, ROWS)
    clusters, order = jax.lax.sort((clusters, jnp.arange(num_rows, dtype=jnp.int32)), num_keys=1)
    features = features[order] - centres[jnp.minimum(clusters, max_clusters - 1)]
    first = jnp.searchsorted(clusters, clusters, side="left")
    last = jnp.where(clusters < max_clusters, jnp.searchsorted(clusters, clusters, side="right"), 0)
    half_squares = 0.5 * jnp.square(features).sum(1)

    def block(start):
        rows = jnp.minimum(start + jnp.arange(size), num_rows - 1)  # [B]
        end = last[rows].max()

        def closer(carry):
            column, best, neighbours = carry  # [B, k]
            columns = column + jnp.arange(size)
            others = jnp.minimum(columns, num_rows - 1)
            products = jnp.matmul(features[rows], features[others].T, precision="highest")
            same = (clusters[rows][:, None] == clusters[others][None, :]) & (rows[:, None] != others[None, :])
            halves = half_squares[rows][:, None] + half_squares[others][None, :] - products
            halves = jnp.where(same & (columns < end)[None, :], halves, jnp.inf)
            halves = jnp.concatenate([best, halves], axis=1)
            others = jnp.concatenate([neighbours, jnp.broadcast_to(others[None, :], (size, size))], axis=1)
            best, chosen = jax.lax.top_k(-halves, num_neighbours)
            return column + size, -best, jnp.take_along_axis(others, chosen, axis=1)

        init = first[rows[0]], jnp.full((size, num_neighbours), jnp.inf), jnp.zeros((size, num_neighbours), jnp.int32)
        _, best, neighbours = jax.lax.while_loop(lambda carry: carry[0] < end, closer, init)
        gaps = jnp.sqrt(jnp.square(features[neighbours] - features[rows][:, None, :]).sum(2))
        found = jnp.isfinite(best)
        mean = jnp.sum(gaps, axis=1, where=found) / jnp.maximum(found.sum(1), 1)
        return jnp.where(found.any(1), mean, jnp.inf)

    gaps = jax.lax.map(block, jnp.arange(0, num_rows, size)).reshape(-1)[:num_rows]
    return jnp.zeros(num_rows).at[order].set(gaps)
