"""Learning curves: metrics against labels, with the bands that can be read and the legend beside them."""

import math
import textwrap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdal.report.figures import drawing
from bdal.report.figures.drawing import COLORS, GREY, KINDS, figure_of
from bdal.report.tables import axis, lacking, order
from bdal.report.words import several, title
from bdal.statistics import Interval, student_t
from bdal.store.directory import Row

METRICS = {"accuracy": "accuracy", "nll": "NLL (nats)", "ece": "ECE"}
BANDS = 3  # in a panel: of more none can be read
SHADE = 0.16
LONGEST = 26  # letters on a line of the legend
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
MARKS = 12  # on a line, at the most


def learning_curves(
    rows: Sequence[Row], path_stem: str | Path, kinds: Sequence[str] = KINDS, *, on: str = "test",
    metrics: Sequence[str] = tuple(METRICS), posterior: str | None = None,
) -> list[Path]:  # fmt: skip
    """Metrics against labels, with the legend beside them, as `<path_stem>.png` and `.pdf`.

    One posterior has its panels side by side, several have a column each. Lines are means over seeds; random and the
    best others, `BANDS` in all, have bands, their 95 % Student t intervals. Label counts that differ between seeds are
    joined by straight lines, and a strategy's curve ends where one of its seeds does. `kinds` are endings: png, pdf and
    svg; `on` is what was measured on, test or validation, or "". Metrics that no row has are left out. With a
    `posterior` only that one is drawn, in the colours and on the scales of all. Returns a path each. Raises
    `ValueError` if there are no rows.
    """
    if not rows:
        raise ValueError("expected at least one evaluated round, found none; the run has not come that far")
    metrics = [metric for metric in metrics if metric not in lacking(rows)]
    every = sorted({row.posterior for row in rows}, key=order)
    posteriors = every if posterior is None else [posterior]
    strategies = sorted({row.strategy for row in rows}, key=lambda name: (name == "random", name))
    looks = {strategy: _look(place) for place, strategy in enumerate(strategies)}
    if "random" in looks:
        looks["random"] = {"color": GREY, "linestyle": (0, (4, 2)), "marker": None}
    validation = "/".join(map(str, sorted({row.validation_labels for row in rows})))
    counted = axis(rows) + (f" (+{validation} validation)" if validation != "0" else "")
    seeds = {name: len({row.seed for row in rows if row.posterior == name}) for name in posteriors}
    titles = {name: ", ".join(filter(None, [title(name), several(count, "seed")])) for name, count in seeds.items()}
    wide = {name: banded(rows, name) for name in every}

    alone = len(posteriors) == 1
    legend = 0.75 + 0.068 * min(LONGEST, max(19, *map(len, strategies)))
    width = legend + (2.75 * len(metrics) if alone else 0.7 + 2.9 * len(posteriors))
    with figure_of((width, 3.1 if alone else 0.4 + 2.0 * len(metrics))) as figure:
        options: Any = {} if alone else {"sharex": "col"}
        shape = (1, len(metrics)) if alone else (len(metrics), len(posteriors))
        panels = figure.subplots(*shape, squeeze=False, **options)
        panels = panels.T if alone else panels  # [metric, posterior]
        for line, metric in enumerate(metrics):
            most = None if metric == "nll" else 1
            drawn = {name: _bands(rows, name, strategies, metric, wide[name], most) for name in every}
            limits = _limits([band for bands in drawn.values() for _, *bands in bands.values() for band in bands])
            for column, name in enumerate(posteriors):
                panel = panels[line, column]
                for strategy, (labels, means, low, high) in drawn[name].items():
                    look = looks[strategy] | {"markevery": _marks(strategies.index(strategy), len(labels))}
                    _draw_curve(panel, labels, means, (low, high), strategy, look)
                panel.set_ylim(limits)
                if alone:
                    panel.set_title(f"{on} {METRICS[metric]}".strip())
                elif column == 0:
                    panel.set_ylabel(f"{on} {METRICS[metric]}".strip())
                else:
                    panel.tick_params(labelleft=False)
        for column, name in enumerate([] if alone else posteriors):
            panels[0, column].set_title(titles[name])
        for panel in panels.flat if alone else panels[-1]:
            panel.set_xlabel(counted)
        figure.align_ylabels(panels[:, 0])
        what = ["mean over seeds;", "shaded: 95 % t interval"] if max(seeds.values()) > 1 else []
        heading = [titles[posteriors[0]]] if alone else []
        _legend(
            figure, panels, rows, {name: wide[name] for name in posteriors}, "\n".join([*heading, *what]) or "one seed"
        )
        return drawing.save_as(figure, path_stem, kinds)


