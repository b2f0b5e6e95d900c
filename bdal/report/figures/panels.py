"""Figures with a small panel for each strategy: seconds by phase, classes that were queried, scores by round."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bdal.report.figures import drawing
from bdal.report.figures.drawing import COLORS, EDGE, KINDS, PHASES, outer_labels, small_multiples
from bdal.statistics import student_t


def seconds_by_round(
    seconds: Mapping[str, Mapping[int, Mapping[str, float]]], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Seconds by round and phase, stacked bars, a panel for each name.

    A round that takes more than twice the 90 % quantile of all (it compiles, for one) is cut there, its total written
    above it.
    """
    totals = [sum(phases.values()) for rounds in seconds.values() for phases in rounds.values()]
    top = 2 * float(np.quantile(totals, 0.9))
    top = min(top, max(totals)) or 1.0
    with small_multiples(list(seconds)) as (figure, panels):
        for panel, rounds in zip(panels, seconds.values(), strict=True):
            numbers = sorted(rounds)
            below = np.zeros(len(numbers))
            for phase, color in PHASES.items():
                height = np.array([rounds[number].get(phase, 0.0) for number in numbers])
                panel.bar(numbers, height, 0.8, below, color=color, label=phase)
                below += height
            for number, total in zip(numbers, below, strict=True):
                if total > top:
                    panel.annotate(f"↑ {total:.3g} s", (number + 0.55, 1.02 * top), fontsize=7)
            panel.set(ylim=(0, 1.12 * top))
            panel.grid(visible=False, axis="x")
            panel.xaxis.get_major_locator().set_params(integer=True)
        outer_labels(panels, "round", "seconds")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(PHASES), handlelength=1.2)
        return drawing.save_as(figure, path_stem, kinds)


def class_histograms(
    shares: Mapping[str, np.ndarray],
    classes: Sequence[str],
    pool: np.ndarray | None,
    path_stem: str | Path,
    kinds: Sequence[str] = KINDS,
) -> list[Path]:
    """What was queried by class, a panel for each name: `shares` maps it to `[S, C]`, a seed's shares a line.

    Bars are means over seeds, whiskers their 95 % Student t intervals, marks the shares in the pool `[C]`, if known.
    """
    places = np.arange(len(classes))
    with small_multiples(list(shares)) as (figure, panels):
        handles = {}
        for panel, queried in zip(panels, shares.values(), strict=True):
            intervals = [student_t(column) for column in np.asarray(queried).T]
            means = np.array([mean for mean, _ in intervals])
            halves = np.nan_to_num([half for _, half in intervals])
            handles["queried"] = panel.bar(places, 100 * means, 0.72, color=COLORS[4])
            if len(queried) > 1 and len(classes) <= 40:
                low = np.minimum(halves, means)  # no share is below 0
                panel.errorbar(
                    places, 100 * means, 100 * np.array([low, halves]), fmt="none", ecolor=EDGE, elinewidth=1
                )
            if pool is not None:
                edges = np.stack([places - 0.45, places + 0.45])
                marks = panel.hlines(100 * np.asarray(pool), *edges, color=COLORS[1], lw=1.6, zorder=3)
                handles["share in the pool"] = marks
            panel.grid(visible=False, axis="x")
            _name_classes(panel, classes)
        top = max(panel.get_ylim()[1] for panel in panels)
        for panel in panels:
            panel.set_ylim(0, top)
        outer_labels(panels, "class", "% of queried")
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=2, handlelength=1.4)
        return drawing.save_as(figure, path_stem, kinds)


class Scores(NamedTuple):
    """Scores of one strategy by round: at `labels`, five `quantiles` of the candidates or None, of those `queried`.

    Quantiles and what was queried share an axis, so they are on one scale.
    """

    labels: Sequence[int]
    quantiles: np.ndarray | None
    queried: Sequence[Sequence[float]]


def score_distributions(
    scores: Mapping[str, Scores], path_stem: str | Path, kinds: Sequence[str] = KINDS
) -> list[Path]:
    """Scores of the candidates and of what was queried against labels, a panel for each name, each with its own axis.

    The band runs from the 25 % to the 75 % quantile of the candidates' scores, thin lines from smallest to largest.
    """
    with small_multiples(list(scores)) as (figure, panels):
        handles = {}
        for panel, (labels, quantiles, queried) in zip(panels, scores.values(), strict=True):
            if quantiles is not None:
                least, low, middle, high, most = np.asarray(quantiles).T
                handles["smallest, largest"] = panel.plot(labels, least, color=COLORS[0], lw=0.7, alpha=0.8)[0]
                panel.plot(labels, most, color=COLORS[0], lw=0.7, alpha=0.8)
                handles["25 % to 75 %"] = panel.fill_between(labels, low, high, color=COLORS[0], alpha=0.25, lw=0)
                handles["median of the candidates"] = panel.plot(labels, middle, color=COLORS[0], lw=1.4)[0]
            x = [count for count, gains in zip(labels, queried, strict=True) for _ in gains]
            y = [gain for gains in queried for gain in gains]
            handles["queried"] = panel.plot(x, y, "o", color=COLORS[1], ms=2.4, mew=0, alpha=0.55)[0]
            panel.locator_params(axis="y", nbins=5)
            panel.ticklabel_format(axis="y", scilimits=(-3, 4))
        outer_labels(panels, "training labels", "score")
        for panel, found in zip(panels, scores.values(), strict=True):
            if found.quantiles is None:
                panel.set_ylabel("gain", fontsize=8)
        order = ["median of the candidates", "25 % to 75 %", "smallest, largest", "queried"]
        names = [name for name in order if name in handles]
        figure.legend([handles[name] for name in names], names, loc="outside upper center", ncols=4, handlelength=1.4)
        return drawing.save_as(figure, path_stem, kinds)


def _name_classes(panel: Any, classes: Sequence[str]) -> None:
    if len(classes) <= 12:
        long = max(map(len, classes)) > 2
        panel.set_xticks(range(len(classes)), [name[:14] for name in classes], fontsize=7, rotation=90 if long else 0)
