"""Batches of gradients that are large and differ from each other.

Axes: R rows, C classes, D features, Q query size.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bdal.errors import check_query
from bdal.selection.clusters import check_first, d2_sampling
from bdal.selection.fold import Query, no_rows_no_picks
from bdal.selection.kernels import check_probs, label_residuals
from bdal.selection.penalties import check_rows


@no_rows_no_picks
def badge(
    key: jax.Array,
    probs: jax.Array,
    embeddings: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    first: Literal["max_norm", "uniform"] = "max_norm",
    pad: bool = False,
) -> Query:
    """k-means++ on the last layer's gradients, `g = q ⊗ h` with `q = p − e_ŷ` for the likeliest class ŷ.

    Rows are drawn with probability `∝ D²(x) = min_{j chosen} ‖g_x − g_j‖²`. The C·D numbers of a gradient are never
    formed: with `Δq = q_x − q_j` and `Δh = h_x − h_j`

        ‖g_x − g_j‖² = ‖Δq‖²‖h_x‖² + ‖q_j‖²‖Δh‖² + 2⟨Δq, q_j⟩⟨h_x, Δh⟩,

    which loses no digits where the two are close, and is exactly 0 where they are equal. Where no row is left at a
    distance (all predictions sure, for one), all are equally likely.

    Args:
      key: a PRNG key, consumed.
      probs: `[R, C]`, of the network or the committee's mean.
      embeddings: `[R, D]`, the last layer's inputs.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      first: the first pick: "max_norm", the largest gradient, as in the authors' code; or "uniform", as k-means++ is
        defined and scikit-learn begins.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the D² of each row when it was picked, and `‖g‖² = ‖q‖²‖h‖²` for the first.

    Raises:
      ValueError: another `first`; shapes that do not fit; available rows of `probs` that are not probabilities
        (eager calls); fewer than Q rows available.
      NonFiniteError: an available row is NaN or infinite (eager calls).

    Ash et al. (2020), "Deep batch active learning by diverse, uncertain gradient lower bounds", ICLR, algorithm 1.

    >>> probs = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    >>> embeddings = jnp.array([[9.0], [2.0], [2.0]])
    >>> query = badge(jax.random.key(0), probs, embeddings, available=jnp.ones(3, bool), query_size=2)
    >>> query.indices.tolist()[1], query.gains.tolist()  # the twin of the first is no second
    (0, [2.0, 2.0])
    """
    check_first(first)
    check_query(available, query_size, pad)
    probs = check_probs(probs, available)
    embeddings = check_rows(embeddings, "embeddings", available)
    return _badge(key, probs, embeddings, jnp.asarray(available), first, query_size)


@partial(jax.jit, static_argnames=("first", "query_size"))
def _badge(key, probs, embeddings, available, first: Any, query_size: int) -> Query:
    q = jnp.where(available[:, None], label_residuals(probs), 0.0)  # [R, C]
    h = jnp.where(available[:, None], embeddings, 0.0)  # [R, D]
    q_squares, h_squares = jnp.square(q).sum(1), jnp.square(h).sum(1)

    def distances(index):
        q_gap, h_gap = q - q[index][None, :], h - h[index][None, :]
        cross = (q_gap * q[index][None, :]).sum(1) * (h * h_gap).sum(1)
        squared = jnp.square(q_gap).sum(1) * h_squares + q_squares[index] * jnp.square(h_gap).sum(1) + 2 * cross
        return jnp.maximum(squared, 0.0)

    norms = q_squares * h_squares
    none = jnp.full_like(norms, jnp.inf)
    return d2_sampling(key, none, norms, distances, first=first, available=available, query_size=query_size)
