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
from bdal.errors import NonFiniteError, SelectorError, is_concrete
from bdal.pool import check_inputs, device_dtype, map_pool
from bdal.selection import Query, top_k
from bdal.selection.fold import TIE_TOLERANCE
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


class Health(NamedTuple):
    """What a traced query cannot raise: looked at on the host, once a round."""

    num_nonfinite: jax.Array  # available rows with a NaN or an infinity among their values
    first_nonfinite: jax.Array  # [5] rows, -1 where there are fewer
    all_tied: jax.Array  # whether every available row has the same score
    pick_error: jax.Array  # what is wrong with the first wrong pick, a place in `PICK_ERRORS`; 0 where nothing is
    wrong_pick: jax.Array  # that row
    num_finite: jax.Array  # available rows that are left without those of `num_nonfinite`
    overflown: jax.Array  # whether a pick's gain is NaN or infinite though the row's values are finite
    score_quantiles: jax.Array  # [5], minimum, quartiles and maximum of the scores of these rows; NaN where a point has
    # no one score, or no row is left
    references: "References"  # of what the candidates are compared with
    symptoms: tuple[jax.Array | np.bool_, jax.Array | np.bool_]  # of the committee, see `Committee.symptoms`


class References(NamedTuple):
    """The rows, each `[5]` with -1 where there are fewer, whose values or predictions are not finite."""

    labelled: jax.Array | np.ndarray
    targets: jax.Array | np.ndarray
    held_out: jax.Array | np.ndarray


NO_REFERENCES = References(*np.full((3, 5), -1, np.int32))


NO_SYMPTOMS = np.bool_(0), np.bool_(0)

REFERENCES = ("labelled points", "targets", "held_out")

PICK_ERRORS = ("", "is no row", "is not available: it is labelled already, or was not offered", "was picked before")


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
    bad = NO_REFERENCES
    if "labelled" in strategy.uses and len(labels):
        labelled, bad = _left_out(committee.log_probs(labelled_inputs), labelled, bad, "labelled")
    if "targets" in strategy.uses and targets is not None:
        targets, bad = _replaced(committee, targets, targets, bad, "targets")
    if strategy.held_out and held_out is not None and len(held_out[1]):
        held_out, bad = _replaced(committee, held_out[0], held_out, bad, "held_out")
    labels = jnp.where(labelled, labels, -1)
    more = {"held_out": held_out} if strategy.held_out else {}
    carry = strategy.prepare(prepare_key, committee, labelled_inputs, labels, targets, **more)
    values = map_pool(strategy.score, carry, candidates, chunk_size=chunk_size, mesh=mesh)
    if strategy.rows_labelled:
        more = map_pool(strategy.score, carry, labelled_inputs, chunk_size=chunk_size, mesh=mesh)
        labelled, bad = _left_out(more, labelled, bad, "labelled")
        values = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), values, more)
        available = jnp.concatenate([available, jnp.zeros_like(labelled)])
        labelled = jnp.concatenate([jnp.zeros(len(available) - len(labelled), bool), labelled])
    else:
        labelled = jnp.zeros_like(available)
    query, health = _select(select_key, values, available, labelled, select=strategy.select, query_size=query_size)
    return query, health._replace(references=bad, symptoms=_symptoms(committee, candidates))


def _symptoms(committee, candidates) -> tuple[jax.Array | np.bool_, jax.Array | np.bool_]:
    if not isinstance(committee, Committee) or jax.tree.leaves(candidates)[0].shape[0] == 0:
        return NO_SYMPTOMS
    return committee.symptoms(
        jax.tree.map(lambda leaf: jnp.asarray(leaf[:8].astype(device_dtype(leaf), copy=False)), candidates)
    )


def _left_out(values, labelled, bad: References, name: str) -> tuple[jax.Array, References]:
    """`labelled [L]` without the rows whose values are not finite, and these rows."""
    if len(labelled) == 0:
        return labelled, bad
    wrong = _nonfinite_rows(values, labelled)
    return labelled & ~wrong, bad._replace(**{name: jnp.nonzero(wrong, size=5, fill_value=-1)[0]})


def _replaced(committee, inputs, rows, bad: References, name: str):
    """`rows [T, ...]`, where others stand for those whose predictions are not finite, and these."""
    good, bad = _left_out(committee.log_probs(inputs), jnp.ones(jax.tree.leaves(inputs)[0].shape[0], bool), bad, name)
    places = jnp.arange(len(good)) % jnp.maximum(good.sum(), 1)
    return take_rows(rows, jnp.where(good, jnp.arange(len(good)), jnp.argsort(~good, stable=True)[places])), bad


