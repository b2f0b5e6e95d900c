"""Batches that cover the pool.

Axes: R rows, D features, Q query size.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdal.errors import check_query
from bdal.selection.checks import check_mask
from bdal.selection.fold import Query, greedy, no_rows_no_picks
from bdal.selection.penalties import check_rows

BLOCK = 16  # labelled rows that distances are taken to at a time


@no_rows_no_picks
def k_center(
    features: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row that is farthest from its nearest centre, `argmax_x min_{j labelled or chosen} ‖h_x − h_j‖`.

    The greedy 2-approximation of the k-centre problem, known as core-set selection. Without labelled rows the
    first pick is the row of largest norm.

    Differs from the paper: the greedy algorithm; the paper goes on from it with mixed-integer programs that leave
    outliers out.

    Args:
      features: `[R, D]`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows that are centres from the start. Rows that are neither available nor labelled
        do not matter, whatever they hold.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are distances: of each row to its nearest centre when it was picked; the norm, if there
      was none.

    Raises:
      ValueError: shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Gonzalez (1985), "Clustering to minimize the maximum intercluster distance"; Sener & Savarese (2018), "Active
    learning for convolutional neural networks: a core-set approach", algorithm 1.

    >>> features = jnp.array([[0.0], [1.0], [5.0], [6.0]])
    >>> k_center(features, available=jnp.ones(4, bool), query_size=3)._asdict()
    {'indices': Array([3, 0, 1], dtype=int32), 'gains': Array([6., 6., 1.], dtype=float32)}
    """
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    return _k_center(features, available, labelled, key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _k_center(features, available, labelled, key, query_size: int) -> Query:
    features, squared, _ = labelled_centres(features, available, labelled)
    norms = jnp.sqrt(jnp.square(features).sum(1))

    def gains(squared):  # infinite while there is no centre
        return jnp.where(jnp.isinf(squared), norms, jnp.sqrt(squared))

    def update(squared, index):
        return jnp.minimum(squared, jnp.square(features - features[index][None, :]).sum(1))

    return greedy(squared, gains, update, available=available, query_size=query_size, key=key)


def check_features(features, available, labelled, query_size: int, pad: bool) -> tuple:
    """The checks that every selector of features `[R, D]` with labelled rows begins with, and the three arrays."""
    check_query(available, query_size, pad)
    available = jnp.asarray(available)
    if labelled is not None:
        labelled = check_mask(labelled, "labelled", available)
    return check_rows(features, "features", available, also=labelled), available, labelled


def labelled_centres(features, available, labelled) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where a fold over distances begins: features, squared distances and indices of the nearest labelled row.

    The features `[R, D]` are 0 in rows that are neither available nor labelled. Without labelled rows the squared
    distances `[R]` are infinite and the indices `[R]` 0.
    """
    matters = available if labelled is None else available | labelled
    features = jnp.where(matters[:, None], features, 0.0)
    squared, nearest = jnp.full(matters.shape, jnp.inf), jnp.zeros(matters.shape, jnp.int32)
    if labelled is not None:
        nearest = _nearest(features, labelled, centre=jnp.sum(features, axis=0) / jnp.maximum(matters.sum(), 1))
        squared = jnp.where(labelled.any(), jnp.square(features - features[nearest]).sum(1), squared)
    return features, squared, nearest


def _nearest(features, labelled, centre) -> jax.Array:
    """Index `[R]` of the labelled row nearest to each row, by matrix products over blocks of labelled rows.

    How many rows are labelled is not known before the run: a while loop over as many blocks as they fill. The
    products round (which the centring keeps small), so they only decide who is nearest; the distance itself is
    then taken from the difference.
    """
    num_rows = features.shape[0]
    count = labelled.sum()
    order = jnp.nonzero(labelled, size=num_rows + BLOCK, fill_value=0)[0].astype(jnp.int32)
    centred = features - centre[None, :]
    half_squares = 0.5 * jnp.square(centred).sum(1)

    def closer(carry):
        start, best, nearest = carry
        rows = jax.lax.dynamic_slice(order, (start,), (BLOCK,))
        products = jnp.matmul(centred, centred[rows].T, precision="highest")  # [R, BLOCK]
        distances = half_squares[rows][None, :] - products  # half the square, less what all of a row share
        distances = jnp.where((start + jnp.arange(BLOCK) < count)[None, :], distances, jnp.inf)
        lowest = distances.min(1)
        nearest = jnp.where(lowest < best, rows[distances.argmin(1)], nearest)
        return start + BLOCK, jnp.minimum(best, lowest), nearest

    init = (0, jnp.full_like(half_squares, jnp.inf), jnp.zeros(num_rows, jnp.int32))
    return jax.lax.while_loop(lambda carry: carry[0] < count, closer, init)[2]
