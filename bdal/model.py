"""Networks as functions: `Model`, and anyone's network as one, from flax nnx, flax linen, equinox, haiku or functions.

A network that is trained already is `(apply, params)`: `from_nnx`, `from_linen`, `from_batched`. One that bdal trains
is a `Model`: `model_from_nnx`, `model_from_linen`, `model_from_equinox`, `model_from_haiku`, `model_from_functions`.

Axis letters: P outputs, C classes, D features, B a minibatch.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from bdal.backend import shapes_of
from bdal.committee import check_parts
from bdal.errors import described_type, shown
from bdal.types import Apply, Train, Variables


class Model(NamedTuple):
    """A network as functions.

    Attributes:
      init: `key -> Variables`.
      apply: `(variables, noise, x) -> outputs [P]` or `(outputs [P], features [D])`, one input, as in prediction;
        `noise` is a key or None.
      train: `(variables, key, inputs [B, ...]) -> (the same of a minibatch, new state)`, as in training; None: `vmap`
        of `apply`, each row with a key of its own, and the state stays as it is.
    """

    init: Callable[[jax.Array], Variables]
    apply: Apply
    train: Train | None = None


def trained_by(model: Model) -> Train:
    """`model.train`, or what it is where the model has none."""
    if model.train is not None:
        return model.train

    def train(variables, key, inputs):
        keys = jax.random.split(key, jax.tree.leaves(inputs)[0].shape[0])
        return jax.vmap(lambda key, x: model.apply(variables, key, x))(keys, inputs), variables.state

    return train


# -- networks to train ------------------------------------------------------------------------------------------------


def model_from_functions(
    init: Callable[[jax.Array], Any], apply: Callable[..., Any], train: Train | None = None
) -> Model:
    """A `Model` of functions: `init(key) -> params` and `apply(params, key or None, x)`, of one input.

    Args:
      init: gives a pytree, all of which is parameters; or `bdal.types.Variables`, which `apply` then gets too.
      apply: `(params, key, x) -> outputs [P]` or `(outputs [P], features [D])`. A function of a batch becomes one of
        one input by `from_batched`.
      train: see `Model`.

    >>> import jax.numpy as jnp
    >>> model = model_from_functions(lambda key: jax.random.normal(key, (4, 2)), lambda params, key, x: x @ params)
    >>> model.apply(model.init(jax.random.key(0)), None, jnp.ones(4)).shape
    (2,)
    """
    if isinstance(shapes_of(init), Variables):
        return Model(init, apply, train)
    return Model(lambda key: Variables(init(key)), lambda variables, noise, x: apply(variables.params, noise, x), train)


def model_from_nnx(make: Callable[[Any], Any], *, batched: bool = True) -> Model:
    """A `Model` of a flax nnx module, which `make(nnx.Rngs) -> module` makes.

    Args:
      make: called with `nnx.Rngs`; the module returns logits, or (logits, features).
      batched: whether the module expects a leading batch axis (most do; those of `bdal.models` take one input).

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> model = model_from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    >>> model.apply(model.init(jax.random.key(0)), None, jnp.ones(3)).shape
    (2,)
    """
    from flax import nnx

    _check_make(make, nnx.Module, "nnx.Rngs", "; of a trained one, from_nnx")

    def init(key):
        _, weights, _, _, state = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.RngKey, nnx.RngCount, ...)
        return Variables(weights, state)

    return Model(init, from_nnx(make(nnx.Rngs(0)), batched=batched)[0])


def model_from_linen(module, example, *, batched: bool = True, **call_kwargs) -> Model:
    """A `Model` of a flax linen module.

    Args:
      module: a `linen.Module` that returns logits, or (logits, features).
      example: one input, without a batch axis; only its shape and dtype count.
      batched, call_kwargs: see `from_linen`.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> model = model_from_linen(nn.Dense(2), jnp.ones(3))
    >>> model.apply(model.init(jax.random.key(0)), None, jnp.ones(3)).shape
    (2,)
    """
    from flax import linen

    _check_module(module, linen.Module, "linen", "model_from_nnx")
    accepted = inspect.signature(module.__call__).parameters
    off = {"deterministic": True, "train": False, "training": False}
    kwargs = {name: value for name, value in off.items() if name in accepted} | call_kwargs

    def init(key):
        zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(jax.numpy.shape(leaf), leaf.dtype), example)
        given = jax.tree.map(lambda leaf: leaf[None], zeros) if batched else zeros
        return _of_collections(module.init(key, given, **kwargs))

    has_statistics = bool(jax.tree.leaves(shapes_of(init).state))
    return Model(init, _linen_apply(module, has_statistics, batched, call_kwargs))


def model_from_equinox(make: Callable[[jax.Array], Any], *, batched: bool = False) -> Model:
    """A `Model` of an equinox module, which `make(key) -> module` makes.

    Its dropout is on exactly when there is noise; a module whose call takes `key` gets the noise as that.

    Args:
      make: called with a key; the module returns logits, or (logits, features), for one input, as equinox has it.
      batched: whether the module expects a leading batch axis.

    >>> import equinox as eqx
    >>> import jax.numpy as jnp
    >>> model = model_from_equinox(lambda key: eqx.nn.MLP(3, 2, 8, 1, key=key))
    >>> model.apply(model.init(jax.random.key(0)), None, jnp.ones(3)).shape
    (2,)
    """
    import equinox as eqx

    _check_make(make, eqx.Module, "key", "")
    shapes = eqx.filter_eval_shape(make, jax.random.key(0))
    if not callable(shapes):
        raise TypeError(
            f"make: expected a function key -> equinox module, got one that makes {described_type(shapes)}; layers "
            "with a state (BatchNorm) are not for model_from_equinox: LayerNorm and GroupNorm have none"
        )
    static = eqx.filter(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct), inverse=True)

    def init(key):
        return Variables(eqx.filter(make(key), eqx.is_array))

    def apply(variables, noise, x):
        module = eqx.nn.inference_mode(eqx.combine(variables.params, static), value=noise is None)
        keyed = "key" in inspect.signature(type(module).__call__).parameters
        return _call((lambda x: module(x, key=noise)) if keyed else module, x, batched)

    return Model(init, apply)


def model_from_haiku(transformed, example, *, batched: bool = True, switch: str | None = None) -> Model:
    """A `Model` of a haiku function, from `hk.transform` or `hk.transform_with_state`.

    Args:
      transformed: its function takes inputs, and returns logits or (logits, features).
      example: one input, without a batch axis.
      batched: whether the function expects a leading batch axis.
      switch: the name of its argument that is True in training, such as `is_training`, if it has one: True with noise.

    Raises:
      ValueError: the function has a state (BatchNorm) and a `switch`: with noise, one input would be normalised by
        itself.

    >>> import haiku as hk
    >>> import jax.numpy as jnp
    >>> model = model_from_haiku(hk.transform(lambda x: hk.Linear(2)(x)), jnp.ones(3))
    >>> model.apply(model.init(jax.random.key(0)), None, jnp.ones(3)).shape
    (2,)
    """
    if not hasattr(transformed, "apply"):
        raise TypeError(
            f"transformed: expected what hk.transform returns, got {described_type(transformed)}; pass "
            "hk.transform(...) of it"
        )
    stateful = "state" in inspect.signature(transformed.apply).parameters

    def flag(value: bool) -> dict[str, bool]:
        return {} if switch is None else {switch: value}

    def init(key):
        zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(jax.numpy.shape(leaf), leaf.dtype), example)
        given = jax.tree.map(lambda leaf: leaf[None], zeros) if batched else zeros
        found = transformed.init(key, given, **flag(True))
        return Variables(*found) if stateful else Variables(found)

    if switch is not None and jax.tree.leaves(shapes_of(init).state):
        raise ValueError(
            f"transformed: expected no state beside `{switch}`, got running statistics (BatchNorm), which would "
            "normalise one input by itself; take LayerNorm or GroupNorm, or model_from_functions with a `train` of "
            "your own"
        )

    def apply(variables, noise, x):
        def call(x):
            if stateful:
                return transformed.apply(variables.params, variables.state, noise, x, **flag(noise is not None))[0]
            return transformed.apply(variables.params, noise, x, **flag(noise is not None))

        return _call(call, x, batched)

    return Model(init, apply)


# -- trained networks -------------------------------------------------------------------------------------------------


def from_nnx(module, *, batched: bool = True) -> tuple[Apply, Any]:
    """`(apply, params)` of a flax nnx module that returns logits, or (logits, features).

    Scoring never trains: normalisation layers use their running statistics, which carry no gradient, and dropout is on
    exactly when a key is given; every random stream of the module gets a key of its own from it. `params` is
    `bdal.types.Variables` of the module as it is now: training it further changes nothing here.

    Args:
      module: an `nnx.Module`.
      batched: whether the module expects a leading batch axis (most do; those of `bdal.models` take one input, so
        `batched=False`).

    Raises:
      ValueError: `batched` does not fit the module (when `apply` is called).

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> apply, params = from_nnx(nnx.Linear(3, 2, rngs=nnx.Rngs(0)))
    >>> apply(params, None, jnp.ones(3)).shape
    (2,)
    """
    from flax import nnx

    _check_module(module, nnx.Module, "nnx", "from_linen")
    graphdef, *states = nnx.split(module, nnx.Param, nnx.RngKey, nnx.RngCount, ...)
    # Variables of their own: those of `split` are the module's, and would change as it is trained on
    weights, keys, counts, state = jax.tree.map(lambda leaf: leaf, states)
    streams, structure = jax.tree.flatten(keys)

    def apply(params, key, x):
        # One stream, one key: reseeding all streams alike would give equal masks to layers of equal width.
        own = streams if key is None else [_reseed(key, i, stream.shape) for i, stream in enumerate(streams)]
        frozen = jax.lax.stop_gradient(params.state)
        keys = jax.tree.unflatten(structure, own)
        # copy=True: a merge that shares variables with the outside cannot be traced
        model = nnx.merge(graphdef, params.params, keys, counts, frozen, copy=True)
        model.eval()
        if key is not None:
            model.set_attributes(deterministic=False, raise_if_not_found=False)
        return _call(model, x, batched)

    return apply, Variables(weights, state)


def from_linen(module, variables, *, batched: bool = True, **call_kwargs) -> tuple[Apply, Any]:
    """`(apply, params)` of a flax linen module and its variables.

    Collections other than `params` (running statistics) are passed on as they are and carry no gradient.

    Args:
      module: a `linen.Module` that returns logits, or (logits, features).
      variables: what `module.init` returned, `{"params": ..., ...}`.
      batched: whether the module expects a leading batch axis (most do).
      **call_kwargs: handed to every call. A module that takes `deterministic`, `train` or `training` gets it from the
        key unless it is given here: `deterministic = key is None`, and `train = key is not None`, but False where there
        are running statistics, which training would overwrite.

    Raises:
      ValueError: when `apply` is called with a key: the module has running statistics and noise, and one argument for
        both, so that the key would switch on nothing; `batched` does not fit the module.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> net = nn.Dense(2)
    >>> apply, params = from_linen(net, net.init(jax.random.key(0), jnp.ones((1, 3))))
    >>> apply(params, None, jnp.ones(3)).shape
    (2,)
    """
    from flax import linen

    _check_module(module, linen.Module, "linen", "from_nnx")
    has_statistics = set(variables) != {"params"}
    return _linen_apply(module, has_statistics, batched, call_kwargs), _of_collections(variables)


def _of_collections(variables) -> Variables:
    """The variables of a linen module, whose collections other than `params` are state."""
    others = {name: collection for name, collection in variables.items() if name != "params"}
    return Variables(variables.get("params", {}), others or ())


def _linen_apply(module, has_statistics: bool, batched: bool, call_kwargs) -> Apply:
    accepted = inspect.signature(module.__call__).parameters
    switches = [name for name in ("train", "training") if name in accepted and name not in call_kwargs]

    def collections(variables):
        variables = variables if isinstance(variables, Variables) else _of_collections(variables)
        return {"params": variables.params, **jax.lax.stop_gradient(dict(variables.state or {}))}

    def refuse_noise_that_stays_off(params, x):
        from flax.errors import InvalidRngError

        def trained(x):  # without a key: it fails if there is noise
            return module.apply(collections(params), x, mutable=True, **dict.fromkeys(switches, True), **call_kwargs)[0]

        try:
            jax.eval_shape(lambda x: _call(trained, x, batched), x)
        except InvalidRngError:
            raise ValueError(
                f"from_linen: {type(module).__name__} has running statistics and noise, both switched by "
                f"`{switches[0]}`, so that a key would switch no noise on; give it an argument `deterministic` for its "
                f"noise alone, or pass {switches[0]}=False for no noise at all"
            ) from None

    def apply(params, key, x):
        if has_statistics and switches and "deterministic" not in accepted and key is not None:
            refuse_noise_that_stays_off(params, x)
        train = key is not None and not has_statistics
        noise = {"deterministic": key is None, "train": train, "training": train}
        kwargs = {name: value for name, value in noise.items() if name in accepted} | call_kwargs
        rngs = None if key is None else {"dropout": key}
        return _call(lambda x: module.apply(collections(params), x, rngs=rngs, **kwargs), x, batched)

    return apply


def from_batched(fn: Callable, params) -> tuple[Apply, Any]:
    """`(apply, params)` of a function of a batch: `fn(params, key, inputs [B, ...]) -> logits [B, C] (, features [B,
    D])`.

    Each point is a batch of one with the member's key, so that a mask drawn per row is the same for every point.

    >>> import jax.numpy as jnp
    >>> apply, params = from_batched(lambda params, key, inputs: inputs @ params, jnp.ones((3, 2)))
    >>> apply(params, None, jnp.ones(3)).shape
    (2,)
    """

    def apply(params, key, x):
        return _call(lambda inputs: fn(params, key, inputs), x, batched=True)

    return apply, params


def _check_make(make, kind: type, argument: str, otherwise: str) -> None:
    if isinstance(make, kind):
        raise TypeError(
            f"make: expected a function {argument} -> module, got a module, {type(make).__name__}; pass the function "
            f"that makes it, with new parameters at every call{otherwise}"
        )


def _check_module(module, kind: type, name: str, other: str) -> None:
    if not isinstance(module, kind):
        raise TypeError(f"module: expected a flax {name}.Module, got {shown(module)}; see {other} and from_batched")


def _reseed(key, i, shape):
    """A key for stream i of a module, or one for each of its stacked copies."""
    key = jax.random.fold_in(key, i)
    return jax.random.split(key, shape) if shape else key


def _call(model, x, batched):
    """`model` on one input; as a batch of one where `batched`."""
    if not batched:
        return model(x)
    try:
        out = model(jax.tree.map(lambda leaf: leaf[None], x))
    except (TypeError, ValueError) as error:
        error.add_note("It was called with a batch of one; a network that takes one input needs batched=False.")
        raise
    check_parts(out)
    logits = out[0] if isinstance(out, tuple) else out
    if logits.ndim < 2 or logits.shape[0] != 1:
        raise ValueError(
            f"apply: expected logits [B, C] for a batch of one, got shape {logits.shape}; a network that takes one "
            "input needs batched=False (and no from_batched)"
        )
    return jax.tree.map(lambda leaf: leaf[0], out)
