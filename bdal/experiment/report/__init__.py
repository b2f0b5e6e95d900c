"""What one or many runs came to, as one page."""

from bdal.experiment.report.page import report

__all__ = ["report"]
