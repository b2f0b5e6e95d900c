"""BAIT: the batch whose labels leave least of `tr(M⁻¹ F)`, the uncertainty that matters to the pool.

Every row x has a block `V_x = A_x ⊗ h_xᵀ`, and its Fisher information is `V_xᵀ V_x`. A_x is the number 1 where a row
has one vector, and a root of `diag(p) − p pᵀ` for the last layer of a classifier.

Float32 has digits enough for roots of these matrices, and too few for the matrices. So M⁻¹ is held as `T Tᵀ` and F as
`Bᵀ B`, gains are sums of squares, and what the loss of a row costs is never taken from a difference from 1.

Axes: R rows, D features, C classes, Q query size, F rows picked before some are dropped. A block has r rows and
W = k·D columns, with r = k = 1 without classes, k = C − 1 and r = min(k, 16) with them; N = F·r.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdal.errors import check_number, check_query, is_concrete
from bdal.selection.coverage import check_features
from bdal.selection.fold import Query, greedy, no_rows_no_picks
from bdal.selection.kernels import check_probs

RANK = 16  # rows of a block, at most
CHUNK = 2**20  # numbers that are held for a chunk of rows
TIED = 1e-5  # losses this close, relative to the least, differ by rounding
LEAST = 1e-30  # added where a sum of squares may be 0

product = partial(jnp.matmul, precision="highest")
eye = partial(jnp.eye, dtype=jnp.float32)


@no_rows_no_picks
def bait(
    features: jax.Array,
    probs: jax.Array | None = None,
    *,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    noise_sigma: float = 1.0,
    oversample: float | None = None,
    sketch_dim: int = 1152,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Greedy minimisation of `tr(M⁻¹ F)`, the Fisher information of all rows in the metric of that of the labelled.

    For a classifier's last layer, with predictions p and inputs h, the Fisher information of a row is that of the
    label averaged over p, `I_x = (diag(p) − p pᵀ) ⊗ h hᵀ = V_xᵀ V_x`, with a row `√p_c (e_c − p) ⊗ h` of V_x for each
    class. With L labelled rows,

        F = mean_x I_x,    M = λ·1 + (Σ_labelled I_j + Q Σ_chosen I_j) / (L + Q),    λ = σ².

    A forward pass picks 2Q rows, each time the one that lowers the trace most. A backward pass then drops one row at a
    time, the one whose loss raises it least, until Q are left.

    This is the rule of the authors' code, in which a pick weighs as much as Q labelled rows and the layer's bias is
    left out. It differs at its edges only: where fewer than 2Q rows are available, the forward pass ends with them
    (theirs adds its last pick again and again); no infinity need be replaced; ties go by the key, or to the lowest
    index.

    Blocks have (C − 1)·D columns: probabilities do not change when all logits move together. Where that is more than
    `sketch_dim`, features are projected on the ⌊sketch_dim / (C − 1)⌋ directions that hold most of
    `Σ_x (1 − ‖p‖²) h hᵀ`. (On networks of optdigits with 576 columns, half of them or an eighth leave a trace at most
    2.5 % larger, and as many after a random projection up to 4 and 17 %: `benchmarks/results`.) With more than 17
    classes, a block has the rows of the 16 likeliest of the first C − 1. A query takes `(Q·R + L)·(C·D)²` operations
    and memory for `(C·D)²` numbers; its backward pass takes `Q³·C·(Q·C + C·D)` operations.

    Args:
      features: `[R, D]`, the last layer's inputs.
      probs: `[R, C]`, of the network or the committee's mean. None: features alone, see `bait_one_vector`.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, rows that are known from the start. Rows that are neither available nor labelled do not
        matter, whatever they hold.
      noise_sigma: σ, positive; the authors have λ = 1, and 0.01 (σ = 0.1) for CIFAR.
      oversample: round(oversample · Q) rows are picked before some are dropped; by default 2 with `probs`, and 1
        (forward only) without.
      sketch_dim: the most columns that a block may have, a Python int of at least C − 1.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` in the order of the forward pass. Its gains are what the trace falls by with each row of the batch,
      so that their sum is what it falls by in all.

    Raises:
      ValueError: `noise_sigma` not positive, `oversample` below 1, a `sketch_dim` below C − 1; shapes that do not
        fit; rows of `probs` that are not probabilities (eager calls); fewer than Q rows available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Ash et al. (2021), "Gone fishing: neural active learning with Fisher embeddings", NeurIPS, algorithm 1; weights and
    λ as in the authors' code (github.com/JordanAsh/badge, query_strategies/bait_sampling.py and run.py).

    >>> features = jnp.array([[1.0, 0.0], [1.1, 0.0], [1.0, 0.1], [0.0, 5.0]])
    >>> probs = jnp.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 0.0]])  # the last is sure
    >>> query = bait(features, probs, available=jnp.ones(4, bool), query_size=2)
    >>> query.indices.tolist(), round(float(query.gains.sum()), 3)
    ([1, 2], 0.211)
    """
    if probs is None:
        return bait_one_vector(
            features, noise_sigma=noise_sigma, available=available, query_size=query_size, labelled=labelled,
            oversample=1.0 if oversample is None else oversample, key=key, pad=pad,
        )  # fmt: skip
    forward_size = _forward_size(noise_sigma, 2.0 if oversample is None else oversample, available, query_size)
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    probs = check_probs(probs, available if labelled is None else available | labelled)
    columns = max(probs.shape[1] - 1, 1)
    if isinstance(sketch_dim, bool) or not hasattr(sketch_dim, "__index__") or sketch_dim < columns:
        raise ValueError(f"sketch_dim must be a Python int of at least C − 1 = {columns}, got {sketch_dim!r}")
    width = min(features.shape[1], int(sketch_dim) // columns)
    ridge = jnp.square(jnp.float32(noise_sigma))
    return _of_classes(features, probs, ridge, available, labelled, key, width, forward_size, query_size)


@no_rows_no_picks
def bait_one_vector(
    features: jax.Array,
    *,
    noise_sigma: float,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    oversample: float = 1.0,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """BAIT with one vector a row: `tr(M⁻¹ F)` with `M = Σ_{j in S} h_j h_jᵀ + σ² I` and `F = Σ_x h_x h_xᵀ`.

    That is the sum, over the available and labelled rows, of the variance that the labels of S, the labelled and chosen
    rows, leave in a linear regression (V-optimal design). All labels weigh the same. With `oversample` > 1 a
    forward pass picks more, and a backward pass drops one row at a time, the one whose loss raises the trace least,
    until Q are left.

    Args:
      features: `[R, D]`: of a regression the last layer's inputs; any features whose dot product is a kernel.
      noise_sigma: σ, positive. Below 1e-5 of the longest row it is lost in float32.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      labelled: `[R]` bool, rows that are in S from the start. Rows that are neither available nor labelled do not
        matter, whatever they hold.
      oversample: round(oversample · Q) rows are picked before some are dropped; 1 is forward only, the paper has 2.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` in the order of the forward pass. Its gains are what the trace falls by with each row of the batch,
      so that their sum is what it falls by in all.

    Raises:
      ValueError: `noise_sigma` not positive, `oversample` below 1; shapes that do not fit; fewer than Q rows
        available.
      NonFiniteError: an available or labelled row is NaN or infinite (eager calls).

    Ash et al. (2021), "Gone fishing: neural active learning with Fisher embeddings", NeurIPS, the form for regression;
    with these weights: Holzmüller et al. (2023), "A framework and benchmark for deep batch active learning for
    regression", JMLR 24, §5.2.

    >>> features = jnp.array([[1.0, 0.0], [1.1, 0.0], [1.0, 0.1], [0.0, 5.0]])
    >>> query = bait_one_vector(features, noise_sigma=1.0, available=jnp.ones(4, bool), query_size=2)
    >>> query.indices.tolist(), round(float(query.gains.sum()), 3)  # 28.22 − 2.41
    ([3, 1], 25.806)
    """
    forward_size = _forward_size(noise_sigma, oversample, available, query_size)
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    ridge = jnp.square(jnp.float32(noise_sigma))
    return _of_vectors(features, ridge, available, labelled, key, forward_size, query_size)


def _forward_size(noise_sigma, oversample, available, query_size) -> int:
    check_number(noise_sigma, "noise_sigma")
    check_number(oversample, "oversample")
    if is_concrete(noise_sigma) and not 0 < float(noise_sigma) < float("inf"):
        raise ValueError(f"noise_sigma must be finite and positive, got {noise_sigma}")
    if not is_concrete(oversample) or not 1 <= float(oversample) < float("inf"):
        raise ValueError(f"oversample must be a finite number of at least 1, known before tracing, got {oversample!r}")
    check_query(available, query_size, pad=True)
    return max(query_size, min(round(float(oversample) * query_size), len(available)))


@partial(jax.jit, static_argnames=("width", "forward_size", "query_size"))
def _of_classes(features, probs, ridge, available, labelled, key, width: int, forward_size: int, query_size: int):
    known = jnp.zeros_like(available) if labelled is None else labelled
    matters = available | known
    features, probs = (jnp.where(matters[:, None], array, 0.0) for array in (features, probs))
    if width < features.shape[1]:
        features = _principal(features, probs.sum(1) - jnp.square(probs).sum(1), width)
    total = known.sum().astype(jnp.float32) + query_size
    scale = 1 / jnp.maximum(matters.sum().astype(jnp.float32), 1)
    return _bait(
        features, fisher_roots(probs), ridge, 1 / total, query_size / total, scale, available, known, key,
        forward_size, query_size,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("forward_size", "query_size"))
def _of_vectors(features, ridge, available, labelled, key, forward_size: int, query_size: int):
    known = jnp.zeros_like(available) if labelled is None else labelled
    features = jnp.where((available | known)[:, None], features, 0.0)
    roots = jnp.ones((features.shape[0], 1, 1), jnp.float32)
    return _bait(features, roots, ridge, 1.0, 1.0, 1.0, available, known, key, forward_size, query_size)


def fisher_roots(probs: jax.Array) -> jax.Array:
    """A root A of what a label tells about the logits, `AᵀA = Uᵀ (diag(p) − p pᵀ) U`, for each row: `[R, r, C − 1]`.

    Probabilities do not change when all logits move together; the columns of U `[C, C − 1]` are an orthonormal basis
    of all other directions. With s = √p, and 1 − p_c summed from the others, so that it has digits where p_c rounds to
    1,

        A_cj = s_c (δ_cj − p_j / (1 + s_C) + s_C / (1 + √C)),    c, j < C,

    for all C − 1 of the c, or the 16 likeliest.

    Args:
      probs: `[R, C]`.

    >>> jnp.square(fisher_roots(jnp.array([[0.5, 0.5], [1.0, 0.0]]))).ravel().round(4).tolist()  # 2 · ½ · ½, and 0
    [0.5, 0.0]
    """
    if probs.shape[1] == 1:
        probs = jnp.pad(probs, ((0, 0), (0, 1)))  # a second class that never is
    p, last = probs[:, None, :-1], probs[:, None, -1:]
    own, classes = jax.lax.top_k(probs[:, :-1], min(RANK, p.shape[2]))  # [R, r]
    same = classes[:, :, None] == jnp.arange(p.shape[2])[None, None, :]
    others = jnp.where(same, 0.0, p).sum(2, keepdims=True) + last  # 1 − p_c
    s = jnp.sqrt(last)
    entries = jnp.where(same, others + s, -p) / (1 + s) + s / (1 + probs.shape[1] ** 0.5)
    return jnp.sqrt(own)[:, :, None] * entries


def _principal(features, weights, width: int) -> jax.Array:
    """The features in the `width` directions that hold most of `Σ w_x h_x h_xᵀ`."""
    _, vectors = jnp.linalg.eigh(product(features.T, weights[:, None] * features))
    return product(features, vectors[:, -width:])


def _bait(h, roots, ridge, known_share, share, scale, available, known, key, forward_size: int, query_size: int):
    """The fold: `M = ridge · I + known_share Σ_known VᵀV + share Σ_chosen VᵀV` and `F = scale Σ VᵀV`.

    The factorisations follow from one another. On two cores three that do not, each of a stack of matrices, as there
    are with seeds together, wait for ever for a free thread (jaxlib 0.10.2).
    """
    rank, size = roots.shape[1:]
    width = size * h.shape[1]
    root, _, triangle = _triangles(h, roots * jnp.sqrt(known_share), known, ridge, eye(width))
    root = jax.scipy.linalg.solve_triangular(triangle, root.T, trans=1).T  # T with M⁻¹ = T Tᵀ
    _, upper, triangle = _triangles(h, roots, available | known, 0.0, root)
    seen = product(triangle, upper) * jnp.sqrt(scale)  # E = B T with F = Bᵀ B
    roots = roots * jnp.sqrt(share)
    chunk = min(_chunk(rank, width), h.shape[0])
    chunks = [jnp.pad(a, ((0, -len(a) % chunk), *[(0, 0)] * (a.ndim - 1))) for a in (roots, h)]
    chunks = [a.reshape(-1, chunk, *a.shape[1:]) for a in chunks]

    def blocks(index):  # [..., r, W]
        a, b = roots[index], h[index]
        return (a[..., None] * b[..., None, None, :]).reshape(*a.shape[:-1], width)

    def ratios(state):
        """What the trace falls by, over what is left of it: this tells large falls apart that round to the same.

        A block can end the uncertainty in r directions. So the r in which most is left are kept apart from the rest,
        and what is left is a sum, not a difference of large numbers.
        """
        root, seen = state
        basis = _largest(seen, rank)  # [W, r]
        large = product(seen, basis)
        small = seen - product(large, basis.T)
        rest, triangle = jnp.square(small).sum(), jnp.linalg.qr(large, mode="r")
        to_z, to_s = _by_feature(root, size), _by_feature(product(root, small.T), size)

        def ratio(row):
            a, b = row
            z = product(a, product(b, to_z).reshape(size, width))  # V T
            y = product(z, basis)
            inner = _inverse_root(z - product(y, basis.T))
            y_inner = product(inner, y)
            left = jnp.square(product(_inverse_root(y_inner.T), triangle.T)).sum()
            inner = product(_inverse_root(y_inner), inner)  # (I + V M⁻¹ Vᵀ)⁻¹ = innerᵀ inner
            y = product(inner, y)
            s = product(product(inner, a), product(b, to_s).reshape(size, width))
            fall = jnp.square(s).sum() + 2 * (product(s, large) * y).sum()
            fall_large = jnp.square(product(y, triangle.T)).sum()
            return (fall + fall_large) / (left + jnp.maximum(rest - fall, 0.0) + LEAST)

        return jax.lax.map(jax.vmap(ratio), chunks).reshape(-1)[: h.shape[0]]

    def add(state, block):  # M + VᵀV, a row of V at a time: z is turned into one axis, and that axis shrinks
        def add_row(state, row):
            z = product(row, state[0])
            square = jnp.square(z).sum()
            axis = jnp.argmax(jnp.abs(z))
            v = z.at[axis].add(jnp.copysign(jnp.sqrt(square), z[axis]))  # Householder
            v = v / jnp.maximum(jnp.linalg.norm(v), LEAST)
            state = state - 2 * product(state, v)[:, :, None] * v[None, None, :]
            return state.at[..., axis].divide(jnp.sqrt(1 + square)), None

        return jax.lax.scan(add_row, state, block)[0]

    start = jnp.stack([root, seen])
    forward = greedy(
        start,
        ratios,
        lambda state, index: add(state, blocks(index)),
        available=available,
        query_size=forward_size,
        key=key,
    )
    kept = forward.indices >= 0
    picked = jnp.where(kept[:, None, None], blocks(forward.indices), 0.0)
    if forward_size > query_size:
        kept = _prune(product(picked, root), seen, kept, query_size)
    order = jnp.argsort(~kept, stable=True)[:query_size]
    kept, picked = kept[order], picked[order]

    def gain(state, block):
        z = product(block, state[0])
        s = product(_inverse_root(z), product(z, state[1].T))
        return add(state, block), jnp.square(s).sum()

    gains = jax.lax.scan(gain, start, picked)[1]
    return Query(jnp.where(kept, forward.indices[order], -1), jnp.where(kept, gains, 0.0))


def _prune(z, seen, kept, query_size: int) -> jax.Array:
    """Drop the block whose loss raises the trace least until Q are left: which of the `kept [F]` stay.

    With Z `[N, W]` the blocks `V T` of all, `I − V M⁻¹ Vᵀ = (I + Z Zᵀ)⁻¹ = U Uᵀ`, where U are the lower rows of an
    orthonormal basis of the columns of `[Zᵀ; I]`. The loss of a block is `tr((U_j U_jᵀ)⁻¹ S_j S_jᵀ)`, with S the blocks
    `V M⁻¹ Bᵀ`; once it is gone, the others have what is orthogonal to its rows of U.
    """
    rank, width = z.shape[1:]
    num = z.shape[0] * rank
    basis = jnp.linalg.qr(jnp.concatenate([z.reshape(num, width).T, eye(num)]))[0]
    u = basis[width:]
    s = product(u, product(seen, basis[:width]).T)
    rows = jnp.concatenate([u, s], 1).reshape(-1, rank, num + width)

    def drop(state, _):
        rows, kept = state
        orthonormal = jax.vmap(partial(_orthonormal, columns=num))(rows)
        loss = jnp.where(kept, jnp.square(orthonormal[..., num:]).sum((1, 2)), jnp.inf)
        block = len(kept) - 1 - jnp.argmax((loss <= (1 + TIED) * loss.min())[::-1])  # of equal blocks the last
        too_many = kept.sum() > query_size
        gone = jnp.where(too_many, orthonormal[block], 0.0)
        rows = rows - product(product(rows[..., :num], gone[:, :num].T), gone)
        return (rows, kept.at[block].set(kept[block] & ~too_many)), None

    return jax.lax.scan(drop, (rows, kept), length=len(kept) - query_size)[0][1]


def _inverse_root(z) -> jax.Array:
    """L⁻¹ with `I + z zᵀ = L Lᵀ`: what makes the rows of `[z, I]` orthonormal."""
    return _orthonormal(jnp.concatenate([z, eye(len(z))], 1))[:, -len(z) :]


def _orthonormal(rows, columns: int | None = None) -> jax.Array:
    """Combinations of the rows, orthonormal in their first `columns`: modified Gram-Schmidt, which squares nothing."""

    def step(i, rows):
        row = rows[i] / jnp.sqrt(jnp.square(rows[i, :columns]).sum() + LEAST)
        share = jnp.where(jnp.arange(len(rows)) > i, product(rows[:, :columns], row[:columns]), 0.0)
        return (rows - share[:, None] * row[None, :]).at[i].set(row)

    return jax.lax.fori_loop(0, len(rows), step, rows)


def _largest(seen, number: int) -> jax.Array:
    """Orthonormal columns `[W, number]` along which the columns of `seen` are longest, by a few subspace iterations."""
    basis = eye(seen.shape[1])[:, jax.lax.top_k(jnp.square(seen).sum(0), number)[1]]
    for _ in range(4):
        basis = jnp.linalg.qr(product(seen.T, product(seen, basis)))[0]
    return basis


def _triangles(h, roots, mask, ridge, frame) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A root `S X⁻¹` of `G = frameᵀ (ridge · I + Σ VᵀV) frame`, summed over the rows of `mask`: `(frame X, X⁻¹, S)`.

    By Cholesky, twice: `X⁻¹` is a root of G with a ridge that rounding cannot hide, and S of `Xᵀ G X`, summed from the
    rows again. So small eigenvalues keep their digits beside large ones, as in a QR decomposition of all rows. Where
    `ridge` is less than 1e-11 of the trace of G, the rest of that is added.
    """
    num_rows, rank, size = roots.shape
    width = size * h.shape[1]
    chunk = _chunk(rank, width)
    count = mask.sum()
    order = jnp.nonzero(mask, size=num_rows + chunk, fill_value=0)[0]

    def gram(frame):
        by_feature = _by_feature(frame, size)

        def absorb(carry):
            start, total = carry
            index = jax.lax.dynamic_slice(order, (start,), (chunk,))
            a = jnp.where((start + jnp.arange(chunk) < count)[:, None, None], roots[index], 0.0)
            rows = product(a, product(h[index], by_feature).reshape(chunk, size, width)).reshape(-1, width)
            return start + chunk, total + product(rows.T, rows)

        init = (0, ridge * product(frame.T, frame))
        return jax.lax.while_loop(lambda carry: carry[0] < count, absorb, init)[1]

    rough = gram(frame)
    trace = jnp.maximum(jnp.trace(rough), 1e-20)  # all are sure: G is 0
    upper = jnp.linalg.cholesky(rough + 1e-6 * trace * eye(width)).T
    x = jax.scipy.linalg.solve_triangular(upper, eye(width))
    frame, least = product(frame, x), jnp.maximum(1e-11 * trace - ridge, 0.0)
    return frame, upper, jnp.linalg.cholesky(gram(frame) + least * product(x.T, x)).T


def _by_feature(matrix, size: int) -> jax.Array:
    """`[k·D, W]` as `[D, k·W]`: h times it is, side by side, h times the D rows of each of the k."""
    return matrix.reshape(size, -1, matrix.shape[1]).swapaxes(0, 1).reshape(-1, size * matrix.shape[1])


def _chunk(rank: int, width: int) -> int:
    return max(1, CHUNK // (4 * rank * width))
