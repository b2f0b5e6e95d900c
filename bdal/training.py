"""Training that compiles once: a fixed number of rows of which a traced count is real, and early stopping inside.

The labelled inputs have a fixed capacity; minibatches are drawn with replacement from the first `count` rows, so the
same program serves every round, strategy and seed. Training stops when the validation NLL has not improved for a
while, and the best parameters come back. Everything is pure: `vmap` over keys is a deep ensemble, `vmap` over labelled
sets is seeds.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bdal.committee import Apply, has_convolution, logits_and_features, split_weights
from bdal.errors import LabelError, as_array, check_inputs, is_concrete, key_first


@dataclass(frozen=True)
class Training:
    """How a network is trained in every round, from scratch.

    Attributes:
      steps: the most minibatches.
      min_steps: parameters from before this step are never the best: where a class has no label yet, its validation
        points are answered worse with every step, and a network that has learned nothing would look best.
      batch_size: rows a minibatch, drawn with replacement.
      learning_rate, weight_decay: of AdamW, on the weights (`bdal.committee.split_weights`).
      eval_every: steps between two looks at the validation NLL.
      patience: looks without improvement after which training stops.
      validation_samples: masks over which the validation prediction is averaged, for networks with noise; 0: no noise.
    """

    steps: int = 600
    min_steps: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 25
    patience: int = 8
    validation_samples: int = 0

    def __post_init__(self):
        for name in ("steps", "min_steps", "batch_size", "eval_every", "patience", "validation_samples"):
            if not hasattr(getattr(self, name), "__index__"):
                raise ValueError(f"{name}: expected a whole number, got {getattr(self, name)}")
        for name in ("steps", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("min_steps", "weight_decay", "validation_samples"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate}")


class Trained(NamedTuple):
    """What training gives: the best parameters, the step they are from, and their validation NLL in nats."""

    params: Any
    step: jax.Array
    validation_nll: jax.Array


class _State(NamedTuple):
    step: jax.Array
    params: Any
    optimizer: Any
    best: Trained
    waited: jax.Array  # looks since the best


def train(
    key: jax.Array,
    init: Callable[[jax.Array], Any],
    apply: Apply,
    inputs,
    labels: jax.Array,
    count: jax.Array,
    validation: tuple[Any, jax.Array] | None,
    training: Training,
) -> Trained:
    """Minimise the mean cross-entropy of the first `count` rows, from a fresh `init`, with early stopping.

    Args:
      key: consumed; initialises, draws minibatches and masks.
      init: `key -> params`.
      apply: `(params, key, x) -> logits [C]` or `(logits, features)`.
      inputs: `[capacity, ...]`, a pytree; labels: `[capacity]` integers; count: how many rows are real. With none, the
        freshly initialised network comes back.
      validation: `(inputs [V, ...], labels [V])`, or None: all steps are taken and the last parameters come back.
      training: the schedule.

    Returns:
      `Trained`. If the validation NLL is never finite, training has diverged, and the last parameters come back as they
      are, with a validation NLL of infinity. On the CPU, networks with XLA convolutions are stepped from Python,
      because XLA runs those 20 times slower inside a compiled loop; then this function must not be traced.

    Raises:
      LabelError: one of the first `count` labels, or of the validation labels, is no class of the network (where they
        have values, that is, not under a trace).
    """
    check_classes(init, apply, inputs, labels, count, validation)
    init_key, step_key, validation_key = jax.random.split(key, 3)
    inputs, labels, validation = jax.tree.map(jnp.asarray, (inputs, labels, validation))
    inputs, labels = _with_a_row(inputs, labels)
    if validation is not None and jnp.shape(validation[1])[0] == 0:
        validation = None
    state = _start(init(init_key), training)
    data = (inputs, labels, count)
    if steps_from_python(init, apply, inputs):
        state = _stepped(state, apply, training, step_key, validation_key, data, validation)
    else:
        state = _compiled(state, apply, training, step_key, validation_key, data, validation)
    if validation is None:
        return Trained(state.params, state.step, jnp.float32(jnp.nan))
    diverged = ~jnp.isfinite(state.best.validation_nll)  # no look was finite: the last parameters say so, not the first
    last = Trained(state.params, state.step, state.best.validation_nll)
    return jax.tree.map(lambda last, best: jnp.where(diverged, last, best), last, state.best)


def train_snapshots(
    key: jax.Array,
    init: Callable[[jax.Array], Any],
    apply: Apply,
    inputs,
    labels: jax.Array,
    count: jax.Array,
    training: Training,
    num_snapshots: int,
) -> Any:
    """The parameters at `num_snapshots` equally spaced steps of one training, stacked along a new first axis.

    The same steps as `train` takes without validation; see there. All of `training.steps` are taken, less what
    `num_snapshots` does not divide.
    """
    check_classes(init, apply, inputs, labels, count, None)
    init_key, step_key, _ = jax.random.split(key, 3)
    data = (*_with_a_row(*jax.tree.map(jnp.asarray, (inputs, labels))), count)
    state, period = _start(init(init_key), training), training.steps // num_snapshots
    if steps_from_python(init, apply, inputs):
        step, snapshots = _programs(apply, training)[0], []
        for number in range(1, num_snapshots * period + 1):
            state = step(state, step_key, data)
            if number % period == 0:
                snapshots.append(state.params)
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *snapshots)

    def until_next(state, _):
        state = jax.lax.fori_loop(0, period, lambda _, s: _step(s, apply, training, step_key, data), state)
        return state, state.params

    return jax.lax.scan(until_next, state, length=num_snapshots)[1]


def _with_a_row(inputs, labels):
    """Minibatches are drawn of one row at least, real or not: a capacity of none gets one that is not."""
    if labels.shape[0]:
        return inputs, labels
    return jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), (inputs, labels))


def _start(params, training) -> _State:
    return _State(
        step=jnp.int32(0),
        params=params,
        optimizer=_optimizer(training).init(split_weights(params)[0]),
        best=Trained(params, jnp.int32(0), jnp.float32(jnp.inf)),
        waited=jnp.int32(0),
    )


def steps_from_python(init: Callable[[jax.Array], Any], apply: Apply, inputs) -> bool:
    """Whether `train` leaves its loop to Python: on a CPU, for networks with XLA convolutions."""
    if jax.default_backend() != "cpu":
        return False
    return has_convolution(apply, *_shapes(init, inputs))


def check_classes(init: Callable[[jax.Array], Any], apply: Apply, inputs, labels, count, validation) -> None:
    """LabelError if a label is no class of the network; looks at values only, so at nothing under a trace."""
    if not is_concrete(labels, count, validation):
        return
    num_classes = jax.eval_shape(lambda *one: _logits(apply(*one)), *_shapes(init, inputs)).shape[-1]
    parts = {"labels": np.asarray(labels)[: int(count)]}
    if validation is not None:
        parts["validation labels"] = np.asarray(validation[1])
    for name, values in parts.items():
        wrong = np.flatnonzero((values < 0) | (values >= num_classes))
        if wrong.size:
            raise LabelError(
                f"{name}: expected a class in [0, {num_classes}), as the network has, got {values[wrong[0]]} in row "
                f"{wrong[0]}"
            )


def _shapes(init, inputs):
    """The arguments of `apply`, as shapes: params, key, one input."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    point = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), inputs)
    return jax.eval_shape(init, key), key, point


