"""The pool and what is labelled of it: `LabelledSet`, and `map_pool`, the only place that chunks, streams and shards.

Axis letters: N pool points, B points of a chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bdal.errors import CapacityError, LabelError, check_count, check_inputs

ABSTAIN = -(2**30)  # an oracle will not label the point; -1, and what a NaN becomes as int32, stay errors


class LabelledSet(NamedTuple):
    """All that survives a round: which pool points are labelled, and how. Preallocated, so that shapes never change.

    Attributes:
      indices: `[capacity]` pool indices in the order of labelling; −1 where there is none yet.
      labels: `[capacity]` labels; 0 where there is none yet.
      count: how many entries are real.
    """

    indices: np.ndarray
    labels: np.ndarray
    count: np.integer | np.ndarray

    @classmethod
    def empty(cls, capacity: int) -> "LabelledSet":
        """No labels, room for `capacity`."""
        if not hasattr(capacity, "__index__"):
            raise TypeError(f"capacity: expected a Python int, got {capacity!r}")
        if capacity < 0:
            raise ValueError(f"capacity: expected at least 0, got {capacity}")
        return cls(np.full(capacity, -1, np.int32), np.zeros(capacity, np.int32), np.int32(0))

    @property
    def capacity(self) -> int:
        """The most labels it can hold."""
        return self.indices.shape[-1]


def extend(labelled: LabelledSet, indices, labels, *, num_points: int, num_classes: int | None = None) -> LabelledSet:
    """The labelled set with more labels, in a new array.

    Args:
      labelled: what is labelled so far.
      indices: `[Q]` pool indices, none labelled before.
      labels: `[Q]` integer labels.
      num_points: N, to check the indices against.
      num_classes: C, to check the labels against, if known.

    Raises:
      CapacityError: more labels than there is room for; nothing is overwritten.
      LabelError: a label that is no class, or a wrong number of them.
      ValueError: an index out of range, repeated, or labelled before.

    >>> extend(LabelledSet.empty(3), [7, 2], [0, 1], num_points=10).indices
    array([ 7,  2, -1], dtype=int32)
    """
    indices = np.asarray(indices)
    if indices.ndim != 1 or (indices.size and not np.issubdtype(indices.dtype, np.integer)):
        raise ValueError(f"indices: expected integers [Q], got {indices.dtype} of shape {indices.shape}")
    labels = check_labels(labels, indices, num_classes)
    count = int(labelled.count)
    if count + len(indices) > labelled.capacity:
        raise CapacityError(
            f"labelled: expected at most {labelled.capacity} labels (its capacity), got {count} + {len(indices)} new; "
            "make it with LabelledSet.empty(budget)"
        )
    wrong = indices[(indices < 0) | (indices >= num_points)]
    if wrong.size:
        raise ValueError(f"indices: expected pool indices in [0, {num_points}), got {wrong[0]}")
    known = set(np.asarray(labelled.indices)[:count].tolist())
    for index in indices.tolist():
        if index in known:
            raise ValueError(f"indices: expected points that are not labelled yet, got {index} again")
        known.add(index)
    new = slice(count, count + len(indices))
    out = LabelledSet(np.array(labelled.indices), np.array(labelled.labels), np.int32(count + len(indices)))
    out.indices[new], out.labels[new] = indices, labels
    return out


def check_labels(labels, indices, num_classes: int | None = None) -> np.ndarray:
    """Labels as `[Q]` int32, or a LabelError that names the first point whose label is no class."""
    own = list(labels) if isinstance(labels, list | tuple) else None  # of which NumPy makes one type
    try:
        labels = np.asarray(labels)
    except ValueError:  # lists in the list
        labels = np.asarray(labels, object)
    if labels.shape != (len(indices),):
        points = f" {', '.join(map(str, indices[:5]))}{', ...' if len(indices) > 5 else ''}" if len(indices) else ""
        raise LabelError(
            f"labels: expected one for each of the {len(indices)} queried points{points}, got shape {labels.shape}"
        )
    if labels.size == 0:
        return labels.astype(np.int32)
    if not np.issubdtype(labels.dtype, np.integer) or any(isinstance(label, bool) for label in own or ()):
        found = labels.tolist() if own is None else own
        where = next((i for i, label in enumerate(found) if not _is_whole(label)), 0)
        raise LabelError(
            f"labels: expected integer classes, got {found[where]!r} for pool point {indices[where]} "
            f"(dtype {labels.dtype})"
        )
    bad = (labels < 0) | (labels >= (num_classes if num_classes is not None else np.iinfo(np.int32).max))
    if bad.any():
        where = int(np.argmax(bad))
        upper = "" if num_classes is None else f", {num_classes}"
        raise LabelError(
            f"labels: expected a class in [0{upper or ', ...'}), got {labels[where]} for pool point {indices[where]}"
        )
    return labels.astype(np.int32)


def _is_whole(label) -> bool:
    return isinstance(label, int | np.integer) and not isinstance(label, bool)


def check_answers(labels, indices, num_classes: int | None = None) -> np.ndarray:
    """An oracle's answers as `[Q]` int32, each a class or ABSTAIN; a LabelError names the first that is neither."""
    given = labels
    if isinstance(labels, list | tuple):
        given = [0 if _is_whole(label) and label == ABSTAIN else label for label in labels]
    elif np.issubdtype(np.asarray(labels).dtype, np.integer):
        given = np.where(np.asarray(labels) == ABSTAIN, 0, labels)
    check_labels(given, indices, num_classes)
    return np.asarray(labels).astype(np.int32)


