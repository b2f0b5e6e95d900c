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
from bdal.calibration import fit_temperature
from bdal.committee import Committee
from bdal.information import log_mean_exp
from bdal.strategy.querying import QueryStrategy, committee_itself

Kernel = Literal["features", "gradient", "committee"]
TEMPERATURES = 1.0, 20.0  # the range of `uncertainty_herding`, as in its authors' code
OF_THE_MEAN = ("predictive_entropy", "entropy", "margin", "least_confidence")  # scores that a temperature scales

# Scores that can be negative, and the increasing form in which power and covers weigh by them.
NOT_NEGATIVE: dict[str, Callable[[jax.Array], jax.Array]] = {
    "margin": lambda s: 1 + s,  # 1 − (p₁ − p₂)
    "balanced_entropy": lambda s: jnp.where(s < 0, jnp.exp(jnp.minimum(s, 0)), 1 + s),
    "weighted_mocu": lambda s: jnp.maximum(s, 0),  # below 0 a label is expected to do harm
}


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
    """Sampling in proportion to score^β without replacement; the paper's β is 1.

    A score that can be negative weighs by its form in `NOT_NEGATIVE`.
    """
    return _scored(_stochastic(selection.power, beta), score, weigh=True)


@cache
def softmax(score: str = "bald", beta: float = 8.0) -> QueryStrategy:
    """Sampling in proportion to exp(β · score) without replacement; the paper's β is 1."""
    return _scored(_stochastic(selection.softmax, beta), score)


@cache
def softrank(score: str = "bald", beta: float = 1.0) -> QueryStrategy:
    """Sampling in proportion to rank^−β without replacement, β as in the paper."""
    return _scored(_stochastic(selection.softrank, beta), score)


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
    """The highest values of an acquisition function that looks at what a label tells about the targets.

    Targets that are drawn from the pool (a number, as `query.targets` of a config) are drawn from all of it: labelled
    points and those for validation are among them, in proportion. Inputs in the place of the number are taken as given.
    """
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
    return _scored(_of_two(selection.diverse, weight=weight), score, rows=_embedding)


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
def uncertainty_herding(
    score: str = "margin", kernel: Kernel = "features", sketch_dim: int = 512, bandwidth: float | None = None
) -> QueryStrategy:
    """Cover the pool, weighed by the uncertainty of predictions that are scaled by a temperature.

    The temperature is fitted to the held-out labels (those for validation) and kept between 1 and 20; it is 1 where
    there are none, and for scores that are not of the mean prediction, such as BALD. The bandwidth is the smallest gap
    among the labelled unit rows. Where nothing is labelled all points weigh the same.

    Differs from the paper: the temperature has least NLL on the validation labels; the paper's least ECE, with a second
    network. That network is trained without a part of the labels, and a grid gives the temperature on that part.

    Bae, Sutherland & Oliveira (2025), "Uncertainty herding: one active learning method for all label budgets", ICLR.
    """
    cover = _of_two(selection.uncertainty_herding, with_labelled=True, bandwidth=bandwidth)

    def select(key, values, *, available, labelled, query_size):
        scores, rows = values
        scores = jnp.where(labelled.any(), scores, 1.0)
        return cover(key, (scores, rows), available=available, labelled=labelled, query_size=query_size)

    rows = _kernel_rows(kernel, sketch_dim)
    if score not in OF_THE_MEAN:
        return _scored(select, score, rows=rows, weigh=True)._replace(rows_labelled=True)
    function = acquisition.ACQUISITION_FUNCTIONS["predictive_entropy" if score == "entropy" else score]
    form = NOT_NEGATIVE.get(score, lambda scores: scores)

    def prepare(key, committee, labelled_inputs, labels, targets, held_out):
        del labelled_inputs, labels, targets
        temperature = jnp.float32(1)
        if held_out is not None and held_out[1].shape[0]:
            log_probs = log_mean_exp(committee.log_probs(held_out[0]))
            temperature = jnp.clip(fit_temperature(log_probs, held_out[1]).temperature, *TEMPERATURES)
        return committee, key, temperature

    @jax.jit
    def uncertainty(log_probs, temperature):
        scaled = jax.nn.log_softmax(log_mean_exp(log_probs) / temperature)
        return form(function(scaled[:, None, :]))

    def score_and_rows(carry, inputs):
        committee, key, temperature = carry
        return uncertainty(committee.log_probs(inputs), temperature), rows(committee, key, inputs)

    return QueryStrategy(score_and_rows, select, prepare, rows_labelled=True, held_out=True)


