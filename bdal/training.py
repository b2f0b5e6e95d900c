"""One training loop, compiled once: a fixed number of rows of which a traced count is real, watched as it goes.

The labelled inputs have a fixed capacity; minibatches are drawn with replacement from the first `count` rows, so the
same program serves every round, strategy and seed. A `Watch` sees the network every so many steps: early stopping is
one, and so is a posterior that collects moments of the training. Everything is pure: `vmap` over keys is a deep
ensemble, `vmap` over labelled sets is seeds.

Axis letters: B rows of a minibatch, V validation points, M masks.
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

from bdal.backend import key_shape, one_of, shapes_of, steps_from_python
from bdal.committee import outputs_and_features, split_weights
from bdal.errors import LabelError, as_array, check_inputs, check_key, described_type, is_concrete
from bdal.likelihood import Likelihood, categorical
from bdal.model import Model, trained_by
from bdal.types import TrainingData, Variables


@dataclass(frozen=True)
class Training:
    """How a network is trained in every round, from scratch.

    Attributes:
      steps: the most minibatches.
      min_steps: parameters from before this step are never the best: where a class has no label yet, its validation
        points are answered worse with every step, and a network that has learned nothing would look best.
      batch_size: rows a minibatch, drawn with replacement.
      learning_rate, weight_decay: of AdamW, on the weights (`bdal.committee.split_weights`).
      eval_every: steps between two evaluations of the validation NLL.
      patience: evaluations without improvement after which training stops.
    """

    steps: int = 600
    min_steps: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    eval_every: int = 25
    patience: int = 8

    def __post_init__(self):
        for name in ("steps", "min_steps", "batch_size", "eval_every", "patience"):
            if not hasattr(getattr(self, name), "__index__"):
                raise ValueError(f"{name}: expected a whole number, got {getattr(self, name)}")
        for name in ("steps", "batch_size", "eval_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("min_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate: expected a number above 0, got {self.learning_rate}")

    def optimizer(self) -> optax.GradientTransformation:
        """AdamW."""
        return _adamw(self.learning_rate, self.weight_decay)


@lru_cache(maxsize=64)
def _adamw(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, weight_decay=weight_decay)  # the same functions for the same numbers


class Watch(NamedTuple):
    """What sees a network while it is trained, as a fold over its evaluations.

    Attributes:
      start: `(key, Variables) -> carry`, of the network before its first step.
      see: `(carry, step, Variables, TrainingData) -> carry`, every `every` steps and after the last one.
      done: `carry -> bool`, whether training ends here.
    """

    start: Callable[[jax.Array, Variables], Any]
    see: Callable[..., Any]
    done: Callable[[Any], Any] = lambda carry: jnp.bool_(False)


class Trained(NamedTuple):
    """What training ends with: the last variables, the steps that were taken, and what the watch has."""

    variables: Variables
    steps: jax.Array
    watched: Any


class _State(NamedTuple):
    steps: jax.Array
    variables: Variables
    optimizer: Any
    watched: Any


def train(
    key: jax.Array, model: Model, likelihood: Likelihood, data: TrainingData, optimizer: optax.GradientTransformation,
    *, steps: int, batch_size: int, every: int | None = None, watch: Watch | None = None,
    penalty: Callable[[Any, Any], jax.Array] | None = None, start: Variables | None = None,
) -> Trained:  # fmt: skip
    """Minimise the mean loss of the first `count` rows, `mean_i −log p(y_i | x_i) + penalty(params, count) / count`.

    Args:
      key: consumed; initialises, draws minibatches and noise.
      model, likelihood: the network and what its outputs mean.
      data: with none of its rows real, the variables stay as they are.
      optimizer: of the weights (`bdal.committee.split_weights`).
      steps: the most minibatches.
      batch_size: B, drawn with replacement.
      every: steps between two looks of the watch; None: all of them.
      watch: None: nobody looks, and all steps are taken. Pass the same one, or an equal one, for the same program.
      penalty: `(params, count) -> nats`, such as a negative log-prior or a KL divergence.
      start: where training starts; None: `model.init` of the key.

    Returns:
      `Trained`. On the CPU, networks with XLA's convolutions are stepped from Python (`bdal.backend`); under a
      trace they are not, and take 20 times as long.

    Raises:
      LabelError: a label of the first `count`, or for validation, that is none of the likelihood's (where they have
        values, that is, not under a trace).
    """
    data = checked(model, likelihood, data)
    init_key, key, watch_key = jax.random.split(key, 3)
    start = model.init(init_key) if start is None else start
    data = _with_a_row(data)
    how = _How(model, likelihood, optimizer, batch_size, penalty, watch)
    state = _State(
        steps=jnp.int32(0),
        variables=start,
        optimizer=optimizer.init(split_weights(start)[0]),
        watched=() if watch is None else watch.start(watch_key, start),
    )
    every = steps if every is None or watch is None else every
    if is_concrete(key, start, data) and leaves_loop_to_python(model, data.inputs):
        step, see = _programs(how)
        for number in range(1, steps + 1):
            state = step(state, key, data)
            if watch is not None and (number % every == 0 or number == steps):
                state = see(state, data)
                if watch.done(state.watched):
                    break
        return Trained(state.variables, state.steps, state.watched)

    def goes_on(state):
        return (state.steps < steps) & (True if watch is None else ~watch.done(state.watched))

    def period(state):
        end = jnp.minimum(state.steps + every, steps)
        return _see(how, jax.lax.fori_loop(state.steps, end, lambda _, s: _step(how, s, key, data), state), data)

    state = jax.lax.while_loop(goes_on, period, state)
    return Trained(state.variables, state.steps, state.watched)


class _How(NamedTuple):
    """What does not change from step to step, and is known before tracing."""

    model: Model
    likelihood: Likelihood
    optimizer: optax.GradientTransformation
    batch_size: int
    penalty: Callable[..., Any] | None
    watch: Watch | None


@lru_cache(maxsize=16)
def _programs(how: _How):
    step = jax.jit(lambda state, key, data: _step(how, state, key, data))
    return step, jax.jit(lambda state, data: _see(how, state, data))


def _see(how: _How, state: _State, data: TrainingData) -> _State:
    if how.watch is None:
        return state
    return state._replace(watched=how.watch.see(state.watched, state.steps, state.variables, data))


def _step(how: _How, state: _State, key, data: TrainingData) -> _State:
    """One minibatch."""
    row_key, noise_key = jax.random.split(jax.random.fold_in(key, state.steps))
    rows = jax.random.randint(row_key, (how.batch_size,), 0, jnp.maximum(data.count, 1), jnp.int32)
    batch = jax.tree.map(lambda leaf: leaf[rows], data.inputs)
    weights, rebuild = split_weights(state.variables)

    def loss(weights):
        variables = rebuild(weights)
        out, new = trained_by(how.model)(variables, noise_key, batch)
        outputs = out[0] if isinstance(out, tuple) else out
        value = how.likelihood.loss(outputs, data.labels[rows]).mean()
        if how.penalty is not None:
            value += how.penalty(variables.params, data.count) / jnp.maximum(data.count, 1)
        return jnp.where(data.count > 0, value, 0.0), new

    gradient, new = jax.grad(loss, has_aux=True)(weights)
    updates, optimizer = how.optimizer.update(gradient, state.optimizer, weights)
    updates = jax.tree.map(lambda u: jnp.where(data.count > 0, u, jnp.zeros_like(u)), updates)
    moved: Any = optax.apply_updates(weights, updates)
    new = jax.tree.map(lambda new, old: jnp.where(data.count > 0, new, old), new, state.variables.state)
    return state._replace(steps=state.steps + 1, variables=rebuild(moved)._replace(state=new), optimizer=optimizer)


def _with_a_row(data: TrainingData) -> TrainingData:
    """Minibatches are drawn of one row at least, real or not: a capacity of none gets one that is not."""
    if data.labels.shape[0]:
        return data
    inputs, labels = jax.tree.map(lambda leaf: jnp.zeros((1, *leaf.shape[1:]), leaf.dtype), (data.inputs, data.labels))
    return data._replace(inputs=inputs, labels=labels)


# -- early stopping ---------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """The best variables so far, as early stopping has them."""

    variables: Variables
    step: jax.Array
    validation_nll: jax.Array
    waited: jax.Array  # evaluations since then


@lru_cache(maxsize=64)
def early_stopping(model: Model, likelihood: Likelihood, min_steps: int, patience: int, masks: int = 0) -> Watch:
    """A `Watch` that ends training when the validation NLL has not improved for `patience` evaluations.

    Its carry is `(key, Best)`. The NLL is that of the averaged prediction, `−log (1/M) Σ_m p_m(y | x)` over M masks,
    the same at each evaluation; without masks, of the network without noise. Variables from before `min_steps` are
    never the best.
    """

    def start(key, variables):
        return key, Best(variables, jnp.int32(0), jnp.float32(jnp.inf), jnp.int32(0))

    def see(carry, step, variables, data):
        key, best = carry
        inputs, labels = data.validation

        def loss(noise):
            outputs = jax.vmap(lambda x: outputs_and_features(model.apply(variables, noise, x), likelihood)[0])(inputs)
            return likelihood.loss(outputs, labels)  # [V]

        if masks:
            losses = jax.vmap(loss)(jax.random.split(jax.random.clone(key), masks))  # [M, V]
            nll = (jnp.log(masks) - jax.nn.logsumexp(-losses, axis=0)).mean()
        else:
            nll = loss(None).mean()
        early = step < min_steps
        better = (nll < best.validation_nll) & ~early
        waited = jnp.where(better | early, 0, best.waited + 1)
        candidate = Best(variables, step, nll, waited)
        kept = jax.tree.map(lambda new, old: jnp.where(better, new, old), candidate, best)
        return key, kept._replace(waited=waited)

    return Watch(start, see, lambda carry: carry[1].waited >= patience)


class Learned(NamedTuple):
    """A network that was trained, and scalars about it for `Committee.info`."""

    variables: Variables
    info: dict[str, jax.Array]


def learn(
    key, model: Model, likelihood: Likelihood, data: TrainingData, training: Training, *, masks: int = 0
) -> Learned:
    """Train one network with early stopping on the validation labels; without any, all steps are taken.

    Args:
      key, model, likelihood, data: see `train`.
      training: the schedule.
      masks: over which the validation prediction is averaged, for networks with noise; 0: no noise.

    Returns:
      The best variables, or the last ones where no evaluation was finite (then training has diverged) or there was
      none. The scalars: `steps` that were taken, `best_step` of the variables, `validation_nll` in nats (NaN without
      validation), and whether it `diverged`.
    """
    watch = None
    if data.validation is not None and len(data.validation[1]):
        min_steps = min(training.min_steps, training.steps)
        watch = early_stopping(model, likelihood, min_steps, training.patience, masks)
    trained = train(
        key, model, likelihood, data, training.optimizer(), steps=training.steps, batch_size=training.batch_size,
        every=training.eval_every, watch=watch,
    )  # fmt: skip
    last = Best(trained.variables, trained.steps, jnp.float32(jnp.nan), jnp.int32(0))
    diverged = jnp.bool_(False)
    if watch is not None:
        best = trained.watched[1]
        diverged = ~jnp.isfinite(best.validation_nll)  # the last variables say so, not the first
        last = last._replace(validation_nll=best.validation_nll)
        last = jax.tree.map(lambda last, best: jnp.where(diverged, last, best), last, best)
    info = {"steps": trained.steps, "best_step": last.step, "validation_nll": last.validation_nll, "diverged": diverged}
    return Learned(last.variables, info)


# -- fits that compile themselves -------------------------------------------------------------------------------------


def leaves_loop_to_python(model: Model, inputs) -> bool:
    """Whether `train` steps from Python, unless it is traced: on a CPU, for networks with XLA's convolutions."""
    return steps_from_python(model.apply, shapes_of(model.init), key_shape(), one_of(inputs))