def device_dtype(array) -> np.dtype:
    """The dtype of an array on the device: native byte order; 64 bits only with x64 enabled."""
    if isinstance(array, jax.Array):
        return array.dtype
    return jax.dtypes.canonicalize_dtype(array.dtype.newbyteorder("="))


def native(inputs):
    """Inputs with NumPy arrays in `device_dtype`, on the host still; of the right type, they are not copied."""

    def convert(leaf):
        return leaf if isinstance(leaf, jax.Array) else leaf.astype(device_dtype(leaf), copy=False)

    return jax.tree.map(convert, inputs)


def to_device(array) -> jax.Array:
    """A NumPy array on the device, in `device_dtype`; a JAX array as it is."""
    return array if isinstance(array, jax.Array) else jnp.asarray(array.astype(device_dtype(array), copy=False))


def is_bytes(inputs) -> bool:
    """Whether they are images of unsigned bytes, `[N, H, W]` or `[N, H, W, C]`: by dtype and rank, never by range."""
    return inputs.dtype == np.uint8 and inputs.ndim in (3, 4)


def unit(inputs):
    """Images of unsigned bytes, `[N, H, W]` or `[N, H, W, C]`, as float32 in [0, 1]; all other inputs as they are.

    >>> unit(jnp.full((1, 2, 2), 255, jnp.uint8)).tolist(), unit(jnp.full((1, 2), 255, jnp.uint8)).tolist()
    ([[[1.0, 1.0], [1.0, 1.0]]], [[255, 255]])
    """
    return inputs.astype(np.float32) / np.float32(255) if is_bytes(inputs) else inputs


