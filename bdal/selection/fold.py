"""The fold that most selectors are: pick the row of largest gain, update the state, repeat.

Axes: R rows, Q query size.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_key, check_query, key_first

# Scores this close, relative to the largest |score|, differ by rounding.
TIE_TOLERANCE = 8 * float(jnp.finfo(jnp.float32).eps)


class Query(NamedTuple):
    """The rows chosen in one round, in the order of picking: `indices [Q]` int32 and their `gains [Q]`.

    Where fewer than Q rows could be picked, the rest of the indices is −1 and their gains 0.
    """

    indices: jax.Array | np.ndarray
    gains: jax.Array | np.ndarray


Arguments = ParamSpec("Arguments")


def no_rows_no_picks(selector: Callable[Arguments, Query]) -> Callable[Arguments, Query]:
    """`selector`, which of no rows at all, R = 0, picks none: with `pad`, or in a trace, a query of −1 throughout.

    Its key is checked as well, and must be given where it is the first argument.
    """

    @wraps(selector)
    def select(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Query:
        options: dict[str, Any] = dict(kwargs)
        if options.get("key") is not None:
            check_key(options["key"])
        if np.shape(options.get("available", False)) != (0,) or "query_size" not in options:
            return selector(*args, **kwargs)
        check_query(options["available"], options["query_size"], options.get("pad", False))
        return no_picks(options["query_size"])

    return key_first(select) if next(iter(inspect.signature(selector).parameters)) == "key" else select


def no_picks(query_size: int) -> Query:
    """A query that found nothing."""
    return Query(jnp.full(query_size, -1, jnp.int32), jnp.zeros(query_size, jnp.float32))


def greedy(
    init: Any,
    gains: Callable[[Any], jax.Array],
    update: Callable[[Any, jax.Array], Any],
    *,
    available: jax.Array,
    query_size: int,
    key: jax.Array | None = None,
) -> Query:
    """Q times: pick `argmax gains(state)` of the rows available and not yet picked, then `update(state, index)`.

    One `lax.scan`. It compiles at every call unless it is itself called under `jax.jit`, as all selectors of this
    room are.

    Args:
      init: the state before the first pick, any pytree.
      gains: `state -> [R]`. What it holds for rows that cannot be picked does not matter, NaN included.
      update: `(state, index) -> state`, with `index` an int32 scalar. Not called once the rows have run out.
      available: `[R]` bool, the rows that may be picked.
      query_size: Q, a Python int.
      key: with a key, ties are broken at random, and gains that differ by no more than rounding (8 float32 eps of
        the largest |gain|) are ties. Without, the lowest index among the exact maxima wins.

    Returns:
      The `Query`; when the available rows run out, its indices continue with −1 and its gains with 0. A NaN gain
      of a row that can be picked is picked before all others, so that it shows.

    Raises:
      ValueError, TypeError: `available` is not a boolean mask, `query_size` not a positive int, `gains` not of
        shape `[R]`.

    Greedy maximisation of a set function: Nemhauser, Wolsey & Fisher (1978).

    >>> distance = lambda state: jnp.abs(jnp.arange(5.0)[:, None] - state[None, :]).min(1)
    >>> farthest = lambda state, index: jnp.append(state[1:], index.astype(jnp.float32))
    >>> greedy(jnp.zeros(2), distance, farthest, available=jnp.ones(5, bool), query_size=2).indices.tolist()
    [4, 2]
    """
    check_query(available, query_size, pad=True)
    if key is not None:
        check_key(key)
    available = jnp.asarray(available)
    if available.shape == (0,):
        return no_picks(query_size)

    def pick(carry, key):
        state, allowed = carry
        values = gains(state)
        if values.shape != allowed.shape:
            raise ValueError(f"gains must return one number a row, shape {allowed.shape}, got {values.shape}")
        row, found = argmax(values, allowed, key)
        state = jax.lax.cond(found, lambda: update(state, row), lambda: state)
        gain = jnp.where(found, values[row], 0).astype(jnp.float32)
        return (state, allowed.at[row].set(False)), Query(jnp.where(found, row, -1), gain)

    keys = None if key is None else jax.random.split(key, query_size)
    _, query = jax.lax.scan(pick, (init, available), keys, length=query_size)
    return query


def argmax(values: jax.Array, allowed: jax.Array, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
    """The index of the largest of `values [R]` among the `allowed [R]`, and whether any is allowed (if not, 0).

    Ties as in `greedy`. In two stages, over a square of blocks: a single argmax runs on one thread of a CPU.
    """
    num_rows = values.shape[0]
    width = max(1, int(num_rows**0.5))
    lowest = jnp.finfo(values.dtype).min
    values = jnp.where(allowed, jnp.maximum(values, lowest), -jnp.inf)
    values = jnp.pad(values, (0, -num_rows % width), constant_values=-jnp.inf).reshape(-1, width)
    peaks = values.max(1)  # of each block
    best = peaks.max()
    found = best != -jnp.inf

    if key is None:
        block = jnp.argmax(peaks)
        column = jnp.argmax(values[block])
    else:
        scale = jnp.max(jnp.abs(values), where=jnp.isfinite(values) & (values > lowest), initial=0.0)
        threshold = jnp.maximum(best - TIE_TOLERANCE * scale, lowest)
        tied = (values >= threshold) | jnp.isnan(values)
        counts = tied.sum(1, dtype=jnp.int32)
        before = jnp.cumsum(counts) - counts
        nth = jax.random.randint(key, (), 0, jnp.maximum(counts.sum(), 1), jnp.int32)
        block = jnp.argmax(before + counts > nth)  # the nth of the tied rows lies here
        column = jnp.argmax(jnp.cumsum(tied[block]) > nth - before[block])
    return jnp.where(found, block * width + column, 0).astype(jnp.int32), found
