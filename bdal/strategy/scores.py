"""One number a point: strategies that take the highest scores, and what other strategies may name as their `score`.

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


@cache
def pointwise(name: str) -> QueryStrategy:
    """The highest values of an acquisition function of `bdal.acquisition`."""
    return QueryStrategy(of_log_probs(acquisition.ACQUISITION_FUNCTIONS[name]), top)


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
        log_probs, features = predict(committee, inputs, "expected_model_change", 'or ask for layers="all"')
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
        return trace(*predict(committee, inputs, "fisher_trace"))

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

    return QueryStrategy(score, top, prepare, uses=("targets",))


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

    return QueryStrategy(score, top, prepare, uses=("labelled",))


@cache
def over_snapshots(name: str) -> QueryStrategy:
    """The highest values of a function of the predictions along training; the committee's members are snapshots."""
    return QueryStrategy(of_log_probs(getattr(acquisition, name)), top)


def predict(committee, inputs, name, otherwise=""):
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
