"""Batches that cover the pool.

ProbCover, MaxHerding, uncertainty herding, weighted coverage and facility location are one greedy maximisation of one
objective, the coverage `mean_x u(x) · max_{j labelled or chosen} k(x, j)`, with their own weights u and kernel k.

A kernel needs a scale. A number that the caller gives is taken as it is, for the features as they are. Without one,
rows are divided by their norm, and the scale comes from these unit rows by the rule of each selector.

Axes: R rows, D features, Q query size, B rows of a block.
"""

from functools import partial
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_number, check_query, is_concrete
from bdal.selection.checks import check_mask
from bdal.selection.fold import TIE_TOLERANCE, Query, greedy, no_rows_no_picks
from bdal.selection.penalties import check_rows
from bdal.selection.ranking import check_scores
from bdal.selection.scales import BLOCK, ON_THE_RIM, ROWS, centred, smallest_distance, spread, unit_rows

SMALLEST_GAP = 3e-3  # of unit rows, whose distances round to about 5e-4
ROUNDING = float(jnp.finfo(jnp.float32).eps)  # of a squared distance, relative to the squared norms

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
    radius: float | jax.Array,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row whose ball holds most rows that no ball of a labelled or chosen row holds yet.

    The coverage `mean_x max_{j labelled or chosen} [‖h_x − h_j‖ <= radius]`, over the available and labelled rows.
    The choice of the radius decides much. That of the paper is the largest at which 95 % of the balls hold one class
    only, of unit rows and with the clusters of k-means for classes: `purity_radius`. The strategy by name takes that
    each round, or `half_spread` where it is larger. `max_herding` is less sensitive.

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
    if radius is None:
        raise ValueError("radius must be a positive number; purity_radius gives that of the paper, got None")
    return _checked_cover(features, None, radius, "top_hat", available, labelled, None, key, query_size, pad, "radius")


