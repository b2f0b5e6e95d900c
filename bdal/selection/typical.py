"""Typical rows: k-means clusters of the pool, and the row of each that has the nearest neighbours.

Axes: R rows, D features, Q query size, M clusters, B rows of a block.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bdal.errors import check_count, check_query, key_first
from bdal.selection.checks import check_mask
from bdal.selection.covers import centred
from bdal.selection.fold import TIE_TOLERANCE, Query, no_rows_no_picks
from bdal.selection.penalties import check_rows

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
    rule: Literal["code", "paper"] = "code",
    num_neighbours: int = 20,
    max_clusters: int = 500,
    pad: bool = False,
) -> Query:
    """Pick the most typical row of each of the largest clusters that hold no labelled row.

    k-means parts the available and labelled rows into `min(L + Q, max_clusters)` clusters, L the number of labelled
    rows: those of `k_means_clusters` with the same key. The clusters are put in order once, those with the fewest
    labelled rows first, and of these the largest. They are visited in this order, again and again, and a visit picks
    the row of largest typicality. With n rows of the cluster available and not yet picked, the typicality of a row is

        "code"   1 / mean of d², d the distances to the nearest min(20, n // 2) of these rows
        "paper"  1 / mean of d, to the nearest min(20, size) rows of the cluster, labelled and picked ones included

    "code" is what the authors run, and where their published numbers come from; "paper" is what they write. The picks
    differ: squares give the farthest neighbours more weight, and of a small cluster "code" looks at half only.

    Differs from the paper: the authors' code, but on features of any length, not 1; our k-means; random ties; small
    clusters last. Scale the features yourself, if their length is to play no part. The authors' k-means is
    scikit-learn's, from 51 clusters on its `MiniBatchKMeans`, and of all points, those for validation too. Where their
    code has no row to go on with, it stops or drops the cluster. Here a cluster without a row left is passed over;
    clusters of five rows or fewer, which the code drops, come when all larger ones are empty, in the same order; and a
    row alone in its cluster has a typicality of 0. Their 1e-5 is left out: it is added to the mean, so that the order
    stays the same, and means little or much by the scale of the features. A mean of 0 counts as the smallest float32.

    Args:
      key: a PRNG key, consumed: k-means, and random ties.
      features: `[R, D]`; the authors' are self-supervised.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before. Rows that are neither available nor labelled do not matter,
        whatever they hold.
      rule: "code" or "paper".
      num_neighbours: the 20 of both rules.
      max_clusters: of k-means, however many rows are labelled. Time grows with it even where fewer are needed,
        because shapes are fixed.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the typicalities: 1 over a distance, or for "code" over a squared distance.

    Raises:
      ValueError: another rule; no neighbours or no clusters; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Hacohen, Dekel & Weinshall (2022), "Active learning on a budget: opposite strategies suit high and low budgets",
    ICML, §3 and appendix F.1; their code: avihu111/TypiClust, `deep-al/pycls/al/typiclust.py`.

    >>> line = jnp.array([0.0, 1.0, 1.9, 2.7, 3.4, 4.0, 4.6, 5.3])
    >>> features = jnp.concatenate([line, 50 + line[:7]])[:, None]
    >>> query = typiclust(jax.random.key(0), features, available=jnp.ones(15, bool), query_size=2)
    >>> query.indices.tolist()  # where the larger cluster is densest, and where the smaller is
    [5, 12]
    """
    check_query(available, query_size, pad)
    if rule not in ("code", "paper"):
        raise ValueError(f'rule must be "code" or "paper", got {rule!r}')
    for name, number in (("num_neighbours", num_neighbours), ("max_clusters", max_clusters)):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, got {number}")
    available = jnp.asarray(available)
    labelled = check_mask(labelled, "labelled", available)
    features = check_rows(features, "features", available, also=labelled)
    max_clusters = min(max_clusters, features.shape[0])
    return _typiclust(key, features, available, labelled, rule, num_neighbours, max_clusters, query_size)


@partial(jax.jit, static_argnames=("rule", "num_neighbours", "max_clusters", "query_size"))
def _typiclust(
    key, features, available, labelled, rule: str, num_neighbours: int, max_clusters: int, query_size: int
) -> Query:
    num_rows, matters = features.shape[0], available | labelled
    features = centred(features, matters)
    num_clusters = jnp.minimum(labelled.sum() + query_size, max_clusters)
    clusters, centres = _k_means(key, features, matters, num_clusters, max_clusters)  # [R], M for rows that are out
    features = features - centres[jnp.minimum(clusters, max_clusters - 1)]  # small numbers, small rounding
    noise = jax.random.bits(
        jax.random.fold_in(key, max_clusters), (num_rows,), jnp.uint32
    )  # the centres used the keys before
    places = jnp.arange(query_size, dtype=jnp.int32)

    def count(mask):  # of each cluster [M + 1]
        return jax.ops.segment_sum(mask.astype(jnp.int32), clusters, max_clusters + 1)

    size = count(matters)
    order = jnp.lexsort((-size, count(labelled)))

    def visit(state):  # all clusters once, as far as there are picks to make
        left, picks, gaps, found = state
        num_left = count(left)
        large = (num_left > 0) & (size > SMALL)
        turn = jnp.where(large.any(), large, num_left > 0)
        place = jnp.zeros_like(size).at[order].set(found + jnp.cumsum(turn[order], dtype=jnp.int32) - 1)
        place = jnp.where(turn & (place < query_size), place, query_size)[clusters]  # [R], in the query

        members, wanted = (left, num_left // 2) if rule == "code" else (matters, size)
        groups = jnp.where(members, place, query_size)
        gap = _neighbour_distance(features, groups, query_size, wanted[clusters], num_neighbours, rule == "code")
        row = _lowest_of_group(gap, jnp.where(left, place, query_size), query_size, noise)  # [Q], R where there is none
        new = row < num_rows
        picks, gaps = jnp.where(new, row, picks), jnp.where(new, gap[row], gaps)
        return left.at[row].set(False, mode="drop"), picks, gaps, found + new.sum(dtype=jnp.int32)

    init = available, jnp.full(query_size, -1, jnp.int32), jnp.full(query_size, jnp.inf, jnp.float32), jnp.int32(0)
    _, picks, gaps, found = jax.lax.while_loop(lambda state: (state[3] < query_size) & state[0].any(), visit, init)
    typicality = 1 / jnp.maximum(gaps, jnp.finfo(jnp.float32).tiny)
    return Query(jnp.where(places < found, picks, -1), jnp.where(places < found, typicality, 0.0))


def _lowest_of_group(values, groups, num_groups: int, noise) -> jax.Array:
    """The row of the lowest of `values [R]` in each group `[G]`, of ties that of most noise; where there is none, more
    than R."""
    rows, group = jnp.arange(values.shape[0], dtype=jnp.int32), jnp.minimum(groups, num_groups - 1)
    lowest = jax.ops.segment_min(values, groups, num_groups)[group]
    groups = jnp.where(values > (1 + TIE_TOLERANCE) * lowest, num_groups, groups)  # what is NaN remains, and shows
    first = jax.ops.segment_max(noise, groups, num_groups)[group] == noise
    return jax.ops.segment_min(rows, jnp.where(first, groups, num_groups), num_groups)


def place_in_group(groups: jax.Array, *keys: jax.Array) -> jax.Array:
    """How many rows of its own group come before each row, `[R]`, in the order of the keys `[R]`, then of the rows.

    Rows sorted by this number first take turns among the groups, which is a round robin.
    """
    rows = jnp.arange(groups.shape[0], dtype=jnp.int32)
    groups, *_, rows = jax.lax.sort((groups, *keys, rows), num_keys=len(keys) + 2)
    position = jnp.arange(rows.shape[0], dtype=jnp.int32)
    first = jnp.searchsorted(groups, groups, side="left").astype(jnp.int32)
    return jnp.zeros_like(position).at[rows].set(position - first)


@key_first
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
    check_count(num_clusters, "num_clusters")
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
        return jnp.where(matters, squared, 0.0), seeds.at[m].set(row.astype(jnp.int32))

    init = jnp.full(num_rows, jnp.finfo(jnp.float32).max, jnp.float32), jnp.zeros(max_clusters, jnp.int32)
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


def _neighbour_distance(features, groups, num_groups: int, wanted, num_neighbours: int, squared: bool) -> jax.Array:
    """Mean (squared) distance `[R]` to the nearest rows of the own group, `wanted [R]` of them, but at most
    `num_neighbours` and all; infinite where there is none, 0 for rows in no group.

    Rows are sorted by group, so that a block of rows is compared with the rows of its own groups only, a block at a
    time: the work is the sum of the squares of the group sizes. Matrix products find the neighbours, and round; the
    distances are then taken from the differences.
    """
    num_rows = features.shape[0]
    size = min(num_rows, ROWS)
    groups, order = jax.lax.sort((groups, jnp.arange(num_rows, dtype=jnp.int32)), num_keys=1)
    features, wanted = features[order], wanted[order]
    first = jnp.searchsorted(groups, groups, side="left").astype(jnp.int32)
    last = jnp.where(groups < num_groups, jnp.searchsorted(groups, groups, side="right"), 0).astype(jnp.int32)
    half_squares = 0.5 * jnp.square(features).sum(1)
    within = jnp.arange(size, dtype=jnp.int32)

    def block(number, gaps):
        start = number * size
        rows = jnp.minimum(start + within, num_rows - 1)  # [B]
        end = last[rows].max()

        def closer(carry):
            column, best, neighbours = carry  # [B, k]
            columns = column + within
            others = jnp.minimum(columns, num_rows - 1)
            products = jnp.matmul(features[rows], features[others].T, precision="highest")
            same = (groups[rows][:, None] == groups[others][None, :]) & (rows[:, None] != others[None, :])
            halves = half_squares[rows][:, None] + half_squares[others][None, :] - products
            halves = jnp.where(same & (columns < end)[None, :], halves, jnp.inf)
            halves = jnp.concatenate([best, halves], axis=1)
            others = jnp.concatenate([neighbours, jnp.broadcast_to(others[None, :], (size, size))], axis=1)
            best, chosen = jax.lax.top_k(-halves, num_neighbours)  # from the nearest to the farthest
            return column + size, -best, jnp.take_along_axis(others, chosen, axis=1)

        init = (
            first[rows[0]],
            jnp.full((size, num_neighbours), jnp.inf, jnp.float32),
            jnp.zeros((size, num_neighbours), jnp.int32),
        )
        _, best, neighbours = jax.lax.while_loop(lambda carry: carry[0] < end, closer, init)
        gap = jnp.square(features[neighbours] - features[rows][:, None, :]).sum(2)
        gap = gap if squared else jnp.sqrt(gap)
        used = jnp.isfinite(best) & (jnp.arange(num_neighbours)[None, :] < wanted[rows][:, None])
        mean = jnp.sum(gap, axis=1, where=used) / jnp.maximum(used.sum(1), 1)
        mean = jnp.where(used.any(1), mean, jnp.inf) + 0 * half_squares[rows]  # what is no number shows
        return jax.lax.dynamic_update_slice(gaps, mean, (start,))

    num_blocks = -(-num_rows // size)
    seen = -(-(groups < num_groups).sum(dtype=jnp.int32) // size)
    gaps = jax.lax.fori_loop(0, seen, block, jnp.zeros(num_blocks * size, jnp.float32))
    return jnp.zeros(num_rows, jnp.float32).at[order].set(gaps[:num_rows])
