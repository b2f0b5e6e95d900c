"""BAIT: the batch whose labels leave least of `tr(M⁻¹ F)`, the variance that the Fisher information F is weighed by.

Every row x has a block `V_x = A_x ⊗ h_xᵀ` of r rows, and its Fisher information is `V_xᵀ V_x`. With one vector a row A_x is
the number 1; of a classifier's last layer it is a root of `diag(p) − p pᵀ`.

Float32 has the digits for roots of these matrices, but not for the matrices: M⁻¹ is held as `T Tᵀ`, F as `Bᵀ B`, gains
are sums of squares, and what the loss of a row costs is never a difference from 1.

Axes: R rows, D features, C classes, Q query size, F rows picked before some are dropped; a block has r rows and k·D = W
columns (r = k = C − 1 with classes, 1 without), and N = F·r.
"""

from functools import partial

import jax
import jax.numpy as jnp

from bdal.errors import is_concrete
from bdal.selection.coverage import check_features
from bdal.selection.fold import Query, greedy, no_rows_no_picks
from bdal.selection.kernels import check_probs

CHUNK = 2**21  # numbers of the blocks that are held at a time
LEAST = 1e-30  # added where a sum of squares may be 0
TIED = 1e-5  # losses this close, relative to the least, differ by rounding

product = partial(jnp.matmul, precision="highest")


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
    """DOC"""
    if probs is None:
        return bait_one_vector(
            features, noise_sigma=noise_sigma, available=available, query_size=query_size, labelled=labelled,
            oversample=1.0 if oversample is None else oversample, key=key, pad=pad,
        )  # fmt: skip
    forward_size = _check(noise_sigma, 2.0 if oversample is None else oversample, available, query_size)
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
    """DOC"""
    forward_size = _check(noise_sigma, oversample, available, query_size)
    features, available, labelled = check_features(features, available, labelled, query_size, pad)
    return _of_vectors(
        features, jnp.square(jnp.float32(noise_sigma)), available, labelled, key, forward_size, query_size
    )


@partial(jax.jit, static_argnames=("width", "forward_size", "query_size"))
def _of_classes(features, probs, ridge, available, labelled, key, width: int, forward_size: int, query_size: int):
    matters = available if labelled is None else available | labelled
    features = jnp.where(matters[:, None], features, 0.0)
    probs = jnp.where(matters[:, None], probs, 0.0)
    if width < features.shape[1]:
        features = _principal(features, jnp.where(matters, 1 - jnp.square(probs).sum(1), 0.0), width)
    roots = jnp.where(matters[:, None, None], fisher_roots(probs), 0.0)
    known = jnp.zeros_like(available) if labelled is None else labelled
    total = known.sum() + query_size
    return _bait(
        features, roots, ridge, 1 / total, query_size / total, 1 / jnp.maximum(matters.sum(), 1), available, known, key,
        forward_size, query_size,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("forward_size", "query_size"))
def _of_vectors(features, ridge, available, labelled, key, forward_size: int, query_size: int):
    known = jnp.zeros_like(available) if labelled is None else labelled
    features = jnp.where((available | known)[:, None], features, 0.0)
    roots = jnp.ones((features.shape[0], 1, 1))
    return _bait(features, roots, ridge, 1.0, 1.0, 1.0, available, known, key, forward_size, query_size)


def fisher_roots(probs: jax.Array) -> jax.Array:
    """A root A of what a label tells about the logits, `AᵀA = Uᵀ (diag(p) − p pᵀ) U`, row by row: `[R, C − 1, C − 1]`.

    All logits may move by the same amount and no probability changes, so that one direction of the C carries nothing;
    the columns of U, `[C, C − 1]`, are an orthonormal basis of the others. No entry is a difference from 1, which
    would lose its digits where a probability rounds to 1. With s = √p:

        A_cj = s_c (δ_cj − p_j / (1 + s_C) + s_C / (1 + √C)),    c, j < C.

    Args:
      probs: `[R, C]`.

    >>> fisher_roots(jnp.array([[0.5, 0.5], [1.0, 0.0]])).ravel().round(4).tolist()  # √(½ · ½ · 2) and 0
    [0.7071, 0.0]
    """
    if probs.shape[1] == 1:
        probs = jnp.pad(probs, ((0, 0), (0, 1)))  # a second class that never is
    size = probs.shape[1] - 1
    scale, last = jnp.sqrt(probs[:, :-1, None]), jnp.sqrt(probs[:, -1])[:, None, None]
    same = jnp.eye(size, dtype=bool)
    p = probs[:, None, :-1]
    others = jnp.where(same, 0.0, p).sum(2, keepdims=True) + probs[:, -1:, None]  # 1 − p_c
    own = jnp.where(same, others + last, -p) / (1 + last)
    return scale * (own + last / (1 + (size + 1) ** 0.5))


