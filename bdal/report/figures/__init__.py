"""Figures of an experiment as PNG, PDF and SVG: the same rows give the same bytes. Only drawing imports matplotlib."""

from bdal.report.figures.curves import banded, curve, learning_curves
from bdal.report.figures.drawing import COLORS, DARK, PHASES
from bdal.report.figures.images import contact_sheet
from bdal.report.figures.panels import Scores, class_histograms, score_distributions, seconds_by_round
from bdal.report.figures.reliability import reliability_diagram

__all__ = [
    "COLORS", "DARK", "PHASES", "Scores", "banded", "class_histograms", "contact_sheet", "curve",
    "learning_curves", "reliability_diagram", "score_distributions", "seconds_by_round",
]  # fmt: skip
