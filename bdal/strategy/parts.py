"""What the factories of strategies are put together from: a score by name, the rows of a kernel, a selector.

Axis letters: R rows of a round, D features, Q query size, B points of a chunk.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from bdal import selection
from bdal.information import log_mean_exp
from bdal.strategy.querying import QueryStrategy, committee_itself
from bdal.strategy.scores import NOT_NEGATIVE, POINTWISE

Kernel = Literal["features", "gradient", "committee"]


def scored(select, name: str, *, rows=None, weigh: bool = False) -> QueryStrategy:
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

    return QueryStrategy(score, select, prepare, uses=own.uses)


def embedding(committee, key, inputs):
    del key
    return committee.embedding(inputs)


def kernel_rows(kernel: Kernel, sketch_dim: int):
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


def candidates(per_pick: float, query_size: int) -> int:
    """A number of candidates or clusters that grows with the query, and is never below its size."""
    return max(round(per_pick * query_size), query_size)


def of_two(selector, with_labelled=False, candidates_per_pick=None, **options):
    """`select` from a selector of scores and embeddings."""

    def select(key, values, *, available, labelled, query_size):
        known = {"labelled": labelled} if with_labelled else {}
        if candidates_per_pick is not None:
            known["candidates"] = candidates(candidates_per_pick, query_size)
        return selector(*values, available=available, query_size=query_size, key=key, **known, **options)

    return select


def by_features(selector, kernel, sketch_dim, *, unit=False, with_labelled=True, key_first=False, **options):
    """A strategy from a selector of features `[R, D]`: the network's own, its gradients', or the committee's."""
    rows = kernel_rows(kernel, sketch_dim)

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
