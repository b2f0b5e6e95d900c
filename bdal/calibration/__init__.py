"""Whether the probabilities can be trusted: proper scores and calibration errors of `probs [..., N, C]`."""

from bdal.calibration.binned import Reliability, classwise_ece, ece, mce, reliability
from bdal.calibration.proper_scores import accuracy, brier, class_accuracy, nll

__all__ = ["Reliability", "accuracy", "brier", "class_accuracy", "classwise_ece", "ece", "mce", "nll", "reliability"]
