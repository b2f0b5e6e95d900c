"""A batch from per-point arrays: every selector returns a `Query(indices [Q], gains [Q])` in the order of picking."""

from bdal.selection.bait import bait, bait_one_vector
from bdal.selection.clusters import k_means, k_means_plus_plus, lcmd
from bdal.selection.combinations import (
    agglomerative_clusters,
    class_balanced,
    cluster_margin,
    prefilter,
    standardised_sum,
    suggestive_annotation,
    two_stage,
)
from bdal.selection.coverage import k_center
from bdal.selection.covers import (
    facility_location,
    max_herding,
    prob_cover,
    uncertainty_herding,
    weighted_coverage,
)
from bdal.selection.determinants import frank_wolfe, max_det
from bdal.selection.fold import Query, greedy
from bdal.selection.gradient import badge
from bdal.selection.joint import batchbald, joint_information
from bdal.selection.kernels import committee_features, gradient_features
from bdal.selection.penalties import diverse, mutual_information_penalty
from bdal.selection.ranking import top_k
from bdal.selection.scales import ball_purity, half_spread, purity_radius, smallest_gap, unit_rows
from bdal.selection.stochastic import power, softmax, softrank
from bdal.selection.typical import k_means_clusters, typiclust

__all__ = [
    "Query",
    "agglomerative_clusters",
    "badge",
    "bait",
    "bait_one_vector",
    "ball_purity",
    "batchbald",
    "class_balanced",
    "cluster_margin",
    "committee_features",
    "diverse",
    "facility_location",
    "frank_wolfe",
    "gradient_features",
    "greedy",
    "half_spread",
    "joint_information",
    "k_center",
    "k_means",
    "k_means_clusters",
    "k_means_plus_plus",
    "lcmd",
    "max_det",
    "max_herding",
    "mutual_information_penalty",
    "power",
    "prefilter",
    "prob_cover",
    "purity_radius",
    "smallest_gap",
    "softmax",
    "softrank",
    "standardised_sum",
    "suggestive_annotation",
    "top_k",
    "two_stage",
    "typiclust",
    "uncertainty_herding",
    "unit_rows",
    "weighted_coverage",
]
