"""Scores and selectors put together: sums, prefilters, two stages, turns among classes or clusters.

Axes: R rows, M candidates (rows that a prefilter leaves), C classes, D features, Q query size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import (
    LabelError,
    as_array,
    check_count,
    check_finite,
    check_inputs,
    check_key,
    check_query,
    is_concrete,
)
from bdal.selection.checks import check_groups
from bdal.selection.covers import facility_location
from bdal.selection.fold import TIE_TOLERANCE, Query, no_rows_no_picks
from bdal.selection.penalties import check_rows
from bdal.selection.ranking import as_query, check_scores, ranking, sortable, top_k
from bdal.selection.typical import k_means_clusters, place_in_group


def standardised_sum(*scores: jax.Array, weights: jax.Array, available: jax.Array) -> jax.Array:
    """A weighted sum of scores brought to one scale, `Σ_i w_i · (s_i − mean s_i) / std s_i`.

    Mean and standard deviation are those of the available rows, so that weights mean the same whatever the units of
    the scores. A score that is constant up to rounding counts 0.

    Args:
      scores: each `[R]`.
      weights: one number a score, of any sign.
      available: `[R]` bool; what the other rows hold does not matter.

    Returns:
      `[R]`, 0 where not available.

    Raises:
      ValueError: no scores, or not one weight for each; shapes that do not fit.
      NonFiniteError: an available score, or a weight, is NaN or infinite (eager calls).

    A linear combination of z-scores, as `diverse` has for one score.

    >>> entropy, distance = jnp.array([0.1, 0.3]), jnp.array([50.0, 10.0])
    >>> standardised_sum(entropy, distance, weights=[1.0, 0.25], available=jnp.ones(2, bool)).round(4).tolist()
    [-0.75, 0.75]
    """
    check_query(available, 1, pad=True)
    weights = as_array(weights, "weights").astype(jnp.float32)
    if not scores or weights.shape != (len(scores),):
        raise ValueError(f"weights must hold one number for each of {len(scores)} scores, got shape {weights.shape}")
    check_finite(weights, "weights")
    checked = [check_scores(score, available, 1, pad=True) for score in scores]
    return _standardised_sum(jnp.stack(checked), weights, jnp.asarray(available))


@jax.jit
def _standardised_sum(scores, weights, available) -> jax.Array:
    scores = jnp.where(available[None, :], scores, 0.0)  # [S, R]
    count = jnp.maximum(available.sum(), 1)
    centred = jnp.where(available[None, :], scores - scores.sum(1, keepdims=True) / count, 0.0)
    std = jnp.sqrt(jnp.square(centred).sum(1, keepdims=True) / count)
    constant = std <= TIE_TOLERANCE * jnp.max(jnp.abs(scores), axis=1, keepdims=True, initial=0.0)
    standardised = jnp.where(constant, 0.0, centred / jnp.where(constant, 1.0, std))
    return jnp.sum(weights[:, None] * standardised, axis=0)


def prefilter(scores: jax.Array, *, available: jax.Array, size: int, key: jax.Array | None = None) -> jax.Array:
    """The mask `[R]` of the `size` available rows of highest score; all of them, where there are no more.

    Passed on as `available`, it leaves a diverse rule the uncertain rows to choose from: `size` is the query size
    times a factor, 10 to 50 in Zhdanov (2019).

    Args:
      scores: `[R]`.
      available: `[R]` bool; what the other rows hold does not matter.
      size: a Python int.
      key: random ties, see `top_k`.

    Raises:
      ValueError: shapes that do not fit. NonFiniteError: an available score is NaN or infinite (eager calls).

    Zhdanov (2019), "Diverse mini-batch active learning", algorithm 1.

    >>> prefilter(jnp.array([0.1, 0.9, 0.5, 0.7]), available=jnp.array([True, True, True, False]), size=2).tolist()
    [False, True, True, False]
    """
    rows = top_k(scores, available=available, query_size=size, key=key, pad=True).indices
    return _mask(rows, np.shape(scores)[0])


@partial(jax.jit, static_argnames="num_rows")
def _mask(rows, num_rows: int) -> jax.Array:
    return jnp.zeros(num_rows, bool).at[jnp.where(rows >= 0, rows, num_rows)].set(True, mode="drop")


@no_rows_no_picks
def two_stage(
    scores: jax.Array,
    inputs: Any,
    score: Callable[[Any], Any],
    select: Callable[..., Query],
    *,
    size: int,
    available: jax.Array,
    query_size: int,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """A cheap score for all rows, a costly one and its selector for the best `size` of them.

    For pools whose `[R, K, C]` does not fit: the rows of highest cheap score are gathered, so that everything
    costly sees arrays of `size` rows whatever the pool, and the chosen rows come back as rows of the pool.

    Args:
      scores: `[R]`, the cheap score.
      inputs: a pytree of `[R, ...]`, on the host (NumPy) or not.
      score: `inputs [M, ...] -> values [M, ...]`, pytrees, M = min(size, R); for instance a committee's `log_probs`.
      select: `(values, *, available [M], query_size) -> Query`, such as `partial(batchbald, key, num_samples=1000)`.
        With `pad`, it must fill up with index −1 itself.
      size: a Python int, at least the query size.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      key: random ties of the cheap score, see `top_k`.
      pad: let fewer than Q rows be available.

    Returns:
      The `Query` of `select`, with rows of the pool for indices.

    Raises:
      ValueError: a size below the query size; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score is NaN or infinite (eager calls); and what `select` raises.

    >>> from bdal.selection import mutual_information_penalty
    >>> inputs = jnp.log(jnp.array([0.5, 0.9, 0.2, 0.6, 0.7]))[:, None, None] * jnp.ones((1, 3, 1))
    >>> entropies = jnp.array([0.69, 0.32, 0.50, 0.67, 0.61])
    >>> two_stage(entropies, inputs, lambda log_p: jnp.exp(log_p).mean((1, 2)), top_k, size=3,
    ...           available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [4, 3]
    """
    check_query(available, query_size, pad)
    check_inputs(inputs, "inputs")
    _check_candidates(size, query_size, "size")
    size = min(size, np.shape(available)[0])
    rows = top_k(scores, available=available, query_size=size, key=key, pad=True).indices  # [M]
    found = rows >= 0
    here = jnp.maximum(rows, 0)
    gathered = np.asarray(here) if is_concrete(here) else here
    values = score(jax.tree.map(lambda leaf: (leaf if is_concrete(here) else jnp.asarray(leaf))[gathered], inputs))
    query = select(values, available=found, query_size=query_size)
    indices = jnp.asarray(query.indices)
    return Query(jnp.where(indices >= 0, here[jnp.maximum(indices, 0)], -1), query.gains)


@no_rows_no_picks
def suggestive_annotation(
    scores: jax.Array,
    features: jax.Array,
    *,
    candidates: int,
    available: jax.Array,
    query_size: int,
    labelled: jax.Array | None = None,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Of the most uncertain rows, those that represent the pool: `max mean_{x available} max_{j chosen} cos(h_x, h_j)`.

    `facility_location` of all available rows by the `candidates` rows of highest score.

    Differs from the paper: one label a point, not pixels; any committee for bootstrapped networks; last-layer
    features for descriptors of images. The candidates are the paper's twice the query size by name.

    Args:
      scores: `[R]`; the paper's is the variance of an ensemble's predictions.
      features: `[R, D]`; a row of zeros is similar to nothing.
      candidates: how many, at least the query size; in the paper 16 for 8, twice as many.
      available: `[R]` bool, the rows that may be picked and are to be represented; what the others hold does not
        matter.
      query_size: Q, a Python int.
      labelled: `[R]` bool, rows that represent others from the start; none in the paper.
      key: random ties, see `greedy`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the increases of the mean over the available rows.

    Raises:
      ValueError: fewer candidates than the query size; shapes that do not fit; fewer than Q rows available.
      NonFiniteError: an available score, or a row of features that matters, is NaN or infinite (eager calls).

    Yang, Zhang, Chen, Zhang & Chen (2017), "Suggestive annotation: a deep active learning framework for biomedical
    image segmentation", MICCAI, §2.3.

    >>> scores = jnp.array([0.9, 0.8, 0.7, 0.0])
    >>> features = jnp.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> query = suggestive_annotation(scores, features, candidates=3, available=jnp.ones(4, bool), query_size=2)
    >>> query.indices.tolist()
    [1, 2]
    """
    check_query(available, query_size, pad)
    _check_candidates(candidates, query_size, "candidates")
    prefilter_key, key = (None, None) if key is None else jax.random.split(key)
    uncertain = prefilter(scores, available=available, size=candidates, key=prefilter_key)
    return facility_location(
        features, available=uncertain, query_size=query_size, labelled=labelled, covered=available, key=key, pad=True
    )


def _check_candidates(candidates: int, query_size: int, name: str) -> None:
    if check_count(candidates, name) < query_size:
        raise ValueError(f"{name} must be at least the query size {query_size}, got {candidates}")


@no_rows_no_picks
def cluster_margin(
    key: jax.Array,
    scores: jax.Array,
    clusters: jax.Array,
    *,
    candidates: int,
    available: jax.Array,
    query_size: int,
    pad: bool = False,
) -> Query:
    """Of the most uncertain rows, one from each cluster in turn, the smallest cluster first.

    The `candidates` rows of highest score (in the paper of least margin) fall into clusters, which are visited in the
    order of how many of them they hold. Each visit takes one of them at random. After the largest comes the smallest
    that has any left. Ties between clusters are random.

    Args:
      key: a PRNG key, consumed.
      scores: `[R]`; for the paper's, `margin`.
      clusters: `[R]` int, any numbers; for the paper's, `agglomerative_clusters`, made once before the first round.
      candidates: how many, at least the query size; 1.25 to 10 times as many in the paper.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      TypeError: clusters that are no integers. ValueError: fewer candidates than the query size; shapes that do not
        fit; fewer than Q rows available.
      NonFiniteError: an available score is NaN or infinite (eager calls).

    Citovsky et al. (2021), "Batch active learning at scale", NeurIPS, algorithm 2.

    >>> scores, clusters = jnp.array([0.5, 0.6, 0.7, 0.4]), jnp.array([1, 1, 1, 0])
    >>> query = cluster_margin(
    ...     jax.random.key(0), scores, clusters, candidates=4, available=jnp.ones(4, bool), query_size=2
    ... )
    >>> query.indices[0].item(), clusters[query.indices].tolist()
    (3, [0, 1])
    """
    scores = check_scores(scores, available, query_size, pad)
    _check_candidates(candidates, query_size, "candidates")
    clusters = check_groups(clusters, "clusters", available)
    prefilter_key, key = jax.random.split(key)
    uncertain = prefilter(scores, available=available, size=candidates, key=prefilter_key)
    return _cluster_margin(key, scores, clusters, uncertain, query_size)


@partial(jax.jit, static_argnames="query_size")
def _cluster_margin(key, scores, clusters, uncertain, query_size: int) -> Query:
    num_rows = scores.shape[0]
    row_key, cluster_key = jax.random.split(key)
    clusters = jnp.searchsorted(jnp.sort(clusters), clusters)  # numbers below R
    size = jax.ops.segment_sum(uncertain.astype(jnp.int32), clusters, num_rows)[clusters]  # [R]
    turn = place_in_group(clusters, ~uncertain, jax.random.bits(row_key, (num_rows,), jnp.uint32))
    draw = jax.random.permutation(cluster_key, num_rows)[clusters]  # one number a cluster
    rows = jnp.arange(num_rows, dtype=jnp.int32)
    order = jax.lax.sort((~uncertain, turn, size, draw, rows), num_keys=5)[-1]
    return as_query(order, scores, uncertain, query_size)


def agglomerative_clusters(
    features: jax.Array,
    *,
    available: jax.Array,
    num_clusters: int | None = None,
    distance: float | None = None,
    key: jax.Array | None = None,
    max_rows: int = 4000,
) -> np.ndarray:
    """The clusters `[R]` of average linkage, cut at a number of clusters or at a distance. On the host, by scipy.

    Linkage takes memory for all pairs. Of more than `max_rows` available rows, k-means first makes `max_rows // 4`
    small clusters, and it is their means that are linked, each counting once: an approximation.

    Args:
      features: `[R, D]`.
      available: `[R]` bool, the rows that are clustered; what the others hold does not matter.
      num_clusters: at most so many clusters; or
      distance: the largest average distance at which two clusters are still merged.
      key: for k-means; needed where more than `max_rows` rows are available.
      max_rows: of which all pairs are formed.

    Returns:
      `[R]` int32, counted from 0; −1 for rows that are not available.

    Raises:
      ValueError: both or neither of `num_clusters` and `distance`; no key where one is needed; shapes that do not fit.
      TypeError: called under a trace. NonFiniteError: an available row is NaN or infinite.

    Average linkage: Sokal & Michener (1958); as preparation of Cluster-Margin: Citovsky et al. (2021), algorithm 1.

    >>> features = jnp.array([[0.0], [0.2], [5.0], [5.1], [9.0]])
    >>> clusters = agglomerative_clusters(features, available=jnp.ones(5, bool), distance=1.0)
    >>> [np.flatnonzero(clusters == cluster).tolist() for cluster in np.unique(clusters)]
    [[0, 1], [2, 3], [4]]
    """
    from scipy.cluster import hierarchy

    if not is_concrete(features, available):
        raise TypeError("agglomerative_clusters runs on the host: call it outside jit, once, before the first round")
    if (num_clusters is None) == (distance is None):
        raise ValueError(f"give one of num_clusters and distance, got {num_clusters} and {distance}")
    if num_clusters is not None:
        check_count(num_clusters, "num_clusters")
    if key is not None:
        check_key(key)
    check_query(available, 1, pad=True)
    features, rows = check_rows(features, "features", available), np.asarray(available)
    kept = np.asarray(features, np.float64)[rows]
    fine = np.arange(len(kept))
    if len(kept) > max_rows:
        if key is None:
            raise ValueError(
                f"key must be given to cluster more than max_rows={max_rows} rows, {len(kept)} are available"
            )
        fine = np.asarray(k_means_clusters(key, features, num_clusters=max_rows // 4, available=available))[rows]
        fine = np.unique(fine, return_inverse=True)[1]
        sums = np.zeros((fine.max() + 1, kept.shape[1]))
        np.add.at(sums, fine, kept)
        kept = sums / np.bincount(fine)[:, None]
    clusters = np.full(len(rows), -1, np.int32)
    if len(kept) < 2:
        clusters[rows] = 0
        return clusters
    tree = hierarchy.linkage(kept, method="average")
    if distance is None:
        found = hierarchy.fcluster(tree, num_clusters, criterion="maxclust")
    else:
        found = hierarchy.fcluster(tree, distance, criterion="distance")
    clusters[rows] = found[fine] - 1
    return clusters


@no_rows_no_picks
def class_balanced(
    scores: jax.Array,
    predicted: jax.Array,
    counts: jax.Array,
    *,
    available: jax.Array,
    query_size: int,
    key: jax.Array | None = None,
    pad: bool = False,
) -> Query:
    """Pick the row of highest score among those predicted to be of the class with the fewest labels so far.

    The labels are `counts` and the picks of this query, which count as what they were predicted to be. Of several
    such classes, that of the row of highest score is next; a class without a row left is passed over.

    Differs from the paper: the same aim, reached by filling up the smallest class; the paper solves a relaxed
    program. With one predicted class a row, filling up is the optimum of the balance alone.

    Args:
      scores: `[R]`.
      predicted: `[R]` int, classes.
      counts: `[C]` int, labels of each class.
      available: `[R]` bool, the rows that may be picked; what the others hold does not matter.
      query_size: Q, a Python int.
      key: random ties, see `top_k`.
      pad: fill up with index −1 and gain 0 when fewer than Q rows are available, instead of an error.

    Returns:
      A `Query` whose gains are the scores.

    Raises:
      LabelError: an available row's class is not among the C (eager calls).
      TypeError: classes or counts that are no integers. ValueError: shapes that do not fit; fewer than Q rows
        available.
      NonFiniteError: an available score is NaN or infinite (eager calls).

    Bengar et al. (2022), "Class-balanced active learning for image classification", WACV.

    >>> scores, predicted = jnp.array([0.9, 0.8, 0.7, 0.1]), jnp.array([0, 0, 1, 2])
    >>> counts = jnp.array([5, 5, 4])
    >>> class_balanced(scores, predicted, counts, available=jnp.ones(4, bool), query_size=3).indices.tolist()
    [3, 0, 2]
    """
    scores = check_scores(scores, available, query_size, pad)
    predicted, counts = check_groups(predicted, "predicted", available), as_array(counts, "counts")
    if not jnp.issubdtype(counts.dtype, jnp.integer):
        raise TypeError(f"counts must be integers, got dtype {counts.dtype}")
    if counts.ndim != 1:
        raise ValueError(f"counts must have shape [C], got {counts.shape}")
    if is_concrete(predicted, available):
        wrong = np.asarray(available) & ((np.asarray(predicted) < 0) | (np.asarray(predicted) >= counts.shape[0]))
        if wrong.any():
            raise LabelError(
                f"predicted must be classes from 0 to {counts.shape[0] - 1}, as many as counts has, but {wrong.sum()} "
                f"available rows are not (first: row {wrong.argmax()}, {np.asarray(predicted)[wrong.argmax()]})"
            )
    return _class_balanced(scores, predicted, counts.astype(jnp.int32), jnp.asarray(available), key, query_size)


@partial(jax.jit, static_argnames="query_size")
def _class_balanced(scores, predicted, counts, available, key, query_size: int) -> Query:
    if key is None:
        order = jnp.argsort(sortable(scores, available), descending=True, stable=True)
    else:
        order = ranking(scores, available, key)
    rows = jnp.arange(scores.shape[0], dtype=jnp.int32)
    place = jnp.zeros_like(rows).at[order].set(rows)  # of each row among the scores; unavailable rows last
    turn = counts[predicted] + place_in_group(predicted, place)
    order = jax.lax.sort((~available, turn, place, rows), num_keys=4)[-1]
    return as_query(order, scores, available, query_size)
