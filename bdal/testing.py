"""Checks that users can run on what they bring; the package runs them on its own, and on what is brought to a query.

Each raises a `ValueError` that names the first property that does not hold, with the numbers.

Axis letters: B points, N pool points, R rows, K members, C classes, T targets, Q query size.
"""

import contextlib
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import axis_order, check_log_probs

TOLERANCE = 0.02  # total variation; rounding in half precision stays below, a dropout mask does not


# -- committees -------------------------------------------------------------------------------------------------------


def check_committee(committee, inputs) -> None:
    """Refuse a committee whose members are not functions: same input, same prediction, whatever else is in the batch.

    Joint information, penalties between points and chunking are only defined for members that are. Dropout masks drawn
    for each example and normalisation by the statistics of the batch break it. `committee.log_probs` is called on the
    batch, on the batch in reverse and on its first point alone, and distributions of one point and member must agree:
    `½ Σ_c |p_c − p'_c| <= 0.02`.

    Args:
      committee: has `log_probs(inputs [B, ...]) -> [B, K, C]`.
      inputs: a batch of inputs, a pytree; two or more points that differ, better eight.

    Raises:
      ValueError: log-probabilities of another shape, that are not normalised (also see
        `bdal.errors.check_log_probs`), or that depend on the place in the batch or on the rest of it.
      NonFiniteError: NaN or +inf.

    >>> from bdal.committee import deep_ensemble
    >>> check_committee(deep_ensemble(lambda w, key, x: x @ w, jax.numpy.ones((5, 3, 2))), jax.numpy.eye(3))
    """
    num_points = jax.tree.leaves(inputs)[0].shape[0]
    reverse, first = jax.tree.map(lambda leaf: leaf[::-1], inputs), jax.tree.map(lambda leaf: leaf[:1], inputs)
    batch = _probs(committee, inputs, num_points)
    _compare(batch, _probs(committee, reverse, num_points)[::-1], "in the reverse order")
    _compare(batch[:1], _probs(committee, first, 1), "with that point alone")


def _probs(committee, inputs, num_points: int) -> np.ndarray:
    log_probs = check_log_probs(committee.log_probs(inputs), "committee.log_probs", rank=3)  # [B, K, C]
    if log_probs.shape[0] != num_points:
        raise ValueError(
            f"committee.log_probs: expected [B, K, C] with B = {num_points}, got {log_probs.shape}"
            f"{axis_order(log_probs.shape, num_points, 'log_probs')}"
        )
    return np.exp(np.asarray(log_probs))


def _compare(probs: np.ndarray, others: np.ndarray, how: str) -> None:
    distance = 0.5 * np.abs(probs - others).sum(-1)  # [B, K]
    if distance.max() > TOLERANCE:
        point, member = np.unravel_index(distance.argmax(), distance.shape)
        raise ValueError(
            f"committee.log_probs: expected members that are functions of one input, but member {member} answers "
            f"point {point} otherwise when the batch comes {how} (total variation {distance.max():.2g}): draw dropout "
            "masks once for the whole pool and use running statistics, or build it with bdal.mc_dropout"
        )


# -- acquisition functions --------------------------------------------------------------------------------------------


