"""How the named strategies are made: one factory each, and its row in `bdal.strategy.table`.

Factories are cached, so that the same name and options are the same functions, and nothing is traced twice.

Axis letters: N pool points, R rows of a round, K members, C classes, D features, T targets, L labelled points, Q query
size, B points of a chunk.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Literal

import jax
import jax.numpy as jnp

from bdal import acquisition, selection
from bdal.committee import Committee
from bdal.information import log_mean_exp
from bdal.strategy.querying import QueryStrategy

Kernel = Literal["features", "gradient", "committee"]
BELOW_ZERO = ("margin",)  # acquisition functions that power and herding cannot weigh by


def of_log_probs(acquisition_function: Callable[[jax.Array], jax.Array]):
    """`score` from an acquisition function `log_probs [B, K, C] -> [B]`."""
    acquisition_function = jax.jit(acquisition_function)  # values are looked at once a round, with their pool indices

    def score(committee, inputs):
        return acquisition_function(committee.log_probs(inputs))

    return score


def top(key, scores, *, available, labelled, query_size):
    """`select` that takes the highest scores, ties at random."""
    del labelled
    return selection.top_k(scores, available=available, query_size=query_size, key=key)


def _nothing(committee, inputs):
    del committee
    return jnp.zeros((jax.tree.leaves(inputs)[0].shape[0], 0))


def _uniform(key, nothing, *, available, labelled, query_size):
    del labelled
    return selection.top_k(jax.random.uniform(key, nothing.shape[:1]), available=available, query_size=query_size)


def _stochastic(rule, beta):
    def select(key, scores, *, available, labelled, query_size):
        del labelled
        return rule(key, scores, beta=beta, available=available, query_size=query_size)

    return select


@cache
def random() -> QueryStrategy:
    """Every available point is as likely."""
    return QueryStrategy(_nothing, _uniform)


# -- by a score -------------------------------------------------------------------------------------------------------


@cache
def pointwise(name: str) -> QueryStrategy:
    """The highest values of an acquisition function of `bdal.acquisition`."""
    return QueryStrategy(of_log_probs(acquisition.ACQUISITION_FUNCTIONS[name]), top)


@cache
def power(score: str = "bald", beta: float = 8.0) -> QueryStrategy:
    """Sampling in proportion to score^β without replacement."""
    return QueryStrategy(of_log_probs(_not_negative(score)), _stochastic(selection.power, beta))


@cache
def softmax(score: str = "bald", beta: float = 8.0) -> QueryStrategy:
    """Sampling in proportion to exp(β · score) without replacement."""
    return QueryStrategy(of_log_probs(acquisition.ACQUISITION_FUNCTIONS[score]), _stochastic(selection.softmax, beta))


@cache
def softrank(score: str = "bald", beta: float = 1.0) -> QueryStrategy:
    """Sampling in proportion to rank^−β without replacement."""
    return QueryStrategy(of_log_probs(acquisition.ACQUISITION_FUNCTIONS[score]), _stochastic(selection.softrank, beta))


@cache
def expected_model_change(
    layers: Literal["last", "all"] = "last",
    labels: Literal["committee", "member"] = "committee",
    top_labels: int | None = None,
) -> QueryStrategy:
    """The longest expected gradient, of the last layer in closed form, or of all layers."""
    change = jax.jit(partial(acquisition.expected_model_change, labels=labels, top=top_labels))
    last_layer_norms = jax.jit(acquisition.last_layer_gradient_norms)

    def last(committee, inputs):
        log_probs, features = _predict(committee, inputs, "expected_model_change", 'or ask for layers="all"')
        return change(log_probs, last_layer_norms(log_probs, features))

    def all_layers(committee, inputs):
        return change(committee.log_probs(inputs), committee.gradient_norms(inputs))

    return QueryStrategy({"last": last, "all": all_layers}[layers], top)


@cache
def fisher_trace(part: Literal["all", "aleatoric", "epistemic"] = "all") -> QueryStrategy:
    """The largest expected squared gradient of the last layer, or the part of it that is noise or disagreement."""
    functions = {
        "all": acquisition.last_layer_fisher_trace,
        "aleatoric": acquisition.aleatoric_fisher_trace,
        "epistemic": acquisition.epistemic_fisher_trace,
    }
    trace = jax.jit(functions[part])

    def score(committee, inputs):
        return trace(*_predict(committee, inputs, "fisher_trace"))

    return QueryStrategy(score, top)


@cache
def toward_targets(name: str) -> QueryStrategy:
    """The highest values of an acquisition function that looks at what a label tells about the targets."""
    function = jax.jit(getattr(acquisition, name))

    def prepare(key, committee, labelled_inputs, labels, targets):
        del key, labelled_inputs, labels
        if targets is None:
            raise ValueError(
                f"targets: {name} expects the inputs that the model is to be good at, or how many random points of the "
                "pool stand for them, such as targets=200; got None"
            )
        return committee, committee.log_probs(targets)

    def score(carry, inputs):
        committee, target_log_probs = carry
        return function(committee.log_probs(inputs), target_log_probs)

    return QueryStrategy(score, top, prepare)


@cache
def contrastive(num_neighbours: int = 10) -> QueryStrategy:
    """Points predicted otherwise than their nearest labelled neighbours."""
    function = jax.jit(partial(acquisition.contrastive, num_neighbours=num_neighbours))

    def prepare(key, committee, labelled_inputs, labels, targets):
        del key, targets
        if labels.shape[0] == 0:
            raise ValueError("labelled_inputs: contrastive compares with labelled points, got none")
        return (
            committee,
            log_mean_exp(committee.log_probs(labelled_inputs)),
            committee.embedding(labelled_inputs),
            labels,
        )

    def score(carry, inputs):
        committee, log_probs, features, labels = carry
        mean = log_mean_exp(committee.log_probs(inputs))
        return function(mean, committee.embedding(inputs), log_probs, features, labelled=labels >= 0)

    return QueryStrategy(score, top, prepare)


@cache
def over_snapshots(name: str) -> QueryStrategy:
    """The highest values of a function of the predictions along training; the committee's members are snapshots."""
    return QueryStrategy(of_log_probs(getattr(acquisition, name)), top)


