"""The exceptions of the package and the checks that every public function makes at its boundary.

Shapes, ranks and dtypes are always checked. Values are checked at eager calls only: under a trace (`jit`, `vmap`,
`grad`) there are none to look at, and NaN then propagates to the result. No check repairs a number.
"""

import operator

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

SUM_TOLERANCE = 1e-3  # how far a row of probabilities may be from summing to one


class NonFiniteError(ValueError):
    """A number that must be finite is NaN or infinite."""


class LabelError(ValueError):
    """A label is out of range, or of the wrong kind."""


class SelectorError(ValueError):
    """A selector picked what it may not: a row that is none, that is not available, or that it picked before."""


class CapacityError(ValueError):
    """More labels than were reserved for."""


class ConfigError(ValueError):
    """A configuration that cannot be run: an unknown field, a value of the wrong type, parts that do not fit."""


class DataNotFoundError(FileNotFoundError):
    """A data set's files are not where they were looked for."""


class AcceleratorError(RuntimeError):
    """An accelerator is attached, but JAX does not use it."""


def is_concrete(*arrays) -> bool:
    """Whether all leaves of `arrays` have values now, that is, none of them is a tracer.

    >>> is_concrete(jnp.zeros(3), None), jax.vmap(lambda x: jnp.float32(is_concrete(x)))(jnp.zeros(1)).tolist()
    (True, [0.0])
    """
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(arrays))


def sum_tolerance(dtype, num_classes: int) -> float:
    """How far a row of `num_classes` (log-)probabilities stored as `dtype` may be from summing to one.

    Rounding log p moves p by eps·|log p|, and the sum by at most eps·H(p) <= eps·log C: nothing in float32, more
    in bfloat16.
    """
    eps = float(jnp.finfo(dtype).eps) if jnp.issubdtype(dtype, jnp.floating) else 0.0
    return SUM_TOLERANCE + eps * float(np.log(max(num_classes, 1)))


ROUNDED = 0.25  # how far from 1 rounding may bring the sum of a row: 3 decimals of 500 classes, 1 decimal of a few


def check_floating(values, name: str) -> jax.Array:
    """`values` as a float32 array; an integer, boolean or complex array is refused with a TypeError."""
    dtype = getattr(values, "dtype", None)
    dtype = jnp.asarray(values).dtype if dtype is None else dtype
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name} must be a floating-point array, got dtype {dtype}")
    return jnp.asarray(values, dtype=jnp.float32)


def check_log_probs(log_probs, name: str = "log_probs", rank: int | None = None) -> jax.Array:
    """Log-probabilities `[..., K, C]` as float32, once they are known to be log-probabilities.

    Shapes: rank 2 or more, or exactly `rank`; at least one member and one class. −inf is a probability of zero and
    valid.

    Raises:
      TypeError: an integer dtype.
      ValueError: wrong rank; at eager calls also rows that do not sum to one after `exp`, within 1e-3 (for half
        precision within what rounding to it can do: 1e-3 + eps·log C).
      NonFiniteError: at eager calls, NaN or +inf; the message names members and the first points.

    >>> check_log_probs(jnp.log(jnp.full((2, 4), 0.25))).shape
    (2, 4)
    >>> check_log_probs(jnp.full((2, 4), 0.25))
    Traceback (most recent call last):
    ...
    ValueError: log_probs must be log-probabilities: exp of a row must sum to 1, but 2 of 2 rows do not (the \
first sums to 5.136); these look like probabilities: pass jnp.log(...)
    """
    dtype = getattr(log_probs, "dtype", jnp.float32)
    log_probs = check_floating(log_probs, name)
    shape = log_probs.shape
    if rank is not None and log_probs.ndim != rank:
        axes = {2: "[K, C]", 3: "[N, K, C]"}.get(rank, f"rank {rank}, ending in [K, C]")
        raise ValueError(f"{name} must have shape {axes} (members, classes last), got {shape}")
    if log_probs.ndim < 2:
        raise ValueError(f"{name} must have shape [..., K, C] (members, classes last), got {shape}")
    if shape[-1] == 0 or shape[-2] == 0:
        raise ValueError(f"{name} must have at least one member and one class, [..., K, C], got {shape}")
    if is_concrete(log_probs):
        tolerance = sum_tolerance(dtype, shape[-1])
        with jax.ensure_compile_time_eval():  # a constant inside a trace has values too
            if not bool(_rows_sum_to_one(log_probs, tolerance)):
                _explain_log_probs(np.asarray(log_probs), name, tolerance)
    return log_probs


@jax.jit
def _rows_sum_to_one(log_probs: jax.Array, tolerance: float) -> jax.Array:
    return jnp.all(jnp.abs(jax.scipy.special.logsumexp(log_probs, axis=-1)) <= tolerance)  # False for NaN


