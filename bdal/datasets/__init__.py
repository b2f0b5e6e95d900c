"""Data sets as arrays on the host: by name, one's own, folders of images, and pools built from them."""

from bdal.datasets.arrays import Dataset, from_arrays, oracle
from bdal.datasets.counts import LabelCounts, label_counts
from bdal.datasets.duplicates import Duplicates, duplicates
from bdal.datasets.fingerprints import fingerprint
from bdal.datasets.named import NAMES, load
from bdal.datasets.pools import (
    POOLS,
    Pool,
    build_pool,
    check_pool,
    contaminated,
    imbalanced,
    long_tailed,
    noisy_labels,
    redundant,
    repeated,
)

__all__ = [
    "NAMES",
    "POOLS",
    "Dataset",
    "Duplicates",
    "LabelCounts",
    "Pool",
    "build_pool",
    "check_pool",
    "contaminated",
    "duplicates",
    "fingerprint",
    "from_arrays",
    "imbalanced",
    "label_counts",
    "load",
    "long_tailed",
    "noisy_labels",
    "oracle",
    "redundant",
    "repeated",
]