# -- a score and what the batch has already ---------------------------------------------------------------------------


@cache
def diverse(score: str = "bald", weight: float = 1.0) -> QueryStrategy:
    """Standardised score − weight · largest cosine similarity to what the batch already holds."""
    return QueryStrategy(
        _score_and_embedding(acquisition.ACQUISITION_FUNCTIONS[score]), _of_two(selection.diverse, weight=weight)
    )


@cache
def mutual_information_penalty(reduce: Literal["max", "sum"] = "max") -> QueryStrategy:
    """BALD − what a point's label shares with the labels of the points chosen before it."""

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
def uncertainty_herding(score: str = "predictive_entropy", bandwidth: float = 1.0) -> QueryStrategy:
    """Cover the pool, weighed by a score."""
    select = _of_two(selection.uncertainty_herding, with_labelled=True, bandwidth=bandwidth)
    return QueryStrategy(_score_and_embedding(_not_negative(score)), select, rows_labelled=True)


@cache
def suggestive_annotation(score: str = "predictive_variance", candidates: int = 50) -> QueryStrategy:
    """Of the most uncertain points, those that represent the pool."""
    select = _of_two(selection.suggestive_annotation, candidates=candidates)
    return QueryStrategy(_score_and_embedding(acquisition.ACQUISITION_FUNCTIONS[score]), select)


@cache
def cluster_margin(score: str = "margin", candidates: int = 100, num_clusters: int = 50) -> QueryStrategy:
    """Of the most uncertain points, one from each cluster in turn; k-means each round for the paper's HAC once."""

    def select(key, values, *, available, labelled, query_size):
        del labelled
        cluster_key, key = jax.random.split(key)
        scores, embeddings = values
        clusters = selection.k_means_clusters(
            cluster_key, embeddings, num_clusters=min(num_clusters, len(scores)), available=available
        )
        size = max(candidates, query_size)
        return selection.cluster_margin(
            key, scores, clusters, candidates=size, available=available, query_size=query_size
        )

    return QueryStrategy(_score_and_embedding(acquisition.ACQUISITION_FUNCTIONS[score]), select)


@cache
def class_balanced(score: str = "margin") -> QueryStrategy:
    """The highest score among the points predicted to be of the class with the fewest labels."""
    function = jax.jit(acquisition.ACQUISITION_FUNCTIONS[score])

    def prepare(key, committee, labelled_inputs, labels, targets):
        del key, labelled_inputs, targets
        return committee, labels

    def score_class_and_counts(carry, inputs):
        committee, labels = carry
        log_probs = committee.log_probs(inputs)
        predicted = log_mean_exp(log_probs).argmax(-1)
        counts = (labels[:, None] == jnp.arange(log_probs.shape[-1])[None, :]).sum(0)  # [C], the same for every point
        return function(log_probs), predicted, jnp.broadcast_to(counts, (len(predicted), len(counts)))

    def select(key, values, *, available, labelled, query_size):
        del labelled
        scores, predicted, counts = values
        return selection.class_balanced(
            scores, predicted, counts[0], available=available, query_size=query_size, key=key
        )

    return QueryStrategy(score_class_and_counts, select, prepare)


# -- by features ------------------------------------------------------------------------------------------------------


