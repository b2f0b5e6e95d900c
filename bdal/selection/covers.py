"""Batches that cover the pool, and the scales that covers want.

ProbCover, MaxHerding, uncertainty herding and facility location are one greedy maximisation of one objective, the
coverage `mean_x u(x) · max_{j labelled or chosen} k(x, j)`, with their own weights u and kernel k.

Axes: R rows, D features, Q query size, B rows of a block.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_query, is_concrete
from bdal.selection.checks import check_groups, check_mask
from bdal.selection.fold import TIE_TOLERANCE, Query, greedy, no_rows_no_picks
from bdal.selection.penalties import check_rows
from bdal.selection.ranking import check_scores

BLOCK = 2**22  # similarities held at a time, B · R
ROWS = 128  # rows whose similarities are formed at a time, at most
ON_THE_RIM = 1e-5  # relative: a squared distance this little above the squared radius is inside, by rounding

Kernel = Literal["rbf", "laplace", "student", "top_hat", "cosine"]

KERNELS = {  # of the squared distance in units of the bandwidth
    "rbf": lambda squared: jnp.exp(-squared),
    "laplace": lambda squared: jnp.exp(-jnp.sqrt(squared)),
    "student": lambda squared: 1 / (1 + squared),
    "top_hat": lambda squared: (squared <= 1 + ON_THE_RIM).astype(jnp.float32),
}


@no_rows_no_picks
def prob_cover(
    features: jax.Array,
    *,
    radius: float,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row whose ball holds most rows that no ball of a labelled or chosen row holds yet.

    The coverage `mean_x max_{j labelled or chosen} [‖h_x − h_j‖ <= radius]`, over the available and labelled rows.
    The choice of the radius decides much: the largest at which about 95 % of the balls hold one class only, by
    `ball_purity` with the clusters of `k_means_clusters` for classes. `max_herding` is less sensitive.

    Args:
      features: `[R, D]`.
      radius: of the balls, positive; a row at the radius is inside.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before. Rows that are neither available nor labelled do not matter,
        whatever they hold.
      key: random ties, see `greedy`. Ties are frequent: gains are multiples of one row.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the fractions of the rows that each pick newly covers.

    Raises:
      ValueError: a radius that is not positive; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Yehuda, Dekel, Hacohen & Weinshall (2022), "Active learning through a covering lens", NeurIPS, algorithm 1.

    >>> features = jnp.array([[0.0], [1.0], [2.0], [7.0], [8.0]])
    >>> query = prob_cover(features, radius=1.0, available=jnp.ones(5, bool), query_size=2)
    >>> query.indices.tolist(), [round(gain, 2) for gain in query.gains.tolist()]
    ([1, 3], [0.6, 0.4])
    """
    return _checked_cover(features, None, radius, "top_hat", available, labelled, None, key, query_size, pad, "radius")