@cache
def weighted_coverage(
    score: str = "entropy", kernel: Kernel = "features", sketch_dim: int = 512, bandwidth: float | None = None
) -> QueryStrategy:
    """Cover the pool, weighed by any score, with a scale from the features.

    Differs from the paper: ours: the paper's objective with any score, and a bandwidth that does not shrink: half the
    usual distance of two unit rows (`bdal.selection.half_spread`).
    """
    select = _of_two(selection.weighted_coverage, with_labelled=True, bandwidth=bandwidth)
    return _scored(select, score, rows=_kernel_rows(kernel, sketch_dim), weigh=True)._replace(rows_labelled=True)


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
        size = _candidates(candidates_per_pick, query_size)
        uncertain = selection.prefilter(informativeness, available=available, size=size, key=prefilter_key)
        return selection.k_means(
            key, embeddings, weights=informativeness, available=uncertain, query_size=query_size, pad=True
        )

    return _scored(select, "margin", rows=_embedding)


@cache
def suggestive_annotation(score: str = "predictive_variance", candidates_per_pick: float = 2.0) -> QueryStrategy:
    """Of the most uncertain points, those that represent the pool; the paper has 16 candidates for 8 picks."""
    select = _of_two(selection.suggestive_annotation, candidates_per_pick=candidates_per_pick)
    return _scored(select, score, rows=_embedding)


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
        num_clusters = min(_candidates(clusters_per_pick, query_size), len(scores))
        clusters = selection.k_means_clusters(cluster_key, embeddings, num_clusters=num_clusters, available=available)
        size = _candidates(candidates_per_pick, query_size)
        return selection.cluster_margin(
            key, scores, clusters, candidates=size, available=available, query_size=query_size
        )

    return _scored(select, score, rows=_embedding)


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
def bait(
    kernel: Kernel = "gradient", sketch_dim: int = 512, noise_sigma: float = 0.1, oversample: float = 2.0
) -> QueryStrategy:
    """The batch that leaves the least variance over the whole pool."""
    return _by_features(selection.bait, kernel, sketch_dim, noise_sigma=noise_sigma, oversample=oversample)


@cache
def frank_wolfe(kernel: Kernel = "gradient", sketch_dim: int = 512) -> QueryStrategy:
    """Points whose weighted sum comes near the sum of the pool, no point twice."""
    return _by_features(selection.frank_wolfe, kernel, sketch_dim, with_labelled=False)


