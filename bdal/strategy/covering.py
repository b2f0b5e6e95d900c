"""Named strategies that cover the pool, or what is uncertain of it.

Factories are cached, so that the same name and options are the same functions, and nothing is traced twice.

Axis letters: R rows of a round, D features, Q query size, B points of a chunk.
"""

from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp

from bdal import acquisition, selection
from bdal.calibration import fit_temperature
from bdal.information import log_mean_exp
from bdal.strategy.parts import Kernel, by_features, kernel_rows, of_two, scored
from bdal.strategy.querying import QueryStrategy
from bdal.strategy.scores import NOT_NEGATIVE

TEMPERATURES = 1.0, 20.0  # the range of `uncertainty_herding`, as in its authors' code
OF_THE_MEAN = ("predictive_entropy", "entropy", "margin", "least_confidence")  # scores that a temperature scales


@cache
def prob_cover(
    kernel: Kernel = "features",
    sketch_dim: int = 512,
    rule: Literal["wide", "paper"] = "wide",
    radius: float | None = None,
) -> QueryStrategy:
    """The point whose ball holds most points that no ball holds yet.

    Of unit rows. The radius of rule "paper" is the largest at which 95 % of the balls hold points of one cluster only;
    the clusters are those of k-means, as many as there are classes. That of rule "wide" is not below half the usual
    distance of two rows (`bdal.selection.half_spread`). A radius that is given is taken as it is, for the features as
    they are.

    Differs from the paper: the radius is not below half the usual distance; in a network in training, the paper's balls
    hold few points.

    For unit rows that are spread over all directions, half the usual distance is 0.71; the paper's radius for CIFAR-10
    is 0.75. Measured in benchmarks/results.
    """
    if radius is not None:
        return by_features(selection.prob_cover, kernel, sketch_dim, radius=radius)
    rows = kernel_rows(kernel, sketch_dim)

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
        if rule == "wide":
            radius = jnp.maximum(radius, selection.half_spread(rows, matters))
        return selection.prob_cover(
            rows, radius=radius, available=available, labelled=labelled, query_size=query_size, key=key
        )

    return QueryStrategy(rows_and_probs, select, prepare, rows_labelled=True)


@cache
def max_herding(kernel: Kernel = "features", sketch_dim: int = 512, bandwidth: float | None = None) -> QueryStrategy:
    """Cover the pool by a Gaussian kernel, with a scale from the features.

    Differs from the paper: a bandwidth of half the usual distance; the paper has 1, for self-supervised features.
    """
    return by_features(selection.max_herding, kernel, sketch_dim, bandwidth=bandwidth)


@cache
def facility_location(kernel: Kernel = "features", sketch_dim: int = 512) -> QueryStrategy:
    """Cover the pool by the cosine similarity."""
    return by_features(selection.facility_location, kernel, sketch_dim)


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
    cover = of_two(selection.uncertainty_herding, with_labelled=True, bandwidth=bandwidth)

    def select(key, values, *, available, labelled, query_size):
        scores, rows = values
        scores = jnp.where(labelled.any(), scores, 1.0)
        return cover(key, (scores, rows), available=available, labelled=labelled, query_size=query_size)

    rows = kernel_rows(kernel, sketch_dim)
    if score not in OF_THE_MEAN:
        return scored(select, score, rows=rows, weigh=True)._replace(rows_labelled=True)
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
    select = of_two(selection.weighted_coverage, with_labelled=True, bandwidth=bandwidth)
    return scored(select, score, rows=kernel_rows(kernel, sketch_dim), weigh=True)._replace(rows_labelled=True)
