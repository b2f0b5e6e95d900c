"""The table of named strategies, and `make_strategy`, which makes one by its name.

Axis letters: R rows, K members, C classes, D features, T targets, L labelled points, Q query size.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple

from bdal import acquisition
from bdal.names import check_option, check_options, look_up, options_of
from bdal.strategy import covering, factories, scores
from bdal.strategy.querying import Prefilter, QueryStrategy, committee_itself


class Method(NamedTuple):
    """A row of the table of strategies; `bdal methods` prints it.

    Attributes:
      make: the factory; its parameters are the strategy's options.
      needs: what it looks at, beyond the committee's log-probabilities where it says so.
      cost: operations for a query from R rows, beyond the predictions themselves.
      paper: where it is from.
      rule: at its default options, `AUTHORS`, or what differs from the paper and why, in some 20 words; the docstring
        of the function or factory says the same below "Differs from the paper:".
      pinned_by: the module whose tests hold it against something that is not itself.
    """

    make: Callable[..., QueryStrategy]
    needs: str
    cost: str
    paper: str
    rule: str
    pinned_by: str

    @property
    def options(self) -> dict[str, object]:
        """The strategy's options and their defaults."""
        return {name: parameter.default for name, parameter in _options(self.make).items()}

    @property
    def test(self) -> str:
        """The file with these tests."""
        *folders, module = self.pinned_by.split(".")
        return "/".join(["tests", *folders, f"test_{module}.py"])


def _module(function) -> str:
    return function.__module__.removeprefix("bdal.")


AUTHORS = "the authors' rule"
RE_WEIGHTED = "the label re-weights the members; the paper trains a new model for each point and label"
TOP_SCORES = "the best Q of the authors' score; their batch rule clusters points by what they change"
SOME_TARGETS = "targets are 200 random points of the pool in a config, for speed; the authors take all of it"
NEARER_TO_THE_TOP = "β is 8, to stay near the highest scores; the paper's is 1"

_POINTWISE = {  # acquisition function: paper, rule
    "predictive_entropy": ("Shannon 1948; Settles 2009", AUTHORS),
    "expected_entropy": (
        "Houlsby et al. 2011",
        "in the paper it is what BALD subtracts, and no rule to query by",
    ),
    "least_confidence": ("Lewis & Gale 1994; Culotta & McCallum 2005", AUTHORS),
    "margin": ("Scheffer et al. 2001", AUTHORS),
    "bald": ("Houlsby et al. 2011; Gal et al. 2017", AUTHORS),
    "balanced_entropy": (
        "Woo 2023",
        "the members' variance has ddof 0, in the author's code 1; a balance below 1e-6 counts as 1e-6",
    ),
    "variation_ratio": ("Freeman 1965; Beluch et al. 2018", AUTHORS),
    "vote_entropy": (
        "Dagan & Engelson 1995",
        "the highest of a pool, where the paper decides point by point in a stream; without its constant factor",
    ),
    "mean_std": ("Kampffmeyer et al. 2016; Gal et al. 2017", AUTHORS),
    "predictive_variance": ("Osband et al. 2023", AUTHORS),
}
_TARGETS = {
    "epig": (
        "Bickford Smith et al. 2023",
        "a config takes 200 random points of the pool for targets; the authors draw 100 from the target distribution",
    ),
    "expected_error_reduction": ("Roy & McCallum 2001", RE_WEIGHTED),
    "core_mse": ("Tan et al. 2021", TOP_SCORES),
    "core_log": ("Tan et al. 2021", TOP_SCORES),
    "mocu": ("Yoon et al. 2013; Zhao et al. 2021", SOME_TARGETS),
    "weighted_mocu": ("Zhao et al. 2021", SOME_TARGETS),
    "soft_mocu": ("Zhao et al. 2021", SOME_TARGETS),
}
_NAMES = {"predictive_entropy": "entropy"}

LOG_PROBS, FEATURES, SNAPSHOTS = "log-probabilities", "features", "snapshots as members"
LABELLED = "features, labelled points"