@cache
def k_means(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """The point nearest to each centre of k-means, all points alike; `diverse_mini_batch` weighs them."""
    return _by_features(selection.k_means, kernel, sketch_dim, with_labelled=False, key_first=True)


@cache
def k_means_plus_plus(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Sampling in proportion to the squared distance from everything labelled or chosen."""
    return _by_features(selection.k_means_plus_plus, kernel, sketch_dim, key_first=True)


@cache
def typiclust(
    kernel: Kernel = "features", sketch_dim: int = 512, rule: Literal["code", "paper"] = "code", max_clusters: int = 500
) -> QueryStrategy:
    """The most typical unit row of each of the largest clusters without a label, by the authors' code or their text.

    Differs from the paper: the authors' code, but with our k-means, random ties, and small clusters last instead of
    left out.
    """
    return _by_features(
        selection.typiclust, kernel, sketch_dim, unit=True, key_first=True, rule=rule, max_clusters=max_clusters
    )


@cache
def prob_cover(kernel: Kernel = "features", sketch_dim: int = 512, radius: float | None = None) -> QueryStrategy:
    """The point whose ball holds most points that no ball holds yet.

    Of unit rows, with the largest radius at which 95 % of the balls hold points of one cluster only; the clusters are
    those of k-means, as many as there are classes. A radius that is given is taken as it is, for the features as they
    are.

    Differs from the paper: the network's features, and a radius for them in each round; the paper's are
    self-supervised, and stay.
    """
    if radius is not None:
        return _by_features(selection.prob_cover, kernel, sketch_dim, radius=radius)
    rows = _kernel_rows(kernel, sketch_dim)

    def prepare(key, committee, labelled_inputs, labels, targets):
        del labelled_inputs, labels, targets
        return committee, key

    def rows_and_probs(carry, inputs):
        committee, key = carry
        return rows(committee, key, inputs), jnp.exp(log_mean_exp(committee.log_probs(inputs)))

    def select(key, values, *, available, labelled, query_size):
        key, cluster_key = jax.random.split(key)
        rows, num_classes = selection.unit_rows(values[0]), values[1].shape[1]
        matters = available | labelled
        clusters = selection.k_means_clusters(
            cluster_key, rows, num_clusters=min(num_classes, len(rows)), available=matters
        )
        radius = selection.purity_radius(rows, clusters, available=matters)
        return selection.prob_cover(
            rows, radius=radius, available=available, labelled=labelled, query_size=query_size, key=key
        )

    return QueryStrategy(rows_and_probs, select, prepare, rows_labelled=True)


@cache
def max_herding(kernel: Kernel = "features", sketch_dim: int = 512, bandwidth: float | None = None) -> QueryStrategy:
    """Cover the pool by a Gaussian kernel, with a scale from the features.

    Differs from the paper: a bandwidth of half the usual distance; the paper has 1, for self-supervised features.
    """
    return _by_features(selection.max_herding, kernel, sketch_dim, bandwidth=bandwidth)


@cache
def facility_location(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Cover the pool by the cosine similarity."""
    return _by_features(selection.facility_location, kernel, sketch_dim)


# -- what they are made of --------------------------------------------------------------------------------------------


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


def _scored(select, name: str, *, rows=None, weigh: bool = False) -> QueryStrategy:
    """A strategy on the score of a pointwise strategy, by its name, and on `rows(committee, key, inputs) [B, D]`.

    With `weigh` the score is not negative, by its form in `NOT_NEGATIVE`.
    """
    own = POINTWISE[name]()
    form = NOT_NEGATIVE.get(name, lambda scores: scores) if weigh else lambda scores: scores
    if rows is None and own.prepare is committee_itself:
        return QueryStrategy(lambda committee, inputs: form(own.score(committee, inputs)), select)

    def prepare(key, committee, labelled_inputs, labels, targets):
        return committee, key, own.prepare(key, committee, labelled_inputs, labels, targets)

    def score(carry, inputs):
        committee, key, own_carry = carry
        scores = form(own.score(own_carry, inputs))
        return scores if rows is None else (scores, rows(committee, key, inputs))

    return QueryStrategy(score, select, prepare)


def _embedding(committee, key, inputs):
    del key
    return committee.embedding(inputs)


def _kernel_rows(kernel: Kernel, sketch_dim: int):
    """The rows whose dot product is a kernel: `(committee, key, inputs [B, ...]) -> [B, D]`."""

    def rows(committee, key, inputs):
        if kernel == "features":
            return committee.embedding(inputs)
        log_probs = committee.log_probs(inputs)
        if kernel == "committee":
            return selection.committee_features(log_probs)
        mean = jnp.exp(log_mean_exp(log_probs))
        key = jax.random.clone(key)  # the same for every chunk, and for the labelled rows
        return selection.gradient_features(mean, committee.embedding(inputs), sketch_dim=sketch_dim, key=key)

    return rows


def _candidates(per_pick: float, query_size: int) -> int:
    """A number of candidates or clusters that grows with the query, and is never below its size."""
    return max(round(per_pick * query_size), query_size)


def _of_two(selector, with_labelled=False, candidates_per_pick=None, **options):
    """`select` from a selector of scores and embeddings."""

    def select(key, values, *, available, labelled, query_size):
        known = {"labelled": labelled} if with_labelled else {}
        if candidates_per_pick is not None:
            known["candidates"] = _candidates(candidates_per_pick, query_size)
        return selector(*values, available=available, query_size=query_size, key=key, **known, **options)

    return select


def _by_features(selector, kernel, sketch_dim, *, unit=False, with_labelled=True, key_first=False, **options):
    """A strategy from a selector of features `[R, D]`: the network's own, its gradients', or the committee's."""
    rows = _kernel_rows(kernel, sketch_dim)

    def prepare(key, committee, labelled_inputs, labels, targets):
        del labelled_inputs, labels, targets
        return committee, key  # one projection for all chunks

    def score(carry, inputs):
        committee, key = carry
        return rows(committee, key, inputs)

    def select(key, features, *, available, labelled, query_size):
        features = selection.unit_rows(features) if unit else features
        known = {"labelled": labelled} if with_labelled else {}
        chosen = partial(selector, available=available, query_size=query_size, **known, **options)
        return chosen(key, features) if key_first else chosen(features, key=key)

    return QueryStrategy(score, select, prepare, rows_labelled=with_labelled)


TOWARD_TARGETS = ("epig", "expected_error_reduction", "core_mse", "core_log", "mocu", "weighted_mocu", "soft_mocu")

# One number a point: what `score` may name in strategies that look at more than a score.
POINTWISE: dict[str, Callable[[], QueryStrategy]] = {
    **{name: partial(pointwise, name) for name in acquisition.ACQUISITION_FUNCTIONS},
    "entropy": partial(pointwise, "predictive_entropy"),
    "expected_model_change": expected_model_change,
    "fisher_trace": fisher_trace,
    **{name: partial(toward_targets, name) for name in TOWARD_TARGETS},
    "contrastive": contrastive,
    **{name: partial(over_snapshots, name) for name in ("label_dispersion", "forgetting_events")},
}
