"""What may be concluded from a few paired seeds: areas, labels to a threshold, exact tests, the seeds it takes.

The unit is the seed. Strategies start a seed from the same labels, so they are compared seed by seed; were one as good
as the other, a pair's two results could as well have been exchanged, and every test here counts how often exchanging
them at random gives a difference as large. These are functions of anybody's numbers; `bdal.report.analysis` applies
them to a run. docs/statistics.md says what they can bear.

A curve is a mapping of label counts to a metric, for one seed.
"""

from bdal.statistics.comparing import (
    HIGHER,
    LOWER,
    SAME,
    TOO_FEW,
    Comparison,
    Penalties,
    compare,
    judge,
    penalty_matrix,
)
from bdal.statistics.curves import Curve, Reached, area, common_range, labels_to, median_labels
from bdal.statistics.estimates import (
    Interval,
    Range,
    Values,
    bootstrap_interval,
    interquartile_mean,
    sd_range,
    share_range,
    student_t,
)
from bdal.statistics.outliers import far_below
from bdal.statistics.power import seeds_needed, visible_gap, wilcoxon_power
from bdal.statistics.significance import (
    CORRECTIONS,
    benjamini_hochberg,
    censored_test,
    gehan_scores,
    holm,
    paired_differences,
    pairs_needed,
    sign_flip,
    signed_rank,
)

__all__ = [
    "CORRECTIONS",
    "HIGHER",
    "LOWER",
    "SAME",
    "TOO_FEW",
    "Comparison",
    "Curve",
    "Interval",
    "Penalties",
    "Range",
    "Reached",
    "Values",
    "area",
    "benjamini_hochberg",
    "bootstrap_interval",
    "censored_test",
    "common_range",
    "compare",
    "far_below",
    "gehan_scores",
    "holm",
    "interquartile_mean",
    "judge",
    "labels_to",
    "median_labels",
    "paired_differences",
    "pairs_needed",
    "penalty_matrix",
    "sd_range",
    "seeds_needed",
    "share_range",
    "sign_flip",
    "signed_rank",
    "student_t",
    "visible_gap",
    "wilcoxon_power",
]
