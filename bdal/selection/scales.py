"""Scales for covers: how far a row of features reaches, taken from the features.

Axes: R rows, D features, B rows of a block.
"""

import jax
import jax.numpy as jnp

from bdal.errors import as_array, check_array, check_number, check_query
from bdal.selection.checks import check_groups, check_mask
from bdal.selection.penalties import check_rows

BLOCK = 2**22  # distances held at a time, B · R
ROWS = 128  # rows whose distances are formed at a time, at most
ON_THE_RIM = 1e-5  # relative: a squared distance this little above the squared radius is inside, by rounding


def unit_rows(features: jax.Array) -> jax.Array:
    """Each row divided by its norm, `h / ‖h‖`; a row of zeros stays zero, a row that is not finite becomes NaN.

    Args:
      features: `[R, D]`.

    Returns:
      `[R, D]`.

    >>> unit_rows(jnp.array([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.0, 1.0], [0.0, 0.0]]
    """
    features = as_array(features, "features")
    if features.ndim != 2:
        raise ValueError(f"features must have shape [R, D], got {features.shape}")
    largest = jnp.max(jnp.abs(features), axis=1, keepdims=True, initial=0.0)
    features = features / jnp.where(largest == 0, 1.0, largest)  # no overflow of the squares
    norms = jnp.sqrt(jnp.square(features).sum(1, keepdims=True))
    return features / jnp.where(norms == 0, 1.0, norms)


def half_spread(features: jax.Array, rows: jax.Array) -> jax.Array:
    """Half the root mean square distance of two random rows, `½ √(2 mean_x ‖h_x − mean h‖²)`; 1 if all are equal.

    The scale of `max_herding` and `weighted_coverage`: with `exp(−d² / scale²)` two rows at the root mean square
    distance have a similarity of e⁻⁴, and a row covers those that are clearly nearer than that.

    Args:
      features: `[R, D]`; for a scale that no large row decides, `unit_rows`.
      rows: `[R]` bool, those that count; what the others hold does not matter.

    Returns:
      A scalar.

    Raises:
      ValueError: shapes that do not fit. NonFiniteError: a row that counts is NaN or infinite (eager calls).

    >>> round(float(half_spread(jnp.array([[0.0], [2.0], [9.0]]), jnp.array([True, True, False]))), 4)
    0.7071
    """
    check_array(rows, "rows")
    rows = check_mask(rows, "rows", rows)
    return spread(check_rows(features, "features", rows), rows)


@jax.jit
def spread(features, rows) -> jax.Array:
    """`half_spread`, unchecked."""
    features = centred(features, rows)
    largest = jnp.max(jnp.abs(features), initial=0.0)
    unit = features / jnp.where(largest > 0, largest, 1.0)
    spread = largest * jnp.sqrt(jnp.square(unit).sum() / (2 * jnp.maximum(rows.sum(), 1)))
    return jnp.where(spread > 0, spread, jnp.where(jnp.isnan(spread), spread, 1.0))


def purity_radius(features: jax.Array, clusters: jax.Array, *, purity: float = 0.95, available: jax.Array) -> jax.Array:
    """The largest radius at which a fraction `purity` of the balls hold rows of their own cluster only.

    The radius of `prob_cover` in its paper, exactly: that of `ball_purity`, read backwards. Where no row has a
    stranger (one cluster), the largest distance that two rows can have, twice the largest norm about the mean.

    Args:
      features: `[R, D]`.
      clusters: `[R]` int, for instance of `k_means_clusters` with as many clusters as there are classes.
      purity: the fraction, above 0 and at most 1.
      available: `[R]` bool, the rows that count; what the others hold does not matter.

    Returns:
      A scalar, positive.

    Raises:
      TypeError: clusters that are no integers. ValueError: another purity; shapes that do not fit.
      NonFiniteError: an available row is NaN or infinite (eager calls).

    Yehuda, Dekel, Hacohen & Weinshall (2022), "Active learning through a covering lens", NeurIPS: the purity π(δ), and
    0.95 of it for the radius.

    >>> features, clusters = jnp.array([[0.0], [1.0], [2.0], [5.0]]), jnp.array([0, 0, 1, 1])
    >>> round(float(purity_radius(features, clusters, purity=0.5, available=jnp.ones(4, bool))), 2)
    2.0
    """
    check_query(available, 1, pad=True)
    check_number(purity, "purity")
    if not 0 < purity <= 1:
        raise ValueError(f"purity must be above 0 and at most 1, got {purity!r}")
    available, clusters = jnp.asarray(available), check_groups(clusters, "clusters", available)
    return _purity_radius(check_rows(features, "features", available), clusters, jnp.float32(purity), available)