@dataclass(frozen=True)
class CompiledFit:
    """A fit `(key, TrainingData) -> Committee` whose calls share one program; what `bdal.posteriors` make.

    Raises `LabelError` for a label that is none of the likelihood's. Warns that running statistics, if the network has
    any and no `train` of its own, stay as `init` makes them.

    Attributes:
      pure: the same function, that may be traced; better not where `leaves_loop_to_python` holds.
      model, likelihood: what it trains.
    """

    pure: Callable[[jax.Array, TrainingData], Any]
    model: Model
    likelihood: Likelihood

    def __post_init__(self):
        if not isinstance(self.model, Model):
            raise ValueError(f"model: expected a bdal.Model, got {self.model!r}")
        variables = shapes_of(self.model.init)
        floats = [leaf for leaf in jax.tree.leaves(variables) if jnp.issubdtype(leaf.dtype, jnp.floating)]
        if len(split_weights(variables)[0]) < len(floats) and self.model.train is None:
            warnings.warn(
                "init: the network has running statistics (BatchNorm), which training does not update: they stay as "
                "initialised. LayerNorm and GroupNorm have none",
                stacklevel=4,
            )

        object.__setattr__(self, "_compiled", jax.jit(self.pure))

    def __call__(self, key, data: TrainingData | None = None):  # so that a key that is forgotten is named
        check_key(key)
        data = checked(self.model, self.likelihood, data)
        run = self.pure if leaves_loop_to_python(self.model, data.inputs) else self._compiled  # type: ignore[attr-defined]
        return run(key, data)


