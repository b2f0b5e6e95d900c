"""When to stop asking, besides the budget: rules that look at what a round has brought, and at nothing labelled.

Each rule is a function of numbers; `stop_reason` asks them in a fixed order. None of them is on by default anywhere:
they save labels where they are right, and end a run too early where they are not.

Axis letters: Q query size, K members, C classes, B points of the stop set.
"""

import math
from collections.abc import Sequence

import numpy as np

from bdal.selection.joint import CEILING

ROUNDING = float(np.finfo(np.float32).eps)  # nats; less is not told from 0

JOINT_GAINS = frozenset({"batchbald"})  # strategies whose gains add up to the information of the whole batch
INFORMATION_GAINS = JOINT_GAINS | {  # strategies whose gains are information in nats, unless another score is chosen
    "bald", "power_bald", "softmax_bald", "softrank_bald", "mutual_information_penalty", "epig",
}  # fmt: skip


def reaches_ceiling(gains, num_members: int) -> bool:
    """Whether a batch carries all that K members can tell apart: `I(y_1, ..., y_Q; k) > log K − 0.05`.

    The joint information of a batch about the member is at most log K. Where a batch comes that close, what is left
    for the next pick is less than the error of its estimate, and rows are ranked by noise: `batchbald` then goes on by
    another rule, with a warning. A larger committee or a smaller query goes further.

    Args:
      gains: `[Q]`, in nats, that add up to the joint information, as those of `JOINT_GAINS` do.
      num_members: K.

    Kirsch, van Amersfoort & Gal (2019), "BatchBALD", NeurIPS, §3: the joint mutual information is bounded by the
    entropy of the member.

    >>> reaches_ceiling([0.9, 0.6], 5), reaches_ceiling([0.9, 0.6, 0.1], 5)  # log 5 = 1.609
    (False, True)
    """
    if num_members < 1:
        raise ValueError(f"num_members: expected at least 1, got {num_members}")
    gains = _gains(gains)
    return bool(gains.size) and bool(gains.sum() > math.log(num_members) - CEILING)


def agreement(previous, current, num_classes: int) -> float | None:
    """Cohen's kappa between the classes that two models predict: `κ = (A_o − A_e) / (1 − A_e)`.

    A_o is the share of points on which they agree, and A_e what it would be if each kept its class frequencies and
    they were independent: `A_e = Σ_c p_c q_c`. One where they always agree, 0 where they agree as often as by chance.

    Args:
      previous, current: `[B]` classes from 0 to C − 1, of two successive models on the same stop set: points that are
        drawn once, at random, and need no labels.
      num_classes: C.

    Returns:
      Kappa, from −1 to 1. None where it is 0/0: both predict one class, the same one, and nothing else, which says
      nothing about the models.

    Raises:
      TypeError: predictions that are no integers.
      ValueError: no predictions, or as many as do not pair up; a class that is none of C.

    Cohen (1960), "A coefficient of agreement for nominal scales", Educational and Psychological Measurement 20(1).

    >>> agreement([0, 0, 1, 1], [0, 0, 1, 0], num_classes=2)
    0.5
    """
    previous, current = _classes(previous, "previous", num_classes), _classes(current, "current", num_classes)
    if previous.shape != current.shape:
        raise ValueError(f"current: expected the {previous.size} points of previous, got {current.size}")
    size = previous.size
    observed = size * int((previous == current).sum())  # these are B² times the shares: integers, and exact
    counts = [np.bincount(classes, minlength=num_classes).tolist() for classes in (previous, current)]
    expected = sum(p * q for p, q in zip(*counts, strict=True))
    return None if expected == size**2 else (observed - expected) / (size**2 - expected)


