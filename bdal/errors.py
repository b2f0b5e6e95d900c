"""The exceptions of the package and the checks that every public function makes at its boundary.

Shapes, ranks and dtypes are always checked. Values are checked at eager calls only: under a trace (`jit`, `vmap`,
`grad`) there are none to look at, and NaN then propagates to the result. No check repairs a number.
"""

import operator
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

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


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def check_array(values, name: str) -> None:
    """Refuse what is no array of numbers: text, objects, None, arrays of other libraries (PyTorch).

    Lists and plain numbers may pass, and so may what has a NumPy dtype and turns into an array of NumPy.

    Raises:
      TypeError: says how to make an array of it.

    >>> check_array(["a", "b"], "scores")
    Traceback (most recent call last):
    ...
    TypeError: scores must be numbers, got dtype <U1; turn text or objects into numbers first
    """
    leaves = jax.tree.leaves(values) if isinstance(values, list | tuple) else [values]
    if any(isinstance(leaf, jax.Array) or hasattr(leaf, "__jax_array__") for leaf in leaves):
        return
    for leaf in leaves:
        is_array = isinstance(getattr(leaf, "dtype", None), np.dtype) and hasattr(leaf, "__array__")
        if not is_array and not isinstance(leaf, str | bytes | bool | int | float | complex):
            way = {"None": "it is needed here", "a torch.Tensor": "pass its .detach().cpu().numpy()"}
            found = described_type(leaf)
            raise TypeError(
                f"{name} must be a JAX or NumPy array, got {'' if leaf is values else 'a list with '}{found}; "
                f"{way.get(found, 'pass np.asarray(...) of it')}"
            )
    try:
        dtype = getattr(values, "dtype", None) or np.asarray(values).dtype
    except ValueError:
        raise TypeError(f"{name} must be an array, got a list whose rows differ in length") from None
    if not jnp.issubdtype(dtype, jnp.number) and dtype != np.bool_:
        raise TypeError(f"{name} must be numbers, got dtype {dtype}; turn text or objects into numbers first")


def check_inputs(inputs, name: str, *, points: bool = True) -> None:
    """Raise an error unless `inputs` is a pytree of numeric arrays `[N, ...]`; of any shape without `points`.

    Raises:
      TypeError: lists of numbers, strings, array-like objects (h5py), arrays of other libraries.
      ValueError: arrays that differ in N, or have no such axis.

    >>> check_inputs(jnp.zeros((3, 2)), "inputs")
    """
    leaves = jax.tree.leaves(inputs)
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            continue
        if not isinstance(leaf, np.ndarray | np.generic):
            kind = "a Python list" if isinstance(inputs, list) else described_type(leaf)
            raise TypeError(
                f"{name}: expected JAX or NumPy arrays [N, ...], got {kind}; pass np.asarray(...) of it, or an "
                "np.memmap of what does not fit in memory"
            )
        if not np.issubdtype(leaf.dtype, np.number) and leaf.dtype != np.bool_ and leaf.dtype.kind != "V":
            raise TypeError(
                f"{name}: expected numbers, got dtype {leaf.dtype}; turn text or objects into numbers first, such as "
                "token numbers or embeddings"
            )
    shapes = [np.shape(leaf) for leaf in leaves]
    if points and (len({shape[:1] for shape in shapes}) != 1 or () in shapes):
        found = "None" if inputs is None else f"shapes {shapes[:5]}"
        raise ValueError(f"{name}: expected arrays with one leading axis N, got {found}")


def as_array(values, name: str) -> jax.Array:
    """`values` as a JAX array, once `check_array` lets them pass; NumPy arrays of any byte order and width."""
    check_array(values, name)
    if isinstance(values, jax.Array):
        return values
    dtype = getattr(values, "dtype", None)
    if isinstance(dtype, np.dtype) and not dtype.isnative:
        values = np.asarray(values).astype(dtype.newbyteorder("="))
    return jnp.asarray(values)


def described_type(value) -> str:
    """The type of a value, in words: `None`, `a list`, `a torch.Tensor`."""
    if value is None:
        return "None"
    module, name = type(value).__module__, type(value).__qualname__
    return f"a {name}" if module in ("builtins", "__main__") or module.startswith("bdal.") else f"a {module}.{name}"


def check_floating(values, name: str) -> jax.Array:
    """`values` as a float32 array; an integer, boolean or complex array is refused with a TypeError."""
    check_array(values, name)
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
            _warn_of_axes(log_probs, name, rank)
    return log_probs


MANY = 1000  # rows that are more likely points than members