def _explain_log_probs(log_probs: np.ndarray, name: str, tolerance: float) -> None:
    bad = (np.isnan(log_probs) | np.isposinf(log_probs)).any(-1)  # [..., K]
    if bad.any():
        points = bad.any(-1).reshape(-1)
        members = np.flatnonzero(bad.reshape(-1, log_probs.shape[-2]).any(0))
        raise NonFiniteError(
            f"{name} has NaN or +inf in {points.sum()} of {points.size} points ({_first(points)}), "
            f"in {'member' if members.size == 1 else 'members'} {_listed(members)} of {log_probs.shape[-2]}; "
            "look at the inputs of these points and at the training of these members"
        )
    with np.errstate(over="ignore", divide="ignore"):
        sums = np.exp(log_probs.astype(np.float64)).sum(-1).reshape(-1)
        wrong = ~(np.abs(np.log(sums)) <= tolerance)
    if wrong.any():
        rows = log_probs.reshape(-1, log_probs.shape[-1])[wrong]
        if (rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= 10 * tolerance).all():
            hint = "these look like probabilities: pass jnp.log(...)"
        elif (rows >= 0).all() and (np.abs(rows.sum(-1) - 1) <= ROUNDED).all():
            hint = "these look like rounded probabilities: pass jnp.log(probs / probs.sum(-1, keepdims=True))"
        else:
            hint = "these look like logits: pass jax.nn.log_softmax(...)"
        raise ValueError(
            f"{name} must be log-probabilities: exp of a row must sum to 1, but {wrong.sum()} of {wrong.size} rows "
            f"do not (the first sums to {sums[wrong][0]:.4g}); {hint}"
        )


def check_finite(values, name: str, available=None) -> None:
    """Refuse NaN and infinities in `values` `[R, ...]`, of the `available [R]` rows where those are given.

    Does nothing under a trace. Raises NonFiniteError with the number of bad rows and the first five.

    >>> check_finite(jnp.array([0.0, jnp.nan, jnp.nan]), "scores", available=jnp.array([True, True, False]))
    Traceback (most recent call last):
    ...
    bdal.errors.NonFiniteError: scores: 1 of 2 available rows is NaN or infinite (row 1)
    """
    if not is_concrete(values, available):
        return
    with jax.ensure_compile_time_eval():
        rows = _finite_rows(jnp.asarray(values))
        if available is not None:
            rows = rows | ~jnp.asarray(available)
        if bool(jnp.all(rows)):
            return
        bad = ~np.atleast_1d(np.asarray(rows))
    total = bad.size if available is None else int(np.sum(available))
    raise NonFiniteError(
        f"{name}: {bad.sum()} of {total} {'rows' if available is None else 'available rows'} "
        f"{'is' if bad.sum() == 1 else 'are'} NaN or infinite ({_first(bad, 'row')})"
    )


@jax.jit
def _finite_rows(values: jax.Array) -> jax.Array:
    return jnp.all(jnp.isfinite(values), axis=tuple(range(1, values.ndim)))


def check_query(available, query_size: int, pad: bool) -> None:
    """Refuse a query that cannot be answered.

    `available` must be a boolean mask `[R]` and `query_size` a positive integer known before tracing. Where the
    mask has values, fewer available rows than `query_size` are refused unless `pad`.

    >>> check_query(jnp.array([True, False, True]), 3, pad=False)
    Traceback (most recent call last):
    ...
    ValueError: query_size is 3, but only 2 of 3 rows are available; ask for fewer, or pass pad=True to have \
the rest of the indices filled with -1
    """
    if isinstance(query_size, bool | np.bool_) or not hasattr(query_size, "__index__") or not is_concrete(query_size):
        raise TypeError(f"query_size must be a Python int, known before tracing, got {query_size!r}")
    if operator.index(query_size) < 1:
        raise ValueError(f"query_size must be at least 1, got {query_size}")
    dtype, shape = getattr(available, "dtype", None), np.shape(available)
    if dtype is None:
        dtype = np.asarray(available).dtype
    if dtype != np.bool_ or len(shape) != 1:
        raise ValueError(f"available must be a boolean mask of shape [R], got dtype {dtype} and shape {shape}")
    if not pad and is_concrete(available):
        count = int(np.sum(np.asarray(available)))
        if count < query_size:
            raise ValueError(
                f"query_size is {query_size}, but only {count} of {shape[0]} rows are available; ask for fewer, "
                "or pass pad=True to have the rest of the indices filled with -1"
            )


def _listed(indices: np.ndarray) -> str:
    return ", ".join(str(i) for i in indices[:5]) + (", ..." if indices.size > 5 else "")


def _first(bad: np.ndarray, noun: str = "point") -> str:
    """The first five positions where `bad [N]` holds, in words: `points 3, 7`."""
    indices = np.flatnonzero(bad)
    return f"{noun if indices.size == 1 else noun + 's'} {_listed(indices)}"
