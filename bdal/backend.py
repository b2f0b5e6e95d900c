"""What XLA does badly on a backend, and the way round it. No other room knows of backends.

On a CPU, XLA's convolutions leave their fast path when an axis of members is added to them (8 s became 44 s), and in a
compiled loop (one training step of the BatchBALD network at batch size 64 took 590 ms in place of 15 ms).

Axis letters: K members, B points of a chunk.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jax.extend.core import JaxprEqn, Literal


def spec(leaf) -> jax.ShapeDtypeStruct:
    """The shape and dtype of an array or a number."""
    return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype if hasattr(leaf, "dtype") else jnp.result_type(leaf))


def one_of(stacked) -> Any:
    """The shapes and dtypes of one of what is stacked along the first axis of every leaf."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], leaf.dtype), stacked)


@lru_cache(maxsize=1)
def key_shape() -> jax.ShapeDtypeStruct:
    """The shape and dtype of a key."""
    return jax.eval_shape(lambda: jax.random.key(0))


@lru_cache(maxsize=256)
def shapes_of(init: Callable[[jax.Array], Any]) -> Any:
    """The shapes and dtypes of what `init(key)` gives."""
    return jax.eval_shape(init, key_shape())


def over_members(function: Callable[[Any], Any], own: Any) -> Any:
    """`function(own_k)`, a pytree of `[B, ...]`, for every member k: `[B, K, ...]`.

    What does not depend on the member is computed once for all of them; an output that does not is `[B, 1, ...]`.

    Args:
      function: of what belongs to one member; it may close over arrays, traced ones too.
      own: a pytree of `[K, ...]`.

    >>> shared = jnp.ones((4, 3))
    >>> out = over_members(lambda w: (shared @ w, shared), jnp.ones((7, 3, 2)))
    >>> [leaf.shape for leaf in out]
    [(4, 7, 2), (4, 1, 3)]
    """
    leaves = jax.tree.leaves(own)
    traced, shapes = jax.make_jaxpr(function, return_shape=True)(one_of(own))
    rest: list[_Equation] = []
    first = [_Later() for _ in leaves]
    outputs = _walk(traced.jaxpr, traced.consts, first, rest)
    dependent = [node for node in outputs if isinstance(node, _Later)]

    def member(own_k):
        values = dict(zip(first, own_k, strict=True))
        for equation in rest:
            found = [values[node] if isinstance(node, _Later) else node for node in equation.inputs]
            values.update(zip(equation.outputs, _bind(equation.jaxpr, equation.equation, found), strict=True))
        return [values[node] for node in dependent]

    mapped = iter(())
    if dependent:
        in_turn = jax.default_backend() == "cpu" and any(_is_convolution(each.equation) for each in rest)
        mapped = iter(jax.lax.map(member, leaves) if in_turn else jax.vmap(member)(leaves))
    out = [
        jnp.moveaxis(next(mapped), 0, 1) if isinstance(node, _Later) else jnp.asarray(node)[:, None] for node in outputs
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


class _Later:
    """A value that depends on the member."""


class _Equation(NamedTuple):
    jaxpr: Any  # that it is of
    equation: JaxprEqn
    inputs: list[Any]  # values, and `_Later` for those that are not known yet
    outputs: list[_Later]


def _walk(jaxpr, constants, arguments: list[Any], rest: list[_Equation]) -> list[Any]:
    """The outputs of a jaxpr; what depends on a `_Later` argument is one, and its equations are added to `rest`."""
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
    for equation in jaxpr.eqns:
        inputs = [atom.val if isinstance(atom, Literal) else values[atom] for atom in equation.invars]
        if not any(isinstance(value, _Later) for value in inputs):
            outputs = _bind(jaxpr, equation, inputs)
        elif equation.primitive.name in ("jit", "pjit") and not all(isinstance(value, _Later) for value in inputs):
            inner = equation.params["jaxpr"]
            outputs = _walk(inner.jaxpr, inner.consts, inputs, rest)
        else:
            outputs = [_Later() for _ in equation.outvars]
            rest.append(_Equation(jaxpr, equation, inputs, outputs))
        values.update(zip(equation.outvars, outputs, strict=True))
    return [atom.val if isinstance(atom, Literal) else values[atom] for atom in jaxpr.outvars]


def _bind(jaxpr, equation: JaxprEqn, inputs: list[Any]) -> list[Any]:
    """What one equation of a jaxpr gives for these inputs."""
    given = {atom: value for atom, value in zip(equation.invars, inputs, strict=True) if not isinstance(atom, Literal)}
    alone = jaxpr.replace(constvars=[], invars=list(given), eqns=[equation], outvars=list(equation.outvars))
    return eval_jaxpr(alone, [], *given.values())


# -- convolutions -----------------------------------------------------------------------------------------------------


def has_convolution(fn: Callable[..., Any], *args) -> bool:
    """Whether `fn(*args)` uses XLA's convolution anywhere; `args` may be shapes."""
    leaves, structure = jax.tree.flatten(args)
    return _has_convolution(fn, structure, tuple(spec(leaf) for leaf in leaves))


@lru_cache(maxsize=256)
def _has_convolution(fn, structure, leaves) -> bool:
    jaxpr = jax.make_jaxpr(fn)(*jax.tree.unflatten(structure, leaves)).jaxpr
    return any(map(_is_convolution, jaxpr.eqns))


def _is_convolution(equation: JaxprEqn) -> bool:
    if equation.primitive.name == "conv_general_dilated":
        return True
    parameters = jax.tree.leaves(list(equation.params.values()), is_leaf=lambda value: hasattr(value, "eqns"))
    inner = [getattr(value, "jaxpr", value) for value in parameters]
    return any(_is_convolution(each) for jaxpr in inner if hasattr(jaxpr, "eqns") for each in jaxpr.eqns)


def steps_from_python(apply: Callable[..., Any], *args) -> bool:
    """Whether a training loop over `apply(*args)` is left to Python: on a CPU, for networks with XLA's convolutions."""
    return jax.default_backend() == "cpu" and has_convolution(apply, *args)


# -- side by side -----------------------------------------------------------------------------------------------------


def trains_side_by_side(init: Callable[[jax.Array], Any]) -> bool:
    """Whether networks of this size train faster side by side than one by one.

    On a CPU, up to 65,536 numbers: there a larger product gains nothing.
    """
    if jax.default_backend() != "cpu":
        return True
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(init)))
    return size <= 2**16
