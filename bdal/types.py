"""The shapes in which what is not ours comes in: a network's variables, the data of a fit, and the functions between.

Axis letters: V validation points, B a minibatch, K members, C classes, D features, Q query size.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Variables(NamedTuple):
    """What a network holds.

    Attributes:
      params: a pytree; its floating-point leaves are the weights, which training changes.
      state: what training carries and no gradient reaches, such as running statistics.
    """

    params: Any
    state: Any = ()


class TrainingData(NamedTuple):
    """What a fit learns from. Shapes are the same in every round, so that one program serves them all.

    Attributes:
      inputs: `[capacity, ...]`, a pytree; the first `count` rows are real.
      labels: `[capacity]`.
      count: how many rows are real; a traced number where the fit is compiled.
      validation: `(inputs [V, ...], labels [V])` for early stopping, or None.
      previous: the committee of the round before, for a warm start; None where each round starts from scratch.
      warm: whether `previous` holds one; False in the first round, where it has the same structure.
    """

    inputs: Any
    labels: Any
    count: Any
    validation: tuple[Any, Any] | None = None
    previous: Any = None
    warm: Any = False


class Apply(Protocol):
    """A network for one input: `(variables, noise, x) -> outputs [P]`, or `(outputs [P], features [D])`.

    `noise` is the member's: a key of `jax.random` for dropout, or what else the network takes; None: no noise.
    """

    def __call__(self, variables: Any, noise: Any, x: Any, /) -> Any: ...


class MemberApply(Protocol):
    """A member of a committee for one input: `(shared, own, noise, x) -> outputs [P]` or `(outputs [P], features [D])`.

    `shared` is the same for all members, `own` and `noise` are the member's.
    """

    def __call__(self, shared: Any, own: Any, noise: Any, x: Any, /) -> Any: ...


class Train(Protocol):
    """A network for a minibatch in training.

    `(variables, key, inputs [B, ...]) -> (outputs [B, P] or (outputs [B, P], features [B, D]), new state)`.
    """

    def __call__(self, variables: Variables, key: Any, inputs: Any, /) -> tuple[Any, Any]: ...


class Votes(Protocol):
    """What a committee of one's own needs: `log_probs(inputs [B, ...]) -> [B, K, C]` in nats.

    Strategies that look at features also ask for `features(inputs) -> [B, K, D]` and `embedding(inputs) -> [B, D]`.
    """

    def log_probs(self, inputs: Any, /) -> Any: ...


class Fit(Protocol):
    """A way to get a committee from labels: `(key, TrainingData) -> Committee`, or any object as `Votes` says."""

    def __call__(self, key: Any, data: TrainingData, /) -> Any: ...


class Oracle(Protocol):
    """Who labels: `indices [Q] -> labels [Q]`, on the host; `bdal.ABSTAIN` for a point that it will not label."""

    def __call__(self, indices: np.ndarray, /) -> Any: ...