@jax.jit
def _purity_radius(features, clusters, purity, available) -> jax.Array:
    squared = jnp.sort(jnp.where(available, _nearest_stranger(features, clusters, available), jnp.inf))
    count = available.sum()
    impure = jnp.floor((1 - purity) * count * (1 + 1e-6) + 1e-6).astype(jnp.int32)  # so many balls may hold strangers
    radius = jnp.sqrt(squared[jnp.minimum(impure, jnp.maximum(count - 1, 0))])
    norms = jnp.sqrt(jnp.max(jnp.square(centred(features, available)).sum(1), initial=0.0))
    widest = jnp.where(norms > 0, 2 * norms, 1.0)
    inside = radius * (1 - 2 * ON_THE_RIM)  # that stranger itself is out, whatever the rounding
    return jnp.where(jnp.isinf(radius), widest, jnp.maximum(inside, jnp.finfo(jnp.float32).tiny))


def smallest_gap(features: jax.Array, labelled: jax.Array) -> jax.Array:
    """The smallest distance between two labelled rows that are not the same point; infinity where there are no two.

    The bandwidth of `uncertainty_herding` in its paper, for rows of norm 1: it shrinks as labels come in.

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
    check_array(labelled, "labelled")
    labelled = check_mask(labelled, "labelled", labelled)
    return smallest_distance(check_rows(features, "features", labelled), labelled)


@jax.jit
def smallest_distance(features, labelled, above=0.0) -> jax.Array:
    """`smallest_gap`, unchecked; of the distances larger than `above`."""
    features = jnp.where(labelled[:, None], features, 0.0)
    rows = jnp.nonzero(labelled, size=features.shape[0], fill_value=0)[0]

    def closer(carry):
        position, smallest = carry
        squared = jnp.square(features - features[rows[position]][None, :]).sum(1)
        return position + 1, jnp.minimum(
            smallest, jnp.min(squared, where=labelled & (squared > above**2), initial=jnp.inf)
        )

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
    return _ball_purity(features, clusters, as_array(radius, "radius").astype(jnp.float32), available)


@jax.jit
def _ball_purity(features, clusters, radius, available) -> jax.Array:
    reach = jnp.square(radius)[..., None] * (1 + ON_THE_RIM)
    pure = _nearest_stranger(features, clusters, available).reshape((1,) * radius.ndim + (-1,)) > reach
    return jnp.mean(pure, axis=-1, where=available)


def _nearest_stranger(features, clusters, available) -> jax.Array:
    """Squared distance `[R]` from each row to the nearest available row of another cluster; infinite without one."""
    num_rows = features.shape[0]
    features = centred(features, available)
    squares = jnp.square(features).sum(1)

    def nearest(row):
        squared = squares[row] + squares - 2 * jnp.matmul(features, features[row], precision="highest")
        return jnp.min(squared, where=available & (clusters != clusters[row]), initial=jnp.inf)

    size = max(1, min(num_rows, ROWS, BLOCK // max(num_rows, 1)))
    return jnp.maximum(jax.lax.map(nearest, jnp.arange(num_rows), batch_size=size), 0.0)


def centred(features, matters):
    """Rows `[R, D]` less the mean of those that matter; 0 where they do not."""
    features = jnp.where(matters[:, None], features, 0.0)
    mean = features.sum(0) / jnp.maximum(matters.sum(), 1)
    return jnp.where(matters[:, None], features - mean[None, :], 0.0)