def banded(rows: Sequence[Row], posterior: str) -> list[str]:
    """The strategies whose intervals are drawn: random, and those of the highest mean accuracy, `BANDS` in all."""
    ranked = _ranked(rows, posterior)
    return sorted(ranked, key=lambda name: (name != "random", ranked.index(name)))[:BANDS]


def _ranked(rows: Sequence[Row], posterior: str) -> list[str]:
    """The strategies of a posterior, the highest mean accuracy first."""
    found: dict[str, list[float]] = defaultdict(list)
    for row in sorted(rows):
        if row.posterior == posterior:
            found[row.strategy].append(row.accuracy)
    return sorted(found, key=lambda name: (-float(np.mean(found[name])), name))


def curve(rows: Sequence[Row], posterior: str, strategy: str, metric: str) -> list[tuple[int, Interval]]:
    """(labels, mean and half-width) at all label counts of the strategy's seeds that every one of them has come to."""
    curves: dict[int, dict[int, float]] = defaultdict(dict)
    for row in rows:
        if (row.posterior, row.strategy) == (posterior, strategy) and not math.isnan(getattr(row, metric)):
            curves[row.seed][row.labels] = getattr(row, metric)
    if not curves:
        return []
    low, high = max(map(min, curves.values())), min(map(max, curves.values()))
    grid = sorted({labels for curve in curves.values() for labels in curve if low <= labels <= high})
    values = [np.interp(grid, sorted(curve), [curve[n] for n in sorted(curve)]) for curve in curves.values()]
    whole = [(labels, student_t(found)) for labels, found in zip(grid, np.transpose(values), strict=True)]
    return [(labels, Interval(mean, half if half == half else 0.0)) for labels, (mean, half) in whole]


def _bands(
    rows: Sequence[Row], posterior: str, strategies: Sequence[str], metric: str, wide: Sequence[str], most: float | None
) -> dict[str, tuple[list[int], np.ndarray, np.ndarray, np.ndarray]]:
    """Each strategy's label counts, means, and the ends of its band, cut at 0 and at `most`: the means without one."""
    found = {}
    for strategy in strategies:
        if points := curve(rows, posterior, strategy, metric):
            means, halves = (np.array(values) for values in zip(*(point for _, point in points), strict=True))
            halves = halves if strategy in wide else 0 * halves
            found[strategy] = ([n for n, _ in points], means, *np.clip([means - halves, means + halves], 0, most))
    return found


def _limits(values: Sequence[np.ndarray]) -> tuple[float, float]:
    low, high = min(map(np.min, values)), max(map(np.max, values))
    edge = 0.05 * (high - low) or 0.05
    return float(low - edge), float(high + edge)


def _draw_curve(
    panel: Any, labels: Sequence[int], means: np.ndarray, band: tuple[np.ndarray, np.ndarray], strategy: str, look: Any
) -> None:
    """One strategy's line, and its band if it has one."""
    if np.any(band[0] < band[1]):
        panel.fill_between(labels, *band, color=look["color"], alpha=SHADE, lw=0)
    if len(labels) == 1 and look["marker"] is None:
        look = {**look, "marker": "o"}  # a line of one point is not seen
    level = 2 if strategy == "random" else 3
    panel.plot(labels, means, lw=1.5, ms=3.5, label=strategy, zorder=level, **look)


def _marks(place: int, points: int) -> tuple[int, int]:
    """The first point of a line that is marked, and every which: where they are many, lines take turns."""
    every = math.ceil(points / MARKS)
    return place % every, every


def _look(place: int) -> dict[str, Any]:
    turn, color = divmod(place, len(COLORS))
    marker = MARKERS[(color + turn) % len(MARKERS)]
    return {"color": COLORS[color], "marker": marker, "linestyle": "-" if turn % 2 == 0 else ":"}


def _legend(figure: Any, panels: Any, rows: Sequence[Row], wide: Mapping[str, Sequence[str]], heading: str) -> None:
    """One legend beside all panels, in the order of the curves of a strategy's first posterior: the best one first."""
    from matplotlib.patches import Patch

    handles: dict[str, Any] = {}
    for panel in panels.flat:
        found, names = panel.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    banded = any(panel.collections for panel in panels.flat)
    shades = {
        name: Patch(color=handles[name].get_color(), alpha=SHADE, lw=0)
        for names in (wide.values() if banded else ())
        for name in names
        if name in handles
    }
    names = dict.fromkeys(name for posterior in wide for name in _ranked(rows, posterior))
    names = [name for name in names if name in handles]
    figure.legend(
        [(shades[name], handles[name]) if name in shades else handles[name] for name in names],
        ["\n".join(textwrap.wrap(name, LONGEST)) for name in names],
        title=heading,
        loc="outside right upper",
        handlelength=2.6,
        alignment="left",
    )