def compile_fit(fit: Callable[..., Any], init: Callable[[jax.Array], Any], apply: Apply) -> Callable[..., Any]:
    """`fit` under `jit`, so that all its calls share one program, except where `train` steps from Python.

    Raises `LabelError` as `train` does. Warns that running statistics, if the network has any, stay as `init` makes
    them.
    """
    params = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)))
    if isinstance(params, dict) and "params" in params and len(jax.tree.leaves(params | {"params": ()})):
        warnings.warn(
            "init: the network has running statistics (BatchNorm), which training does not update: they stay as "
            "initialised. LayerNorm and GroupNorm have none",
            stacklevel=3,
        )
    compiled = jax.jit(fit)

    @key_first
    def run(key, inputs, labels, count, validation):
        inputs, labels = _checked_rows(inputs, labels, "")
        if validation is not None:
            validation = _checked_rows(*validation, "validation ")
        check_classes(init, apply, inputs, labels, count, validation)
        chosen = fit if steps_from_python(init, apply, inputs) else compiled
        return chosen(key, inputs, labels, count, validation)

    return run


def _checked_rows(inputs, labels, whose: str):
    """Inputs `[R, ...]` and integer labels `[R]`, as arrays of native types; LabelError if they do not fit."""
    check_inputs(inputs, f"{whose}inputs")
    inputs = jax.tree.map(lambda leaf: as_array(leaf, f"{whose}inputs"), inputs)
    labels = as_array(labels, f"{whose}labels")
    shape = jax.tree.leaves(inputs)[0].shape[:1]
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise LabelError(
            f"{whose}labels: expected one integer class for each of the inputs, shape {shape}, got {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return inputs, labels


def _step(state, apply, training, key, data):
    """One minibatch."""
    inputs, labels, count = data
    row_key, mask_key = jax.random.split(jax.random.fold_in(key, state.step))
    rows = jax.random.randint(row_key, (training.batch_size,), 0, jnp.maximum(count, 1), jnp.int32)
    mask_keys = jax.random.split(mask_key, training.batch_size)
    weights, rebuild = split_weights(state.params)

    def loss(weights):
        params = rebuild(weights)
        logits = jax.vmap(lambda key, x: _logits(apply(params, key, x)))(
            mask_keys, jax.tree.map(lambda leaf: leaf[rows], inputs)
        )
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows])
        return jnp.where(count > 0, nll.mean(), 0.0)

    gradient = jax.grad(loss)(weights)
    updates, optimizer = _optimizer(training).update(gradient, state.optimizer, weights)
    updates = jax.tree.map(lambda u: jnp.where(count > 0, u, jnp.zeros_like(u)), updates)
    moved: Any = optax.apply_updates(weights, updates)
    return state._replace(step=state.step + 1, params=rebuild(moved), optimizer=optimizer)