def check_acquisition(
    function: Callable[..., jax.Array],
    *,
    targets: bool = False,
    bounds: tuple[float, float] = (-np.inf, np.inf),
    num_points: int = 12,
    num_members: int = 6,
    num_classes: int = 4,
) -> None:
    """Refuse an acquisition function that is not one number a point, or that breaks where committees are extreme.

    On random predictions, on saturated logits and on probabilities of exactly 0, it must be one finite number a point
    and inside the bounds; the same for the members in any order, for the points in any order or a few at a time; the
    same eager, under `jit` and under `vmap`; have finite gradients with respect to logits; show a NaN of a point, and
    of that point alone, inside a trace; and compile nothing when it is called again.

    Args:
      function: `log_probs [N, K, C] -> [N]`.
      targets: the function is `(log_probs [N, K, C], target_log_probs [T, K, C]) -> [N]`.
      bounds: the lowest and highest value that it may have for these K and C, to 1e-5.
      num_points, num_members, num_classes: N, K and C of the predictions that it is tried on.

    Raises:
      ValueError: the first property that does not hold, with the numbers.

    >>> from bdal.acquisition import bald
    >>> check_acquisition(bald, bounds=(0, np.log(4)))
    >>> check_acquisition(lambda log_probs: log_probs.mean((-2, -1)))
    Traceback (most recent call last):
    ...
    ValueError: finite at probabilities of 0: expected finite values, got [-inf, -inf, -inf, -inf, -inf]
    """
    shape = (num_points, num_members, num_classes)
    rng = np.random.default_rng(0)
    target = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(3, *shape[1:])), jnp.float32))
    sure = np.eye(num_classes, dtype=bool)[rng.integers(num_classes, size=shape[:2])]
    predictions = {
        "random predictions": jax.nn.log_softmax(jnp.asarray(3 * rng.normal(size=shape), jnp.float32)),
        "saturated logits": jax.nn.log_softmax(jnp.asarray(rng.choice([-1e4, 0, 1e4], shape), jnp.float32)),
        "probabilities of 0": jnp.where(jnp.asarray(sure), 0.0, -jnp.inf),
    }

    def score(log_probs, order: Any = slice(None)):
        return function(log_probs[:, order], target[:, order]) if targets else function(log_probs[:, order])

    def same(what, found, expected):
        _expect(np.allclose(found, expected, rtol=1e-4, atol=1e-5), what, _some(expected), _some(found))

    jitted = jax.jit(score)
    for name, log_probs in predictions.items():
        values = score(log_probs)
        _expect(
            values.shape == (num_points,) and jnp.issubdtype(values.dtype, jnp.floating),
            "one number a point", f"floats of shape ({num_points},)", f"{values.dtype} of shape {values.shape}",
        )  # fmt: skip
        _expect(bool(jnp.isfinite(values).all()), f"finite at {name}", "finite values", _some(values))
        inside = (values >= bounds[0] - 1e-5).all() and (values <= bounds[1] + 1e-5).all()
        _expect(bool(inside), f"bounds at {name}", f"values in {list(bounds)}", f"{values.min()} to {values.max()}")
        same(f"jit at {name}", jitted(log_probs), values)
        same("the order of the members", score(log_probs, np.arange(num_members)[::-1]), values)
        same("the order of the points", score(log_probs[::-1])[::-1], values)
        half = num_points // 2
        chunks = [score(log_probs[:half]), score(log_probs[num_points - half :])]
        same("a few points at a time", jnp.concatenate(chunks), np.r_[values[:half], values[num_points - half :]])

    stack = jnp.stack(list(predictions.values()))
    same("vmap", jax.vmap(score)(stack), np.stack([score(log_probs) for log_probs in stack]))

    logits = jnp.asarray(rng.choice([-1e4, 0, 1e4], shape), jnp.float32)
    gradient = jax.grad(lambda logits: score(jax.nn.log_softmax(logits)).sum())(logits)
    _expect(bool(jnp.isfinite(gradient).all()), "gradients at saturated logits", "finite values", _some(gradient))

    poisoned = jitted(predictions["random predictions"].at[1, 0, 0].set(jnp.nan))
    shown = np.flatnonzero(np.isnan(poisoned)).tolist()
    _expect(shown == [1], "a NaN inside a trace", "NaN for point 1 alone", f"NaN for points {shown}")

    with count_compilations() as compilations:
        score(predictions["random predictions"])
    _expect(not compilations, "called again", "no compilation", f"{len(compilations)}")


# -- selectors --------------------------------------------------------------------------------------------------------


