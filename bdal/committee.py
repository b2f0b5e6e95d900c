"""A committee: K deterministic functions that vote on the same input.

A member is `apply(shared, own, noise, x) -> outputs [P] or (outputs [P], features [D])`: `shared` is the same for all,
`own` and `noise` are the member's. MC dropout shares all parameters and has keys as noise, a deep ensemble shares
nothing, a posterior of the last layer shares the body and owns a head. `apply` is written for *one* input, and `vmap`
over the pool leaves the member's noise unbatched: whatever `apply` draws from it (a dropout mask, weights of a
variational posterior) is drawn once for the whole pool, for any model. So joint quantities are defined, and no score
depends on chunking, order or sharding. What does not depend on the member is computed once.

Axis letters: K members, N points, B points of a chunk, P outputs, C classes, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import register_dataclass

from bdal.acquisition import Gaussian
from bdal.backend import over_members, spec
from bdal.errors import SUM_TOLERANCE, check_array, is_concrete, shown
from bdal.likelihood import CATEGORICAL, Likelihood
from bdal.pool import map_pool
from bdal.types import Apply, MemberApply, Variables


@partial(register_dataclass, data_fields=["shared", "own", "noise", "info"], meta_fields=["apply", "likelihood"])
@dataclass(frozen=True)
class Committee:
    """K members: a pytree that passes through `jit`, `vmap` and `lax.map`; its methods take inputs `[N, ...]`.

    Build one with `mc_dropout`, `deep_ensemble`, or a fit of `bdal.posteriors`; or from its parts, where members share
    some of their parameters. Without `own` and `noise` it is a committee of one.

    Attributes:
      apply: `(shared, own, noise, x) -> outputs [P]` or `(outputs [P], features [D])` for one input `x` (a pytree).
        Committees of one kind need the same function, or equal ones, each time: another one is traced again.
      shared: parameters that all members have, `bdal.types.Variables` or any pytree.
      own: a pytree of `[K, ...]`, the parameters of each member; None: all are shared.
      noise: a pytree of `[K, ...]`, such as K keys; None: members draw nothing.
      likelihood: what outputs mean; by default logits of classes.
      info: scalars a member, `[K]`, or `[1]` or `[]` where members come from one training.

    >>> def apply(body, head, noise, x):
    ...     features = jax.nn.relu(x @ body)
    ...     return features @ head, features
    >>> heads = jax.random.normal(jax.random.key(0), (100, 16, 3))
    >>> committee = Committee(apply, shared=jnp.ones((4, 16)), own=heads)
    >>> pool = jnp.ones((7, 4))
    >>> committee.log_probs(pool).shape, committee.features(pool).shape, committee.embedding(pool).shape
    ((7, 100, 3), (7, 1, 16), (7, 16))
    """

    apply: MemberApply
    shared: Any = None
    own: Any = None
    noise: Any = None
    likelihood: Likelihood = CATEGORICAL
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def num_members(self) -> int:
        """K."""
        sizes = [leaf.shape[0] for leaf in jax.tree.leaves((self.own, self.noise))]
        return sizes[0] if sizes else 1

    def take(self, num_members: int) -> "Committee":
        """The committee of the first `num_members` members (all of them if there are fewer)."""
        if num_members < 1:
            raise ValueError(f"num_members: expected at least 1, got {num_members}")
        own, noise = jax.tree.map(lambda leaf: leaf[:num_members], (self.own, self.noise))
        info = jax.tree.map(lambda leaf: leaf[:num_members] if jnp.ndim(leaf) else leaf, self.info)
        return replace(self, own=own, noise=noise, info=info)

    @jax.jit
    def predict(self, inputs) -> tuple[Any, jax.Array | None]:
        """What members predict and their features, in one pass.

        Log-probabilities `[B, K, C]` in nats, or a `Gaussian` of `[B, K]`; and features `[B, K, D]`, or `[B, 1, D]`
        where they are the same for all members, or None if `apply` gives none.
        """
        outputs, features = self._members(self._outputs, inputs)
        return self.likelihood.predict(self._of_each(outputs)), features

    def log_probs(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """Log-probabilities of every member, `[N, K, C]`, in nats; of a pool or any other `[N, ...]`, in chunks.

        As `bdal.map_pool`, which also shards: NumPy inputs stay on the host and are sent a chunk at a time. ValueError
        for a committee that predicts numbers.
        """
        return _in_chunks(_log_probs, self, inputs, chunk_size)

    def gaussian(self, inputs, *, chunk_size: int = 1024) -> Gaussian:
        """Mean and variance of every member, `[N, K]` both, in chunks. ValueError for a committee of classes."""
        return _in_chunks(_gaussian, self, inputs, chunk_size)

    def features(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """Features of every member, `[N, K, D]`, in chunks; `[N, 1, D]` where they are the same for all members.

        ValueError if `apply` returns outputs only.
        """
        return _in_chunks(_features, self, inputs, chunk_size)

    def embedding(self, inputs, *, chunk_size: int = 1024) -> jax.Array:
        """One vector a point, for diversity: `[N, D]`, in chunks.

        Members that share their parameters: the features of the network without noise (`noise=None`), `[N, D]`.
        Members whose features are the same: these, `[N, D]`. Others live in spaces that cannot be averaged: their
        features side by side over √K, `[N, K·D]`, so that an inner product is the mean of the members' inner products.
        """
        return _in_chunks(_embedding, self, inputs, chunk_size)

    @jax.jit
    def symptoms(self, inputs) -> tuple[jax.Array, jax.Array]:
        """Two faults of `apply` that no score shows, as booleans, for a few inputs `[B, ...]`.

        Whether members that differ in their noise agree exactly (dropout is off, or `apply` ignores its noise), and
        whether what should be logits are probabilities: no row has a negative number, and each sums to one.
        """
        outputs = self._of_each(self._members(self._outputs, inputs)[0]).astype(jnp.float32)  # [B, K, P]
        none = jnp.bool_(False)
        draws = jax.tree.leaves(self.noise) and self.num_members > 1
        agree = (outputs == outputs[:, :1]).all() if draws else none
        if self.likelihood != CATEGORICAL or outputs.shape[-1] == 1:
            return agree, none
        to_one = jnp.abs(outputs.sum(-1) - 1) <= SUM_TOLERANCE
        return agree, (outputs >= 0).all() & to_one.all()

    @partial(jax.jit, static_argnames="batch_size")
    def gradient_norms(self, inputs, *, batch_size: int = 8) -> jax.Array:
        """Length of the gradient that each label would cause in the whole network, per member: `[B, K, C]`.

        `‖∇_θ −log p_k(c | x)‖`, with θ the weights that the member shares and those that it owns: one forward pass,
        then the C cotangents `p − e_c` through the same backward pass, for `batch_size` points at once. Only the
        weights are differentiated (see `split_weights`), so running statistics are not counted. ValueError for a
        committee that predicts numbers. Settles, Craven & Ray, NeurIPS 2008.
        """
        if self.likelihood != CATEGORICAL:
            raise ValueError(f"gradient_norms: expected a committee of classes, got a {self.likelihood.name} one")

        def member(own, noise, x):
            weights, rebuild = split_weights((self.shared, own))

            def logits_of(weights):
                return self._outputs(*rebuild(weights), noise, x)[0].astype(jnp.float32)

            logits, pullback = jax.vjp(logits_of, weights)
            # ∂(−log p_c)/∂logits = p − e_c, with p_c − 1 as −Σ_{j≠c} p_j: exact where p_c rounds to 1.
            others = jax.nn.softmax(logits)[None] * (1 - jnp.eye(logits.shape[0], dtype=logits.dtype))  # [C, C]
            cotangents = others - jnp.diag(others.sum(-1))
            (gradients,) = jax.vmap(pullback)(cotangents)  # [C, ...] each leaf
            squares = [jnp.square(leaf.astype(jnp.float32)).reshape(leaf.shape[0], -1).sum(-1) for leaf in gradients]
            return jnp.sqrt(sum(squares))  # [C]

        def point(x):
            one = jax.tree.map(lambda leaf: leaf[None], x)
            return self._of_each(self._members(member, one))[0]  # [K, C]

        return jax.lax.map(point, inputs, batch_size=batch_size)

    def _outputs(self, *arguments):
        """(outputs, features or None) of `apply(shared, own, noise, x)`; also for `(own, noise, x)`."""
        arguments = arguments if len(arguments) == 4 else (self.shared, *arguments)
        return outputs_and_features(self.apply(*arguments), self.likelihood)

    def _members(self, member, inputs):
        """`member(own, noise, x)` for every point and member, `[B, K, ...]`; `[B, 1, ...]` where all are the same."""
        keys = _cloned(self.noise)  # a member draws the same at every call
        return over_members(lambda parts: jax.vmap(lambda x: member(*parts, x))(inputs), (self.own, keys))

    def _of_each(self, values):
        """`[B, K, ...]` of what may be `[B, 1, ...]`."""
        return jnp.broadcast_to(values, (values.shape[0], self.num_members, *values.shape[2:]))


def _cloned(noise):
    def clone(leaf):
        return jax.random.clone(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf

    return jax.tree.map(clone, noise)


def _in_chunks(method: Callable, committee: Committee, inputs, chunk_size: int):
    """`method(committee, inputs)`: by chunks outside a trace; within one, its caller has chunked."""
    if is_concrete(committee, inputs):
        return map_pool(method, committee, inputs, chunk_size=chunk_size)
    return method(committee, inputs)


def _log_probs(committee: Committee, inputs) -> jax.Array:
    prediction = committee.predict(inputs)[0]
    if isinstance(prediction, Gaussian):
        raise ValueError("log_probs: expected a committee of classes, got one that predicts numbers; see `gaussian`")
    return prediction


def _gaussian(committee: Committee, inputs) -> Gaussian:
    prediction = committee.predict(inputs)[0]
    if not isinstance(prediction, Gaussian):
        raise ValueError("gaussian: expected a committee that predicts numbers, got one of classes; see `log_probs`")
    return prediction


def _features(committee: Committee, inputs) -> jax.Array:
    features = committee.predict(inputs)[1]
    if features is None:
        raise ValueError(
            "features: expected an apply that returns (logits [C], features [D]), got logits only; "
            "return the activations of the last hidden layer beside the logits"
        )
    return features


def _embedding(committee: Committee, inputs) -> jax.Array:
    differ = committee.num_members == 1 or jax.eval_shape(_features, committee, inputs).shape[1] > 1
    if differ and not jax.tree.leaves(committee.own):  # else what they share is known, noise or not
        committee = replace(committee, noise=None)  # one network, without noise
    features = _features(committee, inputs)  # [B, K, D] or [B, 1, D]
    return features.reshape(features.shape[0], -1) / jnp.sqrt(features.shape[1])


@dataclass(frozen=True)
class _Shared:
    """A member whose variables all members share. Equal for equal `network`, so that nothing is traced twice."""

    network: Apply

    def __call__(self, shared, own, noise, x):
        del own
        return self.network(shared, noise, x)


@dataclass(frozen=True)
class _Own:
    """A member with variables of its own."""

    network: Apply

    def __call__(self, shared, own, noise, x):
        del shared
        return self.network(own, noise, x)


def mc_dropout(
    apply: Apply,
    params,
    keys: jax.Array,
    *,
    likelihood: Likelihood = CATEGORICAL,
    info: dict[str, Any] | None = None,
) -> Committee:
    """A committee of one network under K dropout masks: member k is `apply(params, keys[k], ·)`.

    `p_k(y | x) = softmax(f(x; θ, mask_k))`, each mask drawn once for the whole pool. Gal & Ghahramani, ICML 2016;
    consistent masks as in Kirsch et al., NeurIPS 2019, §4.

    Args:
      apply: `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input.
      params: the network's parameters, `bdal.types.Variables` or any pytree.
      keys: `[K]` keys, for example `jax.random.split(key, K)`.
      likelihood: what outputs mean.
      info: what is known of its training, see `Committee`.

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
    return Committee(_Shared(apply), params, None, keys, likelihood, info or {})


def deep_ensemble(
    apply: Apply,
    params,
    keys: jax.Array | None = None,
    *,
    likelihood: Likelihood = CATEGORICAL,
    info: dict[str, Any] | None = None,
) -> Committee:
    """A committee of K networks: member k is `apply(params[k], None, ·)`, or `apply(params[k], keys[k], ·)`.

    Lakshminarayanan et al., NeurIPS 2017. With `keys [K]` every network has one dropout mask; with `keys [K, M]` every
    network is voted by M masks, K·M members in all (Pop & Fulop, 2018).

    Args:
      apply: `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input.
      params: a pytree whose leaves all have the leading axis K.
      keys: None, `[K]`, or `[K, M]`.
      likelihood: what outputs mean.
      info: what is known of its training, see `Committee`.

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
    told = info or {}
    if keys is None:
        return Committee(_Own(apply), None, params, None, likelihood, told)
    keys = _typed_keys(keys)
    if keys.ndim not in (1, 2) or keys.shape[0] != sizes.pop() or keys.size == 0:
        raise ValueError(f"keys: expected [K] or [K, M] keys for the K networks in params, got shape {keys.shape}")
    if keys.ndim == 2:
        num_masks = keys.shape[1]
        params, told = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_masks, axis=0), (params, told))
        keys = keys.reshape(-1)
    return Committee(_Own(apply), None, params, keys, likelihood, told)


