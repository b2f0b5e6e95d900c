"""How the named strategies are made that choose a batch by what a score and the features say together.

Factories are cached, so that the same name and options are the same functions, and nothing is traced twice. Those of
one number a point are in `scores`, covers in `covering`; each has its row in `bdal.strategy.table`.

Axis letters: N pool points, R rows of a round, K members, C classes, D features, T targets, L labelled points, Q query
size, B points of a chunk.
"""

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp

from bdal import acquisition, selection
from bdal.information import log_mean_exp
from bdal.strategy.parts import Kernel, by_features, candidates, embedding, of_two, scored
from bdal.strategy.querying import QueryStrategy
from bdal.strategy.scores import POINTWISE


def _nothing(committee, inputs):
    del committee
    return jnp.zeros((jax.tree.leaves(inputs)[0].shape[0], 0))


def _uniform(key, nothing, *, available, labelled, query_size):
    del labelled
    return selection.top_k(
        jax.random.uniform(key, nothing.shape[:1], jnp.float32), available=available, query_size=query_size
    )


def _stochastic(rule, beta):
    def select(key, scores, *, available, labelled, query_size):
        del labelled
        return rule(key, scores, beta=beta, available=available, query_size=query_size)

    return select


@cache
def random() -> QueryStrategy:
    """Every available point is as likely."""
    return QueryStrategy(_nothing, _uniform)


@cache
def power(score: str = "bald", beta: float = 8.0) -> QueryStrategy:
    """Sampling in proportion to score^β without replacement; the paper's β is 1.

    A score that can be negative weighs by its form in `NOT_NEGATIVE`.
    """
    return scored(_stochastic(selection.power, beta), score, weigh=True)


@cache
def softmax(score: str = "bald", beta: float = 8.0) -> QueryStrategy:
    """Sampling in proportion to exp(β · score) without replacement; the paper's β is 1."""
    return scored(_stochastic(selection.softmax, beta), score)


@cache
def softrank(score: str = "bald", beta: float = 1.0) -> QueryStrategy:
    """Sampling in proportion to rank^−β without replacement, β as in the paper."""
    return scored(_stochastic(selection.softrank, beta), score)


# -- a score and what the batch has already ---------------------------------------------------------------------------


@cache
def diverse(score: str = "bald", weight: float = 1.0) -> QueryStrategy:
    """Standardised score − weight · largest cosine similarity to what the batch already holds."""
    return scored(of_two(selection.diverse, weight=weight), score, rows=embedding)


@cache
def mutual_information_penalty(reduce: Literal["max", "sum"] = "max") -> QueryStrategy:
    """BALD − what a point's label shares with the labels of the points chosen before it; in the paper by the sum."""

    def select(key, values, *, available, labelled, query_size):
        del labelled
        return selection.mutual_information_penalty(
            values[1], reduce=reduce, available=available, query_size=query_size, key=key
        )

    return QueryStrategy(_bald_and_log_probs, select)


@cache
def batchbald(num_samples: int = 10_000) -> QueryStrategy:
    """The batch whose labels tell most about the member, together."""

    def select(key, values, *, available, labelled, query_size):
        del labelled
        return selection.batchbald(key, values[1], num_samples=num_samples, available=available, query_size=query_size)

    return QueryStrategy(_bald_and_log_probs, select)


@cache
def badge(first: Literal["max_norm", "uniform"] = "max_norm") -> QueryStrategy:
    """k-means++ on the last layer's gradients, each for the label that is predicted."""

    def score(committee, inputs):
        return jnp.exp(log_mean_exp(committee.log_probs(inputs))), committee.embedding(inputs)

    def select(key, values, *, available, labelled, query_size):
        del labelled
        return selection.badge(key, *values, available=available, query_size=query_size, first=first)

    return QueryStrategy(score, select)


@cache
def diverse_mini_batch(candidates_per_pick: float = 10.0) -> QueryStrategy:
    """Of the points of least margin, those nearest to the centres of a k-means that the margin weighs.

    So many candidates for each point of the query, β in the paper, which has 10 and 50; the weight is the paper's
    informativeness, 1 − (p₁ − p₂). As in `bdal.selection.k_means`, no point is taken twice.

    Zhdanov (2019), "Diverse mini-batch active learning", arXiv 1901.05954, algorithm 1.
    """

    def select(key, values, *, available, labelled, query_size):
        del labelled
        scores, embeddings = values
        informativeness = jnp.maximum(1 + scores, 0.0)
        prefilter_key, key = jax.random.split(key)
        size = candidates(candidates_per_pick, query_size)
        uncertain = selection.prefilter(informativeness, available=available, size=size, key=prefilter_key)
        return selection.k_means(
            key, embeddings, weights=informativeness, available=uncertain, query_size=query_size, pad=True
        )

    return scored(select, "margin", rows=embedding)


@cache
def suggestive_annotation(score: str = "predictive_variance", candidates_per_pick: float = 2.0) -> QueryStrategy:
    """Of the most uncertain points, those that represent the pool; the paper has 16 candidates for 8 picks."""
    select = of_two(selection.suggestive_annotation, candidates_per_pick=candidates_per_pick)
    return scored(select, score, rows=embedding)


