"""Strategies that train networks of their own, each round, in `prepare`: a learned score fits the same shape."""

from bdal.contrib.loss_prediction import loss_prediction
from bdal.contrib.vaal import vaal
from bdal.strategy import Method

STRATEGIES = {
    "loss_prediction": Method(
        loss_prediction, "features, labelled points", "steps·hidden·D", "Yoo & Kweon 2019",
        "the features stay as they are; in the paper the module trains with the network, at several depths",
        "contrib.loss_prediction",
    ),
    "vaal": Method(
        vaal, "inputs, labelled points, targets", "steps·hidden·D", "Sinha et al. 2019",
        "fully connected networks on flat, standardised inputs, for any data; the paper's are convolutional",
        "contrib.vaal",
    ),
}  # fmt: skip

__all__ = ["STRATEGIES", "loss_prediction", "vaal"]