@no_rows_no_picks
def max_herding(
    features: jax.Array,
    *,
    bandwidth: float | jax.Array | None = None,
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

    Differs from the paper: its bandwidth is 1, for the unit rows of a self-supervised network. The features of a
    network in training lie closer together, and a kernel so wide sees one cluster; by default the bandwidth here is
    `half_spread`, half the root mean square of the distance of two unit rows. Distances are taken by matrix products,
    which round them to about 5e-4 of the largest norm (about the mean): a bandwidth should not be much below that.

    Args:
      features: `[R, D]`.
      bandwidth: the unit of distance, positive, for the features as they are; None: `half_spread` of the unit rows.
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
    >>> max_herding(features, bandwidth=1.0, available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [1, 3]
    """
    return _checked_cover(features, None, bandwidth, kernel, available, labelled, None, key, query_size, pad)


@no_rows_no_picks
def uncertainty_herding(
    scores: jax.Array,
    features: jax.Array,
    *,
    bandwidth: float | jax.Array | None = None,
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
    bandwidth is the smallest distance between two labelled unit rows (`smallest_gap`), and its scores those of
    predictions scaled by a temperature (`bdal.calibration.fit_temperature`).

    Args:
      scores: `[R]`, the uncertainties u, not negative; those of labelled rows do not matter. The paper's is
        `1 + margin`.
      features: `[R, D]`.
      bandwidth: the unit of distance, positive, for the features as they are; None: the smallest gap among the labelled
        unit rows, at least 3e-3 (below it float32 tells no distances), and 1 where no two labelled rows differ.
      kernel: see `max_herding`.
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

    Bae, Sutherland & Oliveira (2025), "Uncertainty herding: one active learning method for all label budgets", ICLR.

    >>> features = jnp.array([[0.0], [1.0], [2.0], [7.0], [8.0]])
    >>> scores = jnp.array([0.1, 0.1, 0.1, 0.0, 0.9])
    >>> uncertainty_herding(
    ...     scores, features, bandwidth=1.0, available=jnp.ones(5, bool), query_size=2
    ... ).indices.tolist()
    [4, 1]
    """
    scores = _weights(scores, available, query_size, pad, "uncertainty_herding")
    return _checked_cover(
        features, scores, bandwidth, kernel, available, labelled, None, key, query_size, pad, rule="gap"
    )


@no_rows_no_picks
def weighted_coverage(
    scores: jax.Array,
    features: jax.Array,
    *,
    bandwidth: float | jax.Array | None = None,
    kernel: Kernel = "rbf",
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row that covers most of the score, `mean_x u(x) · max_{j labelled or chosen} exp(−‖h_x − h_j‖² / s²)`.

    The objective of `uncertainty_herding` with any score and a scale that does not shrink: rows are divided by their
    norm, and s is half the root mean square of the distance of two of them (`half_spread`). A row is worth the score of
    all rows that are clearly nearer to it than two rows usually are, less what the labelled rows and the picks cover
    already. So a batch neither repeats itself nor what is labelled, and a sure region costs no label.

    Args:
      scores: `[R]`, not negative: entropy, BALD, expected model change, `1 + margin` ...; those of labelled rows do not
        matter.
      features: `[R, D]`.
      bandwidth: s, positive, for the features as they are; None: from the unit rows, as above.
      kernel: see `max_herding`.
      available, query_size, labelled, key, pad: see `uncertainty_herding`.

    Returns:
      A `Query` whose gains are the increases of the score covered (the mean is over available and labelled rows), which
      never grow.

    Raises:
      ValueError, NonFiniteError: see `uncertainty_herding`.

    Ours; the objective is that of Bae, Sutherland & Oliveira (2025), ICLR. Measured in benchmarks/results.

    >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.1, 1.0]])
    >>> scores = jnp.array([0.1, 0.2, 0.3, 0.0, 0.4])
    >>> weighted_coverage(scores, features, available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [1, 4]
    """
    scores = _weights(scores, available, query_size, pad, "weighted_coverage")
    return _checked_cover(features, scores, bandwidth, kernel, available, labelled, None, key, query_size, pad)


def _weights(scores, available, query_size: int, pad: bool, name: str) -> jax.Array:
    """Scores `[R]` that may weigh rows: refused where negative, 0 where not available."""
    scores = check_scores(scores, available, query_size, pad)
    if is_concrete(scores, available):
        negative = np.asarray(available) & (np.asarray(scores) < 0)
        if negative.any():
            raise ValueError(
                f"scores must not be negative for {name}, but {negative.sum()} of {np.sum(available)} "
                f"available rows are (first: row {negative.argmax()}, {np.asarray(scores)[negative.argmax()]:.4g}); "
                "for margin pass 1 + margin"
            )
    return jnp.where(jnp.asarray(available), jnp.maximum(scores, 0), 0)


@no_rows_no_picks
def facility_location(
    features: jax.Array,
    *,
    bandwidth: float | jax.Array | None = None,
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
    features, weights, bandwidth, kernel, available, labelled, covered, key, query_size, pad, name="bandwidth",
    rule="spread",
) -> Query:  # fmt: skip
    check_query(available, query_size, pad)
    if kernel not in get_args(Kernel):
        raise ValueError(f"kernel must be one of {', '.join(get_args(Kernel))}, got {kernel!r}")
    if bandwidth is not None:
        check_number(bandwidth, name)
    if bandwidth is not None and is_concrete(bandwidth) and not 0 < float(bandwidth) < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {bandwidth}")
    available, labelled = jnp.asarray(available), check_mask(labelled, "labelled", available)
    covered = available | labelled if covered is None else check_mask(covered, "covered", available)
    features = check_rows(features, "features", available, also=_either(labelled, covered))
    weights = jnp.ones(available.shape, jnp.float32) if weights is None else weights
    bandwidth = None if bandwidth is None else jnp.asarray(bandwidth, jnp.float32)
    return _cover(features, weights, bandwidth, available, labelled, covered, key, kernel, rule, query_size)


def _either(*masks):
    return np.logical_or.reduce([np.asarray(mask) for mask in masks]) if is_concrete(*masks) else masks[0] | masks[1]


@partial(jax.jit, static_argnames=("kernel", "rule", "query_size"))
def _cover(
    features, weights, bandwidth, available, labelled, covered, key, kernel: str, rule: str, query_size: int
) -> Query:
    """Greedy maximisation of `Σ_x w(x) · max_{j chosen} k(x, j)`, lazily (Minoux 1978).

    What a row would add never grows, so what it would have added earlier bounds what it adds now. Before each pick
    only the rows whose bound reaches the best are looked at again, a block at a time: the picks are those of the
    plain algorithm, and R² similarities are formed once, not Q times.
    """
    num_rows = features.shape[0]
    size = max(1, min(num_rows, ROWS, BLOCK // max(num_rows, 1)))
    matters = available | labelled | covered
    if bandwidth is None and kernel != "cosine":
        features = unit_rows(jnp.where(matters[:, None], features, 0.0))
        bandwidth = _own_scale(features, matters, labelled, rule)
    similarities = _similarities(features, bandwidth, matters, kernel)
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


def _own_scale(unit, matters, labelled, rule: str) -> jax.Array:
    """The bandwidth that unit rows have by themselves."""
    if rule == "spread":
        return spread(unit, matters)
    gap = smallest_distance(unit, labelled, above=1e-6)  # parallel rows are the same unit row
    return jnp.where(jnp.isinf(gap), 1.0, jnp.maximum(gap, SMALLEST_GAP))


def _similarities(features, bandwidth, matters, kernel: str):
    """A function from rows `[B]` to their similarities to all rows, `[B, R]`."""
    if kernel == "cosine":
        features = unit_rows(jnp.where(matters[:, None], features, 0.0))
        return lambda rows: jnp.matmul(features[rows], features.T, precision="highest")

    features = centred(features, matters) / bandwidth  # near the origin products round less
    squares = jnp.square(features).sum(1)

    def similarities(rows):
        products = jnp.matmul(features[rows], features.T, precision="highest")
        sums = squares[rows][:, None] + squares[None, :]
        squared = sums - 2 * products
        itself = rows[:, None] == jnp.arange(squares.shape[0])[None, :]
        return KERNELS[kernel](jnp.where(itself | (squared < ROUNDING * sums), 0.0, squared))

    return similarities
