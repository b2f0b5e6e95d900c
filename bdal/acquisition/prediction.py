"""How much a label would improve the predictions that matter: those at a set of targets.

A label y at x re-weights the members, `w_k ∝ p_k(y|x)`, and so turns the prediction at a target from `p̄_t` into
`q_t|y = Σ_k p_k(y|x) p_k(·|t) / Σ_k p_k(y|x)`. Every score here is the expected gain of that, over the label
`y ~ p̄(·|x)` and over the targets, in a convex functional F of the prediction at the target:

    E_t E_y [F(q_t|y) − F(p̄_t)] = E_t E_y D_F(q_t|y, p̄_t),    D_F(q, p) = F(q) − F(p) − ∇F(p)·(q − p)

The two sides are equal because the label moves the prediction nowhere on average, `E_y q_t|y = p̄_t`; the right one, a
mean of Bregman divergences, is what is computed. It cannot be negative and loses nothing to cancellation.

| score | F(q) | D_F(q, p) |
|---|---|---|
| `epig`, `core_log` | `−H(q)` | `KL(q ‖ p)` |
| `core_mse` | `‖q‖²` | `‖q − p‖²` |
| `expected_error_reduction`, `mocu` | `max_c q_c` | `max_c q_c − q_ĉ`, with `ĉ = argmax p` |
| `soft_mocu` | `log Σ_c exp(λ q_c) / λ` | see there |

Axes: N pool points, T targets, K members, C classes (D for those of the targets).
"""

import warnings
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import axis_order, check_finite, check_floating, check_log_probs, is_concrete
from bdal.information import at_largest, kl_term, largest, relative_to_mean

BLOCK = 2**20  # numbers held at a time (a cache full): all pairs of classes, of some points and some targets
FEW_MEMBERS = 100
MAX_SHARPNESS = 80.0  # exp of it is a float32


def epig(log_probs: jax.Array, target_log_probs: jax.Array, *, target_weights: jax.Array | None = None) -> jax.Array:
    """Expected predictive information gain, `E_t I(y; y_t) = E_t E_y KL(p(y_t|x, y) ‖ p(y_t))`.

    What the label is expected to tell about the labels of the targets, which is not all that it tells about the
    members (`bald`). The estimate from K members is too high by about (2/K) BALD(x) BALD(t) and ranks like BALD when K
    is small: a warning says so below 100 members.

    Differs from the paper: a config takes 200 random points of the pool for targets; the authors draw 100 from the
    target distribution. Both draw them anew each round. Give your own `targets` where predictions will be asked for
    elsewhere.

    `core_log` is its second name, with another paper. Differs from the paper: the best Q of the authors' score;
    their batch rule clusters points by what they change.

    Args:
      log_probs: `[N, K, C]`.
      target_log_probs: `[T, K, C]`, of the same members, at inputs drawn from where predictions will be asked for;
        their classes may be others than the pool's.
      target_weights: `[T]`, not negative and not all zero; they are divided by their sum. Equal by default.

    Returns:
      `[N]` in nats, never below 0, and up to rounding at most the BALD of the point and the mean BALD of the targets.

    Raises:
      ValueError: no target, another number of members; weights that are negative or of another shape.
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Bickford Smith et al. (2023), "Prediction-oriented Bayesian active learning", AISTATS, §4; as CoreLog: Tan, Du &
    Buntine (2021), "Diversity enhanced active learning with strictly proper scoring rules", NeurIPS.

    >>> sure = jnp.log(jnp.repeat(jnp.eye(2), 50, axis=0))  # 100 members, of two opinions
    >>> epig(jnp.stack([sure, sure[:, ::-1]]), sure[None]).round(4).tolist()  # log 2: the label settles the target's
    [0.6930999755859375, 0.6930999755859375]
    """
    log_probs, targets, weights = _checked(log_probs, target_log_probs, target_weights)
    if log_probs.shape[1] < FEW_MEMBERS:
        warnings.warn(
            f"epig from {log_probs.shape[1]} members is biased and ranks nearly as bald does; use {FEW_MEMBERS} or "
            "more (MC dropout, samples of a posterior), or bald",
            UserWarning,
            stacklevel=2,
        )
    return _expected_gain(log_probs, targets, weights, None, _log_divergence)