STRATEGIES: dict[str, Method] = {
    "random": Method(factories.random, "nothing", "R", "", "no paper: every available point is as likely", "strategy"),
    **{
        _NAMES.get(name, name): Method(
            partial(scores.pointwise, name), LOG_PROBS, "R·K·C", paper, rule,
            _module(acquisition.ACQUISITION_FUNCTIONS[name]),
        )
        for name, (paper, rule) in _POINTWISE.items()
    },
    "power_bald": Method(
        factories.power, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", NEARER_TO_THE_TOP, "selection.stochastic"
    ),
    "softmax_bald": Method(
        factories.softmax, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", NEARER_TO_THE_TOP, "selection.stochastic"
    ),
    "softrank_bald": Method(
        factories.softrank, LOG_PROBS, "R·K·C", "Kirsch et al. 2023", AUTHORS, "selection.stochastic"
    ),
    "expected_model_change": Method(
        scores.expected_model_change, FEATURES, "R·K·(C + D)", "Settles et al. 2008",
        "the last layer's gradient, for speed; labels by the committee's mean, lengths averaged over its members",
        "acquisition.model_change",
    ),
    "fisher_trace": Method(
        scores.fisher_trace, FEATURES, "R·K·(C + D)", "Settles et al. 2008",
        "the square of the paper's gradient length, in the last layer, where it has a closed form",
        "acquisition.model_change",
    ),
    **{
        name: Method(
            partial(scores.toward_targets, name), "targets", "R·T·K·C²", paper, rule, "acquisition.prediction"
        )
        for name, (paper, rule) in _TARGETS.items()
    },
    "contrastive": Method(
        scores.contrastive, LABELLED, "R·L·(C + D)", "Margatina et al. 2021",
        "features as they are; the authors' code scales them to length 1 before it looks for neighbours",
        "acquisition.contrastive",
    ),
    "label_dispersion": Method(
        partial(scores.over_snapshots, "label_dispersion"), SNAPSHOTS, "R·K·C", "Bengar et al. 2021", AUTHORS,
        "acquisition.dynamics",
    ),
    "forgetting_events": Method(
        partial(scores.over_snapshots, "forgetting_events"), SNAPSHOTS, "R·K·C", "Toneva et al. 2019",
        "the paper counts changes from right to wrong; a pool has no labels, so any change counts",
        "acquisition.dynamics",
    ),
    "bald_diverse": Method(
        factories.diverse, FEATURES, "Q·R·D", "Carbonell & Goldstein 1998",
        "the relevance is a standardised score, and similarities below 0 count as 0; the paper ranks documents",
        "selection.penalties",
    ),
    "mutual_information_penalty": Method(
        factories.mutual_information_penalty, LOG_PROBS, "Q·R·K·C²", "Rubashevskii et al. 2023",
        "the maximum over the batch for the paper's sum, which counts the same information often when members are few",
        "selection.penalties",
    ),
    "batchbald": Method(
        factories.batchbald, LOG_PROBS, "Q·R·K·C·samples", "Kirsch et al. 2019",
        "rows are screened with fewer samples, for speed; past log K nats the batch follows another rule",
        "selection.joint",
    ),
    "badge": Method(factories.badge, FEATURES, "Q·R·(C + D)", "Ash et al. 2020", AUTHORS, "selection.gradient"),
    "uncertainty_herding": Method(
        covering.uncertainty_herding, LABELLED, "Q·R²·D", "Bae et al. 2025",
        "the temperature has least NLL on the validation labels; the paper's least ECE, with a second network",
        "selection.covers",
    ),
    "diverse_mini_batch": Method(
        factories.diverse_mini_batch, FEATURES, "R·K·C + steps·Q²·D", "Zhdanov 2019", AUTHORS, "strategy"
    ),
    "weighted_coverage": Method(
        covering.weighted_coverage, LABELLED, "Q·R²·D", "Bae et al. 2025",
        "ours: the paper's objective with any score, and a bandwidth that does not shrink: half the usual distance",
        "selection.covers",
    ),
    "suggestive_annotation": Method(
        factories.suggestive_annotation, FEATURES, "Q²·R·D", "Yang et al. 2017",
        "one label a point, not pixels; any committee for bootstrapped networks; last-layer features for descriptors",
        "selection.combinations",
    ),
    "cluster_margin": Method(
        factories.cluster_margin, FEATURES, "R·clusters·D", "Citovsky et al. 2021",
        "k-means in each round, as shapes are fixed and a strategy keeps nothing; in the paper average linkage, once",
        "selection.combinations",
    ),
    "class_balanced": Method(
        factories.class_balanced, "labelled points", "R·K·C", "Bengar et al. 2022",
        "the same aim, reached by filling up the smallest class; the paper solves a relaxed program",
        "selection.combinations",
    ),
    "k_center": Method(
        factories.k_center, LABELLED, "(L + Q)·R·D", "Sener & Savarese 2018",
        "the greedy algorithm; the paper goes on from it with mixed-integer programs that leave outliers out",
        "selection.coverage",
    ),
    "lcmd": Method(
        factories.lcmd, LABELLED, "(L + Q)·R·D", "Holzmüller et al. 2023",
        "last-layer features of a classifier; the paper's are sketched gradients of all layers, for regression",
        "selection.clusters",
    ),
    "k_means": Method(
        factories.k_means, FEATURES, "steps·Q·R·D", "Lloyd 1982; Arthur & Vassilvitskii 2007",
        "the papers only cluster; to label the point nearest to each centre is no one paper's rule",
        "selection.clusters",
    ),
    "k_means_plus_plus": Method(
        factories.k_means_plus_plus, LABELLED, "(L + Q)·R·D", "Arthur & Vassilvitskii 2007; Holzmüller et al. 2023",
        "last-layer features of a classifier; Holzmüller's are sketched gradients of all layers, for regression",
        "selection.clusters",
    ),
    "max_det": Method(
        factories.max_det, LABELLED, "(L + Q)²·R + (L + Q)·R·D", "Kirsch 2023; Holzmüller et al. 2023",
        "members' class probabilities for predicted means, as this is classification; σ = 0.1 as in Holzmüller's code",
        "selection.determinants",
    ),
    "bait": Method(
        factories.bait, LABELLED, "(L + Q·R)·C²·D²", "Ash et al. 2021",
        "the authors' code, with random ties; a block of more than 1152 columns is projected onto so many",
        "selection.bait",
    ),
    "bait_one_vector": Method(
        factories.bait_one_vector, LABELLED, "(L + Q·R)·D²", "Holzmüller et al. 2023",
        "each point is one sketched gradient, for the predicted label; the papers' vectors are those of regression",
        "selection.bait",
    ),
    "frank_wolfe": Method(
        factories.frank_wolfe, FEATURES, "Q·R·D", "Pinsler et al. 2019",
        "no point is picked twice, so that the batch is full; sketched gradients in place of projected log-likelihoods",
        "selection.determinants",
    ),
    "typiclust": Method(
        factories.typiclust, LABELLED, "steps·(L + Q)·R·D", "Hacohen et al. 2022",
        "the authors' code, but with our k-means, random ties, and small clusters last instead of left out",
        "selection.typical",
    ),
    "prob_cover": Method(
        covering.prob_cover, LABELLED, "Q·R²·D", "Yehuda et al. 2022",
        "the radius is not below half the usual distance; in a network in training, the paper's balls hold few points",
        "selection.covers",
    ),
    "max_herding": Method(
        covering.max_herding, LABELLED, "Q·R²·D", "Bae et al. 2024",
        "a bandwidth of half the usual distance; the paper has 1, for self-supervised features",
        "selection.covers",
    ),
    "facility_location": Method(
        covering.facility_location, LABELLED, "Q·R²·D", "Wei et al. 2015",
        "the whole pool is covered, by the cosine; the paper first filters by uncertainty",
        "selection.covers",
    ),
}  # fmt: skip


