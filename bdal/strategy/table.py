"""The table of named strategies, and `make_strategy`, which makes one by its name.

Axis letters: R rows, K members, C classes, D features, T targets, L labelled points, Q query size.
"""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple, get_args

from bdal import acquisition
from bdal.strategy import factories
from bdal.strategy.factories import of_log_probs
from bdal.strategy.querying import Prefilter, QueryStrategy


class Method(NamedTuple):
    """A row of the table of strategies; `bdal methods` prints it.

    Attributes:
      make: the factory; its parameters are the strategy's options.
      needs: what it looks at, beyond the committee's log-probabilities where it says so.
      cost: operations for a query from R rows, beyond the predictions themselves.
      paper: where it is from.
      pinned_by: the module whose tests hold it against something that is not itself.
    """

    make: Callable[..., QueryStrategy]
    needs: str
    cost: str
    paper: str
    pinned_by: str

    @property
    def options(self) -> dict[str, object]:
        """The strategy's options and their defaults."""
        return {name: parameter.default for name, parameter in _parameters(self.make).items()}

    @property
    def test(self) -> str:
        """The file with these tests."""
        *folders, module = self.pinned_by.split(".")
        return "/".join(["tests", *folders, f"test_{module}.py"])


def _module(function) -> str:
    return function.__module__.removeprefix("bdal.")


_PAPERS = {
    "predictive_entropy": "Shannon 1948; Settles 2009",
    "expected_entropy": "Gal 2016",
    "least_confidence": "Lewis & Gale 1994",
    "margin": "Scheffer et al. 2001",
    "bald": "Houlsby et al. 2011",
    "balanced_entropy": "Woo 2023",
    "variation_ratio": "Freeman 1965; Beluch et al. 2018",
    "vote_entropy": "Dagan & Engelson 1995",
    "mean_std": "Kampffmeyer et al. 2016",
    "predictive_variance": "Osband et al. 2023",
}
_TARGETS = {
    "epig": "Bickford Smith et al. 2023",
    "expected_error_reduction": "Roy & McCallum 2001",
    "core_mse": "Tan et al. 2021",
    "core_log": "Tan et al. 2021",
    "mocu": "Yoon et al. 2013",
    "weighted_mocu": "Zhao et al. 2021",
    "soft_mocu": "Zhao et al. 2021",
}
_NAMES = {"predictive_entropy": "entropy"}

LOG_PROBS, FEATURES, SNAPSHOTS = "log-probabilities", "features", "snapshots as members"
LABELLED = "features, labelled points"