core_log = epig


def core_mse(
    log_probs: jax.Array, target_log_probs: jax.Array, *, target_weights: jax.Array | None = None
) -> jax.Array:
    """Expected gain in the quadratic (Brier) score at the targets, `E_t E_y ‖q_t|y − p̄_t‖²`.

    Its sibling for the logarithmic score, CoreLog, is `epig`, and `core_log` its second name.

    Differs from the paper: the best Q of the authors' score; their batch rule clusters points by what they change
    at each target. Their code has both, davidtw999/BEMPS.

    Args:
      log_probs: `[N, K, C]`.
      target_log_probs: `[T, K, C]`, see `epig`.
      target_weights: `[T]`, see `epig`.

    Returns:
      `[N]`, between 0 and 1 − 1/C.

    Raises:
      ValueError, NonFiniteError: as `epig`.

    Tan, Du & Buntine (2021), "Diversity enhanced active learning with strictly proper scoring rules", NeurIPS.
    Their code sums the same over the members in place of averaging, and adds what does not depend on the point.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> core_mse(sure[None], sure[None]).tolist()
    [0.5]
    """
    return _expected_gain(*_checked(log_probs, target_log_probs, target_weights), None, _squared_distance)


def expected_error_reduction(
    log_probs: jax.Array, target_log_probs: jax.Array, *, target_weights: jax.Array | None = None
) -> jax.Array:
    """Expected reduction of the zero-one error at the targets, `E_t [E_y max_c q_t|y(c) − max_c p̄_t(c)]`.

    Exactly 0 where no label of the point would change a decision: most points of most pools, so break ties at
    random, or use `weighted_mocu` or `soft_mocu`, which have no such plateau. It is also the reduction of the mean
    objective cost of uncertainty, `E_k max_c p_k(c) − max_c p̄(c)`, whose first term no label changes on average:
    `mocu` is its second name. The reduction of the log-loss is `epig`.

    Differs from the paper: the label re-weights the members; the paper trains a new model for each point and label.

    `mocu` has another paper. Differs from the paper: targets are 200 random points of the pool in a config, for speed;
    the authors take all of it.

    Args:
      log_probs: `[N, K, C]`.
      target_log_probs: `[T, K, C]`, see `epig`.
      target_weights: `[T]`, see `epig`.

    Returns:
      `[N]`, between 0 and 1 − 1/C.

    Raises:
      ValueError, NonFiniteError: as `epig`.

    Roy & McCallum (2001), "Toward optimal active learning through sampling estimation of error reduction", ICML; as
    MOCU: Yoon et al. (2013), "Quantifying the objective cost of uncertainty in complex dynamical systems", and Zhao et
    al. (2021), "Uncertainty-aware active learning for optimal Bayesian classifier", ICLR.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> expected_error_reduction(sure[None], sure[None]).tolist()
    [0.5]
    """
    return _expected_gain(*_checked(log_probs, target_log_probs, target_weights), None, _lost_decision)


mocu = expected_error_reduction


def weighted_mocu(
    log_probs: jax.Array,
    target_log_probs: jax.Array,
    *,
    concavity: float = 1.0,
    target_weights: jax.Array | None = None,
) -> jax.Array:
    """Expected reduction of the weighted mean objective cost of uncertainty, `E_t [g(L_t) − E_y g(L_t|y)]`.

    `L = E_k max_c p_k(c) − max_c p̄(c)` is what not knowing the right member costs at the target, and
    `g(L) = (1 − concavity · L) L`: the weight 1 − concavity · L makes the cost strictly concave, so that a label is
    worth something before it changes a decision. With a concavity of 0 it is `mocu`.

    Differs from the paper: targets are 200 random points of the pool in a config, for speed; the authors take all
    of it.

    Args:
      log_probs: `[N, K, C]`.
      target_log_probs: `[T, K, C]`, see `epig`.
      concavity: between 0 and 1.
      target_weights: `[T]`, see `epig`.

    Returns:
      `[N]`. Never below 0 where `concavity <= C / (2 (C − 1))`, which for two classes is always; above that, where
      members are sure and opposed.

    Raises:
      ValueError: a concavity outside [0, 1].
      ValueError, NonFiniteError: as `epig`.

    Zhao et al. (2021), "Uncertainty-aware active learning for optimal Bayesian classifier", ICLR; the weight 1 − L is
    that of the authors' code.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> weighted_mocu(sure[None], sure[None]).tolist()  # (1 − 1/2) 1/2 before, 0 after
    [0.25]
    """
    if is_concrete(concavity) and not 0 <= float(concavity) <= 1:
        raise ValueError(f"concavity must be between 0 and 1, got {concavity}")
    log_probs, targets, weights = _checked(log_probs, target_log_probs, target_weights)
    with_peaks = jnp.concatenate([targets, largest(targets)[..., None]], axis=-1)  # [T, K, C + 1]
    return _expected_gain(log_probs, with_peaks, weights, jnp.float32(concavity), _weighted_cost)


