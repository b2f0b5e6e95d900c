"""Whether the probabilities can be trusted: proper scores and calibration errors of `probs [..., N, C]`."""

from bdal.calibration.binned import Reliability, classwise_ece, ece, mce, reliability
from bdal.calibration.proper_scores import accuracy, brier, class_accuracy, nll
from bdal.calibration.scaling import Scaling, fit_temperature

__all__ = [
    "Reliability",
    "Scaling",
    "accuracy",
    "brier",
    "class_accuracy",
    "classwise_ece",
    "ece",
    "fit_temperature",
    "mce",
    "nll",
    "reliability",
]