def _look(state, apply, training, key, validation):
    """Compare the validation NLL of the averaged prediction, −log (1/M) Σ_m p_m(y | x), with the best so far."""
    inputs, labels = validation
    key = jax.random.clone(key)  # every look has the same masks
    keys = jax.random.split(key, training.validation_samples) if training.validation_samples else None

    def log_probs(key):
        return jax.nn.log_softmax(jax.vmap(lambda x: _logits(apply(state.params, key, x)))(inputs))  # [V, C]

    if keys is None:
        predicted = log_probs(None)
    else:
        predicted = jax.nn.logsumexp(jax.vmap(log_probs)(keys), axis=0) - jnp.log(len(keys))
    nll = -jnp.take_along_axis(predicted, labels[:, None], axis=-1).mean()
    early = state.step < jnp.minimum(training.min_steps, training.steps)
    better = (nll < state.best.validation_nll) & ~early
    candidate = Trained(state.params, state.step, nll)
    best = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, state.best)
    return state._replace(best=best, waited=jnp.where(better | early, 0, state.waited + 1))


def _compiled(state, apply, training, step_key, validation_key, data, validation):
    if validation is None:
        return jax.lax.fori_loop(0, training.steps, lambda _, s: _step(s, apply, training, step_key, data), state)

    def goes_on(state):
        return (state.step < training.steps) & (state.waited < training.patience)

    def period(state):
        end = jnp.minimum(state.step + training.eval_every, training.steps)
        state = jax.lax.fori_loop(state.step, end, lambda _, s: _step(s, apply, training, step_key, data), state)
        return _look(state, apply, training, validation_key, validation)

    return jax.lax.while_loop(goes_on, period, state)


@lru_cache(maxsize=16)
def _programs(apply, training):
    step = jax.jit(lambda state, key, data: _step(state, apply, training, key, data))
    look = jax.jit(lambda state, key, validation: _look(state, apply, training, key, validation))
    return step, look


def _stepped(state, apply, training, step_key, validation_key, data, validation):
    step, look = _programs(apply, training)
    for number in range(1, training.steps + 1):
        state = step(state, step_key, data)
        if validation is not None and (number % training.eval_every == 0 or number == training.steps):
            state = look(state, validation_key, validation)
            if state.waited >= training.patience:
                break
    return state


@lru_cache(maxsize=64)
def _optimizer(training):
    return optax.adamw(training.learning_rate, weight_decay=training.weight_decay)


def _logits(out):
    return logits_and_features(out)[0].astype(jnp.float32)
