"""A query strategy is a map over the pool, then a fold into a batch: `QueryStrategy`, and `query`, which runs one.

Axis letters: N pool points, R rows of a round, L labelled points, Q query size, B points of a chunk.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from bdal.committee import Committee
from bdal.errors import (
    LabelError,
    SelectorError,
    as_array,
    check_array,
    check_count,
    check_inputs,
    described_type,
    is_concrete,
    key_first,
)
from bdal.pool import device_dtype, map_pool, native, to_device
from bdal.selection import Query, top_k
from bdal.strategy.health import (
    NO_REFERENCES,
    NO_SYMPTOMS,
    Health,
    check_health,
    check_on_nonfinite,
    first_five,
    first_wrong_pick,
    measured_health,
    nonfinite_rows,
)
from bdal.testing import check_committee


def committee_itself(key, committee, labelled_inputs, labels, targets):
    """The default `prepare`: the committee is all that `score` needs."""
    del key, labelled_inputs, labels, targets
    return committee


class Prefilter(NamedTuple):
    """A cheap first stage: only the `size` available candidates of highest score go on to the strategy.

    Attributes:
      score: `(committee, inputs [B, ...]) -> [B]`.
      size: how many go on.
    """

    score: Callable[..., jax.Array]
    size: int


class QueryStrategy(NamedTuple):
    """How a query is chosen.

    Attributes:
      score: `(carry, inputs [B, ...]) -> PyTree of [B, ...]`, the map: chunked, sharded, stateless.
      select: `(key, PyTree of [R, ...], *, available [R], labelled [R], query_size) -> Query`, the fold; compiled, with
        `query_size` static. Where fewer rows are available, the rest of its indices is −1.
      prepare: `(key, committee, labelled inputs, labels, targets) -> carry`, once a round. The labelled buffer has a
        fixed size: where it holds no label yet, the label is −1.
      rows_labelled: whether `select` also wants the rows of the labelled set, after the candidates. Most do not, and
        then they are not scored.
      prefilter: for pools too large for what `score` returns.
      held_out: whether `prepare` also takes `held_out`: `(inputs [V, ...], labels [V])`, labelled points that no member
        was trained on, or None where there are none.
      uses: "labelled", "targets": what `prepare` gives to `committee.log_probs`. Their predictions must then be finite.
    """

    score: Callable[..., Any]
    select: Callable[..., Query]
    prepare: Callable[..., Any] = committee_itself
    rows_labelled: bool = False
    prefilter: Prefilter | None = None
    held_out: bool = False
    uses: tuple[Literal["labelled", "targets"], ...] = ()


def score_and_select(
    key, strategy: QueryStrategy, committee, candidates, labelled_inputs, labels, targets, available, labelled,
    held_out=None, *, query_size: int, chunk_size: int, mesh: Mesh | None = None,
) -> tuple[Query, Health]:  # fmt: skip
    """One query as a pure function, for `jit` and `vmap`: prepare, map, select. Rows, not pool indices, come back.

    `candidates` and `labelled_inputs` may be on the host. Rows run out as −1. Rows whose values are not finite are
    never picked; `check_health` decides whether that is an error.
    """
    if strategy.prefilter is not None:
        return _in_two_stages(
            key, strategy, committee, candidates, labelled_inputs, labels, targets, available, labelled, held_out,
            query_size=query_size, chunk_size=chunk_size, mesh=mesh,
        )  # fmt: skip
    prepare_key, select_key = jax.random.split(key)
    real, broken = labelled, NO_REFERENCES
    if "labelled" in strategy.uses and len(labels):
        labelled = labelled & ~nonfinite_rows(committee.log_probs(labelled_inputs), labelled)
    if "targets" in strategy.uses and targets is not None:
        targets, rows = _replaced(committee, targets, targets)
        broken = broken._replace(targets=rows)
    if strategy.held_out and held_out is not None and len(held_out[1]):
        held_out, rows = _replaced(committee, held_out[0], held_out)
        broken = broken._replace(held_out=rows)
    labels = jnp.where(labelled, labels, -1)
    more = {"held_out": held_out} if strategy.held_out else {}
    carry = strategy.prepare(prepare_key, committee, labelled_inputs, labels, targets, **more)
    values = map_pool(strategy.score, carry, candidates, chunk_size=chunk_size, mesh=mesh)
    if strategy.rows_labelled:
        more = map_pool(strategy.score, carry, labelled_inputs, chunk_size=chunk_size, mesh=mesh)
        labelled = labelled & ~nonfinite_rows(more, labelled)
        values = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), values, more)
        among = jnp.concatenate([jnp.zeros_like(available), labelled])
        available = jnp.concatenate([available, jnp.zeros_like(labelled)])
    else:
        among = jnp.zeros_like(available)
    query, health = _select(select_key, values, available, among, select=strategy.select, query_size=query_size)
    broken = broken._replace(labelled=first_five(real & ~labelled))
    return query, health._replace(references=broken, symptoms=_symptoms(committee, candidates))


def _replaced(committee, inputs, rows):
    """`rows [T, ...]` with non-finite rows replaced by finite ones, and the first five that were replaced."""
    number = jnp.arange(jax.tree.leaves(inputs)[0].shape[0])
    broken = nonfinite_rows(committee.log_probs(inputs), jnp.ones(number.shape, bool))
    others = jnp.argsort(broken, stable=True)[number % jnp.maximum((~broken).sum(), 1)]
    return take_rows(rows, jnp.where(broken, others, number)), first_five(broken)


def _symptoms(committee, candidates):
    size = min(8, jax.tree.leaves(candidates)[0].shape[0])
    if not isinstance(committee, Committee) or size == 0:
        return NO_SYMPTOMS
    return committee.symptoms(jax.tree.map(lambda leaf: to_device(leaf[:size]), candidates))


def _in_two_stages(
    key, strategy, committee, candidates, labelled_inputs, labels, targets, available, labelled, held_out, **how
):
    """The strategy on the candidates of highest first score; as many as the query, if the prefilter lets pass fewer."""
    first, key = jax.random.split(key)
    scores = map_pool(strategy.prefilter.score, committee, candidates, chunk_size=how["chunk_size"], mesh=how["mesh"])
    size = min(max(strategy.prefilter.size, how["query_size"]), scores.shape[0])
    bad = nonfinite_rows(scores, available)
    rows = top_k(scores, available=available & ~bad, query_size=size, key=first, pad=True).indices
    found, rows = rows >= 0, jnp.maximum(rows, 0)
    query, health = score_and_select(
        key, strategy._replace(prefilter=None), committee, take_rows(candidates, rows), labelled_inputs, labels,
        targets, found & available[rows], labelled, held_out, **how,
    )  # fmt: skip
    later_bad = jnp.where(health.first_nonfinite >= 0, rows[health.first_nonfinite], len(bad))
    (first_bad,) = jnp.nonzero(bad.at[later_bad].set(True, mode="drop"), size=5, fill_value=-1)
    here = jnp.append(rows, len(bad) + jnp.arange(len(labelled)))  # the labelled rows come after the candidates
    health = health._replace(
        num_nonfinite=bad.sum() + health.num_nonfinite,
        first_nonfinite=first_bad,
        wrong_pick=jnp.where(health.pick_error > 1, here[health.wrong_pick], health.wrong_pick),
    )
    return Query(jnp.where(query.indices >= 0, rows[query.indices], -1), query.gains), health


def take_rows(inputs, rows):
    """Rows of a pool on the device, or of one on the host; of an empty pool, rows of zeros."""

    def take(leaf):
        if leaf.shape[0] == 0:  # they fill a buffer in which nothing is real
            return jnp.zeros((len(rows), *leaf.shape[1:]), device_dtype(leaf))
        if isinstance(leaf, np.ndarray):
            return to_device(leaf[np.asarray(rows)])
        return leaf[rows]

    return jax.tree.map(take, inputs)


def draw_targets(key, targets, inputs):
    """Targets as inputs: so many random points of the pool `[N, ...]`, where `targets` is a number."""
    if targets is None:
        return None
    if not isinstance(targets, int):
        check_inputs(targets, "targets", points=False)  # a strategy of one's own may want anything
        return native(targets)
    num_points = jax.tree.leaves(inputs)[0].shape[0]
    if targets < 1:
        raise ValueError(f"targets: expected inputs, or a number of points of at least 1, got {targets}")
    return take_rows(inputs, jax.random.permutation(key, num_points)[: min(targets, num_points)])


@partial(jax.jit, static_argnames=("select", "query_size"))
def _select(key, values, available, labelled, *, select, query_size: int) -> tuple[Query, Health]:
    bad = nonfinite_rows(values, available)
    finite = available & ~bad  # never pick one, even if nobody looks at `health`
    query = Query(*select(key, values, available=finite, labelled=labelled, query_size=query_size))
    _check_query(query, query_size)
    overflown = (query.indices >= 0) & ~jnp.isfinite(query.gains)  # of finite values, such as squares of large ones
    bad = bad.at[jnp.where(overflown, query.indices, len(bad))].set(True, mode="drop")
    return query, measured_health(values, available, bad, overflown.any(), *first_wrong_pick(query.indices, finite))


_score_and_select = jax.jit(score_and_select, static_argnames=("strategy", "query_size", "chunk_size", "mesh"))


@key_first
def query(
    key, strategy: QueryStrategy, committee, candidates, *, query_size: int, available=None, labelled_inputs=None,
    labels=None, targets=None, held_out=None, on_nonfinite: str = "raise", chunk_size: int = 1024,
    mesh: Mesh | None = None,
) -> Query:  # fmt: skip
    """Choose `query_size` of the candidates: prepare, map over the pool, fold into a batch.

    Args:
      key: consumed; breaks ties and draws what is drawn.
      strategy: from `make_strategy`, or one's own.
      committee: a `Committee`, or anything that `strategy` can use: any object with its methods will do, one that
        computes on the host included; its consistency is then checked on the first candidates.
      candidates: `[N, ...]` inputs, a pytree; NumPy arrays are streamed from the host. Strategies that cover the pool
        (`max_herding`, `prob_cover`, ...) cover these, whatever pool they are a part of.
      query_size: Q.
      available: `[N]` booleans, which candidates may be queried; by default all.
      labelled_inputs, labels: `[L, ...]` and `[L]`, for strategies that look at what is labelled (core-set).
      targets: inputs that the model is to be good at, for strategies that need them (EPIG); or a number: so many
        random candidates, whether they are available or not.
      held_out: `(inputs [V, ...], labels [V])`, labelled points that no member was trained on, for strategies that
        scale predictions by a temperature (`uncertainty_herding`).
      on_nonfinite: "raise" where an available candidate has a NaN or an infinity among its values, or a labelled point,
        a target or a held-out point that the strategy compares it with; or "exclude" these from the query, with a
        warning (another target stands for one that is excluded).
      chunk_size, mesh: see `map_pool`.

    Returns:
      `Query(indices [Q], gains [Q])`, indices into the candidates in the order of picking.

    Raises:
      ValueError: fewer candidates are available than `query_size`; a committee of one's own that fails
        `bdal.testing.check_committee`.
      NonFiniteError: a NaN or an infinity among an available candidate's values; where these are excluded, less than
        `query_size` candidates that are left, or a gain that overflows.
      SelectorError: a strategy of one's own that picks a row that is none, that is not available, or twice.

    Warns:
      UserWarning: every available candidate has the same score (for example a committee of one member): the query is
        random. Members with keys of their own that agree exactly. A network that returns probabilities. Candidates
        that are excluded.

    >>> from bdal.committee import deep_ensemble
    >>> from bdal.strategy import make_strategy
    >>> committee = deep_ensemble(lambda w, key, x: x @ w, jax.random.normal(jax.random.key(0), (5, 3, 2)))
    >>> pool = jax.random.normal(jax.random.key(1), (100, 3))
    >>> query(jax.random.key(2), make_strategy("bald"), committee, pool, query_size=4).indices.shape
    (4,)
    """
    check_on_nonfinite(on_nonfinite)
    check_count(query_size, "query_size")
    check_strategy(strategy)
    if isinstance(candidates, Committee):
        raise TypeError(
            "candidates: expected inputs [N, ...], got a Committee; the order is key, strategy, committee, ..."
        )
    check_inputs(candidates, "candidates")
    num_points = jax.tree.leaves(candidates)[0].shape[0]
    available = jnp.ones(num_points, bool) if available is None else as_array(available, "available")
    if available.shape != (num_points,) or available.dtype != bool:
        raise ValueError(
            f"available: expected one boolean for each of {num_points} candidates, got {available.dtype} of shape "
            f"{available.shape}"
        )
    if is_concrete(available) and (count := int(np.sum(np.asarray(available)))) < query_size:
        raise ValueError(f"query_size: expected at most the {count} available candidates, got {query_size}")
    if labelled_inputs is None:
        if strategy.rows_labelled:
            warnings.warn(
                "labelled_inputs: this strategy looks at what is labelled already, and got none: pass the labelled "
                "inputs, or an empty array [0, ...] where there are none",
                stacklevel=3,
            )
        labelled_inputs = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), device_dtype(leaf)), candidates)
        labels = jnp.zeros(0, jnp.int32)
    else:
        check_inputs(labelled_inputs, "labelled_inputs")
        labelled_inputs = native(labelled_inputs)
    labels = _checked_labels("labels", labels, labelled_inputs)
    if held_out is not None:
        check_inputs(held_out[0], "held_out inputs")
        held_out = native(held_out[0]), _checked_labels("held_out labels", held_out[1], held_out[0])
    check_own_committee(committee, candidates)
    labelled = jnp.ones(jax.tree.leaves(labelled_inputs)[0].shape[0], bool)
    targets = draw_targets(jax.random.fold_in(key, 2), targets, candidates)
    arguments = (key, strategy, committee, candidates, labelled_inputs, labels, targets, available, labelled, held_out)
    run = _score_and_select if fits_one_program(committee, candidates, mesh) else score_and_select
    chosen, health = run(*arguments, query_size=query_size, chunk_size=chunk_size, mesh=mesh)
    if is_concrete(*health):
        check_health(health, np.arange(num_points), on_nonfinite, query_size)
        return chosen
    left_out = health.overflown | (health.num_finite < query_size) if on_nonfinite == "exclude" else True
    wrong = (health.num_nonfinite > 0) & left_out | (health.pick_error > 0)
    if on_nonfinite == "raise":
        wrong |= jnp.stack(health.references).max() >= 0
    return chosen._replace(gains=jnp.where(wrong, jnp.nan, chosen.gains))  # a trace cannot raise


def check_own_committee(committee, inputs) -> None:
    """`check_committee` on the first few inputs, for any object but a `Committee`, which is consistent as built."""
    if isinstance(committee, Committee) or not hasattr(committee, "log_probs") or not is_concrete(committee, inputs):
        return
    if jax.tree.leaves(inputs)[0].shape[0]:
        check_committee(committee, jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), inputs))


def fits_one_program(committee, inputs, mesh) -> bool:
    """Whether a query may be compiled as a whole: a committee that is a pytree, inputs on the device, no mesh."""
    on_device = all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(inputs))
    return mesh is None and on_device and isinstance(committee, Committee)


def check_strategy(strategy) -> None:
    """Raise a TypeError unless `strategy` has the parts of a `QueryStrategy`."""
    if not (hasattr(strategy, "score") and hasattr(strategy, "select")):
        named = isinstance(strategy, str)
        raise TypeError(
            f"strategy: expected a QueryStrategy, got {repr(strategy) if named else described_type(strategy)}; pass "
            f"make_strategy({repr(strategy) if named else '...'})"
        )


def _checked_labels(name: str, labels, inputs) -> jax.Array:
    """`[L]` int32, one for each of the inputs; LabelError if they are no classes."""
    count = jax.tree.leaves(inputs)[0].shape[0]
    wanted = f"{name}: expected one integer class for each of the {count} inputs beside them"
    if labels is None:
        raise LabelError(f"{wanted}, got none")
    check_array(labels, name)
    found = np.asarray(labels) if is_concrete(labels) else labels
    if found.shape != (count,) or not jnp.issubdtype(found.dtype, jnp.integer):
        raise LabelError(f"{wanted}, got {found.dtype} of shape {found.shape}")
    if is_concrete(labels) and (wrong := found[(found < 0) | (found > np.iinfo(np.int32).max)]).size:
        raise LabelError(f"{name}: expected classes 0, 1, ..., got {wrong[0]}")
    return jnp.asarray(found, jnp.int32)


def _check_query(query: Query, query_size: int) -> None:
    found = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in query]
    if any(shape != (query_size,) for shape, _ in found) or not jnp.issubdtype(found[0][1], jnp.integer):
        raise SelectorError(
            f"select: expected integer indices and gains of shape ({query_size},), got "
            f"{' and '.join(f'{dtype} of shape {shape}' for shape, dtype in found)}"
        )