@cache
def cluster_margin(
    score: str = "margin", candidates_per_pick: float = 10.0, clusters_per_pick: float = 5.0
) -> QueryStrategy:
    """Of the most uncertain points, one from each cluster in turn; so many candidates for each point of the query.

    Differs from the paper: k-means in each round, as shapes are fixed and a strategy keeps nothing; in the paper
    average linkage, once, cut at a distance. The paper has 1.25 to 10 candidates a pick; that there are 5 clusters a
    pick is ours. With clusters of `agglomerative_clusters`, `bdal.selection.cluster_margin` is the paper's.
    """

    def select(key, values, *, available, labelled, query_size):
        del labelled
        cluster_key, key = jax.random.split(key)
        scores, embeddings = values
        num_clusters = min(candidates(clusters_per_pick, query_size), len(scores))
        clusters = selection.k_means_clusters(cluster_key, embeddings, num_clusters=num_clusters, available=available)
        size = candidates(candidates_per_pick, query_size)
        return selection.cluster_margin(
            key, scores, clusters, candidates=size, available=available, query_size=query_size
        )

    return scored(select, score, rows=embedding)


@cache
def class_balanced(score: str = "margin") -> QueryStrategy:
    """The highest score among the points predicted to be of the class with the fewest labels."""
    own = POINTWISE[score]()

    def prepare(key, committee, labelled_inputs, labels, targets):
        return committee, labels, own.prepare(key, committee, labelled_inputs, labels, targets)

    def score_class_and_counts(carry, inputs):
        committee, labels, own_carry = carry
        log_probs = committee.log_probs(inputs)
        predicted = log_mean_exp(log_probs).argmax(-1)
        counts = (labels[:, None] == jnp.arange(log_probs.shape[-1])[None, :]).sum(0)  # [C], the same for every point
        return own.score(own_carry, inputs), predicted, jnp.broadcast_to(counts, (len(predicted), len(counts)))

    def select(key, values, *, available, labelled, query_size):
        del labelled
        scores, predicted, counts = values
        return selection.class_balanced(
            scores, predicted, counts[0], available=available, query_size=query_size, key=key
        )

    return QueryStrategy(score_class_and_counts, select, prepare, uses=own.uses)


# -- by features ------------------------------------------------------------------------------------------------------


@cache
def k_center(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Core-set: the farthest point from everything labelled or chosen."""
    return by_features(selection.k_center, kernel, sketch_dim)


@cache
def lcmd(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """The farthest point of the cluster of largest size, the centres being everything labelled or chosen."""
    return by_features(selection.lcmd, kernel, sketch_dim)


@cache
def max_det(kernel: Kernel = "committee", sketch_dim: int = 512, noise_sigma: float = 0.1) -> QueryStrategy:
    """The largest determinant: what a Gaussian process with this kernel knows least about."""
    return by_features(selection.max_det, kernel, sketch_dim, noise_sigma=noise_sigma)


@cache
def bait(noise_sigma: float = 1.0, oversample: float = 2.0, sketch_dim: int = 1152) -> QueryStrategy:
    """The batch that leaves least of the Fisher information of the pool in the metric of that of the labelled set.

    Differs from the paper: the authors' code, with random ties; a block of more than 1152 columns is projected onto so
    many (`sketch_dim`).
    """

    def score(committee, inputs):
        return jnp.exp(log_mean_exp(committee.log_probs(inputs))), committee.embedding(inputs)

    def select(key, values, *, available, labelled, query_size):
        probs, embeddings = values
        return selection.bait(
            embeddings, probs, available=available, labelled=labelled, query_size=query_size, key=key,
            noise_sigma=noise_sigma, oversample=oversample, sketch_dim=sketch_dim,
        )  # fmt: skip

    return QueryStrategy(score, select, rows_labelled=True)


@cache
def bait_one_vector(
    kernel: Kernel = "gradient", sketch_dim: int = 512, noise_sigma: float = 0.1, oversample: float = 2.0
) -> QueryStrategy:
    """The batch that leaves the least variance over the whole pool, each point being one vector.

    Differs from the paper: each point is one sketched gradient, for the predicted label; the papers' vectors are those
    of regression.
    """
    return by_features(selection.bait_one_vector, kernel, sketch_dim, noise_sigma=noise_sigma, oversample=oversample)


@cache
def frank_wolfe(kernel: Kernel = "gradient", sketch_dim: int = 512) -> QueryStrategy:
    """Points whose weighted sum comes near the sum of the pool, no point twice."""
    return by_features(selection.frank_wolfe, kernel, sketch_dim, with_labelled=False)


@cache
def k_means(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """The point nearest to each centre of k-means, all points alike; `diverse_mini_batch` weighs them."""
    return by_features(selection.k_means, kernel, sketch_dim, with_labelled=False, key_first=True)


@cache
def k_means_plus_plus(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Sampling in proportion to the squared distance from everything labelled or chosen."""
    return by_features(selection.k_means_plus_plus, kernel, sketch_dim, key_first=True)


@cache
def typiclust(
    kernel: Kernel = "features", sketch_dim: int = 512, rule: Literal["code", "paper"] = "code", max_clusters: int = 500
) -> QueryStrategy:
    """The most typical unit row of each of the largest clusters without a label, by the authors' code or their text.

    Differs from the paper: the authors' code, but with our k-means, random ties, and small clusters last instead of
    left out.
    """
    return by_features(
        selection.typiclust, kernel, sketch_dim, unit=True, key_first=True, rule=rule, max_clusters=max_clusters
    )


# -- what they are made of --------------------------------------------------------------------------------------------


_bald = jax.jit(acquisition.bald)


def _bald_and_log_probs(committee, inputs):
    log_probs = committee.log_probs(inputs)
    return _bald(log_probs), log_probs  # BALD, so that members that agree are noticed