@no_rows_no_picks
def max_herding(
    features: jax.Array,
    *,
    bandwidth: float = 1.0,
    kernel: Kernel = "rbf",
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row that adds most to the coverage `mean_x max_{j labelled or chosen} k(h_x, h_j)`.

    The mean is over the available and labelled rows. Rows that add the same up to rounding are ties, as two that only
    cover each other are under any kernel. Kernels, with d the distance in units of the bandwidth: "rbf"
    `exp(−d²)`, "laplace" `exp(−d)`, "student" `1 / (1 + d²)`, "top_hat" `[d <= 1]` (`prob_cover`), and "cosine",
    which knows no bandwidth and counts a negative similarity as 0.

    The paper's bandwidth is 1, for features of norm 1: features of another scale want another. Distances are taken
    by matrix products, which round them to about 3e-4 of the largest norm (about the mean): a bandwidth should not
    be much below that.

    Args:
      features: `[R, D]`.
      bandwidth: the unit of distance, positive.
      kernel: one of the names above.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before. Rows that are neither available nor labelled do not matter,
        whatever they hold.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the increases of the coverage, which never grow.

    Raises:
      ValueError: another kernel; a bandwidth that is not positive; shapes that do not fit; fewer than Q rows
        available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Bae, Noh & Sutherland (2024), "Generalized coverage for more robust low-budget active learning", ECCV.

    >>> features = jnp.array([[0.0], [1.0], [2.0], [7.0], [8.0]])
    >>> max_herding(features, available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [1, 3]
    """
    return _checked_cover(features, None, bandwidth, kernel, available, labelled, None, key, query_size, pad)


@no_rows_no_picks
def uncertainty_herding(
    scores: jax.Array,
    features: jax.Array,
    *,
    bandwidth: float = 1.0,
    kernel: Kernel = "rbf",
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row that adds most to the uncertainty covered, `mean_x u(x) · max_{j labelled or chosen} k(h_x, h_j)`.

    With a wide kernel this covers the pool as `max_herding` does; with a kernel so narrow that every row covers
    itself only, it is `top_k` of the scores. The paper goes from the one to the other as labels come in: its
    bandwidth is the smallest distance between labelled rows (`smallest_gap`), and its scores those of the calibrated
    predictions, whose differences are small while there are few labels.

    Args:
      scores: `[R]`, the uncertainties u, not negative; those of labelled rows do not matter.
      features: `[R, D]`.
      bandwidth, kernel: see `max_herding`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before. Rows that are neither available nor labelled do not matter,
        whatever they hold.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the increases of the uncertainty covered (the mean is over available and labelled
      rows), which never grow.

    Raises:
      ValueError: a negative available score (eager calls; read as 0 under a trace); another kernel; a bandwidth that
        is not positive; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score, or an available or labelled row of features, is NaN or infinite (eager
        calls).

    Bae, Oliveira & Sutherland (2025), "Uncertainty herding: one active learning method for all label budgets", ICLR.

    >>> features = jnp.array([[0.0], [1.0], [2.0], [7.0], [8.0]])
    >>> scores = jnp.array([0.1, 0.1, 0.1, 0.0, 0.9])
    >>> uncertainty_herding(scores, features, available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [4, 1]
    """
    scores = check_scores(scores, available, query_size, pad)
    if is_concrete(scores, available):
        negative = np.asarray(available) & (np.asarray(scores) < 0)
        if negative.any():
            raise ValueError(
                f"scores must not be negative for uncertainty_herding, but {negative.sum()} of {np.sum(available)} "
                f"available rows are (first: row {negative.argmax()}, {np.asarray(scores)[negative.argmax()]:.4g}); "
                "for margin use 1 + margin"
            )
    scores = jnp.where(jnp.asarray(available), jnp.maximum(scores, 0), 0)
    return _checked_cover(features, scores, bandwidth, kernel, available, labelled, None, key, query_size, pad)


@no_rows_no_picks
def facility_location(
    features: jax.Array,
    *,
    bandwidth: float = 1.0,
    kernel: Kernel = "cosine",
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    covered: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row that adds most to `mean_{x covered} max_{j labelled or chosen} k(h_x, h_j)`, by default the cosine.

    `max_herding`, with a choice of the rows that are to be covered: they need not be those that may be picked.
    Before anything is chosen every row counts as covered by 0, so that negative similarities do not count.

    Differs from the paper: the whole pool is covered, by the cosine; the paper first filters by uncertainty.

    Args:
      features: `[R, D]`; under the cosine a row of zeros is similar to nothing.
      bandwidth, kernel: see `max_herding`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, the rows chosen before.
      covered: `[R]` bool, the rows that are to be covered; by default those available or labelled. Rows that are in
        none of the masks do not matter, whatever they hold.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the increases of the mean, which never grow.

    Raises:
      ValueError: another kernel; a bandwidth that is not positive; shapes that do not fit; fewer than Q rows
        available.
      NonFiniteError: a row that matters is NaN or infinite (eager calls).

    Nemhauser, Wolsey & Fisher (1978), "An analysis of approximations for maximizing submodular set functions";
    Wei, Iyer & Bilmes (2015), "Submodularity in data subset selection and active learning", ICML.

    >>> features = jnp.array([[1.0, 0.0], [2.0, 0.1], [3.0, 0.0], [0.0, 1.0]])
    >>> facility_location(features, available=jnp.ones(4, bool), query_size=2).indices.tolist()
    [1, 3]
    """
    return _checked_cover(features, None, bandwidth, kernel, available, labelled, covered, key, query_size, pad)


def _checked_cover(
    features, weights, bandwidth, kernel, available, labelled, covered, key, query_size, pad, name="bandwidth"
) -> Query:
    check_query(available, query_size, pad)
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}")
    if is_concrete(bandwidth) and not 0 < float(bandwidth) < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {bandwidth}")
    available, labelled = jnp.asarray(available), check_mask(labelled, "labelled", available)
    covered = available | labelled if covered is None else check_mask(covered, "covered", available)
    features = check_rows(features, "features", available, also=_either(labelled, covered))
    weights = jnp.ones(available.shape, jnp.float32) if weights is None else weights
    bandwidth = jnp.asarray(bandwidth, jnp.float32)
    return _cover(features, weights, bandwidth, available, labelled, covered, key, kernel, query_size)


def _either(*masks):
    return np.logical_or.reduce([np.asarray(mask) for mask in masks]) if is_concrete(*masks) else masks[0] | masks[1]


@partial(jax.jit, static_argnames=("kernel", "query_size"))
def _cover(features, weights, bandwidth, available, labelled, covered, key, kernel: str, query_size: int) -> Query:
    """Greedy maximisation of `Σ_x w(x) · max_{j chosen} k(x, j)`, lazily (Minoux 1978).

    What a row would add never grows, so what it would have added earlier bounds what it adds now. Before each pick
    only the rows whose bound reaches the best are looked at again, a block at a time: the picks are those of the
    plain algorithm, and R² similarities are formed once, not Q times.
    """
    num_rows = features.shape[0]
    size = max(1, min(num_rows, ROWS, BLOCK // max(num_rows, 1)))
    similarities = _similarities(features, bandwidth, available | labelled | covered, kernel)
    weights = jnp.where(covered, weights, 0.0)  # [R]

    def closest(carry):  # over as many blocks as there are labelled rows
        start, best = carry
        rows = jax.lax.dynamic_slice(order, (start,), (size,))
        found = (start + jnp.arange(size) < count)[:, None]
        return start + size, jnp.maximum(best, jnp.where(found, similarities(rows), 0.0).max(0))

    count = labelled.sum()
    order = jnp.nonzero(labelled, size=num_rows + size, fill_value=0)[0].astype(jnp.int32)
    best = jax.lax.while_loop(lambda carry: carry[0] < count, closest, (0, jnp.zeros(num_rows)))[1]

    def reaches(state):  # is there a row, not looked at since the last pick, that may be best or tied?
        _, bounds, fresh, allowed, left = state
        known = jnp.max(bounds, where=allowed & fresh, initial=-jnp.inf)
        open_ = jnp.max(bounds, where=allowed & ~fresh & (bounds > 0), initial=-jnp.inf)  # what is 0 remains 0
        return (left > 0) & (open_ > -jnp.inf) & (open_ >= known * (1 - TIE_TOLERANCE))

    def look(state):
        best, bounds, fresh, allowed, left = state
        bound, rows = jax.lax.top_k(jnp.where(allowed & ~fresh, bounds, -1.0), size)
        gains = jnp.matmul(jnp.maximum(similarities(rows) - best[None, :], 0.0), weights, precision="highest")  # [B]
        rows = jnp.where(bound >= 0, rows, num_rows)
        bounds = bounds.at[rows].set(gains, mode="drop")
        return best, bounds, fresh.at[rows].set(True, mode="drop"), allowed, left

    def update(state, index):
        best, bounds, fresh, allowed, left = state
        best = jnp.maximum(best, similarities(index[None])[0])
        state = best, bounds, jnp.zeros_like(fresh), allowed.at[index].set(False), left - 1
        return jax.lax.while_loop(reaches, look, state)

    def gains(state):  # two rows that only cover each other add the same, and round apart: of these, the first
        _, bounds, _, allowed, _ = state
        highest = jnp.max(bounds, where=allowed, initial=0.0)
        return jnp.where(bounds >= highest * (1 - TIE_TOLERANCE), highest, bounds)

    init = best, jnp.full(num_rows, jnp.inf), jnp.zeros(num_rows, bool), available, query_size
    init = jax.lax.while_loop(reaches, look, init)
    query = greedy(init, gains, update, available=available, query_size=query_size, key=key)
    return Query(query.indices, query.gains / jnp.maximum(covered.sum(), 1))


def _similarities(features, bandwidth, matters, kernel: str):
    """A function from rows `[B]` to their similarities to all rows, `[B, R]`."""
    features = jnp.where(matters[:, None], features, 0.0)
    if kernel == "cosine":
        largest = jnp.max(jnp.abs(features), axis=1, keepdims=True, initial=0.0)
        features = features / jnp.where(largest == 0, 1.0, largest)  # no overflow of the squares
        norms = jnp.sqrt(jnp.square(features).sum(1, keepdims=True))
        features = features / jnp.where(norms == 0, 1.0, norms)
        return lambda rows: jnp.matmul(features[rows], features.T, precision="highest")

    features = centred(features, matters) / bandwidth  # near the origin products round less
    squares = jnp.square(features).sum(1)

    def similarities(rows):
        products = jnp.matmul(features[rows], features.T, precision="highest")
        return KERNELS[kernel](jnp.maximum(squares[rows][:, None] + squares[None, :] - 2 * products, 0.0))

    return similarities


def centred(features, matters):
    features = jnp.where(matters[:, None], features, 0.0)
    mean = features.sum(0) / jnp.maximum(matters.sum(), 1)
    return jnp.where(matters[:, None], features - mean[None, :], 0.0)


def smallest_gap(features: jax.Array, labelled: jax.Array) -> jax.Array:
    """The smallest distance between two labelled rows that are not the same point; infinity where there are no two.

    The bandwidth of `uncertainty_herding` in its paper: it shrinks as labels come in. `jnp.minimum(1.0, ...)` of it
    serves as long as fewer than two rows are labelled.

    Args:
      features: `[R, D]`.
      labelled: `[R]` bool; other rows do not matter, whatever they hold.

    Returns:
      A scalar.

    Raises:
      ValueError: shapes that do not fit. NonFiniteError: a labelled row is NaN or infinite (eager calls).

    Bae, Oliveira & Sutherland (2025), "Uncertainty herding: one active learning method for all label budgets", ICLR.

    >>> round(float(smallest_gap(jnp.array([[0.0], [3.0], [5.0], [5.5]]), jnp.array([True, True, True, False]))), 4)
    2.0
    """
    labelled = check_mask(labelled, "labelled", labelled)
    return _smallest_gap(check_rows(features, "features", labelled), labelled)


@jax.jit
def _smallest_gap(features, labelled) -> jax.Array:
    features = jnp.where(labelled[:, None], features, 0.0)
    rows = jnp.nonzero(labelled, size=features.shape[0], fill_value=0)[0]

    def closer(carry):
        position, smallest = carry
        squared = jnp.square(features - features[rows[position]][None, :]).sum(1)
        return position + 1, jnp.minimum(smallest, jnp.min(squared, where=labelled & (squared > 0), initial=jnp.inf))

    return jnp.sqrt(jax.lax.while_loop(lambda carry: carry[0] < labelled.sum(), closer, (0, jnp.float32(jnp.inf)))[1])


def ball_purity(features: jax.Array, clusters: jax.Array, *, radius: jax.Array, available: jax.Array) -> jax.Array:
    """The fraction of the rows around which a ball of the radius holds rows of their own cluster only.

    For the radius of `prob_cover`: take the largest whose purity is 95 % or more. One pass over all pairs of rows
    serves any number of radii.

    Args:
      features: `[R, D]`.
      clusters: `[R]` int, for instance of `k_means_clusters` with as many clusters as there are classes.
      radius: any shape.
      available: `[R]` bool, the rows that count; what the others hold does not matter.

    Returns:
      The purities, of the shape of `radius`; they fall with the radius.

    Raises:
      TypeError: clusters that are no integers. ValueError: shapes that do not fit.
      NonFiniteError: an available row is NaN or infinite (eager calls).

    Yehuda, Dekel, Hacohen & Weinshall (2022), "Active learning through a covering lens", NeurIPS: the purity π(δ).

    >>> features, clusters = jnp.array([[0.0], [1.0], [2.0], [5.0]]), jnp.array([0, 0, 1, 1])
    >>> ball_purity(features, clusters, radius=jnp.array([0.5, 1.5, 9.0]), available=jnp.ones(4, bool)).tolist()
    [1.0, 0.5, 0.0]
    """
    check_query(available, 1, pad=True)
    available, clusters = jnp.asarray(available), check_groups(clusters, "clusters", available)
    features = check_rows(features, "features", available)
    return _ball_purity(features, clusters, jnp.asarray(radius, jnp.float32), available)


@jax.jit
def _ball_purity(features, clusters, radius, available) -> jax.Array:
    num_rows = features.shape[0]
    features = centred(features, available)
    squares = jnp.square(features).sum(1)

    def nearest_stranger(row):
        squared = squares[row] + squares - 2 * jnp.matmul(features, features[row], precision="highest")
        return jnp.min(squared, where=available & (clusters != clusters[row]), initial=jnp.inf)

    size = max(1, min(num_rows, ROWS, BLOCK // max(num_rows, 1)))
    squared = jax.lax.map(nearest_stranger, jnp.arange(num_rows), batch_size=size)
    reach = jnp.square(radius)[..., None] * (1 + ON_THE_RIM)
    pure = jnp.maximum(squared, 0.0).reshape((1,) * radius.ndim + (-1,)) > reach
    return jnp.mean(pure, axis=-1, where=available)
