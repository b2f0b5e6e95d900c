"""Batches from the algebra of features: the volume they span, and the sum they stand for.

Of Bayesian linear regression on the features h with noise variance σ², `M = Σ_{j labelled or chosen} h_j h_jᵀ + σ² I`
is the precision of the posterior (times σ²). `max_det` picks the largest predictive variance, which maximises det M.
`frank_wolfe` looks for rows whose weighted sum is the sum of all.

Axes: R rows, D features, Q query size.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdal.errors import check_number, is_concrete
from bdal.selection.coverage import check_features
from bdal.selection.fold import Query, greedy, no_rows_no_picks

# A row of whose squared norm no more than this is left outside the span of the others lies in it: float32 cannot tell.
RANK_TOLERANCE = 1e-10


@no_rows_no_picks
def max_det(
    features: jax.Array,
    *,
    noise_sigma: float,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Greedy maximisation of `log det(K_S + σ² I)` over the labelled and chosen rows S, with `K = H Hᵀ`.

    That is the greedy determinantal point process, D-optimal design, and, as the determinant grows by the predictive
    variance `v(x) = k(x, x) + σ² − k(x, S)(K_S + σ² I)⁻¹ k(S, x)`, BatchBALD for a Gaussian process: the information
    of a pick is `½ log(v / σ²)` nats.

    Where all rows left lie in the span of S (but for 1e-5 of their norm), each is worth σ². They are
    then ties: with a key the rest of the batch is drawn at random, without one it is filled in the order of the rows.
    Without noise that happens after as many picks as the features have dimensions. With noise, repeats of what is
    known keep a value.

    Differs from the paper: members' class probabilities for predicted means, as this is classification; σ = 0.1 as
    in Holzmüller's code. That is the strategy's default; the paper is Kirsch's (2023), whose kernel is
    `committee_features`.

    Args:
      features: `[R, D]`.
      noise_sigma: σ, not negative.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, rows that are in S from the start. Rows that are neither available nor labelled do not
        matter, whatever they hold.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the `v(x)` of each row when it was picked, the factors that the determinant grew by.

    Raises:
      ValueError: a negative `noise_sigma`; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Chen, Zhang & Zhou (2018), "Fast greedy MAP inference for determinantal point process", algorithm 1; for batches:
    Holzmüller et al. (2023), "A framework and benchmark for deep batch active learning for regression", JMLR 24,
    §5.2.3.

    >>> features = jnp.array([[3.0, 0.0], [2.9, 0.0], [0.0, 1.0]])
    >>> max_det(features, noise_sigma=0.0, available=jnp.ones(3, bool), query_size=3)._asdict()
    {'indices': Array([0, 2, 1], dtype=int32), 'gains': Array([9., 1., 0.], dtype=float32)}
    """
    check_number(noise_sigma, "noise_sigma")
    if is_concrete(noise_sigma) and not 0 <= float(noise_sigma) < float("inf"):
        raise ValueError(f"noise_sigma must be finite and not negative, got {noise_sigma}")
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    return _max_det(features, jnp.float32(noise_sigma), available, labelled, key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _max_det(features, sigma, available, labelled, key, query_size: int) -> Query:
    # The features become those of the posterior: their dot products are k(x, y) − k(x, S)(K_S + σ² I)⁻¹ k(S, y). What
    # is subtracted are vectors; pivoted Cholesky subtracts their squares, and with them half of the digits.
    features = _where_they_matter(features, available, labelled)
    negligible = RANK_TOLERANCE * jnp.square(features).sum(1)
    if labelled is not None:
        directions, squares = _spectrum(features, labelled)
        outside = squares <= RANK_TOLERANCE * squares.max(initial=0.0)
        left = jnp.where(sigma > 0, sigma / jnp.sqrt(squares + jnp.square(sigma)), outside)
        features = jnp.matmul(features, directions * left[None, :], precision="highest")

    def unexplained(features):
        squares = jnp.square(features).sum(1)
        return jnp.where(squares <= negligible, 0.0, squares)

    def gains(state):
        return state[1] + jnp.square(sigma)

    def update(state, index):
        features, left = state
        row, std = features[index], jnp.sqrt(left[index] + jnp.square(sigma))
        scale = jnp.where(left[index] > 0, 1 / (std * (std + sigma)), 0.0)
        features = features - jnp.outer(scale * jnp.matmul(features, row, precision="highest"), row)
        return features, unexplained(features)

    state = (features, unexplained(features))
    return greedy(state, gains, update, available=available, query_size=query_size, key=key)


@no_rows_no_picks
def frank_wolfe(
    features: jax.Array, *, available: jax.Array, query_size: int, key: jax.Array | None = None, pad: bool = False
) -> Query:
    """Rows whose weighted sum comes near the sum of all, `Σ_x h_x`, by the steps of Frank & Wolfe.

    With `r = Σ_x h_x − Σ_{j chosen} w_j h_j`, pick `argmax_x ⟨h_x / ‖h_x‖, r⟩` of the rows not yet picked. The weights
    then move on the line towards the vertex `(Σ_j ‖h_j‖) h_x / ‖h_x‖` as far as brings the sum nearest. A row of zero
    has a direction of zero.

    Differs from the paper: no point is picked twice, so that the batch is full; sketched gradients in place of
    projected log-likelihoods. In the paper a row may be picked again, which moves weights only, and a batch is then
    shorter than Q; that no row is picked twice is as in Holzmüller et al. The features are the strategy's default.

    Args:
      features: `[R, D]`; of active Bayesian coresets, projections of the log-likelihoods.
      available: `[R]` bool, the rows that are summed and may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the dot products with r when the row was picked; below 0 where no row left points
      along what is missing.

    Raises:
      ValueError: shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available row is NaN or infinite (eager calls).

    Pinsler et al. (2019), "Bayesian batch active learning as sparse subset approximation", NeurIPS, algorithm 1;
    Holzmüller et al. (2023), JMLR 24, §5.2.

    >>> features = jnp.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    >>> frank_wolfe(features, available=jnp.ones(3, bool), query_size=2).indices.tolist()
    [1, 2]
    """
    features, available, _ = check_features(features, available, None, query_size, pad)
    return _frank_wolfe(features, available, key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _frank_wolfe(features, available, key, query_size: int) -> Query:
    features = _where_they_matter(features, available, None)
    norms = jnp.sqrt(jnp.square(features).sum(1))
    directions = features / jnp.where(norms == 0, 1.0, norms)[:, None]
    total, size = features.sum(0), norms.sum()

    def gains(reached):
        return jnp.matmul(directions, total - reached, precision="highest")

    def update(reached, index):
        step = size * directions[index] - reached
        square = jnp.square(step).sum()
        share = jnp.where(square > 0, (step * (total - reached)).sum() / square, 0.0)
        return reached + share * step

    return greedy(jnp.zeros_like(total), gains, update, available=available, query_size=query_size, key=key)


def _where_they_matter(features, available, labelled) -> jax.Array:
    return _masked(features, available if labelled is None else available | labelled)


def _masked(rows, mask) -> jax.Array:
    return jnp.where(mask[:, None], rows, 0.0)


def _spectrum(features, mask) -> tuple[jax.Array, jax.Array]:
    """Eigenvectors, in columns, and eigenvalues of `Σ h hᵀ` over the rows of `mask`: `[D, D]` and `[D]`.

    By QR of blocks of these rows, as many as they fill, and the singular values of what is left: the sum itself, of
    squares, would bury the small eigenvalues in the rounding of the large.
    """
    num_rows, num_features = features.shape
    size = max(16, num_features)
    count = mask.sum()
    order = jnp.nonzero(mask, size=num_rows + size, fill_value=0)[0]

    def absorb(carry):
        start, triangle = carry
        rows = features[jax.lax.dynamic_slice(order, (start,), (size,))]
        rows = _masked(rows, start + jnp.arange(size) < count)
        return start + size, jnp.linalg.qr(jnp.concatenate([triangle, rows]), mode="r")

    init = (0, jnp.zeros((num_features, num_features)))
    _, triangle = jax.lax.while_loop(lambda carry: carry[0] < count, absorb, init)
    _, values, vectors = jnp.linalg.svd(triangle)
    return vectors.T, jnp.square(values)