def _bait(h, roots, ridge, known_share, share, scale, available, known, key, forward_size: int, query_size: int):
    """The fold: `M = ridge · I + known_share Σ_known VᵀV + share Σ_chosen VᵀV` and `F = scale Σ VᵀV`."""
    rank, size = roots.shape[1:]
    width = size * h.shape[1]
    x, _, triangle = _triangles(h, roots * jnp.sqrt(known_share), known, ridge, jnp.eye(width))
    root = jax.scipy.linalg.solve_triangular(triangle, x.T, trans=1).T  # T with M⁻¹ = T Tᵀ
    _, upper, triangle = _triangles(h, roots, available | known, 0.0, root)
    seen = product(triangle, upper) * jnp.sqrt(scale)  # E = B T with F = Bᵀ B
    roots = roots * jnp.sqrt(share)
    chunk = min(_chunk(rank, width), h.shape[0])
    chunks = [jnp.pad(a, ((0, -len(a) % chunk), *[(0, 0)] * (a.ndim - 1))) for a in (roots, h)]
    chunks = [a.reshape(-1, chunk, *a.shape[1:]) for a in chunks]

    def blocks(index):  # [..., r, W]
        a, b = roots[index], h[index]
        return (a[..., :, :, None] * b[..., None, None, :]).reshape(*a.shape[:-1], width)

    def ratios(state):  # what the trace falls by, over what is left of it: both keep their digits
        root, seen = state
        basis = _largest(seen, size)  # [W, r]
        large = product(seen, basis)
        small = seen - product(large, basis.T)
        triangle = jnp.linalg.qr(large, mode="r")
        to_z, to_s = _by_feature(root, size), _by_feature(product(root, small.T), size)
        rest = jnp.square(small).sum()

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
            more = jnp.square(product(y, triangle.T)).sum()
            return (fall + more) / (left + jnp.maximum(rest - fall, 0.0) + LEAST)

        return jax.lax.map(jax.vmap(ratio), chunks).reshape(-1)[: h.shape[0]]

    def add(state, block):  # M + VᵀV, a row of V at a time
        def add_row(state, row):
            z = product(row, state[0])
            square = jnp.square(z).sum()
            axis = jnp.argmax(jnp.abs(z))
            v = z.at[axis].add(jnp.copysign(jnp.sqrt(square), z[axis]))  # Householder: z to one axis
            v = v / jnp.maximum(jnp.linalg.norm(v), LEAST)
            state = state - 2 * product(state, v)[..., None] * v
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
    `V M⁻¹ Bᵀ`, and once it is gone the others have what is orthogonal to its rows of U.
    """
    size, width = z.shape[1:]
    num = z.shape[0] * size
    basis = jnp.linalg.qr(jnp.concatenate([z.reshape(num, width).T, jnp.eye(num)]))[0]
    u = basis[width:]
    s = product(u, product(seen, basis[:width]).T)
    rows = jnp.concatenate([u, s], 1).reshape(-1, size, num + width)

    def drop(state, _):
        rows, kept = state
        explained = jax.vmap(partial(_orthonormal, columns=num))(rows)[..., num:]
        loss = jnp.where(kept, jnp.square(explained).sum((1, 2)), jnp.inf)
        block = len(kept) - 1 - jnp.argmax((loss <= (1 + TIED) * loss.min())[::-1])  # of equal blocks the last
        too_many = kept.sum() > query_size

        def without(number, rows):
            row = rows[block, number]
            share = product(rows[..., :num], row[:num]) / jnp.maximum(jnp.square(row[:num]).sum(), LEAST)
            return rows - share[..., None] * row

        rows = jax.lax.cond(too_many, lambda: jax.lax.fori_loop(0, size, without, rows), lambda: rows)
        return (rows, kept.at[block].set(kept[block] & ~too_many)), None

    return jax.lax.scan(drop, (rows, kept), length=len(kept) - query_size)[0][1]


def _inverse_root(z) -> jax.Array:
    """L⁻¹ `[r, r]` with `I + z zᵀ = L Lᵀ`."""
    return _orthonormal(jnp.concatenate([z, jnp.eye(len(z))], 1))[:, -len(z) :]


def _orthonormal(rows, columns: int | None = None) -> jax.Array:
    """Combinations of the rows, orthonormal in their first `columns`: modified Gram-Schmidt, which squares no digits."""
    for i in range(rows.shape[0]):
        row = rows[i] / jnp.sqrt(jnp.square(rows[i, :columns]).sum() + LEAST)
        share = product(rows[i + 1 :, :columns], row[:columns])
        rows = rows.at[i].set(row).at[i + 1 :].add(-share[:, None] * row)
    return rows


def _largest(seen, number: int) -> jax.Array:
    """Orthonormal columns `[W, number]` along which the columns of `seen` are longest, by a few subspace iterations."""
    basis = jnp.eye(seen.shape[1])[:, jax.lax.top_k(jnp.square(seen).sum(0), number)[1]]
    for _ in range(4):
        basis = jnp.linalg.qr(product(seen.T, product(seen, basis)))[0]
    return basis


def _triangles(h, roots, mask, ridge, frame) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A root of `G = frameᵀ (ridge · I + Σ VᵀV) frame` over the rows of `mask`: X, X⁻¹ and S with `Xᵀ G X = Sᵀ S`.

    All are upper triangular; X is `frame` times that. Cholesky twice: a root X⁻¹ of G with a ridge that rounding cannot hide, and a root S of what that leaves, summed from
    the rows again. So small eigenvalues keep their digits beside the large, as in a QR decomposition of all rows.
    Eigenvalues below 1e-11 of the trace are raised to that.
    """
    num_rows, rank, size = roots.shape
    width = size * h.shape[1]
    chunk = _chunk(rank, width)
    count = mask.sum()
    order = jnp.nonzero(mask, size=num_rows + chunk, fill_value=0)[0]

    def gram(x, ridge):  # xᵀ (ridge · I + Σ VᵀV) x
        by_feature = _by_feature(x, size)

        def absorb(carry):
            start, total = carry
            index = jax.lax.dynamic_slice(order, (start,), (chunk,))
            a = jnp.where((start + jnp.arange(chunk) < count)[:, None, None], roots[index], 0.0)
            rows = product(a, product(h[index], by_feature).reshape(chunk, size, width)).reshape(-1, width)
            return start + chunk, total + product(rows.T, rows)

        return jax.lax.while_loop(lambda carry: carry[0] < count, absorb, (0, ridge * product(x.T, x)))[1]

    rough, unit = gram(frame, ridge), jnp.eye(width)
    trace = jnp.trace(rough) + LEAST
    upper = jnp.linalg.cholesky(rough + 1e-6 * trace * unit).T
    x = jax.scipy.linalg.solve_triangular(upper, unit)
    fx = product(frame, x)
    return fx, upper, jnp.linalg.cholesky(gram(fx, ridge) + 1e-11 * trace * product(x.T, x)).T


