"""Query strategies: `query` runs one on a pool, `make_strategy` makes one by its name."""

from bdal.strategy.health import Health, check_health, check_on_nonfinite
from bdal.strategy.querying import (
    Prefilter,
    QueryStrategy,
    check_own_committee,
    check_strategy,
    draw_targets,
    fits_one_program,
    query,
    score_and_select,
    take_rows,
)
from bdal.strategy.scores import of_log_probs, top
from bdal.strategy.table import STRATEGIES, Method, make_strategy

__all__ = [
    "STRATEGIES",
    "Health",
    "Method",
    "Prefilter",
    "QueryStrategy",
    "check_health",
    "check_on_nonfinite",
    "check_own_committee",
    "check_strategy",
    "draw_targets",
    "fits_one_program",
    "make_strategy",
    "of_log_probs",
    "query",
    "score_and_select",
    "take_rows",
    "top",
]