def checked(model: Model, likelihood: Likelihood, data: TrainingData | None) -> TrainingData:
    """The data as arrays of native types, once inputs and labels are known to be such and to fit; else a LabelError."""
    if not isinstance(data, TrainingData):
        raise TypeError(
            f"data: expected TrainingData, got {described_type(data)}; pass bdal.TrainingData(inputs, labels, count)"
        )
    inputs, labels = _checked_rows(model, likelihood, data.inputs, data.labels, data.count, "")
    validation = data.validation
    if validation is not None:
        validation = _checked_rows(model, likelihood, *validation, None, "validation ")
    return data._replace(inputs=inputs, labels=labels, validation=validation)


def _checked_rows(model: Model, likelihood: Likelihood, inputs, labels, count, whose: str):
    """Inputs `[R, ...]` and labels `[R]`. Values are looked at where there are any."""
    check_inputs(inputs, f"{whose}inputs")
    inputs = jax.tree.map(lambda leaf: as_array(leaf, f"{whose}inputs"), inputs)
    labels = as_array(labels, f"{whose}labels")
    shape = jax.tree.leaves(inputs)[0].shape[:1]
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, likelihood.dtype):
        kind = "integer class" if likelihood == categorical() else "number"
        raise LabelError(
            f"{whose}labels: expected one {kind} for each of the inputs, shape {shape}, got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if is_concrete(labels, count):
        outputs = outputs_shape(model, likelihood, inputs)
        real = np.asarray(labels) if count is None else np.asarray(labels)[: int(count)]
        likelihood.check_labels(real, outputs.shape[-1], f"{whose}labels")
    return inputs, labels


def outputs_shape(model: Model, likelihood: Likelihood, inputs) -> jax.ShapeDtypeStruct:
    """Shape and dtype of the outputs `[P]` for one of the inputs `[R, ...]`."""
    leaves, structure = jax.tree.flatten(one_of(inputs))
    return _outputs_shape(model, likelihood, structure, tuple(leaves))


@lru_cache(maxsize=256)
def _outputs_shape(model: Model, likelihood: Likelihood, structure, leaves) -> jax.ShapeDtypeStruct:
    def outputs(key, x):
        init_key, noise_key = jax.random.split(key)
        return outputs_and_features(model.apply(model.init(init_key), noise_key, x), likelihood)[0]

    return jax.eval_shape(outputs, key_shape(), jax.tree.unflatten(structure, leaves))
