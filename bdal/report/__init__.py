"""What one or many runs came to, as one page."""

from bdal.report.page import report

__all__ = ["report"]
