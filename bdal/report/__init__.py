"""What one or many runs came to, as one page."""

from bdal.report.from_csv import read_curves
from bdal.report.page import report

__all__ = ["read_curves", "report"]