OTHER_NAMES = {  # that papers and other packages have for the same rules
    "coreset": "k_center", "core_set": "k_center", "k_center_greedy": "k_center", "mutual_information": "bald",
    "max_entropy": "entropy", "predictive_entropy": "entropy", "uncertainty": "entropy", "egl": "expected_model_change",
    "expected_gradient_length": "expected_model_change", "best_versus_second_best": "margin", "bvsb": "margin",
    "uniform": "random", "eer": "expected_error_reduction", "vr": "variation_ratio", "probcover": "prob_cover",
    "k_means++": "k_means_plus_plus", "kmeans++": "k_means_plus_plus", "maxherding": "max_herding", "tpc": "typiclust",
    "uherding": "uncertainty_herding", "qbc": "vote_entropy", "query_by_committee": "vote_entropy",
}  # fmt: skip


def make_strategy(
    name: str, *, prefilter: int | None = None, prefilter_by: str = "bald",
    table: Mapping[str, Method | Callable[..., QueryStrategy]] = STRATEGIES, **options,
) -> QueryStrategy:  # fmt: skip
    """A named strategy with its options.

    Args:
      name: one of `STRATEGIES`; `bdal methods` prints what each needs and costs.
      prefilter: only so many candidates, those of highest `prefilter_by`, go on to the strategy: for pools too large
        for what it looks at, and for hybrids.
      prefilter_by: the name of a strategy with one number a point that looks at the committee alone, such as
        `entropy`.
      table: where the name is looked up: `Method`s, or factories of one's own, `(**options) -> QueryStrategy`.
      **options: the parameters of the strategy's factory.

    Raises:
      ValueError: an unknown name or option, or a value that an option cannot have; the message lists what there is.

    >>> make_strategy("power_bald", beta=4.0) is make_strategy("power_bald", beta=4.0)
    True
    """
    found, what = look_up(table, name, "strategy", OTHER_NAMES), f"strategy {name}"
    factory = getattr(found, "make", found)
    known = options_of(factory) if factory is found else _options(factory)
    check_options(what, factory, options, tuple(options_of(factory).keys() - known.keys()))
    for option, value in options.items():
        kind = known[option].annotation if option in known else Any
        check_option(what, option, value, kind, tuple(scores.POINTWISE) if option == "score" else ())
    strategy = factory(**options)
    if prefilter is None:
        return strategy
    check_option(what, "prefilter", prefilter, int)
    check_option(what, "score", prefilter_by, str, tuple(scores.POINTWISE))
    return strategy._replace(prefilter=_prefilter(prefilter_by, prefilter))


def _options(factory) -> dict[str, inspect.Parameter]:
    """What may be said of a strategy; of a `partial`, which is one of several under its own name, nothing."""
    return {} if isinstance(factory, partial) else options_of(factory)


@cache
def _prefilter(score: str, size: int) -> Prefilter:
    strategy = scores.POINTWISE[score]()
    if strategy.prepare is not committee_itself:
        raise ValueError(f"prefilter_by: expected a score that looks at the committee alone, got {score!r}")
    return Prefilter(strategy.score, size)