def _principal(features, weights, width: int) -> jax.Array:
    """The features in the `width` directions that hold most of `Σ w_x h_x h_xᵀ`."""
    _, vectors = jnp.linalg.eigh(product(features.T, weights[:, None] * features))
    return product(features, vectors[:, -width:])


def _by_feature(matrix, size: int) -> jax.Array:
    """`[k·D, W]` as `[D, k·W]`: a vector h times it is, for each of the k, h times its D rows."""
    return matrix.reshape(size, -1, matrix.shape[1]).swapaxes(0, 1).reshape(-1, size * matrix.shape[1])


def _chunk(rank: int, width: int) -> int:
    return max(1, CHUNK // (4 * rank * width))


def _check(noise_sigma, oversample, available, query_size) -> int:
    """The number of rows that the forward pass picks."""
    if is_concrete(noise_sigma) and not 0 < float(noise_sigma) < float("inf"):
        raise ValueError(f"noise_sigma must be finite and positive, got {noise_sigma}")
    if isinstance(oversample, bool) or not is_concrete(oversample) or not 1 <= float(oversample) < float("inf"):
        raise ValueError(f"oversample must be a finite number of at least 1, known before tracing, got {oversample!r}")
    return max(query_size, min(round(float(oversample) * query_size), len(available)))