def split_weights(tree) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """`(weights, rebuild)`: the leaves of a tree that training changes, and `rebuild(weights)`, the tree.

    Weights are the floating-point leaves; of `bdal.types.Variables` only those of `params`; and where a tree, or these
    `params`, is a dict of collections with one named `params` (flax), of that one alone. The others (running
    statistics, counters) are carried along as they are. `(shared, own)` of a committee are two such trees.

    >>> weights, rebuild = split_weights({"params": jnp.ones(3), "batch_stats": jnp.zeros(3)})
    >>> len(weights), rebuild([weights[0] + 1])["params"].tolist()
    (1, [2.0, 2.0, 2.0])
    """
    leaves, structure = jax.tree.flatten(tree)
    trees = tree if type(tree) is tuple else (tree,)
    marks = [mark for each in trees for mark in jax.tree.leaves(_marks(each))]
    chosen = [
        i
        for i, (leaf, mark) in enumerate(zip(leaves, marks, strict=True))
        if mark and jnp.issubdtype(spec(leaf).dtype, jnp.floating)
    ]

    def rebuild(weights):
        filled = leaves.copy()
        for i, weight in zip(chosen, weights, strict=True):
            filled[i] = weight
        return jax.tree.unflatten(structure, filled)

    return [leaves[i] for i in chosen], rebuild


def _marks(tree):
    """Whether each leaf may be a weight."""

    def every(node, mark: bool):
        return jax.tree.map(lambda _: mark, node)

    if isinstance(tree, dict) and "params" in tree:
        return {name: every(node, name == "params") for name, node in tree.items()}

    def part(node):
        if isinstance(node, Variables):
            return Variables(_marks(node.params), every(node.state, False))
        return True

    return jax.tree.map(part, tree, is_leaf=lambda node: isinstance(node, Variables))


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


def outputs_and_features(out: Any, likelihood: Likelihood) -> tuple[Any, Any]:
    """What `apply` returned for one input, `(outputs [P], features [D] or None)`, or an error that names the fault."""
    logits, features = check_parts(out)
    if logits.ndim != 1:
        raise ValueError(
            f"apply: expected logits [C] for one input, got shape {logits.shape}; wrap a function of a batch with "
            "bdal.from_batched"
        )
    if logits.shape[0] == 0:
        raise ValueError("apply: expected logits [C] of at least one class, got shape (0,)")
    if logits.shape[0] == 1 and likelihood == CATEGORICAL:
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
