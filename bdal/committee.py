"""A committee: K deterministic functions that vote on the same input. `bdal.adapters` make them from networks of flax.

A member is `apply(params, key, x) -> logits [C] or (logits [C], features [D])` with its parameters and its key filled
in. `apply` is written for *one* input, and `vmap` over the pool leaves the member's key unbatched: whatever `apply`
draws from it (a dropout mask, weights of a variational posterior) is drawn once for the whole pool, for any model. So
joint quantities are defined, and no score depends on chunking, order or sharding.

Axis letters: K members, N points, B points of a chunk, C classes, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from bdal.errors import SUM_TOLERANCE, check_array, is_concrete, shown
from bdal.pool import map_pool

Apply = Callable[..., Any]  # (params, key or None, x) -> logits [C] or (logits [C], features [D])


@partial(register_dataclass, data_fields=["params", "keys"], meta_fields=["apply", "stacked"])
@dataclass(frozen=True)
class Committee:
    """K members: a pytree that passes through `jit`, `vmap` and `lax.map`; its methods take inputs `[N, ...]`.

    Build one with `mc_dropout`, `deep_ensemble`, or a `Fit` of `bdal.posteriors`.

    Attributes:
      apply: `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input `x` (which may be a pytree).
      params: the parameters; with a leading axis K where `stacked`.
      keys: `[K]` one key a member, or None where members draw nothing.
      stacked: whether each member has parameters of its own.
    """

    apply: Apply
    params: Any
    keys: jax.Array | None
    stacked: bool

    @property
    def num_members(self) -> int:
        """K."""
        return self.keys.shape[0] if self.keys is not None else jax.tree.leaves(self.params)[0].shape[0]

    def take(self, num_members: int) -> "Committee":
        """The committee of the first `num_members` members (all of them if there are fewer)."""
        if num_members < 1:
            raise ValueError(f"num_members: expected at least 1, got {num_members}")
        first = partial(jax.tree.map, lambda leaf: leaf[:num_members])
        params = first(self.params) if self.stacked else self.params
        return replace(self, params=params, keys=None if self.keys is None else self.keys[:num_members])

    @jax.jit
    def predict(self, inputs) -> tuple[jax.Array, jax.Array | None]:
        """Log-probabilities `[B, K, C]` in nats and features `[B, K, D]` (None if `apply` gives none), in one pass."""

        def member(params, key, x):
            logits, features = logits_and_features(self.apply(params, key, x))
            return jax.nn.log_softmax(logits.astype(jnp.float32)), features

        return self._members(member, inputs)

    def log_probs(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """Log-probabilities of every member, `[N, K, C]`, in nats; of a pool or any other `[N, ...]`, in chunks.

        As `bdal.map_pool`, which also shards: NumPy inputs stay on the host and are sent a chunk at a time.
        """
        return _in_chunks(_log_probs, self, inputs, chunk_size)

    def features(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """Features of every member, `[N, K, D]`, in chunks. ValueError if `apply` returns logits only."""
        return _in_chunks(_features, self, inputs, chunk_size)

    def embedding(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """One vector a point, for diversity: `[N, D]`, in chunks.

        Members that share their parameters: the features of the network without noise (`key=None`), `[N, D]`.
        Members with parameters of their own live in spaces that cannot be averaged: their features side by side over
        √K, `[N, K·D]`, so that an inner product is the mean of the members' inner products.
        """
        return _in_chunks(_embedding, self, inputs, chunk_size)

    @jax.jit
    def symptoms(self, inputs) -> tuple[jax.Array, jax.Array]:
        """Two faults of `apply` that no score shows, as booleans, for a few inputs `[B, ...]`.

        Whether members that differ in their key agree exactly (dropout is off, or `apply` ignores its key), and whether
        what should be logits are probabilities: no row has a negative number, and each sums to one.
        """

        def member(params, key, x):
            return logits_and_features(self.apply(params, key, x))[0].astype(jnp.float32)

        logits = self._members(member, inputs)  # [B, K, C]
        none = jnp.bool_(False)
        agree = (logits == logits[:, :1]).all() if self.keys is not None and logits.shape[1] > 1 else none
        to_one = jnp.abs(logits.sum(-1) - 1) <= SUM_TOLERANCE
        return agree, (logits >= 0).all() & to_one.all() if logits.shape[-1] > 1 else none

    @partial(jax.jit, static_argnames="batch_size")
    def gradient_norms(self, inputs, *, batch_size: int = 8) -> jax.Array:
        """Length of the gradient that each label would cause in the whole network, per member: `[B, K, C]`.

        `‖∇_θ −log p_k(c | x)‖`: one forward pass, then the C cotangents `p − e_c` through the same backward pass, for
        `batch_size` points at once. Only the weights are differentiated (see `split_weights`), so running statistics
        are not counted. Settles, Craven & Ray, NeurIPS 2008.
        """

        def member(params, key, x):
            weights, rebuild = split_weights(params)

            def logits_of(weights):
                return logits_and_features(self.apply(rebuild(weights), key, x))[0].astype(jnp.float32)

            logits, pullback = jax.vjp(logits_of, weights)
            # ∂(−log p_c)/∂logits = p − e_c, with p_c − 1 as −Σ_{j≠c} p_j: exact where p_c rounds to 1.
            others = jax.nn.softmax(logits)[None] * (1 - jnp.eye(logits.shape[0], dtype=logits.dtype))  # [C, C]
            cotangents = others - jnp.diag(others.sum(-1))
            (gradients,) = jax.vmap(pullback)(cotangents)  # [C, ...] each leaf
            squares = [jnp.square(leaf.astype(jnp.float32)).reshape(leaf.shape[0], -1).sum(-1) for leaf in gradients]
            return jnp.sqrt(sum(squares))  # [C]

        def point(x):
            return self._members(member, jax.tree.map(lambda leaf: leaf[None], x))[0]  # [K, C]

        return jax.lax.map(point, inputs, batch_size=batch_size)

    def _members(self, member, inputs):
        """`member(params, key, x)` for every point and member, stacked to `[B, K, ...]`."""

        def over_points(params, key):
            return jax.vmap(lambda x: member(params, key, x))(inputs)  # [B, ...]

        keys = None if self.keys is None else jax.random.clone(self.keys)  # a member draws the same at every call
        if self._one_at_a_time(inputs):
            own = (self.params if self.stacked else None, keys)
            out = jax.lax.map(lambda own: over_points(own[0] if self.stacked else self.params, own[1]), own)
            return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), out)
        axes = (0 if self.stacked else None, None if keys is None else 0)
        return jax.vmap(over_points, in_axes=axes, out_axes=1)(self.params, keys)

    def _one_at_a_time(self, inputs) -> bool:
        # XLA's convolutions leave their fast path on the CPU when a member axis is added to them: 8 s became 44 s.
        if jax.default_backend() != "cpu":
            return False
        shape = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], leaf.dtype))
        params = shape(self.params) if self.stacked else jax.tree.map(_spec, self.params)
        return has_convolution(self.apply, params, None if self.keys is None else shape(self.keys), shape(inputs))


def _in_chunks(method: Callable, committee: Committee, inputs, chunk_size: int):
    """`method(committee, inputs)`: by chunks outside a trace; within one, its caller has chunked."""
    if is_concrete(committee, inputs):
        return map_pool(method, committee, inputs, chunk_size=chunk_size)
    return method(committee, inputs)


def _log_probs(committee: Committee, inputs) -> jax.Array:
    return committee.predict(inputs)[0]


def _features(committee: Committee, inputs) -> jax.Array:
    features = committee.predict(inputs)[1]
    if features is None:
        raise ValueError(
            "features: expected an apply that returns (logits [C], features [D]), got logits only; "
            "return the activations of the last hidden layer beside the logits"
        )
    return features


def _embedding(committee: Committee, inputs) -> jax.Array:
    if committee.stacked:
        features = _features(committee, inputs)
        num_points, num_members, width = features.shape  # [B, K, D]
        return features.reshape(num_points, num_members * width) / jnp.sqrt(num_members)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], committee.params)
    return _embedding(replace(committee, params=params, keys=None, stacked=True), inputs)


def mc_dropout(apply: Apply, params, keys: jax.Array) -> Committee:
    """A committee of one network under K dropout masks: member k is `apply(params, keys[k], ·)`.

    `p_k(y | x) = softmax(f(x; θ, mask_k))`, each mask drawn once for the whole pool. Gal & Ghahramani, ICML 2016;
    consistent masks as in Kirsch et al., NeurIPS 2019, §4.

    Args:
      apply: `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input.
      params: the network's parameters.
      keys: `[K]` keys, for example `jax.random.split(key, K)`.

    >>> def apply(params, key, x):
    ...     mask = 1.0 if key is None else 2.0 * jax.random.bernoulli(key, 0.5, x.shape)
    ...     return (x * mask) @ params
    >>> committee = mc_dropout(apply, jnp.ones((3, 2)), jax.random.split(jax.random.key(0), 10))
    >>> committee.log_probs(jnp.ones((5, 3))).shape
    (5, 10, 2)
    """
    _check_network(apply, params)
    keys = _typed_keys(keys)
    if keys.ndim != 1 or keys.size == 0:
        raise ValueError(
            f"keys: expected [K] keys, one a member, got shape {keys.shape}; pass jax.random.split(key, K)"
        )
    return Committee(apply, params, keys, stacked=False)


def deep_ensemble(apply: Apply, params, keys: jax.Array | None = None) -> Committee:
    """A committee of K networks: member k is `apply(params[k], None, ·)`, or `apply(params[k], keys[k], ·)`.

    Lakshminarayanan et al., NeurIPS 2017. With `keys [K]` every network has one dropout mask; with `keys [K, M]` every
    network is voted by M masks, K·M members in all (Pop & Fulop, 2018).

    Args:
      apply: `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input.
      params: a pytree whose leaves all have the leading axis K.
      keys: None, `[K]`, or `[K, M]`.

    >>> params = jax.random.normal(jax.random.key(0), (5, 3, 2))
    >>> deep_ensemble(lambda params, key, x: x @ params, params).log_probs(jnp.ones((7, 3))).shape
    (7, 5, 2)
    """
    _check_network(apply, params)
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in map(jnp.asarray, jax.tree.leaves(params))}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        raise ValueError(
            f"params: expected one leading axis K on every leaf, got sizes {sorted(sizes, key=str)}; "
            "stack members with jax.tree.map(lambda *leaves: jnp.stack(leaves), *members) or vmap the initialiser"
        )
    if keys is None:
        return Committee(apply, params, None, stacked=True)
    keys = _typed_keys(keys)
    if keys.ndim not in (1, 2) or keys.shape[0] != sizes.pop() or keys.size == 0:
        raise ValueError(f"keys: expected [K] or [K, M] keys for the K networks in params, got shape {keys.shape}")
    if keys.ndim == 2:
        num_masks = keys.shape[1]
        params = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_masks, axis=0), params)
        keys = keys.reshape(-1)
    return Committee(apply, params, keys, stacked=True)


def split_weights(params) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """`(weights, rebuild)`: the leaves of `params` that training changes, and `rebuild(weights) -> params`.

    Weights are the floating-point leaves; where `params` is a dict of collections with one named `params` (flax), of
    that one alone. The others (running statistics, counters) are carried along as they are.

    >>> weights, rebuild = split_weights({"params": jnp.ones(3), "batch_stats": jnp.zeros(3)})
    >>> len(weights), rebuild([weights[0] + 1])["params"].tolist()
    (1, [2.0, 2.0, 2.0])
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(params)
    collections = isinstance(params, dict) and "params" in params
    leaves = [leaf for _, leaf in paths]
    chosen = [
        i
        for i, (path, leaf) in enumerate(paths)
        if jnp.issubdtype(_spec(leaf).dtype, jnp.floating) and (not collections or path[0].key == "params")
    ]

    def rebuild(weights):
        filled = leaves.copy()
        for i, weight in zip(chosen, weights, strict=True):
            filled[i] = weight
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in chosen], rebuild


def has_convolution(fn: Callable, *args) -> bool:
    """Whether `fn(*args)` uses XLA's convolution anywhere; `args` may be shapes."""
    leaves, structure = jax.tree.flatten(args)
    return _has_convolution(fn, structure, tuple(_spec(leaf) for leaf in leaves))


@lru_cache(maxsize=256)
def _has_convolution(fn, structure, leaves) -> bool:
    def visit(jaxpr):
        for equation in jaxpr.eqns:
            if equation.primitive.name == "conv_general_dilated":
                return True
            for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns") and visit(inner):
                    return True
        return False

    return visit(jax.make_jaxpr(fn)(*jax.tree.unflatten(structure, leaves)).jaxpr)


def _spec(leaf):
    return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf))


def check_parts(out: Any) -> tuple[Any, Any]:
    """`(logits, features or None)` of what a network returned, of any shape; a TypeError unless they are arrays."""
    parts: tuple[Any, Any] = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    logits, features = parts
    for name, part in (("logits [C]", logits), ("features [D]", features)):
        if not hasattr(part, "ndim") and (part is not None or name == "logits [C]"):
            raise TypeError(
                f"apply: expected logits [C], or a tuple (logits [C], features [D]), got {_described(out)}; choose "
                "from it in a function of your own: lambda params, key, x: apply(params, key, x)[...]"
            )
    return parts


def logits_and_features(out: Any) -> tuple[Any, Any]:
    """What `apply` returned for one input, `(logits [C], features [D] or None)`, or an error that names the fault."""
    logits, features = check_parts(out)
    if logits.ndim != 1:
        raise ValueError(
            f"apply: expected logits [C] for one input, got shape {logits.shape}; wrap a function of a batch with "
            "bdal.from_batched"
        )
    if logits.shape[0] == 0:
        raise ValueError("apply: expected logits [C] of at least one class, got shape (0,)")
    if logits.shape[0] == 1:
        raise ValueError(
            "apply: expected logits [C] of two classes or more, got shape (1,); of a binary classifier with one logit "
            "z return jnp.concatenate([jnp.zeros_like(z), z])"
        )
    if features is not None and features.ndim != 1:
        raise ValueError(
            f"apply: expected features [D] for one input, got shape {features.shape}; return features.reshape(-1)"
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"apply: expected floating-point logits [C], got dtype {logits.dtype}")
    return logits, features


def _described(out) -> str:
    if isinstance(out, dict):
        return f"a dict with {', '.join(map(repr, out))}"
    if isinstance(out, tuple | list):
        return f"a {type(out).__name__} of {len(out)}"
    return f"{out!r}" if out is None else f"a {type(out).__name__}"


def _typed_keys(keys) -> jax.Array:
    """Keys of `jax.random.key`, also from `[..., 2]` words of `jax.random.PRNGKey` and from a list of keys."""
    if isinstance(keys, list | tuple) and keys and all(isinstance(key, jax.Array) for key in keys):
        keys = jnp.stack(keys)
    if isinstance(keys, jax.Array | np.ndarray) and keys.dtype == np.uint32 and keys.shape[-1:] in ((2,), (4,)):
        return jax.random.wrap_key_data(jnp.asarray(keys))
    if not isinstance(keys, jax.Array) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise TypeError(f"keys: expected [K] keys, one a member, got {shown(keys)}; pass jax.random.split(key, K)")
    return keys


def _check_network(apply, params) -> None:
    if not callable(apply):
        raise TypeError(
            f"apply: expected a function (params, key, x) -> logits [C], got {shown(apply)}; the order is apply, params"
        )
    for leaf in jax.tree.leaves(params):
        if not isinstance(leaf, jax.Array):
            check_array(leaf, "params")