def _in_two_stages(
    key, strategy, committee, candidates, labelled_inputs, labels, targets, available, labelled, held_out, **how
):
    """The strategy on the candidates of highest first score; as many as the query, if the prefilter lets pass fewer."""
    first, key = jax.random.split(key)
    scores = map_pool(strategy.prefilter.score, committee, candidates, chunk_size=how["chunk_size"], mesh=how["mesh"])
    size = min(max(strategy.prefilter.size, how["query_size"]), scores.shape[0])
    bad = _nonfinite_rows(scores, available)
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
            return jnp.asarray(leaf[np.asarray(rows)].astype(device_dtype(leaf), copy=False))
        return leaf[rows]

    return jax.tree.map(take, inputs)


def draw_targets(key, targets, inputs):
    """Targets as inputs: so many random points of the pool `[N, ...]`, where `targets` is a number."""
    if not isinstance(targets, int):
        return targets
    num_points = jax.tree.leaves(inputs)[0].shape[0]
    if targets < 1:
        raise ValueError(f"targets: expected inputs, or a number of points of at least 1, got {targets}")
    return take_rows(inputs, jax.random.permutation(key, num_points)[: min(targets, num_points)])


@partial(jax.jit, static_argnames=("select", "query_size"))
def _select(key, values, available, labelled, *, select, query_size: int) -> tuple[Query, Health]:
    bad = _nonfinite_rows(values, available)
    finite = available & ~bad  # never pick one, even if nobody looks at `health`
    query = Query(*select(key, values, available=finite, labelled=labelled, query_size=query_size))
    _check_query(query, query_size)
    overflown = (query.indices >= 0) & ~jnp.isfinite(query.gains)  # of finite values, such as squares of large ones
    bad = bad.at[jnp.where(overflown, query.indices, len(bad))].set(True, mode="drop")
    return query, _health(values, available, bad, overflown.any(), *_first_wrong_pick(query.indices, finite))


_score_and_select = jax.jit(score_and_select, static_argnames=("strategy", "query_size", "chunk_size", "mesh"))


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
    check_key(key)
    check_inputs(candidates, "candidates")
    num_points = jax.tree.leaves(candidates)[0].shape[0]
    available = jnp.ones(num_points, bool) if available is None else jnp.asarray(available)
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
                stacklevel=2,
            )
        labelled_inputs = jax.tree.map(lambda leaf: jnp.zeros((0, *leaf.shape[1:]), device_dtype(leaf)), candidates)
        labels = jnp.zeros(0, jnp.int32)
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


def check_health(health: Health, pool_indices: np.ndarray, on_nonfinite: str = "raise", query_size: int = 1) -> None:
    """Raise or warn for what a traced query could only count. `pool_indices [R]` names the rows.

    With `on_nonfinite="exclude"`, rows whose values are not finite are warned of, unless so many of them are that
    less than `query_size` are left.
    """
    where = "look at the members' log-probabilities there: training may have diverged"
    if number := int(health.num_nonfinite):
        rows = [int(pool_indices[row]) for row in np.asarray(health.first_nonfinite) if row >= 0]
        found = (
            f"got NaN or infinity in {number} available points (pool indices {rows}"
            f"{' ...' if number > len(rows) else ''})"
        )
        if on_nonfinite == "raise":
            raise NonFiniteError(f"scores: expected finite values, {found}; {where}")
        if bool(health.overflown):
            raise NonFiniteError(f"gains: expected finite values, {found}, whose own values are finite; {where}")
        if (left := int(health.num_finite)) < query_size:
            raise NonFiniteError(
                f"scores: expected at least {query_size} available points with finite values, {found} and {left} "
                f"without; {where}"
            )
        warnings.warn(f"scores: {found}, which are excluded from this query; {where}", stacklevel=3)
    for name, rows in zip(REFERENCES, health.references, strict=True):
        if (rows := np.asarray(rows)[np.asarray(rows) >= 0]).size:
            found = f"{name}: expected finite predictions, got NaN or infinity in row{'s' * (rows.size > 1)} "
            found += f"{', '.join(map(str, rows))}{' and perhaps more' if rows.size == 5 else ''}"
            if on_nonfinite == "raise":
                raise NonFiniteError(f'{found}; {where}, or leave them out with on_nonfinite="exclude"')
            warnings.warn(f"{found}, which this query leaves out; {where}", stacklevel=3)
    if error := int(health.pick_error):
        row = int(health.wrong_pick)
        known = error > 1 and row < len(pool_indices)  # the rows after those are the labelled set's
        raise SelectorError(
            f"select: expected rows that are available and differ, got {'pool point' if known else 'row'} "
            f"{pool_indices[row] if known else row}, which {PICK_ERRORS[error]}; nothing is labelled"
        )
    agree, probabilities = map(bool, health.symptoms)
    if probabilities:
        warnings.warn(
            "apply: expected logits, got rows that are not negative and sum to one, as probabilities do. A softmax of "
            "these is nearly uniform; leave the softmax out, or return jnp.log of it",
            stacklevel=3,
        )
    if agree:
        warnings.warn(
            "the members have keys of their own and agree exactly: the committee is one network. Dropout is off "
            "(rate 0, deterministic, evaluation mode), or apply does not use its key",
            stacklevel=3,
        )
    elif bool(health.all_tied):
        warnings.warn(
            "every available point has the same score up to rounding (one member, members that agree, or an untrained "
            "network): the score does not choose among them, and ties are random",
            stacklevel=3,
        )