def _warn_of_axes(log_probs: jax.Array, name: str, rank: int | None) -> None:
    """Warn where the axis of the members looks like that of the points: it is long, and predictions differ along it."""
    *points, num_members, _ = log_probs.shape
    if num_members < MANY or num_members < 10 * max(points, default=1):
        return
    if not points and rank is None:
        warnings.warn(
            f"{name} {log_probs.shape} are read as [K, C], one point and {num_members} members; if they are one "
            f"prediction a point, [N, C], pass {name}[:, None] (axis order: points, members, classes)",
            stacklevel=4,
        )
    elif len(points) == 1 and points[0] > 1 and bool(_differ_more_along_members(log_probs)):
        warnings.warn(
            f"{name} {log_probs.shape} are read as [N, K, C], {points[0]} points and {num_members} members; if they "
            f"are [K, N, C], pass jnp.swapaxes({name}, 0, 1) (axis order: points, members, classes)",
            stacklevel=4,
        )


@jax.jit
def _differ_more_along_members(log_probs: jax.Array) -> jax.Array:
    """Whether members of a point differ more than points of a member do, `[N, K, C]`."""
    probs = jnp.exp(log_probs)
    return probs.var(1, ddof=1).sum(-1).mean() > 2 * probs.var(0, ddof=1).sum(-1).mean()


def axis_order(shape: tuple[int, ...], num_points: int, name: str) -> str:
    """What to add to the message of a shape that does not fit, where it is `[K, N, C]` for N points."""
    if len(shape) == 3 and shape[0] != num_points and shape[1] == num_points:
        return f"; axis order: pass [N, K, C], jnp.swapaxes({name}, 0, 1)"
    return ""


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
        elif (axis := _axis_of_classes(log_probs, tolerance)) is not None:
            hint = f"they do along axis {axis} (axis order: classes last): pass jnp.moveaxis({name}, {axis}, -1)"
        else:
            hint = "these look like logits: pass jax.nn.log_softmax(...)"
        raise ValueError(
            f"{name} must be log-probabilities: exp of a row must sum to 1, but {wrong.sum()} of {wrong.size} rows "
            f"do not (the first sums to {sums[wrong][0]:.4g}); {hint}"
        )


def _axis_of_classes(log_probs: np.ndarray, tolerance: float) -> int | None:
    """The axis, not the last, along which these are log-probabilities."""
    with np.errstate(over="ignore", divide="ignore"):
        for axis in range(log_probs.ndim - 1):
            sums = np.exp(log_probs.astype(np.float64)).sum(axis)
            if log_probs.shape[axis] > 1 and (np.abs(np.log(sums)) <= tolerance).all():
                return axis
    return None


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


def check_count(value, name: str) -> int:
    """A number of at least 1 that is known before tracing, as a Python int."""
    if isinstance(value, bool | np.bool_ | np.ndarray | jax.Array) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a Python int, known before tracing, got {shown(value)}")
    if operator.index(value) < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return operator.index(value)


def check_number(value, name: str) -> None:
    """Refuse what is no one real number; an array of no axes is one."""
    real = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not isinstance(value, bool)
    if not real or np.shape(value) != () or jnp.issubdtype(jnp.result_type(value), jnp.complexfloating):
        raise TypeError(f"{name} must be a number, got {shown(value)}")


def shown(value) -> str:
    """A value in a message: plain ones as they are, others by what they are."""
    if isinstance(value, Tracer):
        return "a traced value"
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array of {value.dtype} and shape {value.shape}"
    plain = value is None or (isinstance(value, int | float | str | list | tuple) and not hasattr(value, "_fields"))
    return repr(value) if plain else described_type(value)


def check_key(key, name: str = "key") -> None:
    """Refuse what is no one key of `jax.random`, with a TypeError; `jax.random.PRNGKey(0)` is one as well.

    >>> check_key(50)
    Traceback (most recent call last):
    ...
    TypeError: key: expected a key such as jax.random.key(0), got 50; pass jax.random.key(50)
    """
    if isinstance(key, jax.Array | np.ndarray):
        typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        axes = key.ndim if typed else key.ndim - 1  # of raw keys the last are words
        if (typed or (key.dtype == np.uint32 and key.shape[-1:] in ((2,), (4,)))) and axes == 0:
            return
        if typed or (key.dtype == np.uint32 and axes > 0):
            raise TypeError(f"{name}: expected one key, got keys of shape {key.shape}; pass one of them, keys[0]")
    number = isinstance(key, int | np.integer) and not isinstance(key, bool)
    way = f"pass jax.random.key({key})" if number else "is the key forgotten?"
    raise TypeError(f"{name}: expected a key such as jax.random.key(0), got {shown(key)}; {way}")


def key_first(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """`function`, whose first argument is a key, with that one checked before Python counts the others."""

    @wraps(function)
    def checked(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        options: dict[str, Any] = dict(kwargs)
        if args or "key" in options:
            check_key(args[0] if args else options["key"])
        return function(*args, **kwargs)

    return checked


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
    check_count(query_size, "query_size")
    check_array(available, "available")
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