def soft_mocu(
    log_probs: jax.Array,
    target_log_probs: jax.Array,
    *,
    sharpness: float = 10.0,
    target_weights: jax.Array | None = None,
) -> jax.Array:
    """Expected reduction of the soft mean objective cost of uncertainty: `mocu` with a smooth maximum.

    `E_t [E_y s(q_t|y) − s(p̄_t)]` with `s(q) = log Σ_c exp(λ q_c) / λ`. As λ grows it approaches `mocu`, within
    2 log(C) / λ; as λ goes to 0, λ / 2C times `core_mse`. The authors' figures have λ of 10, 100 and 1,000.

    Differs from the paper: targets are 200 random points of the pool in a config, for speed; the authors take all
    of it.

    Args:
      log_probs: `[N, K, C]`.
      target_log_probs: `[T, K, C]`, see `epig`.
      sharpness: λ, above 0 and at most 80.
      target_weights: `[T]`, see `epig`.

    Returns:
      `[N]`, never below 0.

    Raises:
      ValueError: a sharpness out of range.
      ValueError, NonFiniteError: as `epig`.

    Zhao et al. (2021), "Bayesian active learning by soft mean objective cost of uncertainty", AISTATS.

    >>> sure = jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
    >>> soft_mocu(sure[None], sure[None], sharpness=1.0).round(4).tolist()  # log(1 + e) − log 2 − 1/2
    [0.1200999990105629]
    """
    if is_concrete(sharpness) and not 0 < float(sharpness) <= MAX_SHARPNESS:
        raise ValueError(f"sharpness must be above 0 and at most {MAX_SHARPNESS:g}, got {sharpness}")
    checked = _checked(log_probs, target_log_probs, target_weights)
    return _expected_gain(*checked, jnp.float32(sharpness), _soft_decision)