def check_key(key) -> None:
    """TypeError unless it is a key of `jax.random`."""
    if not isinstance(key, jax.Array | np.ndarray):
        forgotten = " (is the key forgotten?)" if isinstance(key, QueryStrategy) else ""
        found = "a strategy" if forgotten else repr(key)
        raise TypeError(f"key: expected a key such as jax.random.key(0), first of all, got {found}{forgotten}")


def check_on_nonfinite(value: str) -> None:
    """ValueError unless it is one of the two that there are."""
    if value not in ("raise", "exclude"):
        raise ValueError(f'on_nonfinite: expected "raise" or "exclude", got {value!r}')


def _nonfinite_rows(values, available):
    bad = jnp.zeros_like(available)
    for leaf in jax.tree.leaves(values):
        # −inf is a legitimate log-probability [R, K, C]; everything else must be finite
        broken = jnp.isnan(leaf) | jnp.isposinf(leaf) if leaf.ndim > 2 else ~jnp.isfinite(leaf)
        bad |= broken.any(tuple(range(1, leaf.ndim)))
    return bad & available


def _check_query(query: Query, query_size: int) -> None:
    found = [(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in query]
    if any(shape != (query_size,) for shape, _ in found) or not jnp.issubdtype(found[0][1], jnp.integer):
        raise SelectorError(
            f"select: expected integer indices and gains of shape ({query_size},), got "
            f"{' and '.join(f'{dtype} of shape {shape}' for shape, dtype in found)}"
        )


def _first_wrong_pick(indices, available):
    """`(pick_error, wrong_pick)` of `Health`; −1 stands for no pick."""
    num_rows, places = available.shape[0], jnp.arange(indices.shape[0])
    outside = (indices < -1) | (indices >= num_rows)
    row = jnp.where(outside | (indices < 0), num_rows, indices)  # one row more than there are
    first_place = jnp.full(num_rows + 1, len(places)).at[row].min(places)
    taken = ~jnp.append(available, True)[row]
    again = (row < num_rows) & (first_place[row] < places)
    errors = jnp.where(outside, 1, jnp.where(taken, 2, jnp.where(again, 3, 0)))
    first = jnp.argmax(errors > 0)
    return errors[first], indices[first]


def _health(values, available, bad, overflown, pick_error, wrong_pick):
    (first,) = jnp.nonzero(bad, size=5, fill_value=-1)
    scores = [leaf for leaf in jax.tree.leaves(values) if leaf.ndim == 1]
    tied, quantiles = jnp.bool_(False), jnp.full(5, jnp.nan)
    if len(scores) == 1:
        finite = available & ~bad
        quantiles = _quartiles(scores[0], finite)
        highest = jnp.where(finite, scores[0], -jnp.inf).max()
        lowest = jnp.where(finite, scores[0], jnp.inf).min()
        # relative rounding; and what is left of BALD, which is of second order, when members differ by rounding
        tied = (highest - lowest <= jnp.maximum(TIE_TOLERANCE * jnp.abs(highest), 1e-10)) & (finite.sum() > 1)
    num_finite = available.sum() - bad.sum()
    return Health(
        bad.sum(), first, tied, pick_error, wrong_pick, num_finite, overflown, quantiles, NO_REFERENCES, NO_SYMPTOMS
    )


def _quartiles(scores, rows):
    """Minimum, quartiles and maximum `[5]` of the scores of some rows, as NumPy's "linear" method has them."""
    count = rows.sum()
    ordered = jnp.sort(jnp.where(rows, scores.astype(jnp.float32), jnp.inf))
    places = jnp.maximum(count - 1, 0) * jnp.arange(5)  # in quarters: whole numbers, and exact
    low, high = ordered[places // 4], ordered[-(-places // 4)]
    share = places % 4 / 4
    return jnp.where(count > 0, low * (1 - share) + high * share, jnp.nan)
