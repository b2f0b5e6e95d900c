"""The loop: fit, query, label, again; a generator of rounds on top of `ask` and `tell`.

`training_data` and `query_round` are pure where the pool lies on the device, so that seeds can be run by `vmap`.

Axis letters: N pool points, R rows of a round, Q query size.
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bdal.committee import Committee
from bdal.errors import LabelError, check_count, check_inputs, check_key, is_concrete, key_first
from bdal.pool import ABSTAIN, LabelledSet, check_answers, check_labels, extend
from bdal.selection import Query
from bdal.strategy import (
    Health,
    QueryStrategy,
    check_health,
    check_on_nonfinite,
    check_own_committee,
    check_strategy,
    draw_targets,
    fits_one_program,
    score_and_select,
    take_rows,
)
from bdal.types import Fit, Oracle, TrainingData


class Round(NamedTuple):
    """What one round produced. Nothing of it is needed to go on but the labelled set.

    Attributes:
      number: 0, 1, ...
      committee: fitted to `labelled`.
      labelled: what the committee was trained on: its `count` is the x-axis of a learning curve.
      query: pool indices in the order of picking, and their gains; empty in the last round.
      labels: the oracle's answers, ABSTAIN where it gave none.
    """

    number: int
    committee: Any
    labelled: LabelledSet
    query: Query
    labels: np.ndarray


def active_learning(
    key, *, fit: Fit, strategy: QueryStrategy, inputs, oracle: Oracle,
    labelled: LabelledSet, query_size: int, rounds: int, start: int = 0, validation: LabelledSet | None = None,
    excluded: np.ndarray | None = None, abstain_cost: int = 1, charged: int = 0, candidates: int | None = None,
    strict: bool = False, num_classes: int | None = None, targets=None, on_nonfinite: str = "raise",
    chunk_size: int = 1024, mesh: Mesh | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Fit, query, label; until `rounds` queries are made, and a last fit to everything that was bought.

    The generator holds no state beyond the labelled set: logging, plots, saving and stopping are the caller's. The same
    key gives the same queries, and round r depends only on the key, r and the labelled set.

    Args:
      key: the whole run's key; round r uses `fold_in(key, r)`.
      fit: `(key, TrainingData) -> Committee`, from `bdal.posteriors` or one's own.
      strategy: from `bdal.make_strategy`, or one's own.
      inputs: the pool `[N, ...]`, a pytree without labels; NumPy arrays are streamed from the host.
      oracle: `indices [Q] -> labels [Q]`, called once a round. It may answer `bdal.ABSTAIN` for a point: that point is
        never queried again.
      labelled: the initial set; its capacity is the budget of training labels.
      query_size: Q.
      rounds: how many queries are made, those before `start` included.
      start: the number of the first round, to go on from its labelled set: rounds 3, 4, ... are then what they would
        have been in one go.
      validation: labelled points for early stopping; they are not queried again.
      excluded: `[N]` booleans, points that are never queried, such as those on which the oracle abstained earlier.
      abstain_cost: what an abstention takes from the budget, 1 or 0 labels.
      charged: what abstentions before `start` took from it.
      strict: refuse a last query that would have fewer points than `query_size`, before it is asked.
      candidates: score only a random subset of so many available points each round (Gal et al., ICML 2017). Strategies
        that cover the pool (`max_herding`, `prob_cover`, ...) then cover this subset.
      num_classes: C, to check all labels against; by default that of the first `Committee`.
      targets: inputs, or how many points of the pool are drawn each round: from all of it, so labelled points and those
        for validation are among them.
      on_nonfinite, chunk_size, mesh: see `bdal.strategy.query`.

    Yields:
      Rounds `start` to `rounds`, the last without a query; fewer if the labelled set or the pool is exhausted.

    Raises:
      LabelError: a label that is no class, in `labelled`, in `validation`, or in an answer. Of that round nothing is
        yielded; a note on the error holds what was asked and what was answered.
      NonFiniteError: a score that is no number. Nothing is queried.
      ValueError: a committee of one's own that fails `bdal.testing.check_committee`, which is asked once; points that
        are in `labelled` and in `validation`; a query size below 1.

    Warns:
      UserWarning: the last query is smaller because the capacity or the pool leaves no more.
    """
    check_on_nonfinite(on_nonfinite)
    check_key(key)
    check_inputs(inputs, "inputs")
    check_count(query_size, "query_size")
    check_strategy(strategy)
    if rounds < 0:
        raise ValueError(f"rounds: expected at least 0, got {rounds}")
    if validation is not None:
        validation = _labelled_only(validation)
        both = np.intersect1d(np.asarray(labelled.indices)[: int(labelled.count)], validation.indices)
        if both.size:
            raise ValueError(
                f"validation: expected points that are not in labelled too, got {both.size} of them, the first pool "
                f"point {both[0]}"
            )
    _check_sets(labelled, validation, num_classes)
    excluded = np.zeros(pool_size(inputs), bool) if excluded is None else np.array(excluded, bool)
    if excluded.shape != (pool_size(inputs),):
        raise ValueError(f"excluded: expected one boolean a pool point [{pool_size(inputs)}], got {excluded.shape}")
    if validation is not None:
        excluded[validation.indices] = True
    for number in range(start, rounds + 1):
        committee = fit(step_key(key, number, "fit"), training_data(labelled, validation, inputs))
        check_trained(committee, f"round {number}, {int(labelled.count)} labels")
        if number == start:
            check_own_committee(committee, inputs)
            if num_classes is None and isinstance(committee, Committee):
                point = jax.tree.map(lambda leaf: jnp.asarray(leaf[:1]), inputs)
                num_classes = jax.eval_shape(Committee.log_probs, committee, point).shape[-1]
                _check_sets(labelled, validation, num_classes)
        left = query_limit(labelled, excluded, query_size, charged) if number < rounds else 0
        if not left:
            yield Round(number, committee, labelled, _no_query(), np.zeros(0, np.int32))
            return
        if left < query_size:
            if strict:
                raise ValueError(f"query_size: expected at most the {left} points that are left, got {query_size}")
            warnings.warn(
                f"the last query has {left} points instead of {query_size}: that is all that is left",
                stacklevel=2,
            )
        query = ask(
            step_key(key, number, "query"), committee, labelled, excluded, strategy=strategy, inputs=inputs,
            query_size=query_size, candidates=candidates, targets=targets, validation=validation,
            on_nonfinite=on_nonfinite, chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip
        indices = np.asarray(query.indices[:left])
        query = Query(indices, query.gains[:left])
        answer = oracle(indices)
        try:
            labels = check_answers(answer, indices, num_classes)
        except LabelError as error:  # the other labels of the round are paid for
            answered = answer.tolist() if hasattr(answer, "tolist") else answer
            error.add_note(f"asked: {indices.tolist()}; answered: {answered}")
            raise
        yield Round(number, committee, labelled, query, labels)
        labelled = tell(labelled, query, labels, inputs=inputs, num_classes=num_classes)
        excluded[indices[labels == ABSTAIN]] = True
        charged += abstain_cost * int((labels == ABSTAIN).sum())


def _labelled_only(labelled: LabelledSet) -> LabelledSet:
    """The set without the room that is left in it."""
    size = int(labelled.count)
    return LabelledSet(labelled.indices[:size], labelled.labels[:size], labelled.count)


def _check_sets(labelled: LabelledSet, validation: LabelledSet | None, num_classes: int | None) -> None:
    for part in (labelled, validation):
        if part is not None:
            size = int(part.count)
            check_labels(np.asarray(part.labels)[:size], np.asarray(part.indices)[:size], num_classes)


@key_first
def ask(
    key, committee, labelled: LabelledSet, excluded=None, *, strategy: QueryStrategy, inputs, query_size: int,
    candidates: int | None = None, targets=None, validation: LabelledSet | None = None, on_nonfinite: str = "raise",
    chunk_size: int = 1024, mesh: Mesh | None = None,
) -> Query:  # fmt: skip
    """Which points to label next: `Query` of at most `query_size` pool indices, fewer if the pool runs out.

    Points whose scores are not finite are no part of it, if they are to be excluded (`on_nonfinite`).
    Labelled points, and those where `excluded [N]` holds (for validation, abstained), are not asked for. `validation`
    is for strategies that scale predictions by a temperature; it excludes nothing.

    Raises:
      NonFiniteError: a score that is no number, or, where these are excluded, no score that is one. Nothing is queried.
    """
    check_on_nonfinite(on_nonfinite)
    check_inputs(inputs, "inputs")
    check_count(query_size, "query_size")
    check_strategy(strategy)
    if pool_size(inputs) == 0:
        return _no_query()
    # as `query_round` would, but a number is static
    targets = draw_targets(jax.random.split(jax.random.clone(key), 3)[2], targets, inputs)
    validation = None if validation is None else _labelled_only(validation)
    run = _query_round if fits_one_program(committee, inputs, mesh) else query_round
    query, rows, health = run(
        key, committee, labelled, excluded, inputs, targets, validation, strategy=strategy, query_size=query_size,
        candidates=candidates, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    check_health(health, np.asarray(rows), on_nonfinite)
    return on_host(query)


def tell(labelled: LabelledSet, query: Query, labels, *, inputs, num_classes: int | None = None) -> LabelledSet:
    """The labelled set with the answers to a query, less abstentions; see `bdal.pool.extend` for what is refused."""
    labels = check_answers(labels, query.indices, num_classes)
    given = labels != ABSTAIN
    indices = np.asarray(query.indices)[given]
    return extend(labelled, indices, labels[given], num_points=pool_size(inputs), num_classes=num_classes)


PURPOSES = ("fit", "query")


def step_key(key, number, purpose: str):
    """The key of one purpose in one round: `fold_in(fold_in(key, number), purpose)`, the same after a restart."""
    return jax.random.fold_in(jax.random.fold_in(key, number), PURPOSES.index(purpose))


def training_data(labelled: LabelledSet, validation: LabelledSet | None, inputs) -> TrainingData:
    """What a fit gets: the rows of the pool that are labelled, and those for validation."""
    rows = take_rows(inputs, jnp.maximum(labelled.indices, 0))
    held_out = _held_out(validation, inputs)
    return TrainingData(rows, jnp.asarray(labelled.labels), jnp.asarray(labelled.count), held_out)


def check_trained(committee, when: str) -> None:
    """Warn if a parameter is NaN or infinite: training diverged, or changed something that is not a weight.

    >>> check_trained(None, "round 0")
    """
    if not isinstance(committee, Committee) or not is_concrete(committee):
        return
    if not bool(_all_finite((committee.shared, committee.own))):
        warnings.warn(
            f"{when}: training ended in NaN or infinite parameters: it diverged (a smaller learning rate), or params "
            "holds something that is not a weight, such as running statistics outside a flax collection",
            stacklevel=3,
        )


@jax.jit
def _all_finite(params) -> jax.Array:
    floats = [leaf for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.stack([jnp.bool_(True), *(jnp.isfinite(leaf).all() for leaf in floats)]).all()


def _held_out(validation: LabelledSet | None, inputs):
    if validation is None:
        return None
    return take_rows(inputs, validation.indices), jnp.asarray(validation.labels)


def query_round(
    key, committee, labelled: LabelledSet, excluded, inputs, targets, validation: LabelledSet | None = None, *,
    strategy: QueryStrategy, query_size: int, candidates: int | None, chunk_size: int, mesh: Mesh | None = None,
) -> tuple[Query, jax.Array, Health]:  # fmt: skip
    """One query as a pure function: pool indices (−1 where the pool runs out), the rows' pool indices, `Health`."""
    if candidates is not None and candidates < query_size:
        raise ValueError(f"candidates: expected at least query_size ({query_size}), got {candidates}")
    candidate_key, query_key, targets_key = jax.random.split(key, 3)
    num_points = pool_size(inputs)
    targets = draw_targets(targets_key, targets, inputs)
    taken = jnp.zeros(num_points + 1, bool)
    real = jnp.arange(labelled.capacity) < labelled.count
    taken = taken.at[jnp.where(real, labelled.indices, num_points)].set(True)[:num_points]
    if excluded is not None:
        taken |= jnp.asarray(excluded)
    if candidates is None or candidates >= num_points:
        rows, candidate_inputs = jnp.arange(num_points), inputs
    else:
        draws = jnp.where(taken, -1.0, jax.random.uniform(candidate_key, (num_points,), jnp.float32))
        rows = jax.lax.top_k(draws, candidates)[1]
        candidate_inputs = take_rows(inputs, rows)
    query, health = score_and_select(
        query_key, strategy, committee, candidate_inputs, take_rows(inputs, jnp.maximum(labelled.indices, 0)),
        jnp.asarray(labelled.labels), targets, ~taken[rows], real,
        _held_out(validation, inputs) if strategy.held_out else None,
        query_size=query_size, chunk_size=chunk_size, mesh=mesh,
    )  # fmt: skip
    indices = jnp.where(query.indices >= 0, rows[query.indices], -1)
    return Query(indices.astype(jnp.int32), query.gains), rows, health


_query_round = jax.jit(query_round, static_argnames=("strategy", "query_size", "candidates", "chunk_size", "mesh"))


def on_host(query: Query) -> Query:
    """The query as NumPy arrays, without the −1 of an exhausted pool."""
    indices, gains = np.asarray(query.indices), np.asarray(query.gains)
    return Query(indices[indices >= 0], gains[indices >= 0])


def query_limit(labelled: LabelledSet, excluded: np.ndarray, query_size: int, charged: int = 0) -> int:
    """How many points the next query may have: the query size, the room that is left, or the points that are left."""
    room = labelled.capacity - int(labelled.count) - charged
    taken = np.array(excluded)
    taken[np.asarray(labelled.indices)[: int(labelled.count)]] = True
    return max(0, min(query_size, room, int((~taken).sum())))


def pool_size(inputs) -> int:
    """N."""
    return jax.tree.leaves(inputs)[0].shape[0]


def _no_query() -> Query:
    return Query(np.zeros(0, np.int32), np.zeros(0, np.float32))
