"""Anyone's network as `(apply, params)`: flax nnx, flax linen, and functions of a batch.

`apply` is `(params, key, x) -> logits [C]` or `(logits [C], features [D])` for one input, as `bdal.committee` takes it.
"""

from collections.abc import Callable
from typing import Any

import jax

from bdal.committee import Apply, check_parts
from bdal.errors import shown


def from_nnx(module, *, batched: bool = True) -> tuple[Apply, Any]:
    """`(apply, params)` of a flax nnx module that returns logits, or (logits, features).

    Scoring never trains: normalisation layers use their running statistics, which carry no gradient, and dropout is on
    exactly when a key is given; every random stream of the module gets a key of its own from it. `params` is
    `{"params": State, "state": State}`, as the module is now: training it further changes nothing here.

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
        frozen = jax.lax.stop_gradient(params["state"])
        keys = jax.tree.unflatten(structure, own)
        # copy=True: a merge that shares variables with the outside cannot be traced
        model = nnx.merge(graphdef, params["params"], keys, counts, frozen, copy=True)
        model.eval()
        if key is not None:
            model.set_attributes(deterministic=False, raise_if_not_found=False)
        return _call(model, x, batched)

    return apply, {"params": weights, "state": state}


def nnx_init(make) -> Callable[[jax.Array], Any]:
    """`init(key) -> params` for `from_nnx(make(...))`, to be vmapped over keys for an ensemble.

    Args:
      make: `nnx.Rngs -> nnx.Module`.

    >>> from flax import nnx
    >>> init = nnx_init(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    >>> jax.vmap(init)(jax.random.split(jax.random.key(0), 5))["params"]["kernel"][...].shape
    (5, 3, 2)
    """
    from flax import nnx

    def init(key):
        _, weights, _, _, state = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.RngKey, nnx.RngCount, ...)
        return {"params": weights, "state": state}

    return init


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
    import inspect

    from flax import linen

    _check_module(module, linen.Module, "linen", "from_nnx")
    accepted = inspect.signature(module.__call__).parameters
    has_statistics = set(variables) != {"params"}
    switches = [name for name in ("train", "training") if name in accepted and name not in call_kwargs]

    def refuse_noise_that_stays_off(params, x):
        from flax.errors import InvalidRngError

        def trained(x):  # without a key: it fails if there is noise
            return module.apply(params, x, mutable=True, **dict.fromkeys(switches, True), **call_kwargs)[0]

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
        frozen = {name: jax.lax.stop_gradient(leaf) if name != "params" else leaf for name, leaf in params.items()}
        rngs = None if key is None else {"dropout": key}
        return _call(lambda x: module.apply(frozen, x, rngs=rngs, **kwargs), x, batched)

    return apply, variables


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