def stabilised(kappas: Sequence[float | None], window: int = 3, threshold: float = 0.99) -> bool:
    """Whether predictions have come to rest: the mean of the last `window` kappas is at least `threshold`.

    Where successive models agree with κ ≥ T, their F-measures differ by at most 4 (1 − T) / T (Bloodgood &
    Grothendieck, 2013, "Analysis of stopping active learning based on stabilizing predictions", CoNLL).

    Args:
      kappas: of `agreement` after each round but the first, oldest first.
      window: how many of them are looked at. With fewer, or with a None among them, the answer is no.
      threshold: in the paper 0.99, and lower to save more labels.

    Bloodgood & Vijay-Shanker (2009), "A method for stopping active learning based on stabilizing predictions and the
    need for user-adjustable stopping", CoNLL, §3.

    >>> stabilised([0.5, 0.985, 0.99, 0.998]), stabilised([0.985, 0.99, 0.993]), stabilised([1.0, 1.0])
    (True, False, False)
    """
    if window < 1:
        raise ValueError(f"window: expected at least 1, got {window}")
    last = list(kappas)[-window:]
    known = [kappa for kappa in last if kappa is not None]
    return len(known) == window and math.fsum(known) >= window * threshold


def no_expected_gain(gains, threshold: float = 0.0) -> bool:
    """Whether no point of a query is expected to tell more than `threshold`: `max_q gain_q <= threshold`, in nats.

    At 0, up to rounding, members agree on every point that was picked, as far as they can be told apart. Where picks
    are drawn (`power_bald`), others of the pool may tell more than the ones that were drawn.

    Args:
      gains: `[Q]`, information in nats, as those of `INFORMATION_GAINS`; other scores mean nothing at 0.
      threshold: a label that tells less is not worth its price.

    >>> no_expected_gain([0.0, 3e-8]), no_expected_gain([0.02, 0.01]), no_expected_gain([0.02, 0.01], threshold=0.02)
    (True, False, True)
    """
    if not threshold >= 0:
        raise ValueError(f"threshold: expected nats, at least 0, got {threshold}")
    gains = _gains(gains)
    return bool(gains.size) and bool(gains.max() <= threshold + ROUNDING)


def stop_reason(
    gains=(), kappas: Sequence[float | None] = (), *, num_members: int | None = None, window: int = 3,
    threshold: float = 0.99, no_gain: float | None = None,
) -> str | None:  # fmt: skip
    """The first rule that says to stop, "ceiling", "stabilised" or "no_gain", in this order; None if none does.

    Args:
      gains: of the round's query; empty where there is none.
      kappas: of `agreement`, the last one that of this round; empty to leave `stabilised` out.
      num_members: K, to ask `reaches_ceiling`; only where gains add up to the joint information (`JOINT_GAINS`).
      window, threshold: of `stabilised`.
      no_gain: the threshold of `no_expected_gain`, to ask it; only where gains are information (`INFORMATION_GAINS`).

    >>> stop_reason([0.9, 0.7], num_members=5), stop_reason([1e-3], [1.0, 1.0, 1.0]), stop_reason([1e-3], no_gain=0.0)
    ('ceiling', 'stabilised', None)
    """
    if num_members is not None and reaches_ceiling(gains, num_members):
        return "ceiling"
    if stabilised(kappas, window, threshold):
        return "stabilised"
    if no_gain is not None and no_expected_gain(gains, no_gain):
        return "no_gain"
    return None


def _gains(gains) -> np.ndarray:
    gains = np.asarray(gains, np.float64)
    if gains.ndim != 1 or not np.isfinite(gains).all():
        raise ValueError(f"gains: expected finite numbers [Q], got {gains.tolist()}")
    return gains


def _classes(predictions, name: str, num_classes: int) -> np.ndarray:
    predictions = np.asarray(predictions)
    if predictions.ndim != 1 or not predictions.size:
        raise ValueError(f"{name}: expected classes [B] of at least one point, got shape {predictions.shape}")
    if not np.issubdtype(predictions.dtype, np.integer):
        raise TypeError(f"{name}: expected classes as integers, got {predictions.dtype}")
    bad = np.flatnonzero((predictions < 0) | (predictions >= num_classes))
    if bad.size:
        raise ValueError(
            f"{name}: expected classes from 0 to {num_classes - 1}, got {predictions[bad[0]]} at place {bad[0]}"
        )
    return predictions
