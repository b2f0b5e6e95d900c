"""The reliability diagram: confidence against accuracy."""

from pathlib import Path
from typing import Any

import numpy as np

from bdal.errors import shown
from bdal.report.figures import drawing
from bdal.report.figures.drawing import COLORS, GREY, figure_of


def reliability_diagram(reliability: Any, target: Any) -> None:
    """Confidence against accuracy per bin, with the gap shaded and the share of points below.

    `reliability` has `confidence`, `accuracy` and `count`, an array each over bins (as `bdal.calibration.reliability`
    returns them); empty bins are left out. `target` is matplotlib axes, or a path ending in `.png`, `.pdf` or `.svg`.
    """
    if not isinstance(target, str | Path):
        if not hasattr(target, "plot"):
            raise TypeError(f"target: expected matplotlib axes, or a path that ends in .png, got {shown(target)}")
        _draw_reliability(reliability, target)
        return
    drawing.check_ending(Path(target).suffix.removeprefix("."), f"target: {target}")
    with figure_of((3.4, 3.4)) as figure:
        _draw_reliability(reliability, figure.subplots())
        drawing.save(figure, Path(target))


def _draw_reliability(reliability: Any, panel: Any) -> None:
    count = np.asarray(reliability.count, float)
    filled = count > 0
    confidence = np.asarray(reliability.confidence, float)[filled]
    accuracy = np.asarray(reliability.accuracy, float)[filled]
    share = count[filled] / count.sum()
    edges = np.linspace(0, 1, len(count) + 1)
    middle, width = ((edges[1:] + edges[:-1]) / 2)[filled], 1 / len(count)
    panel.plot([0, 1], [0, 1], color=GREY, lw=1, ls=(0, (4, 2)), label="calibrated", zorder=2)
    panel.bar(middle, share, width * 0.9, color="#CCCCCC", label="share of points", zorder=1)
    panel.vlines(confidence, confidence, accuracy, color=COLORS[1], lw=1.5, alpha=0.6, label="gap", zorder=3)
    panel.plot(confidence, accuracy, "o-", color=COLORS[0], ms=4, lw=1.5, label="accuracy", zorder=4)
    gap = float(np.sum(share * np.abs(accuracy - confidence)))
    panel.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", title=f"ECE {gap:.3f}", aspect="equal")
    panel.legend(loc="upper left")
