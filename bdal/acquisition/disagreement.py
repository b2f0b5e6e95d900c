"""How much the members disagree: query by committee. What more labels could settle, noise in the labels left out.

`mean_kl`, the mean Kullback-Leibler divergence of the members from their mean (McCallum & Nigam 1998), is the same
number as `bald` and kept as its second name. Higher means "label me" in all of them.

Axes: K members, C classes; any leading axes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from bdal.errors import check_log_probs
from bdal.information import entropy, log_mean_exp, mutual_information, relative_to_mean

LEAST_VARIANCE = 1e-9  # of a probability, that a Beta distribution is fitted to
LEAST_BALANCE = 1e-6  # in nats: the balanced entropy's reciprocal goes no further


def expected_entropy(log_probs: jax.Array) -> jax.Array:
    """The members' mean entropy, `mean_k H(p_k)`: the part of the predictive entropy on which they agree.

    `predictive_entropy = expected_entropy + bald`.

    Differs from the paper: in the paper it is what BALD subtracts, and no rule to query by.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]` in nats, between 0 and log C.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Houlsby et al. (2011), "Bayesian active learning for classification and preference learning", §2.

    >>> float(expected_entropy(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))))
    0.0
    """
    return entropy(check_log_probs(log_probs)).mean(-1)


def bald(log_probs: jax.Array) -> jax.Array:
    """Bayesian active learning by disagreement: `I(y; k) = H(p̄) − mean_k H(p_k) = mean_k KL(p_k ‖ p̄)`.

    The expected information that the label carries about which member is right. Exactly 0 where the members agree
    and for K = 1.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]` in nats, between 0 and min(log K, log C).

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Houlsby et al. (2011), "Bayesian active learning for classification and preference learning", §2, equation 2;
    with committees of networks: Gal, Islam & Ghahramani (2017), "Deep Bayesian active learning with image data",
    §4.

    >>> round(float(bald(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]])))), 4)
    0.6931
    """
    return mutual_information(check_log_probs(log_probs))


mean_kl = bald


def variation_ratio(log_probs: jax.Array) -> jax.Array:
    """The share of members that do not vote with the majority, `1 − max_c #{k : argmax_c p_k = c} / K`.

    It takes at most K values, so most pools are full of ties: break them at random.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`, between 0 and 1 − 1/min(K, C).

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Freeman (1965), "Elementary applied statistics"; for committees: Beluch et al. (2018), "The power of ensembles
    for active learning in image classification", §3.2.

    >>> float(variation_ratio(jnp.log(jnp.array([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]))))
    0.25
    """
    log_probs = check_log_probs(log_probs)
    num_members = log_probs.shape[-2]
    return (num_members - _votes(log_probs).max(-1)) / num_members


def vote_entropy(log_probs: jax.Array) -> jax.Array:
    """Entropy of the members' votes, `H(v)` with `v_c = #{k : argmax_c p_k = c} / K`.

    It takes few values: break ties at random.

    Differs from the paper: the highest of a pool, where the paper decides point by point in a stream; without its
    constant factor.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]` in nats, between 0 and log min(K, C).

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Dagan & Engelson (1995), "Committee-based sampling for training probabilistic classifiers", §4.

    >>> round(float(vote_entropy(jnp.log(jnp.array([[0.9, 0.1], [0.2, 0.8]])))), 4)
    0.6931
    """
    log_probs = check_log_probs(log_probs)
    return entropy(jnp.log(_votes(log_probs)) - jnp.log(float(log_probs.shape[-2])))


@jax.jit
def _votes(log_probs: jax.Array) -> jax.Array:
    """How many members vote for each class, `[..., C]`; NaN where any prediction is NaN, which argmax would hide."""
    votes = jax.nn.one_hot(log_probs.argmax(-1), log_probs.shape[-1], dtype=jnp.float32).sum(-2)
    return jnp.where(jnp.isnan(log_probs).any((-2, -1))[..., None], jnp.nan, votes)


def mean_std(log_probs: jax.Array) -> jax.Array:
    """Standard deviation over the members, averaged over the classes, `(1/C) Σ_c sqrt(Var_k p_kc)` with ddof 0.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`, between 0 and 1/2.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Kampffmeyer, Salberg & Jenssen (2016), "Semantic segmentation of small objects"; as an acquisition function:
    Gal, Islam & Ghahramani (2017), §4.

    >>> float(mean_std(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))))
    0.5
    """
    return _std(check_log_probs(log_probs)).mean(-1)


def predictive_variance(log_probs: jax.Array) -> jax.Array:
    """Variance over the members, summed over the classes, `Σ_c Var_k p_kc` with ddof 0.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`, between 0 and 1.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Osband et al. (2023), "Epistemic neural networks", NeurIPS: the "variance" priority of their code,
    google-deepmind/enn, `enn/active_learning/priorities.py`.

    >>> float(predictive_variance(jnp.log(jnp.array([[1.0, 0.0], [0.0, 1.0]]))))
    0.5
    """
    return _variance(check_log_probs(log_probs)).sum(-1)


@jax.jit
def _variance(log_probs: jax.Array) -> jax.Array:
    """`Var_k p_kc`, `[..., C]`; exactly 0 where the members agree."""
    mean, u = relative_to_mean(log_probs)
    return jnp.square(mean) * jnp.square(u).mean(-2)


@jax.jit
def _std(log_probs: jax.Array) -> jax.Array:
    """The root of `_variance`, with a gradient of 0 where the members agree and the root has none."""
    variance = _variance(log_probs)
    still = variance == 0
    return jnp.where(still, 0.0, jnp.sqrt(jnp.where(still, 1.0, variance)))


def balanced_entropy(log_probs: jax.Array) -> jax.Array:
    """Balanced entropy: the label's uncertainty against that of its probability once the label is known.

    The members' probabilities of class c are taken for draws of a Beta(α_c, β_c) distribution with their mean and
    variance (ddof 0). Once the label is known to be c it is Beta(α_c + 1, β_c), of differential entropy h_c, and so
    `Σ_c p̄_c h_c + H(p̄)` is the joint entropy of the label and of its probability. Then

        B = (Σ_c p̄_c h_c + H(p̄)) / (H(p̄) + log 2),    score = 1/B where B >= 0, else B

    so that the points just on the positive side of balance come first, then those of larger B, then the negative ones
    down from 0. Points on which the members agree or are sure come last.

    Differs from the paper: the members' variance has ddof 0, in the author's code 1; a balance below 1e-6 counts as
    1e-6.

    Args:
      log_probs: `[..., K, C]`.

    Returns:
      `[...]`: below 0, or between `1 + log 2 / log C` and 1e6. Variances below 1e-9 count as 1e-9, as in the author's
      code, and B between 0 and 1e-6 as 1e-6.

    Raises:
      ValueError, NonFiniteError: see `bdal.errors.check_log_probs`.

    Woo (2023), "Active learning in Bayesian neural networks with balanced entropy learning principle", ICLR. The
    author's repository, jaeohwoo/BalancedEntropy, counts H(p̄) twice before August 2025.

    >>> mild, sure = jnp.array([[0.3, 0.7], [0.7, 0.3]]), jnp.array([[0.9, 0.1], [0.9, 0.1]])
    >>> balanced_entropy(jnp.log(jnp.stack([mild, sure]))).round(2).tolist()
    [3.559999942779541, -8.460000038146973]
    """
    return _balanced_entropy(check_log_probs(log_probs))


@jax.jit
def _balanced_entropy(log_probs: jax.Array) -> jax.Array:
    log_mean = log_mean_exp(log_probs, axis=-2)  # [..., C]
    mean, rest = jnp.exp(log_mean), -jnp.expm1(log_mean)
    within = jnp.mean(jnp.exp(log_probs) * -jnp.expm1(log_probs), axis=-2)  # p̄ (1 − p̄) − Var p, without cancellation
    concentration = within / jnp.maximum(_variance(log_probs), LEAST_VARIANCE)  # α + β
    entropies = _beta_entropy(mean * concentration + 1, jnp.maximum(rest * concentration, 1e-6))
    label = entropy(log_mean)
    balance = (jnp.sum(mean * entropies, axis=-1) + label) / (label + np.log(2))
    return jnp.where(balance >= 0, 1 / jnp.maximum(balance, LEAST_BALANCE), balance)


def _beta_entropy(a: jax.Array, b: jax.Array) -> jax.Array:
    """Differential entropy of Beta(a, b): that of the Gaussian it tends to, and what Stirling's formula leaves out.

    In the textbook's sum of log-gamma and digamma functions float32 has no digit left from a = 10⁶ on.
    """
    gaussian = 0.5 * (jnp.log(a) + jnp.log(b) - 3 * jnp.log(a + b) + np.log(2 * np.pi * np.e))
    return gaussian + _beyond_stirling(a, 1) + _beyond_stirling(b, 1) - _beyond_stirling(a + b, 2)


def _beyond_stirling(x: jax.Array, j: int) -> jax.Array:
    """`r(x) − j / 2x + (x − j) s(x)`, where r and s complete Stirling's formulas:

    `log Γ(x) = (x − ½) log x − x + ½ log 2π + r(x)` and `ψ(x) = log x − 1/2x − s(x)`.
    """
    far = x >= 8  # from where the three terms of the asymptotic series give all of float32
    near, y = jnp.where(far, 8.0, x), 1 / jnp.where(far, x, 8.0)
    log_near = jnp.log(near)
    r_near = jax.scipy.special.gammaln(near) - (near - 0.5) * log_near + near - 0.5 * np.log(2 * np.pi)
    s_near = log_near - 0.5 / near - jax.scipy.special.digamma(near)
    r = jnp.where(far, y * (1 / 12 - jnp.square(y) * (1 / 360 - jnp.square(y) / 1260)), r_near)
    s = jnp.where(far, jnp.square(y) * (1 / 12 - jnp.square(y) * (1 / 120 - jnp.square(y) / 252)), s_near)
    return r - 0.5 * j / x + (x - j) * s