def check_selector(select: Callable[..., tuple], *arrays, query_size: int = 4, random: bool = False) -> None:
    """Refuse a selector that picks what it may not, or that looks at rows which it may not.

    The rows of a query must be available and differ, with finite gains; rows that are not available must not matter,
    whatever they hold, NaN included; the same key must give the same query, eager, under `jit` and under `vmap`; where
    too few rows are available, a trace must pad with −1 and 0; without randomness the order of the rows must not
    matter; and a second call must compile nothing.

    Args:
      select: `(key, *arrays, available [R], query_size) -> (indices [Q], gains [Q])`; `key` is None where nothing is to
        be drawn (unless `random`).
      arrays: floating-point arrays `[R, ...]`, R >= 8, without ties.
      query_size: Q, at most R / 2.
      random: the selector draws, and needs a key.

    Raises:
      ValueError: the first property that does not hold, with the numbers.

    >>> from bdal import selection
    >>> def select(key, scores, *, available, query_size):
    ...     return selection.top_k(scores, available=available, query_size=query_size, key=key)
    >>> check_selector(select, jax.random.normal(jax.random.key(0), (20,)))
    """
    arrays = tuple(jnp.asarray(array) for array in arrays)
    num_rows = arrays[0].shape[0]
    available = jnp.arange(num_rows) % 2 == 0
    keys = [jax.random.key(seed) for seed in range(3)]

    def run(key, arrays, available):
        return tuple(select(key, *arrays, available=available, query_size=query_size))

    def same(what, found, expected, order: Any = slice(None)):
        known = [None if row < 0 else int(np.arange(num_rows)[order][row]) for row in np.asarray(found[0])]
        rows = [None if row < 0 else int(row) for row in np.asarray(expected[0])]
        _expect(known == rows, what, f"rows {rows}", f"rows {known}")
        gains = np.allclose(found[1], expected[1], rtol=1e-4, atol=1e-5)
        _expect(gains, f"{what} (gains)", _some(expected[1]), _some(found[1]))

    jitted = jax.jit(run)
    queries = [run(key, arrays, available) for key in keys]
    for indices, gains in queries:
        _expect(
            indices.shape == gains.shape == (query_size,) and jnp.issubdtype(indices.dtype, jnp.integer),
            "one row a pick", f"integers and gains of shape ({query_size},)", f"{indices.dtype} {indices.shape}",
        )  # fmt: skip
        rows = np.asarray(indices).tolist()
        _expect(all(0 <= row < num_rows and row % 2 == 0 for row in rows), "available rows", "even rows", f"{rows}")
        _expect(len(set(rows)) == query_size, "no repeats", f"{query_size} different rows", f"{rows}")
        _expect(bool(jnp.isfinite(gains).all()), "gains", "finite values", _some(gains))

    same("the same key", run(keys[0], arrays, available), queries[0])
    for value in (jnp.nan, 1e6):
        dirty = tuple(jnp.where(available.reshape(-1, *[1] * (a.ndim - 1)), a, value) for a in arrays)
        same(f"rows that are not available, set to {value}", jitted(keys[0], dirty, available), queries[0])
    same("jit", jitted(keys[0], arrays, available), queries[0])
    mapped = jax.vmap(lambda key: run(key, arrays, available))(jnp.stack(keys))
    for number, query in enumerate(queries):
        same("vmap", (mapped[0][number], mapped[1][number]), query)

    few = jnp.arange(num_rows) == 5
    indices, gains = jitted(keys[0], arrays, few)
    padded = np.asarray(indices).tolist() == [5] + [-1] * (query_size - 1) and not np.any(gains[1:])
    _expect(padded, "one available row, in a trace", "row 5, then -1 with gain 0", f"{indices}, {gains}")

    if not random:
        order = np.random.default_rng(0).permutation(num_rows)
        shuffled = run(None, tuple(array[order] for array in arrays), available[order])
        same("the order of the rows", shuffled, run(None, arrays, available), order)

    with count_compilations() as compilations:
        run(keys[1], arrays, available)
    _expect(not compilations, "called again", "no compilation", f"{len(compilations)}")


def _expect(holds: bool, what: str, expected: str, found: str) -> None:
    if not holds:
        raise ValueError(f"{what}: expected {expected}, got {found}")


def _some(values) -> str:
    values = np.ravel(np.asarray(values))
    odd = values[~np.isfinite(values)]
    return str([round(float(value), 6) for value in (odd if odd.size else values)[:5]])


# -- compilations -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def count_compilations() -> Iterator[list[float]]:
    """A list that holds, once the block has ended, the seconds of each compilation by XLA in it.

    >>> double = jax.jit(lambda x: 2 * x)
    >>> with count_compilations() as compilations:
    ...     _ = double(1.0), double(2.0)
    >>> len(compilations)
    1
    """
    durations = _durations()
    start, compilations = len(durations), []
    yield compilations
    compilations.extend(durations[start:])


@cache
def _durations() -> list[float]:
    """The seconds of all compilations from the first call on: a listener cannot be taken away again."""
    durations = []

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            durations.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return durations