@cache
def k_center(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Core-set: the farthest point from everything labelled or chosen."""
    return _by_features(selection.k_center, kernel, sketch_dim)


@cache
def lcmd(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """The farthest point of the cluster of largest size, the centres being everything labelled or chosen."""
    return _by_features(selection.lcmd, kernel, sketch_dim)


@cache
def max_det(kernel: Kernel = "committee", sketch_dim: int = 512, noise_sigma: float = 0.1) -> QueryStrategy:
    """The largest determinant: what a Gaussian process with this kernel knows least about."""
    return _by_features(selection.max_det, kernel, sketch_dim, noise_sigma=noise_sigma)


@cache
def bait(noise_sigma: float = 1.0, oversample: float = 2.0, sketch_dim: int = 1152) -> QueryStrategy:
    """The batch that leaves least of the Fisher information of the pool in the metric of that of the labelled set."""

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
    """The batch that leaves the least variance over the whole pool, each point being one vector."""
    return _by_features(selection.bait_one_vector, kernel, sketch_dim, noise_sigma=noise_sigma, oversample=oversample)


@cache
def frank_wolfe(kernel: Kernel = "gradient", sketch_dim: int = 512) -> QueryStrategy:
    """Points whose weighted sum comes near the sum of the pool."""
    return _by_features(selection.frank_wolfe, kernel, sketch_dim, with_labelled=False)


@cache
def k_means(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """The point nearest to each centre of k-means."""
    return _by_features(selection.k_means, kernel, sketch_dim, with_labelled=False, key_first=True)


@cache
def k_means_plus_plus(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Sampling in proportion to the squared distance from everything labelled or chosen."""
    return _by_features(selection.k_means_plus_plus, kernel, sketch_dim, key_first=True)


@cache
def typiclust(kernel: Kernel = "features", sketch_dim: int = 512, max_clusters: int = 500) -> QueryStrategy:
    """The most typical point of each of the largest clusters without a label."""
    return _by_features(selection.typiclust, kernel, sketch_dim, key_first=True, max_clusters=max_clusters)


@cache
def prob_cover(kernel: Kernel = "features", sketch_dim: int = 512, radius: float = 1.0) -> QueryStrategy:
    """The point whose ball holds most points that no ball holds yet."""
    return _by_features(selection.prob_cover, kernel, sketch_dim, radius=radius)


@cache
def max_herding(kernel: Kernel = "features", sketch_dim: int = 512, bandwidth: float = 1.0) -> QueryStrategy:
    """Cover the pool by a Gaussian kernel."""
    return _by_features(selection.max_herding, kernel, sketch_dim, bandwidth=bandwidth)


@cache
def facility_location(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Cover the pool by the cosine similarity."""
    return _by_features(selection.facility_location, kernel, sketch_dim)


# -- what they are made of --------------------------------------------------------------------------------------------


def _not_negative(score):
    if score in BELOW_ZERO:
        raise ValueError(f"score: expected one that is never negative, got {score!r}")
    return acquisition.ACQUISITION_FUNCTIONS[score]


def _predict(committee, inputs, name, otherwise=""):
    """Log-probabilities and features of the members, in one pass where that can be."""
    if isinstance(committee, Committee):
        log_probs, features = committee.predict(inputs)
    else:
        log_probs, features = committee.log_probs(inputs), committee.features(inputs)
    if features is None:
        raise ValueError(
            f"{name}: expected an apply that returns (logits, features), got logits only; return them"
            f"{', ' + otherwise if otherwise else ''}"
        )
    return log_probs, features


_bald = jax.jit(acquisition.bald)


def _bald_and_log_probs(committee, inputs):
    log_probs = committee.log_probs(inputs)
    return _bald(log_probs), log_probs  # BALD, so that members that agree are noticed


def _score_and_embedding(acquisition_function):
    score_only = of_log_probs(acquisition_function)

    def score(committee, inputs):
        return score_only(committee, inputs), committee.embedding(inputs)

    return score


def _of_two(selector, with_labelled=False, **options):
    """`select` from a selector of scores and embeddings."""

    def select(key, values, *, available, labelled, query_size):
        known = {"labelled": labelled} if with_labelled else {}
        own = options | {"candidates": max(options["candidates"], query_size)} if "candidates" in options else options
        return selector(*values, available=available, query_size=query_size, key=key, **known, **own)

    return select


def _by_features(selector, kernel, sketch_dim, *, with_labelled=True, key_first=False, **options):
    """A strategy from a selector of features `[R, D]`: the network's own, its gradients', or the committee's."""

    def prepare(key, committee, labelled_inputs, labels, targets):
        del labelled_inputs, labels, targets
        return committee, key  # one projection for all chunks

    def score(carry, inputs):
        committee, key = carry
        if kernel == "features":
            return committee.embedding(inputs)
        log_probs = committee.log_probs(inputs)
        if kernel == "committee":
            return selection.committee_features(log_probs)
        probs = jnp.exp(log_mean_exp(log_probs))
        key = jax.random.clone(key)  # the same for every chunk, and for the labelled rows
        return selection.gradient_features(probs, committee.embedding(inputs), sketch_dim=sketch_dim, key=key)

    def select(key, features, *, available, labelled, query_size):
        known = {"labelled": labelled} if with_labelled else {}
        chosen = partial(selector, available=available, query_size=query_size, **known, **options)
        return chosen(key, features) if key_first else chosen(features, key=key)

    return QueryStrategy(score, select, prepare, rows_labelled=with_labelled)