STRATEGIES: dict[str, Method] = {
    "random": Method(factories.random, "nothing", "R", "", "strategy"),
    **{
        _NAMES.get(name, name): Method(
            partial(factories.pointwise, name), LOG_PROBS, "R·K·C", _PAPERS.get(name, ""), _module(function)
        )
        for name, function in acquisition.ACQUISITION_FUNCTIONS.items()
        if name != "mean_kl"  # bald
    },
    "power_bald": Method(factories.power, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", "selection.stochastic"),
    "softmax_bald": Method(factories.softmax, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", "selection.stochastic"),
    "softrank_bald": Method(factories.softrank, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", "selection.stochastic"),
    "expected_model_change": Method(
        factories.expected_model_change, FEATURES, "R·K·(C + D)", "Settles et al. 2008", "acquisition.model_change"
    ),
    "fisher_trace": Method(
        factories.fisher_trace, FEATURES, "R·K·(C + D)", "Ash et al. 2021", "acquisition.model_change"
    ),
    **{
        name: Method(partial(factories.toward_targets, name), "targets", "R·T·K·C²", paper, "acquisition.prediction")
        for name, paper in _TARGETS.items()
    },
    "contrastive": Method(
        factories.contrastive, LABELLED, "R·L·(C + D)", "Margatina et al. 2021", "acquisition.contrastive"
    ),
    "label_dispersion": Method(
        partial(factories.over_snapshots, "label_dispersion"),
        SNAPSHOTS,
        "R·K·C",
        "Bengar et al. 2021",
        "acquisition.dynamics",
    ),
    "forgetting_events": Method(
        partial(factories.over_snapshots, "forgetting_events"),
        SNAPSHOTS,
        "R·K·C",
        "Toneva et al. 2019",
        "acquisition.dynamics",
    ),
    "bald_diverse": Method(factories.diverse, FEATURES, "Q·R·D", "Carbonell & Goldstein 1998", "selection.penalties"),
    "mutual_information_penalty": Method(
        factories.mutual_information_penalty, LOG_PROBS, "Q·R·K·C²", "Rubashevskii et al. 2023", "selection.penalties"
    ),
    "batchbald": Method(factories.batchbald, LOG_PROBS, "Q·R·K·C·samples", "Kirsch et al. 2019", "selection.joint"),
    "badge": Method(factories.badge, FEATURES, "Q·R·(C + D)", "Ash et al. 2020", "selection.gradient"),
    "uncertainty_herding": Method(
        factories.uncertainty_herding, FEATURES, "Q·R²·D", "Bae et al. 2025", "selection.covers"
    ),
    "suggestive_annotation": Method(
        factories.suggestive_annotation, FEATURES, "Q·R²·D", "Yang et al. 2017", "selection.combinations"
    ),
    "cluster_margin": Method(
        factories.cluster_margin, FEATURES, "R·clusters·D", "Citovsky et al. 2021", "selection.combinations"
    ),
    "class_balanced": Method(factories.class_balanced, "labelled points", "R·K·C", "", "selection.combinations"),
    "k_center": Method(factories.k_center, LABELLED, "(L + Q)·R·D", "Sener & Savarese 2018", "selection.coverage"),
    "lcmd": Method(factories.lcmd, LABELLED, "(L + Q)·R·D", "Holzmüller et al. 2023", "selection.clusters"),
    "k_means": Method(factories.k_means, FEATURES, "steps·Q·R·D", "Zhdanov 2019", "selection.clusters"),
    "k_means_plus_plus": Method(
        factories.k_means_plus_plus, LABELLED, "(L + Q)·R·D", "Arthur & Vassilvitskii 2007", "selection.clusters"
    ),
    "max_det": Method(
        factories.max_det,
        LABELLED,
        "(L + Q)²·R + (L + Q)·R·D",
        "Bıyık et al. 2019; Kirsch 2023",
        "selection.determinants",
    ),
    "bait": Method(factories.bait, LABELLED, "(L + Q·R)·C²·D²", "Ash et al. 2021", "selection.bait"),
    "bait_one_vector": Method(
        factories.bait_one_vector, LABELLED, "(L + Q·R)·D²", "Holzmüller et al. 2023", "selection.bait"
    ),
    "frank_wolfe": Method(factories.frank_wolfe, FEATURES, "Q·R·D", "Pinsler et al. 2019", "selection.determinants"),
    "typiclust": Method(factories.typiclust, LABELLED, "steps·(L + Q)·R·D", "Hacohen et al. 2022", "selection.typical"),
    "prob_cover": Method(factories.prob_cover, LABELLED, "Q·R²·D", "Yehuda et al. 2022", "selection.covers"),
    "max_herding": Method(factories.max_herding, LABELLED, "Q·R²·D", "Bae et al. 2024", "selection.covers"),
    "facility_location": Method(factories.facility_location, LABELLED, "Q·R²·D", "Wei et al. 2015", "selection.covers"),
}


def make_strategy(
    name: str, *, prefilter: int | None = None, prefilter_by: str = "bald", table: dict[str, Method] = STRATEGIES,
    **options,
) -> QueryStrategy:  # fmt: skip
    """A named strategy with its options.

    Args:
      name: one of `STRATEGIES`; `bdal methods` prints what each needs and costs.
      prefilter: only so many candidates, those of highest `prefilter_by`, go on to the strategy: for pools too large
        for what it looks at, and for hybrids.
      prefilter_by: an acquisition function of `bdal.acquisition.ACQUISITION_FUNCTIONS`.
      table: where the name is looked up.
      **options: the parameters of the strategy's factory.

    Raises:
      ValueError: an unknown name or option, or a value that an option cannot have; the message lists what there is.

    >>> make_strategy("power_bald", beta=4.0) is make_strategy("power_bald", beta=4.0)
    True
    """
    if name not in table:
        raise ValueError(f"strategy: expected one of {', '.join(sorted(table))}, got {name!r}")
    factory = table[name].make
    parameters = _parameters(factory)
    unknown = [option for option in options if option not in parameters]
    if unknown:
        expected = f"options {', '.join(parameters)}" if parameters else "no options"
        raise ValueError(f"strategy {name}: expected {expected}, got {unknown[0]!r}")
    for option, value in options.items():
        _check_option(name, option, value, parameters[option].annotation)
    strategy = factory(**options)
    if prefilter is None:
        return strategy
    _check_option(name, "prefilter", prefilter, int)
    _check_option(name, "score", prefilter_by, str)
    return strategy._replace(prefilter=_prefilter(prefilter_by, prefilter))


def _parameters(factory) -> dict[str, inspect.Parameter]:
    return {} if isinstance(factory, partial) else dict(inspect.signature(factory).parameters)


@cache
def _prefilter(score: str, size: int) -> Prefilter:
    return Prefilter(of_log_probs(acquisition.ACQUISITION_FUNCTIONS[score]), size)


def _check_option(name: str, option: str, value, kind) -> None:
    choices = tuple(acquisition.ACQUISITION_FUNCTIONS) if option == "score" else ()
    choices = get_args(kind) if not choices and all(isinstance(a, str) for a in get_args(kind)) else choices
    if choices and value not in choices:
        raise ValueError(f"strategy {name}: expected a {option} among {', '.join(choices)}, got {value!r}")
    number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    if kind is float and not number:
        raise ValueError(f"strategy {name}: expected a {option} that is finite and not negative, got {value!r}")
    if (kind is int or int in get_args(kind)) and not (number and isinstance(value, int) and value >= 1):
        raise ValueError(f"strategy {name}: expected a {option} of at least 1, an integer, got {value!r}")