def _checked(log_probs, target_log_probs, target_weights) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pool, targets and weights that sum to one, as float32."""
    log_probs = check_log_probs(log_probs, rank=3)
    targets = check_log_probs(target_log_probs, "target_log_probs", rank=3)
    if targets.shape[0] == 0:
        raise ValueError(f"target_log_probs must have one target or more, got shape {targets.shape}")
    if targets.shape[1] != log_probs.shape[1]:
        raise ValueError(
            f"target_log_probs must come from the {log_probs.shape[1]} members of log_probs {log_probs.shape}, "
            f"in the same order, got shape {targets.shape}{_swapped(log_probs.shape, targets.shape)}"
        )
    if target_weights is None:
        return log_probs, targets, jnp.full(targets.shape[0], 1 / targets.shape[0], jnp.float32)
    weights = check_weights(target_weights, targets.shape[0])
    return log_probs, targets, weights


def _swapped(shape: tuple[int, ...], targets: tuple[int, ...]) -> str:
    """What to add where the members are the first axis of either, or of both."""
    if shape[0] == targets[0]:
        return "; axis order: pass [N, K, C] and [T, K, C], jnp.swapaxes(..., 0, 1) of both"
    return axis_order(shape, shape[1] if shape[0] == targets[1] else 0, "log_probs") or axis_order(
        targets, targets[1] if targets[0] == shape[1] else 0, "target_log_probs"
    )


def check_weights(target_weights, num_targets: int) -> jax.Array:
    """Weights `[T]` that are finite, not negative and not all zero, divided by their sum."""
    weights = check_floating(target_weights, "target_weights")
    if weights.shape != (num_targets,):
        raise ValueError(
            f"target_weights must have a number for each target, shape ({num_targets},), got {weights.shape}"
        )
    check_finite(weights, "target_weights")
    if is_concrete(weights):
        values = np.asarray(weights)
        if (values < 0).any() or not values.any():
            raise ValueError("target_weights must not be negative, nor all zero")
    return weights / weights.sum()


@partial(jax.jit, static_argnames="divergence")
def _expected_gain(log_probs, target_log_probs, weights, parameter, divergence: Callable) -> jax.Array:
    """`Σ_t w_t Σ_y p̄_y divergence(p̄_t, q_t|y)` for every point, `[N]`.

    `divergence(before, change, parameter) -> [C, T]` gets `before [1, T, D]`, the mean of the targets' columns over
    the members, and `change [C, T, D]`, what each label makes of it: `q = before · (1 + change)`. With u as in
    `bdal.information.mutual_information`, `change = (1/K) Σ_k u_k ⊗ u'_k`.
    """
    num_members, num_classes = log_probs.shape[1:]
    num_targets, _, width = target_log_probs.shape
    block = min(num_targets, max(1, BLOCK // (num_classes * width)))
    num_blocks = -(-num_targets // block)
    padding = num_blocks * block - num_targets

    def blocks(values):  # [T, ...] -> [T / block, block, ...]; what is added weighs nothing
        values = jnp.pad(values, [(0, padding)] + [(0, 0)] * (values.ndim - 1))
        return values.reshape(num_blocks, block, *values.shape[1:])

    before, target_u = relative_to_mean(target_log_probs)  # [T, D], [T, K, D]
    targets = blocks(before), jnp.swapaxes(blocks(target_u), 1, 2), blocks(weights)

    def of_point(point):  # [K, C]
        mean, u = relative_to_mean(point)

        def add(total, targets):
            before, target_u, weights = targets
            change = jnp.einsum("kc,ktd->ctd", u, target_u, precision="highest") / num_members
            gain = divergence(before[None], change, parameter)  # [C, T]
            gain = jnp.sum(gain * weights[None], axis=1)
            return total + jnp.sum(mean * gain), None

        return jax.lax.scan(add, jnp.float32(0), targets)[0]

    return jax.lax.map(of_point, log_probs, batch_size=max(1, BLOCK // (num_classes * block * width)))


def _log_divergence(before, change, _):
    return jnp.sum(before * kl_term(change), axis=-1)


def _squared_distance(before, change, _):
    return jnp.square(before * change).sum(-1)


def _lost_decision(before, change, _):
    """`max_c q_c − q_ĉ`: what sticking to the favourite of before would lose."""
    after = before * (1 + change)
    return largest(after) - at_largest(before, after)


def _weighted_cost(before, change, concavity):
    """`E_y` of it is `g(L) − E_y g(L_y)`, as `E_y [L_y − L] = −E_y lost`. The last column is `max_c p_k(c)`."""
    peak, peak_moved = before[..., -1], (before * change)[..., -1]
    before, change = before[..., :-1], change[..., :-1]
    lost = _lost_decision(before, change, None)
    cost = peak - largest(before)  # L
    moved = peak_moved - at_largest(before, before * change) - lost  # L_y − L
    return (1 - 2 * concavity * cost) * lost + concavity * jnp.square(moved)


def _soft_decision(before, change, sharpness):
    """`log Σ_c π_c exp(z_c) / λ`, with `π = softmax(λ p)` and `z = λ (q − p)` less its mean under π."""
    weights = jax.nn.softmax(sharpness * before, axis=-1)
    moved = sharpness * before * change
    moved = moved - jnp.sum(weights * moved, axis=-1, keepdims=True)
    excess = jnp.maximum(jnp.expm1(moved) - moved, 0.0)
    return jnp.log1p(jnp.sum(weights * excess, axis=-1)) / sharpness