def map_pool(fn: Callable, state, inputs, *, chunk_size: int = 1024, mesh: Mesh | None = None) -> Any:
    """`fn(state, chunk)` over the whole pool, a chunk at a time: a pytree of `[N, ...]` arrays.

    `concatenate([fn(state, inputs[0:B]), fn(state, inputs[B:2B]), ...])`. `fn` maps every point by itself, so the
    result does not depend on `chunk_size` beyond rounding. Every chunk has the same shape (the last one overlaps the
    one before), and `fn` is compiled once for all calls with the same function object.

    Args:
      fn: `(state, inputs [B, ...]) -> PyTree of [B, ...]`; a stable function, not a new lambda at each call.
      state: a pytree of arrays, for example a `Committee`; or with any object in it: then `fn` is not compiled but
        called as it is for every chunk.
      inputs: a pytree of `[N, ...]` arrays. NumPy arrays stay on the host and are sent a chunk at a time, so that the
        pool may be larger than the device's memory; JAX arrays are mapped where they are, in one program.
      chunk_size: B.
      mesh: shard every chunk over all axes of this mesh; `chunk_size` is rounded up to a multiple of its devices.

    Raises:
      ValueError: leaves of `inputs` that differ in N or have no such axis, or a `chunk_size` below 1.

    >>> map_pool(lambda scale, x: scale * x.sum(-1), 2.0, jnp.ones((5, 3)), chunk_size=2)
    Array([6., 6., 6., 6., 6.], dtype=float32)
    """
    check_inputs(inputs, "inputs")
    check_count(chunk_size, "chunk_size")
    num_points = jax.tree.leaves(inputs)[0].shape[0]
    traceable = all(isinstance(leaf, _TRACEABLE) for leaf in jax.tree.leaves(state))
    if num_points == 0:
        row = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), device_dtype(leaf)), inputs)
        shapes = jax.eval_shape(fn, state, row) if traceable else fn(state, row)
        return jax.tree.map(lambda s: jnp.zeros((0, *s.shape[1:]), s.dtype), shapes)
    if not traceable:
        return _map_host(fn, state, inputs, num_points, min(chunk_size, num_points))
    if mesh is not None:
        return _map_sharded(fn, state, inputs, num_points, chunk_size, mesh)
    if any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(inputs)):
        return _map_host(jax.jit(fn), state, inputs, num_points, min(chunk_size, num_points))
    return _map_device(fn, min(chunk_size, num_points), state, inputs)


_TRACEABLE = jax.Array | np.ndarray | np.generic | int | float | complex


def _starts(num_points, chunk_size):
    """The first row of every chunk; the last chunk is moved back to end at N, and `_join` drops what it repeats."""
    return [min(start, num_points - chunk_size) for start in range(0, num_points, chunk_size)]


def _join(chunks, num_points, chunk_size):
    """Stacked chunks `[n, B, ...]` to `[N, ...]`."""

    def join(leaf):
        whole = (leaf.shape[0] - 1) * chunk_size  # rows in the chunks before the last
        return jnp.concatenate([leaf[:-1].reshape(whole, *leaf.shape[2:]), leaf[-1, chunk_size + whole - num_points :]])

    return jax.tree.map(join, chunks)


def _map_device_program(fn, chunk_size, state, inputs):
    num_points = jax.tree.leaves(inputs)[0].shape[0]
    starts = jnp.asarray(_starts(num_points, chunk_size))

    def chunk(start):
        return fn(state, jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, chunk_size), inputs))

    if len(starts) == 1:
        return fn(state, inputs)
    return _join(jax.lax.map(chunk, starts), num_points, chunk_size)


_map_device = jax.jit(_map_device_program, static_argnums=(0, 1))


def _map_host(fn, state, inputs, num_points, chunk_size):
    def rows(leaf, start):
        if isinstance(leaf, np.ndarray):
            return to_device(leaf[start : start + chunk_size])
        return jax.lax.dynamic_slice_in_dim(leaf, start, chunk_size)

    chunks = [fn(state, jax.tree.map(partial(rows, start=start), inputs)) for start in _starts(num_points, chunk_size)]
    last = num_points - (len(chunks) - 1) * chunk_size
    chunks[-1] = jax.tree.map(lambda leaf: leaf[chunk_size - last :], chunks[-1])
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *chunks)


def _map_sharded(fn, state, inputs, num_points, chunk_size, mesh):
    mesh = Mesh(mesh.devices, mesh.axis_names)  # Auto axes: `fn` need not say how its results are sharded
    chunk_size = -(-min(chunk_size, num_points) // mesh.size) * mesh.size
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    chunks = []
    for start in range(0, num_points, chunk_size):
        take = np.minimum(np.arange(start, start + chunk_size), num_points - 1)  # the last row fills the last chunk
        chunk = jax.tree.map(lambda leaf, take=take: jax.device_put(to_device(leaf[take]), rows), inputs)
        chunks.append(jax.jit(fn)(state, chunk))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:num_points], *chunks)
